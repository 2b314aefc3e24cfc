"""Files that list pictures or classes, before anything reads them whole."""

from __future__ import annotations

from pathlib import Path

from l2a_transfer.errors import DataError
from l2a_transfer.inputs import check_input, read_input

MAX_LIST_BYTES = 16 << 20


def check_file(path: Path, most: int = MAX_LIST_BYTES) -> None:
    """Raises: DataError if `path` is there and is no regular file, or is larger than what is read."""
    if not path.exists():
        return
    try:
        found = check_input(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; remove it") from error
    if found.st_size > most:
        raise DataError(f"{path}: {found.st_size >> 20} MiB; at most {most >> 20} are read")


def read_list(path: Path, most: int = MAX_LIST_BYTES) -> bytes:
    """The content of a file. Raises: as `check_file`; OSError if it is not there or cannot be read, because only
    the set that it belongs to knows what must be there."""
    check_file(path, most)
    return read_input(path, most)
