r"""Newton directions: solve (I + 2C Σ_active z zᵀ) p = −∇f for many problems, each by the cheapest method.

- **Conjugate gradients** in float32, all problems at once, so that each product with X is one matrix product. The
  preconditioner I + 2C · n_active · Σ z zᵀ / N is diagonal in one eigenbasis shared by all problems and all C. Finished
  problems leave the product.
- **Moments**: Σ_active (x', 1)(x', 1)ᵀ is kept for each problem and updated with the rows whose activity changed, which
  are few near the solution and do not depend on C; then a Cholesky factor of (D + 1)² is computed.
- **Gram**: if fewer rows are active than there are columns, a Cholesky factor of their Gram matrix.

The last two suit large C, for which few rows are active and conjugate gradients converge slowly. They factorize in
float64, or in float32 if C and the number of active rows are small enough for its rounding not to matter to a
direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from l2a_transfer.svm.memory import MemoryPlan
from l2a_transfer.svm.objective import Blocks, Coordinates, NewtonState, hessian_times, parts
from l2a_transfer.svm.rows import ScaledRows

MAX_CG = 250
DOUBLE_COST = 2.0
"""Cost of a float64 multiplication relative to a float32 one."""
CHOLESKY_COST = 3.0
"""Cost of a multiplication in a factorization relative to one in a matrix product (measured, AVX2)."""
SINGLE_ERROR = 0.02
READING_COST = 24.0
"""Cost of reading a matrix for a product with some problems, as a number of problems: a product with J of them takes as
long as J + `READING_COST` (measured on one and two threads, AVX-512)."""
STEP_COST = 2e7
"""Cost, in multiplications, of one step of conjugate gradients for all its problems besides products; a batch of
factorizations costs about the same."""
MOMENT_COST = 5e6
"""Cost, in multiplications, of updating one problem's second moment besides its products."""
GATHER_COST = 30.0
"""Cost, in multiplications, of gathering a number."""
GATHERED_BLOCKS = 8
"""How many times the numbers of a working block may be gathered, as float32 (see `memory.BLOCK_BYTES`)."""


