"""Files that list pictures or classes, before anything reads them whole."""

from __future__ import annotations

import stat
from pathlib import Path

from l2a_transfer.errors import DataError

MAX_LIST_BYTES = 16 << 20


def check_file(path: Path, most: int = MAX_LIST_BYTES) -> None:
    """Raises: DataError where `path` is there and is no regular file, or is larger than what is read."""
    if not path.exists():
        return
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: not a file; remove it")
    if found.st_size > most:
        raise DataError(f"{path}: {found.st_size >> 20} MiB; at most {most >> 20} are read")
