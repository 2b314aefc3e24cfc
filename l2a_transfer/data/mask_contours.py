"""Caltech-101's contours: one MATLAB file per picture, with a box and an outline."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.masks import Annotation, NoObjectError, checked_boxes, files_below, register_masks
from l2a_transfer.data.polygons import filled
from l2a_transfer.errors import ArgumentError, DataError

FOLDERS = {"Airplanes_Side_2": "airplanes", "Motorbikes_16": "Motorbikes", "Faces_2": "Faces", "Faces_3": "Faces_easy"}
"""Folders of annotations → folders of pictures, if their names differ."""
OUTLINE_BEYOND = 3.0
"""How many pixels a hand-drawn contour may extend beyond its picture, where it is cropped."""


@dataclass(frozen=True)
class Contours:
    """Outlines below `root`: key, which is the picture's name → file."""

    root: Path
    files: dict[str, str]

    @property
    def name(self) -> str:
        return str(self.root)

    @property
    def keys(self) -> Sequence[str]:
        return tuple(self.files)

    def read(self, key: str, size: tuple[int, int], wanted: str | None) -> Annotation:
        """See `MaskSource.read`."""
        if wanted is not None:
            raise ArgumentError(
                f"mask_class {wanted!r} cannot be used with caltech, because contours have no classes", "leave it out"
            )
        path = self.root / self.files[key]
        box, outline = read_contour(path)
        W, H = size
        corners = outline + box[:2]
        beyond = max(-corners.min(), *(corners - [W, H]).max(axis=0))
        if beyond > OUTLINE_BEYOND:
            raise DataError(f"{path}: the contour extends {beyond:.0f} pixels beyond the picture of {W} × {H} pixels")
        foreground = filled(np.clip(corners, 0.0, [W, H]), size, str(path))
        if not foreground.any():
            raise NoObjectError(f"{path}: an empty contour")
        boxes = checked_boxes(np.clip(box, 0.0, [W, H, W, H])[None], size, str(path))
        return Annotation(foreground, np.zeros_like(foreground), boxes)


def read_contour(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The box as x1, y1, x2, y2, and the corners (n, 2) of the outline relative to its upper left corner.

    MATLAB counts pixels from 1 at their centres. Here, the upper left corner of the picture is (0, 0).

    Raises
    ------
    DataError
        If the file is not an annotation of Caltech-101.
    """
    from l2a_transfer.data.torchvision_files import read_mat

    try:
        found = read_mat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}", "replace the file") from error
    except (ValueError, zlib.error) as error:
        raise DataError(f"{path}: not an annotation of Caltech-101: {error}", "replace the file") from error
    box, outline = found.get("box_coord"), found.get("obj_contour")
    if (
        not isinstance(box, np.ndarray)
        or not isinstance(outline, np.ndarray)
        or box.size != 4
        or outline.size < 6
        or outline.size % 2
    ):
        raise DataError(
            f"{path}: must have 'box_coord' with 4 numbers and 'obj_contour' with corners", "replace the file"
        )
    top, bottom, left, right = box.astype(np.float64).tolist()
    corners = outline.astype(np.float64).reshape(-1, 2)  # columns of MATLAB's 2 × n
    if not np.isfinite(box.astype(np.float64)).all() or not np.isfinite(corners).all():
        raise DataError(f"{path}: has numbers that are not finite", "replace the file")
    return np.array([left - 1, top - 1, right, bottom]), corners + 0.5


@register_masks("caltech", takes="FOLDER")
def read_contours(path: Path) -> Contours:
    """Caltech-101's `Annotations` folder: `airplanes/image_0001` → `Airplanes_Side_2/annotation_0001.mat`."""
    found = {}
    for name in files_below(path, (".mat",)):
        folder, _, file = name.rpartition("/")
        first, slash, rest = folder.rpartition("/")
        own = f"{first}{slash}{FOLDERS.get(rest, rest)}" if folder else FOLDERS.get(path.name, "")
        stem = re.sub(r"^annotation_", "image_", file)
        found[f"{own}/{stem}" if own else stem] = name
    return Contours(path, found)
