"""The built-in protocols: official, caltech-30, low-shot and stratified."""

from __future__ import annotations

import numpy as np

from l2a_transfer.errors import EvaluationError
from l2a_transfer.evaluation.protocols import AUTO, Request, register
from l2a_transfer.evaluation.splits import (
    Indices,
    Labelled,
    LabelledRows,
    Split,
    check_labels,
    check_parts,
    listed,
    make_split,
    members_of,
)
from l2a_transfer.wording import counted

CALTECH_TRAIN, CALTECH_TEST = 30, 50
TEST_PERCENT = 30
BACKGROUND = ("background_google", "background", "257.clutter", "clutter")
DRAWN_ANEW = "the set's own splits were put together and drawn anew"

Notes = tuple[str, ...]


def _has_train_and_test(features: Labelled) -> bool:
    return {"train", "test"} <= {features.meta.splits[k] for k in np.unique(features.split)}


def _official_suits(features: Labelled) -> str:
    return f"{features.meta.data} has a train and a test split" if _has_train_and_test(features) else ""


def _caltech_suits(features: Labelled) -> str:
    is_caltech = features.meta.data == "caltech101"
    return "caltech101 has no official split, and this is the custom" if is_caltech else ""


def _stratified_suits(features: Labelled) -> str:
    return f"{features.meta.data} has no train and test split"


@register(AUTO)
def auto(features: Labelled, request: Request) -> tuple[list[Split], Notes]:
    """Chooses the protocol that suits the file; `plan_splits` replaces it with that one."""
    raise NotImplementedError


@register("official", is_drawn=False, needs=("train", "test"), suits=_official_suits)
def official(features: Labelled, request: Request) -> tuple[list[Split], Notes]:
    """The set's own train and test split."""
    splits = features.meta.splits
    parts = {name: np.flatnonzero(features.split == k) for k, name in enumerate(splits)}
    others = [
        f"{counted(len(rows), 'row')} of split {name}" for name, rows in parts.items() if name not in ("train", "test")
    ]
    train, test = parts["train"], parts["test"]
    check_parts(features, train, test)
    notes = (f"left out: {', '.join(others)}",) if others else ()
    return [make_split(features, "official", 0, None, train, test)], notes


@register("caltech-30", draws=10, suits=_caltech_suits)
def caltech_30(features: Labelled, request: Request) -> tuple[list[Split], Notes]:
    """30 training and up to 50 test images per class, without the background class."""
    rows, notes = _usable(features, with_background=False)
    return _drawn(features, rows, "caltech-30", request), notes


@register("low-shot", draws=10, has_shots=True)
def low_shot(features: Labelled, request: Request) -> tuple[list[Split], Notes]:
    """k training images per class, nested over k within a draw; all draws share the test images.

    Tested on the set's own test split if it has one, otherwise on a stratified part drawn once.
    """
    rows, notes = _usable(features, with_background=False)
    draws, seed, shots = request.draws, request.seed, list(request.shots)
    splits = features.meta.splits
    if {"train", "test"} <= {splits[k] for k in np.unique(features.split[rows])}:
        pool, test = (rows[features.split[rows] == splits.index(name)] for name in ("train", "test"))
        notes = tuple(note for note in notes if note != DRAWN_ANEW)
        where = "tested on the set's own test split"
    else:
        pool, test = draw_rows(features, rows, "stratified", np.random.default_rng([seed]))
        where = "tested on 30 % of each class, drawn once"
    check_parts(features, pool, test)
    members = members_of(features, pool)
    smallest = min(map(len, members.values()))
    kept = [k for k in shots if 1 <= k <= smallest]
    if not kept:
        raise EvaluationError(
            f"{features.path}: low-shot needs {counted(shots[0], 'training image')} of each class, "
            f"but the smallest has {smallest}",
            "choose a smaller number of `shots`",
        )
    more = [where]
    if kept != shots:
        left = ", ".join(str(k) for k in shots if k not in kept)
        more.append(f"left out: k = {left}, because the smallest class has {counted(smallest, 'training image')}")
    found = []
    for draw in range(draws):
        rng = np.random.default_rng([seed, 1 + draw])
        shuffled = [[own[i] for i in rng.permutation(len(own))] for own in members.values()]
        for k in kept:
            train = np.sort(np.array([row for own in shuffled for row in own[:k]], dtype=np.intp))
            # Two draws of k out of n have k²/n images in common on average, a share of k/n.
            shared = min(0.95, float(np.mean([k / len(own) for own in members.values()])))
            found.append(make_split(features, "low-shot", draw, seed, train, np.sort(test), shots=k, shared=shared))
    return sorted(found, key=lambda split: (split.shots or 0, split.draw)), (*notes, *more)


@register("stratified", suits=_stratified_suits)
def stratified(features: Labelled, request: Request) -> tuple[list[Split], Notes]:
    """70 % of each class for training and 30 % for testing."""
    rows, notes = _usable(features, with_background=True)
    return _drawn(features, rows, "stratified", request), notes


def _drawn(features: Labelled, rows: Indices, protocol: str, request: Request) -> list[Split]:
    splits = []
    for draw in range(request.draws):
        train, test = draw_rows(features, rows, protocol, np.random.default_rng([request.seed, draw]))
        check_parts(features, train, test)
        shared = len(test) / (len(train) + len(test))
        splits.append(make_split(features, protocol, draw, request.seed, train, test, shared=shared))
    return splits


def _usable(features: Labelled, *, with_background: bool) -> tuple[Indices, tuple[str, ...]]:
    """All rows that a random protocol uses; the background class is left out if `with_background` is False."""
    classes, notes = features.meta.classes, []
    dropped = [] if with_background else [k for k, name in enumerate(classes) if name.lower() in BACKGROUND]
    rows = np.flatnonzero(~np.isin(features.labels, dropped))
    if len(rows) < len(features.labels):
        names = ", ".join(classes[k] for k in dropped)
        notes.append(f"left out: {counted(len(features.labels) - len(rows), 'row')} of the background class {names}")
    if len(np.unique(features.split)) > 1:
        notes.append(DRAWN_ANEW)
    return rows, tuple(notes)


def draw_rows(
    features: LabelledRows, rows: Indices, protocol: str, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """One draw, class by class in name order, with the images of a class in id order."""
    check_labels(features, rows)
    least = CALTECH_TRAIN + 1 if protocol == "caltech-30" else 2
    members = members_of(features, rows)
    few = [f"{name!r} ({len(found)})" for name, found in members.items() if len(found) < least]
    if few:
        raise EvaluationError(
            f"{features.path}: {protocol} needs at least {least} images of each class; too few in {listed(few)}",
            "use `protocol='stratified'`, or leave these classes out" if least > 2 else "add images or omit it",
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
