"""Confusion matrices stored sparsely: their size grows with the number of test images, not with K²."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LARGEST_PICTURE = 1000
"""Largest side of the picture of a confusion matrix, in pixels; with more classes, neighbouring classes share a
pixel."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """`cells` (n, 3) int64: true class, predicted class and count for each pair of the K classes that occurred,
    sorted."""

    classes: int
    cells: NDArray[np.int64]

    @classmethod
    def from_labels(cls, truth: NDArray[np.int32], predicted: NDArray[np.int32], classes: int) -> Confusion:
        """From labels (N,) between 0 and `classes` − 1."""
        return cls._summed(truth.astype(np.int64) * classes + predicted, np.ones(len(truth), dtype=np.int64), classes)

    @classmethod
    def total(cls, draws: Sequence[Confusion]) -> Confusion:
        """The sum over all draws."""
        classes, cells = draws[0].classes, np.concatenate([draw.cells for draw in draws])
        return cls._summed(cells[:, 0] * classes + cells[:, 1], cells[:, 2], classes)

    @classmethod
    def _summed(cls, places: NDArray[np.int64], counts: NDArray[np.int64], classes: int) -> Confusion:
        found, index = np.unique(places, return_inverse=True)
        total = np.zeros(len(found), dtype=np.int64)
        np.add.at(total, index, counts)
        return cls(classes, np.stack([found // classes, found % classes, total], axis=1))

    @property
    def right(self) -> NDArray[np.int64]:
        """(K,): correctly classified test images per class."""
        own = self.cells[self.cells[:, 0] == self.cells[:, 1]]
        return self._counted(own[:, 0], own[:, 2])

    @property
    def tested(self) -> NDArray[np.int64]:
        """(K,): test images per class."""
        return self._counted(self.cells[:, 0], self.cells[:, 2])

    @property
    def answered(self) -> NDArray[np.int64]:
        """(K,): how often each class was predicted."""
        return self._counted(self.cells[:, 1], self.cells[:, 2])

    def _counted(self, classes: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
        total = np.zeros(self.classes, dtype=np.int64)
        np.add.at(total, classes, counts)
        return total

    def picture(self) -> tuple[NDArray[np.float64], int]:
        """(S, S): the share of each true class's test images by predicted class, and the number of neighbouring classes
        per pixel (one for up to `LARGEST_PICTURE` classes)."""
        together = -(-self.classes // LARGEST_PICTURE)
        side = -(-self.classes // together)
        counts = np.zeros((side, side))
        np.add.at(counts, (self.cells[:, 0] // together, self.cells[:, 1] // together), self.cells[:, 2])
        return counts / counts.sum(axis=1, keepdims=True).clip(min=1), together
