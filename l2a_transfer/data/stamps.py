"""What represents a file in a fingerprint: its size and modification time, or its content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO

from l2a_transfer.errors import DataError
from l2a_transfer.inputs import NotAFileError, check_input, open_input

BLOCK_BYTES = 1 << 20


def file_stamp(path: Path, *, by_content: bool) -> tuple[int, int | str]:
    """Size in bytes, and the modification time in nanoseconds or, with `by_content`, the SHA-256.

    File systems store times with limited resolution (some 2 s), so only the content shows a quick change that keeps the
    size. If there is a special file or a broken link in place of a picture, its kind is returned instead: it is a
    faulty picture, which is reported when it is decoded. Raises: DataError naming a file that is missing or unreadable.
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
    """SHA-256 (hex) of the rest of an open file."""
    sha = hashlib.sha256()
    while block := file.read(BLOCK_BYTES):
        sha.update(block)
    return sha.hexdigest()
