"""Exclusive file locks: one process per output. The OS releases a lock when its process exits, even after a crash."""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from l2a_transfer.errors import L2AError, OutputExistsError, StoreError
from l2a_transfer.files import is_there, kind_of, remove_leftovers

IN_FOLDER = ".l2a-transfer.lock"
"""The lock of a folder is inside it, because the folder above may belong to another user."""
CONTENT = re.compile(rb"l2a-transfer (\d+)\n?")
"""The content of a lock file: the id of the last process that held the lock, or nothing if the disk was full."""
TRIES = 10
"""Attempts to create and lock a folder while other processes create and remove it."""

_holders: dict[str, tuple[int, int]] = {}
"""Real path of a lock → the process and the thread that hold it."""
_guard = threading.Lock()


@contextmanager
def output_lock(out: Path, *, argument: str = "out") -> Iterator[None]:
    """Hold the lock of an output file while the block runs.

    This is a POSIX record lock on `OUT.lock`. Unlike a lock by `flock`, it is not inherited by forked workers, which
    may live for seconds after their parent was killed. The thread that holds the lock may acquire it again. Partial
    files of `out` that a killed process has left are removed.

    Parameters
    ----------
    out : Path
        The file, or a folder that does not exist yet.
    argument : str
        The parameter that error messages tell the user to change.

    Raises
    ------
    OutputExistsError
        If another process, or another thread of this one, is writing `out`.
    StoreError
        If the folder cannot be written, or the name of the lock belongs to something else.
    L2AError
        On a system without POSIX locks.
    """
    with _hold(out, out.with_name(out.name + ".lock"), argument) as first:
        if first:
            remove_leftovers(out)
        yield


@contextmanager
def folder_lock(out: Path) -> Iterator[None]:
    """Create the folder `out` if it is missing, and hold its lock while the block runs. All verbs share this lock.

    A folder that was created and is still empty at the end is removed.

    Raises
    ------
    OutputExistsError, StoreError, L2AError
        In the same cases as `output_lock`.
    OSError
        If `out` is not a folder, or cannot be created.
    """
    with ExitStack() as stack:
        for k in range(TRIES):
            if is_there(out) and not out.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(out))
            made = [path for path in (out, *out.parents) if not path.exists()]
            stack.callback(_remove_if_empty, made)
            try:
                stack.enter_context(_create_and_lock(out) if made else _hold(out, out / IN_FOLDER))
                break
            except StoreError as error:
                # Another process created the folder, failed, and removed it between our two calls.
                if not isinstance(error.__cause__, FileNotFoundError) or k == TRIES - 1:
                    raise
        yield


@contextmanager
def _create_and_lock(out: Path) -> Iterator[None]:
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with output_lock(out):  # excludes a command that writes a file with this name
            out.mkdir(exist_ok=True)
            stack.enter_context(_hold(out, out / IN_FOLDER))
        yield


def _remove_if_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


@contextmanager
def _hold(out: Path, path: Path, argument: str = "out") -> Iterator[bool]:
    """Hold the lock at `path`; yields False if this thread already holds it."""
    real = os.path.join(os.path.realpath(path.parent), path.name)
    me = (os.getpid(), threading.get_ident())
    with _guard:
        holder = _holders.get(real)
        again = holder == me
        if holder and holder[0] == me[0] and not again:
            raise OutputExistsError(f"{out}: is being written by another thread of this process; wait for it")
        _holders[real] = me
    if again:
        yield False
        return
    try:
        file = _acquire(out, path, argument)
        try:
            yield True
        finally:
            if os.getpid() == me[0] and _is_same_file(path, file):
                with suppress(OSError):
                    path.unlink()  # before the lock is released, so that nobody locks a deleted file
            os.close(file)
    finally:
        with _guard:
            _holders.pop(real, None)


def check_system() -> None:
    """Raises: L2AError on a system without POSIX locks, such as Windows, on which this package is not tested."""
    try:
        import fcntl
    except ImportError as error:
        raise L2AError(
            "l2a-transfer runs on POSIX systems such as Linux and macOS, but this one has no module fcntl; on "
            "Windows, use it inside WSL"
        ) from error
    assert fcntl


def _acquire(out: Path, path: Path, argument: str) -> int:
    check_system()
    import fcntl

    while True:
        file = _open_lock_file(path)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(path, file):
                _write_holder(path, file)
                return file
            os.close(file)  # its holder has just removed it
        except StoreError:
            os.close(file)
            raise
        except OSError as error:
            holder = CONTENT.fullmatch(os.pread(file, 64, 0))
            os.close(file)
            if isinstance(error, (BlockingIOError, PermissionError)):
                who = f"process {holder[1].decode()}" if holder else "another process"
                raise OutputExistsError(
                    f"{out}: is being written by {who}", f"wait for it, or choose another `{argument}`"
                ) from error
            raise StoreError(f"{path}: cannot be locked: {error.strerror or error}") from error


def _open_lock_file(path: Path) -> int:
    """Open the lock file, or create it. Links and files with other names are rejected."""
    try:
        with suppress(FileNotFoundError):
            _check_lock(path, os.lstat(path))  # opening some devices has side effects
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        file = os.open(path, flags, 0o666)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        _check_lock(path, os.fstat(file))
    except StoreError:
        os.close(file)
        raise
    return file


def _check_lock(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path}: is {kind_of(found.st_mode)}, not a lock", "remove it, or choose another `out`")
    if found.st_nlink > 1:
        raise StoreError(
            f"{path}: is a file with another name (a hard link), not a lock", "remove it, or choose another `out`"
        )


def _write_holder(path: Path, file: int) -> None:
    """Write the id of this process into the lock file. Raises: StoreError for a file of another program."""
    content = os.pread(file, 64, 0)
    if content and not CONTENT.fullmatch(content):
        raise StoreError(f"{path}: a file of another program, not a lock", "move it, or choose another `out`")
    with suppress(OSError):  # the lock works without it, for example on a full disk
        os.ftruncate(file, 0)
        os.pwrite(file, f"l2a-transfer {os.getpid()}\n".encode(), 0)


def _is_same_file(path: Path, file: int) -> bool:
    try:
        named = path.lstat()
    except OSError:
        return False
    opened = os.fstat(file)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
