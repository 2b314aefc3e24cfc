"""Training augmentation: pure functions on a batch, on its device. Random numbers are arguments.

Images are (B, C, H, W) of any dtype.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the images whose `mirrored` (B,) is true left to right; the others are unchanged."""
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def reflect_crop(images: Tensor, shift: Tensor) -> Tensor:
    """Shift each image by `shift` (B, 2) pixels, rows then columns, and fill the border by reflection.

    A shift is at most `side − 1` pixels in each direction; (1, 0) moves row 1 to the top.
    """
    B, C, H, W = images.shape
    rows, cols = (
        _reflect(shift[:, axis, None] + torch.arange(side, device=images.device), side)
        for axis, side in ((0, H), (1, W))
    )  # (B, H), (B, W)
    images = images.gather(2, rows[:, None, :, None].expand(B, C, H, W))
    return images.gather(3, cols[:, None, None, :].expand(B, C, H, W))


def _reflect(index: Tensor, side: int) -> Tensor:
    """Reflect indices below 0 or above `side − 1` back inside, without repeating the border pixel."""
    index = index.abs()
    return torch.where(index >= side, 2 * (side - 1) - index, index)


def cutout(images: Tensor, centre: Tensor, side: int, fill: Tensor) -> Tensor:
    """Replace a square of `side` pixels around `centre` (B, 2), row and column, by `fill` (C,), cropped at the border.

    DeVries and Taylor, 2017: the square may lie partly outside, so that some images keep most of their pixels.
    """
    H, W = images.shape[-2:]
    rows, cols = (
        (torch.arange(n, device=images.device) - (centre[:, axis, None] - side // 2)) for axis, n in ((0, H), (1, W))
    )  # (B, H), (B, W), relative to the first pixel of the square
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((cols >= 0) & (cols < side))[:, None, :]  # (B, H, W)
    return torch.where(inside[:, None], fill.to(images.dtype)[None, :, None, None], images)


def resize(images: Tensor, size: int) -> Tensor:
    """Resize float images to (B, C, size, size), bilinearly with antialiasing; unchanged if they have that size."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
