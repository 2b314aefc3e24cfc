"""How a data set was read, so that it can be checked: where splits come from, ignored files, and odd classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.wording import counted

SHOWN = 5
"""How many names of a kind are shown; the others are only counted."""
MOST_KINDS = 20
"""How many kinds of files are counted separately. Names may end in numbers, each of which is another suffix."""


@dataclass(frozen=True)
class PassedOver:
    """Ignored files: their number, kinds (suffix → number), and the first names, those of pictures before others."""

    files: int = 0
    kinds: tuple[tuple[str, int], ...] = ()
    first: tuple[str, ...] = ()

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in self.kinds[:SHOWN])
        more = ", …" if len(self.kinds) > SHOWN else ""
        return f"{counted(self.files, 'file')} ({kinds}{more}), first {self.first[0]}"


@dataclass
class Tally:
    """Counts ignored files without keeping all names."""

    likely: tuple[str, ...] = ()
    """Suffixes of pictures in unsupported formats."""
    _kinds: Counter[str] = field(default_factory=Counter)
    _pictures: list[str] = field(default_factory=list)
    _others: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        suffix = PurePosixPath(name).suffix.lower()
        self._kinds[suffix or "without suffix"] += 1
        names = self._pictures if suffix in self.likely else self._others
        names.append(name)
        if len(names) > 2 * SHOWN:
            names[:] = sorted(names)[:SHOWN]

    def include(self, other: PassedOver) -> None:
        """Add files that were counted elsewhere."""
        self._kinds.update(dict(other.kinds))
        for name in other.first:
            (self._pictures if PurePosixPath(name).suffix.lower() in self.likely else self._others).append(name)

    def result(self) -> PassedOver:
        ordered = sorted(self._kinds.items(), key=lambda kind: (kind[0] not in self.likely, -kind[1], kind[0]))
        kinds = ordered[:MOST_KINDS]
        if rest := sum(count for _, count in ordered[MOST_KINDS:]):
            kinds.append(("others", rest))
        first = (sorted(self._pictures) + sorted(self._others))[:SHOWN]
        return PassedOver(sum(self._kinds.values()), tuple(kinds), tuple(first))


@dataclass(frozen=True)
class Reading:
    """`splits_from`: how the split of a picture was determined, in words; empty if the set's authors define it."""

    splits_from: str = ""
    passed_over: PassedOver = PassedOver()

    def to_json(self) -> dict[str, Any]:
        """The parts that are not empty, for the feature file."""
        found: dict[str, Any] = {"splits_from": self.splits_from} if self.splits_from else {}
        if self.passed_over.files:
            own = self.passed_over
            found["passed_over"] = {"files": own.files, "kinds": dict(own.kinds), "first": list(own.first)}
        return found


def class_warnings(
    classes: Sequence[str], splits: Sequence[str], labels: NDArray[np.int32], split: NDArray[np.uint8]
) -> list[str]:
    """Warnings about the classes of a set, one sentence each: names that differ only in case or not at all, and classes
    without a picture in a split that has pictures of others.

    `labels` (N,), −1 for none; `split` (N,), an index into `splits`.
    """
    found = []
    folded: dict[str, list[str]] = {}
    for name in classes:
        folded.setdefault(" ".join(name.casefold().split()), []).append(name)
    if alike := [names for names in folded.values() if len(set(names)) > 1]:
        pairs = "; ".join(" and ".join(map(repr, dict.fromkeys(names))) for names in alike[:SHOWN])
        more = f"; … ({len(alike)} in all)" if len(alike) > SHOWN else ""
        found.append(f"classes that differ only in case or spaces count as different classes: {pairs}{more}")
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        shown = [
            f"{name!r} ({', '.join(str(k) for k, own in enumerate(classes) if own == name)})" for name in twice[:SHOWN]
        ]
        more = f"; … ({len(twice)} in all)" if len(twice) > SHOWN else ""
        found.append(f"several classes have the same name and differ only in their number: {'; '.join(shown)}{more}")
    labelled = labels >= 0
    pictures = np.zeros((len(splits), len(classes)), dtype=np.int64)
    np.add.at(pictures, (split[labelled], labels[labelled]), 1)
    used = [k for k in range(len(splits)) if pictures[k].any()]
    there = pictures[used].any(axis=0) if used else np.zeros(len(classes), dtype=bool)
    for k in used:
        absent = [classes[c] for c in np.flatnonzero(there & (pictures[k] == 0)).tolist()]
        if absent:
            names = ", ".join(map(repr, absent[:SHOWN])) + (", …" if len(absent) > SHOWN else "")
            found.append(f"{counted(len(absent), 'class', 'classes')} without a picture in {splits[k]}: {names}")
    return found
