"""Folders of pictures: with or without split folders, with or without class folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

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
    files = [p for p in find_pictures(root) if _first(p) not in skipped]
    if not files:
        raise DataError(f"{root}: no pictures in it; {PUT}")
    folders = sorted(f for f in _folders(root) if f not in skipped)
    split_of = {folder: SPLIT_FOLDERS[folder] for folder in folders if folder in SPLIT_FOLDERS}
    if folders and set(folders) == set(split_of):
        if len(set(split_of.values())) < len(split_of):
            raise DataError(f"{root}: the folders {', '.join(sorted(split_of))} are the same split twice")
        if any("/" not in p for p in files):
            raise DataError(f"{root}: pictures beside the split folders {', '.join(sorted(split_of))}; move them away")
        _check_classes(root, folders, files, skipped)
    else:
        split_of = {}
        _check_classes(root, [""], files, skipped)
    depth = 1 if split_of else 0
    splits = tuple(s for s in ("train", "val", "test") if s in split_of.values()) or ("all",)

    def class_of(path: str) -> str | None:
        parts = path.split("/", depth + 1)
        return parts[depth] if len(parts) > depth + 1 else None

    def split_index(path: str) -> int:
        return splits.index(split_of[_first(path)]) if split_of else 0

    classes = tuple(sorted({found for p in files if (found := class_of(p)) is not None}))
    index = {name: k for k, name in enumerate(classes)} | {None: -1}
    # By folder, then by name: the separator before any character of a name.
    files.sort(key=lambda p: (split_index(p), p.replace("/", "\0")))
    return FileSource(
        name=name,
        classes=classes,
        splits=splits,
        ids=tuple(files),
        labels=np.array([index[class_of(p)] for p in files], dtype=np.int32),
        split=np.array([split_index(p) for p in files], dtype=np.uint8),
        root=root,
    )


def _first(path: str) -> str:
    """The first part of a path: the folder of the root that a picture is in, or its own name."""
    return path.partition("/")[0]


def find_pictures(root: Path) -> list[str]:
    """Every picture below `root`, as POSIX paths relative to it, in no order.

    Links to folders are followed, each folder once. Raises: DataError where `root` is missing or not a folder, or where
    a name is not UTF-8.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: {'not a folder' if root.exists() else 'no such folder'}; expected one with a sub-folder of "
            "pictures for each class"
        )
    found: list[str] = []  # text: a hundred thousand Path objects would take more memory than the extraction
    visited = set()
    for folder, below, names in os.walk(root, followlinks=True, onerror=_refused):
        real = os.path.realpath(folder)
        if real in visited:
            below.clear()
            continue
        visited.add(real)
        below[:] = sorted(f for f in below if not f.startswith("."))
        here = Path(folder).relative_to(root).as_posix()
        for name in names:
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                path = name if here == "." else f"{here}/{name}"
                if any("\ud800" <= c <= "\udfff" for c in path):
                    raise DataError(f"{os.fsencode(path)!r} in {root}: the name is not UTF-8; rename the file")
                found.append(path)
    return found


def _refused(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}; check who may use it") from error


def _folders(root: Path) -> list[str]:
    return [p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]


def _check_classes(root: Path, parents: Iterable[str], files: list[str], skipped: set[str]) -> None:
    """Below each parent, pictures are either all in class folders, none of which is empty, or in none."""
    for parent in parents:
        below = [p.removeprefix(f"{parent}/") for p in files if not parent or _first(p) == parent]
        folders = set(_folders(root / parent)) - (skipped if not parent else set())
        loose = [p for p in below if "/" not in p]
        with_pictures = {_first(p) for p in below if "/" in p}
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
