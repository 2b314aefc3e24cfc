"""LogME: how well features suit labels, computed from training rows without a classifier.

You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning": for each class, the log
evidence of a Bayesian linear regression from the features to 1 for the class and 0 for the others, maximized over the
precisions α of the weights and β of the noise; divided by the number of rows, and averaged over the classes. The paper
finds the maximum by a short fixed-point iteration. Here σ² = 1/β is computed in closed form, and a search over t = α/β
finds the same maximum and cannot diverge.

LEEP needs class probabilities from the source network's own classifier, which feature files do not contain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.svm.rows import LazyRows

Array = NDArray[np.float64]
BLOCK_ROWS = 8192
COARSE, FINE, ROUNDS = 61, 9, 8
"""Numbers of values of log t: first over the whole range, then in each of the rounds between the neighbours of the
best."""
LEAST, MOST = 1e-10, 1e10
"""Range of t, in units of the largest squared singular value."""
RANK = 1e-12
"""Squared singular values below this share of the largest one are rounding errors."""


def logme(features: NDArray[np.floating] | LazyRows, labels: NDArray[np.int32]) -> float:
    """The LogME score of training rows; higher is better. Scores are comparable only on the same rows.

    Parameters
    ----------
    features : ndarray or LazyRows, shape (N, D)
        Features as stored: neither centred nor scaled, as in the paper. They are read in blocks if D ≤ N.
    labels : ndarray of int32, shape (N,)
        Labels of at least two classes.

    Returns
    -------
    float
        Mean over the classes of the log evidence per row (natural logarithm).

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.arange(40, dtype=np.int32) % 2
    >>> noise = np.random.default_rng(0).normal(size=(40, 3))
    >>> bool(logme(noise + labels[:, None], labels) > logme(noise, labels))
    True
    """
    targets = np.unique(labels, return_inverse=True)[1]
    rows = np.bincount(targets).astype(np.float64)  # (K,)
    squares, projected = _spectrum(features, targets)  # (r,), (r, K)
    if not len(squares):
        squares, projected = np.ones(1), np.zeros((1, len(rows)))
    outside = np.maximum(rows - projected.sum(axis=0), 0)  # part of yᵀy, (K,)
    low, high = np.log(LEAST * squares.max()), np.log(MOST * squares.max())
    tried = np.linspace(low, high, COARSE)
    evidence = _evidence(np.exp(tried)[:, None], squares, projected, outside, len(targets))  # (T, K)
    best = evidence.argmax(axis=0)
    centre, step, found = tried[best], tried[1] - tried[0], evidence.max(axis=0)
    for _ in range(ROUNDS):
        near = centre + np.linspace(-step, step, FINE)[:, None]  # (T, K)
        evidence = _evidence(np.exp(near), squares, projected, outside, len(targets))
        centre = np.take_along_axis(near, evidence.argmax(axis=0)[None], axis=0)[0]
        found, step = np.maximum(found, evidence.max(axis=0)), step * 2 / (FINE - 1)
    return float(np.mean(found) / len(targets))


def _evidence(t: Array, squares: Array, projected: Array, outside: Array, N: int) -> Array:
    """Log evidence (T, K) at t (T, 1) or (T, K), with the most likely noise."""
    found = np.empty((len(t), projected.shape[1]))
    for k, own in enumerate(t):
        shrunk = own / (squares[:, None] + own)  # (r, 1) or (r, K)
        variance = np.maximum((outside + (projected * shrunk).sum(axis=0)) / N, 1e-300)
        found[k] = -0.5 * N * (np.log(2 * np.pi * variance) + 1) + 0.5 * np.log(shrunk).sum(axis=0)
    return found


def _spectrum(features: NDArray[np.floating] | LazyRows, targets: NDArray[np.intp]) -> tuple[Array, Array]:
    """Squared singular values (r,) of the features, and (uᵀy)² (r, K) of each left singular vector and class."""
    N, D = features.shape
    one_hot = np.eye(int(targets.max()) + 1)
    if N < D:
        matrix = _block(features, 0, N)
        squares, vectors = np.linalg.eigh(matrix @ matrix.T)
        kept = squares > RANK * max(squares[-1], 0)
        return squares[kept], (vectors[:, kept].T @ one_hot[targets]) ** 2
    gram, products = np.zeros((D, D)), np.zeros((D, len(one_hot)))
    for start in range(0, N, BLOCK_ROWS):
        block = _block(features, start, min(N, start + BLOCK_ROWS))
        gram += block.T @ block
        products += block.T @ one_hot[targets[start : start + len(block)]]
    squares, vectors = np.linalg.eigh(gram)
    kept = squares > RANK * max(squares[-1], 0)
    return squares[kept], (vectors[:, kept].T @ products) ** 2 / squares[kept][:, None]


def _block(features: NDArray[np.floating] | LazyRows, start: int, stop: int) -> Array:
    return np.asarray(features[start:stop], dtype=np.float64)
