"""TVmax: attention weights that are sparse and alike in connected regions (Martins et al. 2020, arXiv:2010.07882).

`tvmax(z) = argmin_p ½‖p − z‖² + λ Σ |p_i − p_j|` over the simplex, where the sum runs over vertical and horizontal
neighbours. It is sparsemax after the proximal operator of the total variation, exactly, in two dimensions too.

The operator is computed by accelerated projected gradient on its dual, with restarts (O'Donoghue & Candès 2015), for
all images at once. The dual says which neighbours have equal values; the mean over each such region is the answer.

Shapes: B images, H × W positions, P = H·W. All arithmetic is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from l2a_transfer.errors import ArgumentError

STEP = 1 / 8
"""1 / the largest eigenvalue that the operator of the dual can have on a grid."""
LOOK_EVERY = 10
"""Iterations between two looks at the duality gap."""
MAX_ITERATIONS = 20_000
GAP = 1e-12
"""An image is finished where its gap is below this share of its scores' variance, which counts as 1e-6 at least."""
TRY_GAP = 1e-4
"""Likewise, from which on the mean over each region is tried."""


def tvmax(scores: Tensor, weight: float) -> Tensor:
    """Scores → weights that sum to 1, many of them 0, alike in regions.

    Parameters
    ----------
    scores : Tensor (B, H, W)
        Of any floating type. Where one is not finite, the weights of its image are NaN.
    weight : float
        λ ≥ 0: 0 is sparsemax, and the weights become uniform as it grows. It acts on the scores as they are.

    Returns
    -------
    Tensor (B, H, W)
        Of the type of the scores. Differentiable once: the gradient is exact wherever there is one.

    Raises
    ------
    ValueError
        For a weight that is negative or not finite.
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
    values = values - values.amax(dim=1, keepdim=True)  # beside large values the 1 below would be lost
    highest, _ = values.sort(dim=1, descending=True)
    shares = (1 - highest.cumsum(1)) / torch.arange(1, values.shape[1] + 1, device=values.device)
    chosen = (highest + shares > 0).sum(1, keepdim=True).clamp(min=1)
    return (values + shares.gather(1, chosen - 1)).clamp(min=0)


@dataclass
class _Dual:
    """One number an edge between neighbours, in [−λ, λ], for each image: (B, H − 1, W) and (B, H, W − 1)."""

    down: Tensor
    across: Tensor

    def __getitem__(self, images: Tensor) -> _Dual:
        return _Dual(self.down[images], self.across[images])

    def put(self, images: Tensor, other: _Dual) -> None:
        self.down[images], self.across[images] = other.down, other.across

    def times(self, other: _Dual) -> Tensor:
        """The inner product for each image, (B,)."""
        return (self.down * other.down).sum((1, 2)) + (self.across * other.across).sum((1, 2))

    def transposed(self) -> Tensor:
        """Dᵀu, (B, H, W), where D takes values to the differences of neighbours."""
        down, across = F.pad(self.down, (0, 0, 1, 1)), F.pad(self.across, (1, 1))
        return down[:, :-1] - down[:, 1:] + across[:, :, :-1] - across[:, :, 1:]


def _differences(values: Tensor) -> _Dual:
    return _Dual(values[:, 1:] - values[:, :-1], values[:, :, 1:] - values[:, :, :-1])


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
        The number of the region of equal values that a position belongs to: its first position's, int64.
    """
    B, H, W = scores.shape
    answer = scores.clone()
    regions = torch.arange(H * W, device=scores.device).view(1, H, W).repeat(B, 1, 1)
    if weight == 0 or H * W == 1:
        return answer, regions
    centred = scores - scores.mean((1, 2), keepdim=True)
    scale = centred.square().mean((1, 2)).clamp(min=1e-6)  # (B,)
    # Any λ of at least the sum makes an image constant; the digits of a huge one would be lost in the gap.
    bound = (1 + centred.abs().sum((1, 2), keepdim=True)).clamp(max=weight)  # (B, 1, 1)
    left = torch.arange(B, device=scores.device)
    u = _differences(torch.zeros_like(scores))
    v, t = u, scores.new_ones(B, 1, 1)
    z = centred
    for iteration in range(1, MAX_ITERATIONS + 1):
        edges = _differences(z - v.transposed())
        new = _Dual(
            (v.down + STEP * edges.down).clamp(-bound, bound), (v.across + STEP * edges.across).clamp(-bound, bound)
        )
        move = _Dual(new.down - u.down, new.across - u.across)
        uphill = _Dual(v.down - new.down, v.across - new.across).times(move)[:, None, None] > 0
        later = torch.where(uphill, 1.0, (1 + (1 + 4 * t * t).sqrt()) / 2)
        momentum = torch.where(uphill, 0.0, (t - 1) / later)
        u, t = new, later
        v = _Dual(new.down + momentum * move.down, new.across + momentum * move.across)
        if iteration % LOOK_EVERY:
            continue
        y = z - u.transposed()
        gap = _gap(y, u, z, bound) / scale[left]
        tried = (gap <= TRY_GAP).nonzero().squeeze(1)
        if len(tried):
            own = connected(_is_fused(u[tried], bound[tried]))
            flat = region_means(y[tried], own)
            is_better = _gap(flat, u[tried], z[tried], bound[tried]) / scale[left[tried]] <= gap[tried]
            regions[left[tried]] = torch.where(is_better[:, None, None], own, regions[left[tried]])
            y[tried] = torch.where(is_better[:, None, None], flat, y[tried])
            gap[tried] = _gap(y[tried], u[tried], z[tried], bound[tried]) / scale[left[tried]]
        answer[left] = y + (scores - centred)[left]
        unfinished = gap > GAP  # False where a score is not finite
        if not unfinished.any():
            break
        if not unfinished.all():
            u, v, t, z = u[unfinished], v[unfinished], t[unfinished], z[unfinished]
            left, bound = left[unfinished], bound[unfinished]
    return answer, regions


