"""Deletion and insertion (Petsiuk et al. 2018): does a class's probability follow the pixels that a map ranks first?

Pixels are ordered by the map, most important first. Deletion replaces them step by step by a baseline; insertion starts
at the baseline and adds them. For a faithful map, the area under the curve of the class probability over the share of
replaced or inserted pixels is low for deletion and high for insertion.

References
----------
.. [1] V. Petsiuk, A. Das, K. Saenko: RISE: Randomized Input Sampling for Explanation of Black-box Models. BMVC 2018.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import ArgumentError, BackendError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor, nn

DELETION, INSERTION = "deletion", "insertion"
CURVES = (DELETION, INSERTION)
MEAN, BLUR = "mean", "blur"
BASELINES = (MEAN, BLUR)
BLUR_SHARE = 0.1
"""Standard deviation of the Gaussian blur, as a share of the image's shorter side."""
MAX_STEPS = 10_000
AT_ONCE = 1 << 17
"""Pixels of changed images per forward pass."""


@dataclass(frozen=True)
class Curves:
    """Deletion and insertion of B images.

    Parameters
    ----------
    shares : ndarray of float64 (S + 1,)
        The share of pixels replaced or inserted at each step, from 0 to 1.
    probabilities : dict of str to ndarray
        "deletion" and "insertion" → the probability of the class, float64 (B, S + 1).
    """

    shares: NDArray[np.float64]
    probabilities: dict[str, NDArray[np.float64]] = field(repr=False)

    def areas(self, curve: str) -> NDArray[np.float64]:
        """The area under each image's curve by the trapezoidal rule, (B,), between 0 and 1."""
        values = self.probabilities[curve]
        middles = (values[:, 1:] + values[:, :-1]) / 2  # (B, S)
        found: NDArray[np.float64] = (middles @ np.diff(self.shares)).clip(0, 1)  # rounding may exceed the range
        return found


