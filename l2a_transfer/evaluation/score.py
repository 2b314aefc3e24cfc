"""Score intervals of a mean over classes: Wilson's interval for classes of any size, even if a class has no spread.

R replicates (one, outside of simulations), K classes, J outcomes of a test image. An outcome has a value in `values`
(J,): 1 and 0 for right and wrong; 1, −1 and 0 if only the first model, only the second, or both or neither are right.
The estimate is the mean over classes of the mean outcome: mean class accuracy, or a difference of two.

"The mean is θ" is tested with the score statistic (θ̂ − θ) / sqrt(V(θ)), and the interval contains every θ that is not
rejected (Wilson 1927; Miettinen and Nurminen 1985; Tango 1998). V(θ) = Σ_k Var_k / n_k / K², with Var_k from the
maximum likelihood outcome shares under mean θ: share_j = count_j / (ν_k − μ value_j), with ν_k such that they sum to 1,
and μ, common to all classes, such that the mean is θ. With few images per class, shares fitted class by class would
make V too small, and a class in which all images are right would have zero variance; so each class also gets `PSEUDO`
images with the outcomes of all classes together (Agresti and Coull 1998 add as many). For a single class with two
outcomes, this is exactly Wilson's interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]

PSEUDO = 4.0
"""How many pseudo-images each class gets, with the outcomes of all classes together."""
PRIOR = 0.5
"""How many images are spread evenly over the outcomes, so that no outcome is impossible."""
STEPS = 46
"""Bisection steps; Newton's method takes fewer."""
LARGEST = 1e8
"""Upper limit of |μ| in units of the largest class; there the mean is within about 1e-8 of its bound."""


@dataclass(frozen=True)
class Outcomes:
    """`counts` (R, K, J) of test images by class and outcome, each class with at least one; `values` (J,)."""

    counts: Array
    values: Array

    @property
    def estimate(self) -> Array:
        """(R,): the mean over classes of the mean outcome."""
        means = (self.counts * self.values).sum(axis=2) / self.counts.sum(axis=2)  # (R, K)
        estimate: Array = means.mean(axis=1)
        return estimate

    def statistic(self, value: float) -> Array:
        """(R,): the score statistic of "the mean is `value`"; standard normal if that is true."""
        shrunk = self._shrunk()

        def above(mu: Array) -> NDArray[np.bool_]:
            return self._moments(shrunk, mu)[0] > value

        variance = self._moments(shrunk, self._root(above))[1]
        statistic: Array = (self.estimate - value) / np.sqrt(np.maximum(variance, 1e-300))
        return statistic

    def interval(self, confidence: float) -> tuple[Array, Array]:
        """(R,) and (R,): the lowest and highest mean that the score test does not reject."""
        z = float(ndtri((1 + confidence) / 2))
        # Both bounds in one search: the lower ones of all replicates, then the upper ones.
        shrunk, estimate = np.tile(self._shrunk(), (2, 1, 1)), np.tile(self.estimate, 2)
        side = np.repeat([-1.0, 1.0], len(self.counts))

        def beyond(mu: Array) -> NDArray[np.bool_]:
            mean, variance = self._moments(shrunk, mu)
            return mean - estimate > side * z * np.sqrt(variance)

        low, high = np.split(self._moments(shrunk, self._root(beyond, replicates=2))[0], 2)
        estimate = self.estimate
        least, most = float(self.values.min()), float(self.values.max())
        tiny = 1e-9  # no mean lies beyond an estimate at its bound
        low, high = np.minimum(low, estimate), np.maximum(high, estimate)
        return np.where(low < least + tiny, least, low), np.where(high > most - tiny, most, high)

    def _shrunk(self) -> Array:
        """(R, K, J): the counts including the pseudo-images."""
        total = self.counts.sum(axis=1, keepdims=True) + PRIOR / len(self.values)  # (R, 1, J)
        shrunk: Array = self.counts + PSEUDO * total / total.sum(axis=2, keepdims=True)
        return shrunk

    def _moments(self, shrunk: Array, mu: Array) -> tuple[Array, Array]:
        """Mean (R,) and V (R,) if the shares of the classes are shifted by `mu` (R,)."""
        moved = mu[:, None, None] * self.values
        gap = moved.max(axis=2, keepdims=True) - moved  # (R, 1, J), 0 for the favoured outcome
        # Σ_j count_j / (η + gap_j) = 1 with η = ν − max(μ value): convex and decreasing, so Newton's method from the
        # left increases monotonically.
        eta = (shrunk - gap).max(axis=2, keepdims=True)  # (R, K, 1)
        for _ in range(STEPS):
            share = shrunk / (eta + gap)
            excess = share.sum(axis=2, keepdims=True) - 1
            eta += excess / (share / (eta + gap)).sum(axis=2, keepdims=True)
            if excess.max() < 1e-12:
                break
        share = shrunk / (eta + gap)  # (R, K, J)
        mean = share @ self.values  # (R, K)
        variance = np.maximum(share @ self.values**2 - mean**2, 0)
        K = mean.shape[1]
        rows = np.tile(self.counts.sum(axis=2), (len(mu) // len(self.counts), 1))
        return mean.mean(axis=1), (variance / rows).sum(axis=1) / K**2

    def _root(self, passed: Callable[[Array], NDArray[np.bool_]], *, replicates: int = 1) -> Array:
        """(R · `replicates`,): the smallest μ for which `passed(μ)` holds; bisects x, with μ = size · x / (1 − |x|)."""
        size = np.tile(self.counts.sum(axis=2).max(axis=1), replicates)
        high = np.full(len(size), LARGEST / (1 + LARGEST))
        low = -high
        for _ in range(STEPS):
            middle = (low + high) / 2
            there = passed(size * middle / (1 - np.abs(middle)))
            high, low = np.where(there, middle, high), np.where(there, low, middle)
        root: Array = size * high / (1 - np.abs(high))
        return root
