"""A linear SVM with C chosen by cross-validation on the training rows; this module never sees test rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from l2a_transfer.errors import EvaluationError
from l2a_transfer.svm.components import OVERSAMPLING, LeadingComponents
from l2a_transfer.svm.config import SvmConfig
from l2a_transfer.svm.estimators import BatchedLinearSVC, LinearSVCPath
from l2a_transfer.svm.grid import FoldCounts, GridResult, search_grid
from l2a_transfer.svm.rows import Fold, LazyRows
from l2a_transfer.svm.shared_fits import SharedFits

EXACT_PCA = 500
"""Up to this number of rows or columns, whichever is smaller, scikit-learn's exact PCA is fast."""
LIBLINEAR_BYTES = 16
"""Bytes per number in LIBLINEAR's own copy of the rows."""


@dataclass(frozen=True)
class SvmFit:
    """The classifier, refitted on all training rows with the chosen C.

    `grid`: the candidates, including added ones, and their held-out counts; None if a single C was given, which is used
    without cross-validation. `components`: how many PCA kept on the training rows; `fold_components`: the fewest in a
    fold; None without PCA. `rows`: number of training rows.
    """

    classifier: Any
    C: float
    grid: GridResult | None
    fits: int
    unconverged: int
    components: int | None
    fold_components: int | None
    rows: int

    @property
    def cv_accuracy(self) -> tuple[float, ...]:
        """For each candidate of `grid`, the share of training rows classified correctly while held out."""
        if self.grid is None:
            return ()
        return tuple((self.grid.counts.correct.sum(axis=1) / self.rows).tolist())

    def scores(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Scores (N, K) in the order of `classes`; with two classes, −s and s."""
        found = np.asarray(self.classifier.decision_function(_as_float64(features)))
        return np.stack([-found, found], axis=1) if found.ndim == 1 else found

    @property
    def classes(self) -> NDArray[np.int32]:
        """The labels (K,) of the training rows, sorted."""
        return np.asarray(self.classifier.classes_, dtype=np.int32)

    def predict(self, features: NDArray[np.floating[Any]]) -> NDArray[np.int32]:
        """Labels (N,) of features (N, D)."""
        return np.asarray(self.classifier.predict(_as_float64(features)), dtype=np.int32)


def fit_svm(
    features: NDArray[np.floating[Any]] | LazyRows,
    labels: NDArray[np.int32],
    config: SvmConfig,
    *,
    groups: NDArray[np.integer[Any]] | None = None,
    tick: Callable[[float], Any] | None = None,
) -> SvmFit:
    """Choose C by stratified cross-validation on the training rows, and refit with it on all of them.

    Scaler and PCA are fitted inside each fold, on that fold's training part. Ties in the number of correct held-out
    rows go to the smaller C. Features are first cast to float64: means and scales of float16 or float32 columns could
    overflow or lose digits.

    Parameters
    ----------
    features : ndarray or LazyRows, shape (N, D)
        Training rows. `LazyRows` are read in blocks if they do not fit into `max_memory`; this requires the batched
        solver, and columns that are standardised or unchanged.
    labels : ndarray of int32, shape (N,)
    config : SvmConfig
    groups : ndarray of int, shape (N,), optional
        If given, every fold holds out one group, all groups have the same weight, and `config.folds` is their number.
    tick : callable, optional
        Called with n after every n fits, by one thread at a time, which may be another one.

    Returns
    -------
    SvmFit

    Raises
    ------
    EvaluationError
        If there is only one class, or a class has fewer rows than folds.
    ValueError
        If there is only one group.
    """
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2:
        raise EvaluationError(f"an SVM needs training rows of at least two classes, got {len(counts)}")
    if groups is None and len(config.c_grid) > 1 and counts.min() < config.folds:
        raise EvaluationError(
            f"{config.folds} folds need as many training rows of each class, the smallest has {counts.min()}; "
            "use fewer folds"
        )
    matrix = features if isinstance(features, LazyRows) else _as_float64(features)  # (N, D)
    if config.normalization == "l2" and not isinstance(matrix, LazyRows):
        matrix = Normalizer().fit_transform(matrix)
    report = tick or (lambda _: None)
    with warnings.catch_warnings():
        # Fits that stop early are counted; the filter is set here because threads share it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if config.solver == "batched" and config.components is None:
            return _fit_shared(matrix, labels, groups, config, report)
        assert not isinstance(matrix, LazyRows)
        return _fit_prepared(matrix, labels, groups, config, report)


def memory_of_fit(N: int, D: int, config: SvmConfig) -> int:
    """Least memory in bytes that `fit_svm` needs for an array (N, D): its float64 copies of rows, and those of
    liblinear.

    The batched solver adapts to the memory left beside them (see `memory`).
    """
    matrix = 8 * N * D
    if config.solver == "batched" and config.components is None:
        return matrix * (2 if config.normalization == "l2" else 1)
    columns = min(config.components or D, D)
    kept = 8 * N * columns * (1 + (config.folds if len(config.c_grid) > 1 else 0))
    own = LIBLINEAR_BYTES * N * columns * config.jobs if config.solver == "liblinear" else 0
    prepared = matrix * (2 if config.components is None else 3)  # fold, scaled, and centred for the PCA
    return matrix + kept + max(own, prepared)


def _fit_shared(
    matrix: Any,
    labels: NDArray[np.int32],
    groups: NDArray[np.integer[Any]] | None,
    config: SvmConfig,
    report: Callable[[float], Any],
) -> SvmFit:
    """Fit folds that all share one matrix, without copies."""
    own = {"standardize": config.normalization == "standardize", **_batched_settings(config)}
    if len(config.c_grid) == 1:
        C, grid = config.c_grid[0], None
        svm = BatchedLinearSVC(C, **own).fit(matrix, labels)
    else:
        classes = len(np.unique(labels))
        columns = 1 if classes == 2 else classes
        path = LinearSVCPath(config.c_grid, cv=splitter(config, groups), decades=config.decades, **own)
        path.fit(matrix, labels, groups=groups, tick=lambda n: report(n / columns))
        C, grid, svm = path.best_params_["C"], path.grid_, path.best_estimator_
    report(1)
    return _result(svm, svm, C, grid, config, len(labels))


def _fit_prepared(
    matrix: NDArray[np.float64],
    labels: NDArray[np.int32],
    groups: NDArray[np.integer[Any]] | None,
    config: SvmConfig,
    report: Callable[[float], Any],
) -> SvmFit:
    """Fit folds that each have their own matrix, as liblinear and PCA require.

    The PCA of all rows is computed first, because the PCA of each fold may start from its directions.
    """
    grid, kept = None, []
    steps = preparation(config, *matrix.shape)
    x_all = steps.fit_transform(matrix)
    if len(config.c_grid) > 1:
        run = _liblinear_counts if config.solver == "liblinear" else _batched_counts
        folds = splitter(config, groups).split(np.zeros((len(labels), 1)), labels, groups)
        prepared = [_prepare(matrix, train, held_out, config, steps) for train, held_out in folds]
        kept = [fold.components for fold in prepared if fold.components is not None]
        sizes = None if groups is None else [len(fold.held_out) for fold in prepared]
        grid = search_grid(
            lambda Cs: run(prepared, labels, Cs, config, report), config.c_grid, decades=config.decades, sizes=sizes
        )
    C = config.c_grid[0] if grid is None else grid.Cs[grid.best]
    svm = _svm(C, config).fit(x_all, labels)
    classifier = Pipeline([*steps.steps, ("svm", svm)])
    report(1)
    fit = _result(classifier, svm, C, grid, config, len(labels))
    return replace(fit, components=kept_components(steps), fold_components=min(kept, default=None))


def _result(classifier: Any, svm: Any, C: float, grid: GridResult | None, config: SvmConfig, rows: int) -> SvmFit:
    if config.normalization == "l2":
        classifier = Pipeline([("l2", Normalizer()), ("classifier", classifier)])
    fits, unconverged = 1, int(_stopped_early(svm))
    if grid is not None:
        fits, unconverged = fits + grid.counts.unconverged.size, unconverged + int(grid.counts.unconverged.sum())
    return SvmFit(classifier, C, grid, fits, unconverged, None, None, rows)


@dataclass(frozen=True)
class _Prepared:
    """One fold: its training and held-out rows, and their features as input of the SVM."""

    train: NDArray[np.intp]
    held_out: NDArray[np.intp]
    x_train: NDArray[np.float64]
    x_held_out: NDArray[np.float64]
    components: int | None


def _prepare(
    matrix: NDArray[np.float64],
    train: NDArray[np.intp],
    held_out: NDArray[np.intp],
    config: SvmConfig,
    of_all: Pipeline,
) -> _Prepared:
    steps = preparation(config, len(train), matrix.shape[1], near=of_all)
    x_train = steps.fit_transform(matrix[train])
    return _Prepared(train, held_out, x_train, steps.transform(matrix[held_out]), kept_components(steps))


def _liblinear_counts(
    folds: list[_Prepared],
    labels: NDArray[np.int32],
    Cs: Sequence[float],
    config: SvmConfig,
    report: Callable[[float], Any],
) -> FoldCounts:
    def one(fold: _Prepared, C: float) -> tuple[int, bool]:
        svm = _svm(C, config).fit(fold.x_train, labels[fold.train])
        return int(np.count_nonzero(svm.predict(fold.x_held_out) == labels[fold.held_out])), _stopped_early(svm)

    # Threads: liblinear releases the GIL, and rows need not be copied to other processes.
    found = []
    pairs = [(fold, C) for C in Cs for fold in folds]
    for result in Parallel(n_jobs=config.jobs, prefer="threads", return_as="generator")(
        delayed(one)(*pair) for pair in pairs
    ):
        found.append(result)
        report(1)
    shape = (len(Cs), len(folds))
    return FoldCounts(
        np.array([correct for correct, _ in found], dtype=np.int64).reshape(shape),
        np.array([stopped for _, stopped in found], dtype=bool).reshape(shape),
    )


def _batched_counts(
    folds: list[_Prepared],
    labels: NDArray[np.int32],
    Cs: Sequence[float],
    config: SvmConfig,
    report: Callable[[float], Any],
) -> FoldCounts:
    """Fold by fold, each with all its classes and C together."""
    parts = []
    for fold in folds:
        classes, targets = np.unique(labels[np.concatenate([fold.train, fold.held_out])], return_inverse=True)
        mask = np.arange(len(targets)) < len(fold.train)
        fits = SharedFits(
            np.concatenate([fold.x_train, fold.x_held_out]),
            targets.astype(np.int64),
            len(classes),
            [Fold(mask, np.flatnonzero(~mask), standardize=False)],
            **_batched_settings(config),
        )
        columns = fits.columns
        parts.append(fits.held_out_counts(Cs, lambda n, columns=columns: report(n / columns)))  # type: ignore[misc]
    return FoldCounts(
        np.concatenate([part.correct for part in parts], axis=1),
        np.concatenate([part.unconverged for part in parts], axis=1),
    )


def splitter(config: SvmConfig, groups: NDArray[Any] | None) -> StratifiedKFold | LeaveOneGroupOut:
    """The folds for choosing hyper-parameters: stratified, or each of `groups` held out in turn."""
    if groups is not None:
        return LeaveOneGroupOut()
    return StratifiedKFold(config.folds, shuffle=True, random_state=config.seed)


def preparation(config: SvmConfig, rows: int, columns: int, *, near: Pipeline | None = None) -> Pipeline:
    """The steps before the classifier: a scaler, a PCA, both or neither.

    The PCA is last and only reduces the rank: its components are not standardised. It is exact, or, if that would be
    slow, for standardised columns, approximate within the tolerance of `components`. `near`, a fitted preparation of
    similar rows, then saves iterations.

    Standardising components made the baseline weaker: 40.3 % against 43.2 % in cross-validation on the pixels of 20
    classes × 30 training photographs, and 43.7 % without PCA.
    """
    steps: list[tuple[str, Any]] = []
    if config.normalization == "standardize":
        steps.append(("scale", StandardScaler()))
    if config.components is not None:
        kept = min(config.components, rows, columns)
        steps.append(("pca", _pca(kept, config, rows, columns, near)))
    return Pipeline(steps or [("as they are", "passthrough")])


def _pca(kept: int, config: SvmConfig, rows: int, columns: int, near: Pipeline | None) -> Any:
    smaller = min(rows, columns)
    if config.normalization != "standardize" or smaller <= EXACT_PCA or OVERSAMPLING * kept > smaller:
        return PCA(kept, svd_solver="auto", random_state=config.seed)
    start = None if near is None else getattr(near.named_steps.get("pca"), "directions_", None)
    return LeadingComponents(kept, seed=config.seed, start=start)


def kept_components(steps: Pipeline) -> int | None:
    """Number of components kept by a fitted preparation; None without PCA."""
    pca = steps.named_steps.get("pca")
    return None if pca is None else int(pca.n_components)


def _svm(C: float, config: SvmConfig) -> Any:
    if config.solver == "liblinear":
        return LinearSVC(C=C, dual=False, random_state=config.seed, **config.stopping)
    return BatchedLinearSVC(C, **_batched_settings(config))


def _batched_settings(config: SvmConfig) -> dict[str, Any]:
    return {"device": config.device, "max_memory": config.max_memory, **config.stopping}


def _stopped_early(svm: Any) -> bool:
    if isinstance(svm, BatchedLinearSVC):
        return bool((svm.duality_gap_ > svm.tol * svm.objective_).any())
    return bool(svm.n_iter_ >= svm.max_iter)


def _as_float64(features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return np.ascontiguousarray(features, dtype=np.float64)
