"""SVMs of all classes and all folds over one X, within a memory limit: batches of columns, blocks of rows."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.devices import choose_device
from l2a_transfer.errors import ArgumentError
from l2a_transfer.svm.grid import FoldCounts
from l2a_transfer.svm.memory import budget_of, has_room, plan_memory
from l2a_transfer.svm.rows import Fold, LazyRows, RepeatedRows, ScaledRows

if TYPE_CHECKING:
    import torch

    from l2a_transfer.svm.newton import Problems, SolverOutcome


STANDARDISE = "standardise the columns, or subtract each column's mean"
LARGEST_OFFSET = 1e7
"""Largest column mean, relative to the largest standard deviation of a column, for which SVMs on unscaled columns can
be solved. From about 3e7 on, the last bit of a weight moves the scores by more than the optimum allows, and Newton
steps stop."""


LEAST_BATCH = 20
"""Batches of fewer columns are not solved at once: their products take as long as reading X."""
LEAST_PRODUCT = 2e6
"""Batches are not solved at once if their products with X have fewer multiplications: starting operations, which only
one thread can do at a time, then takes much of the time."""
GOOD_BATCH, GOOD_PRODUCT = 80, 2e7
"""From this number of columns and of multiplications on, a thread's batch may be divided further."""
MOST_ROUNDS = 3
"""How many batches a thread solves at most: with more than one, threads that are slowed by another program do not hold
up the others."""


