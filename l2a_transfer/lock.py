"""One process an output: a lock that the system itself lets go of when its process ends, however it ends."""

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
"""The lock of a folder, inside it: the folder above may be another user's."""
CONTENT = re.compile(rb"l2a-transfer (\d+)\n?")
"""What a lock file holds: the process that held it last; nothing where that could not be written."""
TRIES = 10
"""To make a folder and lock it, while other processes make it and remove it again."""

_ours: dict[str, tuple[int, int]] = {}
"""Real path of a lock → the process and the thread that hold it."""
_guard = threading.Lock()


@contextmanager
def output_lock(out: Path, *, argument: str = "out") -> Iterator[None]:
    """Hold `OUT.lock`, of a file `out` (or a folder of which nothing is there yet), while the block runs.

    A POSIX record lock: unlike flock's it does not pass to forked workers, which may live for seconds after their
    parent was killed. The thread that holds a lock may enter it again. Partial files of `out` that a killed process
    left are removed. `argument` is the parameter that errors tell to change.

    Raises: OutputExistsError where another process, or another thread of this one, writes `out`; StoreError where the
    folder cannot be written, or something that is no lock of ours has the lock's name; L2AError on a system without
    POSIX locks.
    """
    with _held(out, out.with_name(out.name + ".lock"), argument) as first:
        if first:
            remove_leftovers(out)
        yield


@contextmanager
def folder_lock(out: Path) -> Iterator[None]:
    """Make the folder `out` where it is not there, and hold its lock while the block runs; all verbs share that one.

    What was made is removed at the end if nothing was put into it. Raises: as `output_lock`; OSError where `out` is
    something other than a folder, or cannot be made.
    """
    with ExitStack() as stack:
        for k in range(TRIES):
            if is_there(out) and not out.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(out))
            made = [path for path in (out, *out.parents) if not path.exists()]
            stack.callback(_remove_if_empty, made)
            try:
                stack.enter_context(_made_and_held(out) if made else _held(out, out / IN_FOLDER))
                break
            except StoreError as error:
                # Another process made the folder, failed, and removed it between our two calls.
                if not isinstance(error.__cause__, FileNotFoundError) or k == TRIES - 1:
                    raise
        yield


@contextmanager
def _made_and_held(out: Path) -> Iterator[None]:
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with output_lock(out):  # against a command that writes a file of this name
            out.mkdir(exist_ok=True)
            stack.enter_context(_held(out, out / IN_FOLDER))
        yield


def _remove_if_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


@contextmanager
def _held(out: Path, path: Path, argument: str = "out") -> Iterator[bool]:
    """Hold the lock at `path`; False where this thread held it already."""
    real = os.path.join(os.path.realpath(path.parent), path.name)
    me = (os.getpid(), threading.get_ident())
    with _guard:
        holder = _ours.get(real)
        again = holder == me
        if holder and holder[0] == me[0] and not again:
            raise OutputExistsError(f"{out}: is being written by another thread of this process; wait for it")
        _ours[real] = me
    if again:
        yield False
        return
    try:
        file = _locked(out, path, argument)
        try:
            yield True
        finally:
            if os.getpid() == me[0] and _is_still(path, file):
                with suppress(OSError):
                    path.unlink()  # before the lock goes, so that nobody holds a lock on a name that is gone
            os.close(file)
    finally:
        with _guard:
            _ours.pop(real, None)


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


def _locked(out: Path, path: Path, argument: str) -> int:
    check_system()
    import fcntl

    while True:
        file = _opened(path)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, file):
                _sign(path, file)
                return file
            os.close(file)  # its holder removed it between our two calls
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


def _opened(path: Path) -> int:
    """The lock file, made where it is not there; never through a link, nor of another name of someone's file."""
    try:
        with suppress(FileNotFoundError):
            _check_lock(path, os.lstat(path))  # some devices act when they are opened
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


def _sign(path: Path, file: int) -> None:
    """Write down who holds the lock. Raises: StoreError for a file of another program."""
    content = os.pread(file, 64, 0)
    if content and not CONTENT.fullmatch(content):
        raise StoreError(f"{path}: a file of another program, not a lock", "move it, or choose another `out`")
    with suppress(OSError):  # on a full disk the lock works without
        os.ftruncate(file, 0)
        os.pwrite(file, f"l2a-transfer {os.getpid()}\n".encode(), 0)


def _is_still(path: Path, file: int) -> bool:
    try:
        named = path.lstat()
    except OSError:
        return False
    opened = os.fstat(file)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
