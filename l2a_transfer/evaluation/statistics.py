"""Accuracies and their 95 % intervals: over test rows, over overlapping draws, over training seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

from l2a_transfer.evaluation.confusion import Confusion
from l2a_transfer.evaluation.score import PSEUDO, Outcomes

CONFIDENCE = 0.95
RIGHT_OR_WRONG = np.array([1.0, 0.0])
FEW_IMAGES = 10
"""Below this number of test images of a class, a warning says that little is known of it."""
NO_SPREAD = 1e-10
"""Standard deviation of accuracies below which they are considered equal."""


@dataclass(frozen=True)
class Interval:
    """A value and its interval: fractions between 0 and 1, or between −1 and 1 for a difference."""

    value: float
    low: float
    high: float


def accuracy(confusion: Confusion) -> float:
    """Share of test rows that are right."""
    return float(confusion.right.sum() / confusion.tested.sum())


def mean_class_accuracy(confusion: Confusion) -> float:
    """Mean over classes of the share of their rows that are right; classes without rows are ignored."""
    rows = confusion.tested  # (K,)
    return float(np.mean(confusion.right[rows > 0] / rows[rows > 0]))


def accuracy_interval(confusion: Confusion) -> Interval:
    """Accuracy with Wilson's (1927) score interval over test rows."""
    return share_interval(int(confusion.right.sum()), int(confusion.tested.sum()))


def share_interval(right: int, rows: int) -> Interval:
    """The share `right` of `rows`, at least one, with Wilson's (1927) score interval.

    Examples
    --------
    >>> found = share_interval(8, 10)
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.8, 0.49, 0.943)
    """
    return _score_interval(np.array([[right, rows - right]], dtype=np.float64))


def mean_class_accuracy_interval(confusion: Confusion) -> Interval:
    """Mean class accuracy with the score interval over test rows, for fixed numbers of rows per class."""
    rows = confusion.tested  # (K,)
    right, rows = confusion.right[rows > 0], rows[rows > 0]
    return _score_interval(np.stack([right, rows - right], axis=1).astype(np.float64))


def _score_interval(counts: NDArray[np.float64]) -> Interval:
    """Counts (K, 2) of right and wrong rows."""
    outcomes = Outcomes(counts[None], RIGHT_OR_WRONG)
    low, high = outcomes.interval(CONFIDENCE)
    return Interval(float(outcomes.estimate[0]), float(low[0]), float(high[0]))


def macro_f1(confusion: Confusion) -> float:
    """Mean over classes of 2·TP / (2·TP + FP + FN); classes neither true nor predicted are ignored."""
    right, truth, predicted = confusion.right, confusion.tested, confusion.answered
    there = truth + predicted > 0
    return float(np.mean(2 * right[there] / (truth + predicted)[there]))


def top_k(scores: NDArray[np.float64], truth: NDArray[np.int32], k: int) -> NDArray[np.bool_]:
    """For each row, whether its true class is among the k best scores. Ties count against the row.

    Parameters
    ----------
    scores : ndarray of float64, shape (N, K)
    truth : ndarray of int32, shape (N,)
        Indices of classes.
    k : int

    Returns
    -------
    ndarray of bool, shape (N,)

    Examples
    --------
    >>> top_k(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), np.array([2, 0]), 1).tolist()
    [False, False]
    """
    own = np.take_along_axis(scores, truth[:, None].astype(np.intp), axis=1)  # (N, 1)
    better = (scores >= own).sum(axis=1) - 1  # its own score is not better than itself
    return np.asarray(better < k)


@dataclass(frozen=True)
class StudentT:
    """A mean with its standard error and degrees of freedom: two-sided p of "it is 0", and the matching interval."""

    difference: float
    error: float
    freedom: float

    @property
    def p(self) -> float:
        return float(2 * stdtr(self.freedom, -abs(self.difference) / self.error))

    def interval(self, confidence: float) -> tuple[float, float]:
        half = float(stdtrit(self.freedom, (1 + confidence) / 2)) * self.error
        return self.difference - half, self.difference + half


