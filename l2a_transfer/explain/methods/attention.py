"""Attention maps: where each level of a network looks (Jetley et al., ICLR 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from l2a_transfer.errors import BackendError
from l2a_transfer.explain.registry import register_map_method
from l2a_transfer.models.config import LEVELS

if TYPE_CHECKING:
    from torch import Tensor

    from l2a_transfer.models.interface import Network


@register_map_method("attention", maps=tuple(LEVELS))
def attention(model: Network, images: Tensor) -> dict[str, Tensor]:
    """Each level's attention weights. Raises: BackendError for a network that has none."""
    maps = model.attend(images).maps
    if not maps:
        raise BackendError(f"{model.config.architecture} has no attention, so it has no maps; use a vgg-att or vgg-pan")
    return {level: weights[0] for level, weights in maps.items()}  # (h, w)
