"""Which files a pattern means, which split each is, and bytes out of one: on this machine, or through fsspec."""

from __future__ import annotations

import glob
import itertools
import json
import os
import posixpath
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from l2a_transfer.data.layout import CHOOSE
from l2a_transfer.data.names import (
    HIVE,
    check_split_count,
    in_order,
    is_litter,
    split_named,
    split_within,
)
from l2a_transfer.data.reading import SHOWN, PassedOver, Reading, Tally
from l2a_transfer.data.stamps import sha256_of
from l2a_transfer.errors import DataError, MissingExtraError, SourceError
from l2a_transfer.inputs import check_input, open_input

MAX_SHARDS = 100_000
WINDOW_BYTES = 4 << 20
"""What is fetched at once from afar, where each request costs more than the bytes that follow."""
CLASSES = "classes.txt"
"""Beside shards: the names of their classes."""
BRACES = re.compile(r"\{([^{}]*)\}")
NUMBERS = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Shard:
    """One file: its `path` or URL, its `name` below what all shards share, its size in bytes, and its split.

    `stamp`: the time of its last change in nanoseconds, or what its store says of its version.
    """

    path: str
    name: str
    size: int
    stamp: str
    split: str


@dataclass(frozen=True)
class ShardSet:
    """The files of a set, sorted; what says which split each is in; and the files beside them."""

    shards: tuple[Shard, ...]
    reading: Reading


def find_shards(where: str, suffix: str, split_from: str = "auto") -> ShardSet:
    """The files that `where` means, by split and then by name: a file, a folder with such files below it, a glob, or
    braces as in `shard-{000..003}.tar` and `{train,test}.tar`; a path, or a URL that fsspec knows.

    A file's split is what the word for one says in its name or in that of a folder below the root; without any, all
    are of the split "all". With `split_from` "folders" it is the first folder below the root, with "none" all are of
    one split. Raises: DataError for a file that is missing, none at all, splits that only some have, and words that
    contradict each other; MissingExtraError for a URL without fsspec.
    """
    literal, pattern = _literal(where)
    expanded = list(itertools.islice(_expand(pattern), MAX_SHARDS + 1))
    is_folder = len(expanded) == 1 and _is_folder(where)
    others = PassedOver()
    if is_folder:
        paths, others = _below(where, suffix)
    else:
        paths = [path for text in expanded for path in _matches(literal, text)]
    if not paths:
        beside = f"; passed over: {others}" if others.files else ""
        raise DataError(
            f"{where}: no {suffix} file in it; give a file, a folder, a glob, or braces as {{000..003}}{beside}"
        )
    if len(paths) > MAX_SHARDS or len(set(paths)) < len(paths):
        raise DataError(f"{where}: names a file twice, or more than {MAX_SHARDS:,} files")
    root = where.rstrip("/") if is_folder else _common([path.split("/")[:-1] for path in paths])
    names = {path: path[len(root) :].lstrip("/") for path in paths}
    found = {path: _split_of(path, names[path], split_from) for path in paths}
    unnamed = [path for path, split in found.items() if split is None]
    if unnamed and len(unnamed) < len(paths):
        raise DataError(
            f"{unnamed[0]}: neither its name nor its folder says which split it is, unlike others' in {where}",
            "give only files that do, or `split_from='none'` for one split of all",
        )
    order = in_order({split or "all" for split in found.values()})
    check_split_count(where, order)
    shards = [Shard(path, names[path], *size_and_stamp(path), found[path] or "all") for path in paths]
    ordered = tuple(sorted(shards, key=lambda s: (order.index(s.split), s.name.split("/"))))
    return ShardSet(ordered, Reading(_splits_from(ordered, named=not unnamed and split_from != "none"), others))


def _splits_from(shards: tuple[Shard, ...], *, named: bool) -> str:
    if not named:
        return "no file name: one split"
    shown = ", ".join(f"{shard.name} → {shard.split}" for shard in _spread(shards))
    return f"names of files, {shown}" + (f", … ({len(shards)} in all)" if len(shards) > SHOWN else "")


def _spread(shards: tuple[Shard, ...]) -> list[Shard]:
    """A few of the shards, the first of each split among them."""
    first = {shard.split: shard for shard in reversed(shards)}
    if len(shards) <= SHOWN:
        return list(shards)
    return [shard for shard in shards if shard in first.values()][:SHOWN]


def splits_of(shards: tuple[Shard, ...]) -> tuple[str, ...]:
    """The splits of sorted shards, each once."""
    return tuple(dict.fromkeys(shard.split for shard in shards))


