"""Folds: which images choose the threshold for which others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import ArgumentError, DataError


def folds_of(labels: NDArray[np.int32], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each image, (N,): every class is spread evenly over the folds, in random order.

    The threshold of a fold is chosen on the images of all other folds.

    Parameters
    ----------
    labels : ndarray of int32, shape (N,)
        Class of each image; −1 (no label) counts as a class.
    folds : int
        At least 2.
    seed : int
        Random seed of the order.

    Raises
    ------
    ArgumentError
        For fewer than 2 folds.
    DataError
        For fewer images than folds.
    """
    if folds < 2:
        raise ArgumentError(f"folds must be at least 2, got {folds}")
    if len(labels) < folds:
        raise DataError(
            f"{len(labels)} image(s) with a mask, but choosing thresholds on other images needs {folds}",
            "add images, or give a `validation` list",
        )
    rng = np.random.default_rng(seed)
    found, dealt = np.empty(len(labels), dtype=np.int64), 0
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        found[rows] = (dealt + np.arange(len(rows))) % folds
        dealt += len(rows)
    return found


def validation_folds(ids: Sequence[str], validation: Sequence[str]) -> NDArray[np.int64]:
    """1 for images of the validation list, which choose the threshold, and 0 for the measured ones.

    Raises: DataError for an unknown name, or if there are no images on one side.
    """
    wanted = set(validation)
    if missing := sorted(wanted - set(ids)):
        raise DataError(f"validation: no image with a mask has the name {missing[0]!r}", "list existing images")
    found = np.array([int(name in wanted) for name in ids], dtype=np.int64)
    if not 0 < found.sum() < len(ids):
        side = "validation: the list is empty" if not found.any() else "validation: all images are in the list"
        raise DataError(side, "list some of the images, but not all")
    return found


def chosen_levels(sums: NDArray[np.float64], counts: NDArray[np.int64], *, swapped: bool) -> NDArray[np.int64]:
    """For each fold, the level that is best on the images outside of it.

    Parameters
    ----------
    sums : ndarray of float64, shape (folds, T)
        For each fold and each of T thresholds, the sum of the measure over its images.
    counts : ndarray of int64, shape (folds,)
        Number of images in each fold.
    swapped : bool
        Whether all folds are measured; otherwise, fold 1 chooses for fold 0.

    Returns
    -------
    ndarray of int64, shape (folds,)
        Ties go to the lowest level.
    """
    if not swapped:
        return np.full(2, int(np.argmax(sums[1])), dtype=np.int64)
    others = (sums.sum(axis=0) - sums) / (counts.sum() - counts)[:, None]
    best_of_others: NDArray[np.int64] = np.argmax(others, axis=1)
    return best_of_others
