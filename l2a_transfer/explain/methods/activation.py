"""Activation-based maps (Zagoruyko & Komodakis, ICLR 2017): how strongly the channels respond at a position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from l2a_transfer.errors import ArgumentError
from l2a_transfer.explain.registry import register_map_method

if TYPE_CHECKING:
    from torch import Tensor, nn


@register_map_method("activation", kind="non-negative", per_level=True)
def activation(
    model: nn.Module, images: Tensor, *, levels: Sequence[str] = (), power: float = 2.0
) -> dict[str, Tensor]:
    """`Σ_c |A_c|^power` of each level's local features A.

    Raises: ArgumentError for a power that is not positive.
    """
    from l2a_transfer.explain.layers import default_levels, local_features

    if not 0 < power <= 64:
        raise ArgumentError(f"activation.power must be above 0 and at most 64, got {power}")
    _, local = local_features(model, images, levels or default_levels(model, images))
    return {level: features.float().abs().pow(power).sum(dim=1) for level, features in local.items()}
