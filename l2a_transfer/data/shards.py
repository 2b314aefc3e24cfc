"""Find the files that match a pattern, and the split of each."""

from __future__ import annotations

import glob
import itertools
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from l2a_transfer.data.layout import CHOOSE
from l2a_transfer.data.names import (
    HIVE,
    check_split_count,
    in_order,
    is_litter,
    split_named,
    split_within,
)
from l2a_transfer.data.reading import SHOWN, PassedOver, Reading, Tally
from l2a_transfer.data.shard_io import Shard, filesystem, is_folder, is_remote, reading_errors, size_and_stamp
from l2a_transfer.data.walk import walk_folders
from l2a_transfer.errors import DataError

MAX_SHARDS = 100_000
CLASSES = "classes.txt"
"""A file next to the shards with the names of their classes."""
BRACES = re.compile(r"\{([^{}]*)\}")
NUMBERS = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
MAX_BRACES = 32


@dataclass(frozen=True)
class ShardSet:
    """The sorted files of a set, and how they were read: where their splits come from, and ignored files."""

    shards: tuple[Shard, ...]
    reading: Reading


def find_shards(where: str, suffix: str, split_from: str = "auto") -> ShardSet:
    """The files that match a pattern, sorted by split and then by name.

    Parameters
    ----------
    where : str
        A file, a folder with such files below it, a glob, or braces as in `shard-{000..003}.tar` and
        `{train,test}.tar`; a path, or a URL that fsspec opens.
    suffix : str
        Suffix of the files.
    split_from : {"auto", "folders", "none"}
        "auto": the word for a split in the name of a file, or of a folder below the root; if there is none, all files
        are in the split "all". "folders": the first folder below the root. "none": one split.

    Returns
    -------
    ShardSet
        The files, and how they were found.

    Raises
    ------
    DataError
        If a file is missing, if there are none, if only some have a split, or if words for splits contradict each
        other.
    MissingExtraError
        If a URL is given and fsspec is not installed.
    """
    literal, pattern = _literal(where)
    if pattern.count("{") > MAX_BRACES:
        raise DataError(f"{where}: has more than {MAX_BRACES} braces; give a folder or a glob")
    expanded = list(itertools.islice(_expand(pattern), MAX_SHARDS + 1))
    if len(expanded) > MAX_SHARDS:
        raise DataError(f"{where}: lists more than {MAX_SHARDS:,} files; give a folder or a glob")
    whole_folder = len(expanded) == 1 and is_folder(where)
    others = PassedOver()
    if whole_folder:
        paths, others = _below(where, suffix)
    else:
        paths = [path for text in expanded for path in _matches(literal, text)]
    if not paths:
        beside = f"; passed over: {others}" if others.files else ""
        raise DataError(
            f"{where}: no {suffix} file in it; give a file, a folder, a glob, or braces such as {{000..003}}{beside}"
        )
    if len(paths) > MAX_SHARDS or len(set(paths)) < len(paths):
        raise DataError(f"{where}: lists a file twice, or more than {MAX_SHARDS:,} files")
    root = where.rstrip("/") if whole_folder else _common([path.split("/")[:-1] for path in paths])
    names = {path: path[len(root) :].lstrip("/") for path in paths}
    found = {path: _split_of(path, names[path], split_from) for path in paths}
    unnamed = [path for path, split in found.items() if split is None]
    if unnamed and len(unnamed) < len(paths):
        raise DataError(
            f"{unnamed[0]}: neither its name nor its folder contains a split, unlike other files in {where}",
            "give only files with a split, or `split_from='none'` to read all as one split",
        )
    order = in_order({split or "all" for split in found.values()})
    check_split_count(where, order)
    shards = [Shard(path, names[path], *size_and_stamp(path), found[path] or "all") for path in paths]
    ordered = tuple(sorted(shards, key=lambda s: (order.index(s.split), s.name.split("/"))))
    return ShardSet(ordered, Reading(_splits_from(ordered, named=not unnamed and split_from != "none"), others))


def _splits_from(shards: tuple[Shard, ...], *, named: bool) -> str:
    if not named:
        return "no file name: one split"
    shown = ", ".join(f"{shard.name} → {shard.split}" for shard in _spread(shards))
    return f"names of files, {shown}" + (f", … ({len(shards)} in all)" if len(shards) > SHOWN else "")


def _spread(shards: tuple[Shard, ...]) -> list[Shard]:
    """A few shards, including the first one of each split."""
    first = {shard.split: shard for shard in reversed(shards)}
    if len(shards) <= SHOWN:
        return list(shards)
    return [shard for shard in shards if shard in first.values()][:SHOWN]


def splits_of(shards: tuple[Shard, ...]) -> tuple[str, ...]:
    """The distinct splits of sorted shards."""
    return tuple(dict.fromkeys(shard.split for shard in shards))


def name_of(where: str) -> str:
    """The name of a pattern in tables: its last part without suffix."""
    last = where.rstrip("/").rsplit("/", 1)[-1]
    return posixpath.splitext(last)[0] or where


