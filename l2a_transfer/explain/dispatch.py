"""The maps of pictures by any methods: the part common to all methods, from pictures to validated arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.errors import ArgumentError, BackendError, wrong_kind
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.explain.question import DEFAULT_SIDE, Asked, Question
from l2a_transfer.explain.registry import DEFAULT_METHOD, METHODS
from l2a_transfer.preprocess import Preprocess, check_rgb, normalize
from l2a_transfer.wording import counted

if TYPE_CHECKING:
    from torch import Tensor, nn

    Beside = Callable[[Sequence[Asked], list[list[ImageMaps]]], list[list[ImageMaps]]]

MAX_SIDE = 1024
STRIDE = 4
"""Pixels between positions of the coarsest level; sides are multiples of it so that maps line up."""
AT_ONCE = 16
"""Maximum number of pictures computed together."""
PIXELS_AT_ONCE = 1 << 25
"""Maximum number of pixels of the pictures computed together."""


def scaled_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) with a shorter side of `side` pixels and the same aspect ratio, both multiples of 4 and at most
    1024."""
    scale = min(side / min(width, height), MAX_SIDE / max(width, height))
    w, h = (max(STRIDE, round(x * scale / STRIDE) * STRIDE) for x in (width, height))
    return w, h


def compute_maps(
    model: nn.Module,
    preprocess: Preprocess,
    image: Image.Image,
    name: str,
    *,
    method: str = DEFAULT_METHOD,
    side: int = DEFAULT_SIDE,
    target: int | None = None,
) -> ImageMaps:
    """Compute the maps of a picture with one of the registered methods.

    Networks were trained on pictures of `preprocess.size` pixels. At several times that size, maps are finer, and each
    position sees part of an object.

    Parameters
    ----------
    model : nn.Module
        A network of l2a_transfer, or any that returns logits. It is not changed; maps are computed in evaluation mode.
    preprocess : Preprocess
        Preprocessing of the network.
    image : PIL.Image.Image
        The picture, in mode RGB.
    name : str
        Name of the picture in errors and on sheets.
    method : str
        A name in `METHODS`.
    side : int
        Shorter side of the network's input in pixels; the aspect ratio is kept.
    target : int, optional
        The class that a class-specific method explains; by default, the predicted one.

    Returns
    -------
    ImageMaps
        Name → float32 (h, w), and the picture as the network received it, uint8 (H, W, 3).

    Raises
    ------
    UnknownNameError
        For an unknown method.
    ArgumentError
        For a side that the network does not support, or a class that it does not have.
    BackendError
        If the network has no such maps, or if their values are not finite.
    """
    question = Question((method,), side)
    if target is not None and not question.class_specific:
        raise ArgumentError(f"targets are for methods that explain one class; {method} does not", "omit them")
    ((_, (found,)),) = explain_stream(model, preprocess, (), [Asked(name, image, target)], question)
    return found


def explain_stream(
    model: nn.Module,
    preprocess: Preprocess,
    classes: Sequence[str],
    pictures: Iterable[Asked],
    question: Question,
    *,
    beside: Beside | None = None,
) -> Iterator[tuple[Asked, list[ImageMaps]]]:
    """Yield the maps of each picture, in order, by each method of the question, in order.

    Pictures of one size are computed together; no more than `AT_ONCE` of them are in memory.

    Parameters
    ----------
    model : nn.Module
        A network of l2a_transfer, or any that returns logits. It is not changed and runs on its own device.
    preprocess : Preprocess
        Preprocessing of the network.
    classes : sequence of str
        The names of its classes; may be empty.
    pictures : iterable of Asked
        The pictures, read as they are needed.
    question : Question
        The methods and their settings.
    beside : callable, optional
        Receives pictures of equal network size with the maps of each, and returns these with further maps.

    Raises
    ------
    ArgumentError
        For a side that the network does not support, or a class that it does not have.
    BackendError
        If the network has no such maps, or if their values are not finite. The message names the first of the pictures
        computed together.
    """
    from torch import nn

    from l2a_transfer.models.copies import in_evaluation

    if not isinstance(model, nn.Module):
        raise wrong_kind("model", "a network, such as the first value returned by load_model(NAME)", model)
    model = in_evaluation(model)
    for together in taken_together(pictures):
        found: dict[int, list[ImageMaps]] = {}
        for own, pixels in by_size(model, preprocess, together, question.side):
            some = [together[k] for k in own]
            answers = _of_one_size(model, preprocess, classes, some, pixels, question)
            found.update(zip(own, beside(some, answers) if beside else answers, strict=True))
        yield from ((one, found[k]) for k, one in enumerate(together))


def by_size(
    model: nn.Module, preprocess: Preprocess, together: Sequence[Asked], side: int | None
) -> list[tuple[list[int], list[NDArray[np.uint8]]]]:
    """For each size of the pictures as input of the network: their numbers, and each as `network_pixels`."""
    found: dict[tuple[int, ...], tuple[list[int], list[NDArray[np.uint8]]]] = {}
    for k, one in enumerate(together):
        pixels = network_pixels(model, preprocess, one.picture, one.name, side)
        numbers, taken = found.setdefault(pixels.shape, ([], []))
        numbers.append(k)
        taken.append(pixels)
    return list(found.values())


