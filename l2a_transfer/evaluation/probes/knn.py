"""Nearest neighbours, with number and metric chosen by cross-validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from l2a_transfer.evaluation.probes.folds import prepared, prepared_folds
from l2a_transfer.evaluation.probes.registry import Groups, ProbeFit, Tick, register_probe
from l2a_transfer.svm.config import SvmConfig
from l2a_transfer.svm.grid import FoldCounts, fold_scores
from l2a_transfer.svm.rows import LazyRows

METRICS = ("cosine", "euclidean")
NEIGHBOURS = (1, 3, 5, 10, 20, 50)
Array = NDArray[np.float64]


@register_probe(
    "knn", solver="brute force", always_chooses=True, fits=lambda config: 1 + config.folds * (config.folds > 1)
)
def fit(
    features: NDArray[Any] | LazyRows, labels: NDArray[np.int32], config: SvmConfig, tick: Tick, groups: Groups
) -> ProbeFit:
    """Majority vote of the k nearest rows, with k and the metric (cosine or Euclidean) chosen by cross-validation."""
    metric, k, kept = METRICS[0], 1, None
    if config.folds > 1:
        metric, k, kept = _chosen(features, labels, config, tick, groups)
    whole = prepared(features, labels, config)
    index = NearestNeighbors(algorithm="brute").fit(_as_metric(whole.rows, metric))
    tick(1)

    def scores(rows: NDArray[Any]) -> Array:
        near = index.kneighbors(_as_metric(whole.transform(rows), metric), k, return_distance=False)
        return votes(whole.targets[near], len(whole.classes))

    return ProbeFit(
        scores,
        whole.classes,
        f"k = {k}, {metric}",
        fits=1 + config.folds * (config.folds > 1),
        components=whole.components,
        fold_components=kept,
    )


def votes(near: NDArray[np.intp], classes: int) -> Array:
    """The score (N, K) of each class: how many of the neighbours belong to it, with `near` (N, k) their classes,
    nearest first. Ties are broken by a bonus below one vote for the class whose first neighbour is nearer."""
    N, k = near.shape
    found, rows = np.zeros((N, classes)), np.arange(N)
    for place in reversed(range(k)):  # the nearest last, so that its bonus stays
        own = near[:, place]
        found[rows, own] = np.floor(found[rows, own]) + 1 + (k - place) / (k + 1)
    return found


def _chosen(
    features: NDArray[Any] | LazyRows, labels: NDArray[np.int32], config: SvmConfig, tick: Tick, groups: Groups
) -> tuple[str, int, int | None]:
    """Metric, k, and the fewest components kept by a PCA. Ties go to the first metric, then to the smallest k."""
    pairs = [(metric, k) for metric in METRICS for k in NEIGHBOURS]
    right: dict[tuple[str, int], list[int]] = {pair: [] for pair in pairs}  # in each fold
    sizes: list[int] = []
    kept, fewest = [], len(labels)
    for fold in prepared_folds(features, labels, config, groups):
        classes = int(fold.train_targets.max()) + 1
        kept += [fold.components] if fold.components is not None else []
        fewest = min(fewest, len(fold.train))
        most = min(NEIGHBOURS[-1], fewest)
        for metric in METRICS:
            index = NearestNeighbors(algorithm="brute").fit(_as_metric(fold.train, metric))
            near = index.kneighbors(_as_metric(fold.held_out, metric), most, return_distance=False)
            own = fold.train_targets[near]  # (N, most)
            for k in (k for k in NEIGHBOURS if k <= most):
                answered = votes(own[:, :k], classes).argmax(axis=1)
                right[metric, k].append(int(np.count_nonzero(answered == fold.targets)))
        sizes.append(len(fold.held_out))
        tick(1)
    possible = [pair for pair in pairs if pair[1] <= fewest]
    counts = np.array([right[pair] for pair in possible])  # (candidates, folds)
    found = fold_scores(FoldCounts(counts, np.zeros_like(counts, dtype=bool)), None if groups is None else sizes)
    metric, k = possible[found.index(max(found))]  # ties go to the first
    return metric, k, min(kept, default=None)


def _as_metric(rows: Array, metric: str) -> Array:
    """Rows whose Euclidean neighbours are those of the metric: for the cosine metric, scale rows to length 1."""
    return np.asarray(normalize(rows)) if metric == "cosine" else rows