class GatheredRows:
    """Some rows of X in memory: (n, D + 1) float32."""

    def __init__(self, x: Tensor) -> None:
        self._x = x

    def blocks(self, dtype: torch.dtype, block: int, problems: int) -> Iterator[tuple[slice, Tensor]]:
        """As `ScaledRows.blocks`."""
        for place in parts(len(self._x), max(16, block // problems)):
            yield place, self._x[place].to(dtype)


class Eigenbasis:
    """Σ z zᵀ / N in the mean fold's coordinates, with the constant, as eigenvalues and vectors; computed on first
    use."""

    def __init__(self, rows: ScaledRows, folds: Coordinates, plan: MemoryPlan) -> None:
        self._rows, self.folds, self._plan = rows, folds, plan
        self._pair: tuple[Tensor, Tensor] | None = None

    def preconditioner(self, weight: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """(r, own) → (I + weight_j · Σ z zᵀ / N)⁻¹ r_j: r (B, D + 1) float32 of the problems `own` (B,), weight (J,).

        If there is no memory for an eigenbasis, this is the identity.
        """
        if not self._plan.basis:
            return lambda r, own: r
        values, vectors = self._eigen()
        return lambda r, own: ((r @ vectors) / (1 + weight[own, None] * values).float()) @ vectors.mT

    def largest(self) -> float:
        """Its largest eigenvalue; infinity if unknown."""
        return float(self._eigen()[0][-1]) if self._plan.basis else math.inf

    def _eigen(self) -> tuple[Tensor, Tensor]:
        if self._pair is None:
            self._pair = self._decompose()
        return self._pair

    def _decompose(self) -> tuple[Tensor, Tensor]:
        mean = Coordinates(
            self.folds.mean.mean(dim=0, keepdim=True), self.folds.inverse.mean(dim=0, keepdim=True), self.folds.bias
        )
        moment = self._rows.second_moment(self._plan.block)[None]
        values, vectors = torch.linalg.eigh(_to_coordinates(moment, mean)[0])
        return values.clamp(min=0), vectors.float()


class Directions:
    """Finds directions for J problems, and keeps data for each that makes the next direction cheaper."""

    def __init__(self, rows: ScaledRows, basis: Eigenbasis, plan: MemoryPlan, J: int) -> None:
        self.rows, self.basis, self.plan = rows, basis, plan
        self._folds = len(basis.folds.mean)
        self._cg_steps = torch.full((J,), 10.0, dtype=torch.float64, device=rows.device)
        self._moments: Tensor | None = None  # (J, D + 1, D + 1) of the rows marked in `_summed` (J, N)
        self._summed = torch.zeros(J, rows.N if plan.moments else 0, dtype=torch.bool, device=rows.device)

    def scale_cg_steps(self, ratio: float) -> None:
        """Expect more or fewer steps of conjugate gradients: by about the square root of the `ratio` by which C
        changes."""
        self._cg_steps *= ratio**0.5

    def __call__(
        self, todo: Tensor, at: NewtonState, gradient: Tensor, active: Tensor, C: float, forcing: Tensor
    ) -> Tensor:
        """p (J, D + 1) float64 with H p ≈ −gradient, a descent direction, for the problems `todo` (J,)."""
        n_active = active.sum(dim=1)  # (J,)
        single = self._single_will_do(n_active, C)
        way = self._cheapest(todo, active, n_active, single)
        direction = torch.empty_like(gradient)
        solved = torch.zeros_like(n_active, dtype=torch.bool)
        scale = gradient.norm(dim=1, keepdim=True)  # avoids overflow and underflow in float32
        unit = gradient / scale
        for direct, dtype, chosen in (
            (self._by_gram, torch.float32, (way == 1) & single),
            (self._by_gram, torch.float64, (way == 1) & ~single),
            (self._by_moments, torch.float32, (way == 2) & single),
            (self._by_moments, torch.float64, (way == 2) & ~single),
        ):
            own = torch.nonzero(chosen).flatten()
            if len(own):
                direction[own], solved[own] = direct(todo[own], at.z[own], unit[own], active[own], C, dtype)
        # A factorization fails if rounding makes the matrix indefinite, for badly scaled data.
        own = torch.nonzero(~solved).flatten()
        if len(own):
            for part, rows, weight in self._gathered(todo[own], active[own]):
                some = own[part]
                found, taken = _conjugate_gradients(
                    rows,
                    at.z[some],
                    unit[some].float(),
                    weight,
                    C,
                    forcing[some].float(),
                    self.basis.preconditioner(2 * C * n_active[some]),
                    self.plan.block,
                )
                direction[some] = found
                self._cg_steps[todo[some]] = taken.double()
        # float32 may not descend then either; the gradient always does.
        downhill = torch.linalg.vecdot(direction, unit) < 0  # also False for NaN
        return torch.where(downhill[:, None], direction, -unit).mul_(scale)

    def _gathered(self, todo: Tensor, active: Tensor) -> list[tuple[slice, Blocks, Tensor]]:
        """Groups of problems (J,) for conjugate gradients: the problems, their rows, and which of these are active for
        each problem (j, n).

        If few rows are active, as for larger C, a group's products use only the rows that are active for any of its
        problems. The consecutive folds of one class share many of them. The cheapest grouping is used, including one
        group with all of X.
        """
        J, width, steps = len(todo), self.rows.D + 1, float(self._cg_steps[todo].mean())
        least, best = steps * self._step_cost(self.rows.N, J), 0
        if self.rows.gathers:
            for size in (self._folds * n for n in (1, 2, 4, 8) if self._folds * n < 2 * J):
                unions = [int(active[own].any(dim=0).sum()) for own in parts(J, size)]
                if max(unions) * width > GATHERED_BLOCKS * self.plan.block:
                    break
                cost = sum(n * width * GATHER_COST + steps * self._step_cost(n, min(size, J)) for n in unions)
                if cost < least:
                    least, best = cost, size
        if best == 0:
            return [(slice(0, J), self.rows, active)]
        return [(own, *self._rows_of(active[own])) for own in parts(J, best)]

    def _step_cost(self, rows: int, problems: int) -> float:
        """Cost, in multiplications, of a step of conjugate gradients: products with rows and with the eigenbasis."""
        width = self.rows.D + 1
        return 2.0 * width * (rows + width * self.plan.basis) * (problems + READING_COST) + STEP_COST

    def _rows_of(self, active: Tensor) -> tuple[GatheredRows, Tensor]:
        rows = torch.nonzero(active.any(dim=0)).flatten()
        return GatheredRows(self.rows.take(rows, torch.float32)), active[:, rows]

    def _single_will_do(self, n_active: Tensor, C: float) -> Tensor:
        """(J,) bool: whether float32 rounding of H, relative to I, is small enough for a Newton direction."""
        largest = self.basis.largest()
        return 2 * C * n_active * largest * torch.finfo(torch.float32).eps < SINGLE_ERROR

    def _cheapest(self, todo: Tensor, active: Tensor, n_active: Tensor, single: Tensor) -> Tensor:
        """0 for conjugate gradients, 1 for Gram, 2 for moments, (J,), by counting multiplications."""
        if not self.rows.gathers:  # as the others require
            return torch.zeros_like(n_active)
        D = float(self.rows.D + 1)
        m = changed = n_active.double()
        if self.plan.moments:
            size = self.plan.block // self.rows.N
            counts = [(self._summed[todo[own]] ^ active[own]).sum(dim=1) for own in parts(len(todo), size)]
            # The cost of the first sum over many rows is recovered by the next steps.
            changed = torch.minimum(torch.cat(counts).double(), m / 4)
        dear = torch.where(single, 1.0, DOUBLE_COST)
        cost = torch.stack(
            [
                self._cg_steps[todo] * (self._step_cost(self.rows.N, len(todo)) / len(todo)),
                torch.where(m <= D, dear * (m**2 * D + CHOLESKY_COST * m**3 / 3) + STEP_COST / len(todo), torch.inf),
                DOUBLE_COST * changed * D**2 + dear * CHOLESKY_COST * D**3 / 3 + MOMENT_COST + STEP_COST / len(todo),
            ]
        )
        return cost.argmin(dim=0)

    def _by_gram(
        self, todo: Tensor, z: Coordinates, gradient: Tensor, active: Tensor, C: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """(I + 2C zᵀz)⁻¹ = I − zᵀ (I/2C + zzᵀ)⁻¹ z for the active rows z (m, D + 1), in batches of similar m."""
        direction, solved = torch.empty_like(gradient), torch.zeros(len(todo), dtype=torch.bool, device=todo.device)
        n_active, order = active.sum(dim=1).sort()
        fits = self.plan.block // 4 // (self.rows.D + 1)  # rows of a batch, padded to its widest problem
        at = 0
        while at < len(order):
            size = max(1, min(len(order) - at, fits // max(1, int(n_active[at]))))
            size = max(1, min(size, fits // max(1, int(n_active[at + size - 1]))))
            own = order[at : at + size]
            direction[own], solved[own] = self._gram_batch(z[own].to(dtype), gradient[own].to(dtype), active[own], C)
            at += size
        return direction, solved

    def _gram_batch(self, z: Coordinates, gradient: Tensor, active: Tensor, C: float) -> tuple[Tensor, Tensor]:
        n_active = active.sum(dim=1)
        width = max(1, int(n_active.max()))
        own, row = torch.nonzero(active, as_tuple=True)
        place = torch.arange(len(row), device=row.device) - (n_active.cumsum(0) - n_active)[own]
        rows = torch.zeros(len(active), width, dtype=torch.int64, device=row.device)
        there = torch.zeros(len(active), width, 1, dtype=gradient.dtype, device=row.device)
        rows[own, place], there[own, place] = row, 1.0
        active_z = self.rows.take(rows.flatten(), gradient.dtype).view(len(active), width, -1)  # (B, m, D + 1)
        active_z[:, :, :-1].sub_(z.mean[:, None, :])
        active_z.mul_(z.scales()[:, None, :]).mul_(there)
        gram = torch.bmm(active_z, active_z.mT)  # (B, m, m)
        gram.diagonal(dim1=1, dim2=2).add_(1 / (2 * C))
        factor, failed = torch.linalg.cholesky_ex(gram)
        inner = torch.cholesky_solve(torch.bmm(active_z, gradient[:, :, None]), factor)
        return (torch.bmm(active_z.mT, inner).squeeze(2) - gradient).double(), failed == 0

    def _by_moments(
        self, todo: Tensor, z: Coordinates, gradient: Tensor, active: Tensor, C: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        direction, solved = torch.empty_like(gradient), torch.zeros(len(todo), dtype=torch.bool, device=todo.device)
        for part in parts(len(todo), 2 * self.plan.block // (self.rows.D + 1) ** 2):
            moments = [self._moment(j, own) for j, own in zip(todo[part].tolist(), active[part], strict=True)]
            hessian = _to_coordinates(torch.stack(moments), z[part]).mul_(2 * C).to(dtype)  # (B, D + 1, D + 1)
            hessian.diagonal(dim1=1, dim2=2).add_(1)
            factor, failed = torch.linalg.cholesky_ex(hessian)
            direction[part] = -torch.cholesky_solve(gradient[part].to(dtype)[:, :, None], factor).squeeze(2).double()
            solved[part] = failed == 0
        return direction, solved

    def _moment(self, j: int, active: Tensor) -> Tensor:
        """Σ (x', 1)(x', 1)ᵀ over the active rows (N,) of problem j, (D + 1, D + 1)."""
        D = self.rows.D + 1
        if not self.plan.moments:
            moment, change = torch.zeros(D, D, dtype=torch.float64, device=active.device), active.double()
        else:
            if self._moments is None:
                J = len(self._cg_steps)
                self._moments = torch.zeros(J, D, D, dtype=torch.float64, device=active.device)
            moment, change = self._moments[j], active.double() - self._summed[j].double()
            self._summed[j] = active
        row = torch.nonzero(change).flatten()
        for part in parts(len(row), self.plan.block // D):
            x = self.rows.take(row[part], torch.float64)  # (m, D + 1)
            moment.addmm_((x * change[row[part], None]).mT, x)
        return moment


def _to_coordinates(moment: Tensor, z: Coordinates) -> Tensor:
    """Σ (x', 1)(x', 1)ᵀ → Σ z zᵀ, (B, D + 1, D + 1) both; works in place."""
    moment[:, :, :-1].addcmul_(moment[:, :, -1:], z.mean[:, None, :], value=-1)
    moment[:, :-1].addcmul_(moment[:, -1:], z.mean[:, :, None], value=-1)
    scales = z.scales()
    return moment.mul_(scales[:, :, None]).mul_(scales[:, None, :])


def _conjugate_gradients(
    rows: Blocks,
    z: Coordinates,
    gradient: Tensor,
    active: Tensor,
    C: float,
    forcing: Tensor,
    precondition: Callable[[Tensor, Tensor], Tensor],
    block: int,
) -> tuple[Tensor, Tensor]:
    """p with ‖Hp + gradient‖ ≤ forcing for gradients of norm 1 (J, D + 1) float32, and each problem's steps (J,).

    Finished problems leave the products when they are a quarter of them.
    """
    found, taken = torch.zeros_like(gradient), torch.zeros(len(gradient), device=gradient.device)
    own = torch.arange(len(gradient), device=gradient.device)
    going = torch.ones_like(own, dtype=torch.bool)
    z, weight = z.to(torch.float32), active.float()
    residual, solution = -gradient, torch.zeros_like(gradient)
    direction = precondition(residual, own)
    rho = torch.linalg.vecdot(residual, direction)
    for _ in range(MAX_CG):
        product = hessian_times(rows, z, direction, weight, C, block)
        curvature = torch.linalg.vecdot(direction, product)
        going = going & (curvature > 0)
        alpha = torch.where(going, rho / curvature, 0.0)
        solution.addcmul_(alpha[:, None], direction)
        residual.addcmul_(alpha[:, None], product, value=-1)
        taken[own] += going
        going = going & (residual.norm(dim=1) > forcing[own])
        left = torch.nonzero(going).flatten()
        if len(left) == 0:
            break
        if len(left) <= 0.75 * len(own):
            found[own] = solution
            own, z, weight, going = own[left], z[left], weight[left], going[left]
            solution, residual, direction, rho = solution[left], residual[left], direction[left], rho[left]
        prepared = precondition(residual, own)
        new_rho = torch.linalg.vecdot(residual, prepared)
        direction = torch.addcmul(prepared, (new_rho / rho)[:, None], direction)
        rho = new_rho
    found[own] = solution
    return found.double(), taken
