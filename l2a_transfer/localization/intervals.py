"""Means over images and over classes, with bootstrap intervals; and the error of a paired difference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.evaluation.score import PSEUDO
from l2a_transfer.evaluation.statistics import CONFIDENCE
from l2a_transfer.localization.results import Measure

RESAMPLES = 2000
AT_ONCE = 100
"""Number of resamples whose weights are in memory together, (AT_ONCE, N)."""


def measures_of(values: NDArray[np.float64], labels: NDArray[np.int32], seed: int) -> list[Measure]:
    """The mean of each column with its interval.

    Images are resampled within their class, so each class keeps its number of images. Thresholds are not chosen again.

    Parameters
    ----------
    values : ndarray of float64, shape (N, M)
        M measures of N images.
    labels : ndarray of int32, shape (N,)
        Classes of the images.
    seed : int
        Random seed of the resamples.
    """
    order = np.argsort(labels, kind="stable")
    values, labels = values[order], labels[order]
    _, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    N = len(labels)
    share = np.repeat(1 / (len(counts) * counts), counts)  # weight of an image in the mean over classes
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


def paired_error(labels: NDArray[np.int32], difference: NDArray[np.float64]) -> tuple[float, float]:
    """Standard error over images of the mean over classes of `difference` (N,), and its degrees of freedom.

    The variance of a class is computed around its mean, with `PSEUDO` additional images that have the pooled variance
    of all classes, so that small classes do not seem to have no spread. (`images_error` of the evaluation computes it
    around 0, which suits right or wrong answers, but is far too large for overlaps.)

    Examples
    --------
    >>> paired_error(np.array([0, 0, 0, 0], dtype=np.int32), np.array([1.0, 2.0, 3.0, 4.0]))
    (0.6454972243679028, 3.0)
    """
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    N, K = len(labels), len(classes)
    squares: NDArray[np.float64] = np.zeros(K)
    if N > K:
        means = np.bincount(index, weights=difference) / counts
        squares += np.bincount(index, weights=(difference - means[index]) ** 2)
        pooled, freedom = float(squares.sum()) / (N - K), float(N - K)
    else:  # one image per class: around the overall mean
        pooled, freedom = (float(np.var(difference, ddof=1)) if N > 1 else 0.0), max(1.0, N - 1.0)
    variances = (squares + PSEUDO * pooled) / (counts - 1 + PSEUDO)
    return float((variances / counts).sum()) ** 0.5 / K, freedom