def _gap(y: Tensor, u: _Dual, z: Tensor, bound: Tensor) -> Tensor:
    """What is left between the problem's value at y and its dual's at u, (B,), with `bound` (B, 1, 1) for λ."""
    edges = _differences(y)
    variation = edges.down.abs().sum((1, 2)) + edges.across.abs().sum((1, 2))
    # ½‖y − z‖² + λ‖Dy‖₁ − (⟨z, Dᵀu⟩ − ½‖Dᵀu‖²), where the squares belong together so that no digits are lost
    return 0.5 * (y - z + u.transposed()).square().sum((1, 2)) + bound.flatten() * variation - u.times(edges)


def _is_fused(u: _Dual, bound: Tensor) -> tuple[Tensor, Tensor]:
    """Which neighbours have equal values: those whose dual is not at its bound."""
    return u.down.abs() < bound, u.across.abs() < bound


def connected(fused: tuple[Tensor, Tensor]) -> Tensor:
    """The regions that joined neighbours make, (B, H, W) int64: each position has the number of its region's first.

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
        new = new.gather(1, new).view_as(found)  # the number of a position's number is nearer to the first
        if torch.equal(new, found):
            return found
        found = new


def region_means(values: Tensor, regions: Tensor) -> Tensor:
    """Each position's value (B, H, W) replaced by the mean over its region."""
    flat, P = values.flatten(), regions.shape[1] * regions.shape[2]
    of = (regions.flatten(1) + P * torch.arange(len(regions), device=regions.device)[:, None]).flatten()
    # Unlike scatter_add_, this adds in the same order each time on a GPU too.
    sums, sizes = (
        torch.zeros_like(flat).index_put_((of,), each, accumulate=True) for each in (flat, torch.ones_like(flat))
    )
    return (sums / sizes)[of].view_as(values)
