"""Similarity of two maps of one image: rank correlation, structural similarity, and histograms of gradients.

All four measures are 1 for identical maps, and do not change if a map is scaled or shifted, except that Spearman's
correlation of absolute values changes if values are shifted across zero. For a constant map, the similarity is NaN.

.. [1] Z. Wang et al.: Image Quality Assessment: From Error Visibility to Structural Similarity. IEEE TIP 2004.
.. [2] N. Dalal, B. Triggs: Histograms of Oriented Gradients for Human Detection. CVPR 2005.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.stats import rankdata

from l2a_transfer.errors import ArgumentError

MEASURES = ("spearman", "spearman_abs", "ssim", "hog")
MEANS = {
    "spearman": "Spearman's rank correlation",
    "spearman_abs": "Spearman's rank correlation of absolute values",
    "ssim": "structural similarity, window 7 × 7",
    "hog": "correlation of histograms of oriented gradients",
}
WINDOW = 7
K1, K2 = 0.01, 0.03
ORIENTATIONS, CELLS, BLOCK = 9, 8, 3
"""Histograms: bins of 20°, cells along each side of a map, and cells along each side of a block."""
EPS, CLIP = 1e-5, 0.2
LEAST_SIDE = 16
"""Smallest side of maps that can be compared; cells then have two pixels per side."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prepared:
    """B maps prepared for comparison, so that each is processed only once.

    Parameters
    ----------
    constant : ndarray of bool (B,)
        Maps with one value everywhere.
    ranks, ranks_abs : ndarray (B, P)
        Ranks of the values and of the absolute values, with mean 0 and norm 1; NaN if all are equal.
    unit : ndarray (B, H, W)
        The maps scaled to [0, 1].
    histograms : ndarray (B, D)
        Histograms of oriented gradients, with mean 0 and norm 1.
    """

    constant: NDArray[np.bool_]
    ranks: Array
    ranks_abs: Array
    unit: Array
    histograms: Array


def prepare(maps: NDArray[np.float32], size: tuple[int, int]) -> Prepared:
    """Prepare maps on one grid for `similarities`.

    Parameters
    ----------
    maps : ndarray (B, h, w)
        Finite values, signed or not.
    size : (int, int)
        H and W of the grid to interpolate to.

    Raises
    ------
    ArgumentError
        For a grid smaller than 16 × 16.
    """
    if min(size) < LEAST_SIDE:
        raise ArgumentError(f"size must be at least {LEAST_SIDE} × {LEAST_SIDE}, got {size[0]} × {size[1]}")
    constant = np.ptp(maps, axis=(1, 2)) == 0
    grid = resized(maps, size)  # (B, H, W)
    flat = grid.reshape(len(grid), -1)  # (B, P)
    ranks = _standard(rankdata(flat, axis=1))
    signed = bool((flat < 0).any())
    low, span = flat.min(axis=1)[:, None, None], np.ptp(flat, axis=1)[:, None, None]
    unit = np.divide(grid - low, span, out=np.zeros_like(grid), where=span > 0)
    return Prepared(
        constant,
        ranks,
        _standard(rankdata(np.abs(flat), axis=1)) if signed else ranks,
        unit,
        _standard(histograms(unit)),
    )


def similarities(one: Prepared, other: Prepared) -> dict[str, Array]:
    """Measure → similarity of each pair of maps (B,): 1 if identical, NaN if one of the two is constant."""
    found = {
        "spearman": _correlation(one.ranks, other.ranks),
        "spearman_abs": _correlation(one.ranks_abs, other.ranks_abs),
        "ssim": structural_similarity(one.unit, other.unit),
        "hog": _correlation(one.histograms, other.histograms),
    }
    undefined = one.constant | other.constant
    return {name: np.where(undefined, np.nan, values) for name, values in found.items()}


