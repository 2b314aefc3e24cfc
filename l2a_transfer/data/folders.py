"""Image folders, with or without split folders and class folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from l2a_transfer.data.decode import OTHER_PICTURES, SUFFIXES
from l2a_transfer.data.layout import split_folders
from l2a_transfer.data.names import check_split_count, class_name, in_order, is_litter
from l2a_transfer.data.reading import PassedOver, Reading, Tally
from l2a_transfer.data.registry import FORMAT_OPTIONS, register_format
from l2a_transfer.data.sources import FileSource
from l2a_transfer.data.walk import walk_folders
from l2a_transfer.errors import DataError

PUT = f"put some there ({', '.join(SUFFIXES)})"


@register_format("imagefolder", takes="PATH", example="photos", options=FORMAT_OPTIONS)
def read_imagefolder(where: str, *, split_from: str = "auto", by_content: bool = False) -> FileSource:
    """Pictures in one folder per class, as found by `read_folder`. The set is named after the folder."""
    root = Path(where)
    return read_folder(root, f"imagefolder:{root.resolve().name}", split_from=split_from, by_content=by_content)


def read_folder(
    root: Path, name: str, *, split_from: str = "auto", without: Iterable[str] = (), by_content: bool = False
) -> FileSource:
    """The pictures below `root`, sorted by path (case-sensitively).

    `root/CLASS/…`: labelled, one split "all". `root/{train,val,test}/CLASS/…`: labelled, with these splits;
    `split_folders` decides which folders are splits. Pictures directly in the root or in a split folder have the label
    −1. Folders named in `without` are left out; other files are counted. Raises: DataError for a missing or empty
    folder, a class folder without pictures, pictures both next to and in class folders, or folders that could be splits
    or classes.
    """
    skipped = set(without)
    files, passed_over = find_pictures(root, without=skipped)
    if not files:
        raise DataError(f"{root}: no pictures in it{_instead(passed_over)}; {PUT}")
    folders = sorted(f for f in _folders(root) if f not in skipped)
    split_of = split_folders(root, folders, files, split_from)
    _check_classes(root, split_of or [""], files, skipped)
    depth = 1 if split_of else 0
    splits = in_order(set(split_of.values())) or ("all",)
    check_split_count(root, splits)

    def class_of(path: str) -> str | None:
        parts = path.split("/", depth + 1)
        return class_name(parts[depth]) if len(parts) > depth + 1 else None

    def split_index(path: str) -> int:
        return splits.index(split_of[_first(path)]) if split_of else 0

    classes = tuple(sorted({found for p in files if (found := class_of(p)) is not None}))
    index = {name: k for k, name in enumerate(classes)} | {None: -1}
    # Sorted by folder, then by name: the separator sorts before any character of a name.
    files.sort(key=lambda p: (split_index(p), p.replace("/", "\0")))
    return FileSource(
        name=name,
        classes=classes,
        splits=splits,
        ids=tuple(files),
        labels=np.array([index[class_of(p)] for p in files], dtype=np.int32),
        split=np.array([split_index(p) for p in files], dtype=np.uint8),
        root=root,
        by_content=by_content,
        reading=Reading(_splits_from(split_of), passed_over),
    )


def _splits_from(split_of: dict[str, str]) -> str:
    if not split_of:
        return "no split folders: one split"
    return "folders " + ", ".join(f"{folder} → {split}" for folder, split in split_of.items())


def _instead(passed_over: PassedOver) -> str:
    return f" that can be read; passed over: {passed_over}" if passed_over.files else ""


def _first(path: str) -> str:
    """The first part of a path: the first-level folder of a picture, or its own name."""
    return path.partition("/")[0]


def find_pictures(root: Path, *, without: Iterable[str] = ()) -> tuple[list[str], PassedOver]:
    """All pictures below `root`, as POSIX paths relative to it in no particular order, and the other files.

    First-level folders named in `without` are skipped. Hidden files and files that systems leave behind are ignored.
    Links to folders are followed, each folder once. Raises: DataError if `root` is missing or not a folder, or if a
    picture's name is not UTF-8.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: {'not a folder' if root.exists() else 'no such folder'}; expected a folder with one "
            "subfolder of pictures per class"
        )
    found: list[str] = []  # str, because a hundred thousand Path objects would take more memory than the extraction
    others = Tally(OTHER_PICTURES)
    for folder, names in _walk(root, without):
        here = Path(folder).relative_to(root).as_posix()
        for name in names:
            if is_litter(name):
                continue
            path = name if here == "." else f"{here}/{name}"
            if not name.lower().endswith(SUFFIXES):
                others.add(os.fsencode(path).decode(errors="replace"))
                continue
            if any("\ud800" <= c <= "\udfff" for c in path):
                raise DataError(f"{os.fsencode(path)!r} in {root}: the name is not UTF-8; rename the file")
            found.append(path)
    return found, others.result()


def _walk(root: Path, without: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    skipped = [os.fspath(root / folder) for folder in without]
    try:
        yield from walk_folders(root, enter=lambda name: not is_litter(name), without=skipped)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}; check its permissions") from error


def _folders(root: Path) -> list[str]:
    return [p.name for p in root.iterdir() if p.is_dir() and not is_litter(p.name)]


def _check_classes(root: Path, parents: Iterable[str], files: list[str], skipped: set[str]) -> None:
    """Check that below each parent either all pictures are in class folders, none of them empty, or none are."""
    for parent in parents:
        below = [p.removeprefix(f"{parent}/") for p in files if not parent or _first(p) == parent]
        folders = set(_folders(root / parent)) - (skipped if not parent else set())
        loose = [p for p in below if "/" not in p]
        with_pictures = {_first(p) for p in below if "/" in p}
        if not below:
            raise DataError(f"{root / parent}: no pictures in it; {PUT}")
        if loose and with_pictures:
            raise DataError(
                f"{root / parent}: pictures both next to and in class folders, such as {loose[0]} and "
                f"{min(with_pictures)}/; put every picture into the folder of its class"
            )
        if with_pictures and folders - with_pictures:
            empty = root / parent / min(folders - with_pictures)
            raise DataError(
                f"{empty}: a class folder without pictures{_instead(find_pictures(empty)[1])}; {PUT}, or remove it"
            )
