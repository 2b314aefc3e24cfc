"""Where the files in a tar shard are, without unpacking any; what no data set needs is refused."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

from l2a_transfer.data.names import MAX_NAME_BYTES, is_litter
from l2a_transfer.data.shard_io import Shard
from l2a_transfer.errors import DataError

MAX_HEADER_BYTES = 1 << 20
"""Of what tarfile reads of one header."""
MAX_PADDING_BYTES = 64 << 20
BLOCK = tarfile.BLOCKSIZE
SAFE = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)


class _BoundedFile:
    """A shard as tarfile reads it: no more at once than a header may have, and no more often than it has blocks.

    A header can declare a size that fills the memory, or one that sends tarfile back to where it was.
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
    """What is kept of a member; a TarInfo takes ten times as much."""

    name: str
    start: int
    size: int


def list_members(shard: Shard, file: IO[bytes]) -> Iterator[Member]:
    """The files in a shard, in order. Raises: DataError for any that is unsafe."""
    try:
        if file.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5"):
            raise DataError(
                f"{shard.path}: is compressed, so that no picture can be found without all before; unpack it"
            )
        file.seek(0)
        guarded: Any = _BoundedFile(file, shard.size)
        with tarfile.TarFile(fileobj=guarded, mode="r", encoding="utf-8", errors="strict") as tar:
            kept: Any = tar
            stop = 0
            # 0: there is no member, for which Python 3.10's next() would seek to before the file.
            while tar.offset and (member := tar.next()) is not None:
                kept.members = []  # tarfile keeps each; an index of our own is smaller
                _check_member(shard, member, stop)
                stop = member.offset_data + member.size
                if member.isfile() and not any(map(is_litter, PurePosixPath(member.name).parts)):
                    yield Member(member.name, member.offset_data, member.size)
            _check_end(file, stop)
    except RecursionError as error:  # tarfile goes one call deeper for each header that is about the next one
        raise DataError(f"{shard.path}: damaged: more headers in a row than members have; pack it again") from error
    except (tarfile.TarError, OSError, ValueError, KeyError, IndexError, OverflowError, EOFError) as error:
        raise DataError(f"{shard.path}: not a tar file or damaged: {error}; pack it again") from error


def _check_end(file: IO[bytes], after: int) -> None:
    """After the last member there are zeros and nothing else. Raises: tarfile.ReadError.

    tarfile takes a damaged header in the middle, and a file cut between two members, for the end.
    """
    file.seek(-(-after // BLOCK) * BLOCK)
    block = file.read(BLOCK)
    if len(block) < BLOCK or any(block):
        raise tarfile.ReadError(f"no member and no end at byte {after}")
    left = MAX_PADDING_BYTES
    while block := file.read(128 * BLOCK):
        left -= len(block)
        if block.strip(b"\0"):
            raise tarfile.ReadError("more members after its end, as in files that were joined")
        if left < 0:  # a file with a hole can go on for terabytes
            raise tarfile.ReadError(f"more than {MAX_PADDING_BYTES >> 20} MiB after its end")


def _check_member(shard: Shard, member: tarfile.TarInfo, after: int) -> None:
    name = member.name
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or "\0" in name or ":" in name[:2]:
        raise DataError(f"{shard.path}: the member {name!r} lies outside of the shard's root, which is refused")
    if member.type not in SAFE or member.issparse():
        raise DataError(f"{shard.path}: the member {name!r} is a link, a device or sparse, which is refused")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise DataError(f"{shard.path}: a member's name has more than {MAX_NAME_BYTES} bytes")
    if member.size < 0 or member.offset_data < after or member.offset_data + member.size > shard.size:
        raise DataError(f"{shard.path}: the member {name!r} does not lie within the file: cut short or damaged")
