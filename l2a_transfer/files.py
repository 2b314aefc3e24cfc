"""Files that are there whole or not at all, and the only place in this package that writes any."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from l2a_transfer.errors import Interrupted, OutputExistsError, StoreError
from l2a_transfer.inputs import special_kind

ARCHIVES = (".7z", ".gz", ".tar", ".tgz", ".zip")
ARRAYS = (".arrow", ".feather", ".h5", ".hdf5", ".mat", ".npy", ".npz", ".parquet", ".pickle", ".pkl")
DOCUMENTS = (".doc", ".docx", ".htm", ".html", ".md", ".pdf", ".txt", ".xls", ".xlsx")
IMAGES = (".avi", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".svg", ".tif", ".tiff", ".webp")
RECORDS = (".csv", ".db", ".json", ".jsonl", ".py", ".sqlite", ".toml", ".tsv", ".xml", ".yaml", ".yml")
WEIGHTS = (".onnx", ".pt", ".pth", ".safetensors")
FORMATS = frozenset((*ARCHIVES, *ARRAYS, *DOCUMENTS, *IMAGES, *RECORDS, *WEIGHTS))
"""Suffixes that name a file format."""
MAX_NAME_BYTES = 255
PARTIAL = re.compile(r"(.*)\.[0-9a-f]{12}\.partial", re.DOTALL)
"""The name of a partial file: that of its output, and twelve digits that no other process draws."""
ASIDE = ".l2a-transfer"
"""What the name of a folder of partial files begins with."""
MOVED = ".moved.json"
"""Inside such a folder: the names of all its files, written when the first of them is about to be moved."""
MAX_LIST_BYTES = 1 << 24
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""What file systems answer that cannot sync a folder, as some network drives."""


def names_a_format(path: Path) -> bool:
    """True where a name ends in a suffix that says what is in the file, as .csv."""
    return path.suffix.lower() in FORMATS


def check_replaceable(path: Path) -> None:
    """Raises: OutputExistsError where `path` is there and not a regular file: a link, folder, pipe, socket or device.

    A link is refused wherever it leads, because replacing it would leave the file that it names as it was.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise OutputExistsError(
            f"{path}: is {kind_of(mode)}, and only a regular file is replaced", "choose another `out`"
        )


def kind_of(mode: int) -> str:
    """What something is that is no regular file, of its mode."""
    other = "a symbolic link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "not a file"
    return special_kind(mode) or other


def is_there(path: Path) -> bool:
    """True where something has this name, a link to nothing included."""
    return os.path.lexists(path)


def check_folder(out: Path, what: str) -> None:
    """Raises: OutputExistsError where `out`, in which `what` is written, is there and is no folder."""
    if is_there(out) and not out.is_dir():
        kind = "a file" if out.exists() else "a link to nothing"
        raise OutputExistsError(f"{out}: is {kind}, and {what} needs a folder", "choose another `out`")


def check_free(path: Path, *, overwrite: bool, what: str = "it", replaced: Collection[str] = ()) -> None:
    """Raises: OutputExistsError where `path` is no regular file, or is there without `overwrite` and is not one of the
    names `replaced`, which an interrupted process left (see `leftovers`)."""
    check_replaceable(path)
    if is_there(path) and not overwrite and path.name not in replaced:
        raise OutputExistsError(f"{path}: exists", f"`overwrite=True` replaces {what}, or choose another `out`")


def check_own_folder(path: Path) -> None:
    """Raises: StoreError where `path` is there and is a link, not a folder, or another user's.

    What is kept in such a folder is believed later, and removed by name.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{path}: not a folder, and one is needed there", "remove it, or choose another `out`")
    if found.st_uid != os.geteuid():
        raise StoreError(f"{path}: belongs to another user (uid {found.st_uid})", "choose another `out`")


