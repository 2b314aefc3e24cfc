"""Nearest class mean, which has no hyper-parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.evaluation.probes.folds import prepared
from l2a_transfer.evaluation.probes.registry import Groups, ProbeFit, Tick, register_probe
from l2a_transfer.svm.config import SvmConfig
from l2a_transfer.svm.rows import LazyRows


@register_probe("ncm", solver="closed form")
def fit(
    features: NDArray[Any] | LazyRows, labels: NDArray[np.int32], config: SvmConfig, tick: Tick, groups: Groups
) -> ProbeFit:
    """The class with the nearest mean of training rows (Euclidean distance, standardised columns)."""
    whole = prepared(features, labels, config)
    means = np.stack([whole.rows[whole.targets == k].mean(axis=0) for k in range(len(whole.classes))])  # (K, D)
    tick(1)

    def scores(rows: NDArray[Any]) -> NDArray[np.float64]:
        x = whole.transform(rows)
        # −‖x − mean‖²: the nearer the mean, the higher the score.
        return np.asarray(2 * x @ means.T - (means**2).sum(axis=1) - (x**2).sum(axis=1, keepdims=True))

    return ProbeFit(scores, whole.classes, components=whole.components)
