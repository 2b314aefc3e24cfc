"""Attention maps: where each level of a network looks (Jetley et al., ICLR 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from l2a_transfer.errors import BackendError
from l2a_transfer.explain.dispatch import DEFAULT_SIDE, compute_maps
from l2a_transfer.explain.registry import register_map_method
from l2a_transfer.models.config import LEVELS

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from l2a_transfer.explain.interface import AttentionMaps
    from l2a_transfer.models.interface import Network
    from l2a_transfer.preprocess import Preprocess


@register_map_method("attention", maps=tuple(LEVELS))
def attention(model: Network, images: Tensor) -> dict[str, Tensor]:
    """Each level's attention weights. Raises: BackendError for a network that has none."""
    maps = model.attend(images).maps
    if not maps:
        raise BackendError(f"{model.config.architecture} has no attention, so it has no maps; use a vgg-att or vgg-pan")
    return {level: weights[0] for level, weights in maps.items()}  # (h, w)


def attention_maps(
    model: Network, preprocess: Preprocess, image: Image.Image, name: str, *, side: int = DEFAULT_SIDE
) -> AttentionMaps:
    """Where each attention level of a network looks at a picture: `compute_maps` by the method "attention".

    Parameters
    ----------
    model : Network
        A network with attention; afterwards it is in the mode that it had.
    preprocess : Preprocess
        How the network takes pictures.
    image : PIL.Image.Image
        Of mode RGB and any size.
    name : str
        What errors and sheets call the picture.
    side : int
        Pixels of the shorter side as the network takes the picture; the aspect is kept.

    Returns
    -------
    AttentionMaps
        Level → float32 (h, w), weights that sum to 1 (a sigmoid between 0 and 1 for PAN's L2).

    Raises
    ------
    BackendError
        For a network without attention, and where its attention is not finite.
    ArgumentError
        For a side that the network cannot take.

    References
    ----------
    .. [1] S. Jetley, N. A. Lord, N. Lee, P. H. S. Torr: Learn to Pay Attention. ICLR 2018.
    """
    return compute_maps(model, preprocess, image, name, side=side)
