"""The masks that ship with the package; `masks` accepts the name of their data set."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2a_transfer.data.mask_pictures import indices, size_error
from l2a_transfer.data.masks import Annotation, NoObjectError, register_masks
from l2a_transfer.data.sets import AIRPLANES_MINI

FOLDER = "masks/"


@dataclass(frozen=True)
class ZipMasks:
    """Masks in the zip file of a bundled set, one bit per pixel; `name` is the name of the set."""

    name: str
    path: Path
    keys: Sequence[str]

    def read(self, key: str, size: tuple[int, int], wanted: str | None) -> Annotation:
        """See `MaskSource.read`; all objects have the same class."""
        with zipfile.ZipFile(self.path) as file:
            values, background = indices(file.read(FOLDER + key), key)  # (H, W)
        if values.shape != size[::-1]:
            raise size_error(key, values.shape, size)
        if background.all():
            raise NoObjectError(f"{key}: a mask without foreground")
        return Annotation(~background, np.zeros(values.shape, dtype=np.bool_))


@register_masks("airplanes-mini", takes="")
def airplanes(_: Path) -> ZipMasks:
    """The masks of airplanes-mini."""
    with zipfile.ZipFile(AIRPLANES_MINI) as file:
        found = [member.removeprefix(FOLDER) for member in file.namelist() if member.startswith(FOLDER)]
    return ZipMasks("airplanes-mini", AIRPLANES_MINI, found)
