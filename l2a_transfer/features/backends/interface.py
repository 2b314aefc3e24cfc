"""What a backend is: uint8 pixels in, features and attention maps out, and all that decides their bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import unknown_name, wrong_kind
from l2a_transfer.preprocess import Preprocess

TAPS = ("ga", "ga-bn-relu")


@dataclass(frozen=True)
class Computed:
    """One batch: `features` float32 (B, D), and where they were asked for, `maps`: level → float16 (B, H, W)."""

    features: NDArray[np.float32]
    maps: dict[str, NDArray[np.float16]] = field(default_factory=dict)


class FeatureBackend(Protocol):
    """Turns uint8 pixels into features, and knows everything that decides their bytes. All can be pickled.

    `card`: the model's card as JSON; `levels`: (name, start, stop) of each piece of the feature's columns;
    `map_levels`: the levels that it has attention maps of.
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
        """uint8 (B, 3, size, size) → float32 (B, D). Raises: as `check_pixels`."""

    def stream(self, batches: Iterable[NDArray[np.uint8]], *, attention: bool = False) -> Iterator[Computed]:
        """Each batch's features, in order, and its maps with `attention`; transfers run beside the computation."""

    def identity(self) -> dict[str, Any]:
        """What decides the bytes of a feature beside the pictures and the batch size, this machine too; flat JSON."""


def is_backend(model: object) -> TypeGuard[FeatureBackend]:
    """True for what has a feature backend's interface."""
    return all(hasattr(model, name) for name in ("stream", "identity", "preprocess"))


def check_pixels(images_u8: NDArray[np.uint8], preprocess: Preprocess) -> None:
    """Pixels as a backend takes them, uint8 (B, 3, size, size), channels first.

    Nothing is converted: 0…1 and 0…255, or rows and channels, cannot be told apart from the numbers alone. Raises:
    TypeError for another kind of object or of numbers, ValueError for another shape; both say what to do.
    """
    size = preprocess.size
    expected = f"pixels must be a NumPy array, uint8 0…255, (B, 3, {size}, {size})"
    resized = "np.stack([backend.preprocess.pixels(image) for image in images]) makes them of Pillow's RGB images"
    if not isinstance(images_u8, np.ndarray):
        raise TypeError(f"{expected}; got {type(images_u8).__name__}; {resized}, and tensor.numpy() of a tensor")
    shape = images_u8.shape
    if images_u8.dtype != np.uint8:
        todo = "np.rint(255 * x).astype(np.uint8) makes them of numbers between 0 and 1"
        raise TypeError(f"{expected}; got {images_u8.dtype} {shape}; {todo}; mean and std are subtracted here")
    if shape[1:] != (3, size, size):
        todo = resized
        if shape[1:] == (size, size, 3):
            todo = "channels come first: x.transpose(0, 3, 1, 2)"
        elif shape in ((3, size, size), (size, size, 3)):
            todo = "one image is a batch of one: x[None], channels first"
        raise ValueError(f"{expected}; got {shape}; {todo}")


def feature_width(backend: FeatureBackend) -> int:
    """D, the number of columns of a backend's features."""
    return backend.levels[-1][2]


def level_columns(widths: dict[str, int], wanted: Sequence[str] | None) -> tuple[tuple[str, int, int], ...]:
    """(name, start, stop) of the wanted levels, tiling the columns in the network's order.

    Raises: UnknownNameError for a level that the network does not have; TypeError for one string.
    """
    if isinstance(wanted, str):
        raise wrong_kind("levels", f"a list of names, as [{wanted!r}]", wanted)
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
    """The levels whose maps go with the wanted levels: all of them where no level, or every level, is wanted."""
    whole = not wanted or set(widths) <= set(wanted)
    return tuple(level for level in maps if whole or level in (wanted or ()))
