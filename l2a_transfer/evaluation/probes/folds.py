"""Training rows as probes see them: normalised, and divided into folds for choosing hyper-parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer

from l2a_transfer.errors import EvaluationError
from l2a_transfer.svm.config import SvmConfig
from l2a_transfer.svm.fitting import kept_components, preparation, splitter
from l2a_transfer.svm.rows import LazyRows

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PreparedFold:
    """One fold. Scaler and PCA were fitted on its training part. `components`: how many the PCA kept; None without a
    PCA."""

    train: Array
    train_targets: NDArray[np.intp]
    held_out: Array
    targets: NDArray[np.intp]
    components: int | None


@dataclass(frozen=True)
class Prepared:
    """All training rows as the probe sees them, (N, D'); `targets` (N,) are indices into `classes` (K,)."""

    rows: Array
    targets: NDArray[np.intp]
    classes: NDArray[np.int32]
    steps: Pipeline

    @property
    def components(self) -> int | None:
        return kept_components(self.steps)

    def transform(self, features: NDArray[Any]) -> Array:
        return np.asarray(self.steps.transform(_as_float64(features)), dtype=np.float64)


def prepared(features: NDArray[Any] | LazyRows, labels: NDArray[np.int32], config: SvmConfig) -> Prepared:
    """Fit scaler and PCA on all training rows. Raises: EvaluationError for a single class."""
    classes, targets = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise EvaluationError(f"a probe needs training rows of at least two classes, got {len(classes)}")
    matrix = _in_memory(features)
    steps = _steps(config, *matrix.shape)
    return Prepared(steps.fit_transform(matrix), targets, classes.astype(np.int32), steps)


def prepared_folds(
    features: NDArray[Any] | LazyRows,
    labels: NDArray[np.int32],
    config: SvmConfig,
    groups: NDArray[np.integer[Any]] | None = None,
) -> Iterator[PreparedFold]:
    """The folds on which the SVM also chooses C, one at a time: stratified, or with `groups` (N,), one group held out
    after the other, in ascending order. Raises: EvaluationError for a class with fewer rows than stratified folds."""
    matrix, targets = _in_memory(features), np.unique(labels, return_inverse=True)[1]
    if groups is None and np.bincount(targets).min() < config.folds:
        raise EvaluationError(
            f"{config.folds} folds need as many training rows of each class, the smallest has "
            f"{np.bincount(targets).min()}",
            "use fewer `folds`",
        )
    for train, held_out in splitter(config, groups).split(np.zeros((len(labels), 1)), labels, groups):
        steps = _steps(config, len(train), matrix.shape[1])
        x_train = steps.fit_transform(matrix[train])
        x_held_out = steps.transform(matrix[held_out])
        yield PreparedFold(x_train, targets[train], x_held_out, targets[held_out], kept_components(steps))


def _steps(config: SvmConfig, rows: int, columns: int) -> Pipeline:
    first = [("l2", Normalizer())] if config.normalization == "l2" else []
    return Pipeline([*first, *preparation(config, rows, columns).steps])


def _in_memory(features: NDArray[Any] | LazyRows) -> Array:
    if isinstance(features, LazyRows):
        raise TypeError("this probe needs its rows in memory")
    return _as_float64(features)


def _as_float64(features: NDArray[Any]) -> Array:
    return np.ascontiguousarray(features, dtype=np.float64)
