"""What each row of the table answered: predictions, margins and confusion counts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.evaluation.confusion import Confusion
from l2a_transfer.evaluation.probes.registry import SVM
from l2a_transfer.text import repr_line
from l2a_transfer.wording import counted

MATRIX_UP_TO = 250
"""Classes up to which `results.json` has whole confusion matrices; a larger one holds hardly anything but zeros."""


@dataclass(frozen=True)
class EvalDetail:
    """What is too long for a row: class names in label order; (true class, predicted class, how often) of every pair
    that occurred, by index and summed over draws; and for each draw the predicted index into `classes` of every test
    row, in the order of the split's `test`. `margins`, not in results.json: by how much the score of each test row's
    own class is above the best other score (n,), negative where the answer is wrong."""

    label: str
    file_sha256: str
    variant: str
    data: str
    shots: int | None
    classes: tuple[str, ...]
    cells: tuple[tuple[int, int, int], ...]
    predictions: tuple[tuple[int, ...], ...]
    probe: str = SVM
    margins: tuple[NDArray[np.float32], ...] = dataclasses.field(default=(), compare=False)

    def __repr__(self) -> str:
        classes = counted(len(self.classes), "class", "classes")
        predictions = (
            f"{counted(sum(map(len, self.predictions)), 'prediction')} in {counted(len(self.predictions), 'draw')}"
        )
        return repr_line(self, f"{self.label} on {self.data}", classes, predictions)

    @property
    def confusion(self) -> Confusion:
        """Its counts."""
        return Confusion(len(self.classes), np.array(self.cells, dtype=np.int64).reshape(-1, 3))

    def document(self) -> dict[str, Any]:
        """As JSON has it: counts (true × predicted) up to `MATRIX_UP_TO` classes, and above that `cells`."""
        found = {name: value for name, value in vars(self).items() if name not in ("cells", "margins")}
        small = len(self.classes) <= MATRIX_UP_TO
        matrix = np.zeros((len(self.classes),) * 2, dtype=np.int64) if small else None
        if matrix is not None:
            true, predicted, count = self.confusion.cells.T
            matrix[true, predicted] = count
        return found | {
            "confusion": None if matrix is None else matrix.tolist(),
            "confusion_cells": None if small else self.cells,
        }


@dataclass(frozen=True)
class Misclassified:
    """A test image and the models that get it wrong: (label, predicted class, margin) of each, the worst first.

    `models`: how many were tested on it. `png`: the picture, PNG, small.
    """

    data: str
    id: str
    true: str
    wrong: tuple[tuple[str, str, float], ...]
    models: int
    png: bytes
