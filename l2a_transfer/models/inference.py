"""The inference form of a network, in which each batch norm is folded into the convolution before it."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

N = TypeVar("N", bound=nn.Module)


@torch.no_grad()
def fold_batch_norms(network: N) -> N:
    """Fold each batch norm into the convolution before it, in place.

    `γ (w·x − μ) / σ + β` is `(γ/σ) w·x + (β − γμ/σ)`. The new weights are computed in float64 and rounded once, so the
    outputs differ only by rounding.

    Parameters
    ----------
    network : nn.Module
        A network in evaluation mode. In its `nn.Sequential` modules, a `Conv2d` followed by a `BatchNorm2d` is replaced
        by one `Conv2d` and an `nn.Identity`. Other layers, and layers with hooks or parametrizations, are not changed.

    Returns
    -------
    nn.Module
        The same object. It cannot be trained further, and its tensors have different names and shapes.

    Raises
    ------
    ValueError
        If the network is in training mode, in which batch norm uses the statistics of the batch.
    """
    if network.training:
        raise ValueError("a network in training mode has no inference form")
    for sequence in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for name, following in pairwise(list(sequence._modules)):
            conv, norm = sequence._modules[name], sequence._modules[following]
            if _can_fold(conv, norm):
                assert isinstance(conv, nn.Conv2d)
                assert isinstance(norm, nn.BatchNorm2d)
                fused = fuse_conv_bn_eval(conv.double(), norm.double())
                sequence._modules[name] = fused.to(torch.float32).requires_grad_(False).eval()
                sequence._modules[following] = nn.Identity()
    return network


def _can_fold(conv: nn.Module | None, norm: nn.Module | None) -> bool:
    if type(conv) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d:
        return False
    if norm.running_mean is None or norm.training or conv.weight.dtype != torch.float32:
        return False
    return not any(
        hooks for layer in (conv, norm) for hooks in (layer._forward_hooks, layer._forward_pre_hooks)
    ) and not any(hasattr(layer, "parametrizations") for layer in (conv, norm))