def _expand(where: str) -> Iterator[str]:
    """`a{0..2}{x,y}` → a0x, a0y, a1x, …; numbers keep leading zeros."""
    braces = BRACES.search(where)
    if braces is None:
        yield where
        return
    numbers = NUMBERS.fullmatch(braces[1])
    if numbers:
        first, last = numbers.groups()
        choices = (str(k).zfill(len(first)) for k in range(int(first), int(last) + 1))
    else:
        choices = (part for part in braces[1].split(","))
    for choice in choices:
        yield from _expand(where[: braces.start()] + choice + where[braces.end() :])


def _literal(where: str) -> tuple[str, str]:
    """Split a path into its leading folders that exist literally (or all of it), and the rest, which is a pattern.

    An existing folder is taken literally even if its name looks like a pattern, such as `set[1]/`.
    """
    parts = where.split("/") if not is_remote(where) else []
    for k in range(len(parts), 0, -1):
        if (head := "/".join(parts[:k])) and os.path.exists(head):
            return head, where[len(head) :]
    return "", where


def _matches(literal: str, pattern: str) -> list[str]:
    path = literal + pattern
    if not re.search(r"[*?\[]", pattern):
        return [path]
    if is_remote(path):
        with reading_errors(path):
            fs, inside = filesystem(path)
            if fs.exists(inside):
                return [path]
            matches = sorted(fs.unstrip_protocol(found) for found in fs.glob(inside))
    elif os.path.exists(path):
        return [path]
    else:
        matches = sorted(Path(found).as_posix() for found in _glob(literal, pattern))
    begun = {part[0] for part in path.split("/") if part}
    # A pattern with a leading dot includes hidden names.
    return [
        found for found in matches if not any(is_litter(part) and part[0] not in begun for part in found.split("/"))
    ]


def _below(folder: str, suffix: str) -> tuple[list[str], PassedOver]:
    """The files below a folder with the suffix of shards, in any case, and the other files."""
    folder = folder.rstrip("/") or folder
    with reading_errors(folder):
        if is_remote(folder):
            fs, inside = filesystem(folder)
            base = inside.rstrip("/")
            found = [folder + name[name.index(base) + len(base) :] for name in fs.find(inside)]
        else:
            found = list(_walk(folder))
    shards: list[str] = []
    others = Tally()
    for path in found:
        name = path[len(folder) :].lstrip("/")
        if any(is_litter(part) for part in name.split("/")):
            continue
        if path.lower().endswith(suffix):
            shards.append(path)
        elif name != CLASSES:
            others.add(os.fsencode(name).decode(errors="replace"))
    return sorted(shards), others.result()


def _walk(folder: str) -> Iterator[str]:
    """All files below a local folder. Links to folders are followed, each folder once. Raises: OSError."""
    for here, names in walk_folders(folder):
        yield from (os.path.join(here, name).replace(os.sep, "/") for name in names)


def _glob(start: str, pattern: str) -> list[str]:
    """The local paths that match a pattern below `start`. `**` matches each folder below once, despite links."""
    before, mark, after = _split_at_folders(pattern)
    if not mark:
        return glob.glob(glob.escape(start) + pattern)
    found: dict[str, None] = {}
    for base in glob.glob(glob.escape(start) + before) if before.strip("/") else [start + before]:
        if os.path.isdir(base or "."):
            # Each folder ends with a slash, like the part before a **; an empty one is the current folder.
            for here, _ in walk_folders(base or ".", enter=lambda name: not name.startswith(".")):
                own = os.path.join(here, "") if base else os.path.join(here, "").removeprefix("./")
                found |= dict.fromkeys(_glob(own, after or "*"))
    return list(found)


def _split_at_folders(pattern: str) -> tuple[str, str, str]:
    """The part of a pattern before its first `**`, whether it has one, and the part after it."""
    parts = pattern.split("/")
    if "**" not in parts:
        return pattern, "", ""
    first = last = parts.index("**")
    while last < len(parts) and parts[last] == "**":
        last += 1
    return "".join(part + "/" for part in parts[:first]), "**", "/".join(parts[last:])


def _common(folders: list[list[str]]) -> str:
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return "/".join(parts[0] for parts in shared)


def _split_of(path: str, name: str, split_from: str) -> str | None:
    """The split that the parts of a shard's name agree on. Raises: DataError."""
    if split_from == "none":
        return None
    *folders, file = name.split("/")
    if split_from == "folders":
        if not folders:
            raise DataError(
                f"{path}: is not in a folder", "`split_from='folders'` needs each file in a folder of its split"
            )
        return split_named(folders[0]) or split_within(folders[0]) or folders[0]
    # A Hive partition is a value of its column, so only a column called split defines one.
    plain = [part for part in folders if not HIVE.fullmatch(part)] + [file]
    said = {part: split_within(part) for part in plain}
    said |= {part: split_within(part) for part in folders if part.casefold().startswith("split=")}
    splits = {split: part for part, split in said.items() if split}
    if len(splits) > 1:
        (one, here), (other, there) = list(splits.items())[:2]
        raise DataError(
            f"{path}: can be read in two ways: {one}, according to {here}, or {other}, according to {there}", CHOOSE
        )
    return next(iter(splits), None)
