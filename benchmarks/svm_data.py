"""The problems for measuring the SVM solver: rows of feature files made by `l2a-transfer extract`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Problem = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
"""Training rows and labels, held-out rows and labels."""


def caltech(work: Path, *files: str, per_class: int = 30, classes: int | None = None) -> Problem:
    """Caltech-101 without background: `per_class` rows per class drawn with seed 0, at most 50 others held out.

    Columns of several files of the same images are concatenated. `classes`: only that many, spread over the whole list.
    """
    X, y = zip(*(read(work / file) for file in files), strict=True)
    assert all(np.array_equal(y[0], other) for other in y)
    kept = np.unique(y[0])
    if classes is not None:
        kept = kept[np.linspace(0, len(kept) - 1, classes).astype(int)]
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(np.flatnonzero(y[0] == k)) for k in kept]
    train = np.sort(np.concatenate([own[:per_class] for own in drawn]))
    test = np.sort(np.concatenate([own[per_class : per_class + 50] for own in drawn]))
    whole = np.hstack(X)
    return whole[train], y[0][train], whole[test], y[0][test]


def cifar10(work: Path, *, rows: int, held_out: int) -> Problem:
    """CIFAR-10's test images: the first `rows` for fitting, the last `held_out` for comparing predictions."""
    X, y = read(work / "cifar10-att.h5")
    return X[:rows], y[:rows], X[len(X) - held_out :], y[len(y) - held_out :]


def read(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features (N, D) and labels (N,), without Caltech-101's background class if the file has it."""
    with h5py.File(file) as opened:
        X, y = opened["features"][:], opened["labels"][:]
        names = json.loads(opened.attrs["classes"])
    keep = np.array([name != "BACKGROUND_Google" for name in names])[y]
    return X[keep], y[keep]


def svm_objectives(
    X: NDArray[Any], y: NDArray[Any], coef: NDArray[Any], intercept: NDArray[Any], C: float
) -> NDArray[np.float64]:
    """LIBLINEAR's objective of each class's SVM (K,), or (1,) for two classes: float64, from the coefficients."""
    labels = np.unique(y)
    positive = labels[1:] if len(labels) == 2 else labels
    signs = np.where(y[:, None] == positive, 1.0, -1.0)  # (N, K)
    slack = np.maximum(0, 1 - signs * (X.astype(np.float64) @ coef.T + intercept))
    return np.asarray(0.5 * ((coef**2).sum(axis=1) + intercept**2) + C * (slack**2).sum(axis=0))
