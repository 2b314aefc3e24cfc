"""Image sources: pictures in a folder, in an array, in a zip, or some rows of another source. All can be pickled."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.data.decode import MAX_FILE_BYTES, decode_bytes, decode_file
from l2a_transfer.data.names import MUST_BE, first_fault, name_fault, well_formed
from l2a_transfer.data.reading import Reading
from l2a_transfer.data.shown import Shown
from l2a_transfer.data.stamps import file_stamp
from l2a_transfer.errors import DataError
from l2a_transfer.wording import counted

CONTENT, SIZE_AND_TIME = "content", "size and time of change"
"""How a fingerprint detects that a file changed."""
JSON_ROWS = 1024
"""Rows of a table that are written as JSON at a time."""


class ImageSource(Protocol):
    """N pictures with labels, ids and splits, in an order that is the same on every machine.

    Attributes
    ----------
    name : str
        Name of the set in feature files and reports.
    classes, splits : tuple of str
        Names of the classes and splits.
    ids : tuple of str
        N unique names.
    labels : ndarray
        (N,), int32, an index into `classes`; −1 for no label.
    split : ndarray
        (N,), uint8, an index into `splits`.
    """

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def splits(self) -> tuple[str, ...]: ...
    @property
    def ids(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> NDArray[np.int32]: ...
    @property
    def split(self) -> NDArray[np.uint8]: ...

    def __len__(self) -> int: ...

    def image(self, row: int) -> Image.Image:
        """The picture of one row: mode RGB, upright. Raises: DataError naming the file."""

    def fingerprint(self) -> str:
        """SHA-256 (hex) of ids, labels, splits, and the pictures. In memory, this uses their bytes; on disk, their
        sizes and modification times, or their bytes on request."""


@dataclass(frozen=True, eq=False)
class SourceBase(Shown):
    """Base class of this package's sources: everything except the pictures. For other parameters, see `ImageSource`.

    Parameters
    ----------
    reading : Reading
        How the set was read.
    by_content : bool
        Whether the fingerprint uses the content of the files, instead of their sizes and modification times.
    domains : tuple of str
        Names of the domains; empty if the set has none.
    domain : ndarray or None
        (N,), an index into `domains`.
    """

    name: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    ids: tuple[str, ...]
    labels: NDArray[np.int32]
    split: NDArray[np.uint8]
    reading: Reading = field(default=Reading(), kw_only=True)
    by_content: bool = field(default=False, kw_only=True)
    domains: tuple[str, ...] = field(default=(), kw_only=True)
    domain: NDArray[np.uint16] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.ids)

    def _digest(self, *pictures: bytes | memoryview) -> str:
        return self._sha256(pictures)

    def _sha256(self, pictures: Iterable[bytes | memoryview]) -> str:
        """SHA-256 of the table as JSON, followed by `pictures`. In blocks, because the JSON can be larger than the
        table."""
        sha = hashlib.sha256(
            f"[{json.dumps(self.name)}, {json.dumps(self.classes)}, {json.dumps(self.splits)}".encode()
        )
        for rows in (self.ids, self.labels, self.split, *(() if self.domain is None else (self.domains, self.domain))):
            sha.update(b", ")
            for text in _json_list(rows[k : k + JSON_ROWS] for k in range(0, len(rows), JSON_ROWS)):
                sha.update(text)
        sha.update(b"]")
        for part in pictures:
            sha.update(part)
        return sha.hexdigest()


@dataclass(frozen=True, eq=False)
class FileSource(SourceBase):
    """Pictures below `root`. An id is the POSIX path relative to it."""

    root: Path

    def image(self, row: int) -> Image.Image:
        return decode_file(self.root / self.ids[row])

    def fingerprint(self) -> str:
        # Reading every picture twice would double the time of an extraction; size and modification time suffice.
        stamps = (
            [file_stamp(self.root / name, by_content=self.by_content) for name in self.ids[k : k + JSON_ROWS]]
            for k in range(0, len(self.ids), JSON_ROWS)
        )
        return self._sha256(_json_list(stamps))


def _json_list(blocks: Iterable[Sequence[Any] | NDArray[Any]]) -> Iterator[bytes]:
    """The bytes of `json.dumps` for a list that is given in blocks, block by block."""
    yield b"["
    for k, block in enumerate(blocks):
        own = block.tolist() if isinstance(block, np.ndarray) else block
        yield ((", " if k else "") + json.dumps(own)[1:-1]).encode()
    yield b"]"


@dataclass(frozen=True, eq=False)
class ArraySource(SourceBase):
    """Pictures in memory: uint8 (N, H, W, 3) or (N, H, W)."""

    pictures: NDArray[np.uint8]

    def image(self, row: int) -> Image.Image:
        return Image.fromarray(self.pictures[row]).convert("RGB")

    def fingerprint(self) -> str:
        return self._digest(repr(self.pictures.shape).encode(), np.ascontiguousarray(self.pictures).data)


@dataclass(frozen=True, eq=False)
class ZipSource(SourceBase):
    """Pictures in a small zip file. An id is the member's name."""

    path: Path

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        # In memory, because forked workers share the position in an open file.
        return zipfile.ZipFile(io.BytesIO(self.path.read_bytes()))

    def image(self, row: int) -> Image.Image:
        name = f"{self.path}: {self.ids[row]}"
        try:
            if self._zip.getinfo(self.ids[row]).file_size > MAX_FILE_BYTES:
                raise DataError(f"{name}: larger than {MAX_FILE_BYTES >> 20} MiB")
            content = self._zip.read(self.ids[row])
        except (zipfile.BadZipFile, KeyError, OSError, EOFError) as error:
            raise DataError(f"{name}: cannot be read: {error}") from error
        return decode_bytes(content, name)

    def fingerprint(self) -> str:
        return self._digest(json.dumps([self._zip.getinfo(name).CRC for name in self.ids]).encode())

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_zip"}


