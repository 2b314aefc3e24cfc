"""TVmax: attention weights that are sparse and constant in connected regions (Martins et al. 2020, arXiv:2010.07882).

`tvmax(z) = argmin_p ½‖p − z‖² + λ Σ |p_i − p_j|` over the simplex, where the sum runs over vertical and horizontal
neighbours. It is exactly sparsemax after the proximal operator of the total variation, in two dimensions too.

The operator is computed on its dual, for all images at once: first by projected successive over-relaxation (Cryer
1971), which is fast if regions are small, then by accelerated projected gradient with restarts (O'Donoghue & Candès
2015). The dual shows which neighbours have equal values; the mean over each such region is the result.

Shapes: B images, H × W positions, P = H·W. All arithmetic is float64.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from l2a_transfer.errors import ArgumentError

SWEEPS = 40
"""Maximum number of over-relaxation sweeps before gradient descent."""
RELAXATION = 1.4
"""Between 1 and 2. Among 1 to 1.9, this needed the fewest sweeps on normal scores, 16 × 16, with λ = 0.1."""
STEP = 1 / 8
"""1 / the largest possible eigenvalue of the dual's operator on a grid."""
MAX_ITERATIONS = 20_000
"""Limit on sweeps and steps together."""
FIRST_LOOK = 10
GAP = 1e-12
"""An image is finished when its gap is below this fraction of its scores' variance, which is taken as at least 1e-6."""
TRY_GAP = 1e-6
"""Likewise, the gap below which the mean over each region is tried."""


def tvmax(scores: Tensor, weight: float) -> Tensor:
    """Scores → weights that sum to 1, many of them 0, and constant within regions.

    Parameters
    ----------
    scores : Tensor (B, H, W)
        Any floating dtype. If a score is not finite, all weights of its image are NaN.
    weight : float
        λ ≥ 0. 0 gives sparsemax, and the weights become uniform as it grows. It applies to the unscaled scores.

    Returns
    -------
    Tensor (B, H, W)
        The dtype of the scores. Differentiable once: the gradient is exact wherever it exists.

    Raises
    ------
    ValueError
        If the weight is negative or not finite.

    Warns
    -----
    RuntimeWarning
        If the solver has not converged after `MAX_ITERATIONS`. The weights are then less accurate.
    """
    if not 0 <= weight < float("inf"):
        raise ArgumentError(f"weight must be at least 0 and finite; got {weight}")
    found: Tensor = _TVmax.apply(scores, weight)
    return found