def taken_together(pictures: Iterable[Asked]) -> Iterator[list[Asked]]:
    """Batches of pictures to compute together: up to `AT_ONCE` of them, fewer if they are large."""
    together: list[Asked] = []
    pixels = 0
    for one in pictures:
        if not isinstance(one.picture, Image.Image):
            raise wrong_kind(
                "image",
                "a Pillow image in mode RGB, such as from l2a_transfer.data.decode.decode_file(PATH)",
                one.picture,
            )
        check_rgb(one.picture)
        together.append(one)
        pixels += one.picture.width * one.picture.height
        if len(together) == AT_ONCE or pixels >= PIXELS_AT_ONCE:
            yield together
            together, pixels = [], 0
    if together:
        yield together


def _of_one_size(
    model: nn.Module,
    preprocess: Preprocess,
    classes: Sequence[str],
    asked: Sequence[Asked],
    pixels: Sequence[NDArray[np.uint8]],
    question: Question,
) -> list[list[ImageMaps]]:
    """For each picture, its maps by each method."""
    from l2a_transfer.explain.completeness import completeness_errors
    from l2a_transfer.explain.compute import map_batch

    images = normalised(model, preprocess, pixels)
    names = [one.name for one in asked]
    answers: list[list[ImageMaps]] = [[] for _ in names]
    try:
        with _forward_errors(model, images):
            probabilities = _probabilities(model, images)  # (B, K)
        predicted = probabilities.argmax(axis=1)
        targets = [int(own) if one.target is None else one.target for one, own in zip(asked, predicted, strict=True)]
        for method in question.methods:
            spec = METHODS[method]
            options = question.options.get(method)
            found = map_batch(
                model,
                images,
                method=method,
                targets=targets if spec.class_specific else None,
                levels=question.levels if spec.per_level else (),
                options=options,
            )
            errors = completeness_errors(model, images, found, options)
            for b, name in enumerate(names):
                target = targets[b] if spec.class_specific else None
                own = int(predicted[b])
                answers[b].append(
                    ImageMaps(
                        name,
                        pixels[b],
                        {level: values[b] for level, values in found.maps.items()},
                        found.kinds,
                        method=method,
                        target=target,
                        class_name=_class_name(classes, target),
                        probability=None if target is None else float(probabilities[b, target]),
                        predicted=own,
                        predicted_name=_class_name(classes, own),
                        predicted_probability=float(probabilities[b, own]),
                        completeness=None if errors is None else float(errors[b]),
                    )
                )
        if not np.isfinite(probabilities).all():
            raise BackendError("logits that are not finite", "use other weights as `model`")
    except BackendError as error:
        which = names[0] if len(names) == 1 else f"{names[0]} and {counted(len(names) - 1, 'more picture')}"
        raise BackendError(f"{which}: {error.problem}", error.remedy) from error
    return answers


@contextmanager
def _forward_errors(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Raise errors from the code of third-party networks as BackendError."""
    from l2a_transfer.features.backends.backbone import network_errors
    from l2a_transfer.models.interface import Network

    if isinstance(model, Network):
        yield
        return
    H, W = images.shape[2:]
    with network_errors(type(model).__name__, W, H, by="side"):
        yield


def normalised(model: nn.Module, preprocess: Preprocess, pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Pictures of one size, each uint8 (H, W, 3), as normalised input (B, 3, H, W) on the device of the network."""
    import torch

    from l2a_transfer.models.copies import device_of

    device = device_of(model)
    images_u8 = torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy()).to(device)  # (B, 3, H, W)
    return normalize(images_u8, *preprocess.statistics(device))


def _class_name(classes: Sequence[str], target: int | None) -> str | None:
    return classes[target] if classes and target is not None else None


def _probabilities(model: nn.Module, images: Tensor) -> NDArray[np.float64]:
    """The probability of each class, (B, K); NaN if the logits are not finite."""
    import torch

    from l2a_transfer.explain.compute import split_to_fit

    def logits(some: Tensor, _: Tensor | None) -> dict[str, Tensor]:
        with torch.no_grad():
            return {"logits": model(some)}

    probabilities: NDArray[np.float64] = (
        split_to_fit(logits, images, None, model=model)["logits"].double().softmax(dim=1).cpu().numpy()
    )
    return probabilities


def network_pixels(
    model: nn.Module, preprocess: Preprocess, image: Image.Image, name: str, side: int | None
) -> NDArray[np.uint8]:
    """The picture as the network receives it, uint8 (H, W, 3); without `side`, as in `extract`.

    Raises: ArgumentError, BackendError for its size.
    """
    architecture, smallest = _needs(model)
    if side is None:
        if preprocess.size < smallest:
            raise BackendError(f"{name}: {architecture} needs {smallest} pixels, not {preprocess.size}")
        return np.ascontiguousarray(preprocess.pixels(image).transpose(1, 2, 0))
    if not smallest <= side <= MAX_SIDE:
        raise ArgumentError(f"side must be between {smallest} and {MAX_SIDE} pixels, got {side}")
    size = scaled_size(image.width, image.height, side)
    if min(size) < smallest:
        raise BackendError(
            f"{name}: {image.width} × {image.height} pixels is too long for its height: its shorter side would be "
            f"{min(size)} pixels, and {architecture} needs {smallest}"
        )
    return np.array(image.resize(size, Image.Resampling[preprocess.filter.upper()]), dtype=np.uint8)


def _needs(model: nn.Module) -> tuple[str, int]:
    """The name of a network and the smallest size it needs; for third-party networks, the size is unknown."""
    from l2a_transfer.models.interface import Network

    if isinstance(model, Network):
        return model.config.architecture, model.config.min_size
    return type(model).__name__, 1
