"""Attention maps: the attention weights of each level (Jetley et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from l2a_transfer.errors import BackendError
from l2a_transfer.explain.registry import register_map_method

if TYPE_CHECKING:
    from torch import Tensor, nn


@register_map_method("attention", kind="non-negative", per_level=True)
def attention(model: nn.Module, images: Tensor, *, levels: Sequence[str] = ()) -> dict[str, Tensor]:
    """Each level's attention weights: distributions, or numbers between 0 and 1 for gates and masks.

    Raises: BackendError for a network without attention, UnknownNameError for a level without attention.
    """
    from l2a_transfer.errors import unknown_name
    from l2a_transfer.explain.layers import attended

    maps = attended(model, images).maps
    if not maps:
        own = getattr(model, "config", None)
        name = own.architecture if own else type(model).__name__
        raise BackendError(f"{name} has no attention, so it has no maps; use a vgg-att or vgg-pan")
    for level in levels:
        if level not in {name.split(".")[0] for name in maps}:
            raise unknown_name("level", level, tuple(maps))
    return {name: weights for name, weights in maps.items() if not levels or name.split(".")[0] in levels}
