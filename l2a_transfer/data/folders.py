"""Folders of pictures: with or without split folders, with or without class folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from l2a_transfer.data.decode import SUFFIXES
from l2a_transfer.data.sources import FileSource
from l2a_transfer.errors import DataError

SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
"""Folder names that are splits where every folder of the root is one of them, and the split's name."""
PUT = f"put some there ({', '.join(SUFFIXES)})"


def read_folder(root: Path, name: str, *, without: Iterable[str] = ()) -> FileSource:
    """The pictures below `root`, ordered by path, case and all.

    `root/CLASS/…`: labelled, one split "all". `root/{train,val,test}/CLASS/…`: labelled, those splits. Pictures
    directly in the root or in a split folder: label −1. Folders named in `without` are left out; files that are no
    pictures, and names that start with a dot, are passed over. Raises: DataError for a missing or empty folder, a
    class folder without pictures, and pictures both beside and in class folders.
    """
    skipped = set(without)
    files = [p for p in find_pictures(root) if p.parts[0] not in skipped]
    if not files:
        raise DataError(f"{root}: no pictures in it; {PUT}")
    folders = sorted(f for f in _folders(root) if f not in skipped)
    split_of = {folder: SPLIT_FOLDERS[folder] for folder in folders if folder in SPLIT_FOLDERS}
    if folders and set(folders) == set(split_of):
        if len(set(split_of.values())) < len(split_of):
            raise DataError(f"{root}: the folders {', '.join(sorted(split_of))} are the same split twice")
        if any(len(p.parts) == 1 for p in files):
            raise DataError(f"{root}: pictures beside the split folders {', '.join(sorted(split_of))}; move them away")
        _check_classes(root, folders, files, skipped)
    else:
        split_of = {}
        _check_classes(root, [""], files, skipped)
    depth = 1 if split_of else 0
    splits = tuple(s for s in ("train", "val", "test") if s in split_of.values()) or ("all",)
    classes = tuple(sorted({p.parts[depth] for p in files if len(p.parts) > depth + 1}))
    index = {name: k for k, name in enumerate(classes)}
    rows = sorted(files, key=lambda p: (splits.index(split_of[p.parts[0]]) if split_of else 0, p.parts))
    return FileSource(
        name=name,
        classes=classes,
        splits=splits,
        ids=tuple(p.as_posix() for p in rows),
        labels=np.array([index[p.parts[depth]] if len(p.parts) > depth + 1 else -1 for p in rows], dtype=np.int32),
        split=np.array([splits.index(split_of[p.parts[0]]) if split_of else 0 for p in rows], dtype=np.uint8),
        root=root,
    )


def find_pictures(root: Path) -> list[PurePosixPath]:
    """Every picture below `root`, as paths relative to it. Links to folders are followed, each folder once.

    Raises: DataError where `root` is missing or not a folder, or a name is not UTF-8.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: {'not a folder' if root.exists() else 'no such folder'}; expected one with a sub-folder of "
            "pictures for each class"
        )
    found, visited = [], set()
    for folder, below, names in os.walk(root, followlinks=True, onerror=_refused):
        real = os.path.realpath(folder)
        if real in visited:
            below.clear()
            continue
        visited.add(real)
        below[:] = sorted(f for f in below if not f.startswith("."))
        for name in names:
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                path = PurePosixPath(Path(folder, name).relative_to(root).as_posix())
                if any("\ud800" <= c <= "\udfff" for c in str(path)):
                    raise DataError(f"{os.fsencode(str(path))!r} in {root}: the name is not UTF-8; rename the file")
                found.append(path)
    return found


def _refused(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}; check who may use it") from error


def _folders(root: Path) -> list[str]:
    return [p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]


def _check_classes(root: Path, parents: Iterable[str], files: list[PurePosixPath], skipped: set[str]) -> None:
    """Below each parent, pictures are either all in class folders, none of which is empty, or in none."""
    for parent in parents:
        below = [p.relative_to(parent) for p in files if not parent or p.parts[0] == parent]
        folders = set(_folders(root / parent)) - (skipped if not parent else set())
        loose = [p for p in below if len(p.parts) == 1]
        with_pictures = {p.parts[0] for p in below if len(p.parts) > 1}
        if not below:
            raise DataError(f"{root / parent}: no pictures in it; {PUT}")
        if loose and with_pictures:
            raise DataError(
                f"{root / parent}: pictures both beside and in class folders, as {loose[0]} and {min(with_pictures)}/; "
                "put every picture into the folder of its class"
            )
        if with_pictures and folders - with_pictures:
            raise DataError(
                f"{root / parent / min(folders - with_pictures)}: a class folder without pictures; {PUT}, or remove it"
            )
