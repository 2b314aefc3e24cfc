"""Index the files in a tar shard without unpacking them. Members that no data set needs are rejected."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

from l2a_transfer.data.names import MAX_NAME_BYTES, is_litter
from l2a_transfer.data.shard_io import Shard
from l2a_transfer.errors import DataError

MAX_HEADER_BYTES = 1 << 20
"""Limit of what tarfile reads for one header."""
MAX_PADDING_BYTES = 64 << 20
BLOCK = tarfile.BLOCKSIZE
SAFE = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)


class _BoundedFile:
    """A shard for tarfile, with limits: the size of each read, and as many reads as there are blocks.

    A header can declare a size that would fill the memory, or one that sends tarfile back to where it was.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, 4 * (size // BLOCK) + 64

    def read(self, length: int) -> bytes:
        self._left -= 1
        if not 0 <= length <= MAX_HEADER_BYTES or self._left < 0:
            raise tarfile.ReadError(f"a header asks for {length} bytes")
        return self._file.read(length)

    def seek(self, place: int) -> int:
        if place < 0:
            raise tarfile.ReadError("a header points before the file")
        return self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()


class Member(NamedTuple):
    """What is kept of a member. A TarInfo takes ten times more memory."""

    name: str
    start: int
    size: int


def list_members(shard: Shard, file: IO[bytes]) -> Iterator[Member]:
    """The files in a shard, in order. Raises: DataError if one is unsafe."""
    try:
        if file.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5"):
            raise DataError(f"{shard.path}: is compressed, so pictures cannot be read individually; decompress it")
        file.seek(0)
        guarded: Any = _BoundedFile(file, shard.size)
        with tarfile.TarFile(fileobj=guarded, mode="r", encoding="utf-8", errors="strict") as tar:
            kept: Any = tar
            stop = 0
            # At 0 there is no member, and Python 3.10's next() would seek to a negative position.
            while tar.offset and (member := tar.next()) is not None:
                kept.members = []  # tarfile keeps every member; our own index is smaller
                _check_member(shard, member, stop)
                stop = member.offset_data + member.size
                if member.isfile() and not any(map(is_litter, PurePosixPath(member.name).parts)):
                    yield Member(member.name, member.offset_data, member.size)
            _check_end(file, stop)
    except RecursionError as error:  # tarfile calls itself for each header that describes the next one
        raise DataError(f"{shard.path}: corrupt: too many extended headers in a row; pack it again") from error
    except (tarfile.TarError, OSError, ValueError, KeyError, IndexError, OverflowError, EOFError) as error:
        raise DataError(f"{shard.path}: not a tar file, or corrupt: {error}; pack it again") from error


def _check_end(file: IO[bytes], after: int) -> None:
    """Check that only zeros follow the last member. Raises: tarfile.ReadError.

    tarfile mistakes a corrupt header in the middle, and a file truncated between two members, for the end.
    """
    file.seek(-(-after // BLOCK) * BLOCK)
    block = file.read(BLOCK)
    if len(block) < BLOCK or any(block):
        raise tarfile.ReadError(f"neither a member nor an end marker at byte {after}")
    left = MAX_PADDING_BYTES
    while block := file.read(128 * BLOCK):
        left -= len(block)
        if block.strip(b"\0"):
            raise tarfile.ReadError("more members after its end, as in concatenated files")
        if left < 0:  # a sparse file can go on for terabytes
            raise tarfile.ReadError(f"more than {MAX_PADDING_BYTES >> 20} MiB after its end")


def _check_member(shard: Shard, member: tarfile.TarInfo, after: int) -> None:
    name = member.name
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or "\0" in name or ":" in name[:2]:
        raise DataError(f"{shard.path}: the member {name!r} lies outside the shard's root, which is not allowed")
    if member.type not in SAFE or member.issparse():
        raise DataError(f"{shard.path}: the member {name!r} is a link, a device or sparse, which is not allowed")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise DataError(f"{shard.path}: a member's name has more than {MAX_NAME_BYTES} bytes")
    if member.size < 0 or member.offset_data < after or member.offset_data + member.size > shard.size:
        raise DataError(f"{shard.path}: the member {name!r} extends beyond the file, which is truncated or corrupt")
