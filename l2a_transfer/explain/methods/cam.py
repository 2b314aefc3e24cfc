"""Class activation maps (Zhou et al., CVPR 2016), and Grad-CAM (Selvaraju et al., ICCV 2017), which needs no special
head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from l2a_transfer.errors import BackendError
from l2a_transfer.explain.registry import register_map_method

if TYPE_CHECKING:
    from torch import Tensor, nn


@register_map_method("cam", kind="signed", per_level=True, class_specific=True)
def cam(model: nn.Module, images: Tensor, targets: Tensor, *, levels: Sequence[str] = ()) -> dict[str, Tensor]:
    """`Σ_k w_ck A_k`, for networks whose logits are one linear layer of A's average over positions.

    Whether this holds for a network is checked on the given images.

    Raises: BackendError for any other network.
    """
    import torch

    from l2a_transfer.explain.layers import default_levels, fast_layout, local_features

    images = fast_layout(model, images)
    with linear_calls(model) as called:
        _, local = local_features(model, images, levels or default_levels(model, images))
    if not called:
        raise BackendError(f"{_name(model)} has no linear layer, so no class activation map", "use grad-cam")
    linear, read = called[-1][0], called[-1][1].float()
    found = {}
    for level, features in local.items():
        averages = features.float().mean(dim=(2, 3))  # (B, C)
        if read.shape != averages.shape or not torch.allclose(read, averages, rtol=1e-4, atol=1e-5):
            raise BackendError(
                f"{_name(model)} has no class activation map at {level}: it needs one linear layer over averages "
                "of its channels, as in vgg-gap",
                "use grad-cam or evidence",
            )
        found[level] = torch.einsum("bchw,bc->bhw", features.float(), linear.weight[targets].float())
    return found


@register_map_method("grad-cam", kind="non-negative", per_level=True, class_specific=True, gradients=True)
def grad_cam(model: nn.Module, images: Tensor, targets: Tensor, *, levels: Sequence[str] = ()) -> dict[str, Tensor]:
    """`ReLU(Σ_k α_k A_k)`; α_k is the mean over positions of the gradient of the class's logit with respect to A_k."""
    import torch

    from l2a_transfer.explain.layers import class_score, default_levels, differentiable

    logits, local = differentiable(model, images, levels or default_levels(model, images))
    gradients = torch.autograd.grad(class_score(logits, targets), list(local.values()))
    return {
        level: torch.einsum("bchw,bc->bhw", features, gradient.mean(dim=(2, 3))).relu()
        for (level, features), gradient in zip(local.items(), gradients, strict=True)
    }


def last_linear(model: nn.Module, images: Tensor) -> nn.Linear:
    """The linear layer that computes the logits: the last one called. Raises: BackendError if there is none."""
    import torch

    with linear_calls(model) as called, torch.no_grad():
        model(images[:1])
    if not called:
        raise BackendError(f"{_name(model)} has no linear layer, so no class activation map", "use grad-cam")
    return called[-1][0]


@contextmanager
def linear_calls(model: nn.Module) -> Iterator[list[tuple[nn.Linear, Tensor]]]:
    """While active, each call of a linear layer and its input are appended to the list."""
    from torch import nn

    called: list[tuple[nn.Linear, Tensor]] = []
    handles = [
        module.register_forward_hook(
            lambda module, args, keywords, output: called.append((module, args[0] if args else keywords["input"])),
            with_kwargs=True,
        )
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _name(model: nn.Module) -> str:
    config = getattr(model, "config", None)
    return str(config.architecture) if config is not None and hasattr(config, "architecture") else type(model).__name__
