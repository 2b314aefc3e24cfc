"""Gradients of a class's logit with respect to the input: saliency and two averaged variants.

All gradients are with respect to the *normalised* image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from l2a_transfer.errors import ArgumentError
from l2a_transfer.explain.registry import register_map_method

if TYPE_CHECKING:
    from torch import Tensor, nn

PIXELS = "pixels"


@register_map_method("saliency", kind="non-negative", maps=(PIXELS,), class_specific=True, gradients=True)
def saliency(model: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """`max over channels of |∂logit_c / ∂x|` (Simonyan et al. 2013)."""
    return {PIXELS: input_gradient(model, images, targets).abs().amax(dim=1)}


@register_map_method("smoothgrad", kind="non-negative", maps=(PIXELS,), class_specific=True, gradients=True)
def smoothgrad(
    model: nn.Module, images: Tensor, targets: Tensor, *, samples: int = 25, noise: float = 0.15, seed: int = 0
) -> dict[str, Tensor]:
    """`max over channels of |mean gradient|` over noisy copies of the image (Smilkov et al. 2017).

    `noise` is the standard deviation of the noise as a share of the image's range. The noise of an image depends only
    on `seed` and its pixels, not on the rest of the batch.
    """
    import torch

    from l2a_transfer.explain.layers import fast_layout
    from l2a_transfer.explain.methods.controls import generators

    _check_count("smoothgrad.samples", samples)
    if not 0 <= noise <= 10:
        raise ArgumentError(f"smoothgrad.noise must be between 0 and 10, got {noise}")
    flat = images.flatten(1)
    spread = noise * (flat.amax(dim=1) - flat.amin(dim=1))  # (B,)
    own = generators(images, seed)
    total = torch.zeros_like(images)
    for _ in range(samples):
        draws = torch.stack([torch.randn(images.shape[1:], generator=one) for one in own]).to(images)
        noisy = images + spread[:, None, None, None] * draws
        total += input_gradient(model, fast_layout(model, noisy), targets)
    return {PIXELS: (total / samples).abs().amax(dim=1)}


@register_map_method("integrated-gradients", kind="signed", maps=(PIXELS,), class_specific=True, gradients=True)
def integrated_gradients(
    model: nn.Module, images: Tensor, targets: Tensor, *, steps: int = 50, baseline: float = 0.0
) -> dict[str, Tensor]:
    """The path integral of gradient × change from a constant image, summed over channels (Sundararajan et al. 2017).

    Uses Gauss-Legendre quadrature with `steps` points. `baseline` is a value of normalised pixels: 0 is the mean colour
    of the training images. The map sums to the logit's change from the baseline up to the quadrature error, which
    decreases slowly for networks with ReLUs; it is `completeness` in the JSON.
    """
    import numpy as np
    import torch

    _check_count("integrated-gradients.steps", steps)
    points, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(images)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        total += float(weight) * input_gradient(model, baseline + float(point) * (images - baseline), targets)
    return {PIXELS: (total * (images - baseline)).sum(dim=1)}


def input_gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The gradient of each image's logit with respect to its pixels, (B, 3, H, W)."""
    import torch

    from l2a_transfer.explain.layers import class_score

    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(class_score(model(images), targets), images)
    return gradient


def _check_count(name: str, value: int) -> None:
    if not 1 <= value <= 10_000:
        raise ArgumentError(f"{name} must be between 1 and 10,000, got {value}")
