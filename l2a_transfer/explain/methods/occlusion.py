"""Occlusion (Zeiler & Fergus 2014): how much a class's logit drops if a window of the image is covered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from l2a_transfer.errors import ArgumentError
from l2a_transfer.explain.registry import register_map_method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from l2a_transfer.models.interface import Network

    Windows = list[tuple[int, int]]

PIXELS = "pixels"
AT_ONCE = {"cpu": 1 << 15}
"""Pixels of images per forward pass; on a CPU, what fits into the cache: 784 images of 32 × 32 pixels at once take 1.7
times as long as in parts of 32."""
AT_ONCE_ELSEWHERE = 1 << 20


@register_map_method("occlusion", kind="signed", maps=(PIXELS,), class_specific=True)
def occlusion(
    model: nn.Module, images: Tensor, targets: Tensor, *, window: int = 8, stride: int = 4, baseline: float = 0.0
) -> dict[str, Tensor]:
    """`logit_c(x) − logit_c(x with a window covered)`, averaged over the windows that cover a pixel.

    Windows of `window` × `window` pixels start every `stride` pixels until the image is covered; the last ones are cut
    off at its edge. `baseline` is the value of covered normalised pixels: 0 is the mean colour of the training images.

    Raises: ArgumentError for a window larger than the image, or a stride larger than the window, which would skip
    pixels.
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
    windows = [(top, left) for top in tops for left in lefts]
    at_once = max(1, AT_ONCE.get(images.device.type, AT_ONCE_ELSEWHERE) // (H * W))
    parts = [
        _falls(model, some, classes, windows, window, baseline, at_once)
        for some, classes in zip(torch.split(images, at_once), torch.split(targets, at_once), strict=True)
    ]
    falls = torch.cat(parts)  # (B, windows)
    total, times = images.new_zeros(B, H, W), images.new_zeros(H, W)
    for own, (top, left) in enumerate(windows):
        total[:, top : top + window, left : left + window] += falls[:, own, None, None]
        times[top : top + window, left : left + window] += 1
    return {PIXELS: total / times}


def _falls(
    model: nn.Module, images: Tensor, targets: Tensor, windows: Windows, window: int, baseline: float, at_once: int
) -> Tensor:
    """How much the logit of each image drops if each window is covered, (B, windows)."""
    from l2a_transfer.models.interface import Network

    if isinstance(model, Network) and model.local_steps() and images.device.type == "cpu":
        # On a GPU, many small steps are slower than a few large ones.
        found = _of_regions(model, images, targets, windows, window, baseline)
        if found is not None:
            return found
    return _of_whole_images(model, images, targets, windows, window, baseline, at_once)


def _of_regions(
    model: Network, images: Tensor, targets: Tensor, windows: Windows, window: int, baseline: float
) -> Tensor | None:
    """The drops, computing only what a covered window affects; None if this does not match the model's own result."""
    import torch

    from l2a_transfer.explain.layers import agree, default_levels
    from l2a_transfer.explain.regions import Unchanged

    unchanged = Unchanged(model, images, {*default_levels(model, images), "L3"})
    logits = model.attend_from(unchanged.local).logits  # (B, K)
    if not agree(logits[:1], model(images[:1])):
        return None
    own = logits.gather(1, targets[:, None])  # (B, 1)
    falls = []
    for top, left in windows:
        cover = torch.full_like(images[:, :, top : top + window, left : left + window], baseline)
        covered = model.attend_from(unchanged.changed(cover, top, left)).logits
        falls.append(own - covered.gather(1, targets[:, None]))
    return torch.cat(falls, dim=1).to(images.dtype)


def _of_whole_images(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    windows: Windows,
    window: int,
    baseline: float,
    at_once: int,
) -> Tensor:
    """The drops for any network, with `at_once` covered images per pass."""
    import torch

    B, _, H, W = images.shape
    own = model(images).gather(1, targets[:, None])[:, 0]  # (B,)
    falls = images.new_zeros(B, len(windows))
    corners = torch.tensor(windows, device=images.device)  # (windows, 2)
    rows, columns = (torch.arange(side, device=images.device) for side in (H, W))
    for some in torch.split(torch.arange(B * len(windows), device=images.device), at_once):
        b, k = some // len(windows), some % len(windows)
        top, left = corners[k][:, :, None].unbind(1)  # (n, 1)
        covered = ((rows >= top) & (rows < top + window))[:, None, :, None]  # (n, 1, H, 1)
        covered = covered & ((columns >= left) & (columns < left + window))[:, None, None]  # (n, 1, H, W)
        found = model(images[b].masked_fill(covered, baseline)).gather(1, targets[b][:, None])[:, 0]
        falls[b, k] = (own[b] - found).to(falls)
    return falls


def _starts(length: int, window: int, stride: int) -> range:
    return range(0, math.ceil((length - window) / stride) * stride + 1, stride)