def resized(maps: NDArray[np.float32], size: tuple[int, int]) -> Array:
    """Maps (B, h, w) interpolated linearly to (B, H, W), in float64."""
    values = maps.astype(np.float64)
    if values.shape[1:] == size:
        return values
    down, across = (_interpolation(old, new) for old, new in zip(values.shape[1:], size, strict=True))
    found: Array = down @ values @ across.T  # (B, H, W)
    return found


def _interpolation(old: int, new: int) -> Array:
    """The weights (new, old) of linear interpolation between pixel centres; edges are repeated."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    below = np.minimum(at.astype(np.int64), max(old - 2, 0))
    share, rows, weights = at - below, np.arange(new), np.zeros((new, old))
    weights[rows, below] += 1 - share
    weights[rows, np.minimum(below + 1, old - 1)] += share
    return weights


def structural_similarity(one: Array, other: Array) -> Array:
    """SSIM [1]_ of maps (B, H, W) between 0 and 1: the mean over the 7 × 7 windows inside the map, (B,).

    Uses sample variances and uniform weights.
    """

    def local(values: Array) -> Array:
        edge = WINDOW // 2
        found: Array = uniform_filter(values, size=(1, WINDOW, WINDOW))[:, edge:-edge, edge:-edge]
        return found

    mean, mean_other = local(one), local(other)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variances = unbiased * (local(one * one) - mean**2 + local(other * other) - mean_other**2)
    covariance = unbiased * (local(one * other) - mean * mean_other)
    share = (2 * mean * mean_other + K1**2) * (2 * covariance + K2**2)
    share /= (mean**2 + mean_other**2 + K1**2) * (variances + K2**2)
    found: Array = share.mean(axis=(1, 2))
    return found


def histograms(maps: Array) -> Array:
    """Histograms of oriented gradients [2]_ of maps (B, H, W): 8 × 8 cells, blocks of 3 × 3 cells, L2-Hys, (B, D)."""
    B, H, W = maps.shape
    down, across = np.zeros_like(maps), np.zeros_like(maps)
    down[:, 1:-1] = maps[:, 2:] - maps[:, :-2]
    across[:, :, 1:-1] = maps[:, :, 2:] - maps[:, :, :-2]
    h, w = H // CELLS, W // CELLS  # pixels of a cell; the remainder at the edges is dropped
    size = np.hypot(down, across)[:, : CELLS * h, : CELLS * w]
    degrees = np.rad2deg(np.arctan2(down, across)) % 180
    bins = np.minimum(degrees[:, : CELLS * h, : CELLS * w] * ORIENTATIONS // 180, ORIENTATIONS - 1).astype(np.int64)
    cell = np.arange(CELLS * h)[:, None] // h * CELLS + np.arange(CELLS * w) // w  # (8h, 8w)
    place = (np.arange(B)[:, None, None] * CELLS**2 + cell) * ORIENTATIONS + bins
    counts = np.bincount(place.ravel(), size.ravel(), B * CELLS**2 * ORIENTATIONS) / (h * w)
    cells = counts.reshape(B, CELLS, CELLS, ORIENTATIONS)
    blocks = np.lib.stride_tricks.sliding_window_view(cells, (BLOCK, BLOCK), axis=(1, 2))  # (B, 6, 6, 9, 3, 3)
    flat = blocks.reshape(B, (CELLS - BLOCK + 1) ** 2, -1)
    flat = np.minimum(flat / np.sqrt((flat**2).sum(axis=2, keepdims=True) + EPS**2), CLIP)
    flat /= np.sqrt((flat**2).sum(axis=2, keepdims=True) + EPS**2)
    found: Array = flat.reshape(B, -1)
    return found


def _standard(values: Array) -> Array:
    """Rows (B, P) with mean 0 and norm 1; NaN for constant rows."""
    centred = values - values.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    found: Array = np.divide(centred, norm, out=np.full_like(centred, np.nan), where=norm > 0)
    return found


def _correlation(one: Array, other: Array) -> Array:
    """The correlation of each pair of standardised rows, clipped to [-1, 1] against rounding errors."""
    found: Array = np.clip(np.einsum("bp,bp->b", one, other), -1, 1)
    return found
