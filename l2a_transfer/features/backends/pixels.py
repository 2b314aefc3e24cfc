"""Features without a network: the pixels themselves, the baseline that every network must beat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.devices import choose_device
from l2a_transfer.features.backends.interface import Computed, backend_repr, check_pixels, level_columns
from l2a_transfer.features.backends.registry import register_backend
from l2a_transfer.preprocess import Preprocess


class PixelsBackend:
    """The pixels divided by 255, channel by channel: the baseline that every network must beat."""

    name, device, precision, tap = "pixels", "cpu", "fp32", "ga"

    def __init__(self, preprocess: Preprocess | None = None) -> None:
        self.preprocess = preprocess or Preprocess()
        self.card: dict[str, Any] = {"name": "pixels"}
        self.levels: tuple[tuple[str, int, int], ...] = (("pixels", 0, 3 * self.preprocess.size**2),)
        self.map_levels: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return backend_repr(self)

    def features(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        check_pixels(images_u8, self.preprocess)
        return images_u8.reshape(len(images_u8), self.levels[-1][2]).astype(np.float32) / np.float32(255)

    def stream(self, batches: Iterable[NDArray[np.uint8]], *, attention: bool = False) -> Iterator[Computed]:
        for images_u8 in batches:
            yield Computed(self.features(images_u8))

    def identity(self) -> dict[str, Any]:
        return {"model": "pixels", "weights": ""}


@register_backend(
    "pixels", models="pixels", names=("pixels",), options=("device", "levels", "image_size", "fit", "decode")
)
def open_pixels(
    model: str,
    *,
    device: str,
    levels: Sequence[str] | None,
    image_size: int | None,
    fit: str | None,
    decode: str | None,
) -> PixelsBackend:
    """The pixels of the pictures. Raises: DeviceError for an unavailable device; UnknownNameError for a level."""
    choose_device(device)
    backend = PixelsBackend(Preprocess().changed(image_size, fit, decode))
    level_columns({"pixels": backend.levels[0][2]}, levels)
    return backend
