"""Maps of any network for any pictures: the public functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.data.decode import decode_file, to_rgb
from l2a_transfer.errors import ArgumentError, names_keywords, wrong_kind
from l2a_transfer.explain.dispatch import compute_maps, explain_stream
from l2a_transfer.explain.grouping import check_groups, group_maps_beside, group_pictures
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.explain.question import DEFAULT_SIDE, Asked, Question
from l2a_transfer.explain.subject import open_subject
from l2a_transfer.explain.targets import PREDICTED, class_index
from l2a_transfer.features.backends.order import check_order
from l2a_transfer.models.loading import as_network

if TYPE_CHECKING:
    from torch import nn

    from l2a_transfer.models.interface import Network
    from l2a_transfer.models.weights import Card

Picture: TypeAlias = "Image.Image | str | Path | NDArray[np.uint8]"
OWN_SIDE = "own"
"""The default of `side`."""
EXPECTED = "a Pillow image, a path, a uint8 array (H, W, 3), or a list of these"


@overload
def attention_maps(  # type: ignore[overload-overlap]
    model: str | Path | Network | tuple[Network, Card],
    images: Picture,
    *,
    side: int = ...,
    names: str | None = ...,
    seed: int = ...,
) -> ImageMaps: ...
@overload
def attention_maps(
    model: str | Path | Network | tuple[Network, Card],
    images: Sequence[Picture],
    *,
    side: int = ...,
    names: Sequence[str] | None = ...,
    seed: int = ...,
) -> list[ImageMaps]: ...
@names_keywords
def attention_maps(
    model: str | Path | Network | tuple[Network, Card],
    images: Picture | Sequence[Picture],
    *,
    side: int = DEFAULT_SIDE,
    names: str | Sequence[str] | None = None,
    seed: int = 0,
) -> ImageMaps | list[ImageMaps]:
    """Compute the attention maps of a network for images of any size.

    Parameters
    ----------
    model : str, Path, Network or (Network, Card)
        A name or path as for `load_model`, what `load_model` returns, or a network. A network is not changed and runs
        on its own device.
    images : Pillow image, path, ndarray, or a sequence of these
        Arrays are uint8 (H, W, 3) or (H, W); an array (N, H, W, 3) is N images.
    side : int, default=128
        Shorter side of the network's input in pixels; the aspect ratio is kept. Networks were trained on images of
        `preprocess.size` pixels. At several times that size, maps are finer, and each position sees part of an object.
    names : str or sequence of str, optional
        Names of the images in the results; by default the file name, or "image" and a number.
    seed : int, default=0
        Random seed of untrained weights.

    Returns
    -------
    ImageMaps or list of ImageMaps
        One result for one image, a list for several. `maps` is level → float32 (h, w), weights that sum to 1 (or
        sigmoids for PAN's L2). `image` is the image that the network received, uint8 (H, W, 3).

    Raises
    ------
    BackendError
        If the network has no attention, or if its attention is not finite.
    ArgumentError
        For a `side` that the network does not support.
    DataError
        For a file that is not an image.

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
    pictures, called, single = _pictures(images, names)
    found = [
        compute_maps(network, card.preprocess, _rgb(picture, name), name, side=side)
        for picture, name in zip(pictures, called, strict=True)
    ]
    return found[0] if single else found


def explain_images(
    model: str | Path | Network | tuple[Network, Card] | nn.Module,
    images: Picture | Sequence[Picture],
    *,
    method: str | Sequence[str] = "evidence",
    target: str | int | Sequence[str | int] = PREDICTED,
    side: int | str | None = OWN_SIDE,
    levels: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    groups: Sequence[str] | None = None,
    control_seed: int = 0,
    names: str | Sequence[str] | None = None,
    seed: int = 0,
    image_size: int | None = None,
    fit: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights: str | Path | None = None,
    download: bool = False,
) -> list[ImageMaps]:
    """Compute maps that explain the predictions of a network, by one or several methods.

    Parameters
    ----------
    model : str, Path, Network, (Network, Card) or nn.Module
        A name or path as for `load_model`, what `load_model` returns, or a network. A network is not changed and runs
        on its own device. Methods that need no attention also accept other networks, by name or in memory, as for
        `open_backend`.
    images : Pillow image, path, ndarray, or a sequence of these
        As for `attention_maps`. Images of the same size are computed together.
    method : str or sequence of str, default="evidence"
        Different names from `l2a_transfer.explain.registry.METHODS`.
    target : str, int, or a sequence of these, one per image; default="predicted"
        The class to explain: the predicted one, or a class by its name or number. Methods that are not class-specific
        ignore it.
    side : int or None, optional
        Shorter side of the network's input in pixels; the aspect ratio is kept. None preprocesses images exactly as
        `extract` does. By default 128, and None for other networks.
    levels : sequence of str, optional
        Levels, or layers of another network, for methods with one map per level. By default, those that the classifier
        uses.
    options : mapping, optional
        Method → its options, such as ``{"occlusion": {"window": 16}}``.
    groups : sequence of str, optional
        The class of each image, by any names. It adds two maps per image after those of the methods: "group", the
        cosine between each position and what attention selects in the other images of the class, and "group-control",
        the same with the images of another class.
    control_seed : int, default=0
        Random seed for choosing the control class of each class.
    names : str or sequence of str, optional
        Names of the images in the results; by default the file name, or "image" and a number.
    seed : int, default=0
        Random seed of untrained weights.
    image_size, fit, mean, std, weights, download
        For other networks, as for `open_backend`.

    Returns
    -------
    list of ImageMaps
        For each image in order, one result per method in order, and with `groups` the group map and its control.

    Raises
    ------
    UnknownNameError
        For an unknown method, option, level or class.
    ArgumentError
        For a value that a method or the network does not support.
    BackendError
        If the network does not have such maps, or if they are not finite.
    DataError
        For a file that is not an image, for a class with only one image, and if `groups` names only one class.

    See Also
    --------
    l2a_transfer.explain.compute.map_batch : The same for normalised images and any torch module that returns logits.

    Examples
    --------
    >>> import numpy as np
    >>> import l2a_transfer
    >>> picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    >>> model = "vgg-att2-concat-pc.cifar10-w025"
    >>> cam, saliency = l2a_transfer.explain_images(
    ...     model, picture, method=["grad-cam", "saliency"], target="cat", side=48
    ... )
    >>> {level: values.shape for level, values in cam.maps.items()}, cam.class_name
    ({'L2': (24, 32), 'L3': (12, 16)}, 'cat')
    >>> saliency.maps["pixels"].shape, saliency.kinds["pixels"]
    ((48, 64), 'non-negative')
    """
    methods = (method,) if isinstance(method, str) else tuple(method)
    of_others: dict[str, Any] = {"image_size": image_size, "fit": fit, "mean": mean, "std": std, "weights": weights}
    if isinstance(side, str) and side != OWN_SIDE:
        raise wrong_kind("side", "a number of pixels, or None", side)
    asked_side = DEFAULT_SIDE if side == OWN_SIDE else side
    question = Question(methods, asked_side, tuple(levels), dict(options or {}), groups is not None, control_seed)  # type: ignore[arg-type]
    subject = open_subject(model, seed=seed, download=download, **of_others)
    if side == OWN_SIDE and not subject.is_own:
        question = dataclasses.replace(question, side=None)
    pictures, called, _ = _pictures(images, names)
    wanted = [target] * len(pictures) if isinstance(target, (str, int)) else list(target)
    if len(wanted) != len(pictures):
        raise ArgumentError(f"target must be one class, or one per picture, {len(pictures)}; got {len(wanted)}")
    if not question.class_specific and any(one != PREDICTED for one in wanted):
        raise ArgumentError(f"target is for methods that explain one class; {', '.join(methods)} does not", "omit it")
    targets = [class_index(one, subject.classes, subject.num_classes) for one in wanted]
    of_class: Sequence[str | None] = [None] * len(pictures) if groups is None else _of_class(groups, len(pictures))

    def asked() -> Iterator[Asked]:
        for picture, name, own, group in zip(pictures, called, targets, of_class, strict=True):
            yield Asked(name, _rgb(picture, name), own, group)

    beside = None
    if question.group:
        named = check_groups(of_class, called)
        grouping = group_pictures(subject.network, subject.preprocess, asked(), named, question)
        beside = group_maps_beside(subject.network, subject.preprocess, grouping, question)
    stream = explain_stream(subject.network, subject.preprocess, subject.classes, asked(), question, beside=beside)
    return [maps for _, found in stream for maps in found]


def _of_class(groups: Sequence[str], of: int) -> list[str]:
    """The class of each picture. Raises: TypeError, ArgumentError."""
    if isinstance(groups, str) or not all(isinstance(group, str) for group in groups):
        raise wrong_kind("groups", "a list with the name of the class of each picture", groups)
    if len(groups) != of:
        raise ArgumentError(f"groups must have one entry per picture, {of}; got {len(groups)}")
    return list(groups)


def _pictures(
    images: Picture | Sequence[Picture], names: str | Sequence[str] | None
) -> tuple[list[Picture], list[str], bool]:
    """The pictures, their names, and whether a single one was given outside a list. Raises: ArgumentError."""
    single = isinstance(images, (str, Path, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4)
    pictures: list[Picture] = [images] if single else list(images)  # type: ignore[arg-type, list-item]
    given = [names] if isinstance(names, str) else names
    called = [_name(picture, k) for k, picture in enumerate(pictures)] if given is None else list(given)
    if len(called) != len(pictures):
        raise ArgumentError(f"names must have one entry per picture, {len(pictures)}; got {len(called)}")
    return pictures, called, single


def _name(picture: object, number: int) -> str:
    return Path(picture).name if isinstance(picture, (str, Path)) else f"image {number}"


def _rgb(picture: object, name: str) -> Image.Image:
    """Raises: DataError for a file that is not a picture, TypeError for anything that is neither a picture nor a
    path."""
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
