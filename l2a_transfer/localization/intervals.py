"""Means over images and over classes, with intervals by the bootstrap over images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.evaluation.statistics import CONFIDENCE
from l2a_transfer.localization.results import Measure

RESAMPLES = 2000
AT_ONCE = 100
"""Resamples whose weights are in memory together, (AT_ONCE, N)."""


def measures_of(values: NDArray[np.float64], labels: NDArray[np.int32], seed: int) -> list[Measure]:
    """The mean of each column with its interval.

    Images are drawn with replacement within their class, so that each class keeps its number of images. Thresholds are
    not chosen again.

    Parameters
    ----------
    values : ndarray of float64, shape (N, M)
        M measures of N images.
    labels : ndarray of int32, shape (N,)
        Their classes.
    seed : int
        Of the resamples.
    """
    order = np.argsort(labels, kind="stable")
    values, labels = values[order], labels[order]
    _, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    N = len(labels)
    share = np.repeat(1 / (len(counts) * counts), counts)  # of an image in the mean over classes
    rng = np.random.default_rng(seed)
    means, class_means = [], []
    for _ in range(0, RESAMPLES, AT_ONCE):
        drawn = [rng.integers(start, start + n, (AT_ONCE, n)) for start, n in zip(starts, counts, strict=True)]
        picked = np.concatenate(drawn, axis=1)  # (AT_ONCE, N)
        flat = (np.arange(AT_ONCE)[:, None] * N + picked).ravel()
        weight = np.bincount(flat, minlength=AT_ONCE * N).reshape(AT_ONCE, N)
        means.append(weight @ values / N)
        class_means.append((weight * share) @ values)
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    over_images, over_classes = (
        np.quantile(np.concatenate(found), ends, axis=0).T.tolist() for found in (means, class_means)
    )
    return [
        Measure(mean, (own[0], own[1]), class_mean, (by_class[0], by_class[1]))
        for mean, own, class_mean, by_class in zip(
            values.mean(axis=0).tolist(), over_images, (share @ values).tolist(), over_classes, strict=True
        )
    ]
