"""Attention maps of any network over any pictures: the function that programs call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.data.decode import decode_file, to_rgb
from l2a_transfer.errors import ArgumentError, names_keywords
from l2a_transfer.explain.dispatch import DEFAULT_SIDE, compute_maps
from l2a_transfer.explain.interface import AttentionMaps
from l2a_transfer.features.backends.order import check_order
from l2a_transfer.models.loading import as_network

if TYPE_CHECKING:
    from l2a_transfer.models.interface import Network
    from l2a_transfer.models.weights import Card

Picture: TypeAlias = "Image.Image | str | Path | NDArray[np.uint8]"
EXPECTED = "a Pillow image, a path, uint8 (H, W, 3), or a list of these"


@overload
def attention_maps(  # type: ignore[overload-overlap]
    model: str | Path | Network | tuple[Network, Card],
    images: Picture,
    *,
    side: int = ...,
    names: str | None = ...,
    seed: int = ...,
) -> AttentionMaps: ...
@overload
def attention_maps(
    model: str | Path | Network | tuple[Network, Card],
    images: Sequence[Picture],
    *,
    side: int = ...,
    names: Sequence[str] | None = ...,
    seed: int = ...,
) -> list[AttentionMaps]: ...
@names_keywords
def attention_maps(
    model: str | Path | Network | tuple[Network, Card],
    images: Picture | Sequence[Picture],
    *,
    side: int = DEFAULT_SIDE,
    names: str | Sequence[str] | None = None,
    seed: int = 0,
) -> AttentionMaps | list[AttentionMaps]:
    """Where each attention level of a network looks at pictures of any size.

    Parameters
    ----------
    model : str, Path, Network or (Network, Card)
        What `load_model` takes, or what it gives, or a network, which stays as it is and computes where it is.
    images : Pillow image, path, ndarray, or a sequence of these
        Arrays are uint8 (H, W, 3) or (H, W); an array (N, H, W, 3) is N pictures.
    side : int, default=128
        Pixels of a picture's shorter side as the network sees it; the aspect is kept. The networks were trained on
        pictures of `preprocess.size` pixels; at several times that a position sees an object's part, and the map is
        finer.
    names : str or sequence of str, optional
        What the results call the pictures; by default the name of the file, or "image" and its number.
    seed : int, default=0
        Of untrained weights.

    Returns
    -------
    AttentionMaps or list of AttentionMaps
        One for one picture, a list for several: `maps`, level → float32 (h, w), weights that sum to 1 (a sigmoid for
        PAN's L2); `image`, uint8 (H, W, 3), as the network took it.

    Raises
    ------
    BackendError
        For a network without attention, and where its attention is not finite.
    ArgumentError
        For a side that the network cannot take.
    DataError
        For a file that is no picture.

    References
    ----------
    .. [1] S. Jetley, N. Lord, N. Lee, P. Torr: Learn to Pay Attention. ICLR 2018.

    Examples
    --------
    >>> import numpy as np
    >>> import l2a_transfer
    >>> picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    >>> found = l2a_transfer.attention_maps("vgg-att2-concat-pc.cifar10-w025", picture, side=48)
    >>> {level: weights.shape for level, weights in found.maps.items()}
    {'L2': (24, 32), 'L3': (12, 16)}
    """
    from l2a_transfer.models.copies import in_evaluation

    check_order("attention_maps(model, images)", ("model", model), ("images", images))
    network, card = as_network(model, seed=seed)
    network = in_evaluation(network)
    single = isinstance(images, (str, Path, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4)
    pictures = [images] if single else list(images)  # type: ignore[arg-type]
    given = [names] if isinstance(names, str) else names
    called = [_name(picture, k) for k, picture in enumerate(pictures)] if given is None else list(given)
    if len(called) != len(pictures):
        raise ArgumentError(f"names must be as many as pictures, {len(pictures)}; got {len(called)}")
    found = [
        compute_maps(network, card.preprocess, _rgb(picture, name), name, side=side)
        for picture, name in zip(pictures, called, strict=True)
    ]
    return found[0] if single else found


def _name(picture: object, number: int) -> str:
    return Path(picture).name if isinstance(picture, (str, Path)) else f"image {number}"


def _rgb(picture: object, name: str) -> Image.Image:
    """Raises: DataError for a file that is no picture, TypeError for what is neither a picture nor a path."""
    if isinstance(picture, (str, Path)):
        return decode_file(Path(picture).expanduser())
    if (
        isinstance(picture, np.ndarray)
        and picture.dtype == np.uint8
        and (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3))
    ):
        return Image.fromarray(picture).convert("RGB")
    if not isinstance(picture, Image.Image):
        got = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise TypeError(f"images must be {EXPECTED}; got {got}")
    return to_rgb(picture, name)
