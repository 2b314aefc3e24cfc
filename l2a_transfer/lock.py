"""One process an output: a lock that the system itself lets go of when its process ends, however it ends."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from l2a_transfer.errors import L2AError, OutputExistsError, StoreError

_ours: set[Path] = set()
_guard = threading.Lock()


@contextmanager
def output_lock(out: Path) -> Iterator[None]:
    """Hold `OUT.lock`, of a file or folder `out`, while the block runs.

    A POSIX record lock: unlike flock's it does not pass to forked workers, which may live for seconds after their
    parent was killed. Raises: OutputExistsError where another process, or another thread of this one, writes `out`;
    StoreError where the folder cannot be written; L2AError on a system without POSIX locks.
    """
    path = out.with_name(out.name + ".lock").absolute()
    with _guard:
        if path in _ours:
            raise OutputExistsError(f"{out}: is being written by another thread of this process; wait for it")
        _ours.add(path)
    try:
        file = _locked(out, path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # before the lock goes, so that nobody holds a lock on a name that is gone
            os.close(file)
    finally:
        with _guard:
            _ours.discard(path)


def check_system() -> None:
    """Raises: L2AError on a system without POSIX locks, as Windows, where nothing here has been run."""
    try:
        import fcntl
    except ImportError as error:
        raise L2AError(
            "l2a-transfer runs on POSIX systems, as Linux and macOS, and this is none: it has no module fcntl; on "
            "Windows, use it inside WSL"
        ) from error
    assert fcntl


def _locked(out: Path, path: Path) -> int:
    check_system()
    import fcntl

    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise StoreError(f"{path}: not a file; remove it")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, file):
                os.ftruncate(file, 0)
                os.pwrite(file, str(os.getpid()).encode(), 0)
                return file
            os.close(file)  # its holder removed it between our two calls
        except OSError as error:
            holder = os.pread(file, 20, 0).decode("ascii", "replace")
            os.close(file)
            if isinstance(error, (BlockingIOError, PermissionError)):
                who = f"process {holder}" if holder else "another process"
                raise OutputExistsError(
                    f"{out}: is being written by {who}", "wait for it, or choose another `out`"
                ) from error
            raise StoreError(f"{path}: cannot be locked: {error.strerror or error}") from error


def _is_still(path: Path, file: int) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(file)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
