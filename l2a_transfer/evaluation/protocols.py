"""Which rows are fitted and chosen on, and which are tested on: named protocols, repeatable from seed and ids."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import EvaluationError, unknown_name
from l2a_transfer.features.store import FeatureSet

PROTOCOLS = ("auto", "official", "caltech-30", "stratified")
DRAWS = {"official": 1, "caltech-30": 3, "stratified": 1}
CALTECH_TRAIN, CALTECH_TEST = 30, 50
TEST_PERCENT = 30
BACKGROUND = ("background_google", "background", "257.clutter", "clutter")


@dataclass(frozen=True)
class Split:
    """Rows of one feature file: `train` to fit and choose on, `test` to be used once; both in rising order.

    `sha256` is over the ids and class names of both parts, so it is the same for every file of the data set,
    whatever its row order. `seed` is None where nothing was drawn.
    """

    data: str
    protocol: str
    draw: int
    seed: int | None
    sha256: str
    train: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The protocol that holds for a file, why, and its splits, one a draw."""

    protocol: str
    why: str
    splits: tuple[Split, ...]
    notes: tuple[str, ...]


def plan_splits(features: FeatureSet, protocol: str, *, draws: int | None, seed: int) -> Plan:
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
                f"{repeats} times; leave --draws out, or draw splits with --protocol stratified"
            )
        train, test, notes = _official(features)
        _check(features, train, test)
        return Plan(name, why, (_split(features, name, 0, None, train, test),), notes)
    rows, notes = _usable(features, background=name != "caltech-30")
    splits = []
    for draw in range(repeats):
        train, test = _draw(features, rows, name, np.random.default_rng([seed, draw]))
        _check(features, train, test)
        splits.append(_split(features, name, draw, seed, train, test))
    return Plan(name, why, tuple(splits), notes)


def check_folds(features: FeatureSet, split: Split, folds: int) -> None:
    """Raises: EvaluationError where a class has fewer training rows than there are folds, naming the classes."""
    labels = features.labels[list(split.train)]
    counts = np.bincount(labels, minlength=len(features.meta.classes))
    few = [f"{features.meta.classes[k]!r} ({counts[k]})" for k in np.flatnonzero((counts > 0) & (counts < folds))]
    if few:
        raise EvaluationError(
            f"{features.path}: {folds} folds need {folds} training images of each class; fewer in {_some(few)}; "
            f"use --folds {max(2, int(counts[counts > 0].min()))} or more images"
        )


def _automatic(features: FeatureSet) -> tuple[str, str]:
    meta = features.meta
    filled = {meta.splits[k] for k in np.unique(features.split)}
    if {"train", "test"} <= filled:
        return "official", f"{meta.data} has a train and a test split"
    if meta.data == "caltech101":
        return "caltech-30", "caltech101 has no official split, and this is the custom"
    return "stratified", f"{meta.data} has no train and test split"


def _official(features: FeatureSet) -> tuple[NDArray[np.intp], NDArray[np.intp], tuple[str, ...]]:
    splits = features.meta.splits
    parts = {name: np.flatnonzero(features.split == k) for k, name in enumerate(splits)}
    missing = [name for name in ("train", "test") if name not in parts or not len(parts[name])]
    if missing:
        raise EvaluationError(
            f"{features.path}: the official protocol needs the splits train and test, no row is in "
            f"{' or '.join(missing)} (the file has {', '.join(splits)}); extract all splits, or use "
            "--protocol stratified"
        )
    others = [f"{len(rows)} rows of split {name}" for name, rows in parts.items() if name not in ("train", "test")]
    notes = (f"left out: {', '.join(others)}",) if others else ()
    return parts["train"], parts["test"], notes


