"""The interface of a backend: uint8 pixels in, features and attention maps out, and what determines their bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import unknown_name, wrong_kind
from l2a_transfer.models.config import LEVELS, ModelConfig
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.text import repr_line
from l2a_transfer.wording import counted

LOCAL = "local"
TAPS = ("ga", "ga-bn-relu", LOCAL)


@dataclass(frozen=True)
class Computed:
    """The result of a backend for one batch.

    Parameters
    ----------
    features : ndarray
        float32 (B, D).
    maps : dict
        Level → float16 (B, H, W), if maps were requested.
    """

    features: NDArray[np.float32]
    maps: dict[str, NDArray[np.float16]] = field(default_factory=dict)

    def __repr__(self) -> str:
        maps = ", ".join(f"{name} {values.shape}" for name, values in self.maps.items()) or "none"
        return f"<Computed: features {self.features.shape}; maps {maps}>"


@dataclass(frozen=True)
class Layer:
    """A module of a network, which the option `layer` can name.

    Parameters
    ----------
    name : str
        For example ``"layer4.1.conv2"``; with the suffix ``":in"``, the input of the module.
    kind : str
        The module's type.
    shape : tuple of int or None
        Shape of its output for one image; None if the output is not a tensor with one row per image.
    parameters : int
        Its number of parameters.
    is_default : bool
        Whether it is used by default.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    is_default: bool = False


class FeatureBackend(Protocol):
    """Turns uint8 pixels into features, and knows everything that determines their bytes. A backend can be pickled.

    Attributes
    ----------
    name, device, precision, tap : str
        The runtime, the device, the precision, and which features are computed.
    card : dict
        The model's card as JSON; ``card["name"]`` is the model's name.
    preprocess : Preprocess
        The preprocess of the model's pictures.
    levels : tuple
        (name, start, stop) of each level's columns, which together cover the feature.
    map_levels : tuple of str
        The levels that have attention maps.

    Notes
    -----
    A backend of a network that attends each image with k others also has an attribute `partners`, which is k. It also
    takes groups: uint8 (B, 1 + k, 3, size, size), each image before its partners. An image without partners is its own
    partner. Other backends do not need this attribute.
    """

    name: str
    device: str
    precision: str
    tap: str
    card: dict[str, Any]
    preprocess: Preprocess
    levels: tuple[tuple[str, int, int], ...]
    map_levels: tuple[str, ...]

    def features(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, 3, size, size) → float32 (B, D). Raises: same as `check_pixels`."""

    def stream(self, batches: Iterable[NDArray[np.uint8]], *, attention: bool = False) -> Iterator[Computed]:
        """Each batch's features in order, with maps if `attention`. Transfers overlap with the computation."""

    def identity(self) -> dict[str, Any]:
        """Everything that determines the bytes of a feature except the pictures and the batch size, including this
        machine; flat JSON."""


def backend_repr(backend: FeatureBackend) -> str:
    """The `__repr__` of a backend: model, features and their levels, pixels, tap, precision and device."""
    size = backend.preprocess.size
    levels = ", ".join(f"{name} {stop - start:,}" for name, start, stop in backend.levels)
    return repr_line(
        backend,
        str(backend.card["name"]),
        f"{counted(feature_width(backend), 'feature')} ({levels}) of {size} × {size} pixels",
        f"tap {backend.tap}",
        f"{backend.precision} on {backend.device}",
    )


def is_backend(model: object) -> TypeGuard[FeatureBackend]:
    """True if the object has the interface of a feature backend."""
    return all(hasattr(model, name) for name in ("stream", "identity", "preprocess"))


def partners_of(backend: FeatureBackend) -> int:
    """How many partners a backend's network attends each image with."""
    found: int = getattr(backend, "partners", 0)
    return found


