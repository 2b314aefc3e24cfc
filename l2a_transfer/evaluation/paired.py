"""Two models on the same test images: a test and an interval for the difference of their mean class accuracies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import binom, binomtest

from l2a_transfer.evaluation.score import Outcomes

MOST_ATOMS = 1 << 20
"""The permutation distribution is enumerated up to this many sums; beyond that, permutations are drawn."""
PERMUTATIONS = 100_000
FIRST_ALONE, SECOND_ALONE, SAME = 0, 1, 2
VALUES = np.array([1.0, -1.0, 0.0])


@dataclass(frozen=True)
class PairedTest:
    """The difference of mean class accuracies of two models on one split, over K classes.

    `p` is the larger of two p values. `p_permutation`: the exact permutation test, which swaps the two models' answers
    image by image; its null hypothesis is that the models are exchangeable on every image. `p_score`: the stratified
    score test (see `score`), whose null hypothesis is a difference of 0, however it is distributed over the classes.
    `interval` agrees with `p`: it contains 0 if and only if `p` is at least 1 − `confidence`.
    """

    difference: float
    p_permutation: float
    p_score: float
    outcomes: Outcomes

    @property
    def p(self) -> float:
        return max(self.p_permutation, self.p_score)

    def interval(self, confidence: float) -> tuple[float, float]:
        """The differences that the score test does not reject at 1 − `confidence`, extended to 0 if the permutation
        test does not reject 0."""
        low, high = (float(end[0]) for end in self.outcomes.interval(confidence))
        if self.p >= 1 - confidence:
            return min(low, 0.0), max(high, 0.0)
        # The score test rejects 0, so a bound on the other side of 0 is a rounding error.
        smallest = float(np.finfo(np.float64).tiny)
        return (max(low, smallest), high) if self.difference > 0 else (low, min(high, -smallest))


def paired_test(
    truth: NDArray[np.int32], right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], *, rng: np.random.Generator
) -> PairedTest:
    """Mean class accuracy of a minus that of b on the same test images.

    Parameters
    ----------
    truth : ndarray of int32, shape (N,)
        Indices of classes.
    right_a, right_b : ndarray of bool, shape (N,)
        Whether each model's answer is right.
    rng : numpy.random.Generator
        Used if there are too many permutations to enumerate.

    Returns
    -------
    PairedTest
    """
    classes, index = np.unique(truth, return_inverse=True)
    counts = outcomes_of(index.astype(np.int32), right_a, right_b, len(classes))  # (K, 3)
    outcomes = Outcomes(counts[None].astype(np.float64), VALUES)
    if counts[:, FIRST_ALONE].sum() + counts[:, SECOND_ALONE].sum() == 0:
        return PairedTest(0.0, 1.0, 1.0, outcomes)
    permuted = permutation_p(counts[:, FIRST_ALONE], counts[:, SECOND_ALONE], counts.sum(axis=1), rng=rng)
    score = float(2 * ndtr(-np.abs(outcomes.statistic(0.0)[0])))
    return PairedTest(float(outcomes.estimate[0]), permuted, score, outcomes)


def outcomes_of(
    truth: NDArray[np.int32], right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], classes: int
) -> NDArray[np.int64]:
    """Counts (K, 3) of test images per class: only a right, only b right, both right or both wrong."""
    outcome = np.where(right_a == right_b, SAME, np.where(right_a, FIRST_ALONE, SECOND_ALONE))
    return np.bincount(truth * 3 + outcome, minlength=3 * classes).reshape(classes, 3)


def permutation_p(
    only_a: NDArray[np.int64],
    only_b: NDArray[np.int64],
    rows: NDArray[np.int64],
    *,
    rng: np.random.Generator,
    most: int = MOST_ATOMS,
) -> float:
    """Two-sided p of Σ_k (only_a − only_b)_k / rows_k, if the sign of each discordant image is a fair coin flip.

    Classes of equal size are merged, so with equal classes this is the sign test. The distribution is exact up to
    `most` sums; beyond that, `PERMUTATIONS` sums are drawn, and p is (1 + as large) / (1 + drawn), which is valid for
    any number of draws (Phipson and Smyth 2010).
    """
    sizes, group = np.unique(rows, return_inverse=True)
    discordant = np.bincount(group, weights=only_a + only_b).astype(np.int64)
    observed = abs(float((np.bincount(group, weights=only_a - only_b) / sizes).sum()))
    used = discordant > 0
    sizes, discordant = sizes[used], discordant[used]
    at_least = observed - 1e-9 * max(1.0, float((discordant / sizes).sum()))  # tolerates rounding errors
    if float(np.prod(discordant + 1.0)) > most:
        drawn = sum((2 * rng.binomial(d, 0.5, PERMUTATIONS) - d) / n for d, n in zip(discordant, sizes, strict=True))
        return float((1 + np.count_nonzero(np.abs(drawn) >= at_least)) / (1 + PERMUTATIONS))
    sums, weights = np.zeros(1), np.ones(1)
    for d, n in zip(discordant, sizes, strict=True):
        heads = np.arange(d + 1)
        sums = np.add.outer(sums, (2 * heads - d) / n).ravel()
        weights = np.multiply.outer(weights, binom.pmf(heads, d, 0.5)).ravel()
    return min(1.0, float(weights[np.abs(sums) >= at_least].sum()))


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p of McNemar's test. It weights all images, not all classes, equally.

    Under equal accuracy, an image that only one model gets right is equally likely to be either's.

    Examples
    --------
    >>> mcnemar(3, 1)
    0.625
    """
    return 1.0 if only_a + only_b == 0 else float(binomtest(only_a, only_a + only_b, 0.5).pvalue)
