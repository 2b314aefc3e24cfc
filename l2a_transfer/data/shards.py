"""Which files a pattern means, which split each is, and bytes out of one: on this machine, or through fsspec."""

from __future__ import annotations

import glob
import itertools
import os
import posixpath
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from l2a_transfer.data.folders import SPLIT_FOLDERS
from l2a_transfer.errors import DataError, MissingExtraError, SourceError

MAX_SHARDS = 100_000
WINDOW_BYTES = 4 << 20
"""What is fetched at once from afar, where each request costs more than the bytes that follow."""
BRACES = re.compile(r"\{([^{}]*)\}")
NUMBERS = re.compile(r"(\d+)\.\.(\d+)")
SPLIT_NAME = re.compile(rf"({'|'.join(SPLIT_FOLDERS)})(?:[-_.]|$)")


@dataclass(frozen=True)
class Shard:
    """One file: its `path` or URL, its `name` below what all shards share, its size in bytes, and its split."""

    path: str
    name: str
    size: int
    split: str


def find_shards(where: str, suffix: str) -> tuple[Shard, ...]:
    """The files that `where` means, by split and then by name: a file, a folder with such files below it, a glob, or
    braces as in `shard-{000..003}.tar` and `{train,test}.tar`; a path, or a URL that fsspec knows.

    A file's split is that of its folder below the root, or of the word that its name starts with: train, val, test or
    what else an image folder may say; without any, all are of the split "all". Raises: DataError for a file that is
    missing, none at all, or splits that only some have; MissingExtraError for a URL without fsspec.
    """
    literal, pattern = _literal(where)
    expanded = list(itertools.islice(_expand(pattern), MAX_SHARDS + 1))
    is_folder = len(expanded) == 1 and _is_folder(where)
    paths = _below(where, suffix) if is_folder else [path for text in expanded for path in _matches(literal, text)]
    if not paths:
        raise DataError(f"{where}: no {suffix} file in it; give a file, a folder, a glob, or braces as {{000..003}}")
    if len(paths) > MAX_SHARDS or len(set(paths)) < len(paths):
        raise DataError(f"{where}: names a file twice, or more than {MAX_SHARDS:,} files")
    root = where.rstrip("/") if is_folder else _common([path.split("/")[:-1] for path in paths])
    names = {path: path[len(root) :].lstrip("/") for path in paths}
    found = {path: _split_of(names[path]) for path in paths}
    unnamed = [path for path, split in found.items() if split is None]
    if unnamed and len(unnamed) < len(paths):
        raise DataError(
            f"{unnamed[0]}: neither its name nor its folder says which split it is, unlike others' in {where}"
        )
    order = ("train", "val", "test")
    shards = [Shard(path, names[path], file_bytes(path), found[path] or "all") for path in paths]
    return tuple(sorted(shards, key=lambda s: (order.index(s.split) if s.split in order else 0, s.name.split("/"))))


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
            return sorted(fs.unstrip_protocol(found) for found in fs.glob(inside))
    if os.path.exists(path):
        return [path]
    return sorted(Path(found).as_posix() for found in glob.glob(glob.escape(literal) + pattern, recursive=True))


def _below(folder: str, suffix: str) -> list[str]:
    if is_remote(folder):
        with _refusals(folder):
            fs, inside = _filesystem(folder)
            base, names = inside.rstrip("/"), fs.find(inside)
        found = [folder.rstrip("/") + name[name.index(base) + len(base) :] for name in names]
    else:
        found = [path.as_posix() for path in Path(folder).rglob(f"*{suffix}")]
    return sorted(
        path
        for path in found
        if path.endswith(suffix) and not any(part.startswith(".") for part in path[len(folder) :].split("/"))
    )


def _common(folders: list[list[str]]) -> str:
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return "/".join(parts[0] for parts in shared)


def _split_of(name: str) -> str | None:
    *folders, file = name.split("/")
    for folder in folders:
        if folder in SPLIT_FOLDERS:
            return SPLIT_FOLDERS[folder]
    start = SPLIT_NAME.match(file)
    return SPLIT_FOLDERS[start[1]] if start else None


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


def file_bytes(path: str) -> int:
    """The size of a file. Raises: DataError."""
    with _refusals(path):
        if not is_remote(path):
            return os.stat(path).st_size
        fs, inside = _filesystem(path)
        return int(fs.size(inside))


def check_unchanged(shard: Shard) -> None:
    """Raises: SourceError where the file is gone or has another size than when the set was opened."""
    try:
        size = file_bytes(shard.path)
    except DataError as error:
        raise SourceError(str(error)) from error
    if size != shard.size:
        raise SourceError(f"{shard.path}: has another size than when the set was opened; start again")


@contextmanager
def open_shard(path: str) -> Iterator[IO[bytes]]:
    """A file that can be read and seeked. Raises: DataError."""
    with _refusals(path):
        opened: IO[bytes]
        if is_remote(path):
            fs, inside = _filesystem(path)
            opened = fs.open(inside, "rb")
        else:
            opened = open(path, "rb")  # noqa: SIM115
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
            self._file = open(shard.path, "rb", buffering=0)  # noqa: SIM115
            self._close = weakref.finalize(self, self._file.close)
        self._held, self._window = (shard.path, os.getpid()), (0, b"")

    def _from_afar(self, shard: Shard, start: int, length: int) -> bytes:
        low, window = self._window
        if not (low <= start and start + length <= low + len(window)):
            fs, inside = _filesystem(shard.path)
            stop = min(shard.size, start + max(length, WINDOW_BYTES))
            low, window = self._window = (start, fs.cat_file(inside, start, stop))
        return window[start - low : start - low + length]
