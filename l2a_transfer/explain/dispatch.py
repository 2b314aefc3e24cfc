"""The maps of one picture by any method: what all methods have in common, from the picture to checked arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.errors import ArgumentError, BackendError, PluginError, wrong_kind
from l2a_transfer.explain.interface import AttentionMaps
from l2a_transfer.explain.registry import DEFAULT_METHOD, METHODS, MapMethod
from l2a_transfer.preprocess import Preprocess, check_rgb, normalize

if TYPE_CHECKING:
    from torch import Tensor

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
    from l2a_transfer.models.interface import Network

    spec = METHODS.find(method)
    if not isinstance(model, Network):
        raise wrong_kind("model", "a network, the first of what load_model(NAME) gives", model)
    if not isinstance(image, Image.Image):
        raise wrong_kind(
            "image", "a picture of Pillow's in mode RGB, as l2a_transfer.data.decode.decode_file(PATH) gives", image
        )
    check_rgb(image)
    if target is not None and not spec.class_specific:
        raise ArgumentError(f"target is for methods that explain one class; {method} does not", "leave it out")
    pixels = _pixels(model, preprocess, image, name, side)
    maps = _run(spec, model, preprocess, pixels, target)
    if unknown := sorted(set(maps) - set(spec.maps)):
        raise PluginError(f"the method {method!r} gave maps that it does not declare: {', '.join(unknown)}")
    if bad := [own for own, values in maps.items() if not np.isfinite(values).all()]:
        raise BackendError(f"{name}: {method} that is not finite at {', '.join(bad)}", "use other weights as `model`")
    return AttentionMaps(name, pixels, maps, signed=spec.signed)


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


def _run(
    spec: MapMethod, model: Network, preprocess: Preprocess, pixels: NDArray[np.uint8], target: int | None
) -> dict[str, NDArray[np.float32]]:
    """The method's maps of the network in evaluation mode."""
    import torch

    from l2a_transfer.models.copies import in_evaluation

    device = next(model.parameters()).device
    model = in_evaluation(model)
    with torch.inference_mode(not spec.gradients), torch.set_grad_enabled(spec.gradients):
        images_u8 = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).to(device)[None]  # (1, 3, H, W)
        images = normalize(images_u8, *preprocess.statistics(device))
        if spec.class_specific:
            maps = spec.compute(model, images, _class_of(model, images, target))
        else:
            maps = spec.compute(model, images)
    return {name: values.detach().float().cpu().numpy() for name, values in maps.items()}


def _class_of(model: Network, images: Tensor, target: int | None) -> int:
    """The class to explain. Raises: ArgumentError for one that the network does not have."""
    import torch

    with torch.no_grad():
        logits = model(images)[0]  # (K,)
    if target is None:
        return int(logits.argmax())
    if not 0 <= target < len(logits):
        raise ArgumentError(f"target must be between 0 and {len(logits) - 1}, got {target}")
    return target