class _TVmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, weight: float) -> Tensor:
        smooth, regions = denoise(scores.detach().double(), weight)
        weights = project_to_simplex(smooth.flatten(1)).view_as(smooth)
        ctx.save_for_backward(weights > 0, regions)
        return weights.to(scores.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        support, regions = ctx.saved_tensors
        own = gradient.double() * support
        own = support * (own - own.sum((1, 2), keepdim=True) / support.sum((1, 2), keepdim=True))
        return region_means(own, regions).to(gradient.dtype), None


def project_to_simplex(values: Tensor) -> Tensor:
    """The nearest point of the simplex to each row, (B, P): sparsemax (Martins & Astudillo 2016)."""
    values = values - values.amax(dim=1, keepdim=True)  # with large values, the 1 below would be rounded away
    highest, _ = values.sort(dim=1, descending=True)
    shares = (1 - highest.cumsum(1)) / torch.arange(1, values.shape[1] + 1, device=values.device)
    chosen = (highest + shares > 0).sum(1, keepdim=True).clamp(min=1)
    return (values + shares.gather(1, chosen - 1)).clamp(min=0)


class _Grid:
    """The edges between neighbours of an H × W grid, for all images in one tensor (E, B).

    First the edge above each position and those below the last row, then likewise to the left and right. Edges at the
    border of the grid are always 0. So D and Dᵀ are differences of slices, and all other work on edges is one operation
    on one tensor. Images are the last axis, so that each such slice is contiguous.
    """

    def __init__(self, H: int, W: int) -> None:
        self.H, self.W, self.E = H, W, (H + 1) * W + H * (W + 1)

    def inner(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the inner edges: down (H − 1, W, B) and across (H, W − 1, B)."""
        down, across = self._with_border(edges)
        return down[1:-1], across[:, 1:-1]

    def _with_border(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        after = (self.H + 1) * self.W
        B = edges.shape[1]
        return edges[:after].view(self.H + 1, self.W, B), edges[after:].view(self.H, self.W + 1, B)

    def differences(self, values: Tensor, out: Tensor) -> Tensor:
        """Write D of values (H, W, B) into edges whose border is 0."""
        down, across = self.inner(out)
        torch.sub(values[1:], values[:-1], out=down)
        torch.sub(values[:, 1:], values[:, :-1], out=across)
        return out

    def residual(self, values: Tensor, edges: Tensor, out: Tensor | None = None) -> Tensor:
        """`values − Dᵀ edges`, (H, W, B)."""
        down, across = self._with_border(edges)
        found = torch.sub(values, down[:-1], out=out)
        return found.add_(down[1:]).sub_(across[:, :-1]).add_(across[:, 1:])


def denoise(scores: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """`argmin_y ½‖y − z‖² + λ Σ |y_i − y_j|` over neighbours, for each image.

    Parameters
    ----------
    scores : Tensor (B, H, W)
        z, float64.
    weight : float
        λ ≥ 0.

    Returns
    -------
    y : Tensor (B, H, W)
    regions : Tensor (B, H, W)
        The number of each position's region of equal values, which is the index of its first position, int64.
    """
    B, H, W = scores.shape
    answer = scores.clone()
    regions = torch.arange(H * W, device=scores.device).view(1, H, W).repeat(B, 1, 1)
    if weight == 0 or H * W == 1:
        return answer, regions
    grid = _Grid(H, W)
    means = scores.mean((1, 2), keepdim=True)
    z = (scores - means).permute(1, 2, 0).contiguous()
    scale = z.square().mean((0, 1)).clamp(min=1e-6)  # (B,)
    # Any λ of at least this sum makes an image constant; a larger one would only cost precision in the gap.
    bound = (1 + z.abs().sum((0, 1))).clamp(max=weight)  # (B,)
    left = torch.arange(B, device=scores.device)
    way: _Sweeps | _Descent = _Sweeps(grid, z, bound, z.new_zeros(grid.E, B))
    for iteration in range(1, MAX_ITERATIONS + 1):
        way.step()
        if iteration < FIRST_LOOK or iteration % way.look_every:
            continue
        u, y = way.u, grid.residual(z, way.u)
        gap = _gap(grid, y, u, z, bound) / scale
        tried = (gap <= TRY_GAP).nonzero().squeeze(1)
        if len(tried):
            own = connected(_are_fused(grid, u[:, tried], bound[tried]))
            flat = region_means(y[..., tried].permute(2, 0, 1), own).permute(1, 2, 0)
            flat_gap = _gap(grid, flat, u[:, tried], z[..., tried], bound[tried]) / scale[tried]
            is_better = flat_gap <= gap[tried]
            better = tried[is_better]
            regions[left[better]], y[..., better], gap[better] = (
                own[is_better],
                flat[..., is_better],
                flat_gap[is_better],
            )
        answer[left] = y.permute(2, 0, 1) + means[left]
        unfinished = gap > GAP  # False if a score is not finite
        if not unfinished.any():
            break
        if not unfinished.all():
            z, left, bound, scale = z[..., unfinished], left[unfinished], bound[unfinished], scale[unfinished]
            way.keep(unfinished)
        if iteration == SWEEPS:
            way = _Descent(grid, z, bound, way.u)
    else:
        warnings.warn(  # without figures, so that a training run shows it once
            f"TVmax did not converge in {MAX_ITERATIONS:,} iterations, so some weights are less accurate than usual; "
            "use a smaller λ",
            RuntimeWarning,
            stacklevel=2,
        )
    return answer, regions


class _Way:
    """A dual u (E, B) on its way to the optimum. Checking how close it is takes as long as a few steps."""

    look_every: int

    def __init__(self, grid: _Grid, z: Tensor, bound: Tensor, u: Tensor) -> None:
        self.grid, self.z, self.bound, self.u = grid, z, bound, u

    def step(self) -> None:
        """Take one step towards the optimum."""
        raise NotImplementedError

    def keep(self, images: Tensor) -> None:
        """Continue with only these images."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[..., images])


class _Sweeps(_Way):
    """Projected successive over-relaxation: every second edge of each column or row is updated, then the others.

    Edges that are updated together share no position, so each moves RELAXATION times the distance to its own optimum.
    """

    look_every = 5

    def __init__(self, grid: _Grid, z: Tensor, bound: Tensor, u: Tensor) -> None:
        super().__init__(grid, z, bound, u)
        self.y = grid.residual(z, u)

    def step(self) -> None:
        y = self.y
        down, across = self.grid.inner(self.u)
        for first in (0, 1):
            for edges, one, other in (
                (down[first::2], y[first:-1:2], y[first + 1 :: 2]),
                (across[:, first::2], y[:, first:-1:2], y[:, first + 1 :: 2]),
            ):
                new = torch.sub(other, one).mul_(RELAXATION / 2).add_(edges).clamp_(-self.bound, self.bound)
                back = edges.sub_(new)
                one.sub_(back)
                other.add_(back)
                edges.copy_(new)


class _Descent(_Way):
    """Accelerated projected gradient descent with restarts, the faster method if regions are large."""

    look_every = 10

    def __init__(self, grid: _Grid, z: Tensor, bound: Tensor, u: Tensor) -> None:
        super().__init__(grid, z, bound, u)
        self.v, self.spare, self.edges = u.clone(), u.clone(), torch.zeros_like(u)
        self.y, self.t = torch.empty_like(z), z.new_ones(z.shape[-1])

    def step(self) -> None:
        u, v, new, edges, t = self.u, self.v, self.spare, self.edges, self.t
        self.grid.differences(self.grid.residual(self.z, v, out=self.y), edges)
        torch.add(v, edges, alpha=STEP, out=new).clamp_(-self.bound, self.bound)
        move = torch.sub(new, u, out=edges)
        uphill = v.sub_(new).mul_(move).sum(0) > 0
        later = ((1 + (1 + 4 * t * t).sqrt()) / 2).masked_fill_(uphill, 1.0)
        momentum = ((t - 1) / later).masked_fill_(uphill, 0.0)
        torch.addcmul(new, momentum, move, out=v)
        self.u, self.spare, self.t = new, u, later


def _gap(grid: _Grid, y: Tensor, u: Tensor, z: Tensor, bound: Tensor) -> Tensor:
    """The duality gap between the primal at y and the dual at u, (B,), with `bound` (B,) as λ."""
    edges = grid.differences(y, torch.zeros_like(u))
    apart = grid.residual(z, u).sub_(y)
    # ½‖y − z‖² + λ‖Dy‖₁ − (⟨z, Dᵀu⟩ − ½‖Dᵀu‖²), with the squares combined to avoid cancellation
    return 0.5 * apart.square_().sum((0, 1)) + edges.abs().mul_(bound).sub_(edges.mul_(u)).sum(0)


def _are_fused(grid: _Grid, u: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """Which neighbours have equal values: those whose dual is not at its bound. Images are the first axis."""
    down, across = grid.inner(u.abs() < bound)
    return down.permute(2, 0, 1), across.permute(2, 0, 1)


def connected(fused: tuple[Tensor, Tensor]) -> Tensor:
    """The regions of joined neighbours, (B, H, W) int64: each position gets the index of its region's first position.

    Parameters
    ----------
    fused : (Tensor, Tensor)
        Whether a position and the one below it (B, H − 1, W), and the one to its right (B, H, W − 1), are joined.
    """
    down, across = fused
    B, H, W = len(down), across.shape[1], down.shape[2]
    found = torch.arange(H * W, device=down.device).view(1, H, W).repeat(B, 1, 1)
    while True:
        new = found.clone()
        for joined, one, other in ((down, new[:, :-1], new[:, 1:]), (across, new[:, :, :-1], new[:, :, 1:])):
            least = torch.minimum(one, other)
            one.copy_(torch.where(joined, least, one))
            other.copy_(torch.where(joined, torch.minimum(least, other), other))
        new = new.flatten(1)
        new = new.gather(1, new).view_as(found)  # following the index once more gets closer to the first position
        if torch.equal(new, found):
            return found
        found = new


def region_means(values: Tensor, regions: Tensor) -> Tensor:
    """Each position's value (B, H, W) replaced by the mean over its region."""
    flat, P = values.flatten(), regions.shape[1] * regions.shape[2]
    of = (regions.flatten(1) + P * torch.arange(len(regions), device=regions.device)[:, None]).flatten()
    # Unlike scatter_add_, this adds in a fixed order on a GPU too.
    sums, sizes = (
        torch.zeros_like(flat).index_put_((of,), each, accumulate=True) for each in (flat, torch.ones_like(flat))
    )
    return (sums / sizes)[of].view_as(values)
