"""SVMs of all classes and all folds over one X, within a bound on memory: batches of columns, blocks of rows."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.evaluation.grid import FoldCounts
from l2a_transfer.evaluation.rows import Fold, LazyRows, Rows

if TYPE_CHECKING:
    import torch

    from l2a_transfer.evaluation.newton import Outcome, Problems

log = logging.getLogger(__name__)
COLUMN_ROW_BYTES = 64
"""What one row of one column takes at the peak: its sign and score, the copies of a step, and the step's scores."""
RESIDENT_BYTES = 12
"""Of one number of X on the device: float64 for scores and gradients, float32 for conjugate gradients."""


class SharedFits:
    """The columns (one fold and one class against the rest, each) of one X, solved along rising C.

    X (N, D) array or `LazyRows`; `targets` (N,) class indices below `classes`. With two classes one SVM is fitted.
    `max_memory` bytes bound what is held on the device: X is kept there where it and one column fit, else it is read
    in blocks for every product; columns that do not fit together are solved in batches; the log says either.
    Raises: ValueError where X holds NaN or infinity, or where not even one column fits.
    """

    def __init__(
        self,
        X: NDArray[Any] | LazyRows,
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

        from l2a_transfer.evaluation.newton import Coordinates, Eigenbasis

        self.tol, self.max_iter, self.folds = tol, max_iter, list(folds)
        self.device = choose_device(device)
        self.positive = np.array([1]) if classes == 2 else np.arange(classes)
        N, D = X.shape
        budget = max_memory or _half_of_memory(self.device)
        per_column = COLUMN_ROW_BYTES * N + 100 * D
        resident = RESIDENT_BYTES * N * D + per_column <= budget
        room = budget - (RESIDENT_BYTES * N * D if resident else 0)
        self.columns = len(self.folds) * len(self.positive)
        self.batch = min(self.columns, room // per_column)
        if self.batch < 1:
            raise ValueError(f"max_memory {budget} is too small: one column of {N} rows takes {per_column} bytes")
        if not resident:
            log.info("X, %d × %d, does not fit into %.0f MiB: it is read in blocks", N, D, budget / 2**20)
        if self.batch < self.columns:
            log.info("%d columns do not fit into %.0f MiB: batches of %d", self.columns, budget / 2**20, self.batch)
        self.rows = Rows(X, device=self.device, resident=resident)
        mean, inverse = self.rows.fold_statistics(self.folds)
        self.coordinates = Coordinates(mean, inverse, bias)
        self.basis = Eigenbasis(self.rows, self.coordinates)
        self.targets = torch.from_numpy(targets).to(self.device)
        self.train = torch.from_numpy(np.stack([fold.train for fold in self.folds])).to(self.device)
        self.solutions: dict[float, torch.Tensor] = {}

    def solve(self, C: float, start: torch.Tensor | None = None) -> tuple[Outcome, torch.Tensor, torch.Tensor]:
        """All columns at one C: outcome, weights (J, D) and intercepts (J,) in the units of X."""
        import torch

        from l2a_transfer.evaluation.newton import Outcome

        parts = []
        for place, problems in self._batches():
            if start is not None:
                problems.start_at(start[place].to(self.device).double())
            parts.append((problems.solve(C, tol=self.tol, max_iter=self.max_iter), *problems.original_units()))
        outcomes = [outcome for outcome, _, _ in parts]
        whole = Outcome(
            objective=torch.cat([o.objective for o in outcomes]),
            gap=torch.cat([o.gap for o in outcomes]),
            steps=torch.cat([o.steps for o in outcomes]),
            converged=torch.cat([o.converged for o in outcomes]),
        )
        return whole, torch.cat([w for _, w, _ in parts]), torch.cat([b for _, _, b in parts])

    def held_out_counts(self, Cs: Sequence[float], tick: Callable[[int], Any] | None = None) -> FoldCounts:
        """Fits every column for every C in rising order and counts the held-out rows that are right, fold by fold.

        Each C starts from the solution before it, the first from that of the nearest C of an earlier call.
        `tick(n)` is called after every n columns.
        """
        import torch

        held_out = [torch.from_numpy(np.flatnonzero(fold.held_out)).to(self.device) for fold in self.folds]
        top = [[torch.full((len(rows),), -torch.inf, dtype=torch.float64) for rows in held_out] for _ in Cs]
        guess = [[torch.zeros(len(rows), dtype=torch.int64) for rows in held_out] for _ in Cs]
        unconverged = np.zeros((len(Cs), len(self.folds)), dtype=bool)
        near = min(self.solutions, key=lambda C: abs(math.log(C / Cs[0])), default=None)
        found = {C: torch.empty(self.columns, self.rows.D + 1) for C in Cs}
        for place, problems in self._batches():
            if near is not None:
                problems.start_at(self.solutions[near][place].to(self.device).double())
            for k, C in enumerate(Cs):
                outcome = problems.solve(C, tol=self.tol, max_iter=self.max_iter)
                found[C][place] = problems.w.float().cpu()
                for f in torch.unique(problems.fold).tolist():
                    own = torch.nonzero(problems.fold == f).flatten()
                    unconverged[k, f] |= not bool(outcome.converged[own].all())
                    scores, index = problems.scores[own][:, held_out[f]].cpu().max(dim=0)
                    better = scores > top[k][f]  # strictly, so that the first of equals stays
                    top[k][f][better] = scores[better]
                    guess[k][f][better] = problems.positive[own].cpu()[index][better]
                if tick is not None:
                    tick(len(problems.fold))
        self.solutions |= found
        correct = np.zeros((len(Cs), len(self.folds)), dtype=np.int64)
        for k in range(len(Cs)):
            for f, rows in enumerate(held_out):
                predicted = guess[k][f] if len(self.positive) > 1 else (top[k][f] > 0).long()
                correct[k, f] = int((predicted == self.targets[rows].cpu()).sum())
        return FoldCounts(correct, unconverged)

    def mean_solution(self, C: float) -> torch.Tensor:
        """The mean over folds of the solution for C (columns of one fold, D + 1): where a fit on all rows may start."""
        return self.solutions[C].reshape(len(self.folds), len(self.positive), -1).mean(dim=0)

    def _batches(self) -> Iterator[tuple[slice, Problems]]:
        import torch

        from l2a_transfer.evaluation.newton import Problems

        fold = torch.arange(len(self.folds), device=self.device).repeat_interleave(len(self.positive))
        positive = torch.from_numpy(self.positive).to(self.device).repeat(len(self.folds))
        shared = (self.rows, self.coordinates, self.basis, self.targets, self.train)
        for start in range(0, self.columns, self.batch):
            place = slice(start, min(start + self.batch, self.columns))
            yield place, Problems(*shared, fold[place], positive[place])


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises: ValueError for a device that is not there."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for and PyTorch sees no CUDA GPU; use device 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _half_of_memory(device: torch.device) -> int:
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0] // 2)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
