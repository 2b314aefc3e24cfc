"""Which folders of an image folder are splits: decided by their names if that is clear, otherwise by the caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from l2a_transfer.data.names import split_named, split_within
from l2a_transfer.errors import DataError, unknown_name

SPLITS_FROM = ("auto", "folders", "none")
"""`folders`: each first-level folder is a split; `none`: no folder is; `auto`: their names decide."""
CHOOSE = "`split_from='folders'` takes the first folder, `split_from='none'` reads one split"


def check_split_from(split_from: str) -> str:
    """Raises: UnknownNameError."""
    if split_from not in SPLITS_FROM:
        raise unknown_name("split_from", split_from, SPLITS_FROM)
    return split_from


def split_folders(root: Path, folders: Sequence[str], pictures: Sequence[str], split_from: str) -> dict[str, str]:
    """First-level folder → split, for folders that are splits; empty if the folders are classes.

    `folders`: the first-level folders of `root`; `pictures`: POSIX paths below it. If all folders are named after
    splits, they are splits. If names only contain such a word (`birds-train`), they are splits if every picture is in a
    class folder below. Raises: DataError if a folder could be either, naming both interpretations, or if each split has
    a single folder that contains the class folders.
    """
    below = _below(folders, pictures)
    if split_from == "none":
        return {}
    if split_from == "folders":
        if not below:
            raise DataError(
                f"{root}: there are no pictures in folders",
                "`split_from='folders'` needs one folder per split; leave it out",
            )
        return _named(root, pictures, {folder: _split_of(folder, sorted(below)) for folder in below})
    named = {folder: split for folder in folders if (split := split_named(folder))}
    if below and set(below) <= set(named):
        if len(set(named.values())) < len(named):
            raise DataError(f"{root}: the folders {_listed(named)} are the same split; merge them")
        return _named(root, pictures, named)
    if any("/" not in path for path in pictures):
        return {}
    _check_inner_splits(root, below)
    mixed = any("" in inner and len(inner) > 1 for inner in below.values())  # splits do not look like this
    within = {folder: split for folder in below if (split := named.get(folder) or split_within(folder))}
    nested = {folder for folder, inner in below.items() if inner and "" not in inner}
    clear = len(within) == len(below) == len(set(within.values()))
    if clear and nested == set(below):
        return _named(root, pictures, within)
    counts = Counter(name for inner in below.values() for name in inner if name)
    shared = sorted(name for name, count in counts.items() if count > 1)
    # In `cat/images, dog/images` each class has a folder of the same name; in `day/cat, day/dog, night/cat` the
    # second level is the classes.
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
            "choose `split_from='folders'` or `split_from='none'`",
        )
    return {}


def _below(folders: Sequence[str], pictures: Sequence[str]) -> dict[str, set[str]]:
    """First-level folder → its subfolders with pictures, and "" if it has pictures itself."""
    found: dict[str, set[str]] = {folder: set() for folder in folders}
    for path in pictures:
        top, slash, rest = path.partition("/")
        if slash:
            inner, more, _ = rest.partition("/")
            found.setdefault(top, set()).add(inner if more else "")
    return {folder: inner for folder, inner in found.items() if inner}


def _split_of(folder: str, folders: Sequence[str]) -> str:
    """The split in a folder's name if no other folder has the same one; otherwise the folder's name."""
    said = split_named(folder) or split_within(folder)
    others = [split_named(other) or split_within(other) for other in folders if other != folder]
    return said if said and said not in others else folder


def _named(root: Path, pictures: Sequence[str], split_of: dict[str, str]) -> dict[str, str]:
    loose = next((path for path in pictures if "/" not in path), None)
    if loose is not None:
        raise DataError(
            f"{root}: pictures next to the split folders {_listed(split_of)}, such as {loose}; move them away"
        )
    _check_wrappers(root, pictures, split_of)
    return split_of


def _check_wrappers(root: Path, pictures: Sequence[str], split_of: dict[str, str]) -> None:
    """Raises: DataError if a split has a single folder that contains only folders, as in `train/images/CLASS`: the
    inner folders look like the classes, but the outer folder would be read as the only class.
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
                f"{root}: {wrapper[:-1]} is the only folder of its split and contains only folders "
                f"({_listed(classes)}); it would be read as the only class",
                f"if those are the classes, move them up, for example to {folder}/{classes[0]}; if {min(inner)} is a "
                "class, put its pictures into it directly",
            )


def _check_inner_splits(root: Path, below: dict[str, set[str]]) -> None:
    """Raises: DataError if the second-level folders are named after splits."""
    inner = set().union(*below.values()) if below else set()
    if not inner or not all(split_named(name) for name in inner):
        return
    if len(below) == 1:
        (folder,) = below
        raise DataError(
            f"{root}: its only folder with pictures, {folder}, contains the splits {_listed(sorted(inner))}",
            "give that folder instead",
        )
    raise DataError(
        f"{root}: the splits {_listed(sorted(inner))} are inside the folders {_listed(sorted(below))}",
        "put them first, as in train/CLASS, or ignore them with `split_from='none'`",
    )


def _listed(names: Sequence[str] | dict[str, str], most: int = 4) -> str:
    shown = list(names)
    return ", ".join(shown[:most]) + (f", … ({len(shown)} in all)" if len(shown) > most else "")
