"""Writes files completely or not at all. Every file that this package writes is written here."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from l2a_transfer.errors import Interrupted, OutputExistsError, StoreError, wrong_kind
from l2a_transfer.inputs import special_kind

ARCHIVES = (".7z", ".gz", ".tar", ".tgz", ".zip")
ARRAYS = (".arrow", ".feather", ".h5", ".hdf5", ".mat", ".npy", ".npz", ".parquet", ".pickle", ".pkl")
DOCUMENTS = (".doc", ".docx", ".htm", ".html", ".md", ".pdf", ".txt", ".xls", ".xlsx")
IMAGES = (".avi", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".svg", ".tif", ".tiff", ".webp")
RECORDS = (".csv", ".db", ".json", ".jsonl", ".py", ".sqlite", ".toml", ".tsv", ".xml", ".yaml", ".yml")
WEIGHTS = (".onnx", ".pt", ".pth", ".safetensors")
FORMATS = frozenset((*ARCHIVES, *ARRAYS, *DOCUMENTS, *IMAGES, *RECORDS, *WEIGHTS))
"""Suffixes that name a file format."""
MAX_NAME_BYTES, MAX_LIST_BYTES = 255, 1 << 24
PARTIAL = re.compile(r"(.*)\.[0-9a-f]{12}\.partial", re.DOTALL)
"""The name of a partial file: the name of its output and twelve random digits."""
PARTIAL_FOLDER = ".l2a-transfer"
"""The beginning of the name of a folder of partial files."""
MOVED_LIST = ".moved.json"
"""Inside such a folder: the names of all its files, written just before the first one is moved."""
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems that cannot sync a folder, such as some network drives."""


def names_a_format(path: Path) -> bool:
    """Whether a name ends in the suffix of a file format, such as .csv."""
    return path.suffix.lower() in FORMATS


def check_replaceable(path: Path) -> None:
    """Check that `path` can be replaced: it does not exist, or is a regular file.

    A link is rejected, because replacing it would not change the file to which it points.

    Raises
    ------
    OutputExistsError
        If `path` is a link, a folder, a pipe, a socket or a device.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise OutputExistsError(
            f"{path}: is {kind_of(mode)}, but only a regular file can be overwritten", "choose another `out`"
        )


def kind_of(mode: int) -> str:
    """The kind of file in a mode that is not a regular file: `a folder`, `a pipe`, …"""
    other = "a symbolic link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "not a file"
    return special_kind(mode) or other


def is_there(path: Path) -> bool:
    """Whether anything has this name, including a broken link."""
    return os.path.lexists(path)


def output_path(out: str | Path) -> Path:
    """The path of an output. Raises: TypeError if `out` is not a path."""
    if not isinstance(out, (str, os.PathLike)):
        raise wrong_kind("out", "a path, such as 'out/features.h5'", out)
    return Path(out)


def check_folder(out: Path, what: str) -> None:
    """Raises: OutputExistsError if `out`, the folder for `what`, exists and is not a folder."""
    if is_there(out) and not out.is_dir():
        kind = "a file" if out.exists() else "a link to nothing"
        raise OutputExistsError(f"{out}: is {kind}, but {what} needs a folder", "choose another `out`")


def check_free(path: Path, *, overwrite: bool, what: str = "it", replaced: Collection[str] = ()) -> None:
    """Raises: OutputExistsError if `path` is not a regular file, or exists and may not be replaced.

    It may be replaced with `overwrite`, or if its name is one of `replaced`, which an interrupted process has left (see
    `leftovers`). `what` is what `overwrite` would replace.
    """
    check_replaceable(path)
    if is_there(path) and not overwrite and path.name not in replaced:
        raise OutputExistsError(f"{path}: exists", f"`overwrite=True` replaces {what}, or choose another `out`")


def check_own_folder(path: Path) -> None:
    """Raises: StoreError if `path` exists and is a link, not a folder, or another user's.

    The content of such a folder is trusted later, and deleted by name.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{path}: not a folder, but a folder is needed there", "remove it, or choose another `out`")
    if found.st_uid != os.geteuid():
        raise StoreError(f"{path}: belongs to another user (uid {found.st_uid})", "choose another `out`")


@contextmanager
def replacing(path: Path, *, buffering: int = -1) -> Iterator[Any]:
    """A new binary file for reading and writing, which replaces `path` when the block ends without an error.

    The file is written under a random name in the same folder, synced and renamed; the folder is synced too. Until
    then, and after an error or Ctrl-C, `path` is unchanged.

    Raises
    ------
    OutputExistsError
        If `path` exists and is not a regular file.
    OSError
        If writing to the disk fails. The error names `path`.
    """
    check_replaceable(path)
    partial = _partial_path(path)
    with _errors_about(path, partial):
        try:
            file = _open_new(partial, buffering)
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
            finally:
                with suppress(OSError):  # the same error was raised above
                    file.close()
            check_replaceable(path)
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Create an empty partial file for `path` and delete it. Raises: OSError that names `path` if that fails."""
    partial = _partial_path(path)
    with _errors_about(path, partial):
        _open_new(partial).close()
        partial.unlink()


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file, or leave `path` unchanged after an error. Raises: same as `replacing`."""
    with replacing(path) as file:
        file.write(content)


