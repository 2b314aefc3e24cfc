"""Accuracies, their 95 % intervals, and paired tests: over test rows, over draws that overlap, over training seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit
from scipy.stats import binomtest

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A value and its interval: fractions between 0 and 1, or between −1 and 1 where it is a difference."""

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


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Mean over classes of 2·TP / (2·TP + FP + FN); classes that are neither true nor predicted do not count."""
    right, truth, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    there = truth + predicted > 0
    return float(np.mean(2 * right[there] / (truth + predicted)[there]))


def top_k(scores: NDArray[np.float64], truth: NDArray[np.int32], k: int) -> NDArray[np.bool_]:
    """For each row, whether its true class is among the k best of scores (N, K). Ties count against the row."""
    own = np.take_along_axis(scores, truth[:, None].astype(np.intp), axis=1)  # (N, 1)
    better = (scores >= own).sum(axis=1) - 1  # its own score is not better than itself
    return np.asarray(better < k)


def corrected_t(values: Sequence[float], *, shared: float, low: float = 0.0, high: float = 1.0) -> Interval:
    """Mean over draws with the corrected resampled t interval of Nadeau and Bengio (2003), cut at `low` and `high`.

    mean ± t(0.975, J − 1) · sqrt((1/J + ρ/(1 − ρ)) · s²), with s² the sample variance of the J draws and ρ = `shared`
    the correlation that draws have because they share images, so that s²/J alone would be too small. Where all images
    are dealt into n_train and n_test, ρ = n_test/(n_train + n_test) gives their n_test/n_train. Raises: ValueError for
    J < 2.
    """
    mean, half, _ = _t_over_draws(values, shared)
    return Interval(mean, max(low, mean - half), min(high, mean + half))


def corrected_t_p(values: Sequence[float], *, shared: float) -> float:
    """Two-sided p of "the mean over draws is 0", by the same corrected t. Draws without spread give 0, or 1 at 0."""
    mean, _, error = _t_over_draws(values, shared)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(len(values) - 1, -abs(mean) / error))


def _t_over_draws(values: Sequence[float], shared: float) -> tuple[float, float, float]:
    """Mean, half width of the interval, standard error."""
    draws = len(values)
    if draws < 2:
        raise ValueError(f"an interval over draws needs at least two draws, got {draws}")
    if not 0 <= shared < 1:
        raise ValueError(f"shared must be at least 0 and below 1, got {shared}")
    error = float(np.sqrt((1 / draws + shared / (1 - shared)) * np.var(values, ddof=1)))
    return float(np.mean(values)), float(stdtrit(draws - 1, (1 + CONFIDENCE) / 2)) * error, error


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[Interval, float]:
    """Difference of two means with Welch's (1947) t interval, and its two-sided p. Raises: ValueError for n < 2."""
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a t interval needs at least two values on each side, got {len(a)} and {len(b)}")
    parts = [float(np.var(x, ddof=1)) / len(x) for x in (a, b)]
    difference, error = float(np.mean(a) - np.mean(b)), sum(parts) ** 0.5
    if error == 0:
        return Interval(difference, difference, difference), 1.0 if difference == 0 else 0.0
    freedom = sum(parts) ** 2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True))
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return Interval(difference, difference - half, difference + half), float(
        2 * stdtr(freedom, -abs(difference) / error)
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar p: rows that one model alone gets right are a fair coin's, if neither is better."""
    return 1.0 if only_a + only_b == 0 else float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def bootstrap_difference(
    truth: NDArray[np.int32],
    right_a: NDArray[np.bool_],
    right_b: NDArray[np.bool_],
    *,
    samples: int,
    rng: np.random.Generator,
) -> Interval:
    """Mean class accuracy of a minus that of b with the paired percentile bootstrap over test rows (N,).

    Rows are resampled within each class, the same ones for both models. A class's resample holds Multinomial counts of
    rows that only a, only b, or neither alone gets right, so that these are what is drawn.
    """
    total, value = np.zeros(samples), 0.0
    classes = np.unique(truth)
    for label in classes:
        own = truth == label
        n, a, b = int(own.sum()), int((right_a & ~right_b & own).sum()), int((right_b & ~right_a & own).sum())
        counts = rng.multinomial(n, [a / n, b / n, 1 - (a + b) / n], size=samples)
        total += (counts[:, 0] - counts[:, 1]) / n
        value += (a - b) / n
    return _percentiles(value / len(classes), total / len(classes))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given."""
    order = np.argsort(p, kind="stable")
    adjusted, running = [0.0] * len(p), 0.0
    for rank, k in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[k]))
        adjusted[k] = running
    return adjusted


def _percentiles(value: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
