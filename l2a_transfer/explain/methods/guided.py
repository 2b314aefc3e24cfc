"""Guided backprop (Springenberg et al. 2015), and its product with Grad-CAM (Selvaraju et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from l2a_transfer.explain.methods.gradients import PIXELS, input_gradient
from l2a_transfer.explain.registry import register_map_method

if TYPE_CHECKING:
    from torch import Tensor, nn


@register_map_method("guided-backprop", kind="non-negative", maps=(PIXELS,), class_specific=True, gradients=True)
def guided_backprop(model: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """`max over channels of |gradient|`, with ReLUs that pass only positive gradients of positive inputs."""
    return {PIXELS: guided_gradient(model, images, targets).abs().amax(dim=1)}


@register_map_method("guided-grad-cam", kind="non-negative", per_level=True, class_specific=True, gradients=True)
def guided_grad_cam(
    model: nn.Module, images: Tensor, targets: Tensor, *, levels: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Guided backprop × Grad-CAM, upsampled to the pixels by linear interpolation."""
    import torch.nn.functional as F

    from l2a_transfer.explain.methods.cam import grad_cam

    guided = guided_gradient(model, images, targets).abs().amax(dim=1)  # (B, H, W)
    return {
        level: guided
        * F.interpolate(coarse[:, None], size=guided.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        for level, coarse in grad_cam(model, images, targets, levels=levels).items()
    }


def guided_gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The guided gradient of each image's logit with respect to its pixels, (B, 3, H, W)."""
    from l2a_transfer.explain.guided_relu import guided_relus

    with guided_relus():
        return input_gradient(model, images, targets)
