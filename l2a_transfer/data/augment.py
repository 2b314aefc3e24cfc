"""Train-time augmentation: pure functions on a batch, on the batch's device, random only through a generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability one half. (B, C, H, W) → the same."""
    flip = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def random_reflect_crop(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to `pad` pixels each way, the border filled by reflection. (B, C, H, W) → the same."""
    if pad == 0:
        return images
    B, C, H, W = images.shape
    rows, cols = (
        torch.randint(-pad, pad + 1, (B, 1), generator=generator).to(images.device)
        + torch.arange(side, device=images.device)
        for side in (H, W)
    )  # (B, H), (B, W)
    rows, cols = _reflect(rows, H), _reflect(cols, W)
    images = images.gather(2, rows[:, None, :, None].expand(B, C, H, W))
    return images.gather(3, cols[:, None, None, :].expand(B, C, H, W))


def _reflect(index: Tensor, side: int) -> Tensor:
    """Indices before 0 or after `side − 1` mirrored back inside, the border pixel not repeated."""
    index = index.abs()
    return torch.where(index >= side, 2 * (side - 1) - index, index)


def resize(images: Tensor, size: int) -> Tensor:
    """Float images (B, C, H, W) → (B, C, size, size), bilinear with antialias; unchanged at that size already."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
