"""Check the size of files that list pictures or classes before they are read."""

from __future__ import annotations

from pathlib import Path

from l2a_transfer.errors import DataError
from l2a_transfer.inputs import check_input, read_input

MAX_LIST_BYTES = 16 << 20


def check_file(path: Path, most: int = MAX_LIST_BYTES) -> None:
    """Raises: DataError if `path` exists and is not a regular file, or is larger than `most` bytes."""
    if not path.exists():
        return
    try:
        found = check_input(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; remove it") from error
    if found.st_size > most:
        raise DataError(f"{path}: {found.st_size >> 20} MiB; at most {most >> 20} are read")


def read_list(path: Path, most: int = MAX_LIST_BYTES) -> bytes:
    """The content of a file. Raises: same as `check_file`; OSError if it is missing or unreadable, because only the set
    that it belongs to knows which files are required."""
    check_file(path, most)
    return read_input(path, most)
