"""What of a file is in a fingerprint: its size and time of change, or what is in it."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import IO

from l2a_transfer.errors import DataError

BLOCK_BYTES = 1 << 20


def file_stamp(path: Path, *, by_content: bool) -> tuple[int, int | str]:
    """Size in bytes, and the time of the last change in nanoseconds or, `by_content`, the SHA-256.

    A file system keeps times at a resolution of its own, some of 2 s; a change within it that keeps the size is seen by
    its content alone. Raises: DataError naming the file.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait for whoever writes to it
            raise DataError(f"{path}: not a file; remove it")
        if not by_content:
            return found.st_size, found.st_mtime_ns
        with open(path, "rb") as file:
            return found.st_size, sha256_of(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def sha256_of(file: IO[bytes]) -> str:
    """SHA-256 (hex) of what is left to read of a file."""
    sha = hashlib.sha256()
    while block := file.read(BLOCK_BYTES):
        sha.update(block)
    return sha.hexdigest()
