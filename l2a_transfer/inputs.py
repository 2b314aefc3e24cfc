"""Opens files for reading: regular files only, without blocking, and never more bytes than their size."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

SPECIAL = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAFileError(OSError):
    """A pipe, a socket or a device instead of a file; reading it could block or never end."""


def special_kind(mode: int) -> str:
    """`a pipe`, `a socket` or `a device`, from a file mode; empty for a file or a folder."""
    return SPECIAL.get(stat.S_IFMT(mode), "")


def check_input(path: str | Path) -> os.stat_result:
    """The status of a file that is about to be read. The file is not opened.

    Raises
    ------
    NotAFileError
        For a pipe, a socket or a device.
    OSError
        For a folder, a missing file, and similar cases.
    """
    found = os.stat(path)
    _check(found, path)
    return found


def open_input(path: str | Path, *, buffering: int = -1) -> BinaryIO:
    """Open a regular file for reading. Its kind is checked again after it was opened.

    A file without a size, such as those in /proc, counts as empty. Raises: same as `check_input`.
    """
    check_input(path)
    # O_NONBLOCK: a pipe that takes the file's place in the meantime cannot block us.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        _check(found, path)
        if not found.st_size:
            os.close(descriptor)
            return io.BytesIO()
        return os.fdopen(descriptor, "rb", buffering)
    except OSError:
        os.close(descriptor)
        raise


def read_input(path: str | Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes. Raises: same as `open_input`; OSError if the file is larger."""
    with open_input(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size > most:
            raise OSError(0, f"{size:,} bytes; at most {most:,} are read", str(path))
        file.seek(0)
        return file.read(size)


def special_files(folder: str | Path, *, below: bool) -> Iterator[tuple[str, str]]:
    """(path, kind) of each pipe, socket and device in a folder, and with `below` in its subfolders.

    The kinds come from the listing, without a call per file. Folders that cannot be listed are skipped.
    """
    pending = [str(folder)]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending += [entry.path] if below else []
                elif not entry.is_file(follow_symlinks=False):
                    with suppress(OSError):
                        if kind := special_kind(entry.stat().st_mode):
                            yield entry.path, kind


def _check(found: os.stat_result, path: str | Path) -> None:
    if kind := special_kind(found.st_mode):
        raise NotAFileError(0, f"{kind}, where a file is expected", str(path))
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
