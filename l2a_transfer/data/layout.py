"""Which folders of an image folder are splits: by their names where that is clear, else as the caller says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from l2a_transfer.data.names import split_named, split_within
from l2a_transfer.errors import DataError, unknown_name

SPLITS_FROM = ("auto", "folders", "none")
"""`folders`: each first-level folder is a split; `none`: no folder is; `auto`: as their names say."""
CHOOSE = "`split_from='folders'` takes the first folder, `split_from='none'` reads one split"


def check_split_from(split_from: str) -> str:
    """Raises: UnknownNameError."""
    if split_from not in SPLITS_FROM:
        raise unknown_name("split_from", split_from, SPLITS_FROM)
    return split_from


def split_folders(root: Path, folders: Sequence[str], pictures: Sequence[str], split_from: str) -> dict[str, str]:
    """First-level folder → split, of the folders that are splits; empty if the folders are classes.

    `folders`: the first-level folders of `root`; `pictures`: POSIX paths below it. Folders that are called as splits,
    all of them, are splits. Names that only contain such a word, as `birds-train`, are splits where every picture lies
    in a class folder below. Raises: DataError if a folder could be both, with the two readings, and where splits
    hold one folder each, and only that one the class folders.
    """
    below = _below(folders, pictures)
    if split_from == "none":
        return {}
    if split_from == "folders":
        if not below:
            raise DataError(
                f"{root}: there are no pictures in folders",
                "`split_from='folders'` needs a folder a split; leave it out",
            )
        return _named(root, pictures, {folder: _split_of(folder, sorted(below)) for folder in below})
    named = {folder: split for folder in folders if (split := split_named(folder))}
    if below and set(below) <= set(named):
        if len(set(named.values())) < len(named):
            raise DataError(f"{root}: the folders {_listed(named)} are the same split twice; join them")
        return _named(root, pictures, named)
    if any("/" not in path for path in pictures):
        return {}
    _check_inner_splits(root, below)
    mixed = any("" in inner and len(inner) > 1 for inner in below.values())  # no split is so
    within = {folder: split for folder in below if (split := named.get(folder) or split_within(folder))}
    nested = {folder for folder, inner in below.items() if inner and "" not in inner}
    clear = len(within) == len(below) == len(set(within.values()))
    if clear and nested == set(below):
        return _named(root, pictures, within)
    counts = Counter(name for inner in below.values() for name in inner if name)
    shared = sorted(name for name, count in counts.items() if count > 1)
    # `cat/images, dog/images` has a folder of one name in each class; `day/cat, day/dog, night/cat` has classes there.
    several = any(len(inner) > 1 and not inner.isdisjoint(shared) for inner in below.values())
    if (
        (several and not mixed)
        or nested & set(within)
        or len(within) == len(below) > 1
        or len({named[folder] for folder in below if folder in named}) > 1
    ):
        inner = (
            f", and {_listed([*shared, *sorted(set(counts) - set(shared))])} below them the classes" if counts else ""
        )
        raise DataError(
            f"{root}: can be read in two ways: the folders {_listed(sorted(below))} are splits{inner}; or they are "
            "the classes, in one split",
            "say which: `split_from='folders'` or `split_from='none'`",
        )
    return {}


def _below(folders: Sequence[str], pictures: Sequence[str]) -> dict[str, set[str]]:
    """First-level folder → the folders in it that have pictures, and "" where pictures lie in it directly."""
    found: dict[str, set[str]] = {folder: set() for folder in folders}
    for path in pictures:
        top, slash, rest = path.partition("/")
        if slash:
            inner, more, _ = rest.partition("/")
            found.setdefault(top, set()).add(inner if more else "")
    return {folder: inner for folder, inner in found.items() if inner}


def _split_of(folder: str, folders: Sequence[str]) -> str:
    """The split that a folder's name says, where no other folder says the same; else its name."""
    said = split_named(folder) or split_within(folder)
    others = [split_named(other) or split_within(other) for other in folders if other != folder]
    return said if said and said not in others else folder


def _named(root: Path, pictures: Sequence[str], split_of: dict[str, str]) -> dict[str, str]:
    loose = next((path for path in pictures if "/" not in path), None)
    if loose is not None:
        raise DataError(f"{root}: pictures beside the split folders {_listed(split_of)}, as {loose}; move them away")
    _check_wrappers(root, pictures, split_of)
    return split_of


def _check_wrappers(root: Path, pictures: Sequence[str], split_of: dict[str, str]) -> None:
    """Raises: DataError if a split's only folder holds folders alone: those look like the classes, as in
    `train/images/CLASS`, and the folder around them would be taken for the one class.
    """
    below = _below(list(split_of), pictures)
    if any(len(inner - {""}) > 1 for inner in below.values()):
        return
    for folder, inner in below.items():
        if "" in inner:
            continue
        wrapper = f"{folder}/{min(inner)}/"
        deeper = [path[len(wrapper) :] for path in pictures if path.startswith(wrapper)]
        if all("/" in path for path in deeper):
            classes = sorted({path.partition("/")[0] for path in deeper})
            raise DataError(
                f"{root}: {wrapper[:-1]} is the only folder of its split, and holds folders alone "
                f"({_listed(classes)}); it would be the one class",
                f"where those are the classes, move them up, as {folder}/{classes[0]}; where {min(inner)} is a class, "
                "put its pictures into it directly",
            )


def _check_inner_splits(root: Path, below: dict[str, set[str]]) -> None:
    """Raises: DataError if it is the folders of the second level that are called as splits."""
    inner = set().union(*below.values()) if below else set()
    if not inner or not all(split_named(name) for name in inner):
        return
    if len(below) == 1:
        (folder,) = below
        raise DataError(
            f"{root}: its only folder with pictures, {folder}, holds the splits {_listed(sorted(inner))}",
            "give that folder",
        )
    raise DataError(
        f"{root}: the splits {_listed(sorted(inner))} lie inside of the folders {_listed(sorted(below))}",
        "put them first, as train/CLASS, or leave them unused by `split_from='none'`",
    )


def _listed(names: Sequence[str] | dict[str, str], most: int = 4) -> str:
    shown = list(names)
    return ", ".join(shown[:most]) + (f", … ({len(shown)} in all)" if len(shown) > most else "")
