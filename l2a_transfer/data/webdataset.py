"""WebDataset tar shards. Members are indexed once; then each picture is one read. Nothing is unpacked."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.data.decode import MAX_FILE_BYTES, OTHER_PICTURES, SUFFIXES, decode_bytes
from l2a_transfer.data.names import MAX_CLASSES, check_class_count, class_name
from l2a_transfer.data.reading import Tally
from l2a_transfer.data.registry import FORMAT_OPTIONS, register_format
from l2a_transfer.data.shard_io import Shard, ShardReader, fingerprint_of, is_remote, open_shard, size_and_stamp
from l2a_transfer.data.shards import CLASSES, find_shards, name_of, splits_of
from l2a_transfer.data.sources import SourceBase
from l2a_transfer.data.tar_index import Member, list_members
from l2a_transfer.errors import DataError

MAX_NOTE_BYTES = 1 << 20
"""Limit for a label, a JSON member, or a list of classes."""


@dataclass(frozen=True, eq=False)
class WdsSource(SourceBase):
    """Pictures in tar shards. An id is SHARD/MEMBER.

    `shard` (N,), `start` (N,) and `length` (N,): the position of each picture's bytes.
    """

    shards: tuple[Shard, ...]
    shard: NDArray[np.int32]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    reader: ShardReader = field(default_factory=ShardReader)

    def image(self, row: int) -> Image.Image:
        shard = self.shards[self.shard[row]]
        content = self.reader.read(shard, int(self.start[row]), int(self.length[row]))
        return decode_bytes(content, f"{shard.path}: {self.ids[row][len(shard.name) + 1 :]}")

    def fingerprint(self) -> str:
        files = fingerprint_of(self.shards, by_content=self.by_content)
        return self._digest(files, self.start.tobytes(), self.length.tobytes())


@dataclass(frozen=True)
class _Sample:
    """One sample: the member of its picture, and its label as given."""

    name: str
    start: int
    length: int
    label: int | str | None


@register_format("wds", takes="PATH", example="shards/{000..003}.tar", suffixes=(".tar",), options=FORMAT_OPTIONS)
def read_webdataset(where: str, *, split_from: str = "auto", by_content: bool = False) -> WdsSource:
    """The pictures of tar shards (WebDataset), in the order of the shards and their members.

    `where` is described in `find_shards`.

    Adjacent members with the same name up to the first dot are a sample: one picture, and optionally `.cls`, a class
    number, or `.json` with "label", a number or a name. A picture and a label with the same name up to the last dot are
    a sample too, so names may contain dots. `classes.txt` next to the shards names the classes. Members without a
    picture are counted. Raises: DataError if a shard is compressed or corrupt, or contains a member outside its root, a
    link or a device; if a label has no picture or several; if labels do not match the classes.
    """
    found = find_shards(where, ".tar", split_from)
    shards = found.shards
    passed_over = Tally(OTHER_PICTURES)
    passed_over.include(found.reading.passed_over)
    ids: list[str] = []
    given: list[int | str | None] = []
    places: list[tuple[int, int, int]] = []
    for k, shard in enumerate(shards):
        before = len(ids)
        for sample in _samples(shard, passed_over):
            ids.append(f"{shard.name}/{sample.name}")
            given.append(sample.label)
            places.append((k, sample.start, sample.length))
        if len(set(ids[before:])) < len(ids) - before:
            raise DataError(f"{shard.path}: contains two members with the same name; pack it again")
    if not ids:
        beside = f"; passed over: {passed_over.result()}" if passed_over.result().files else ""
        raise DataError(f"{where}: no pictures in it; looked for members with the suffix {', '.join(SUFFIXES)}{beside}")
    labels, classes = _numbered(where, given, _class_names(shards))
    place = np.array(places, dtype=np.int64)
    splits = splits_of(shards)
    return WdsSource(
        name=f"wds:{name_of(where)}",
        classes=classes,
        splits=splits,
        ids=tuple(ids),
        labels=labels,
        split=np.array([splits.index(shards[k].split) for k in place[:, 0]], dtype=np.uint8),
        by_content=by_content,
        reading=replace(found.reading, passed_over=passed_over.result()),
        shards=shards,
        shard=place[:, 0].astype(np.int32),
        start=np.ascontiguousarray(place[:, 1]),
        length=np.ascontiguousarray(place[:, 2]),
    )


def _samples(shard: Shard, passed_over: Tally) -> Iterator[_Sample]:
    with open_shard(shard.path) as file:
        for _, members in itertools.groupby(list_members(shard, file), key=lambda member: _key(member.name)):
            yield from _group(shard, file, list(members), passed_over)


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _stem(name: str) -> str:
    """A name up to its last dot."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def _suffix(name: str) -> str:
    return "." + name.rpartition(".")[2].lower()


def _group(shard: Shard, file: IO[bytes], members: list[Member], passed_over: Tally) -> Iterator[_Sample]:
    """The samples among members with the same name up to the first dot.

    `1.png`, `1.cls` and `1.seg.png` are one sample, whose picture is `1.png`. `shot_3.05.png` and `shot_3.05.cls` are
    one sample, and `shot_3.10.png` is another: if no member ends at the first dot, or if a picture has its own label,
    the name up to the last dot identifies the sample. Pictures outside all samples are counted.
    """
    key = _key(members[0].name)
    if len({member.name.lower() for member in members}) < len(members):
        raise _unclear(shard, members)
    by_stem: dict[str, list[Member]] = {}
    for member in members:
        by_stem.setdefault(_stem(member.name), []).append(member)
    at_key = by_stem.pop(key, [])
    label = _label(shard, file, at_key, strict=True)
    plain = label is None and not _pictures(at_key)
    used: list[_Sample] = []
    left = list(at_key)
    for own in by_stem.values():
        own_label = _label(shard, file, own, strict=plain) if plain or _pictures(own) else None
        if own_label is not None or (plain and _pictures(own)):
            used += _sample(shard, own, _pictures(own), own_label)
        else:
            left += own
    if not plain:
        used += _sample(shard, left, _pictures(at_key) or _pictures(left), label)
    taken = {sample.name for sample in used}
    for member in members:
        is_picture = _suffix(member.name) in SUFFIXES or _suffix(member.name) in OTHER_PICTURES
        if (is_picture or not used) and member.name not in taken:
            passed_over.add(f"{shard.name}/{member.name}")
    yield from sorted(used, key=lambda sample: sample.start)