def deletion_insertion(
    model: nn.Module,
    images: Tensor,
    maps: NDArray[np.float32],
    targets: Tensor,
    *,
    steps: int = 32,
    baseline: str = MEAN,
    seed: int = 0,
) -> Curves:
    """The probability of each image's class as pixels are deleted, and inserted, in the order of a map.

    Parameters
    ----------
    model : nn.Module
        Any module that returns logits (B, K). It runs in evaluation mode, and is not changed.
    images : Tensor (B, 3, H, W)
        Normalised images, on the device of the model.
    maps : ndarray of float32 (B, h, w)
        Higher values are more important. A map of another resolution is interpolated linearly.
    targets : Tensor (B,)
        The class of each image, int64.
    steps : int, default=32
        Steps S from the first pixel to the last; no more than there are pixels.
    baseline : {"mean", "blur"}, default="mean"
        What replaces pixels: the mean colour of the training images, which is 0 after normalisation, or the image
        blurred by a Gaussian whose standard deviation is a tenth of the shorter side.
    seed : int, default=0
        Random seed of the order of pixels with equal values, which also depends on the image's pixels.

    Returns
    -------
    Curves

    Raises
    ------
    UnknownNameError
        For an unknown baseline.
    ArgumentError
        For a number of steps out of range, and maps that do not fit the images or are not finite.
    BackendError
        If one changed image does not fit into memory.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from l2a_transfer.models.loading import load_model
    >>> network, card = load_model("untrained:vgg-att2-concat-pc@0.0625")
    >>> maps = np.zeros((2, 8, 8), dtype=np.float32)
    >>> found = deletion_insertion(network, torch.randn(2, 3, 32, 32), maps, torch.tensor([0, 1]), steps=4)
    >>> found.shares.tolist(), found.areas("deletion").shape
    ([0.0, 0.25, 0.5, 0.75, 1.0], (2,))
    """
    import torch

    from l2a_transfer.explain.compute import out_of_memory, split_to_fit
    from l2a_transfer.models.copies import in_evaluation

    B, _, H, W = images.shape
    if not 1 <= steps <= min(MAX_STEPS, H * W):
        raise ArgumentError(f"steps must be between 1 and the number of pixels, {min(MAX_STEPS, H * W)}; got {steps}")
    if len(targets) != B:
        raise ArgumentError(f"targets must have one entry per image, {B}; got {len(targets)}")
    model, images = in_evaluation(model), images.detach()
    ranks = pixel_ranks(images, maps, seed=seed)  # (B, H, W)
    other = replaced_by(images, baseline)
    counts = np.round(np.linspace(0, H * W, steps + 1)).astype(np.int64)
    numbers = torch.arange(B * len(counts) * 2, device=images.device)
    every = torch.from_numpy(counts).to(images.device)

    def compute(some: Tensor, _: Tensor | None) -> dict[str, Tensor]:
        b, rest = some // (2 * len(counts)), some % (2 * len(counts))
        deletes, count = rest < len(counts), every[rest % len(counts)]
        # Deletion keeps all but the first pixels of the image, insertion only these.
        keeps = (ranks[b] < count[:, None, None]) ^ deletes[:, None, None]  # (n, H, W)
        logits = model(torch.where(keeps[:, None], images[b], other[b]))
        found = logits.double().softmax(dim=1).gather(1, targets[b].to(logits.device)[:, None])[:, 0]
        return {"probability": found.cpu()}

    at_once = max(1, AT_ONCE // (H * W))
    parts = []
    try:
        with torch.no_grad():
            for begin in range(0, len(numbers), at_once):
                parts.append(split_to_fit(compute, numbers[begin : begin + at_once], None)["probability"])
    except BackendError as error:
        if error.__cause__ is None or not out_of_memory(error.__cause__):
            raise
        raise BackendError(f"one image of {W} × {H} pixels does not fit into memory", "use a smaller `side`") from error
    probabilities = torch.cat(parts).reshape(B, 2, len(counts)).numpy()
    return Curves(counts / (H * W), {name: probabilities[:, k] for k, name in enumerate(CURVES)})


def pixel_ranks(images: Tensor, maps: NDArray[np.float32], *, seed: int = 0) -> Tensor:
    """The rank of each pixel in the order of a map, 0 for the most important, int64 (B, H, W).

    Ties are broken at random. Raises: ArgumentError for maps that do not fit the images or are not finite.
    """
    import torch
    import torch.nn.functional as F

    from l2a_transfer.explain.methods.controls import generators

    B, _, H, W = images.shape
    if maps.ndim != 3 or len(maps) != B or not maps.size:
        raise ArgumentError(f"maps must have the shape ({B}, h, w), got {maps.shape}")
    if not np.isfinite(maps).all():
        raise ArgumentError("maps must be finite")
    values = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))
    if values.shape[1:] != (H, W):
        values = F.interpolate(values[:, None], size=(H, W), mode="bilinear", align_corners=False)[:, 0]
    flat = values.flatten(1)  # (B, P)
    shuffles = torch.stack([torch.randperm(H * W, generator=one) for one in generators(images, seed)])
    # Pixels in random order, then a stable sort.
    order = shuffles.gather(1, flat.gather(1, shuffles).argsort(dim=1, descending=True, stable=True))
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(H * W).expand(B, -1))
    return ranks.reshape(B, H, W).to(images.device)


def replaced_by(images: Tensor, baseline: str) -> Tensor:
    """The images that supply the replacement pixels for normalised images. Raises: UnknownNameError."""
    import torch
    import torch.nn.functional as F

    if baseline not in BASELINES:
        raise unknown_name("baseline", baseline, BASELINES)
    if baseline == MEAN:
        return torch.zeros_like(images)
    sigma = BLUR_SHARE * min(images.shape[2:])
    reach = max(1, round(3 * sigma))
    weights = torch.exp(-(torch.arange(-reach, reach + 1, device=images.device) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).to(images.dtype)
    channels = images.shape[1]
    across = weights.expand(channels, 1, 1, -1)
    blurred = F.conv2d(F.pad(images, (reach, reach, 0, 0), mode="replicate"), across, groups=channels)
    down = across.transpose(2, 3)
    return F.conv2d(F.pad(blurred, (0, 0, reach, reach), mode="replicate"), down, groups=channels)
