"""Which rows are fitted and chosen on, and which are tested on: named protocols, repeatable from seed and ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import EvaluationError, unknown_name
from l2a_transfer.features.store.reader import FeatureSet
from l2a_transfer.features.store.views import FeatureFile
from l2a_transfer.wording import are, counted

Labelled = FeatureSet | FeatureFile

PROTOCOLS = ("auto", "official", "caltech-30", "low-shot", "stratified")
DRAWS = {"official": 1, "caltech-30": 10, "low-shot": 10, "stratified": 1}
SHOTS = (1, 2, 4, 8, 16)
CALTECH_TRAIN, CALTECH_TEST = 30, 50
CHECK_NUMBERS = 1 << 22
TEST_PERCENT = 30
BACKGROUND = ("background_google", "background", "257.clutter", "clutter")


@dataclass(frozen=True)
class Split:
    """Rows of one feature file: `train` to fit and choose on, `test` to be used once; both in rising order.

    `sha256` is over the ids and class names of both parts, so it is the same for every file of the data set,
    whatever its row order. `seed` is None where nothing was drawn. `shots`: training images a class in `low-shot`.
    `shared`: the correlation of two draws, estimated by the share of images that they have in common.
    """

    data: str
    protocol: str
    draw: int
    seed: int | None
    sha256: str
    train: tuple[int, ...]
    test: tuple[int, ...]
    shots: int | None = None
    shared: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The protocol that holds for a file, why, and its splits, one a draw (in `low-shot` one a draw and k)."""

    protocol: str
    why: str
    splits: tuple[Split, ...]
    notes: tuple[str, ...]

    def groups(self) -> list[tuple[int | None, tuple[Split, ...]]]:
        """(shots, splits) of every row of the table: all draws, and in `low-shot` all draws of one k."""
        shots = dict.fromkeys(split.shots for split in self.splits)
        return [(k, tuple(split for split in self.splits if split.shots == k)) for k in shots]


def plan_splits(
    features: Labelled, protocol: str, *, draws: int | None, seed: int, shots: Sequence[int] = SHOTS
) -> Plan:
    """The splits of one file under a protocol; `draws` None means the protocol's own number.

    A drawn split depends on the seed, the draw, and the images' ids and class names only: neither on the model nor on
    the order of the rows. Raises: UnknownNameError, and EvaluationError where the rows cannot serve the protocol.
    """
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    name, why = (protocol, "as asked") if protocol != "auto" else _automatic(features)
    repeats = DRAWS[name] if draws is None else draws
    if name == "official":
        if repeats != 1:
            raise EvaluationError(
                f"{features.path}: the official split of {features.meta.data} is one split and cannot be drawn "
                f"{repeats} times",
                "leave `draws` out, or draw splits with `protocol='stratified'`",
            )
        train, test, notes = _official(features)
        _check(features, train, test)
        return Plan(name, why, (_split(features, name, 0, None, train, test),), notes)
    rows, notes = _usable(features, background=name not in ("caltech-30", "low-shot"))
    if name == "low-shot":
        splits, more = _low_shot(features, rows, repeats, seed, sorted(set(shots)))
        return Plan(name, why, tuple(splits), (*notes, *more))
    splits = []
    for draw in range(repeats):
        train, test = _draw(features, rows, name, np.random.default_rng([seed, draw]))
        _check(features, train, test)
        shared = len(test) / (len(train) + len(test))
        splits.append(_split(features, name, draw, seed, train, test, shared=shared))
    return Plan(name, why, tuple(splits), notes)


def check_folds(features: Labelled, split: Split, folds: int) -> None:
    """Raises: EvaluationError where a class has fewer training rows than there are folds, naming the classes."""
    labels = features.labels[list(split.train)]
    counts = np.bincount(labels, minlength=len(features.meta.classes))
    few = [f"{features.meta.classes[k]!r} ({counts[k]})" for k in np.flatnonzero((counts > 0) & (counts < folds))]
    if few:
        raise EvaluationError(
            f"{features.path}: {folds} folds need {folds} training images of each class; fewer in {_some(few)}",
            f"use `folds={max(2, int(counts[counts > 0].min()))}` or more images",
        )


