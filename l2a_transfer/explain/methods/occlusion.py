"""Occlusion (Zeiler & Fergus 2014): how much a class's logit falls where a window of the image is covered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from l2a_transfer.errors import ArgumentError
from l2a_transfer.explain.registry import register_map_method

if TYPE_CHECKING:
    from torch import Tensor, nn

PIXELS = "pixels"
AT_ONCE = {"cpu": 1 << 18}
AT_ONCE_ON_A_GPU = 1 << 20
"""Pixels of covered images in a forward pass; a network of a quarter of the paper's width takes 800 bytes for each."""


@register_map_method("occlusion", kind="signed", maps=(PIXELS,), class_specific=True)
def occlusion(
    model: nn.Module, images: Tensor, targets: Tensor, *, window: int = 8, stride: int = 4, baseline: float = 0.0
) -> dict[str, Tensor]:
    """`logit_c(x) − logit_c(x with a window covered)`, averaged over the windows that cover a pixel.

    Windows of `window` × `window` pixels begin every `stride` pixels until the image is covered; the last ones are cut
    at its edge. `baseline` is the value that covers, of normalised pixels: 0 is the mean colour of the training images.

    Raises: ArgumentError for a window larger than the image, and a stride larger than the window, which would leave
    pixels out.
    """
    import torch

    B, _, H, W = images.shape
    if not 1 <= window <= min(H, W):
        raise ArgumentError(
            f"occlusion.window must be between 1 and the shorter side, {min(H, W)} pixels; got {window}"
        )
    if not 1 <= stride <= window:
        raise ArgumentError(f"occlusion.stride must be between 1 and the window, {window}; got {stride}")
    tops, lefts = _starts(H, window, stride), _starts(W, window, stride)
    windows = torch.tensor([(top, left) for top in tops for left in lefts], device=images.device)  # (n, 2)
    logits = model(images).gather(1, targets[:, None])[:, 0]  # (B,)
    falls = images.new_zeros(B, len(windows))
    rows, columns = (torch.arange(side, device=images.device) for side in (H, W))
    numbers = torch.arange(B * len(windows), device=images.device)
    at_once = max(1, AT_ONCE.get(images.device.type, AT_ONCE_ON_A_GPU) // (H * W))
    for begin in range(0, len(numbers), at_once):
        some = numbers[begin : begin + at_once]
        b, k = some // len(windows), some % len(windows)
        top, left = windows[k][:, :, None].unbind(1)  # (n, 1)
        covered = ((rows >= top) & (rows < top + window))[:, None, :, None]  # (n, 1, H, 1)
        covered = covered & ((columns >= left) & (columns < left + window))[:, None, None]  # (n, 1, H, W)
        found = model(images[b].masked_fill(covered, baseline)).gather(1, targets[b][:, None])[:, 0]
        falls[b, k] = (logits[b] - found).to(falls)
    total, times = images.new_zeros(B, H, W), images.new_zeros(H, W)
    for own, (top, left) in enumerate(windows.tolist()):
        total[:, top : top + window, left : left + window] += falls[:, own, None, None]
        times[top : top + window, left : left + window] += 1
    return {PIXELS: total / times}


def _starts(length: int, window: int, stride: int) -> range:
    return range(0, math.ceil((length - window) / stride) * stride + 1, stride)
