"""What the names of files, folders and classes say: a split, a label, no data; and in which letters they are kept."""

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
"""Words for splits, whatever their case, and the split that each means."""
SPLIT_ORDER = ("train", "trainval", "val", "test")
LETTERS = re.compile(r"[^\W\d_]+")
HIVE = re.compile(r"([^/=]+)=([^/]*)")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_LITTER_OF_SYSTEMS = ("__macosx", "$recycle.bin", "lost+found", "system volume information")
_LITTER_OF_SERVERS = ("@eadir", "eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot")
_LITTER_OF_PROGRAMS = ("__pycache__", "thumbs.db", "desktop.ini", "icon\r")
LITTER = frozenset({*_LITTER_OF_SYSTEMS, *_LITTER_OF_SERVERS, *_LITTER_OF_PROGRAMS})
"""What operating systems, file servers and tools leave in folders of pictures, in lower case."""

MAX_NAME_BYTES = 4096
"""Of an id or a class name, as UTF-8."""
MUST_BE = (
    "ids, classes, splits and levels must be UTF-8 text, not empty, without NUL, and of at most "
    f"{MAX_NAME_BYTES:,} bytes"
)
AT_ONCE = 10_000
MAX_CLASSES = 100_000
MAX_SPLITS = 255


def name_fault(name: str) -> str:
    """Why a name cannot be written into a feature file, in words; empty if it can."""
    if not name:
        return "is empty"
    if "\0" in name:
        return "has a NUL in it"
    if not is_utf8(name):
        return "is not UTF-8"
    size = len(name.encode())
    return f"takes {size:,} bytes" if size > MAX_NAME_BYTES else ""


def is_utf8(text: str) -> bool:
    """False if a name is in another encoding: Python puts surrogates for its bytes, which cannot be written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def well_formed(text: str) -> str:
    """Text that can be written as UTF-8, with a question mark for each character that cannot."""
    return text.encode(errors="replace").decode()


def first_fault(names: Sequence[str]) -> tuple[int, str] | None:
    """The place of the first name that cannot be written, and why not."""
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
    """True for one part of a path that is hidden, or that a system and no person has put there."""
    return name.startswith(".") or name.casefold() in LITTER


def split_named(name: str) -> str | None:
    """The split that a name is the word for, whatever its case, and None for any other name."""
    return SPLIT_WORDS.get(name.casefold())


def split_within(name: str) -> str | None:
    """The split whose word stands in a name by itself, as in `birds-train-000.tar`; None if none does, or two."""
    found = {SPLIT_WORDS[word] for word in LETTERS.findall(name.casefold()) if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def in_order(splits: set[str]) -> tuple[str, ...]:
    """The splits as they are always listed: train, trainval, val, test, then others by name."""
    return tuple(sorted(splits, key=lambda s: (SPLIT_ORDER.index(s) if s in SPLIT_ORDER else len(SPLIT_ORDER), s)))


def check_class_count(where: object, count: int) -> None:
    """Raises: DataError for more names of classes than are read."""
    if count > MAX_CLASSES:
        raise DataError(f"{where}: names {count:,} classes; at most {MAX_CLASSES:,} are allowed")


def check_split_count(where: object, splits: Sequence[str]) -> None:
    """Raises: DataError for more splits than a feature file can tell apart."""
    if len(splits) > MAX_SPLITS:
        raise DataError(f"{where}: has {len(splits)} splits; at most {MAX_SPLITS} are allowed")


def hive_value(path: str, key: str) -> str | None:
    """The value of a Hive partition in a path, as `cat` of `label=cat/0.parquet`; empty if it is null."""
    for part in path.split("/")[:-1]:
        found = HIVE.fullmatch(part)
        if found and found[1] == key:
            return "" if found[2] == HIVE_NULL else unquote(found[2])
    return None


def text_of(value: object) -> str:
    """A value as text; bytes, as h5py and NumPy give text back, are UTF-8. Raises: UnicodeDecodeError."""
    return value.decode() if isinstance(value, bytes) else str(value)


def class_name(value: object) -> str:
    """The name of a class, in normal form C: macOS writes é as two characters, and most others write it as one."""
    return unicodedata.normalize("NFC", text_of(value))


def merged(classes: Sequence[str], labels: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Classes in normal form C, those that it makes equal being one, and the labels (N,) that go with them.

    Names that were equal before stay classes of their own: whoever gave two of one name has told them apart.
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
