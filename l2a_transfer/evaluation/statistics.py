"""Accuracies and their 95 % intervals: a bootstrap over test rows, and the corrected t over draws that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A value and its interval, all fractions between 0 and 1."""

    value: float
    low: float
    high: float


def confusion_matrix(truth: NDArray[np.int32], predicted: NDArray[np.int32], classes: int) -> NDArray[np.int64]:
    """Counts (K, K): row the true class, column the predicted one. Labels (N,) lie between 0 and K − 1."""
    cells = truth.astype(np.int64) * classes + predicted
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of rows on the diagonal of (K, K)."""
    return float(np.trace(confusion) / confusion.sum())


def mean_class_accuracy(confusion: NDArray[np.int64]) -> float:
    """Mean over classes of the share of their rows that are right; classes without a row do not count."""
    rows = confusion.sum(axis=1)  # (K,)
    return float(np.mean(np.diag(confusion)[rows > 0] / rows[rows > 0]))


def bootstrap_accuracy(confusion: NDArray[np.int64], *, samples: int, rng: np.random.Generator) -> Interval:
    """Accuracy with the percentile bootstrap over test rows (Efron 1979).

    A resample of n rows with replacement, of which the share p is right, has Binomial(n, p) right rows; so that is
    what is drawn, which is the same distribution as indexing rows and costs one number a sample.
    """
    rows, value = int(confusion.sum()), accuracy(confusion)
    return _percentiles(value, rng.binomial(rows, value, size=samples) / rows)


def bootstrap_mean_class_accuracy(confusion: NDArray[np.int64], *, samples: int, rng: np.random.Generator) -> Interval:
    """Mean class accuracy with the percentile bootstrap over test rows, resampled within each class.

    Each class keeps its number of rows, so that no class can vanish from a resample. A class with one test row adds
    no spread: with so few rows the interval is too narrow.
    """
    rows = confusion.sum(axis=1)  # (K,)
    right, rows = np.diag(confusion)[rows > 0], rows[rows > 0]
    total = np.zeros(samples)
    for n, p in zip(rows, right / rows, strict=True):
        total += rng.binomial(n, p, size=samples) / n
    return _percentiles(mean_class_accuracy(confusion), total / len(rows))


def corrected_t(values: Sequence[float], *, train_rows: int, test_rows: int) -> Interval:
    """Mean over draws with the corrected resampled t interval of Nadeau and Bengio (2003), cut at 0 and 1.

    mean ± t(0.975, J − 1) · sqrt((1/J + n_test/n_train) · s²), with s² the sample variance of the J draws. The draws
    share rows, so that s²/J alone would be too small; n_test/n_train corrects for that. Raises: ValueError for J < 2.
    """
    draws = len(values)
    if draws < 2:
        raise ValueError(f"an interval over draws needs at least two draws, got {draws}")
    mean = float(np.mean(values))
    variance = (1 / draws + test_rows / train_rows) * float(np.var(values, ddof=1))
    half = float(stdtrit(draws - 1, (1 + CONFIDENCE) / 2)) * variance**0.5
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def _percentiles(value: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
