r"""Many linear SVMs over the same rows at once: LinearSVC's objective, solved by a truncated Newton method.

Problem j separates the class `positive[j]` from the rest on the rows of fold `fold[j]`, in that fold's coordinates z
with a constant appended, as LIBLINEAR does (Fan et al. 2008, equation 1 with L2 loss):

    f_j(w) = ½ ‖w‖² + C Σ_i max(0, 1 − y_i ⟨w, z_i⟩)²

The dual point α_i = 2C max(0, 1 − y_i ⟨w, z_i⟩) is feasible for every w, and its duality gap to w equals ½ ‖∇f(w)‖².
This is the only stopping criterion: `gap ≤ tol · f` proves that f(w) is within `tol` of the optimum, relative to f.

A Newton step solves (I + 2C Σ_{active} z zᵀ) p = −∇f (Keerthi and DeCoste 2005; Chapelle 2007), where rows inside the
margin are active; see `directions`. The line search ends when the slope along the step has halved; a step of 1 is tried
first. Solved problems are removed.

J problems, N rows, D columns, F folds; a problem is a row of every (J, …) array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from l2a_transfer.svm.directions import Directions, Eigenbasis
from l2a_transfer.svm.memory import MemoryPlan
from l2a_transfer.svm.objective import Coordinates, NewtonState, parts
from l2a_transfer.svm.rows import ScaledRows


@dataclass(frozen=True)
class SolverOutcome:
    """Result of one `solve`, one value per problem: objective, duality gap, Newton steps taken, and whether gap ≤ tol ·
    f."""

    objective: Tensor
    gap: Tensor
    steps: Tensor
    converged: Tensor


class Problems:
    """J problems and their current state: `w` (J, D + 1) in the coordinates of each fold, `scores` (J, N) float64.

    `targets` (N,) class indices; `train` (F, N) bool; `fold`, `positive` (J,). The next `solve` starts from the state
    after the previous one, so solving for increasing C uses warm starts. Scores cover all rows, including held-out
    ones.
    """

    def __init__(
        self,
        rows: ScaledRows,
        folds: Coordinates,
        basis: Eigenbasis,
        targets: Tensor,
        train: Tensor,
        fold: Tensor,
        positive: Tensor,
        plan: MemoryPlan,
    ) -> None:
        self.rows, self.folds, self.plan = rows, folds, plan
        self.fold, self.positive = fold, positive
        J, device = len(fold), rows.device
        self.w = torch.zeros(J, rows.D + 1, dtype=torch.float64, device=device)
        self.scores = torch.zeros(J, rows.N, dtype=torch.float64, device=device)
        self.sign = torch.empty(J, rows.N, device=device)
        for own in parts(J, plan.block // rows.N):
            sign = torch.where(targets[None, :] == positive[own, None], 1.0, -1.0)
            torch.mul(sign, train[fold[own]], out=self.sign[own])  # 0: the row is not in the fold
        self.directions = Directions(rows, basis, plan, J)
        self.last_C: float | None = None

    def start_at(self, w: Tensor) -> None:
        """Continue from w (J, D + 1), the solutions of another `solve`."""
        self.w = w.clone()
        self.scores = self._at(slice(None)).scores_of(self.w)

    def solve(self, C: float, *, tol: float, max_iter: int, check: Callable[[], None] = lambda: None) -> SolverOutcome:
        """Move every problem to its optimum for this C, in at most `max_iter` Newton steps. `check` is called before
        each step; what it raises ends the solution."""
        J, device = len(self.fold), self.rows.device
        self.directions.scale_cg_steps(C / (self.last_C or C))
        self.last_C = C
        objective = torch.zeros(J, dtype=torch.float64, device=device)
        gap, steps = torch.zeros_like(objective), torch.zeros(J, dtype=torch.int64, device=device)
        todo = torch.arange(J, device=device)
        first: Tensor | None = None
        for step in range(max_iter + 1):
            check()
            at = self._at(todo if len(todo) < J else slice(None))
            value, gradient, active = at.value_and_gradient(C)
            own_gap = 0.5 * torch.linalg.vecdot(gradient, gradient)  # (J,)
            objective[todo], gap[todo], steps[todo] = value, own_gap, step
            first = own_gap if first is None else first
            left = torch.nonzero(own_gap > tol * value).flatten()
            if len(left) == 0 or step == max_iter:
                break
            if len(left) < len(todo):
                todo, first, value, own_gap = todo[left], first[left], value[left], own_gap[left]
                at, gradient, active = at[left], gradient[left], active[left]
            # Not tighter than the stopping tolerance, not looser than 0.1, and tighter near the solution.
            enough = 0.5 * (tol * value / own_gap).sqrt()
            forcing = torch.maximum(enough, (own_gap / first).pow(0.25).clamp(max=0.1))
            direction = self.directions(todo, at, gradient, active, C, forcing)
            along = at.scores_of(direction)
            length = at.line_search(direction, along, gradient, C)
            self.w[todo] += length[:, None] * direction
            for own in parts(len(todo), self.plan.block // self.rows.N):
                self.scores[todo[own]] += length[own, None] * along[own]
        return SolverOutcome(objective, gap, steps, gap <= tol * objective)

    def original_units(self) -> tuple[Tensor, Tensor]:
        """Weights (J, D) and intercepts (J,) for the original rows: score = ⟨weights, x⟩ + intercept."""
        shared = self.folds[self.fold].to_shared(self.w)
        weights = shared[:, :-1] / self.rows.spread
        return weights, shared[:, -1] - weights @ self.rows.shift

    def _at(self, todo: Tensor | slice) -> NewtonState:
        z = self.folds[self.fold[todo]]
        return NewtonState(self.rows, z, self.w[todo], self.scores[todo], self.sign[todo], self.plan.block)