@dataclass(frozen=True)
class OverDraws:
    """A mean over draws with two tests: the corrected t over its `draws`, and the score test over their test `images`.
    The larger p and the wider interval are used.

    A few draws of a few images can agree by chance, above all if they share test images; the t alone would then be far
    too optimistic.
    """

    draws: StudentT
    images: Outcomes

    @property
    def difference(self) -> float:
        return self.draws.difference

    @cached_property
    def p(self) -> float:
        return max(self.draws.p, float(2 * ndtr(-abs(self.images.statistic(0.0)[0]))))

    def interval(self, confidence: float) -> tuple[float, float]:
        low, high = (float(end[0]) for end in self.images.interval(confidence))
        t_low, t_high = self.draws.interval(confidence)
        return min(low, t_low), max(high, t_high)


def pooled(
    counts: NDArray[np.int64],
    values: NDArray[np.float64],
    different: NDArray[np.int64],
    *,
    draws: int,
    shared: float,
) -> Outcomes:
    """Outcomes of all draws together, `counts` (K, J), scaled down to fewer test images; the estimate is the mean over
    draws.

    A class counts as the `different` (K,) test images that it has in all draws. With fewer than `FEW_IMAGES` per draw,
    it counts as at most n / (1/J + ρ/(1 − ρ)), as in the corrected t: all its images are classified from nearly the
    same few training images, so their results are correlated.
    """
    tested = counts.sum(axis=1)  # (K,)
    kept = tested > 0
    counts, tested = counts[kept], tested[kept]
    a_draw = tested / draws
    fewest = np.minimum(different[kept], a_draw / _correction(draws, shared))
    images = np.where(a_draw < FEW_IMAGES, fewest, different[kept])
    return Outcomes((counts / tested[:, None] * images[:, None])[None], values)


def _correction(draws: int, shared: float) -> float:
    """Factor from the variance of one draw to that of the mean."""
    return 1 / draws + shared / (1 - shared)


def corrected_resampled_t(values: Sequence[float], *, shared: float) -> StudentT | None:
    """Mean over draws by the corrected resampled t [1]_.

    The squared error is (1/J + ρ/(1 − ρ)) · s², with s² the sample variance of the J draws. Draws are correlated
    because they share images, so s²/J alone would be too small. If all images are divided into n_train and n_test, ρ =
    n_test/(n_train + n_test) gives n_test/n_train, as in the paper.

    Parameters
    ----------
    values : sequence of float, shape (J,)
        The measure in each draw.
    shared : float
        ρ, the correlation of two draws, at least 0 and below 1.

    Returns
    -------
    StudentT or None
        None if all draws are equal, because the spread cannot be estimated.

    Raises
    ------
    ValueError
        If there are fewer than two draws, or if `shared` is out of range.

    References
    ----------
    .. [1] C. Nadeau, Y. Bengio. Inference for the generalization error. Machine Learning 52, 2003.

    Examples
    --------
    >>> found = corrected_resampled_t([0.5, 0.6, 0.7], shared=0.5)
    >>> round(found.difference, 3), round(found.error, 4), found.freedom
    (0.6, 0.1155, 2)
    """
    draws = len(values)
    if draws < 2:
        raise ValueError(f"an interval over draws needs at least two draws, got {draws}")
    if not 0 <= shared < 1:
        raise ValueError(f"shared must be at least 0 and below 1, got {shared}")
    spread = float(np.std(values, ddof=1))
    if spread < NO_SPREAD:
        return None
    return StudentT(float(np.mean(values)), _correction(draws, shared) ** 0.5 * spread, draws - 1)


def over_draws(values: Sequence[float], images: Outcomes, *, shared: float) -> OverDraws | None:
    """The mean of `values` over draws; None as in `corrected_resampled_t`."""
    found = corrected_resampled_t(values, shared=shared)
    return None if found is None else OverDraws(found, images)


