"""Maps that ignore the network: any method has to beat them."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from l2a_transfer.errors import ArgumentError
from l2a_transfer.explain.registry import register_map_method

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PIXELS = "pixels"


@register_map_method("centre", kind="non-negative", maps=(PIXELS,))
def centre(model: nn.Module, images: Tensor, *, sigma: float = 0.25) -> dict[str, Tensor]:
    """A Gaussian in the middle of the image; `sigma` is its standard deviation as a share of each side."""
    import torch

    if not 0 < sigma <= 10:
        raise ArgumentError(f"centre.sigma must be above 0 and at most 10, got {sigma}")
    B, _, H, W = images.shape
    y, x = ((torch.arange(n, device=images.device) + 0.5) / n - 0.5 for n in (H, W))
    density = torch.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * sigma**2))  # (H, W)
    return {PIXELS: density.to(images.dtype).expand(B, H, W).clone()}


@register_map_method("sobel", kind="non-negative", maps=(PIXELS,))
def sobel(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The magnitude of the Sobel gradient of the mean over the channels, with repeated edges."""
    import torch
    import torch.nn.functional as F

    across = images.new_tensor([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    filters = torch.stack([across, across.T])[:, None]  # (2, 1, 3, 3)
    grey = F.pad(images.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return {PIXELS: F.conv2d(grey, filters).norm(dim=1)}


@register_map_method("random", kind="non-negative", maps=(PIXELS,))
def random(model: nn.Module, images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Uniform noise between 0 and 1, determined by `seed` and the image's pixels."""
    import torch

    noise = torch.stack([torch.rand(images.shape[2:], generator=one) for one in generators(images, seed)])
    return {PIXELS: noise.to(images)}


def generators(images: Tensor, seed: int) -> list[torch.Generator]:
    """A generator for each image, determined by `seed` and its pixels, whatever else is in the batch."""
    import torch

    return [
        torch.Generator().manual_seed(zlib.crc32(one.tobytes(), seed & 0xFFFFFFFF))
        for one in images.detach().float().cpu().numpy()
    ]
