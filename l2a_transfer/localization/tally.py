"""Measures of one row, image by image: some are final at once, others wait until thresholds are chosen.

The threshold for an image is chosen on other images, so results at all thresholds are kept until all images are
measured: 2 KiB per image, in an unnamed temporary file if there are many. Memory holds a few numbers per image.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.masks import Annotation
from l2a_transfer.localization import boxes
from l2a_transfer.localization.folds import chosen_levels
from l2a_transfer.localization.metrics import (
    LEVELS,
    TOLERANCE,
    Histogram,
    Map,
    average_precision,
    energy,
    enlarged,
    hits,
    jaccard_of,
    levels_of,
    of_mass,
    peak,
    scaled,
)
from l2a_transfer.localization.results import MEASURES

STEP = 4
THRESHOLDS = np.arange(0, LEVELS, STEP)
"""Candidate levels for τ."""
T = len(THRESHOLDS)
RECORD = 2 * T + len(boxes.THRESHOLDS)
"""Numbers kept per image: J and P at each of THRESHOLDS, and the best overlap at each of those of boxes."""
IN_MEMORY = 1 << 20
"""Size of a row's records in bytes above which they go to a file."""
BLOCK = 512
"""Images whose records are read at a time."""
COLUMNS = {name: k for k, name in enumerate(MEASURES)}


@dataclass(frozen=True)
class Fold:
    """Which images choose thresholds for which: the fold of each, (N,), and whether all folds are measured."""

    of: NDArray[np.int64]
    swapped: bool

    @property
    def count(self) -> int:
        return int(self.of.max()) + 1

    @property
    def measured(self) -> NDArray[np.bool_]:
        """(N,)"""
        return np.ones(len(self.of), dtype=np.bool_) if self.swapped else self.of == 0


class Tally:
    """The measures of one row of the table, of N images.

    Parameters
    ----------
    fold : Fold
        Folds for choosing thresholds.
    seed : int
        Random seed of ties in the pointing game, combined with the name of the image; the same for all rows.
    scratch : file
        An empty binary file for reading and writing; the caller closes it.
    """

    def __init__(self, fold: Fold, seed: int, scratch: IO[bytes]) -> None:
        N = len(fold.of)
        self.fold, self.seed = fold, seed
        self.values = np.full((N, len(COLUMNS)), np.nan)
        self.sums = np.zeros((fold.count, T))
        self.box_sums = np.zeros((len(boxes.OVERLAPS), fold.count, len(boxes.THRESHOLDS)))
        self.pooled = Histogram(np.zeros(LEVELS), np.zeros(LEVELS))
        self.accuracy_sums = np.zeros((fold.count, T))
        self.taken = np.zeros(N, dtype=np.bool_)
        self._scratch = scratch

    def add(self, row: int, name: str, values: Map, annotation: Annotation, *, signed: bool = False) -> None:
        """Measure the map (h, w) of an image called `name`."""
        foreground = annotation.foreground
        counted = ~annotation.ignored
        H, W = foreground.shape
        full = enlarged(values, (W, H))
        unit = scaled(full, counted, signed=signed)
        histogram = Histogram.of(unit, foreground, counted)
        at = peak(full, counted, np.random.default_rng([self.seed, zlib.crc32(name.encode("utf-8", "replace"))]))
        of_otsu = jaccard_of(levels_of(unit) >= histogram.otsu, foreground, counted)
        of_share = jaccard_of(of_mass(full, counted), foreground, counted)
        own = self.values[row]
        own[COLUMNS["pointing"]] = foreground[at]
        own[COLUMNS["pointing_near"]] = hits(at, foreground, TOLERANCE * max(H, W))
        own[COLUMNS["energy"]] = energy(full, foreground, counted)
        own[COLUMNS["average_precision"]] = average_precision(full, foreground, counted)
        own[[COLUMNS["jaccard_otsu"], COLUMNS["pixel_accuracy_otsu"]]] = of_otsu
        own[[COLUMNS["jaccard_mass"], COLUMNS["pixel_accuracy_mass"]]] = of_share
        both = np.stack([histogram.jaccard[THRESHOLDS], histogram.accuracy[THRESHOLDS]])  # (2, T)
        overlap = np.zeros(len(boxes.THRESHOLDS))
        if len(annotation.boxes):
            overlap = boxes.best_overlaps(unit, annotation.boxes)
        fold = self.fold.of[row]
        self.sums[fold] += both[0]
        self.accuracy_sums[fold] += both[1]
        self.box_sums[:, fold] += _box_hits(overlap)
        if self.fold.measured[row]:
            self.pooled = Histogram(
                self.pooled.foreground + histogram.foreground, self.pooled.background + histogram.background
            )
        self.taken[row] = True
        try:
            self._scratch.seek(row * RECORD * 4)
            self._scratch.write(np.concatenate([both.ravel(), overlap]).astype("<f4").tobytes())
        except OSError as error:  # the file has no name
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error

    @property
    def count(self) -> NDArray[np.int64]:
        """(folds,): number of images measured so far."""
        return np.bincount(self.fold.of[self.taken], minlength=self.fold.count)

    def chosen(self) -> NDArray[np.int64]:
        """(folds,): index of the threshold with the best mean J on the images outside of each fold."""
        return chosen_levels(self.sums, self.count, swapped=self.fold.swapped)

    def finish(self) -> None:
        """Compute the measures that depend on chosen thresholds."""
        at = self.chosen()
        box_at = [chosen_levels(sums, self.count, swapped=self.fold.swapped) for sums in self.box_sums]
        for rows, records in self._records():
            fold = self.fold.of[rows]
            own = np.arange(len(rows))
            self.values[rows, COLUMNS["jaccard"]] = records[own, at[fold]]
            self.values[rows, COLUMNS["pixel_accuracy"]] = records[own, T + at[fold]]
            overlap = records[:, 2 * T :]
            right = [overlap[own, level[fold]] >= least for level, least in zip(box_at, boxes.OVERLAPS, strict=True)]
            self.values[rows, COLUMNS["max_box_accuracy"]] = np.mean(right, axis=0)

    def _records(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Measured rows and their records, block by block."""
        for start in range(0, len(self.taken), BLOCK):
            self._scratch.seek(start * RECORD * 4)
            content = self._scratch.read(BLOCK * RECORD * 4)
            held = np.frombuffer(content, dtype="<f4").reshape(-1, RECORD).astype(np.float64)
            rows = np.flatnonzero(self.taken[start : start + BLOCK])
            yield rows + start, held[rows]

    def oracle(self) -> tuple[float, float]:
        """J and P with the best threshold for each fold's own images: an upper bound of the mean J."""
        own = slice(None) if self.fold.swapped else slice(0, 1)
        n = int((self.taken & self.fold.measured).sum())
        sums, best = self.sums[own], np.argmax(self.sums[own], axis=1)
        folds = np.arange(len(sums))
        return float(sums[folds, best].sum()) / n, float(self.accuracy_sums[own][folds, best].sum()) / n


def _box_hits(overlap: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, T_box): whether the overlap of the best box is large enough."""
    return np.stack([overlap >= least for least in boxes.OVERLAPS]).astype(np.float64)
