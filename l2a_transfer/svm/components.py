"""The first principal components of many rows, by subspace iteration that may start from those of similar rows.

N rows, D columns, k components; b directions are iterated, twice as many as are kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from sklearn.base import BaseEstimator, TransformerMixin

TOLERANCE = 5e-5
"""Largest share of the variance of the exact components that may be lost."""
OVERSAMPLING = 2
LEAST_RATIO = 0.25
"""Lowest assumed ratio by which an iteration reduces the missing variance."""
MAX_ITERATIONS = 50

Array = NDArray[np.float64]
Single = NDArray[np.float32]


class LeadingComponents(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Principal components with all but a share `TOLERANCE` of the variance of the exact ones.

    Uses subspace iteration [1]_ in float32, with directions orthogonalized in float64. Each component's largest loading
    is positive. The iteration stops if the remaining gain, estimated from the last gain and the rate of convergence, is
    below the tolerance. It costs a few products with X if `start` is close. If it does not stop within MAX_ITERATIONS,
    exact components are computed.

    Parameters
    ----------
    n_components : int
        Number of components k, below N and D.
    seed : int, default=0
        Random seed of the initial directions without `start`.
    start : ndarray (D, b), optional
        Initial directions, such as the `directions_` of other rows. They change the result only within the tolerance.

    Attributes
    ----------
    components_ : ndarray (k, D)
        Orthonormal, by decreasing variance.
    explained_variance_ : ndarray (k,)
        Variance of the rows along each component.
    mean_ : ndarray (D,)
        Mean of the rows.
    directions_ : ndarray (D, b) float32
        Final directions of the iteration.

    References
    ----------
    .. [1] N. Halko, P.-G. Martinsson, J. A. Tropp: Finding structure with randomness. SIAM Review 53(2), 2011.
    """

    def __init__(self, n_components: int, *, seed: int = 0, start: Single | None = None) -> None:
        self.n_components = n_components
        self.seed = seed
        self.start = start

    def fit(self, X: Any, y: Any = None) -> LeadingComponents:
        """Find the components of rows (N, D)."""
        self._fit(np.asarray(X, dtype=np.float64))
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Array:
        """Find the components of rows (N, D), and return the rows projected on them (N, k)."""
        X = np.asarray(X, dtype=np.float64)
        self._fit(X)
        return self.transform(X)

    def transform(self, X: Any) -> Array:
        """Project rows (N, D) → (N, k)."""
        along: Array = np.asarray(X, dtype=np.float64) @ self.components_.T
        along -= self.mean_ @ self.components_.T
        return along

    def _fit(self, X: Array) -> None:
        (N, D), k = X.shape, self.n_components
        self.mean_ = X.mean(axis=0)
        centred: Single = np.subtract(X, self.mean_, dtype=np.float64).astype(np.float32)  # (N, D)
        b = min(OVERSAMPLING * k, N, D)
        start = self.start
        if start is None:
            start = np.random.default_rng(self.seed).standard_normal((D, b), dtype=np.float32)
        Q, held = _orthonormal(start), 0.0
        for iteration in range(MAX_ITERATIONS):
            along = centred @ Q  # (N, b)
            moment = (along.T @ along).astype(np.float64)
            values, vectors = np.linalg.eigh(moment)  # ascending
            values = values.clip(min=0)
            gained, held = float(values[-k:].sum()) - held, float(values[-k:].sum())
            # Each iteration reduces the missing variance by this ratio (the squared ratio of variances). Directions
            # that have not converged understate it, and the variance of the first ones says nothing about their gain.
            ratio = max(float((values[0] / max(values[-k], np.finfo(float).tiny)) ** 2), LEAST_RATIO)
            if b == D or (iteration > 0 and gained * ratio <= TOLERANCE * held * (1 - ratio)):
                break
            Q = _orthonormal(centred.T @ along)  # (D, b)
        else:  # convergence is too slow for the tolerance
            exact = np.linalg.svd(X - self.mean_, full_matrices=False)
            Q, vectors = exact.Vh[:b].T.astype(np.float32), np.eye(b)[:, ::-1]
            values = np.square(exact.S[:b])[::-1]
        self.directions_ = Q
        components = _orthonormal(Q @ vectors[:, : -k - 1 : -1], np.float64)  # (D, k), by decreasing variance
        largest = components[np.abs(components).argmax(axis=0), np.arange(k)]
        self.components_ = (components * np.where(largest < 0, -1, 1)).T
        self.explained_variance_ = values[: -k - 1 : -1] / max(1, N - 1)


def _orthonormal(Y: NDArray[Any], dtype: Any = np.float32) -> Any:
    """An orthonormal basis of the columns of Y (D, b). It uses Cholesky factors of their products twice, which is
    orthonormal up to rounding, or a QR decomposition if the columns are nearly dependent."""
    Q = Y / np.linalg.norm(Y, axis=0).clip(min=np.finfo(np.float32).tiny)
    for _ in range(2):
        try:
            factor = np.linalg.cholesky((Q.T @ Q).astype(np.float64))
        except np.linalg.LinAlgError:
            Q = np.linalg.qr(Y.astype(np.float64))[0]
            break
        Q = solve_triangular(factor.astype(Q.dtype), Q.T, lower=True, check_finite=False).T
    return np.ascontiguousarray(Q, dtype=dtype)
