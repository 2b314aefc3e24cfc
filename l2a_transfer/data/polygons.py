"""Polygons and run lengths → pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.masks import BEYOND, Canvas
from l2a_transfer.errors import DataError

MAX_CROSSINGS = 20_000_000
"""Limit of rows crossed by the edges of one polygon, summed; polygons around objects have thousands."""
CROSSING = 16
"""Number of pixels that take as long to paint as one crossing of an edge and a row."""
SHIFT, MORE, SIGN = 5, 0x20, 0x10
"""COCO's packed run lengths: bits per character, the continuation flag, and the sign bit."""


def filled(points: NDArray[np.float64], size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """Pixels whose centres lie in a polygon, by the even-odd rule.

    Parameters
    ----------
    points : ndarray of float64, shape (n, 2)
        x, y of the corners in pixels from the upper left corner of the picture.
    size : tuple of int
        Width and height of the picture.
    where : str
        Its name in errors.

    Returns
    -------
    ndarray of bool, shape (H, W)

    Raises
    ------
    DataError
        If there are fewer than three corners, or corners outside the picture.

    Examples
    --------
    >>> filled(np.array([[0, 0], [2, 0], [2, 1], [0, 1]], float), (3, 2), "a square").astype(int).tolist()
    [[1, 1, 0], [0, 0, 0]]
    """
    canvas = Canvas(size, where)
    paint_polygon(canvas, points, where)
    return canvas.pixels


def paint_polygon(canvas: Canvas, points: NDArray[np.float64], where: str) -> None:
    """Paint a polygon like `filled`, in time proportional to its own size. Raises: same as `filled`."""
    W, H = canvas.size
    if len(points) < 3:
        raise DataError(f"{where}: a polygon must have at least 3 corners, got {len(points)}")
    low, high = points.min(axis=0), points.max(axis=0)
    if not np.isfinite(points).all() or low.min() < -BEYOND or high[0] > W + BEYOND or high[1] > H + BEYOND:
        raise DataError(f"{where}: a polygon lies outside the picture of {W} × {H} pixels")
    left, top = np.floor(np.clip(low, 0, [W, H])).astype(np.int64).tolist()
    right, bottom = np.ceil(np.clip(high, 0, [W, H])).astype(np.int64).tolist()
    ends = np.roll(points, -1, axis=0)
    (x1, y1), (x2, y2) = points.T, ends.T
    # An edge crosses the rows whose centres, y + ½, are in [upper end, lower end).
    first = np.clip(np.ceil(np.minimum(y1, y2) - 0.5), top, bottom).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y1, y2) - 0.5), top, bottom).astype(np.int64)
    crossed = last - first
    if (total := int(crossed.sum())) > MAX_CROSSINGS:
        raise DataError(f"{where}: a polygon of {len(points):,} corners whose edges cross {total:,} rows")
    h, w = bottom - top, right - left
    canvas.spend(h * w + CROSSING * total)
    edge = np.repeat(np.arange(len(points)), crossed)
    row = np.arange(total) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
    at = (row + 0.5 - y1[edge]) / (y2 - y1)[edge]
    column = np.clip(np.ceil(x1[edge] + at * (x2 - x1)[edge] - 0.5), left, right).astype(np.int64)
    toggles = np.bincount((row - top) * (w + 1) + column - left, minlength=h * (w + 1)).reshape(h, w + 1)
    canvas.pixels[top:bottom, left:right] |= np.cumsum(toggles, axis=1)[:, :w] % 2 == 1


def paint_runs(canvas: Canvas, counts: Sequence[int] | str, where: str) -> None:
    """Paint COCO's run lengths; see `from_runs`. Raises: same as `from_runs`."""
    W, H = canvas.size
    canvas.spend(W * H + CROSSING * len(counts))
    canvas.pixels |= from_runs(counts, canvas.size, where)


def from_runs(counts: Sequence[int] | str, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """COCO's run lengths, plain or packed → bool (H, W). Runs go down the columns, starting with background.

    Raises: DataError if the sum of the runs is not the number of pixels.
    """
    W, H = size
    runs = unpacked(counts, where) if isinstance(counts, str) else list(counts)
    if any(run < 0 for run in runs) or sum(runs) != W * H:
        raise DataError(f"{where}: run lengths of {sum(runs):,} pixels, but the picture has {W * H:,}")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(W, H).T


def unpacked(text: str, where: str) -> list[int]:
    """Unpack COCO's run lengths: 5 bits per character; from the fourth run on, differences to the run before last.

    Raises: DataError for invalid characters.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 60:
            raise DataError(f"{where}: run lengths with an invalid character")
        value |= (code & 0x1F) << shift
        shift += SHIFT
        if not code & MORE:
            if code & SIGN:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise DataError(f"{where}: run lengths are truncated")
    return runs
