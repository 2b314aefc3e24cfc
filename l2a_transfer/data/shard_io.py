"""Read bytes from the files of a data set, on this machine or through fsspec."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from l2a_transfer.data.stamps import sha256_of
from l2a_transfer.errors import DataError, MissingExtraError, SourceError
from l2a_transfer.inputs import check_input, open_input

WINDOW_BYTES = 4 << 20
"""Bytes of a remote file that are fetched at once, because a request costs more than additional bytes."""


@dataclass(frozen=True)
class Shard:
    """One file: its `path` or URL, its `name` relative to the common folder, its size in bytes, and its split.

    `stamp`: its modification time in nanoseconds, or the version that its remote store reports.
    """

    path: str
    name: str
    size: int
    stamp: str
    split: str


def is_remote(path: str) -> bool:
    """True for a URL that fsspec opens, such as `s3://bucket/key`."""
    return "://" in path


def filesystem(path: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it. Raises: MissingExtraError if fsspec is not installed."""
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError(path, "fsspec", "remote") from error
    # fsspec caches one file system per process; one that is kept here would not survive a fork.
    found: tuple[Any, str] = fsspec.core.url_to_fs(path)
    return found


@contextmanager
def reading_errors(path: str) -> Iterator[None]:
    """Turn errors of the system or fsspec about `path` into a DataError."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:  # ImportError: a protocol's package is missing, such as s3fs
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: cannot be read: {reason}; check the path and its permissions") from error


def is_folder(path: str) -> bool:
    """True for a local or remote folder. Raises: DataError."""
    if not is_remote(path):
        return os.path.isdir(path)
    with reading_errors(path):
        fs, inside = filesystem(path)
        return bool(fs.isdir(inside))


def size_and_stamp(path: str) -> tuple[int, str]:
    """The size of a file in bytes, and its `stamp`. Raises: DataError."""
    with reading_errors(path):
        if not is_remote(path):
            found = check_input(path)
            return found.st_size, str(found.st_mtime_ns)
        fs, inside = filesystem(path)
        return int(fs.size(inside)), str(fs.ukey(inside))


def fingerprint_of(shards: tuple[Shard, ...], *, by_content: bool) -> bytes:
    """Names, sizes and stamps of shards; with `by_content`, SHA-256 instead of stamps. Raises: DataError."""
    stamps: list[str] = []
    for shard in shards:
        if by_content:
            with open_shard(shard.path) as file:
                stamps.append(sha256_of(file))
        else:
            stamps.append(f"changed {shard.stamp}")
    return json.dumps([(s.name, s.size, stamp) for s, stamp in zip(shards, stamps, strict=True)]).encode()


def check_unchanged(shard: Shard) -> None:
    """Raises: SourceError if the file is missing, or if its size or stamp changed since the set was opened."""
    try:
        size, stamp = size_and_stamp(shard.path)
    except DataError as error:
        raise SourceError(str(error)) from error
    if size != shard.size:
        raise SourceError(f"{shard.path}: its size has changed since the set was opened; start again")
    if stamp != shard.stamp:
        raise SourceError(f"{shard.path}: was changed after the set was opened; start again")


@contextmanager
def open_shard(path: str, *, ahead: bool = True) -> Iterator[IO[bytes]]:
    """Open a file for reading and seeking; with `ahead`, a remote file is read ahead. Raises: DataError."""
    with reading_errors(path):
        opened: IO[bytes]
        if is_remote(path):
            fs, inside = filesystem(path)
            opened = fs.open(inside, "rb") if ahead else fs.open(inside, "rb", cache_type="none")
        else:
            opened = open_input(path)
    with opened:
        yield opened


class ShardReader:
    """Reads bytes of shards at any position, with one open file, or one window of a remote file, per process. Can be
    pickled."""

    def __init__(self) -> None:
        self._current: tuple[str, int] = ("", 0)
        self._file: IO[bytes] | None = None
        self._close: Callable[[], object] | None = None
        self._window = (0, b"")

    def __reduce__(self) -> tuple[type[ShardReader], tuple[()]]:
        return ShardReader, ()

    def read(self, shard: Shard, start: int, length: int) -> bytes:
        """`length` bytes from `start`. Raises: SourceError if the file is missing or changed since it was indexed."""
        try:
            with reading_errors(shard.path):
                if self._current != (shard.path, os.getpid()):
                    self._open(shard)
                if self._file is not None:
                    self._file.seek(start)
                    content = self._file.read(length)
                else:
                    content = self._read_remote(shard, start, length)
        except DataError as error:
            raise SourceError(str(error)) from error
        if len(content) != length:
            raise SourceError(
                f"{shard.path}: became shorter after it was opened; start again and do not change it meanwhile"
            )
        return content

    def _open(self, shard: Shard) -> None:
        check_unchanged(shard)
        if self._close is not None:
            self._close()
        self._file = self._close = None
        if not is_remote(shard.path):
            # Unbuffered, and opened by this process, because a forked file shares its position with the parent.
            self._file = open_input(shard.path, buffering=0)
            self._close = weakref.finalize(self, self._file.close)
        self._current, self._window = (shard.path, os.getpid()), (0, b"")

    def _read_remote(self, shard: Shard, start: int, length: int) -> bytes:
        low, window = self._window
        if not (low <= start and start + length <= low + len(window)):
            fs, inside = filesystem(shard.path)
            stop = min(shard.size, start + max(length, WINDOW_BYTES))
            low, window = self._window = (start, fs.cat_file(inside, start, stop))
        return window[start - low : start - low + length]