class Put(Protocol):
    """Writes one of several files; with `moved_last` it is moved after all others."""

    def __call__(self, name: str, content: bytes, *, moved_last: bool = False) -> None: ...


@contextmanager
def replacing_all(folder: Path) -> Iterator[Put]:
    """Replace several files of a folder together. The block gets a function that takes a name and its content.

    A name may contain folders, such as `a/b.png`; these are created, and must not be links.
    All files are first written to a folder of partial files. They are moved when the block ends, the first one last.
    A file that was given with `moved_last=True` counts as the first one.
    The caller must hold the lock of `folder`. A process that is killed while it moves files leaves a list of them for
    `leftovers`. Raises: same as `replacing`.
    """
    aside = folder / f"{PARTIAL_FOLDER}.{uuid.uuid4().hex[:12]}.partial"
    names: list[str] = []
    moving = False

    def put(name: str, content: bytes, *, moved_last: bool = False) -> None:
        _check_below(folder, name)
        with _errors_about(folder / name, aside / name):
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            _write(aside / name, content)
        names.insert(0 if moved_last else len(names), name)

    earlier = list(_partial_folders(folder))
    for path in earlier:
        if _moved_names(path) is None:  # its process was killed before it moved anything
            shutil.rmtree(path, ignore_errors=True)
    try:
        with _errors_about(folder, aside):
            aside.mkdir()
        yield put
        for name in names:
            _check_below(folder, name)
        with _errors_about(folder, aside / MOVED_LIST):
            _write(aside / MOVED_LIST, json.dumps(names).encode())
        moving = True
        for name in reversed(names):
            with _errors_about(folder / name, aside / name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(aside / name, folder / name)
        for below in sorted({(folder / name).parent for name in names} | {folder}, reverse=True):
            _sync_folder(below)
    except BaseException:
        if not moving:
            shutil.rmtree(aside, ignore_errors=True)
        raise
    for path in (aside, *earlier):
        shutil.rmtree(path, ignore_errors=True)


def _check_below(folder: Path, name: str) -> None:
    """Raises: OutputExistsError if `name` is not a regular file, or if a link on the way leads out of `folder`."""
    for part in [*Path(name).parents][-2::-1]:
        path = folder / part
        if is_there(path) and not stat.S_ISDIR(mode := path.lstat().st_mode):
            kind = "a file" if stat.S_ISREG(mode) else kind_of(mode)
            raise OutputExistsError(f"{path}: is {kind}, but a folder is needed there", "choose another `out`")
    check_replaceable(folder / name)


@contextmanager
def said_if_complete(last: Path, what: str) -> Iterator[None]:
    """After Ctrl-C in this block, report that `what` is complete if its last file, `last`, was written.

    Raises
    ------
    Interrupted
        A KeyboardInterrupt with that message.
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
    """Names of files that an interrupted `replacing_all` has moved, if some of its files were not moved."""
    found: set[str] = set()
    for aside in _partial_folders(folder):
        names = _moved_names(aside) or []
        waiting = [name for name in names if is_there(aside / name)]
        found |= set(names) - set(waiting) if waiting else set()
    return found


def remove_leftovers(*paths: Path) -> None:
    """Delete the partial files that killed processes have left for `paths`. The caller must hold the output's lock."""
    for folder in {path.parent for path in paths}:
        stems = {_shortened_name(path) for path in paths if path.parent == folder}
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                named = PARTIAL.fullmatch(entry.name)
                if named and named[1] in stems and entry.is_file(follow_symlinks=False):
                    os.unlink(entry.path)


def _partial_folders(folder: Path) -> Iterator[Path]:
    """The folders of partial files in `folder` that belong to this user."""
    for path in folder.glob(f"{PARTIAL_FOLDER}.*.partial"):
        named = PARTIAL.fullmatch(path.name)
        with suppress(FileNotFoundError):  # its process has just deleted it
            found = path.lstat()
            if named and named[1] == PARTIAL_FOLDER and stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                yield path


def _moved_names(aside: Path) -> list[str] | None:
    """The names of the files that a process was moving; None if it had not started to."""
    try:
        with open(aside / MOVED_LIST, "rb", opener=_open_no_follow) as file:
            found = json.loads(file.read(MAX_LIST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else None


def _shortened_name(path: Path) -> str:
    """The name of a file, shortened so that the suffix of a partial file fits."""
    return os.fsencode(path.name)[: MAX_NAME_BYTES - len(".123456789012.partial")].decode("utf-8", "ignore")


def _partial_path(path: Path) -> Path:
    return path.with_name(f"{_shortened_name(path)}.{uuid.uuid4().hex[:12]}.partial")


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending, or create it. Raises: OutputExistsError if it is not a regular file; OSError."""
    check_replaceable(path)
    return cast(BinaryIO, open(path, "ab", opener=_open_no_follow))


def _write(path: Path, content: bytes) -> None:
    """Write a new file and sync it."""
    with _open_new(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _open_new(path: Path, buffering: int = -1) -> Any:
    return open(path, "x+b", buffering, opener=_open_no_follow)


def _open_no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


@contextmanager
def _errors_about(path: Path, partial: Path) -> Iterator[None]:
    """Make disk errors about `partial` name `path` instead, which the user knows."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, if the file system can."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a folder can be writable but not readable
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(opened)
