"""The images of a check: pictures or a data set at one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.decode import decode_file
from l2a_transfer.data.folders import find_pictures
from l2a_transfer.data.loader import pixel_batches
from l2a_transfer.data.selection import select
from l2a_transfer.data.sources import ImageSource
from l2a_transfer.errors import ArgumentError, DataError
from l2a_transfer.preprocess import Preprocess

TEST_SPLITS = ("test", "val", "valid")


@dataclass(frozen=True, eq=False)
class Pictures:
    """N images resized for a network, before normalisation.

    Parameters
    ----------
    name : str
        Source of the images.
    ids : tuple of str
        Names of the images.
    images_u8 : ndarray (N, 3, side, side)
        Pixels of the images, uint8.
    """

    name: str
    ids: tuple[str, ...]
    images_u8: NDArray[np.uint8]


def pictures_of(source: ImageSource, preprocess: Preprocess, *, limit: int) -> Pictures:
    """At most `limit` images of a data set, spread evenly over its classes; from the test split if there are several
    splits.

    Raises: ArgumentError for a limit below 1; DataError for an image that cannot be read.
    """
    if len(source.splits) > 1:
        source = select(source, split=next((name for name in TEST_SPLITS if name in source.splits), source.splits[0]))
    source = select(source, limit=limit)
    (batch,) = pixel_batches(source, preprocess, [range(len(source))])
    return Pictures(source.name, source.ids, batch.images_u8)


def pictures_in(paths: Sequence[Path], preprocess: Preprocess, *, limit: int) -> Pictures:
    """At most `limit` of the pictures, spread evenly; for a folder, all pictures in it and its sub-folders.

    Raises: ArgumentError for a limit below 1; DataError for a file that is not a picture, and a folder without any.
    """
    if limit < 1:
        raise ArgumentError(f"limit must be at least 1, got {limit}")
    all_ = [picture for path in paths for picture in _pictures(path)]
    kept = [all_[k * len(all_) // limit] for k in range(limit)] if len(all_) > limit else all_
    pixels = np.stack([preprocess.pixels(decode_file(path)) for path in kept])
    return Pictures(f"{len(kept)} pictures" if len(kept) > 1 else kept[0].name, tuple(map(str, kept)), pixels)


def _pictures(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [path / name for name in sorted(find_pictures(path)[0])]
    if not found:
        raise DataError(f"{path}: the folder has no pictures; name another, or a picture")
    return found
