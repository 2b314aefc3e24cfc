"""Train-time augmentation: pure functions on a batch, on the batch's device; the random numbers are arguments.

Images are (B, C, H, W) of any dtype.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """The images whose `mirrored` (B,) is true, mirrored left to right; the others as they are."""
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def reflect_crop(images: Tensor, shift: Tensor) -> Tensor:
    """Each image moved by `shift` (B, 2) pixels, rows then columns, what comes in filled by reflection.

    A shift of up to `side − 1` pixels either way; (1, 0) takes row 1 to the top.
    """
    B, C, H, W = images.shape
    rows, cols = (
        _reflect(shift[:, axis, None] + torch.arange(side, device=images.device), side)
        for axis, side in ((0, H), (1, W))
    )  # (B, H), (B, W)
    images = images.gather(2, rows[:, None, :, None].expand(B, C, H, W))
    return images.gather(3, cols[:, None, None, :].expand(B, C, H, W))


def _reflect(index: Tensor, side: int) -> Tensor:
    """Indices before 0 or after `side − 1` mirrored back inside, the border pixel not repeated."""
    index = index.abs()
    return torch.where(index >= side, 2 * (side - 1) - index, index)


def cutout(images: Tensor, centre: Tensor, side: int, fill: Tensor) -> Tensor:
    """A square of `side` pixels around `centre` (B, 2), row and column, replaced by `fill` (C,); cut off at the border.

    DeVries and Taylor, 2017: the square may lie partly outside, so that some images keep most of their pixels.
    """
    H, W = images.shape[-2:]
    rows, cols = (
        (torch.arange(n, device=images.device) - (centre[:, axis, None] - side // 2)) for axis, n in ((0, H), (1, W))
    )  # (B, H), (B, W), counted from the square's first
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((cols >= 0) & (cols < side))[:, None, :]  # (B, H, W)
    return torch.where(inside[:, None], fill.to(images.dtype)[None, :, None, None], images)


def resize(images: Tensor, size: int) -> Tensor:
    """Float images → (B, C, size, size), bilinear with antialias; unchanged at that size already."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
