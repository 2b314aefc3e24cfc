"""Details of each row of the table: predictions, margins and confusion counts."""

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
"""Up to this many classes, `results.json` has the full confusion matrix; a larger one would be almost all zeros."""


@dataclass(frozen=True)
class EvalDetail:
    """Details too long for a row: class names in label order; (true class, predicted class, count) of each pair that
    occurred, by index and summed over draws; and for each draw, the predicted index into `classes` of each test row, in
    the order of the split's `test`. `margins` (not in results.json): the score of each test row's true class minus the
    best other score (n,); negative if the answer is wrong."""

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
        """The confusion counts."""
        return Confusion(len(self.classes), np.array(self.cells, dtype=np.int64).reshape(-1, 3))

    def document(self) -> dict[str, Any]:
        """The JSON form: a matrix of counts (true × predicted) up to `MATRIX_UP_TO` classes, `cells` for more."""
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
    """A test image and the models that misclassify it: (label, predicted class, margin) of each, worst first.

    `models`: how many models were tested on it. `png`: a thumbnail as PNG.
    """

    data: str
    id: str
    true: str
    wrong: tuple[tuple[str, str, float], ...]
    models: int
    png: bytes
