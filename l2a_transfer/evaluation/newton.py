r"""Many linear SVMs over the same rows at once: LinearSVC's objective, solved by a truncated Newton method.

Problem j separates the class `positive[j]` from the rest on the rows of fold `fold[j]`, in that fold's coordinates z
with a constant appended, as LIBLINEAR does (Fan et al. 2008, equation 1 with L2 loss):

    f_j(w) = ½ ‖w‖² + C Σ_i max(0, 1 − y_i ⟨w, z_i⟩)²

Its dual solution candidate α_i = 2C max(0, 1 − y_i ⟨w, z_i⟩) is feasible for every w, and the duality gap between w
and it comes out as ½ ‖∇f(w)‖². That is the stopping test: `gap ≤ tol · f` proves f(w) to be within `tol` of the
optimum, relative to f; no other stopping rule is needed and none is used.

A Newton step solves (I + 2C Σ_{active} z zᵀ) p = −∇f (Keerthi and DeCoste 2005; Chapelle 2007), where a row is
active inside the margin:
- by conjugate gradients in float32, all problems at once, so that each product with X is one matrix product; the
  preconditioner I + 2C · n_active · Σ z zᵀ / N is diagonal in one eigenbasis shared by all problems and all C;
- directly, where few rows are active, as it is at large C, where conjugate gradients suffer: a Cholesky factor of
  the active rows' Gram matrix, or of the (D + 1)² matrix where that is the smaller one, in batches of float64.
Whichever costs less for a problem, counted in operations, is taken. The line search
ends where the slope along the step is down to half; a step of 1 is tried first.

J problems, N rows, D columns, F folds; a problem is a row of every (J, …) array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from l2a_transfer.evaluation.rows import Rows

PROBLEM_BYTES = 24
"""Of one row of one problem: its sign, score, score along the step, and whether it is active."""
BLOCK_NUMBERS = 1 << 20
GATHER_NUMBERS = 1 << 22
MAX_CG = 250
SLOPE = 0.5
LARGEST_EIGENBASIS = 4096
CHOLESKY_COST = 4.0
"""How much dearer an operation of a small factorisation is than one of a large product (measured, two AVX2 cores)."""


@dataclass(frozen=True)
class Coordinates:
    """F folds' coordinates z = (x' − mean) · inverse, (F, D) each, and the constant `bias` that is appended to z."""

    mean: Tensor
    inverse: Tensor
    bias: float


@dataclass(frozen=True)
class Outcome:
    """Of one `solve`, a value a problem: objective, duality gap, Newton steps taken, and whether gap ≤ tol · f."""

    objective: Tensor
    gap: Tensor
    steps: Tensor
    converged: Tensor


class Problems:
    """J problems and where each of them stands: `w` (J, D + 1) in its fold's coordinates, `scores` (J, N) float64.

    `targets` (N,) class indices; `train` (F, N) bool; `fold`, `positive` (J,). What `solve` leaves is where the next
    `solve` starts, so that going along rising C is a warm start. Scores cover all rows, those held out too.
    """

    def __init__(
        self,
        rows: Rows,
        coordinates: Coordinates,
        basis: Eigenbasis,
        targets: Tensor,
        train: Tensor,
        fold: Tensor,
        positive: Tensor,
    ) -> None:
        self.rows, self.coordinates, self.basis = rows, coordinates, basis
        self.fold, self.positive = fold, positive
        J, device = len(fold), rows.device
        self.w = torch.zeros(J, rows.D + 1, dtype=torch.float64, device=device)
        self.scores = torch.zeros(J, rows.N, dtype=torch.float64, device=device)
        sign = torch.where(targets[None, :] == positive[:, None], 1.0, -1.0)  # (J, N)
        self.sign = (sign * train[fold]).float()  # 0: the row is not in the fold
        self.cg_steps = torch.full((J,), 10.0, device=device)  # what the last system took, to foretell the next

    def start_at(self, w: Tensor) -> None:
        """Goes on from w (J, D + 1), the solutions of another `solve`."""
        self.w = w.clone()
        self.scores = self._at(slice(None)).scores_of(self.w)

    def solve(self, C: float, *, tol: float, max_iter: int) -> Outcome:
        """Moves every problem to its optimum for this C, in at most `max_iter` Newton steps."""
        J, device = len(self.fold), self.rows.device
        objective = torch.zeros(J, dtype=torch.float64, device=device)
        gap, steps = torch.zeros_like(objective), torch.zeros(J, dtype=torch.int64, device=device)
        todo = torch.arange(J, device=device)
        first: Tensor | None = None
        for step in range(max_iter + 1):
            at = self._at(todo)
            value, gradient, active = at.value_and_gradient(C)
            own_gap = 0.5 * (gradient**2).sum(dim=1)  # (J,)
            objective[todo], gap[todo], steps[todo] = value, own_gap, step
            first = own_gap if first is None else first
            left = torch.nonzero(own_gap > tol * value).flatten()
            if len(left) == 0 or step == max_iter:
                break
            if len(left) < len(todo):
                todo, first, value, own_gap = todo[left], first[left], value[left], own_gap[left]
                at, gradient, active = self._at(todo), gradient[left], active[left]
            # No closer than what ends it, no looser than a tenth, and closer as the solution comes near.
            enough = 0.5 * (tol * value / own_gap).sqrt()
            forcing = torch.maximum(enough, (own_gap / first).pow(0.25).clamp(max=0.1))
            direction = self._newton_direction(todo, at, gradient, active, C, forcing)
            along = at.scores_of(direction)
            length = at.line_search(direction, along, gradient, C)
            self.w[todo] += length[:, None] * direction
            self.scores[todo] += length[:, None] * along
        return Outcome(objective, gap, steps, gap <= tol * objective)

    def original_units(self) -> tuple[Tensor, Tensor]:
        """Weights (J, D) and intercepts (J,) for rows as they came: score = ⟨weights, x⟩ + intercept."""
        shared, offset = self._at(slice(None)).to_shared(self.w)
        weights = shared / self.rows.spread
        return weights, offset - weights @ self.rows.shift

    def _at(self, todo: Tensor | slice) -> _Work:
        fold = self.fold[todo]
        mean, inverse = self.coordinates.mean[fold], self.coordinates.inverse[fold]
        return _Work(self.rows, mean, inverse, self.coordinates.bias, self.w[todo], self.scores[todo], self.sign[todo])

    def _newton_direction(
        self, todo: Tensor, at: _Work, gradient: Tensor, active: Tensor, C: float, forcing: Tensor
    ) -> Tensor:
        """p (J, D + 1) float64 with H p ≈ −gradient."""
        n_active = active.sum(dim=1)  # (J,)
        direction = torch.empty_like(gradient)
        direct = at.direct_is_cheaper(n_active, self.cg_steps[todo])
        chosen = torch.nonzero(direct).flatten()
        if len(chosen):
            direction[chosen] = at.pick(chosen).direct(gradient[chosen], active[chosen], C)
        chosen = torch.nonzero(~direct).flatten()
        if len(chosen):
            precondition = self.basis.preconditioner(2 * C * n_active[chosen])
            found, taken = at.pick(chosen).conjugate_gradients(
                gradient[chosen], active[chosen], C, forcing[chosen], precondition
            )
            # float32 can fail to descend on data of a wild scale; the preconditioned gradient always descends.
            lost = (found * gradient[chosen]).sum(dim=1) >= 0
            found[lost] = -precondition(gradient[chosen])[lost]
            direction[chosen] = found
            self.cg_steps[todo[chosen]] = taken.float()
        return direction


class Eigenbasis:
    """Σ z zᵀ / N of the mean fold's coordinates, with the constant appended, as eigenvalues and vectors; made once.

    Where D is too large for an eigendecomposition there is no preconditioner.
    """

    def __init__(self, rows: Rows, coordinates: Coordinates) -> None:
        self._rows, self._coordinates = rows, coordinates
        self._pair: tuple[Tensor, Tensor] | None = None

    def preconditioner(self, weight: Tensor) -> Callable[[Tensor], Tensor]:
        """r (J, D + 1) → (I + weight_j · Σ z zᵀ / N)⁻¹ r, for weight (J,)."""
        if self._rows.D >= LARGEST_EIGENBASIS:
            return lambda r: r
        values, vectors = self._pair = self._pair or self._decompose()
        return lambda r: (
            ((r @ vectors.to(r.dtype)) / (1 + weight[:, None] * values).to(r.dtype)) @ vectors.mT.to(r.dtype)
        )

    def _decompose(self) -> tuple[Tensor, Tensor]:
        mean, inverse = self._coordinates.mean.mean(dim=0), self._coordinates.inverse.mean(dim=0)
        moment = (self._rows.second_moment() + mean[:, None] * mean) * inverse[:, None] * inverse  # (D, D)
        edge = -self._coordinates.bias * mean * inverse  # (D,), because the shared coordinates have mean 0
        corner = torch.full((1, 1), self._coordinates.bias**2, dtype=moment.dtype, device=moment.device)
        whole = torch.cat([torch.cat([moment, edge[:, None]], 1), torch.cat([edge[None], corner], 1)])
        values, vectors = torch.linalg.eigh(whole)
        return values.clamp(min=0), vectors


@dataclass(frozen=True)
class _Work:
    """Some problems in the middle of a step; arrays as in `Problems`; `mean`, `inverse` (J, D) of their folds."""

    rows: Rows
    mean: Tensor
    inverse: Tensor
    bias: float
    w: Tensor
    scores: Tensor
    sign: Tensor

    def pick(self, chosen: Tensor) -> _Work:
        if len(chosen) == len(self.w):
            return self
        own = (a[chosen] for a in (self.w, self.scores, self.sign))
        return _Work(self.rows, self.mean[chosen], self.inverse[chosen], self.bias, *own)

    def blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        return self.rows.blocks(dtype, max(256, BLOCK_NUMBERS // len(self.w)))

    def to_shared(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """⟨v, z⟩ = ⟨shared, x'⟩ + offset: v (J, D + 1) → (J, D), (J,)."""
        shared = v[:, :-1] * self.inverse.to(v.dtype)
        return shared, self.bias * v[:, -1] - (shared * self.mean.to(v.dtype)).sum(dim=1)

    def from_shared(self, products: Tensor, sums: Tensor) -> Tensor:
        """Σ r_i z_i from Σ r_i x'_i (J, D) and Σ r_i (J,) → (J, D + 1)."""
        inner = (products - sums[:, None] * self.mean.to(products.dtype)) * self.inverse.to(products.dtype)
        return torch.cat([inner, self.bias * sums[:, None]], dim=1)

    def scores_of(self, v: Tensor) -> Tensor:
        """⟨v, z_i⟩ of every row: v (J, D + 1) → (J, N) float64."""
        shared, offset = self.to_shared(v)
        scores = torch.empty(len(v), self.rows.N, dtype=v.dtype, device=v.device)
        for place, block in self.blocks(torch.float64):
            scores[:, place] = torch.addmm(offset[:, None], shared, block.mT)
        return scores

    def value_and_gradient(self, C: float) -> tuple[Tensor, Tensor, Tensor]:
        """f (J,), ∇f (J, D + 1), and which rows are active (J, N) bool."""
        J, N = self.sign.shape
        loss = torch.zeros(J, dtype=torch.float64, device=self.w.device)
        sums, products = torch.zeros_like(loss), torch.zeros_like(self.w[:, :-1])
        active = torch.empty(J, N, dtype=torch.bool, device=self.w.device)
        for place, block in self.blocks(torch.float64):
            slack = _signed_slack(self.sign[:, place], self.scores[:, place])  # (J, B)
            loss += (slack * slack).sum(dim=1)
            sums += slack.sum(dim=1)
            products += slack @ block
            active[:, place] = slack != 0
        value = 0.5 * (self.w**2).sum(dim=1) + C * loss
        return value, self.w - 2 * C * self.from_shared(products, sums), active

    def line_search(self, direction: Tensor, along: Tensor, gradient: Tensor, C: float) -> Tensor:
        """Step lengths (J,) at which the slope is down to half; Newton's method on the piecewise quadratic."""
        slope_0 = (direction * gradient).sum(dim=1)
        w_p, p_p = (direction * self.w).sum(dim=1), (direction**2).sum(dim=1)
        length = torch.ones_like(slope_0)
        low, high = torch.zeros_like(length), torch.full_like(length, torch.inf)
        todo = torch.arange(len(length), device=length.device)
        for _ in range(30):
            everything = len(todo) == len(length)
            sign, scores, step = (a if everything else a[todo] for a in (self.sign, self.scores, along))
            slope, curvature = _slope_along(sign, scores, step, length[todo], C)
            slope += w_p[todo] + length[todo] * p_p[todo]
            curvature += p_p[todo]
            left = slope.abs() > SLOPE * slope_0[todo].abs()
            todo, slope, curvature = todo[left], slope[left], curvature[left]
            if len(todo) == 0:
                break
            rising = slope > 0
            high[todo] = torch.where(rising, length[todo], high[todo])
            low[todo] = torch.where(rising, low[todo], length[todo])
            newton = length[todo] - slope / curvature
            middle = torch.where(high[todo].isinf(), 2 * length[todo], (low[todo] + high[todo]) / 2)
            length[todo] = torch.where((newton > low[todo]) & (newton < high[todo]), newton, middle)
        return length

    def direct_is_cheaper(self, n_active: Tensor, cg_steps: Tensor) -> Tensor:
        """(J,) bool, by counting multiplications; rows that are not resident cannot be gathered."""
        D = self.rows.D + 1
        if not self.rows.resident:
            return torch.zeros_like(n_active, dtype=torch.bool)
        m = n_active.double()
        side = m.clamp(max=D)
        factor = m * side * D + CHOLESKY_COST * side**3 / 3
        return 2 * factor < cg_steps.double() * 2 * self.rows.N * D  # 2: float64 against float32

    def direct(self, gradient: Tensor, active: Tensor, C: float) -> Tensor:
        """−H⁻¹ gradient (J, D + 1), from the active rows alone."""
        direction = torch.empty_like(gradient)
        n_active = active.sum(dim=1)
        order = torch.argsort(n_active)
        at = 0
        while at < len(order):
            # Problems of nearly as many active rows go together; the widest of a batch decides how many fit.
            size = max(1, min(len(order) - at, GATHER_NUMBERS // (self.rows.D + 1) // max(1, int(n_active[order[at]]))))
            widest = max(1, int(n_active[order[at + size - 1]]))
            size = max(1, min(size, GATHER_NUMBERS // (self.rows.D + 1) // widest))
            batch = order[at : at + size]
            direction[batch] = self._direct_batch(batch, gradient[batch], active[batch], C)
            at += size
        return direction

    def _direct_batch(self, batch: Tensor, gradient: Tensor, active: Tensor, C: float) -> Tensor:
        width = max(1, int(active.sum(dim=1).max()))
        # The active rows' numbers, in any order, filled up with others that `there` blanks out.
        there, row = active.to(torch.uint8).topk(width, dim=1)  # (B, m)
        inverse = self.inverse[batch][:, None, :] * there[:, :, None]
        z = torch.empty(len(batch), width, self.rows.D + 1, dtype=torch.float64, device=gradient.device)
        torch.sub(self.rows.x64[row], self.mean[batch][:, None, :], out=z[:, :, :-1]).mul_(inverse)
        z[:, :, -1] = self.bias * there
        if width <= self.rows.D + 1:
            # (I + 2C zᵀz)⁻¹ = I − zᵀ (I/2C + zzᵀ)⁻¹ z
            gram = torch.bmm(z, z.mT)  # (B, m, m)
            gram.diagonal(dim1=1, dim2=2).add_(1 / (2 * C))
            factor = torch.linalg.cholesky(gram)
            inner = torch.cholesky_solve(torch.bmm(z, gradient[:, :, None]), factor)
            return (torch.bmm(z.mT, inner)).squeeze(2) - gradient
        hessian = torch.bmm(z.mT, z).mul_(2 * C)  # (B, D + 1, D + 1)
        hessian.diagonal(dim1=1, dim2=2).add_(1)
        return -torch.cholesky_solve(gradient[:, :, None], torch.linalg.cholesky(hessian)).squeeze(2)

    def conjugate_gradients(
        self,
        gradient: Tensor,
        active: Tensor,
        C: float,
        forcing: Tensor,
        precondition: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """p with ‖Hp + gradient‖ ≤ forcing · ‖gradient‖, and the steps that each problem took (J,).

        Everything is divided by ‖gradient‖ first, so that float32 neither overflows nor vanishes.
        """
        scale = gradient.norm(dim=1, keepdim=True)
        residual = (-gradient / scale).float()
        weight = active.float()
        solution = torch.zeros_like(residual)
        prepared = precondition(residual)
        direction = prepared.clone()
        rho = (residual * prepared).sum(dim=1)
        taken = torch.zeros_like(rho)
        going = torch.ones_like(rho, dtype=torch.bool)
        for _ in range(MAX_CG):
            product = self._hessian_times(direction, weight, C)
            curvature = (direction * product).sum(dim=1)
            alpha = torch.where(going & (curvature > 0), rho / curvature, torch.zeros_like(rho))
            solution += alpha[:, None] * direction
            residual -= alpha[:, None] * product
            taken += going
            going = going & (residual.norm(dim=1) > forcing) & (curvature > 0)
            if not going.any():
                break
            prepared = precondition(residual)
            new_rho = (residual * prepared).sum(dim=1)
            direction = prepared + (new_rho / rho)[:, None] * direction
            rho = new_rho
        return solution.double() * scale, taken

    def _hessian_times(self, v: Tensor, weight: Tensor, C: float) -> Tensor:
        """v + 2C Σ_active z ⟨z, v⟩ in float32: v (J, D + 1), weight (J, N) → (J, D + 1)."""
        shared, offset = self.to_shared(v)
        products, sums = torch.zeros_like(shared), torch.zeros_like(offset)
        for place, block in self.blocks(torch.float32):
            along = torch.addmm(offset[:, None], shared, block.mT).mul_(weight[:, place])  # (J, B)
            products.addmm_(along, block)
            sums += along.sum(dim=1)
        return v + 2 * C * self.from_shared(products, sums)


def _signed_slack(sign: Tensor, scores: Tensor) -> Tensor:
    """y_i max(0, 1 − y_i s_i), which is 0 for rows outside the fold, whose sign is 0."""
    return (1 - sign * scores).clamp_(min=0).mul_(sign)


def _slope_along(sign: Tensor, scores: Tensor, along: Tensor, length: Tensor, C: float) -> tuple[Tensor, Tensor]:
    """First and second derivative (J,) of the loss term at `length` along the step."""
    slope, curvature = torch.zeros_like(length), torch.zeros_like(length)
    width = max(256, BLOCK_NUMBERS // len(length))
    for start in range(0, sign.shape[1], width):
        place = slice(start, start + width)
        step = along[:, place]
        slack = _signed_slack(sign[:, place], torch.addcmul(scores[:, place], length[:, None], step))
        slope -= (slack * step).sum(dim=1)
        curvature += (step * step).mul_(slack != 0).sum(dim=1)
    return 2 * C * slope, 2 * C * curvature