def _pictures(members: list[Member]) -> list[Member]:
    return [member for member in members if _suffix(member.name) in SUFFIXES]


def _sample(shard: Shard, members: list[Member], pictures: list[Member], label: int | str | None) -> list[_Sample]:
    """The sample that the members form; empty if the format of its picture is not supported."""
    if not pictures and any(_suffix(member.name) in OTHER_PICTURES for member in members):
        return []
    if len(pictures) != 1:
        raise _unclear(shard, members)
    (picture,) = pictures
    if picture.size > MAX_FILE_BYTES:
        raise DataError(
            f"{shard.path}: {picture.name}: {picture.size >> 20} MiB; at most {MAX_FILE_BYTES >> 20} are decoded"
        )
    return [_Sample(picture.name, picture.start, picture.size, label)]


def _unclear(shard: Shard, members: list[Member]) -> DataError:
    names = ", ".join(repr(member.name) for member in members[:6])
    return DataError(f"{shard.path}: a sample must have one picture and no duplicate members, got {names}")


def _label(shard: Shard, file: IO[bytes], members: list[Member], *, strict: bool) -> int | str | None:
    """The label in a `.cls` or `.json` among the members. Unless `strict`, an unsuitable JSON is ignored."""
    by_suffix = {_suffix(member.name): member for member in members}
    if ".cls" in by_suffix:
        return _class_number(shard, file, by_suffix[".cls"])
    if ".json" not in by_suffix:
        return None
    try:
        return _json_label(shard, file, by_suffix[".json"])
    except DataError:
        if strict:
            raise
        return None


def _note(shard: Shard, file: IO[bytes], member: Member) -> str:
    if member.size > MAX_NOTE_BYTES:
        raise DataError(f"{shard.path}: {member.name}: {member.size} bytes; at most {MAX_NOTE_BYTES} are read")
    file.seek(member.start)
    return file.read(member.size).decode(errors="replace")


def _class_number(shard: Shard, file: IO[bytes], member: Member) -> int:
    text = _note(shard, file, member).strip()
    if not text.removeprefix("-").isdecimal() or len(text) > 10:
        raise DataError(f"{shard.path}: {member.name}: must be a class number, got {text[:40]!r}")
    return int(text)


def _json_label(shard: Shard, file: IO[bytes], member: Member) -> int | str | None:
    try:
        content = json.loads(_note(shard, file, member))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shard.path}: {member.name}: is not JSON: {error}") from error
    label = content.get("label") if isinstance(content, dict) else None
    if label is not None and (isinstance(label, bool) or not isinstance(label, (int, str))):
        raise DataError(f"{shard.path}: {member.name}: 'label' must be a number or a name, got {label!r:.40}")
    return class_name(label) if isinstance(label, str) else label


def _class_names(shards: tuple[Shard, ...]) -> tuple[str, ...] | None:
    """The lines of `classes.txt` in the common folder of all shards, if there is one.

    It is an error if the file exists but cannot be read, except on a remote store, which may deny access to missing
    files.
    """
    path = shards[0].path[: len(shards[0].path) - len(shards[0].name)] + CLASSES
    if not is_remote(path) and not os.path.lexists(path):
        return None
    try:
        size, _ = size_and_stamp(path)
    except DataError:
        if is_remote(path):
            return None
        raise
    with open_shard(path) as file:
        content = file.read(MAX_NOTE_BYTES + 1)
    try:
        names = tuple(class_name(line.strip()) for line in content.decode("utf-8-sig").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: must be UTF-8 with one class per line: {error}") from error
    if size > MAX_NOTE_BYTES or not names or len(set(names)) < len(names):
        raise DataError(f"{path}: must contain unique class names, one per line, in at most {MAX_NOTE_BYTES >> 20} MiB")
    return names


def _numbered(
    where: str, given: list[int | str | None], names: tuple[str, ...] | None
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Labels as indices of classes: `names`, or else the sorted given names, or else the numbers up to the largest."""
    kinds = {type(label) for label in given if label is not None}
    if kinds == {int, str}:
        raise DataError(f"{where}: labels are numbers in some samples and names in others; use one kind in all")
    if kinds == {str}:
        classes = names or tuple(sorted({label for label in given if isinstance(label, str)}))
        index: dict[Any, int] = {name: k for k, name in enumerate(classes)}
    else:
        last = max((label for label in given if isinstance(label, int)), default=-1)
        classes = names or tuple(str(k) for k in range(min(last + 1, MAX_CLASSES)))
        index = {k: k for k in range(-1, len(classes))}
    if names or str in kinds:
        check_class_count(where, len(classes))
    unknown = next((label for label in given if label is not None and label not in index), None)
    if unknown is not None:
        raise DataError(
            f"{where}: the label {unknown!r} is not one of {len(classes)} classes (at most {MAX_CLASSES:,}); "
            "list them in classes.txt next to the shards, one per line"
        )
    return np.array([-1 if label is None else index[label] for label in given], dtype=np.int32), classes