class SharedFits:
    """The columns (each one fold and one class against the rest) of one X, solved for increasing C.

    X (N, D) array or `LazyRows`; `targets` (N,) class indices below `classes`. With two classes, one SVM is fitted.
    `max_memory` limits the bytes used besides X itself (see `memory`): a copy of X is kept if it fits together with one
    column, or a float32 copy; otherwise X is read in blocks for every product. Columns that do not fit together are
    solved in batches; both are logged. Raises: ValueError if X contains NaN or infinity, if not even one column fits
    into `max_memory`, or if unscaled columns are too far from 0 for float64 (`LARGEST_OFFSET`); MemoryLimitError if not
    even one column fits into the memory left to this process.
    """

    def __init__(
        self,
        X: NDArray[Any] | LazyRows | RepeatedRows,
        targets: NDArray[np.int64],
        classes: int,
        folds: Sequence[Fold],
        *,
        tol: float,
        max_iter: int,
        bias: float = 1.0,
        device: str = "auto",
        max_memory: int | None = None,
    ) -> None:
        import torch

        from l2a_transfer.svm.directions import Eigenbasis
        from l2a_transfer.svm.objective import Coordinates

        self.tol, self.max_iter, self.folds = tol, max_iter, list(folds)
        self.device = choose_device(device)
        self.positive = np.array([1]) if classes == 2 else np.arange(classes)
        self.columns = len(self.folds) * len(self.positive)
        budget = budget_of(max_memory, self.device)
        N, D = X.shape
        sizes = {"folds": len(self.folds), "problems": self.columns, "budget": budget}
        self.plan = plan_memory(N, D, **sizes, given=budget == max_memory)
        self.rows = ScaledRows(
            X,
            device=self.device,
            resident=self.plan.resident,
            block=self.plan.block,
            single=self.plan.single,
            keep=not self.plan.early,
        )
        if not all(fold.standardize for fold in self.folds):
            _check_offset(self.rows)
        mean, inverse = self.rows.fold_statistics(self.folds)
        self.coordinates = Coordinates(mean, inverse, bias)
        self.basis = Eigenbasis(self.rows, self.coordinates, self.plan)
        several = self.device.type == "cpu" and has_room(self.plan, N, D, **sizes)
        self.threads, self.batch = self._divided(torch.get_num_threads()) if several else (1, self.plan.batch)
        if self.threads > 1 or self.plan.early:
            self.basis.largest()  # before batches need it at the same time, and before they take memory
        if self.plan.early:
            self.rows.keep()
        self.targets = torch.from_numpy(targets).to(self.device)
        self.train = torch.from_numpy(np.stack([fold.train for fold in self.folds])).to(self.device)
        self.solutions: dict[float, torch.Tensor] = {}

    def solve(self, C: float, start: torch.Tensor | None = None) -> tuple[SolverOutcome, torch.Tensor, torch.Tensor]:
        """All columns for one C: outcome, weights (J, D) and intercepts (J,) in the units of X."""
        import torch

        from l2a_transfer.svm.newton import SolverOutcome
        from l2a_transfer.svm.side_by_side import side_by_side

        def one(place: torch.Tensor, check: Callable[[], None]) -> tuple[SolverOutcome, torch.Tensor, torch.Tensor]:
            problems = self._problems(place)
            if start is not None:
                problems.start_at(start[place].to(self.device).double())
            return (problems.solve(C, tol=self.tol, max_iter=self.max_iter, check=check), *problems.original_units())

        places = self._batches()
        parts = list(side_by_side(one, places, self.threads))
        outcomes = [outcome for outcome, _, _ in parts]
        order = torch.cat(places).argsort().to(self.device)
        whole = SolverOutcome(
            objective=torch.cat([o.objective for o in outcomes])[order],
            gap=torch.cat([o.gap for o in outcomes])[order],
            steps=torch.cat([o.steps for o in outcomes])[order],
            converged=torch.cat([o.converged for o in outcomes])[order],
        )
        # Zero weights have the objective C · rows; a start from other fits may be slightly worse, and steps descend.
        weights = torch.cat([w for _, w, _ in parts])[order]
        intercepts = torch.cat([b for _, _, b in parts])[order]
        descended = whole.converged | (whole.objective <= 2 * C * self.rows.N)
        if not bool((descended & weights.isfinite().all(dim=1) & intercepts.isfinite()).all()):
            raise ArgumentError(f"X cannot be solved in float64 at C = {C:g}", STANDARDISE)
        return whole, weights, intercepts

    def held_out_counts(self, Cs: Sequence[float], tick: Callable[[int], Any] | None = None) -> FoldCounts:
        """Fit every column for every C in ascending order, and count the correct held-out rows per fold.

        A class without training rows in a fold is never predicted there. Each C starts from the previous solution, the
        first from that of the nearest C of an earlier call. `tick(n)` is called after every n columns,
        by one thread at a time.
        """
        import torch

        from l2a_transfer.svm.side_by_side import side_by_side

        lock = threading.Lock()
        held_out = [torch.from_numpy(fold.held_out).to(self.device) for fold in self.folds]
        known = [torch.unique(self.targets[own]) for own in self.train]
        near = min(self.solutions, key=lambda C: abs(math.log(C / Cs[0])), default=None)
        found = {C: torch.empty(self.columns, self.rows.D + 1) for C in Cs}

        def one(place: torch.Tensor, check: Callable[[], None]) -> list[_BatchResult]:
            problems = self._problems(place)
            if near is not None:
                problems.start_at(self.solutions[near][place].to(self.device).double())
            results = []
            for k, C in enumerate(Cs):
                outcome = problems.solve(C, tol=self.tol, max_iter=self.max_iter, check=check)
                found[C][place] = problems.w.float().cpu()
                for f in torch.unique(problems.fold).tolist():
                    own = torch.nonzero(problems.fold == f).flatten()
                    unconverged = not bool(outcome.converged[own].all())
                    if len(self.positive) > 1:
                        own = own[torch.isin(problems.positive[own], known[f])]
                    if len(own) == 0 or len(held_out[f]) == 0:
                        results.append(_BatchResult(k, f, unconverged))
                        continue
                    scores, index = problems.scores[own][:, held_out[f]].cpu().max(dim=0)
                    results.append(_BatchResult(k, f, unconverged, scores, problems.positive[own].cpu()[index]))
                if tick is not None:
                    with lock:
                        tick(len(place))
            return results

        top = [[torch.full((len(rows),), -torch.inf, dtype=torch.float64) for rows in held_out] for _ in Cs]
        guess = [[torch.zeros(len(rows), dtype=torch.int64) for rows in held_out] for _ in Cs]
        unconverged = np.zeros((len(Cs), len(self.folds)), dtype=bool)
        for results in side_by_side(one, self._batches(), self.threads):
            for result in results:
                k, f = result.candidate, result.fold
                unconverged[k, f] |= result.unconverged
                if result.scores is not None and result.classes is not None:
                    better = result.scores > top[k][f]  # strictly, so that ties keep the first
                    top[k][f][better] = result.scores[better]
                    guess[k][f][better] = result.classes[better]
        self.solutions |= found
        correct = np.zeros((len(Cs), len(self.folds)), dtype=np.int64)
        for k in range(len(Cs)):
            for f, rows in enumerate(held_out):
                predicted = guess[k][f] if len(self.positive) > 1 else (top[k][f] > 0).long()
                correct[k, f] = int((predicted == self.targets[rows].cpu()).sum())
        return FoldCounts(correct, unconverged)

    def mean_solution(self, C: float) -> torch.Tensor:
        """The mean over folds of the solution for C (columns of one fold, D + 1), as a start for a fit on all rows."""
        return self.solutions[C].reshape(len(self.folds), len(self.positive), -1).mean(dim=0)

    def _divided(self, threads: int) -> tuple[int, int]:
        """How many batches to solve at once, and the number of columns in a batch, if all columns fit into memory."""
        folds, size = len(self.folds), self.rows.N * (self.rows.D + 1)
        threads = min(threads, int(self.columns // max(LEAST_BATCH, LEAST_PRODUCT / size)))
        if threads <= 1:
            return 1, self.columns
        rounds = min(MOST_ROUNDS, max(1, int(self.columns // (threads * max(GOOD_BATCH, GOOD_PRODUCT / size)))))
        return threads, math.ceil(self.columns / (threads * rounds * folds)) * folds

    def _batches(self) -> list[torch.Tensor]:
        """Column numbers of each batch: class by class, with the folds of a class next to each other, because these
        share many active rows."""
        import torch

        order = torch.arange(self.columns).reshape(len(self.folds), -1).T.flatten()
        size = self.batch
        if len(self.folds) <= size < self.columns:
            size -= size % len(self.folds)
        return [order[start : start + size] for start in range(0, self.columns, size)]

    def _problems(self, place: torch.Tensor) -> Problems:
        import torch

        from l2a_transfer.svm.newton import Problems

        fold = (place // len(self.positive)).to(self.device)
        positive = torch.from_numpy(self.positive)[place % len(self.positive)].to(self.device)
        plan = replace(self.plan, block=max(1, self.plan.block // self.threads))
        return Problems(self.rows, self.coordinates, self.basis, self.targets, self.train, fold, positive, plan)


@dataclass(frozen=True)
class _BatchResult:
    """A batch's columns of one fold, for one candidate: whether any did not converge, the best score of each held-out
    row (n,) and its class (n,)."""

    candidate: int
    fold: int
    unconverged: bool
    scores: torch.Tensor | None = None
    classes: torch.Tensor | None = None


def _check_offset(rows: ScaledRows) -> None:
    """Raises: ArgumentError if a column's mean is more than LARGEST_OFFSET times the largest standard deviation away
    from 0.

    A column of rounding noise, such as the last component of a PCA, may be far from 0 relative to its own deviation: it
    is too small to matter.
    """
    largest = float(rows.spread.max())
    offsets = rows.shift.abs() / largest
    column = int(offsets.argmax())
    if offsets[column] > LARGEST_OFFSET:
        raise ArgumentError(
            f"X has a column, {column}, whose mean {float(rows.shift[column]):.3g} is {float(offsets[column]):.1g} "
            f"times the largest spread of a column, {largest:.3g}; at most {LARGEST_OFFSET:.0e} is supported",
            STANDARDISE,
        )
