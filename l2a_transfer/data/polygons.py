"""Polygons and run lengths → pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.masks import BEYOND, Canvas
from l2a_transfer.errors import DataError

MAX_CROSSINGS = 20_000_000
"""Rows that the edges of one polygon cross, added up; a polygon around each object of a picture has thousands."""
CROSSING = 16
"""Pixels that take as long to paint as an edge takes to cross a row."""
SHIFT, MORE, SIGN = 5, 0x20, 0x10
"""Of COCO's packed run lengths: bits of a character, that another one follows, and the sign."""


def filled(points: NDArray[np.float64], size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """Pixels whose centres lie in a polygon, by the even-odd rule.

    Parameters
    ----------
    points : ndarray of float64, shape (n, 2)
        x, y of the corners in pixels from the upper left corner of the picture.
    size : tuple of int
        Width and height of the picture.
    where : str
        What errors call it.

    Returns
    -------
    ndarray of bool, shape (H, W)

    Raises
    ------
    DataError
        For fewer than three corners, and corners outside of the picture.

    Examples
    --------
    >>> filled(np.array([[0, 0], [2, 0], [2, 1], [0, 1]], float), (3, 2), "a square").astype(int).tolist()
    [[1, 1, 0], [0, 0, 0]]
    """
    canvas = Canvas(size, where)
    paint_polygon(canvas, points, where)
    return canvas.pixels


def paint_polygon(canvas: Canvas, points: NDArray[np.float64], where: str) -> None:
    """Paint a polygon as `filled` does, in time that is in proportion to its own size. Raises: as `filled`."""
    W, H = canvas.size
    if len(points) < 3:
        raise DataError(f"{where}: a polygon of {len(points)} corners, and at least 3 are needed")
    low, high = points.min(axis=0), points.max(axis=0)
    if not np.isfinite(points).all() or low.min() < -BEYOND or high[0] > W + BEYOND or high[1] > H + BEYOND:
        raise DataError(f"{where}: a polygon lies outside of the picture of {W} × {H} pixels")
    left, top = np.floor(np.clip(low, 0, [W, H])).astype(np.int64).tolist()
    right, bottom = np.ceil(np.clip(high, 0, [W, H])).astype(np.int64).tolist()
    ends = np.roll(points, -1, axis=0)
    (x1, y1), (x2, y2) = points.T, ends.T
    # An edge crosses the rows whose centres, y + ½, lie from its upper end on and before its lower end.
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
    """Paint COCO's run lengths, as `from_runs` reads them. Raises: as `from_runs`."""
    W, H = canvas.size
    canvas.spend(W * H + CROSSING * len(counts))
    canvas.pixels |= from_runs(counts, canvas.size, where)


def from_runs(counts: Sequence[int] | str, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """COCO's run lengths, plain or packed → bool (H, W). Runs go down the columns and begin with the background.

    Raises: DataError for runs that do not add up to the picture.
    """
    W, H = size
    runs = unpacked(counts, where) if isinstance(counts, str) else list(counts)
    if any(run < 0 for run in runs) or sum(runs) != W * H:
        raise DataError(f"{where}: run lengths of {sum(runs):,} pixels, and the picture has {W * H:,}")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(W, H).T


def unpacked(text: str, where: str) -> list[int]:
    """COCO's packed run lengths: 5 bits a character, and from the fourth run on differences to the run before last.

    Raises: DataError for other characters.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 60:
            raise DataError(f"{where}: run lengths that are not COCO's")
        value |= (code & 0x1F) << shift
        shift += SHIFT
        if not code & MORE:
            if code & SIGN:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise DataError(f"{where}: run lengths that are cut short")
    return runs
