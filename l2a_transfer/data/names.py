"""Interpret the names of files, folders and classes (a split, a label, not data) and normalize their Unicode."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import DataError

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "trainval": "trainval",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Words for splits, in lower case, and the split that each means."""
SPLIT_ORDER = ("train", "trainval", "val", "test")
LETTERS = re.compile(r"[^\W\d_]+")
HIVE = re.compile(r"([^/=]+)=([^/]*)")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_LITTER_OF_SYSTEMS = ("__macosx", "$recycle.bin", "lost+found", "system volume information")
_LITTER_OF_SERVERS = ("@eadir", "eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot")
_LITTER_OF_PROGRAMS = ("__pycache__", "thumbs.db", "desktop.ini", "icon\r")
LITTER = frozenset({*_LITTER_OF_SYSTEMS, *_LITTER_OF_SERVERS, *_LITTER_OF_PROGRAMS})
"""Lower-case names that operating systems, file servers and tools leave in folders of pictures."""

MAX_NAME_BYTES = 4096
"""Limit for an id or a class name, in UTF-8."""
MUST_BE = (
    "ids, classes, splits and levels must be UTF-8 text, not empty, without NUL, and of at most "
    f"{MAX_NAME_BYTES:,} bytes"
)
AT_ONCE = 10_000
MAX_CLASSES = 100_000
MAX_SPLITS = 255


def name_fault(name: str) -> str:
    """The reason why a name cannot be written to a feature file; empty if it can."""
    if not name:
        return "is empty"
    if "\0" in name:
        return "has a NUL in it"
    if not is_utf8(name):
        return "is not UTF-8"
    size = len(name.encode())
    return f"takes {size:,} bytes" if size > MAX_NAME_BYTES else ""


def is_utf8(text: str) -> bool:
    """False for a name in another encoding. Python represents its bytes as surrogates, which cannot be written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def well_formed(text: str) -> str:
    """The text with a question mark in place of each character that cannot be written as UTF-8."""
    return text.encode(errors="replace").decode()


def first_fault(names: Sequence[str]) -> tuple[int, str] | None:
    """The index of the first name that cannot be written, and the reason; None if all can."""
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        together = "".join(some)
        if all(some) and "\0" not in together and is_utf8(together) and 4 * max(map(len, some)) <= MAX_NAME_BYTES:
            continue
        for k, name in enumerate(some):
            if fault := name_fault(name):
                return start + k, fault
    return None


def is_litter(name: str) -> bool:
    """True if one part of a path is hidden, or was created by a system rather than a person."""
    return name.startswith(".") or name.casefold() in LITTER


def split_named(name: str) -> str | None:
    """The split that a name stands for, ignoring case; None for any other name."""
    return SPLIT_WORDS.get(name.casefold())


def split_within(name: str) -> str | None:
    """The split whose word occurs separately in a name, as in `birds-train-000.tar`; None if none or several do."""
    found = {SPLIT_WORDS[word] for word in LETTERS.findall(name.casefold()) if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def in_order(splits: set[str]) -> tuple[str, ...]:
    """The splits in their standard order: train, trainval, val, test, then others by name."""
    return tuple(sorted(splits, key=lambda s: (SPLIT_ORDER.index(s) if s in SPLIT_ORDER else len(SPLIT_ORDER), s)))


def check_class_count(where: object, count: int) -> None:
    """Raises: DataError if there are more class names than the limit."""
    if count > MAX_CLASSES:
        raise DataError(f"{where}: names {count:,} classes; at most {MAX_CLASSES:,} are allowed")


def check_split_count(where: object, splits: Sequence[str]) -> None:
    """Raises: DataError if there are more splits than a feature file can store."""
    if len(splits) > MAX_SPLITS:
        raise DataError(f"{where}: has {len(splits)} splits; at most {MAX_SPLITS} are allowed")


def hive_value(path: str, key: str) -> str | None:
    """The value of a Hive partition in a path, such as `cat` in `label=cat/0.parquet`; empty if it is null."""
    for part in path.split("/")[:-1]:
        found = HIVE.fullmatch(part)
        if found and found[1] == key:
            return "" if found[2] == HIVE_NULL else unquote(found[2])
    return None


def text_of(value: object) -> str:
    """A value as str. Bytes, which h5py and NumPy return for text, are decoded as UTF-8. Raises: UnicodeDecodeError."""
    return value.decode() if isinstance(value, bytes) else str(value)


def class_name(value: object) -> str:
    """The name of a class in Unicode normal form C: macOS writes é as two characters, other systems as one."""
    return unicodedata.normalize("NFC", text_of(value))


def merged(classes: Sequence[str], labels: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Classes in normal form C, merging those that become equal, and the corresponding labels (N,).

    Names that were equal before remain separate classes, because the caller has separated them.
    """
    names: list[str] = []
    place: list[int] = []
    written: dict[str, tuple[str, int]] = {}
    for name in classes:
        text = class_name(name)
        first, number = written.setdefault(text, (name, len(names)))
        if first != name:
            place.append(number)
            continue
        place.append(len(names))
        names.append(text)
    return tuple(names), np.array([*place, -1], dtype=np.int64)[labels]
