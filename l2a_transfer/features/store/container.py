"""The container of every sealed file: an HDF5 file after a user block with its length and SHA-256."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from l2a_transfer.errors import StoreError
from l2a_transfer.features.store.schema import AGAIN, MAGIC, SEAL, USER_BLOCK, VERSION, digest_of, digest_of_open
from l2a_transfer.inputs import check_input, open_input


@dataclass(frozen=True)
class SealedKind:
    """A kind of sealed file: its magic and version, its name in messages, and the command that writes it."""

    magic: bytes
    version: int
    what: str
    verb: str
    again: str


FEATURES = SealedKind(MAGIC, VERSION, "a feature file", "extract", AGAIN)


def new_file(sink: Sink) -> h5py.File:
    """Create an empty file in HDF5 1.10's format after a user block.

    This uses the low-level interface because only there can h5py before 3.15 leave the time out of groups.
    """
    access, created = h5py.h5p.create(h5py.h5p.FILE_ACCESS), without_times(h5py.h5p.FILE_CREATE)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, sink)
    created.set_userblock(USER_BLOCK)
    return h5py.File(h5py.h5f.create(b"features", h5py.h5f.ACC_TRUNC, fcpl=created, fapl=access))


def without_times(kind: Any) -> Any:
    """The property list that creates a file or group without time stamps."""
    properties = h5py.h5p.create(kind)
    properties.set_obj_track_times(False)
    return properties


class Sink(io.RawIOBase):
    """The file that libhdf5 writes to. A failed write is stored and raised later, by `raise_error`.

    After a failed write, for example on a full disk, libhdf5 crashes when the process ends. It is therefore told that
    every write succeeded.
    """

    def __init__(self, raw: io.FileIO) -> None:
        self.raw = raw
        self.refusal: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            written = 0
            while self.refusal is None and written < len(view):
                written += self.raw.write(view[written:])
        except OSError as error:
            self.refusal = error
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        found = self.raw.readinto(view)
        view[found:] = bytes(len(view) - found)  # bytes that were never written are zero, as in a sparse file
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.raw.seek(offset, whence)

    def truncate(self, size: int | None = None) -> int:
        try:
            return self.raw.tell() if self.refusal else self.raw.truncate(size)
        except OSError as error:
            self.refusal = error
            return self.raw.tell()

    def raise_error(self) -> None:
        if self.refusal is not None:
            raise self.refusal


def seal(raw: io.FileIO, kind: SealedKind) -> None:
    """Write the user block after everything else is on disk, so that only a complete file has one."""
    os.fsync(raw.fileno())
    block = SEAL.pack(kind.magic, kind.version, *digest_of_open(raw)).ljust(USER_BLOCK, b"\0")
    raw.seek(0)
    raw.write(block)


def check_seal(path: Path, kind: SealedKind) -> None:
    """Check that a file is of this kind, complete and unchanged, without libhdf5. Raises: StoreError."""
    try:
        size = check_input(path).st_size
        with open_input(path) as file:
            block = file.read(USER_BLOCK)
        if block[: len(kind.magic)] != kind.magic:
            if size >= USER_BLOCK and not any(block):
                raise StoreError(f"{path}: incomplete: writing it was interrupted", kind.again)
            raise StoreError(f"{path}: not {kind.what} of l2a-transfer; create one with 'l2a-transfer {kind.verb}'")
        if len(block) < USER_BLOCK:
            raise StoreError(f"{path}: truncated within its first {USER_BLOCK} bytes", kind.again)
        _, version, length, digest = SEAL.unpack_from(block)
        if version != kind.version:
            raise StoreError(f"{path}: format version {version}; this program reads version {kind.version}")
        if any(block[SEAL.size :]):
            raise StoreError(f"{path}: changed since it was written: unexpected bytes in its user block", kind.again)
        if size - USER_BLOCK != length:
            what = "truncated" if size - USER_BLOCK < length else "longer than when it was written"
            raise StoreError(f"{path}: {what}: {size} bytes, expected {USER_BLOCK + length}", kind.again)
        if digest_of(path) != (length, digest):
            raise StoreError(f"{path}: changed since it was written: its SHA-256 does not match", kind.again)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file; create it with 'l2a-transfer {kind.verb}'") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading, also on a file system without locks or if someone else holds it. Sealed files are never
    changed, so this is safe.

    Within a process, HDF5 rejects opening a file with a lock if it is already open without one. A lock is therefore
    tried first.
    """
    try:
        return h5py.File(path, "r")
    except OSError:
        try:
            return h5py.File(path, "r", locking=False)
        except OSError:
            pass
        raise
