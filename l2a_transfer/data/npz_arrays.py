"""Read the arrays of an `.npz`, headers first and then each needed array once, into place; also an `.npy`."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import DataError
from l2a_transfer.inputs import open_input
from l2a_transfer.memory import require_memory

MAX_BYTES = 16 << 30
MAX_TIMES, SMALL_BYTES = 100, 1 << 30
"""A file may unpack to this many times its own size, if that is more than SMALL_BYTES. Pictures never reach this ratio;
zeros are compressed a thousandfold."""
MAX_MEMBERS = 10_000
"""Limit per file. A data set needs six arrays, and the header of every member is parsed."""
_PYTHON_ERRORS = (IndexError, KeyError, MemoryError, OverflowError, RuntimeError, SyntaxError, TypeError, ValueError)
DAMAGED = (*_PYTHON_ERRORS, EOFError, zipfile.BadZipFile, zlib.error, tokenize.TokenError)
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Header:
    """Shape and type of an array that is not read yet."""

    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Npz:
    """An open `.npz`. `arrays`: name → header; `others`: names of members that are not arrays."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        self.arrays: dict[str, Header] = {}
        self.others: dict[str, None] = {}
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise DataError(f"{path}: has {len(members):,} members; at most {MAX_MEMBERS:,} are read", "save it again")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in self.arrays or member.filename in self.others:
                raise DataError(f"{path}: has two members called {member.filename!r}; save it again")
            if name == member.filename:
                self.others[name] = None
            else:
                self.arrays[name] = self._header(member)
        self._left = min(MAX_BYTES, max(SMALL_BYTES, MAX_TIMES * path.stat().st_size))

    def _header(self, member: zipfile.ZipInfo) -> Header:
        with self._archive.open(member) as file:
            header = self._read_header(member, file)
            if header.dtype.hasobject or not header.dtype.itemsize:
                raise ValueError(f"{member.filename} is an array of {header.dtype}")
            if header.bytes != member.file_size - file.tell():
                raise DataError(
                    f"{self.path}: {member.filename}: declares {header.dtype} {header.shape}, but has "
                    f"{member.file_size - file.tell()} bytes of data; save it again"
                )
        return header

    @staticmethod
    def _read_header(member: zipfile.ZipInfo, file: IO[bytes]) -> Header:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"{member.filename} has the unknown format version {version}")
        shape, fortran, dtype = HEADERS[version](file)
        return Header(member, tuple(shape), dtype, fortran)

    def read(self, name: str) -> NDArray[Any]:
        """Read an array. Raises: DataError if the total that was read exceeds what the file may unpack to."""
        header = self.arrays[name]
        self._take(header)
        array = np.empty(math.prod(header.shape), dtype=header.dtype)
        self._fill(header, array)
        return array.reshape(header.shape, order="F" if header.fortran else "C")

    def read_into(self, name: str, place: NDArray[np.uint8]) -> None:
        """Read an array of bytes into contiguous memory of the same shape."""
        header = self.arrays[name]
        if header.fortran:
            place[:] = self.read(name)
        else:
            self._take(header)
            self._fill(header, place.reshape(-1))

    def check_size(self, names: list[str]) -> None:
        """Raises: DataError if these arrays together exceed what the file may unpack to."""
        size = sum(self.arrays[name].bytes for name in names)
        if size > self._left:
            raise self._too_large(size)

    def _take(self, header: Header) -> None:
        if header.bytes > self._left:
            raise self._too_large(header.bytes)
        self._left -= header.bytes

    def _too_large(self, size: int) -> DataError:
        return DataError(
            f"{self.path}: unpacks to {size >> 20:,} MiB; at most {self._left >> 20:,} are read: {MAX_TIMES} times the "
            f"size of the file, and at most {MAX_BYTES >> 30} GiB; split it"
        )

    def _fill(self, header: Header, flat: NDArray[Any]) -> None:
        left = flat.view(np.uint8).data
        with self._archive.open(header.member) as file:
            self._read_header(header.member, file)
            while len(left):
                count = file.readinto(left[: 1 << 20])  # type: ignore[attr-defined]
                if not count:
                    raise EOFError(f"{header.member.filename} is truncated")
                left = left[count:]
            file.read(1)  # zipfile checks the checksum at the end


@contextmanager
def open_npz(path: Path) -> Iterator[Npz]:
    """Open a file without unpickling anything. Raises: DataError for every error while it is open."""
    try:
        with open_input(path) as file, zipfile.ZipFile(file) as archive:
            yield Npz(path, archive)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DAMAGED as error:
        raise DataError(f"{path}: not an .npz file of plain arrays, or corrupt: {error}") from error


def read_npy(path: Path) -> NDArray[Any]:
    """Read the array of an `.npy` file without unpickling anything.

    Raises: DataError naming the file, if it contains objects, is corrupt, or its size does not match its header.
    """
    try:
        with open_input(path) as file:
            version = np.lib.format.read_magic(file)
            if version not in HEADERS:
                raise ValueError(f"it has the unknown format version {version}")
            shape, fortran, dtype = HEADERS[version](file)
            if dtype.hasobject or not dtype.itemsize:
                raise DataError(
                    f"{path}: contains pickled Python objects ({dtype}), which are not read for safety",
                    "save an array of numbers or text",
                )
            start = file.tell()
            found = file.seek(0, 2) - start
            if math.prod(shape) * dtype.itemsize != found:
                raise DataError(f"{path}: declares {dtype} {shape}, but has {found} bytes of data; save it again")
            require_memory(found, f"{path}: to have its {found >> 20:,} MiB in memory", "split the file")
            file.seek(start)
            flat = np.empty(math.prod(shape), dtype=dtype)
            left = flat.view(np.uint8).data if flat.size else memoryview(b"")
            while len(left):
                count = file.readinto(left[: 1 << 20])  # type: ignore[attr-defined]
                if not count:
                    raise EOFError("it is truncated")
                left = left[count:]
            return flat.reshape(shape, order="F" if fortran else "C")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DAMAGED as error:
        raise DataError(f"{path}: not an .npy file of a plain array, or corrupt: {error}") from error
