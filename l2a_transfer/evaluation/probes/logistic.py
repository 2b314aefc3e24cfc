"""Multinomial logistic regression, with C chosen by the same cross-validation as for the SVM."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from l2a_transfer.evaluation.probes.folds import prepared, prepared_folds
from l2a_transfer.evaluation.probes.registry import Groups, ProbeFit, Tick, register_probe
from l2a_transfer.svm.config import SvmConfig
from l2a_transfer.svm.grid import FoldCounts, GridResult, search_grid
from l2a_transfer.svm.rows import LazyRows

TOL, MAX_ITER = 1e-4, 1000
"""Defaults of L-BFGS: scikit-learn's tolerance, and ten times its iterations."""


@register_probe("logistic", solver="lbfgs", takes_c=True, fits=lambda config: config.fits)
def fit(
    features: NDArray[Any] | LazyRows, labels: NDArray[np.int32], config: SvmConfig, tick: Tick, groups: Groups
) -> ProbeFit:
    """Multinomial logistic regression with an L2 penalty, with C chosen by cross-validation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fits that stop early are counted
        grid, kept = _chosen(features, labels, config, tick, groups) if len(config.c_grid) > 1 else (None, None)
        C = config.c_grid[0] if grid is None else grid.Cs[grid.best]
        whole = prepared(features, labels, config)
        model = _model(C, config).fit(whole.rows, whole.targets)
    tick(1)

    def scores(rows: NDArray[Any]) -> NDArray[np.float64]:
        found = np.asarray(model.decision_function(whole.transform(rows)), dtype=np.float64)
        return np.stack([-found, found], axis=1) if found.ndim == 1 else found

    early = int(_stopped_early(model))
    right = () if grid is None else tuple((grid.counts.correct.sum(axis=1) / len(labels)).tolist())
    return ProbeFit(
        scores,
        whole.classes,
        f"C = {C:g}",
        C,
        grid,
        right,
        fits=1 if grid is None else 1 + grid.counts.unconverged.size,
        unconverged=early if grid is None else early + int(grid.counts.unconverged.sum()),
        components=whole.components,
        fold_components=kept,
    )


def _chosen(
    features: NDArray[Any] | LazyRows, labels: NDArray[np.int32], config: SvmConfig, tick: Tick, groups: Groups
) -> tuple[GridResult, int | None]:
    """The grid of C, and the fewest components kept by a PCA in a fold. Each fold is prepared again for every C that is
    added, so that only one fold is in memory."""
    kept: list[int] = []

    def run(Cs: Sequence[float]) -> FoldCounts:
        right = np.zeros((len(Cs), config.folds), dtype=np.int64)
        early = np.zeros((len(Cs), config.folds), dtype=bool)
        for k, fold in enumerate(prepared_folds(features, labels, config, groups)):
            kept.extend([fold.components] if fold.components is not None else [])
            for i, C in enumerate(Cs):
                model = _model(C, config).fit(fold.train, fold.train_targets)
                right[i, k] = np.count_nonzero(model.predict(fold.held_out) == fold.targets)
                early[i, k] = _stopped_early(model)
                tick(1)
        return FoldCounts(right, early)

    # In fold order, which is the order of the sorted groups.
    sizes = None if groups is None else np.unique(groups, return_counts=True)[1].tolist()
    return search_grid(run, config.c_grid, decades=config.decades, sizes=sizes), min(kept, default=None)


def _model(C: float, config: SvmConfig) -> LogisticRegression:
    return LogisticRegression(C=C, tol=config.tol or TOL, max_iter=config.max_iter or MAX_ITER)


def _stopped_early(model: LogisticRegression) -> bool:
    return bool(np.max(model.n_iter_) >= model.max_iter)