@contextmanager
def replacing(path: Path, *, buffering: int = -1) -> Iterator[Any]:
    """A new binary file, open for writing and reading, that takes the place of `path` when the block ends.

    It is written beside `path` under a name of its own, never through a link, synced, and renamed; the folder is synced
    too. `path` is its old self, or not there, until then, and after any error, and Ctrl-C, for good. Raises:
    OutputExistsError where `path` is there and no regular file; OSError, naming `path`, where the disk refuses.
    """
    check_replaceable(path)
    partial = _partial_of(path)
    with _named(path, partial):
        try:
            file = _created(partial, buffering)
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
            finally:
                with suppress(OSError):  # what the disk refuses now, it has refused above
                    file.close()
            check_replaceable(path)
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Write a partial file of `path`, of nothing, and remove it. Raises: OSError, naming `path`, where that fails."""
    partial = _partial_of(path)
    with _named(path, partial):
        _created(partial).close()
        partial.unlink()


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """`path` becomes a file of this content, or stays as it is. Raises: as `replacing`."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing_all(folder: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Files of `folder` that appear together: the block is given a function that takes a name and its content.

    All are written aside first, and moved to their places when the block ends, the first one last. Whoever calls this
    holds the lock of `folder`. A process that is killed while files are moved leaves a list of them, for `leftovers`.
    Raises: as `replacing`.
    """
    aside = folder / f"{ASIDE}.{uuid.uuid4().hex[:12]}.partial"
    names: list[str] = []
    moving = False

    def put(name: str, content: bytes) -> None:
        check_replaceable(folder / name)
        with _named(folder / name, aside / name):
            _write(aside / name, content)
        names.append(name)

    earlier = list(_asides(folder))
    for path in earlier:
        if _names_in(path) is None:  # killed before it moved anything
            shutil.rmtree(path, ignore_errors=True)
    try:
        with _named(folder, aside):
            aside.mkdir()
        yield put
        for name in names:
            check_replaceable(folder / name)
        with _named(folder, aside / MOVED):
            _write(aside / MOVED, json.dumps(names).encode())
        moving = True
        for name in reversed(names):
            with _named(folder / name, aside / name):
                os.replace(aside / name, folder / name)
        _sync_folder(folder)
    except BaseException:
        if not moving:
            shutil.rmtree(aside, ignore_errors=True)
        raise
    for path in (aside, *earlier):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def said_if_complete(last: Path, what: str) -> Iterator[None]:
    """A command that writes `last` after everything else: Ctrl-C once it is there says that `what` is complete.

    Raises: Interrupted, a KeyboardInterrupt.
    """
    before = _identity(last)
    try:
        yield
    except KeyboardInterrupt as stop:
        if _identity(last) in (None, before):
            raise
        raise Interrupted(f"{what} is complete") from stop


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def leftovers(folder: Path) -> set[str]:
    """Names of files that an interrupted `replacing_all` has moved to their places, where others never came."""
    found: set[str] = set()
    for aside in _asides(folder):
        names = _names_in(aside) or []
        waiting = [name for name in names if is_there(aside / name)]
        found |= set(names) - set(waiting) if waiting else set()
    return found


def remove_leftovers(*paths: Path) -> None:
    """Remove the partial files of killed processes that wrote `paths`; for whoever holds the lock of the output."""
    for folder in {path.parent for path in paths}:
        stems = {_stem(path) for path in paths if path.parent == folder}
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                named = PARTIAL.fullmatch(entry.name)
                if named and named[1] in stems and entry.is_file(follow_symlinks=False):
                    os.unlink(entry.path)


def _asides(folder: Path) -> Iterator[Path]:
    """The folders of partial files that processes of this user have left in `folder`."""
    for path in folder.glob(f"{ASIDE}.*.partial"):
        named = PARTIAL.fullmatch(path.name)
        with suppress(FileNotFoundError):  # its process has just removed it
            found = path.lstat()
            if named and named[1] == ASIDE and stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                yield path


def _names_in(aside: Path) -> list[str] | None:
    """The list of files that a process was moving; None where it had not come to that."""
    try:
        with open(aside / MOVED, "rb", opener=_not_a_link) as file:
            found = json.loads(file.read(MAX_LIST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else None


def _stem(path: Path) -> str:
    """The name of a file, cut so that what makes it a partial file's fits behind it."""
    return os.fsencode(path.name)[: MAX_NAME_BYTES - len(".123456789012.partial")].decode("utf-8", "ignore")


def _partial_of(path: Path) -> Path:
    return path.with_name(f"{_stem(path)}.{uuid.uuid4().hex[:12]}.partial")


def open_log(path: Path) -> BinaryIO:
    """A file that lines are added to, made where it is not there. Raises: OutputExistsError for anything but a regular
    file, a link included; OSError."""
    check_replaceable(path)
    return cast(BinaryIO, open(path, "ab", opener=_not_a_link))


def _write(path: Path, content: bytes) -> None:
    """A new file, on disk when this returns."""
    with _created(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _created(path: Path, buffering: int = -1) -> Any:
    return open(path, "x+b", buffering, opener=_not_a_link)


def _not_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


@contextmanager
def _named(path: Path, partial: Path) -> Iterator[None]:
    """What the disk says of `partial`, or of no file, is said of `path`, which the user knows."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sync_folder(folder: Path) -> None:
    """Let a rename outlive a power cut, where the file system can."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a folder may be written and not read
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(opened)