def name_of(where: str) -> str:
    """What a pattern is called in tables: its last part without suffix."""
    last = where.rstrip("/").rsplit("/", 1)[-1]
    return posixpath.splitext(last)[0] or where


def _expand(where: str) -> Iterator[str]:
    """`a{0..2}{x,y}` → a0x, a0y, a1x, …; numbers keep their zeros."""
    braces = BRACES.search(where)
    if braces is None:
        yield where
        return
    numbers = NUMBERS.fullmatch(braces[1])
    if numbers:
        first, last = numbers.groups()
        choices = (str(k).zfill(len(first)) for k in range(int(first), int(last) + 1))
    else:
        choices = (part for part in braces[1].split(","))
    for choice in choices:
        yield from _expand(where[: braces.start()] + choice + where[braces.end() :])


def _literal(where: str) -> tuple[str, str]:
    """The leading folders, or all of the path, that are there as they are written, and the rest, which is a pattern.

    What is there is meant, even where its name has the letters of a pattern, as `set[1]/`.
    """
    parts = where.split("/") if not is_remote(where) else []
    for k in range(len(parts), 0, -1):
        if (head := "/".join(parts[:k])) and os.path.exists(head):
            return head, where[len(head) :]
    return "", where


def _matches(literal: str, pattern: str) -> list[str]:
    path = literal + pattern
    if not re.search(r"[*?\[]", pattern):
        return [path]
    if is_remote(path):
        with _refusals(path):
            fs, inside = _filesystem(path)
            if fs.exists(inside):
                return [path]
            matches = sorted(fs.unstrip_protocol(found) for found in fs.glob(inside))
    elif os.path.exists(path):
        return [path]
    else:
        matches = sorted(Path(found).as_posix() for found in glob.glob(glob.escape(literal) + pattern, recursive=True))
    begun = {part[0] for part in path.split("/") if part}
    # A pattern that begins as hidden names do asks for them.
    return [
        found for found in matches if not any(is_litter(part) and part[0] not in begun for part in found.split("/"))
    ]


def _below(folder: str, suffix: str) -> tuple[list[str], PassedOver]:
    """The files below a folder that end as shards do, whatever the case, and the others."""
    folder = folder.rstrip("/") or folder
    with _refusals(folder):
        if is_remote(folder):
            fs, inside = _filesystem(folder)
            base = inside.rstrip("/")
            found = [folder + name[name.index(base) + len(base) :] for name in fs.find(inside)]
        else:
            found = list(_walk(folder))
    shards: list[str] = []
    others = Tally()
    for path in found:
        name = path[len(folder) :].lstrip("/")
        if any(is_litter(part) for part in name.split("/")):
            continue
        if path.lower().endswith(suffix):
            shards.append(path)
        elif name != CLASSES:
            others.add(os.fsencode(name).decode(errors="replace"))
    return sorted(shards), others.result()


def _walk(folder: str) -> Iterator[str]:
    """Every file below a folder of this machine; links to folders are followed, each folder once. Raises: OSError."""
    visited: set[str] = set()
    for here, below, names in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(here)
        if real in visited:
            below.clear()
            continue
        visited.add(real)
        below.sort()
        yield from (os.path.join(here, name).replace(os.sep, "/") for name in names)


def _raise(error: OSError) -> None:
    raise error


def _common(folders: list[list[str]]) -> str:
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return "/".join(parts[0] for parts in shared)


def _split_of(path: str, name: str, split_from: str) -> str | None:
    """The split that the parts of a shard's name agree on. Raises: DataError."""
    if split_from == "none":
        return None
    *folders, file = name.split("/")
    if split_from == "folders":
        if not folders:
            raise DataError(
                f"{path}: lies in no folder", "`split_from='folders'` needs each file in a folder of its split"
            )
        return split_named(folders[0]) or split_within(folders[0]) or folders[0]
    # A Hive partition is a value of its column: only a column called split says one.
    plain = [part for part in folders if not HIVE.fullmatch(part)] + [file]
    said = {part: split_within(part) for part in plain}
    said |= {part: split_within(part) for part in folders if part.casefold().startswith("split=")}
    splits = {split: part for part, split in said.items() if split}
    if len(splits) > 1:
        (one, here), (other, there) = list(splits.items())[:2]
        raise DataError(f"{path}: can be read in two ways: {one}, as {here} says, or {other}, as {there} does", CHOOSE)
    return next(iter(splits), None)


def is_remote(path: str) -> bool:
    """True for what fsspec opens, as `s3://bucket/key`."""
    return "://" in path


