"""Feature files of domains whose accuracies across domains are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.features.store.reader import FeatureSet
from l2a_transfer.features.store.writer import write_features
from tests.feature_files import feature_set

FOUR: dict[str, tuple[int, ...]] = {
    "plain": (0, 1, 2, 3),
    "shifted": (0, 1, 2, 3),  # the same, and an offset that no class has to do with
    "swapped": (0, 1, 3, 2),
    "turned": (1, 2, 3, 0),
}
"""Domain → the column in which each class has its signal. Fitted on one domain, a class is right in another exactly
where both have its signal in one column."""
CLASSES = ("ant", "bee", "cat", "dog")


def agreement(source: str, target: str) -> float:
    """The share of classes that are right when fitted on `source` and tested on `target`."""
    return float(np.mean(np.array(FOUR[source]) == np.array(FOUR[target])))


def domain_features(
    columns: Sequence[int], *, each: int = 12, offset: float = 0.0, spread: float = 0.05, seed: int = 0
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Labels (N,) and features (N, K + 2): each class has 1 in its column; one column is an offset, one is noise."""
    K = len(columns)
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(K, dtype=np.int32), each)
    features = spread * rng.normal(size=(len(labels), K + 2))
    features[np.arange(len(labels)), np.array(columns)[labels]] += 1
    features[:, K] = offset
    return labels, features.astype(np.float32)


def four_domains(
    *,
    model: str = "toy-model",
    spread: float = 0.05,
    names: Sequence[str] = tuple(FOUR),
    data: str = "four",
    **changes: Any,
) -> FeatureSet:
    """One file in memory with the domains of `FOUR`, all rows in one split."""
    made = [
        domain_features(
            FOUR[name], offset=3.0 if name == "shifted" else 0.0, spread=spread, seed=list(FOUR).index(name), **changes
        )
        for name in names
    ]
    labels, features = (np.concatenate(parts) for parts in zip(*made, strict=True))
    domain = np.repeat(np.arange(len(names)), [len(own) for own, _ in made])
    ids = tuple(f"{names[k]}/{row:04d}.jpg" for row, k in enumerate(domain))
    plain = feature_set(
        labels,
        features,
        model=model,
        data=data,
        classes=CLASSES,
        ids=ids,
        split=np.zeros(len(labels), dtype=np.uint8),
        splits=("all",),
    )
    meta = dataclasses.replace(plain.meta, domains=tuple(names))
    return dataclasses.replace(plain, meta=meta, domain=domain.astype(np.uint8))


def save_domains(path: Path, made: FeatureSet, **changes: Any) -> Path:
    """Write the set, with some of what is written replaced."""
    given: Mapping[str, Any] = {"labels": made.labels, "ids": made.ids, "split": made.split, "domain": made.domain}
    features = changes.pop("features", made.features)
    meta = changes.pop("meta", made.meta)
    write_features(path, meta, blocks=[features], dim=features.shape[1], **{**given, **changes})
    return path
