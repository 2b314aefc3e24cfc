"""A split of one feature file, its rows, and the checks on them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import EvaluationError
from l2a_transfer.features.store.schema import FeatureMeta
from l2a_transfer.text import repr_line
from l2a_transfer.wording import are, counted

Indices = NDArray[np.intp]

CHECK_NUMBERS = 1 << 22
"""How many numbers are checked at a time for being finite."""


class LabelledRows(Protocol):
    """Rows without their features: `labels` (N,) int32, `ids` N names, `split` (N,) uint8."""

    @property
    def path(self) -> Path: ...
    @property
    def meta(self) -> FeatureMeta: ...
    @property
    def labels(self) -> NDArray[np.int32]: ...
    @property
    def ids(self) -> tuple[str, ...]: ...
    @property
    def split(self) -> NDArray[np.uint8]: ...


class Labelled(LabelledRows, Protocol):
    """What can be split: a feature file in memory or on disk, or domains of several files. `features` (N, D) are
    indexed by row."""

    @property
    def features(self) -> Any: ...


@dataclass(frozen=True)
class Split:
    """Rows of one feature file for fitting and choosing C, and rows for testing.

    Parameters
    ----------
    data, protocol : str
        Names of the data set and of the protocol.
    draw : int
        Number of the draw, from 0.
    seed : int or None
        Random seed; None if nothing was drawn.
    sha256 : str
        Digest of the ids and class names of both parts: the same for every file of the data set, whatever the order
        of its rows.
    train, test : tuple of int
        Indices of rows, in ascending order.
    shots : int or None
        Training images per class, if the protocol has them.
    shared : float
        Correlation of two draws, estimated by the share of common images.
    by_domain : bool
        Whether C is chosen by holding out one training domain after the other.
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
    by_domain: bool = False

    def __repr__(self) -> str:
        train, test = counted(len(self.train), "training row"), counted(len(self.test), "test row")
        return repr_line(self, self.data, f"{self.protocol}, draw {self.draw}", train, test)


def check_folds(features: LabelledRows, split: Split, folds: int) -> None:
    """Raises: EvaluationError if a class has fewer training rows than there are folds; it names the classes."""
    labels = features.labels[list(split.train)]
    counts = np.bincount(labels, minlength=len(features.meta.classes))
    few = [f"{features.meta.classes[k]!r} ({counts[k]})" for k in np.flatnonzero((counts > 0) & (counts < folds))]
    if few:
        raise EvaluationError(
            f"{features.path}: {folds} folds need {folds} training images of each class; too few in {listed(few)}",
            f"use `folds={max(2, int(counts[counts > 0].min()))}` or more images",
        )


def make_split(
    features: LabelledRows,
    protocol: str,
    draw: int,
    seed: int | None,
    train: Indices,
    test: Indices,
    *,
    shots: int | None = None,
    shared: float = 0.0,
    by_domain: bool = False,
) -> Split:
    """The split into these rows; `seed` is None if nothing was drawn."""
    digest = hashlib.sha256()
    for part, rows in (("train", train), ("test", test)):
        digest.update(f"{part} {len(rows)}\n".encode())
        for line in sorted(f"{features.ids[row]}\t{features.meta.classes[features.labels[row]]}\n" for row in rows):
            digest.update(line.encode())
    parts = (tuple(train.tolist()), tuple(test.tolist()))
    return Split(features.meta.data, protocol, draw, seed, digest.hexdigest(), *parts, shots, shared, by_domain)


def members_of(features: LabelledRows, rows: Indices) -> dict[str, list[int]]:
    """Class name → its rows in the order of their ids; classes sorted by name."""
    names = features.meta.classes
    members: dict[str, list[int]] = {}
    for row in sorted(rows.tolist(), key=lambda row: features.ids[row]):
        members.setdefault(names[features.labels[row]], []).append(row)
    return dict(sorted(members.items()))


def check_parts(features: Labelled, train: Indices, test: Indices) -> None:
    """Raises: EvaluationError for rows that are unlabelled or not finite, a single class, or a test class without
    training rows."""
    rows = np.sort(np.concatenate([train, test]))
    check_labels(features, rows)
    check_finite(features, rows)
    seen, tested = np.unique(features.labels[train]), np.unique(features.labels[test])
    names = features.meta.classes
    if len(seen) < 2:
        raise EvaluationError(
            f"{features.path}: an SVM needs at least two classes to train on, got only {names[seen[0]]!r}; "
            "extract a data set with one folder per class"
        )
    unseen = [repr(names[k]) for k in np.setdiff1d(tested, seen)]
    if unseen:
        raise EvaluationError(
            f"{features.path}: no training images of {listed(unseen)}, which the test rows contain",
            "extract all of the training split, or use `protocol='stratified'`",
        )


def check_labels(features: LabelledRows, rows: Indices) -> None:
    labels, known = features.labels[rows], len(features.meta.classes)
    missing = rows[labels < 0]
    if len(missing):
        raise EvaluationError(
            f"{features.path}: {len(missing)} of {counted(len(rows), 'image')} of {features.meta.data} "
            f"{are(len(missing))} unlabelled (label -1), the first is {features.ids[missing[0]]!r}; an SVM needs "
            "labels: extract a folder with one sub-folder per class"
        )
    if len(labels) and labels.max() >= known:
        raise EvaluationError(
            f"{features.path}: label {labels.max()}, but there {are(known)} only {counted(known, 'class', 'classes')}; "
            "extract again"
        )


def check_finite(features: Labelled, rows: Indices) -> None:
    """Raises: EvaluationError if a feature of these rows is not finite."""
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
            "extract again with `precision='fp32'`",
        )


def listed(names: list[str], most: int = 5) -> str:
    """The first names, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
