"""The feature file: one HDF5 file per model and data set, sealed by a checksum. `docs/format.md` specifies it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import StoreError, names_keywords
from l2a_transfer.features.store.schema import AGAIN, SEAL, USER_BLOCK, FeatureMeta
from l2a_transfer.features.store.sealed import (
    OpenedStore,
    Stamp,
    check_finite,
    check_same,
    is_feature_file,
    open_store,
    read_block,
    sha256_of,
)
from l2a_transfer.features.store.shown import features_html, features_repr
from l2a_transfer.features.store.writer import write_features

__all__ = [
    "SEAL",
    "USER_BLOCK",
    "FeatureMeta",
    "FeatureSet",
    "OpenedStore",
    "Stamp",
    "check_finite",
    "check_same",
    "is_feature_file",
    "open_store",
    "read_block",
    "read_features",
    "read_maps",
    "read_meta",
    "sha256_of",
    "write_features",
]


@dataclass(frozen=True)
class FeatureSet:
    """A feature file in memory.

    Parameters
    ----------
    path : Path
        Path of the file.
    meta : FeatureMeta
        What its rows and columns mean, and how they were made.
    features : ndarray
        (N, D), float32 or float16, all finite.
    labels : ndarray
        (N,), int32, an index into `meta.classes`; −1 for an image without a label.
    ids : tuple of str
        N different names.
    split : ndarray
        (N,), uint8, an index into `meta.splits`.
    domain : ndarray, optional
        (N,), uint8 or uint16, an index into `meta.domains`; None if the file has no domains.
    """

    path: Path
    meta: FeatureMeta
    features: NDArray[Any]
    labels: NDArray[np.int32]
    ids: tuple[str, ...]
    split: NDArray[np.uint8]
    domain: NDArray[np.uint8 | np.uint16] | None = None

    def __repr__(self) -> str:
        return features_repr(self, self.path, self.meta, self.features.shape, self.features.dtype)

    def _repr_html_(self) -> str:
        return features_html(self.path, self.meta, self.features.shape, self.features.dtype)


@names_keywords
def read_features(path: str | Path) -> FeatureSet:
    """Read a feature file into memory. Every byte of it is verified first.

    Parameters
    ----------
    path : str or Path
        A file written by `extract`, `write_features` or `import_features`.

    Returns
    -------
    FeatureSet
        Its N rows.

    Raises
    ------
    StoreError
        If the file is truncated, incomplete, changed, or written by another program or with another schema, if it links
        to other files, or if its features are not finite. The message contains the path.

    Examples
    --------
    >>> import l2a_transfer
    >>> source = l2a_transfer.open_source("digits", limit=20)
    >>> result = l2a_transfer.extract(source, "untrained:vgg-gap@0.03125", "features.h5", progress=False)
    >>> l2a_transfer.read_features(result.path).features.shape
    (20, 16)
    """
    path = Path(path)
    store = open_store(path)
    with store.file:
        values = read_block(path, store.features, 0, len(store.ids))
    check_finite(path, values, store.ids)
    return FeatureSet(path, store.meta, values, store.labels, store.ids, store.split, store.domain)


def read_maps(path: str | Path) -> dict[str, NDArray[np.float16]]:
    """Read the attention maps of a feature file. Every byte of it is verified first.

    Parameters
    ----------
    path : str or Path
        A feature file.

    Returns
    -------
    dict
        Level → float16 (N, H, W); empty if the file has no maps.

    Raises
    ------
    StoreError
        In the same cases as `read_features`, and if weights are not between 0 and 1.
    """
    path = Path(path)
    store = open_store(path)
    with store.file:
        maps = {
            level: read_block(path, found, 0, len(store.ids), f"maps/{level}") for level, found in store.maps.items()
        }
    for level, values in maps.items():
        if not ((values >= 0) & (values <= 1)).all():
            raise StoreError(f"{path}: /maps/{level} has weights that are not between 0 and 1", AGAIN)
    return maps


def read_meta(path: str | Path) -> tuple[FeatureMeta, int, int]:
    """Read the description of a feature file. Everything except the values of the features is verified.

    Parameters
    ----------
    path : str or Path
        A feature file.

    Returns
    -------
    tuple of FeatureMeta, int, int
        The description, the number of rows N and the number of columns D.

    Raises
    ------
    StoreError
        In the same cases as `read_features`, except for the values of the features.
    """
    store = open_store(Path(path))
    with store.file:
        return store.meta, len(store.labels), int(store.features.shape[1])