@dataclass(frozen=True, eq=False)
class Subset(Shown):
    """Some rows of another source, in its order, with only the splits that they are in."""

    whole: ImageSource
    rows: NDArray[np.int64]

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def classes(self) -> tuple[str, ...]:
        return self.whole.classes

    @cached_property
    def splits(self) -> tuple[str, ...]:
        there = set(self.whole.split[self.rows].tolist())
        return tuple(name for k, name in enumerate(self.whole.splits) if k in there)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.whole.ids[row] for row in self.rows)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        return self.whole.labels[self.rows]

    @cached_property
    def split(self) -> NDArray[np.uint8]:
        place = [self.splits.index(name) if name in self.splits else 0 for name in self.whole.splits]
        return np.asarray(place, dtype=np.uint8)[self.whole.split[self.rows]]

    @cached_property
    def domains(self) -> tuple[str, ...]:
        names, rows = domains_of(self.whole)
        there = set() if rows is None else set(rows[self.rows].tolist())
        return tuple(name for k, name in enumerate(names) if k in there)

    @cached_property
    def domain(self) -> NDArray[np.uint16] | None:
        names, rows = domains_of(self.whole)
        if rows is None:
            return None
        place = [self.domains.index(name) if name in self.domains else 0 for name in names]
        return np.asarray(place, dtype=np.uint16)[rows[self.rows]]

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, row: int) -> Image.Image:
        return self.whole.image(int(self.rows[row]))

    def fingerprint(self) -> str:
        return hashlib.sha256(self.whole.fingerprint().encode() + self.rows.tobytes()).hexdigest()


