"""The objective of many linear SVMs over the same rows: scores, values, gradients, Hessian products, line search.

J problems, N rows, D columns; a problem is a row of every (J, …) array. A vector over columns has D + 1 numbers, the
last for the constant. Products are computed over blocks of rows, for all problems at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from l2a_transfer.svm.rows import ScaledRows

SLOPE = 0.5
"""The line search ends when the slope has decreased to this share."""


@dataclass(frozen=True)
class Coordinates:
    """z = ((x' − mean) · inverse, bias) of J problems or F folds; x' as in `ScaledRows`.

    `mean`, `inverse`: (J, D).
    """

    mean: Tensor
    inverse: Tensor
    bias: float

    def __getitem__(self, chosen: Tensor | slice) -> Coordinates:
        return Coordinates(self.mean[chosen], self.inverse[chosen], self.bias)

    def to(self, dtype: torch.dtype) -> Coordinates:
        return Coordinates(self.mean.to(dtype), self.inverse.to(dtype), self.bias)

    def to_shared(self, v: Tensor) -> Tensor:
        """(J, D + 1) → (J, D + 1) with ⟨v, z⟩ = ⟨result, (x', 1)⟩."""
        shared = torch.empty_like(v)
        torch.mul(v[:, :-1], self.inverse, out=shared[:, :-1])
        shared[:, -1] = self.bias * v[:, -1] - torch.linalg.vecdot(shared[:, :-1], self.mean)
        return shared

    def from_shared(self, products: Tensor) -> Tensor:
        """Σ r_i (x'_i, 1) → Σ r_i z_i, (J, D + 1) both; works in place."""
        inner = products[:, :-1]
        inner.addcmul_(products[:, -1:], self.mean, value=-1).mul_(self.inverse)
        products[:, -1] *= self.bias
        return products

    def scales(self) -> Tensor:
        """(J, D + 1): the factor of each entry of z."""
        return torch.nn.functional.pad(self.inverse, (0, 1), value=self.bias)


@dataclass(frozen=True)
class NewtonState:
    """Some problems during a Newton step.

    `w` (J, D + 1), `scores` (J, N) float64, `sign` (J, N) float32: y, or 0 if the row is not in the fold. `block`: how
    many numbers to process at a time.
    """

    rows: ScaledRows
    z: Coordinates
    w: Tensor
    scores: Tensor
    sign: Tensor
    block: int

    def __getitem__(self, chosen: Tensor) -> NewtonState:
        if len(chosen) == len(self.w):
            return self
        return NewtonState(
            self.rows, self.z[chosen], self.w[chosen], self.scores[chosen], self.sign[chosen], self.block
        )

    def scores_of(self, v: Tensor) -> Tensor:
        """⟨v, z_i⟩ of every row: v (J, D + 1) → (J, N)."""
        shared = self.z.to_shared(v)
        scores = torch.empty(len(v), self.rows.N, dtype=v.dtype, device=v.device)
        for place, x in self.rows.blocks(v.dtype, self.block, len(v)):
            torch.mm(shared, x.mT, out=scores[:, place])
        return scores

    def value_and_gradient(self, C: float) -> tuple[Tensor, Tensor, Tensor]:
        """f (J,), ∇f (J, D + 1), and which rows are active (J, N) bool."""
        loss = torch.zeros(len(self.w), dtype=torch.float64, device=self.w.device)
        products = torch.zeros_like(self.w)
        active = torch.empty(self.sign.shape, dtype=torch.bool, device=self.w.device)
        for place, x in self.rows.blocks(torch.float64, self.block, len(self.w)):
            slack = _signed_slack(self.sign[:, place], self.scores[:, place])  # (J, B)
            loss += torch.linalg.vecdot(slack, slack)
            products.addmm_(slack, x)
            torch.ne(slack, 0, out=active[:, place])
        value = 0.5 * torch.linalg.vecdot(self.w, self.w) + C * loss
        return value, torch.sub(self.w, self.z.from_shared(products), alpha=2 * C), active

    def line_search(self, direction: Tensor, along: Tensor, gradient: Tensor, C: float) -> Tensor:
        """Step lengths (J,) at which the slope has halved, by Newton's method on the piecewise quadratic."""
        start = torch.linalg.vecdot(direction, gradient)
        slope, curvature = torch.linalg.vecdot(direction, self.w), torch.linalg.vecdot(direction, direction)
        length = torch.ones_like(start)
        size = max(1, self.block // self.rows.N)
        for first in range(0, len(length), size):
            own = slice(first, first + size)
            length[own] = _line_search(
                self.sign[own], self.scores[own], along[own], start[own], slope[own], curvature[own], C
            )
        return length


class Blocks(Protocol):
    """Rows (x', 1) read in blocks."""

    def blocks(self, dtype: torch.dtype, block: int, problems: int) -> Iterator[tuple[slice, Tensor]]: ...


def hessian_times(rows: Blocks, z: Coordinates, v: Tensor, weight: Tensor, C: float, block: int) -> Tensor:
    """v + 2C Σ_active z ⟨z, v⟩ in v's precision: v (J, D + 1), weight (J, N), 1 if active → (J, D + 1)."""
    shared = z.to_shared(v)
    products = torch.zeros_like(v)
    for place, x in rows.blocks(v.dtype, block, len(v)):
        products.addmm_(torch.mm(shared, x.mT).mul_(weight[:, place]), x)
    return torch.add(v, z.from_shared(products), alpha=2 * C)


def parts(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` (at least 1)."""
    size = max(1, size)
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def _line_search(
    sign: Tensor, scores: Tensor, along: Tensor, start: Tensor, linear: Tensor, quadratic: Tensor, C: float
) -> Tensor:
    """`start`: slope at 0; `linear`, `quadratic`: of ½‖w + t p‖², whose slope at t is linear + t · quadratic."""
    length = torch.ones_like(start)
    low, high = torch.zeros_like(length), torch.full_like(length, torch.inf)
    todo = torch.arange(len(length), device=length.device)
    for _ in range(30):
        slope, curvature = _slope_along(sign, scores, along, length[todo], C)
        slope += linear[todo] + length[todo] * quadratic[todo]
        curvature += quadratic[todo]
        left = torch.nonzero(slope.abs() > SLOPE * start[todo].abs()).flatten()
        if len(left) == 0:
            break
        if len(left) < len(todo):
            todo, slope, curvature = todo[left], slope[left], curvature[left]
            sign, scores, along = sign[left], scores[left], along[left]
        rising = slope > 0
        high[todo] = torch.where(rising, length[todo], high[todo])
        low[todo] = torch.where(rising, low[todo], length[todo])
        newton = length[todo] - slope / curvature
        middle = torch.where(high[todo].isinf(), 2 * length[todo], (low[todo] + high[todo]) / 2)
        length[todo] = torch.where((newton > low[todo]) & (newton < high[todo]), newton, middle)
    return length


def _signed_slack(sign: Tensor, scores: Tensor) -> Tensor:
    """y_i max(0, 1 − y_i s_i), which is 0 for rows outside the fold, whose sign is 0."""
    return (1 - sign * scores).clamp_(min=0).mul_(sign)


def _slope_along(sign: Tensor, scores: Tensor, along: Tensor, length: Tensor, C: float) -> tuple[Tensor, Tensor]:
    """First and second derivative (J,) of the loss term at `length` along the step."""
    slack = _signed_slack(sign, torch.addcmul(scores, length[:, None], along))
    slope = torch.linalg.vecdot(slack, along)
    curvature = torch.linalg.vecdot(slack.ne_(0).mul_(along), along)
    return -2 * C * slope, 2 * C * curvature
