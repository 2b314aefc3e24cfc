"""Boxes around pixels above a threshold, for MaxBoxAccV2 (Choe et al., CVPR 2020)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from l2a_transfer.localization.metrics import LEVELS, Map, levels_of

OVERLAPS = (0.3, 0.5, 0.7)
"""A box counts if its intersection over union is at least this; MaxBoxAccV2 is the mean over the three values."""
AT_ONCE = 1 << 20
"""Number of pairs of boxes in memory."""
STEP = 16
THRESHOLDS = tuple(range(0, LEVELS, STEP))
"""Levels used as thresholds for boxes."""


def best_overlaps(unit: Map, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each of THRESHOLDS, the largest overlap of a known box with a box around connected pixels (4 neighbours).

    Parameters
    ----------
    unit : ndarray of float32, shape (H, W)
        A map between 0 and 1.
    boxes : ndarray of float64, shape (n, 4)
        The known boxes, n at least 1.

    Returns
    -------
    ndarray of float64, shape (len(THRESHOLDS),)
    """
    level = levels_of(unit)
    return np.array([_best(boxes_around(level >= at), boxes) for at in THRESHOLDS])


def _best(found: NDArray[np.float64], known: NDArray[np.float64]) -> float:
    """The largest overlap, computed without the whole matrix in memory."""
    step = max(1, AT_ONCE // max(1, len(found)))
    return max(float(overlaps(found, known[k : k + step]).max(initial=0.0)) for k in range(0, len(known), step))


def boxes_around(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A box (n, 4) around each connected component."""
    parts, n = ndimage.label(chosen)
    found = ndimage.find_objects(parts, max_label=n)
    return np.array(
        [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in found], dtype=np.float64
    ).reshape(-1, 4)


def overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes (n, 4) and (m, 4), shape (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0.0), axis=2)
    areas = [np.prod(own[:, 2:] - own[:, :2], axis=1) for own in (first, second)]
    found: NDArray[np.float64] = common / (areas[0][:, None] + areas[1][None] - common)
    return found
