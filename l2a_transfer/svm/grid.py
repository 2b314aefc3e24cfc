"""The choice of C: the candidate with the most correct held-out rows; the grid is extended if the best is at its
edge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FoldCounts:
    """Results of candidates on the folds: correct held-out rows, and fits that did not converge; (nC, F) each."""

    correct: NDArray[np.int64]
    unconverged: NDArray[np.bool_]


@dataclass(frozen=True)
class GridResult:
    """Candidates in ascending order, including added ones; their counts; the index of the chosen one; the number of
    added ones."""

    Cs: tuple[float, ...]
    counts: FoldCounts
    best: int
    added: int

    @property
    def at_edge(self) -> bool:
        """Whether the chosen C is the smallest or largest candidate, so that a better one may lie outside."""
        return len(self.Cs) > 1 and self.best in (0, len(self.Cs) - 1)


def fold_scores(counts: FoldCounts, sizes: Sequence[int] | None) -> list[int]:
    """Scores that rank the candidates: the number of correct held-out rows over all folds, as integers so that ties are
    exact.

    With the folds' `sizes` (F,), all at least 1, every fold has the same weight, as in scikit-learn: the mean over
    folds of the correct share, times a constant.
    """
    whole = math.lcm(*sizes) if sizes is not None else 1
    weights = [1] * counts.correct.shape[1] if sizes is None else [whole // size for size in sizes]
    return [sum(right * weight for right, weight in zip(own, weights, strict=True)) for own in counts.correct.tolist()]


def search_grid(
    run: Callable[[Sequence[float]], FoldCounts],
    Cs: Sequence[float],
    *,
    decades: int = 0,
    sizes: Sequence[int] | None = None,
) -> GridResult:
    """Choose the C with the best `fold_scores`; ties go to the smallest.

    While the best candidate is the smallest or largest, and better than its neighbour, a tenth or ten times its value
    is tried too. A plateau at the edge does not extend the grid, because it says nothing about values outside.

    Parameters
    ----------
    run : callable
        Candidates in ascending order → their `FoldCounts`.
    Cs : sequence of float
        The initial candidates.
    decades : int
        How many times the grid may be extended.
    sizes : sequence of int, shape (F,), optional
        Number of held-out rows per fold. If given, every fold has the same weight; otherwise, every row.

    Returns
    -------
    GridResult

    Examples
    --------
    >>> import numpy as np
    >>> right = {0.1: 3, 1.0: 5, 10.0: 4}
    >>> def run(Cs):
    ...     return FoldCounts(np.array([[right[C]] for C in Cs]), np.zeros((len(Cs), 1), bool))
    >>> found = search_grid(run, [0.1, 1.0], decades=1)
    >>> found.Cs, found.Cs[found.best], found.added
    ((0.1, 1.0, 10.0), 1.0, 1)
    """
    grid = sorted(Cs)
    counts = run(grid)
    added = 0
    while True:
        right = fold_scores(counts, sizes)
        best = right.index(max(right))
        inner = {0: 1, len(grid) - 1: len(grid) - 2}.get(best)
        if added >= decades or inner is None or len(grid) == 1 or right[inner] == right[best]:
            return GridResult(tuple(grid), counts, best, added)
        place, new_C = (0, grid[0] / 10) if best == 0 else (len(grid), grid[-1] * 10)
        new_C = float(f"{new_C:.12g}")  # 1e-05, not 1.0000000000000001e-05
        new = run([new_C])
        grid.insert(place, new_C)
        counts = FoldCounts(
            np.insert(counts.correct, place, new.correct[0], axis=0),
            np.insert(counts.unconverged, place, new.unconverged[0], axis=0),
        )
        added += 1
