"""The maps of one picture by any method: what all methods have in common, from the picture to checked arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.errors import ArgumentError, BackendError, wrong_kind
from l2a_transfer.explain.interface import AttentionMaps
from l2a_transfer.explain.registry import DEFAULT_METHOD, METHODS
from l2a_transfer.preprocess import Preprocess, check_rgb, normalize

if TYPE_CHECKING:
    from l2a_transfer.models.interface import Network

DEFAULT_SIDE = 128
MAX_SIDE = 1024
STRIDE = 4
"""Pixels from one position of the coarsest level to the next; sides are multiples of it so that maps line up."""


def scaled_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) with the shorter side `side` pixels, the aspect kept, both multiples of 4, neither over 1024."""
    scale = min(side / min(width, height), MAX_SIDE / max(width, height))
    w, h = (max(STRIDE, round(x * scale / STRIDE) * STRIDE) for x in (width, height))
    return w, h


def compute_maps(
    model: Network,
    preprocess: Preprocess,
    image: Image.Image,
    name: str,
    *,
    method: str = DEFAULT_METHOD,
    side: int = DEFAULT_SIDE,
    target: int | None = None,
) -> AttentionMaps:
    """Where a network looks at a picture, by one of the registered methods.

    The networks were trained on pictures of `preprocess.size` pixels; at several times that, a position sees an
    object's part rather than the object, and the map is finer.

    Parameters
    ----------
    model : Network
        It stays as it is; maps are computed in evaluation mode.
    preprocess : Preprocess
        How the network takes pictures.
    image : PIL.Image.Image
        Of mode RGB and any size.
    name : str
        What errors and sheets call the picture.
    method : str
        A name in `METHODS`.
    side : int
        Pixels of the shorter side as the network takes the picture; the aspect is kept.
    target : int, optional
        The class that a class-specific method explains; by default the one that the network predicts.

    Returns
    -------
    AttentionMaps
        Name → float32 (h, w), and the picture as the network took it, uint8 (H, W, 3).

    Raises
    ------
    UnknownNameError
        For a method that does not exist.
    ArgumentError
        For a side that the network cannot take, and a class that it does not have.
    BackendError
        Where the network has no such maps, or their values are not finite.
    """
    import torch

    from l2a_transfer.explain.compute import map_batch
    from l2a_transfer.models.interface import Network

    METHODS.find(method)
    if not isinstance(model, Network):
        raise wrong_kind("model", "a network, the first of what load_model(NAME) gives", model)
    if not isinstance(image, Image.Image):
        raise wrong_kind(
            "image", "a picture of Pillow's in mode RGB, as l2a_transfer.data.decode.decode_file(PATH) gives", image
        )
    check_rgb(image)
    pixels = _pixels(model, preprocess, image, name, side)
    device = next(model.parameters()).device
    images_u8 = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).to(device)[None]  # (1, 3, H, W)
    images = normalize(images_u8, *preprocess.statistics(device))
    try:
        found = map_batch(model, images, method=method, targets=None if target is None else [target])
    except BackendError as error:
        raise BackendError(f"{name}: {error.problem}", error.remedy) from error
    maps = {own: values[0] for own, values in found.maps.items()}
    return AttentionMaps(name, pixels, maps, signed="signed" in found.kinds.values())


def _pixels(model: Network, preprocess: Preprocess, image: Image.Image, name: str, side: int) -> NDArray[np.uint8]:
    """The picture as the network takes it, uint8 (H, W, 3). Raises: ArgumentError, BackendError for its size."""
    smallest = model.config.min_size
    if not smallest <= side <= MAX_SIDE:
        raise ArgumentError(f"side must be between {smallest} and {MAX_SIDE} pixels, got {side}")
    size = scaled_size(image.width, image.height, side)
    if min(size) < smallest:
        raise BackendError(
            f"{name}: {image.width} × {image.height} pixels is too long for its height: its shorter side would be "
            f"{min(size)} pixels, and {model.config.architecture} needs {smallest}"
        )
    return np.array(image.resize(size, Image.Resampling[preprocess.filter.upper()]), dtype=np.uint8)
