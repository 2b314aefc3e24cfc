"""Files that are read: regular ones alone, opened so that nothing waits, and no more of them than their size says."""

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
    """A pipe, a socket or a device in the place of a file: to read it could wait, or go on, for ever."""


def special_kind(mode: int) -> str:
    """`a pipe`, `a socket` or `a device`, of a file's mode; empty for a file or a folder."""
    return SPECIAL.get(stat.S_IFMT(mode), "")


def check_input(path: str | Path) -> os.stat_result:
    """What the system says of a file that is about to be read, which is not opened.

    Raises: NotAFileError for a pipe, a socket or a device; IsADirectoryError, FileNotFoundError and the like.
    """
    found = os.stat(path)
    _check(found, path)
    return found


def open_input(path: str | Path, *, buffering: int = -1) -> BinaryIO:
    """A file for reading, whose descriptor was looked at again after it was opened.

    A file without a size, as those of /proc that never end, is an empty one. Raises: as `check_input`.
    """
    check_input(path)
    # Whoever puts a pipe there in the meantime cannot make the opening wait.
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
    """The content of a file, as much as its size says. Raises: as `open_input`; OSError where it is above `most`."""
    with open_input(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size > most:
            raise OSError(0, f"{size:,} bytes, and at most {most:,} are read", str(path))
        file.seek(0)
        return file.read(size)


def special_files(folder: str | Path, *, below: bool) -> Iterator[tuple[str, str]]:
    """(path, kind) of each pipe, socket and device in a folder, and in those below it, which are not asked for one by
    one: a file system tells of most in its listing. What cannot be listed has none."""
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
