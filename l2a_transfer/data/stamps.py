"""What of a file is in a fingerprint: its size and time of change, or what is in it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO

from l2a_transfer.errors import DataError
from l2a_transfer.inputs import NotAFileError, check_input, open_input

BLOCK_BYTES = 1 << 20


def file_stamp(path: Path, *, by_content: bool) -> tuple[int, int | str]:
    """Size in bytes, and the time of the last change in nanoseconds or, `by_content`, the SHA-256.

    A file system keeps times at a resolution of its own, some of 2 s; a change within it that keeps the size is seen by
    its content alone. What stands in the place of a picture and is no file, or leads to none, is named instead: it is
    faulty as a damaged picture is, which is found when it is decoded. Raises: DataError naming a file that is missing
    or cannot be read.
    """
    try:
        found = check_input(path)
        if not by_content:
            return found.st_size, found.st_mtime_ns
        with open_input(path) as file:
            return found.st_size, sha256_of(file)
    except (NotAFileError, IsADirectoryError) as error:
        return 0, str(error.strerror)
    except OSError as error:
        if path.is_symlink():
            return 0, f"a link: {error.strerror}"
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def sha256_of(file: IO[bytes]) -> str:
    """SHA-256 (hex) of what is left to read of a file."""
    sha = hashlib.sha256()
    while block := file.read(BLOCK_BYTES):
        sha.update(block)
    return sha.hexdigest()
