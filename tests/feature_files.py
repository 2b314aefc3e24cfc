"""Small feature files for the evaluation's tests: blobs around class centres, with labels, ids and splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.features.store.reader import FeatureSet
from l2a_transfer.features.store.schema import FeatureMeta
from l2a_transfer.features.store.writer import write_features


def blobs(
    labels: NDArray[np.int32], *, dim: int = 6, spread: float = 1.0, seed: int = 0, dtype: str = "float32"
) -> NDArray[Any]:
    """Features (N, D): each class around a centre of its own, `spread` wide."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(int(labels.max()) + 2, dim))  # the last one is for label -1
    return (centres[labels] + spread * rng.normal(size=(len(labels), dim))).astype(dtype)


def labels_of(classes: int, each: int) -> NDArray[np.int32]:
    return np.tile(np.arange(classes, dtype=np.int32), each)


def halves(rows: int, classes: int) -> NDArray[np.uint8]:
    """Split of rows from `labels_of`: the first half of each class trains (0), the second tests (1)."""
    return (np.arange(rows) // classes >= rows // classes // 2).astype(np.uint8)


def meta_of(*, model: str, data: str, classes: tuple[str, ...], splits: tuple[str, ...], dim: int) -> FeatureMeta:
    return FeatureMeta(
        data=data,
        classes=classes,
        splits=splits,
        levels=(("L3", 0, dim),),
        card={"name": model},
        preprocess={},
        tap="ga",
        precision="fp32",
        backend="torch",
        fingerprint={"model": model, "data": data},
    )


def feature_set(
    labels: NDArray[np.int32],
    features: NDArray[Any] | None = None,
    *,
    model: str = "toy-model",
    data: str = "toy",
    classes: tuple[str, ...] | None = None,
    ids: tuple[str, ...] | None = None,
    split: NDArray[np.uint8] | None = None,
    splits: tuple[str, ...] = ("train", "test"),
    path: Path = Path("toy.h5"),
) -> FeatureSet:
    """A feature file's content in memory; halves of each class train and test where `split` is not given."""
    names = classes or tuple(f"class {k}" for k in range(int(labels.max()) + 1))
    array = blobs(labels) if features is None else features
    return FeatureSet(
        path=path,
        meta=meta_of(model=model, data=data, classes=names, splits=splits, dim=array.shape[1]),
        features=array,
        labels=labels,
        ids=ids or tuple(f"img/{row:05d}.jpg" for row in range(len(labels))),
        split=halves(len(labels), len(names)) if split is None else split,
    )


def save(path: Path, features: FeatureSet) -> Path:
    """Writes the set as a feature file at `path`."""
    write_features(
        path,
        features.meta,
        labels=features.labels,
        ids=features.ids,
        split=features.split,
        blocks=[features.features],
        dim=features.features.shape[1],
        dtype=str(features.features.dtype),
    )
    return path
