"""Linear SVMs as scikit-learn estimators: the objective of LinearSVC, with all classes, folds and C solved together."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import check_cv
from sklearn.utils.metaestimators import available_if

from l2a_transfer.svm.classifier import LinearClassifier
from l2a_transfer.svm.grid import FoldCounts, fold_scores, search_grid
from l2a_transfer.svm.rows import Fold, LazyRows, RepeatedRows, folds_of_lists
from l2a_transfer.svm.shared_fits import SharedFits

if TYPE_CHECKING:
    import torch

    from l2a_transfer.svm.newton import SolverOutcome

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


class BatchedLinearSVC(LinearClassifier):
    """LinearSVC(dual=False) with all classes solved at once: one-vs-rest, squared hinge, L2 penalty.

    The objective is LIBLINEAR's [1]_, including the penalised intercept. Only the stopping rule differs: training ends
    when the duality gap is at most `tol` times the objective, which bounds the distance from the optimum.

    Parameters
    ----------
    C : float, default=1.0
        Weight of the loss relative to the penalty.
    tol : float, default=1e-8
        Stop when the duality gap is at most `tol` times the objective.
    max_iter : int, default=100
        Maximum number of Newton steps.
    fit_intercept : bool, default=True
        As in LinearSVC.
    intercept_scaling : float, default=1.0
        As in LinearSVC.
    standardize : bool, default=False
        Fit on (x − mean) / scale, as after a StandardScaler. `coef_` and `intercept_` apply to the original rows.
    device : {"auto", "cpu", "cuda"}, default="auto"
        "auto" uses a GPU if there is one.
    max_memory : int, optional
        Most bytes to allocate besides X; by default, half of the memory that this process may still use.

    Attributes
    ----------
    classes_ : ndarray (K,)
        The labels.
    coef_ : ndarray (K, D) float64
        (1, D) for two classes.
    intercept_ : ndarray (K,) float64
        (1,) for two classes.
    n_iter_ : int
        Largest number of Newton steps of any class.
    objective_, duality_gap_ : ndarray (K,)
        Objective and duality gap of each class when the solver stopped.

    Warns
    -----
    ConvergenceWarning
        If the solver has not converged after `max_iter` steps.

    References
    ----------
    .. [1] R.-E. Fan, K.-W. Chang, C.-J. Hsieh, X.-R. Wang, C.-J. Lin: LIBLINEAR. JMLR 9, 2008.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> svm = BatchedLinearSVC(C=1e-4, device="cpu").fit(X[:500], y[:500])
    >>> svm.coef_.shape, bool(svm.score(X[500:], y[500:]) > 0.8)
    ((10, 64), True)
    """

    def __init__(
        self,
        C: float = 1.0,
        *,
        tol: float = 1e-8,
        max_iter: int = 100,
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        standardize: bool = False,
        device: str = "auto",
        max_memory: int | None = None,
    ) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.standardize = standardize
        self.device = device
        self.max_memory = max_memory

    def fit(self, X: Any, y: Any) -> BatchedLinearSVC:
        """Fit on rows (N, D) and labels (N,). Raises: ValueError for one class, NaN, infinity or invalid parameters."""
        _check_numbers(self, C=self.C, tol=self.tol, max_iter=self.max_iter, intercept_scaling=self.intercept_scaling)
        X, targets = self._validated(X, y)
        fits = SharedFits(
            X,
            targets,
            len(self.classes_),
            [_all_rows(len(targets), self.standardize)],
            tol=self.tol,
            max_iter=self.max_iter,
            bias=float(self.intercept_scaling) if self.fit_intercept else 0.0,
            device=self.device,
            max_memory=self.max_memory,
        )
        self._take(fits, *fits.solve(float(self.C)))
        return self

    def _take(self, fits: SharedFits, outcome: SolverOutcome, weights: torch.Tensor, intercepts: torch.Tensor) -> None:
        self.coef_, self.intercept_ = weights.cpu().numpy(), intercepts.cpu().numpy()
        self.objective_, self.duality_gap_ = outcome.objective.cpu().numpy(), outcome.gap.cpu().numpy()
        self.n_iter_ = int(outcome.steps.max())
        missed = int((~outcome.converged).sum())
        if missed:
            warnings.warn(
                f"{missed} of {len(outcome.gap)} SVMs did not reach tol={fits.tol} in {fits.max_iter} Newton steps",
                ConvergenceWarning,
                stacklevel=3,
            )


def _refits(path: LinearSVCPath) -> bool:
    """True, or raise AttributeError as in GridSearchCV, so that `hasattr(path, "predict")` is False."""
    if not path.refit:
        raise AttributeError(
            "LinearSVCPath has refit=False, so it has chosen C but kept no classifier; set refit=True, or fit a "
            "BatchedLinearSVC with best_params_"
        )
    return True


class LinearSVCPath(LinearClassifier):
    """Linear SVM on standardised columns, with C chosen by cross-validation over all folds and classes at once.

    Equivalent to `GridSearchCV(StandardScaler → LinearSVC(dual=False), {"C": Cs}, cv=cv)`, but without copies of X: the
    means and scales of each fold are folded into its weights. `coef_` and `intercept_` apply to the original rows. The
    best C has the highest mean score over folds; ties go to the smallest C.

    Parameters
    ----------
    Cs : sequence of float
        Values of C to try.
    cv : int or splitter, default=5
        Folds, as for GridSearchCV. A splitter may give rows in any order and more than once.
    decades : int, default=0
        How many times the grid may be extended by a factor of ten if the best C is at its edge.
    standardize : bool, default=True
        Standardise the columns. False leaves them unchanged.
    refit : bool, default=True
        Fit on all rows with the best C.
    tol : float, default=1e-8
        Stop when the duality gap is at most `tol` times the objective.
    max_iter : int, default=100
        Maximum number of Newton steps.
    device : {"auto", "cpu", "cuda"}, default="auto"
        "auto" uses a GPU if there is one.
    max_memory : int, optional
        Most bytes to allocate besides X; by default, half of the memory that this process may still use.

    Attributes
    ----------
    best_params_, best_index_, best_score_ : dict, int, float
        As in GridSearchCV.
    cv_results_ : dict
        `params`, `param_C`, `splitN_test_score`, `mean_test_score`, `std_test_score`, `rank_test_score`.
    n_splits_ : int
        Folds.
    grid_ : GridResult
        All tried values of C, and the number of correct answers in each fold.
    best_estimator_ : BatchedLinearSVC
        Only with `refit`, as are `coef_` (K, D), `intercept_` (K,), `n_iter_` and `refit_time_` in seconds.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> path = LinearSVCPath(Cs=(1e-3, 1e-2), cv=3, device="cpu").fit(X[:300], y[:300])
    >>> path.n_splits_, path.best_params_["C"] in (1e-3, 1e-2)
    (3, True)
    """

    def __init__(
        self,
        Cs: Sequence[float] = C_GRID,
        *,
        cv: Any = 5,
        decades: int = 0,
        standardize: bool = True,
        refit: bool = True,
        tol: float = 1e-8,
        max_iter: int = 100,
        device: str = "auto",
        max_memory: int | None = None,
    ) -> None:
        self.Cs = Cs
        self.cv = cv
        self.decades = decades
        self.standardize = standardize
        self.refit = refit
        self.tol = tol
        self.max_iter = max_iter
        self.device = device
        self.max_memory = max_memory

    @available_if(_refits)  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Scores (N, K), or (N,) of the second class if there are two. Raises: AttributeError without `refit`."""
        return super().decision_function(X)

    @available_if(_refits)  # type: ignore[untyped-decorator]
    def predict(self, X: Any) -> NDArray[Any]:
        """Class labels (N,). Raises: AttributeError without `refit`."""
        return super().predict(X)

    def fit(self, X: Any, y: Any, *, groups: Any = None, tick: Callable[[int], Any] | None = None) -> LinearSVCPath:
        """Search and refit on rows (N, D) and labels (N,). `groups` (N,) is passed to splitters such as GroupKFold.
        `tick(n)` is called after every n SVMs (one class each), by one thread at a time, which may be another one.

        Raises: ValueError for one class, NaN, infinity, invalid parameters, no folds, too few rows of a class for `cv`,
        or a fold whose training rows have only one class.
        """
        _check_numbers(self, tol=self.tol, max_iter=self.max_iter, **{f"Cs[{k}]": C for k, C in enumerate(self.Cs)})
        if len(self.Cs) == 0:
            raise ValueError("Cs must have at least one value")
        X, targets = self._validated(X, y)
        own: dict[str, Any] = {
            "tol": self.tol,
            "max_iter": self.max_iter,
            "device": self.device,
            "max_memory": self.max_memory,
        }
        rows, folds = self._folds(X, np.asarray(y), targets, groups)
        started = time.perf_counter()
        fits = SharedFits(
            X if rows is None else RepeatedRows(X, rows),
            targets if rows is None else targets[rows],
            len(self.classes_),
            folds,
            **own,
        )
        self.grid_ = search_grid(
            lambda Cs: fits.held_out_counts(Cs, tick),
            [float(C) for C in self.Cs],
            decades=self.decades,
            sizes=[len(fold.held_out) for fold in folds],
        )
        self.n_splits_ = len(folds)
        self.cv_results_ = _cv_results(self.grid_.Cs, self.grid_.counts, folds, time.perf_counter() - started)
        self.best_index_ = self.grid_.best
        self.best_params_ = {"C": self.grid_.Cs[self.best_index_]}
        self.best_score_ = float(self.cv_results_["mean_test_score"][self.best_index_])
        missed = int(self.grid_.counts.unconverged.sum())
        if missed:
            warnings.warn(
                f"{missed} of {self.grid_.counts.unconverged.size} fits did not reach tol={self.tol}",
                ConvergenceWarning,
                stacklevel=2,
            )
        if self.refit:
            start = fits.mean_solution(self.best_params_["C"])
            del fits  # frees its copy of X for the refit
            self._refit(X, targets, start, own)
        return self

    def _folds(
        self, X: Any, y: NDArray[Any], targets: NDArray[np.int64], groups: Any
    ) -> tuple[NDArray[np.intp] | None, list[Fold]]:
        """The splitter's folds. Their rows are lists as in scikit-learn: row numbers in any order, possibly repeated or
        negative, or one bool per row. A splitter receives X and the original labels, or zeros instead of an X that is
        read by rows."""
        every = np.arange(len(targets))
        splitter = check_cv(self.cv, y, classifier=True)
        seen = np.zeros((len(targets), 1)) if isinstance(X, LazyRows) else X
        lists = [(_taken(every, train), _taken(every, test)) for train, test in splitter.split(seen, y, groups)]
        if not lists:
            raise ValueError(f"cv must give at least one pair of training and held-out rows, got none from {self.cv!r}")
        for number, (train, test) in enumerate(lists):
            if len(test) == 0:
                raise ValueError(f"cv: fold {number} of {len(lists)} holds out no row; every fold needs one to score")
            known = np.unique(targets[train])
            if len(known) < 2:
                what = f"only the class {self.classes_[known[0]]}" if len(known) else "no row"
                raise ValueError(
                    f"cv: fold {number} of {len(lists)} has {what} to fit on, and an SVM needs two classes; use a "
                    "stratified splitter, or one that shuffles"
                )
        return folds_of_lists(lists, len(targets), standardize=self.standardize)

    def _refit(self, X: Any, targets: NDArray[np.int64], start: torch.Tensor, own: dict[str, Any]) -> None:
        started = time.perf_counter()
        fits = SharedFits(X, targets, len(self.classes_), [_all_rows(len(targets), self.standardize)], **own)
        best = BatchedLinearSVC(self.best_params_["C"], standardize=self.standardize, **own)
        best.classes_, best.n_features_in_ = self.classes_, self.n_features_in_
        if hasattr(self, "feature_names_in_"):
            best.feature_names_in_ = self.feature_names_in_
        best._take(fits, *fits.solve(self.best_params_["C"], start))
        self.best_estimator_, self.refit_time_ = best, time.perf_counter() - started
        self.coef_, self.intercept_, self.n_iter_ = best.coef_, best.intercept_, best.n_iter_


