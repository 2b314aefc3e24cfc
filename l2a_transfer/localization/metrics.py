"""How well one map fits one mask: pointing, energy, average precision, and the results at every threshold.

All arrays are of one picture, (H, W). Ignored pixels are excluded from all measures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]

LEVELS = 1024
"""Steps of a map scaled to 0…1, in histograms and as thresholds. Softmax maps have most values near 0."""
TOLERANCE = 15 / 500
"""Tolerance of the pointing game, relative to the picture's longer side: 15 of 500 pixels (Zhang et al. 2016)."""
MASS = 0.6
"""Share of a map's mass that the cumulative-mass mask keeps."""


def enlarged(values: Map, size: tuple[int, int]) -> Map:
    """A map (h, w) at `size` = (W, H): interpolated linearly between position centres, with repeated edges."""
    if values.shape == size[::-1]:
        return values
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)


def scaled(values: Map, counted: Mask, *, signed: bool = False) -> Map:
    """The map scaled to [0, 1] by its minimum and maximum where `counted`; 0 if it is constant.

    In a signed map, negative values are first set to 0: they speak against the class, and their size says nothing about
    where the object ends.
    """
    if signed:
        values = np.maximum(values, 0)
    own = values[counted]
    low, high = float(own.min()), float(own.max())
    if not high > low:
        return np.zeros_like(values)
    # In float64, because the difference of two float32 values can overflow float32.
    found = (values.astype(np.float64) - low) / (high - low)
    return np.clip(found, 0.0, 1.0).astype(np.float32)


def peak(values: Map, counted: Mask, rng: np.random.Generator) -> tuple[int, int]:
    """Row and column of the largest value; ties are broken at random."""
    largest = values[counted].max()
    rows, columns = np.nonzero((values == largest) & counted)
    k = int(rng.integers(len(rows))) if len(rows) > 1 else 0
    return int(rows[k]), int(columns[k])


def hits(at: tuple[int, int], foreground: Mask, tolerance: float) -> bool:
    """Whether the object has a pixel within `tolerance` pixels of the position."""
    row, column = at
    if foreground[row, column]:
        return True
    reach = int(tolerance)
    top, left = max(0, row - reach), max(0, column - reach)
    rows, columns = np.nonzero(foreground[top : row + reach + 1, left : column + reach + 1])
    return bool(((rows + top - row) ** 2 + (columns + left - column) ** 2 <= tolerance**2).any())


def energy(values: Map, foreground: Mask, counted: Mask) -> float:
    """Share of the map's positive mass on the object; without positive values, the object's share of pixels."""
    mass = np.maximum(values.astype(np.float64), 0.0)
    total = float(mass[counted].sum())
    if total == 0:
        return float(foreground.sum() / counted.sum())
    return float(mass[foreground].sum() / total)


def average_precision(values: Map, foreground: Mask, counted: Mask) -> float:
    """Σ (R_k − R_{k−1}) P_k over the thresholds, as in scikit-learn: equal values share a threshold."""
    scores, truth = values[counted], foreground[counted]
    order = np.argsort(-scores, kind="stable")
    scores, truth = scores[order], truth[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # last of each run of equal values
    right = np.cumsum(truth)[last].astype(np.float64)
    return _area(right, last + 1.0)


def _area(right: NDArray[np.float64], chosen: NDArray[np.float64]) -> float:
    """Average precision from the counts of chosen pixels, and of correct ones among them, at decreasing thresholds."""
    gained = np.diff(right, prepend=0.0)
    return float((gained * right / np.maximum(chosen, 1.0)).sum() / right[-1])


@dataclass(frozen=True)
class Histogram:
    """Pixels of the object and of the background per level of the scaled map, float64 (LEVELS,) each."""

    foreground: NDArray[np.float64]
    background: NDArray[np.float64]

    @classmethod
    def of(cls, unit: Map, foreground: Mask, counted: Mask) -> Histogram:
        """The histogram of a map from `scaled`."""
        level = levels_of(unit)
        both = np.bincount(level[counted], minlength=LEVELS)
        own = np.bincount(level[foreground], minlength=LEVELS)
        return cls(own.astype(np.float64), (both - own).astype(np.float64))

    @property
    def average_precision(self) -> float:
        """Average precision over all pixels together, at the resolution of the levels."""
        right, wrong = self._above(self.foreground), self._above(self.background)
        return _area(right[::-1], (right + wrong)[::-1])

    @property
    def jaccard(self) -> NDArray[np.float64]:
        """(LEVELS,): intersection over union of the object with the pixels at or above each level."""
        right, wrong = self._above(self.foreground), self._above(self.background)
        found: NDArray[np.float64] = right / (self.foreground.sum() + wrong)
        return found

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(LEVELS,): share of correct pixels if those at or above each level are taken as the object."""
        right, wrong = self._above(self.foreground), self._above(self.background)
        n = self.foreground.sum() + self.background.sum()
        found: NDArray[np.float64] = (right + self.background.sum() - wrong) / n
        return found

    @staticmethod
    def _above(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        return counts[::-1].cumsum()[::-1]

    @property
    def otsu(self) -> int:
        """The level of Otsu's threshold (1979), at or above which pixels are taken: it separates two classes of values
        with the most distant means; 0 for a constant map."""
        both = self.foreground + self.background
        below = both.cumsum()[:-1]
        above = both.sum() - below
        mass = (both * np.arange(LEVELS)).cumsum()
        with np.errstate(divide="ignore", invalid="ignore"):
            between = below * above * (mass[:-1] / below - (mass[-1] - mass[:-1]) / above) ** 2
        between = np.where((below > 0) & (above > 0), between, -1.0)
        return int(np.argmax(between)) + 1 if between.max() > 0 else 0


def levels_of(unit: Map) -> NDArray[np.int64]:
    """Values between 0 and 1 → levels from 0 to LEVELS − 1."""
    return np.minimum((unit * LEVELS).astype(np.int64), LEVELS - 1)


def of_mass(values: Map, counted: Mask, share: float = MASS) -> Mask:
    """The fewest of the hottest pixels that contain `share` of the map's positive mass, including ties with the last.

    All pixels, if there are no positive values.
    """
    mass = np.where(counted, np.maximum(values.astype(np.float64), 0.0), 0.0)
    total = mass.sum()
    if total == 0:
        return counted.copy()
    falling = np.sort(mass, axis=None)[::-1]
    k = int(np.searchsorted(falling.cumsum(), share * total * (1 - 1e-12)))
    found: Mask = (mass >= falling[min(k, falling.size - 1)]) & counted & (mass > 0)
    return found


def jaccard_of(chosen: Mask, foreground: Mask, counted: Mask) -> tuple[float, float]:
    """Intersection over union, and share of correct pixels, of one mask."""
    chosen = chosen & counted
    union = int((chosen | foreground).sum())
    right = int((chosen == foreground)[counted].sum())
    return int((chosen & foreground).sum()) / union, right / int(counted.sum())
