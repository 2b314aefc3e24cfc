"""Masks as pictures of indices: a folder of files in PNG or another lossless format, with the pictures' names."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.data.decode import DAMAGED
from l2a_transfer.data.masks import Annotation, NoObjectError, class_number, files_below, register_masks
from l2a_transfer.data.picture_structure import format_of, is_simple
from l2a_transfer.errors import DataError, unknown_name
from l2a_transfer.inputs import read_input

SUFFIXES = (".png", ".bmp", ".gif")
FORMATS = ("PNG", "BMP", "GIF")
MAX_FILE_BYTES = 64 << 20
IGNORED = 255
"""The index in a VOC palette for the borders of objects and for unclear pixels."""
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The classes of a VOC palette, from index 1."""


@dataclass(frozen=True)
class MaskPictures:
    """Masks as pictures below `root`. `classes`: names of the indices from 1; `ignored`: the index to ignore."""

    root: Path
    keys: Sequence[str]
    classes: tuple[str, ...] = ()
    ignored: int | None = None

    @property
    def name(self) -> str:
        return str(self.root)

    def read(self, key: str, size: tuple[int, int], wanted: str | None) -> Annotation:
        """See `MaskSource.read`."""
        path = self.root / key
        values, background = read_indices(path)  # (H, W)
        if values.shape != size[::-1]:
            raise size_error(str(path), values.shape, size)
        ignored = values == self.ignored if self.ignored is not None else np.zeros(values.shape, dtype=np.bool_)
        foreground = ~background & ~ignored if wanted is None else values == self._index(wanted)
        if not foreground.any():
            of = "" if wanted is None else f" of class {wanted!r}"
            raise NoObjectError(f"{path}: a mask without foreground{of}")
        return Annotation(foreground, ignored & ~foreground)

    def _index(self, wanted: str) -> int:
        number = class_number(wanted)
        if number is not None:
            return number
        if wanted not in self.classes:
            raise unknown_name("mask_class", wanted, self.classes or ("a number, as 1",))
        return self.classes.index(wanted) + 1


def read_indices(path: Path) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The stored values of a mask, (H, W), and which of them are background.

    Values are palette indices or grey levels; in a colour mask, they are 1 where it is not black. The background is 0,
    or black if the palette has another colour at index 0.

    Raises
    ------
    DataError
        If the file cannot be read, is corrupt, has a lossy format, or is larger than a mask needs to be.
    """
    try:
        content = read_input(path, MAX_FILE_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}", "replace the file") from error
    return indices(content, str(path))


def size_error(name: str, shape: tuple[int, ...], size: tuple[int, int]) -> DataError:
    """The error for a mask (H, W) whose size differs from that of its picture (W, H)."""
    return DataError(
        f"{name}: the mask has {shape[1]} × {shape[0]} pixels, but its picture has {size[0]} × {size[1]}",
        "save the mask at the picture's size, without interpolation",
    )


def indices(content: bytes, path: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Same as `read_indices`, for the content of a file; `path` is its name in errors."""
    kind = format_of(content)
    if kind not in FORMATS:
        raise DataError(f"{path}: not a mask; supported formats are {', '.join(FORMATS)}", "save it as PNG")
    if not is_simple(content, kind):
        raise DataError(
            f"{path}: decoding this mask could take long; it is corrupt, has metadata, or more than 32 million pixels",
            "save it again as PNG",
        )
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            image.load()
            mode, values = image.mode, np.asarray(image)
            palette = np.array((image.getpalette() if mode == "P" else None) or [0, 0, 0]).reshape(-1, 3)
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: corrupt or truncated mask: {error}", "replace the file") from error
    if mode in ("LA", "RGBA"):
        values = values[..., :-1]
    if values.ndim == 3:  # colours instead of indices
        values = values[..., 0] if values.shape[2] == 1 else np.asarray(values.any(axis=2))
    found: NDArray[np.int64] = values.astype(np.int64)
    black = np.flatnonzero(~palette.any(axis=1))
    return found, np.isin(found, black) if len(black) and 0 not in black else found == 0


@register_masks("png", takes="FOLDER")
def read_png_folder(path: Path) -> MaskPictures:
    """Masks whose background is 0."""
    return MaskPictures(path, files_below(path, SUFFIXES))


@register_masks("voc", takes="FOLDER")
def read_voc_folder(path: Path) -> MaskPictures:
    """Masks with VOC's indices: 0 background, 1 to 20 classes, 255 ignored."""
    return MaskPictures(path, files_below(path, SUFFIXES), VOC_CLASSES, IGNORED)