def interval_over_draws(values: Sequence[float], images: Outcomes, *, shared: float) -> Interval:
    """The mean of accuracies over draws with the wider of two intervals, clipped to [0, 1]; without spread between
    draws, the interval over their test images."""
    mean = float(np.mean(values))
    found = over_draws(values, images, shared=shared)
    low, high = found.interval(CONFIDENCE) if found else (float(end[0]) for end in images.interval(CONFIDENCE))
    return Interval(mean, max(low, 0.0), min(high, 1.0))


def over_seeds(
    a: Sequence[float], b: Sequence[float], *, images: float, freedom: float, fixed: bool = False
) -> StudentT | None:
    """Difference of two architectures' means over training seeds, with the sum of two sources of error.

    Seeds: s_a²/n_a + s_b²/n_b, as in Welch's t [1]_. Images: the error of the same difference over test images. The
    degrees of freedom of the sum are from Welch and Satterthwaite.

    Parameters
    ----------
    a, b : sequence of float
        The measure of each training seed.
    images : float
        Standard error of the difference over test images, or over draws.
    freedom : float
        Degrees of freedom of `images`.
    fixed : bool
        Whether b is not a sample of seeds and does not contribute to their error.

    Returns
    -------
    StudentT or None
        None if the seeds of a side do not differ, because their spread cannot be estimated.

    Raises
    ------
    ValueError
        If a side that is a sample has fewer than two seeds.

    References
    ----------
    .. [1] B. L. Welch. The generalization of 'Student's' problem when several different population variances are
       involved. Biometrika 34, 1947.
    """
    if len(a) < 2 or (len(b) < 2 and not fixed):
        raise ValueError(f"a t interval needs at least two values on each side, got {len(a)} and {len(b)}")
    sides = [(1.0, a), (-1.0, [float(np.mean(b))] if fixed else b)]
    if any(len(side) > 1 and _spread(side) == 0 for _, side in sides):
        return None
    return contrast_over_seeds(sides, images=images, freedom=freedom)


def contrast_over_seeds(
    sides: Sequence[tuple[float, Sequence[float]]], *, images: float, freedom: float
) -> StudentT | None:
    """Σ weight · mean over (weight, values of its training seeds) of each side, with the two errors of `over_seeds`.

    A side with one value is not a sample of seeds and does not contribute to their error. Nor does a side whose seeds
    are equal: its variance s² is 0. None if no source of error is left. `scipy.stats.ttest_ind` is not used because it
    has no place for weights or for a third error, that of the test images.
    """
    parts = [(w**2 * _spread(side) ** 2 / len(side), len(side) - 1.0) for w, side in sides if len(side) > 1]
    parts.append((images**2, freedom))
    total = sum(part for part, _ in parts)
    if total == 0:
        return None
    satterthwaite = total**2 / sum(part**2 / own for part, own in parts)
    return StudentT(sum(weight * float(np.mean(side)) for weight, side in sides), total**0.5, satterthwaite)


def _spread(values: Sequence[float]) -> float:
    """The sample standard deviation; 0 if it is only rounding."""
    found = float(np.std(values, ddof=1))
    return 0.0 if found < NO_SPREAD else found


def images_error(truth: NDArray[np.int32], difference: NDArray[np.float64]) -> tuple[float, float]:
    """Standard error over test images of the mean over classes of `difference` (N,), and its degrees of freedom N − 1.

    Computed around 0 and with `PSEUDO` images of all classes together in each class, so it is rather too large.
    """
    classes, index = np.unique(truth, return_inverse=True)
    rows = np.bincount(index)  # (K,)
    squares = np.bincount(index, weights=difference**2) + PSEUDO * float(np.mean(difference**2))
    variance = float((squares / (rows + PSEUDO) / rows).sum()) / len(classes) ** 2
    return variance**0.5, max(1.0, len(truth) - 1.0)


def bonferroni(p: float, comparisons: int) -> float:
    """The p of one of several planned comparisons, adjusted for all of them."""
    return min(1.0, p * comparisons)