def _automatic(features: Labelled) -> tuple[str, str]:
    meta = features.meta
    filled = {meta.splits[k] for k in np.unique(features.split)}
    if {"train", "test"} <= filled:
        return "official", f"{meta.data} has a train and a test split"
    if meta.data == "caltech101":
        return "caltech-30", "caltech101 has no official split, and this is the custom"
    return "stratified", f"{meta.data} has no train and test split"


def _official(features: Labelled) -> tuple[NDArray[np.intp], NDArray[np.intp], tuple[str, ...]]:
    splits = features.meta.splits
    parts = {name: np.flatnonzero(features.split == k) for k, name in enumerate(splits)}
    missing = [name for name in ("train", "test") if name not in parts or not len(parts[name])]
    if missing:
        raise EvaluationError(
            f"{features.path}: the official protocol needs the splits train and test, no row is in "
            f"{' or '.join(missing)} (the file has {', '.join(splits)})",
            "extract all splits, or use `protocol='stratified'`",
        )
    others = [
        f"{counted(len(rows), 'row')} of split {name}" for name, rows in parts.items() if name not in ("train", "test")
    ]
    notes = (f"left out: {', '.join(others)}",) if others else ()
    return parts["train"], parts["test"], notes


def _low_shot(
    features: Labelled, rows: NDArray[np.intp], draws: int, seed: int, shots: list[int]
) -> tuple[list[Split], tuple[str, ...]]:
    """k training images a class, nested over k within a draw; the test images are the same in all of them.

    Tested on the set's own test split where it has one, else on a stratified part drawn once.
    """
    splits = features.meta.splits
    if {"train", "test"} <= {splits[k] for k in np.unique(features.split[rows])}:
        pool, test = (rows[features.split[rows] == splits.index(name)] for name in ("train", "test"))
        where = "tested on the set's own test split"
    else:
        pool, test = _draw(features, rows, "stratified", np.random.default_rng([seed]))
        where = "tested on 30 % of each class, drawn once"
    _check(features, pool, test)
    members = _members(features, pool)
    smallest = min(map(len, members.values()))
    kept = [k for k in shots if 1 <= k <= smallest]
    if not kept:
        raise EvaluationError(
            f"{features.path}: low-shot needs {counted(shots[0], 'training image')} of each class, the smallest has "
            f"{smallest}",
            "choose a smaller number of `shots`",
        )
    notes = [where]
    if kept != shots:
        left = ", ".join(str(k) for k in shots if k not in kept)
        notes.append(f"left out: k = {left}, because the smallest class has {counted(smallest, 'training image')}")
    found = []
    for draw in range(draws):
        rng = np.random.default_rng([seed, 1 + draw])
        shuffled = [[own[i] for i in rng.permutation(len(own))] for own in members.values()]
        for k in kept:
            train = np.sort(np.array([row for own in shuffled for row in own[:k]], dtype=np.intp))
            # Two draws of k out of n have k²/n in common on average, the share k/n.
            shared = min(0.95, float(np.mean([k / len(own) for own in members.values()])))
            found.append(_split(features, "low-shot", draw, seed, train, np.sort(test), shots=k, shared=shared))
    return sorted(found, key=lambda split: (split.shots or 0, split.draw)), tuple(notes)


def _members(features: Labelled, rows: NDArray[np.intp]) -> dict[str, list[int]]:
    """Class name → its rows in the order of their ids; classes in the order of their names."""
    names = features.meta.classes
    members: dict[str, list[int]] = {}
    for row in sorted(rows.tolist(), key=lambda row: features.ids[row]):
        members.setdefault(names[features.labels[row]], []).append(row)
    return dict(sorted(members.items()))


def _usable(features: Labelled, *, background: bool) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """All rows that a drawn protocol uses; the background class is left out where `background` is False."""
    classes, notes = features.meta.classes, []
    dropped = [] if background else [k for k, name in enumerate(classes) if name.lower() in BACKGROUND]
    rows = np.flatnonzero(~np.isin(features.labels, dropped))
    if len(rows) < len(features.labels):
        names = ", ".join(classes[k] for k in dropped)
        notes.append(f"left out: {counted(len(features.labels) - len(rows), 'row')} of the background class {names}")
    if len(np.unique(features.split)) > 1:
        notes.append("the set's own splits were put together and drawn anew")
    return rows, tuple(notes)


