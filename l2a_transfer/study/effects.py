"""Random effects: the mean of differences whose true values may vary between targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from l2a_transfer.evaluation.statistics import StudentT, contrast_over_seeds


@dataclass(frozen=True)
class RandomEffects:
    """The random-effects mean of the differences on k targets.

    Attributes
    ----------
    test : StudentT
        The mean, its standard error, and k − 1 degrees of freedom.
    tau : float
        The standard deviation of the true differences between targets.
    q : float
        Cochran's Q.
    factor : float
        The factor of Hartung and Knapp, before it is raised to at least 1.
    weights : tuple of float
        The weight of each target; their sum is 1.
    """

    test: StudentT
    tau: float
    q: float
    factor: float
    weights: tuple[float, ...]

    @property
    def i2(self) -> float:
        """The share of the spread of differences that sampling does not explain, 0 to 1 (Higgins and Thompson 2002)."""
        return max(0.0, (self.q - self.test.freedom) / self.q) if self.q > 0 else 0.0


def random_effects(differences: Sequence[float], variances: Sequence[float]) -> RandomEffects:
    """The random-effects mean of differences on k targets.

    τ² is the estimate of Paule and Mandel (1982): the value for which Σ w (y − μ)² = k − 1, with w = 1/(v + τ²) and μ
    the weighted mean; 0 if the differences spread less than that. The squared error of the mean is f / Σ w with k − 1
    degrees of freedom, where f = Σ w (y − μ)² / (k − 1) is the factor of Hartung and Knapp (2001), raised to at least 1
    (Knapp and Hartung 2003). Without this, targets that agree by chance, as two easily do, would give an interval that
    is narrower than that of each target: ± 0.6 for two targets that are 0.1 apart with errors of 1.

    Parameters
    ----------
    differences : sequence of float, length k
        The difference on each target.
    variances : sequence of float, length k
        Their squared standard errors.

    Raises
    ------
    ValueError
        For fewer than two targets, or a variance that is not positive.
    """
    y, v = np.asarray(differences, dtype=np.float64), np.asarray(variances, dtype=np.float64)  # (k,)
    if y.ndim != 1 or y.shape != v.shape or len(y) < 2:
        raise ValueError(f"a random-effects mean needs two targets or more, got {y.shape} and {v.shape}")
    if not (np.isfinite(y).all() and np.isfinite(v).all() and (v > 0).all()):
        raise ValueError("differences must be finite, and variances positive")
    tau2 = _paule_mandel(y, v)
    w = 1 / (v + tau2)
    mean, spread = _weighted(y, w)
    factor = spread / (len(y) - 1)
    error = (max(1.0, factor) / float(w.sum())) ** 0.5
    return RandomEffects(
        StudentT(mean, error, len(y) - 1.0), tau2**0.5, _weighted(y, 1 / v)[1], factor, tuple((w / w.sum()).tolist())
    )


def over_runs(
    sides: Sequence[tuple[float, NDArray[np.float64]]], images: Sequence[float], effects: RandomEffects
) -> StudentT | None:
    """The same mean over k targets as `effects`, with the training run as the unit.

    The targets share their networks, so a lucky seed shifts all differences together. `random_effects` counts them as
    independent. Here each run first gets one number, the mean of its values over the targets with the weights of
    `effects`. These numbers are compared over seeds, as on a single target. The squared error over test images is
    Σ ω² (e² + τ²), with ω the weight of a target and e its error over test images, and k − 1 degrees of freedom.

    Parameters
    ----------
    sides : sequence of (float, ndarray of float64, shape (runs, k))
        The factor of each network in the contrast, and the values of its runs on each target.
    images : sequence of float, length k
        The standard error of the contrast over test images on each target.
    effects : RandomEffects
        The random-effects mean of the contrast on the same targets.

    Returns
    -------
    StudentT or None
        None if there is no source of error.
    """
    weights = np.asarray(effects.weights)  # (k,)
    variances = np.asarray(images, dtype=np.float64) ** 2 + effects.tau**2  # (k,)
    error = float((weights**2 * variances).sum()) ** 0.5
    of_runs = [(factor, (values @ weights).tolist()) for factor, values in sides]
    return contrast_over_seeds(of_runs, images=error, freedom=len(weights) - 1.0)


def _weighted(y: NDArray[np.float64], w: NDArray[np.float64]) -> tuple[float, float]:
    """The weighted mean μ, and Σ w (y − μ)²."""
    mean = float((w * y).sum() / w.sum())
    return mean, float((w * (y - mean) ** 2).sum())


def _paule_mandel(y: NDArray[np.float64], v: NDArray[np.float64]) -> float:
    """τ² ≥ 0. The spread falls as τ² grows, and at the sample variance times k it is below k − 1."""

    def beyond(tau2: float) -> float:
        return _weighted(y, 1 / (v + tau2))[1] - (len(y) - 1)

    if beyond(0.0) <= 0:
        return 0.0
    return float(brentq(beyond, 0.0, len(y) * float(np.var(y, ddof=1)), xtol=1e-18, rtol=1e-14))
