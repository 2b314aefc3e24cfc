"""Attention maps: where each level of a network looks (Jetley et al., ICLR 2018)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from l2a_transfer.errors import ArgumentError, BackendError
from l2a_transfer.explain.interface import AttentionMaps
from l2a_transfer.models.copies import in_evaluation
from l2a_transfer.models.interface import Network
from l2a_transfer.preprocess import Preprocess, check_rgb, normalize

DEFAULT_SIDE = 128
MAX_SIDE = 1024
STRIDE = 4
"""Pixels from one position of the coarsest level to the next; sides are multiples of it so that maps line up."""


def scaled_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) with the shorter side `side` pixels, the aspect kept, both multiples of 4, neither over 1024."""
    scale = min(side / min(width, height), MAX_SIDE / max(width, height))
    w, h = (max(STRIDE, round(x * scale / STRIDE) * STRIDE) for x in (width, height))
    return w, h


@torch.inference_mode()
def attention(
    model: Network, preprocess: Preprocess, image: Image.Image, name: str, *, side: int = DEFAULT_SIDE
) -> AttentionMaps:
    """Attention of `model` over an RGB picture, taken with its shorter side at `side` pixels and its aspect kept.

    The networks were trained on pictures of `preprocess.size` pixels; at several times that, a position sees an
    object's part rather than the object, and the map is finer. Raises: BackendError for a network without attention,
    and where its attention is not finite; ValueError for a side that the network cannot take, and for a picture that is
    not RGB.
    """
    check_rgb(image)
    smallest = model.config.min_size
    if not smallest <= side <= MAX_SIDE:
        raise ArgumentError(f"side must be between {smallest} and {MAX_SIDE} pixels, got {side}")
    size = scaled_size(image.width, image.height, side)
    if min(size) < smallest:
        raise BackendError(
            f"{name}: {image.width} × {image.height} pixels is too long for its height: its shorter side would be "
            f"{min(size)} pixels, and {model.config.architecture} needs {smallest}"
        )
    pixels = np.array(image.resize(size, Image.Resampling[preprocess.filter.upper()]), dtype=np.uint8)  # (H, W, 3)
    device = next(model.parameters()).device
    batch = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).to(device)[None]  # (1, 3, H, W)
    attended = in_evaluation(model).attend(normalize(batch, *preprocess.statistics(device)))
    if not attended.maps:
        raise BackendError(f"{model.config.architecture} has no attention, so it has no maps; use a vgg-att or vgg-pan")
    maps = {level: values[0].cpu().numpy() for level, values in attended.maps.items()}
    if bad := [level for level, weights in maps.items() if not np.isfinite(weights).all()]:
        raise BackendError(f"{name}: attention that is not finite at {', '.join(bad)}", "use other weights as `model`")
    return AttentionMaps(name, pixels, maps)