def _draw(
    features: Labelled, rows: NDArray[np.intp], protocol: str, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """One draw, class by class in the order of their names, each class's images in the order of their ids."""
    _check_labels(features, rows)
    least = CALTECH_TRAIN + 1 if protocol == "caltech-30" else 2
    members = _members(features, rows)
    few = [f"{name!r} ({len(found)})" for name, found in members.items() if len(found) < least]
    if few:
        raise EvaluationError(
            f"{features.path}: {protocol} needs at least {least} images of each class; fewer in {_some(few)}",
            "use `protocol='stratified'`, or leave these classes out" if least > 2 else "add images or leave it out",
        )
    train: list[int] = []
    test: list[int] = []
    for found in members.values():
        shuffled = [found[i] for i in rng.permutation(len(found))]
        if protocol == "caltech-30":
            cut, stop = CALTECH_TRAIN, CALTECH_TRAIN + CALTECH_TEST
        else:
            cut, stop = len(found) - max(1, (len(found) * TEST_PERCENT + 50) // 100), len(found)
        train += shuffled[:cut]
        test += shuffled[cut:stop]
    return np.sort(np.array(train, dtype=np.intp)), np.sort(np.array(test, dtype=np.intp))


def _check(features: Labelled, train: NDArray[np.intp], test: NDArray[np.intp]) -> None:
    """Raises: EvaluationError for rows that are unlabelled, not finite, of one class, or of a class never seen."""
    rows = np.sort(np.concatenate([train, test]))
    _check_labels(features, rows)
    _check_finite(features, rows)
    seen, tested = np.unique(features.labels[train]), np.unique(features.labels[test])
    names = features.meta.classes
    if len(seen) < 2:
        raise EvaluationError(
            f"{features.path}: an SVM needs at least two classes to train on, got only {names[seen[0]]!r}; "
            "extract a set with one folder a class"
        )
    unseen = [repr(names[k]) for k in np.setdiff1d(tested, seen)]
    if unseen:
        raise EvaluationError(
            f"{features.path}: no training image of {_some(unseen)}, which the test rows hold",
            "extract all of the training split, or use `protocol='stratified'`",
        )


def _check_labels(features: Labelled, rows: NDArray[np.intp]) -> None:
    labels, known = features.labels[rows], len(features.meta.classes)
    missing = rows[labels < 0]
    if len(missing):
        raise EvaluationError(
            f"{features.path}: {len(missing)} of {counted(len(rows), 'image')} of {features.meta.data} "
            f"{are(len(missing))} unlabelled (label -1), the first is {features.ids[missing[0]]!r}; an SVM needs "
            "labels: extract a folder with one sub-folder a class"
        )
    if len(labels) and labels.max() >= known:
        raise EvaluationError(
            f"{features.path}: label {labels.max()} where there {are(known)} {counted(known, 'class', 'classes')}; "
            "extract anew"
        )


def _check_finite(features: Labelled, rows: NDArray[np.intp]) -> None:
    step = max(1, CHECK_NUMBERS // features.features.shape[1])
    finite = np.concatenate(
        [np.isfinite(features.features[rows[k : k + step]]).all(axis=1) for k in range(0, len(rows), step)]
    )
    if not finite.all():
        bad = rows[~finite]
        hint = " (float16 overflows above 65504: extract as float32)" if features.features.dtype == np.float16 else ""
        raise EvaluationError(
            f"{features.path}: NaN or infinite features in {len(bad)} of {counted(len(rows), 'row')}, the first is "
            f"{features.ids[bad[0]]!r}{hint}",
            "extract anew with `precision='fp32'`",
        )


def _split(
    features: Labelled,
    protocol: str,
    draw: int,
    seed: int | None,
    train: NDArray[Any],
    test: NDArray[Any],
    *,
    shots: int | None = None,
    shared: float = 0.0,
) -> Split:
    digest = hashlib.sha256()
    for part, rows in (("train", train), ("test", test)):
        digest.update(f"{part} {len(rows)}\n".encode())
        for line in sorted(f"{features.ids[row]}\t{features.meta.classes[features.labels[row]]}\n" for row in rows):
            digest.update(line.encode())
    parts = (tuple(train.tolist()), tuple(test.tolist()))
    return Split(features.meta.data, protocol, draw, seed, digest.hexdigest(), *parts, shots, shared)


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
