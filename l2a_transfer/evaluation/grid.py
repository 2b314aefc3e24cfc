"""Which C: the candidate with the most held-out rows right; the grid grows where the best one stands at its edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FoldCounts:
    """What candidates did on the folds: held-out rows that are right, and fits that did not converge; (nC, F) each."""

    correct: NDArray[np.int64]
    unconverged: NDArray[np.bool_]


@dataclass(frozen=True)
class GridResult:
    """Candidates in rising order, those that were added included; their counts; the chosen one's index; how many
    were added."""

    Cs: tuple[float, ...]
    counts: FoldCounts
    best: int
    added: int

    @property
    def at_edge(self) -> bool:
        """The chosen C is still the smallest or largest candidate, so that a better one may lie outside."""
        return len(self.Cs) > 1 and self.best in (0, len(self.Cs) - 1)


def search_grid(run: Callable[[Sequence[float]], FoldCounts], Cs: Sequence[float], *, decades: int = 0) -> GridResult:
    """Chooses C by pooled counts over all folds, which are integers, so that a tie is a tie: the smaller C wins it.

    While the best candidate is the smallest or largest, a tenth or ten times of it is tried too, at most `decades`
    times in all. `run` gets candidates in rising order.
    """
    grid = sorted(Cs)
    counts = run(grid)
    added = 0
    while True:
        best = int(np.argmax(counts.correct.sum(axis=1)))
        edges = {0: grid[0] / 10, len(grid) - 1: grid[-1] * 10}
        if added >= decades or best not in edges:
            return GridResult(tuple(grid), counts, best, added)
        new = run([edges[best]])
        place = 0 if best == 0 else len(grid)
        grid.insert(place, edges[best])
        counts = FoldCounts(
            np.insert(counts.correct, place, new.correct[0], axis=0),
            np.insert(counts.unconverged, place, new.unconverged[0], axis=0),
        )
        added += 1