def check_source(source: ImageSource, *, where: str = "") -> None:
    """Check before anything is computed that a source can be written to a feature file: valid names, unique ids, and
    labels and splits in range. Raises: DataError naming the row, and `where` or else the source.
    """
    name = well_formed(where or source.name)
    if fault := name_fault(source.name):
        raise DataError(f"{name}: the data set's name {fault}; rename the file or folder that it is named after")
    for what, names in (("class", source.classes), ("split", source.splits), ("row", source.ids)):
        if found := first_fault(names):
            k, fault = found
            shown = f"{names[k][:60]!r}{'…' if len(names[k]) > 60 else ''}"
            raise DataError(f"{name}: {what} {k}: the name {shown} {fault}; {MUST_BE}")
    if len(set(source.ids)) < len(source.ids):
        seen: set[str] = set()
        twice = next(k for k, own in enumerate(source.ids) if own in seen or seen.add(own))  # type: ignore[func-returns-value]
        raise DataError(f"{name}: row {twice}: the id {source.ids[twice]!r} appears twice; ids must be unique")
    domains, domain = domains_of(source)
    for what, numbers, least, most in (
        *((("domain", domain, 0, len(domains)),) if domain is not None else ()),
        ("label", source.labels, -1, len(source.classes)),
        ("split", source.split, 0, len(source.splits)),
    ):
        if len(wrong := np.flatnonzero((numbers < least) | (numbers >= most))):
            row = int(wrong[0])
            raise DataError(f"{name}: row {row}: the {what} {numbers[row]} is not between {least} and {most - 1}")


def domains_of(source: ImageSource) -> tuple[tuple[str, ...], NDArray[np.uint16] | None]:
    """The names of a source's domains and the domain of each row (N,); an empty tuple and None if it has none."""
    names, rows = tuple(getattr(source, "domains", ())), getattr(source, "domain", None)
    return (names, np.asarray(rows, dtype=np.uint16)) if names and rows is not None else ((), None)


def reading_of(source: ImageSource) -> Reading:
    """How a source was read, if it is known."""
    while isinstance(source, Subset):
        source = source.whole
    return source.reading if isinstance(source, SourceBase) else Reading()


def stamped_by(source: ImageSource) -> str:
    """How a source's fingerprint represents its files, in words; empty if there is no choice."""
    whole: object = source
    while isinstance(whole, Subset):
        whole = whole.whole
    if isinstance(whole, ArraySource | ZipSource) or not isinstance(whole, SourceBase):
        return ""
    return CONTENT if whole.by_content else SIZE_AND_TIME


def describe(source: ImageSource) -> str:
    """Describe a source and how it was read in one line: pictures per split, classes, and ignored files."""
    reading = reading_of(source)
    counts = np.bincount(source.split, minlength=len(source.splits)).tolist()
    splits = ", ".join(f"{name} {count:,}" for name, count in zip(source.splits, counts, strict=True))
    unlabelled = int((source.labels < 0).sum())
    parts = [f"{source.name}: {splits}" + (f" ({reading.splits_from})" if reading.splits_from else "")]
    domains, domain = domains_of(source)
    if domain is not None:
        own = np.bincount(domain, minlength=len(domains)).tolist()
        shown = [f"{name} {count:,}" for name, count in zip(domains[:8], own, strict=False)]
        parts.append(f"domains {', '.join(shown)}" + (f", … ({len(domains)} in all)" if len(domains) > 8 else ""))
    parts.append(counted(len(source.classes), "class", "classes") if source.classes else "no classes")
    parts += [f"{unlabelled:,} without a label"] if unlabelled and source.classes else []
    parts += [f"passed over: {reading.passed_over}"] if reading.passed_over.files else []
    return "; ".join(parts)


def numbered(split: str, rows: int) -> list[str]:
    """Ids for pictures without names, such as `test/00012`."""
    return [f"{split}/{row:05d}" for row in range(rows)]


def join_splits(
    name: str, classes: Sequence[str], parts: dict[str, tuple[NDArray[np.uint8], NDArray[np.int32]]]
) -> ArraySource:
    """Join {split: (pictures, labels)} into one source, split after split. All pictures have the same shape."""
    pictures = [own for own, _ in parts.values()]
    return ArraySource(
        name=name,
        classes=tuple(classes),
        splits=tuple(parts),
        ids=tuple(name for split, (pictures, _) in parts.items() for name in numbered(split, len(pictures))),
        labels=np.concatenate([labels for _, labels in parts.values()]).astype(np.int32),
        split=np.repeat(np.arange(len(parts)), [len(pictures) for pictures, _ in parts.values()]).astype(np.uint8),
        pictures=np.concatenate(pictures) if len(pictures) > 1 else pictures[0],
    )