def _taken(every: NDArray[np.intp], rows: Any) -> NDArray[np.intp]:
    """The rows of a list; an empty list has no type of its own."""
    return every[np.asarray(rows)] if len(rows) else every[:0]


def _cv_results(Cs: Sequence[float], counts: FoldCounts, folds: list[Fold], seconds: float) -> dict[str, Any]:
    """scikit-learn's table, with one value per candidate. All candidates of a fold are fitted together, so the fit time
    of a candidate is an equal share of the whole search."""
    sizes = [len(fold.held_out) for fold in folds]
    scores = counts.correct / np.array(sizes)  # (nC, F)
    ranked = fold_scores(counts, sizes)
    return {
        "params": [{"C": C} for C in Cs],
        "param_C": np.ma.MaskedArray(Cs, mask=False),
        **{f"split{f}_test_score": scores[:, f] for f in range(len(folds))},
        "mean_test_score": scores.mean(axis=1),
        "std_test_score": scores.std(axis=1),
        "rank_test_score": np.array([1 + sum(other > own for other in ranked) for own in ranked], dtype=np.int32),
        "mean_fit_time": np.full(len(Cs), seconds / (len(Cs) * len(folds))),
    }


def _all_rows(N: int, standardize: bool) -> Fold:
    return Fold(np.ones(N, dtype=bool), np.zeros(0, dtype=np.intp), standardize)


def _check_numbers(estimator: BaseEstimator, **values: float) -> None:
    for name, value in values.items():
        if not isinstance(value, (int, float, np.number)) or not math.isfinite(value) or value <= 0:
            raise ValueError(f"{type(estimator).__name__}: {name} must be a finite number above 0, got {value!r}")