def check_groups(groups_u8: NDArray[np.uint8], preprocess: Preprocess, partners: int) -> None:
    """Same as `check_pixels`, or for images before their partners: uint8 (B, 1 + partners, 3, size, size)."""
    if partners == 0 or getattr(groups_u8, "ndim", 4) == 4 or groups_u8.dtype != np.uint8:
        check_pixels(groups_u8, preprocess)
        return
    expected = (1 + partners, 3, preprocess.size, preprocess.size)
    if groups_u8.shape[1:] != expected:
        shown = ", ".join(map(str, expected))
        raise ValueError(f"groups must be (B, {shown}), each image before its partners; got {groups_u8.shape}")


def check_pixels(images_u8: NDArray[np.uint8], preprocess: Preprocess) -> None:
    """Check that pixels are uint8 (B, 3, size, size), channels first.

    Nothing is converted, because the values alone do not tell 0…1 from 0…255, or rows from channels.

    Raises
    ------
    TypeError
        For another kind of object or another dtype; the message says how to convert it.
    ValueError
        For another shape.
    """
    size = preprocess.size
    expected = f"pixels must be a NumPy array, uint8 0…255, (B, 3, {size}, {size})"
    resized = "convert RGB Pillow images with np.stack([backend.preprocess.pixels(image) for image in images])"
    if not isinstance(images_u8, np.ndarray):
        raise TypeError(f"{expected}; got {type(images_u8).__name__}; {resized}, and a tensor with tensor.numpy()")
    shape = images_u8.shape
    if images_u8.dtype != np.uint8:
        todo = "convert values between 0 and 1 with np.rint(255 * x).astype(np.uint8)"
        raise TypeError(f"{expected}; got {images_u8.dtype} {shape}; {todo}; mean and std are subtracted here")
    if shape[1:] != (3, size, size):
        todo = resized
        if shape[1:] == (size, size, 3):
            todo = "channels come first: x.transpose(0, 3, 1, 2)"
        elif shape in ((3, size, size), (size, size, 3)):
            todo = "for a single image, use x[None] with channels first"
        raise ValueError(f"{expected}; got {shape}; {todo}")


def feature_width(backend: FeatureBackend) -> int:
    """D, the number of columns of a backend's features."""
    return backend.levels[-1][2]


def tap_levels(config: ModelConfig, tap: str) -> dict[str, int]:
    """Level → number of its columns at a tap, in the network's order.

    Parameters
    ----------
    config : ModelConfig
        The network.
    tap : {"ga", "ga-bn-relu", "local"}
        Where the features leave the network. "local" has L1, L2 and L3 in every network.

    Examples
    --------
    >>> tap_levels(ModelConfig("vgg", width=0.25), "ga")
    {'head': 128}
    >>> tap_levels(ModelConfig("vgg", width=0.25), "local")
    {'L1': 64, 'L2': 128, 'L3': 128}
    """
    if tap != LOCAL:
        return config.feature_levels
    return {level: config.channels(width) for level, width in LEVELS.items()}


def level_columns(widths: dict[str, int], wanted: Sequence[str] | None) -> tuple[tuple[str, int, int], ...]:
    """The columns of the requested levels.

    Parameters
    ----------
    widths : dict
        Level → number of its columns, in the network's order.
    wanted : sequence of str or None
        The levels to keep; None keeps all.

    Returns
    -------
    tuple
        (name, start, stop) of each level, in the network's order.

    Raises
    ------
    UnknownNameError
        For a level that the network does not have.
    TypeError
        For a single string.

    Examples
    --------
    >>> level_columns({"L2": 512, "L3": 512}, ["L3"])
    (('L3', 0, 512),)
    """
    if isinstance(wanted, str):
        raise wrong_kind("levels", f"a list of names, such as [{wanted!r}]", wanted)
    for level in wanted or ():
        if level not in widths:
            raise unknown_name("level", level, widths)
    columns, start = [], 0
    for level, width in widths.items():
        if not wanted or level in wanted:
            columns.append((level, start, start + width))
            start += width
    return tuple(columns)


def maps_wanted(maps: Iterable[str], widths: dict[str, int], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The maps, such as ``"L2"`` or ``"L2.gate"``, of the requested levels; all maps if `wanted` is None or all
    levels."""
    whole = not wanted or set(widths) <= set(wanted)
    return tuple(name for name in maps if whole or name.split(".")[0] in (wanted or ()))