def _filesystem(path: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError(path, "fsspec", "remote") from error
    # fsspec keeps one file system a process; holding on to one here would not survive a fork.
    found: tuple[Any, str] = fsspec.core.url_to_fs(path)
    return found


@contextmanager
def _refusals(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ImportError) as error:  # ImportError: the package of a protocol, as s3fs
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: cannot be read: {reason}; check the path and the right to read it") from error


def _is_folder(path: str) -> bool:
    if not is_remote(path):
        return os.path.isdir(path)
    with _refusals(path):
        fs, inside = _filesystem(path)
        return bool(fs.isdir(inside))


def size_and_stamp(path: str) -> tuple[int, str]:
    """The size of a file in bytes, and its `stamp`. Raises: DataError."""
    with _refusals(path):
        if not is_remote(path):
            found = check_input(path)
            return found.st_size, str(found.st_mtime_ns)
        fs, inside = _filesystem(path)
        return int(fs.size(inside)), str(fs.ukey(inside))


def fingerprint_of(shards: tuple[Shard, ...], *, by_content: bool) -> bytes:
    """Names, sizes and stamps of shards; the SHA-256 of each in place of its stamp, `by_content`. Raises: DataError."""
    stamps: list[str] = []
    for shard in shards:
        if by_content:
            with open_shard(shard.path) as file:
                stamps.append(sha256_of(file))
        else:
            stamps.append(f"changed {shard.stamp}")
    return json.dumps([(s.name, s.size, stamp) for s, stamp in zip(shards, stamps, strict=True)]).encode()


def check_unchanged(shard: Shard) -> None:
    """Raises: SourceError where the file is gone, or has another size or stamp than when the set was opened."""
    try:
        size, stamp = size_and_stamp(shard.path)
    except DataError as error:
        raise SourceError(str(error)) from error
    if size != shard.size:
        raise SourceError(f"{shard.path}: has another size than when the set was opened; start again")
    if stamp != shard.stamp:
        raise SourceError(f"{shard.path}: was changed after the set was opened; start again")


@contextmanager
def open_shard(path: str, *, ahead: bool = True) -> Iterator[IO[bytes]]:
    """A file that can be read and seeked; with `ahead`, more of a remote one is fetched than is asked for.

    Raises: DataError.
    """
    with _refusals(path):
        opened: IO[bytes]
        if is_remote(path):
            fs, inside = _filesystem(path)
            opened = fs.open(inside, "rb") if ahead else fs.open(inside, "rb", cache_type="none")
        else:
            opened = open_input(path)
    with opened:
        yield opened


class ShardReader:
    """Bytes out of shards at any place; one open file, or one window of a remote file, a process. Can be pickled."""

    def __init__(self) -> None:
        self._held: tuple[str, int] = ("", 0)
        self._file: IO[bytes] | None = None
        self._close: Callable[[], object] | None = None
        self._window = (0, b"")

    def __reduce__(self) -> tuple[type[ShardReader], tuple[()]]:
        return ShardReader, ()

    def read(self, shard: Shard, start: int, length: int) -> bytes:
        """`length` bytes from `start`. Raises: SourceError where the file is gone or not the one that was indexed."""
        try:
            with _refusals(shard.path):
                if self._held != (shard.path, os.getpid()):
                    self._hold(shard)
                if self._file is not None:
                    self._file.seek(start)
                    content = self._file.read(length)
                else:
                    content = self._from_afar(shard, start, length)
        except DataError as error:
            raise SourceError(str(error)) from error
        if len(content) != length:
            raise SourceError(f"{shard.path}: is shorter than when it was opened; leave it unchanged and start again")
        return content

    def _hold(self, shard: Shard) -> None:
        check_unchanged(shard)
        if self._close is not None:
            self._close()
        self._file = self._close = None
        if not is_remote(shard.path):
            # Unbuffered, and opened by this process: a forked file would share its position with the parent's.
            self._file = open_input(shard.path, buffering=0)
            self._close = weakref.finalize(self, self._file.close)
        self._held, self._window = (shard.path, os.getpid()), (0, b"")

    def _from_afar(self, shard: Shard, start: int, length: int) -> bytes:
        low, window = self._window
        if not (low <= start and start + length <= low + len(window)):
            fs, inside = _filesystem(shard.path)
            stop = min(shard.size, start + max(length, WINDOW_BYTES))
            low, window = self._window = (start, fs.cat_file(inside, start, stop))
        return window[start - low : start - low + length]