def _usable(features: FeatureSet, *, background: bool) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """All rows that a drawn protocol uses; the background class is left out where `background` is False."""
    classes, notes = features.meta.classes, []
    dropped = [] if background else [k for k, name in enumerate(classes) if name.lower() in BACKGROUND]
    rows = np.flatnonzero(~np.isin(features.labels, dropped))
    if len(rows) < len(features.labels):
        names = ", ".join(classes[k] for k in dropped)
        notes.append(f"left out: {len(features.labels) - len(rows)} rows of the background class {names}")
    if len(np.unique(features.split)) > 1:
        notes.append("the set's own splits were put together and drawn anew")
    return rows, tuple(notes)


def _draw(
    features: FeatureSet, rows: NDArray[np.intp], protocol: str, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """One draw, class by class in the order of their names, each class's images in the order of their ids."""
    _check_labels(features, rows)
    names, least = features.meta.classes, CALTECH_TRAIN + 1 if protocol == "caltech-30" else 2
    members: dict[str, list[int]] = {}
    for row in sorted(rows.tolist(), key=lambda row: features.ids[row]):
        members.setdefault(names[features.labels[row]], []).append(row)
    few = [f"{name!r} ({len(found)})" for name, found in sorted(members.items()) if len(found) < least]
    if few:
        raise EvaluationError(
            f"{features.path}: {protocol} needs at least {least} images of each class; fewer in {_some(few)}; "
            + ("use --protocol stratified, or leave these classes out" if least > 2 else "add images or leave it out")
        )
    train: list[int] = []
    test: list[int] = []
    for _, found in sorted(members.items()):
        shuffled = [found[i] for i in rng.permutation(len(found))]
        if protocol == "caltech-30":
            cut, stop = CALTECH_TRAIN, CALTECH_TRAIN + CALTECH_TEST
        else:
            cut, stop = len(found) - max(1, (len(found) * TEST_PERCENT + 50) // 100), len(found)
        train += shuffled[:cut]
        test += shuffled[cut:stop]
    return np.sort(np.array(train, dtype=np.intp)), np.sort(np.array(test, dtype=np.intp))


def _check(features: FeatureSet, train: NDArray[np.intp], test: NDArray[np.intp]) -> None:
    """Raises: EvaluationError for rows that are unlabelled, not finite, of one class, or of a class never seen."""
    rows = np.concatenate([train, test])
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
            f"{features.path}: no training image of {_some(unseen)}, which the test rows hold; "
            "extract all of the training split, or use --protocol stratified"
        )


def _check_labels(features: FeatureSet, rows: NDArray[np.intp]) -> None:
    labels, known = features.labels[rows], len(features.meta.classes)
    missing = rows[labels < 0]
    if len(missing):
        raise EvaluationError(
            f"{features.path}: {len(missing)} of {len(rows)} images of {features.meta.data} are unlabelled "
            f"(label -1), the first is {features.ids[missing[0]]!r}; an SVM needs labels: extract a folder with one "
            "sub-folder a class"
        )
    if len(labels) and labels.max() >= known:
        raise EvaluationError(f"{features.path}: label {labels.max()} where there are {known} classes; extract anew")


def _check_finite(features: FeatureSet, rows: NDArray[np.intp]) -> None:
    finite = np.isfinite(features.features[rows]).all(axis=1)
    if not finite.all():
        bad = rows[~finite]
        hint = " (float16 overflows above 65504: extract as float32)" if features.features.dtype == np.float16 else ""
        raise EvaluationError(
            f"{features.path}: NaN or infinite features in {len(bad)} of {len(rows)} rows, the first is "
            f"{features.ids[bad[0]]!r}{hint}; extract anew with --precision fp32"
        )


def _split(
    features: FeatureSet, protocol: str, draw: int, seed: int | None, train: NDArray[Any], test: NDArray[Any]
) -> Split:
    digest = hashlib.sha256()
    for part, rows in (("train", train), ("test", test)):
        digest.update(f"{part} {len(rows)}\n".encode())
        for line in sorted(f"{features.ids[row]}\t{features.meta.classes[features.labels[row]]}\n" for row in rows):
            digest.update(line.encode())
    return Split(
        features.meta.data, protocol, draw, seed, digest.hexdigest(), tuple(train.tolist()), tuple(test.tolist())
    )


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
