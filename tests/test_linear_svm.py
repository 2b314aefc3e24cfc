"""BatchedLinearSVC and LinearSVCPath: scikit-learn's contract, liblinear's optimum, and the bound on memory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from l2a_transfer.errors import MemoryLimitError
from l2a_transfer.svm.directions import Eigenbasis
from l2a_transfer.svm.estimators import BatchedLinearSVC, LinearSVCPath
from l2a_transfer.svm.grid import FoldCounts, search_grid
from l2a_transfer.svm.memory import MemoryPlan, budget_of, plan_memory
from l2a_transfer.svm.rows import LazyRows, ScaledRows


@parametrize_with_checks([BatchedLinearSVC(device="cpu"), LinearSVCPath((0.01, 1.0), cv=2, device="cpu")])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_estimator_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def objective(X: NDArray[Any], signs: NDArray[Any], w: NDArray[Any], b: float, C: float) -> float:
    """LIBLINEAR's: ½ (‖w‖² + b²) + C Σ max(0, 1 − y (⟨w, x⟩ + b))²."""
    return float(0.5 * (w @ w + b * b) + C * (np.maximum(0, 1 - signs * (X @ w + b)) ** 2).sum())


def problem(rows: int, columns: int, classes: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, columns))
    labels = rng.permutation(np.arange(rows) % classes)
    return centres[labels] + 2.0 * rng.normal(size=(rows, columns)), labels


def test_two_points_by_hand() -> None:
    """x = ±1: w minimises ½w² + 2C(1 − w)², so w = 4C / (1 + 4C), and b = 0 by symmetry."""
    X, y = np.array([[1.0], [-1.0]]), np.array([1, 0])
    for C in (0.25, 1.0, 100.0):
        fitted = BatchedLinearSVC(C, tol=1e-14, device="cpu").fit(X, y)
        assert fitted.coef_ == pytest.approx(np.array([[4 * C / (1 + 4 * C)]]), rel=1e-6)
        assert fitted.intercept_ == pytest.approx([0], abs=1e-7)
        assert fitted.objective_[0] == pytest.approx(2 * C / (1 + 4 * C), rel=1e-10)


def test_the_gap_bounds_the_distance_to_the_optimum() -> None:
    X, y = problem(60, 5, 2)
    exact = BatchedLinearSVC(1.0, tol=1e-14, device="cpu").fit(X, y).objective_
    with pytest.warns(ConvergenceWarning, match="1 of 1 SVMs did not reach tol=1e-14 in 2 Newton steps"):
        early = BatchedLinearSVC(1.0, tol=1e-14, max_iter=2, device="cpu").fit(X, y)
    assert early.n_iter_ == 2
    assert 0 < early.objective_[0] - exact[0] <= early.duality_gap_[0]


@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0, 10.0])
@pytest.mark.parametrize(("rows", "columns", "classes"), [(120, 8, 2), (40, 70, 3), (200, 20, 6)])
def test_optimum_is_that_of_liblinear(rows: int, columns: int, classes: int, C: float) -> None:
    X, y = problem(rows, columns, classes)
    ours = BatchedLinearSVC(C, device="cpu").fit(X, y)
    theirs = LinearSVC(C=C, dual=False, tol=1e-10, max_iter=100_000).fit(X, y)
    assert ours.coef_.shape == theirs.coef_.shape
    for k, positive in enumerate([1] if classes == 2 else range(classes)):
        signs = np.where(y == positive, 1.0, -1.0)
        own = objective(X, signs, ours.coef_[k], ours.intercept_[k], C)
        assert ours.objective_[k] == pytest.approx(own, rel=1e-10)
        best = objective(X, signs, theirs.coef_[k], theirs.intercept_[k], C)
        assert own <= best * (1 + 1e-8)
        assert own >= best * (1 - 1e-6)
    others, _ = problem(500, columns, classes, seed=1)
    assert np.array_equal(ours.predict(others), theirs.predict(others))


def test_intercept_as_liblinear_penalises_it() -> None:
    X, y = problem(80, 4, 3)
    X += 5
    for settings in ({"fit_intercept": False}, {"intercept_scaling": 10.0}):
        ours = BatchedLinearSVC(1.0, tol=1e-12, device="cpu", **settings).fit(X, y)  # type: ignore[arg-type]
        theirs = LinearSVC(C=1.0, dual=False, tol=1e-10, max_iter=100_000, **settings).fit(X, y)
        assert ours.coef_ == pytest.approx(theirs.coef_, rel=1e-4, abs=1e-6)
        assert ours.intercept_ == pytest.approx(np.broadcast_to(theirs.intercept_, 3), rel=1e-4, abs=1e-6)


def test_path_chooses_as_grid_search_does() -> None:
    X, y = problem(150, 12, 4, seed=3)
    X = X * np.geomspace(1e-3, 1e3, 12) + 1e4  # so that standardisation inside the folds matters
    Cs, cv = (1e-4, 1e-3, 1e-2, 1e-1, 1.0), StratifiedKFold(4, shuffle=True, random_state=2)
    ours = LinearSVCPath(Cs, cv=cv, device="cpu").fit(X, y)
    pipeline = make_pipeline(StandardScaler(), LinearSVC(dual=False, tol=1e-8, max_iter=100_000))
    theirs = GridSearchCV(pipeline, {"linearsvc__C": Cs}, cv=cv).fit(X, y)
    for f in range(4):
        name = f"split{f}_test_score"
        assert ours.cv_results_[name] == pytest.approx(theirs.cv_results_[name], abs=1e-12)
    assert ours.best_params_["C"] == theirs.best_params_["linearsvc__C"]
    assert ours.best_score_ == pytest.approx(theirs.best_score_)
    others, _ = problem(300, 12, 4, seed=4)
    others = others * np.geomspace(1e-3, 1e3, 12) + 1e4
    assert np.array_equal(ours.predict(others), theirs.predict(others))


def test_of_equal_candidates_the_smaller_c_wins() -> None:
    X = np.array([[-3.0], [-2.0], [-2.5], [2.0], [3.0], [2.5]] * 3)
    y = np.array([0, 0, 0, 1, 1, 1] * 3)
    found = LinearSVCPath((10.0, 0.1, 1.0), cv=3, device="cpu").fit(X, y)
    assert [p["C"] for p in found.cv_results_["params"]] == [0.1, 1.0, 10.0]
    assert found.cv_results_["rank_test_score"].tolist() == [1, 1, 1]
    assert found.best_params_ == {"C": 0.1}


def counted(score: dict[float, int]) -> Callable[[Sequence[float]], FoldCounts]:
    """A fit that gets `score[C]` held-out rows right, in one fold."""
    return lambda Cs: FoldCounts(np.array([[score[float(f"{C:g}")]] for C in Cs]), np.zeros((len(Cs), 1), dtype=bool))


@pytest.mark.parametrize(
    ("score", "decades", "grid", "best"),
    [
        ({0.1: 1, 1: 3, 10: 2}, 2, (0.1, 1, 10), 1),
        ({0.1: 1, 1: 2, 10: 3, 100: 1}, 2, (0.1, 1, 10, 100), 10),
        ({0.1: 1, 1: 2, 10: 3, 100: 4, 1000: 5}, 2, (0.1, 1, 10, 100, 1000), 1000),
        ({0.01: 4, 0.1: 3, 1: 2, 10: 1, 0.001: 3}, 2, (0.001, 0.01, 0.1, 1, 10), 0.01),
        ({0.1: 1, 1: 2, 10: 3}, 0, (0.1, 1, 10), 10),
        ({0.1: 3, 1: 3, 10: 2}, 2, (0.1, 1, 10), 0.1),
    ],
)
def test_grid_grows_where_the_best_is_at_its_edge(
    score: dict[float, int], decades: int, grid: tuple[float, ...], best: float
) -> None:
    found = search_grid(counted(score), (10, 0.1, 1), decades=decades)
    assert found.Cs == pytest.approx(grid)
    assert found.Cs[found.best] == pytest.approx(best)
    assert found.added == len(grid) - 3
    assert found.at_edge == (best in (grid[0], grid[-1]))


def test_candidates_that_are_added_start_warm_and_end_where_a_full_grid_does() -> None:
    X, y = problem(200, 30, 5, seed=5)
    found = LinearSVCPath((1e-5, 1e-4), cv=3, decades=2, device="cpu").fit(X, y)
    assert found.grid_.added >= 1
    alone = LinearSVCPath(found.grid_.Cs, cv=3, device="cpu").fit(X, y)
    assert np.array_equal(alone.grid_.counts.correct, found.grid_.counts.correct)


def test_a_column_that_is_constant_in_one_fold_is_left_unscaled_there() -> None:
    X, y = problem(60, 3, 2, seed=6)
    X[:, 0] = 0.0
    X[::3, 0] = np.linspace(1, 2, 20)  # with the folds below, constant in the training part of the first
    X[:, 1] = 7.0
    cv = [(np.flatnonzero(np.arange(60) % 3 != f), np.flatnonzero(np.arange(60) % 3 == f)) for f in range(3)]
    ours = LinearSVCPath((0.1,), cv=cv, device="cpu").fit(X, y)
    theirs = GridSearchCV(
        make_pipeline(StandardScaler(), LinearSVC(dual=False, tol=1e-8)), {"linearsvc__C": [0.1]}, cv=cv
    )
    theirs.fit(X, y)
    for f in range(3):
        assert ours.cv_results_[f"split{f}_test_score"] == pytest.approx(theirs.cv_results_[f"split{f}_test_score"])


def odd_lists(y: NDArray[Any], seed: int) -> dict[str, list[tuple[Any, Any]]]:
    """Splits of 60 rows of three classes that scikit-learn takes: lists of (rows to fit on, rows to hold out)."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(60)
    return {
        "drawn with replacement": [(rng.integers(0, 60, 60), rng.integers(0, 60, 25)) for _ in range(3)],
        "in any order": [(order[20:], order[:20]), (order[:40], order[40:])],
        "counted from the end": [(np.arange(-40, 0), np.arange(20)), (np.arange(40), [-1, -2, -3, -3])],
        "bools": [(np.arange(60) >= 15, np.arange(60) < 15), (np.arange(60) < 45, np.arange(60) >= 45)],
        "fitted on what is held out": [(np.arange(60), np.arange(60)), (np.arange(50), np.arange(60))],
        "without a class": [(np.flatnonzero(y != 2), np.arange(60)), (np.flatnonzero(y != 0), np.arange(0, 60, 2))],
    }


@pytest.mark.parametrize("kind", sorted(odd_lists(np.arange(60) % 3, 0)))
def test_whatever_rows_a_splitter_gives_the_scores_are_grid_search_cvs(kind: str) -> None:
    X, y = problem(60, 5, 3, seed=9)
    X = X * np.geomspace(0.01, 100, 5)
    cv, Cs = odd_lists(y, 1)[kind], (1e-3, 1e-1, 10.0)
    pipeline = make_pipeline(StandardScaler(), LinearSVC(dual=False, tol=1e-8, max_iter=100_000))
    theirs = GridSearchCV(pipeline, {"linearsvc__C": Cs}, cv=cv).fit(X, y)
    for matrix in (X, LazyRows(X)):
        ours = LinearSVCPath(Cs, cv=cv, device="cpu").fit(matrix, y)
        for name in (*(f"split{f}_test_score" for f in range(len(cv))), "mean_test_score", "std_test_score"):
            assert ours.cv_results_[name] == pytest.approx(theirs.cv_results_[name], abs=1e-12), name
        assert ours.best_score_ == ours.cv_results_["mean_test_score"][ours.best_index_]


class ByTheRows:
    """A splitter that looks at X and at the labels as they were given."""

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        return 2

    def split(self, X: Any, y: Any, groups: Any = None) -> Any:
        low = (X[:, 0] < np.median(X[:, 0])) ^ (y == "b")
        for held_out in (low, ~low):
            yield np.flatnonzero(~held_out), np.flatnonzero(held_out)


def test_a_splitter_sees_the_rows_and_labels_that_grid_search_cv_shows_it() -> None:
    X, y = problem(90, 5, 3, seed=4)
    y = np.array(["a", "b", "c"])[y]
    pipeline = make_pipeline(StandardScaler(), LinearSVC(dual=False, tol=1e-8, max_iter=100_000))
    theirs = GridSearchCV(pipeline, {"linearsvc__C": [0.1, 1.0]}, cv=ByTheRows()).fit(X, y)
    ours = LinearSVCPath((0.1, 1.0), cv=ByTheRows(), device="cpu").fit(X, y)
    for name in ("split0_test_score", "split1_test_score"):
        assert ours.cv_results_[name] == pytest.approx(theirs.cv_results_[name], abs=1e-12)


def test_a_fold_with_one_class_to_fit_on_is_refused_by_name() -> None:
    """Sorted labels and KFold(2) gave a best score of 0.0 without a word, where GridSearchCV raises."""
    X, y = problem(40, 3, 2)
    y = np.array(["cat", "dog"])[np.sort(y)]
    with pytest.raises(ValueError, match=r"cv: fold 0 of 2 has only the class dog to fit on, .* stratified"):
        LinearSVCPath((0.1, 1.0), cv=KFold(2), device="cpu").fit(X, y)


def test_x_four_times_the_cap_is_streamed_to_the_same_objective(tmp_path: Any, caplog: Any) -> None:
    X, y = problem(600, 400, 2, seed=7)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("features", data=X, chunks=(256, 400))
    whole = BatchedLinearSVC(1e-3, device="cpu").fit(X, y)
    with h5py.File(tmp_path / "x.h5") as file, caplog.at_level(logging.INFO):
        lazy = LazyRows(file["features"])
        streamed = BatchedLinearSVC(1e-3, device="cpu", max_memory=X.nbytes // 4).fit(lazy, y)
    assert "read in blocks" in caplog.text
    assert streamed.objective_ == pytest.approx(whole.objective_, rel=1e-7)
    assert np.array_equal(streamed.predict(X), whole.predict(X))


def test_too_little_memory_for_one_column_says_how_much_it_takes() -> None:
    X, y = problem(100, 4, 3)
    with pytest.raises(ValueError, match="1000 is too small: one SVM on 100 rows of 4 columns needs 21764 bytes"):
        BatchedLinearSVC(device="cpu", max_memory=1000).fit(X, y)


def test_a_fit_takes_half_of_what_this_process_may_still_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2a_transfer.svm.memory.usable_memory", lambda: 60_000)
    assert budget_of(None, torch.device("cpu")) == 30_000
    assert budget_of(40_000, torch.device("cpu")) == 40_000
    X, y = problem(100, 4, 3)
    small = BatchedLinearSVC(device="cpu").fit(X, y)
    monkeypatch.undo()
    assert small.objective_ == pytest.approx(BatchedLinearSVC(device="cpu").fit(X, y).objective_, rel=1e-7)


def test_memory_that_is_not_there_is_not_taken_although_it_is_allowed(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr("l2a_transfer.svm.memory.usable_memory", lambda: 64 << 20)
    assert budget_of(8 << 30, torch.device("cpu")) == 56 << 20
    assert "max_memory is 8,192 MiB, but this process may only use 64 MiB more" in caplog.text


def test_a_process_without_memory_for_one_column_is_told_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = problem(100, 4, 3)
    monkeypatch.setattr("l2a_transfer.svm.memory.usable_memory", lambda: 2000)
    for max_memory in (None, 4000):
        with pytest.raises(
            MemoryLimitError, match="one SVM on 100 rows of 4 columns needs 1 MiB more memory, but only "
        ):
            BatchedLinearSVC(device="cpu", max_memory=max_memory).fit(X, y)


def test_memory_is_used_for_what_saves_most_first() -> None:
    """3000 × 99, 10 SVMs: a row takes 165 B, an SVM 156 kB, X 3.6 MB, the basis 80 kB (0.64 MB
    while it is computed), an SVM's moments 80 kB."""

    def plan(budget: float) -> MemoryPlan:
        return plan_memory(3000, 99, folds=5, problems=10, budget=int(budget))

    assert plan(0.8e6) == MemoryPlan(resident=False, batch=1, block=1562, basis=False, moments=False)
    assert plan(2.2e6) == MemoryPlan(resident=False, batch=8, block=4296, basis=True, moments=False, early=True)
    assert plan(4e6) == MemoryPlan(
        resident=False, batch=10, block=7812, basis=True, moments=False, single=True, early=True
    )
    assert plan(6e6) == MemoryPlan(resident=True, batch=6, block=11718, basis=True, moments=False, early=True)
    assert plan(9e6) == MemoryPlan(resident=True, batch=10, block=17578, basis=True, moments=True)
    with pytest.raises(ValueError, match="too small"):
        plan(0.5e6)


def test_a_float32_copy_is_kept_where_many_problems_fit_beside_it_and_not_beside_a_whole_one() -> None:
    """3000 × 99, 100 SVMs: the whole copy takes 3.6 MB, that in float32 1.2 MB, and 32 SVMs 5 MB."""

    def plan(budget: float) -> tuple[bool, bool, int]:
        found = plan_memory(3000, 99, folds=5, problems=100, budget=int(budget))
        return found.resident, found.single, found.batch

    assert plan(7e6) == (True, False, 12)
    assert plan(9e6) == (False, True, 39)
    assert plan(14e6) == (True, False, 51)


@pytest.mark.parametrize(("memory", "order"), [(4_000_000, ["basis", "copy"]), (9_000_000, ["copy", "basis"])])
def test_where_memory_is_short_the_eigenbasis_comes_before_the_copy(
    memory: int, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """3000 × 99, 10 SVMs, as above; the copy at 4 MB is of float32 only."""
    done: list[str] = []
    decompose, keep = Eigenbasis._decompose, ScaledRows.keep
    monkeypatch.setattr(Eigenbasis, "_decompose", lambda self: (done.append("basis"), decompose(self))[1])
    monkeypatch.setattr(ScaledRows, "keep", lambda self: (done.append("copy"), keep(self))[1])
    X, y = problem(3000, 99, 10)
    fits = BatchedLinearSVC(1e-2, device="cpu", max_memory=memory).fit(X, y)
    again = BatchedLinearSVC(1e-2, device="cpu").fit(X, y)
    assert done[:2] == order
    assert np.allclose(fits.objective_, again.objective_, rtol=2e-8)


def test_lazy_rows_refuse_what_cannot_be_read_in_order() -> None:
    with pytest.raises(ValueError, match="distinct row numbers in ascending order"):
        LazyRows(np.zeros((4, 2)), rows=np.array([2, 1]))


@pytest.mark.parametrize("bad", [{"C": 0.0}, {"C": float("nan")}, {"tol": -1.0}, {"max_iter": 0}, {"device": "tpu"}])
def test_parameters_out_of_range_are_named(bad: dict[str, Any]) -> None:
    X, y = problem(20, 2, 2)
    with pytest.raises(ValueError, match=next(iter(bad))):
        BatchedLinearSVC(**bad).fit(X, y)


def test_wild_scales_give_the_answer_or_say_that_they_do_not() -> None:
    X, y = problem(60, 5, 3, seed=8)
    for scale in (1e-12, 1e12):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fitted = BatchedLinearSVC(1.0, device="cpu").fit(X * scale, y)
        converged = fitted.duality_gap_ <= 1e-8 * fitted.objective_
        assert converged.all() or any(issubclass(w.category, ConvergenceWarning) for w in caught)
        assert np.isfinite(fitted.coef_).all()


def test_without_refit_there_is_no_classifier_as_in_grid_search() -> None:
    X, y = problem(60, 5, 3)
    ours = LinearSVCPath((0.01, 1.0), cv=2, refit=False, device="cpu").fit(X, y)
    theirs = GridSearchCV(LinearSVC(), {"C": [0.01, 1.0]}, cv=2, refit=False).fit(X, y)
    for method in ("predict", "decision_function"):
        assert not hasattr(ours, method)
        assert not hasattr(theirs, method)
        with pytest.raises(AttributeError) as error:
            getattr(ours, method)(X)
        assert "refit=False" in f"{error.value} {error.value.__cause__}"
    assert ours.best_params_["C"] in (0.01, 1.0)
    with pytest.raises(NotFittedError):
        LinearSVCPath().predict(X)


def test_no_folds_are_refused_by_name() -> None:
    X, y = problem(60, 5, 3)
    with pytest.raises(ValueError, match=r"cv must give at least one pair .*, got none from \[\]"):
        LinearSVCPath((0.01,), cv=[], device="cpu").fit(X, y)


def test_groups_go_to_the_splitter_as_in_grid_search() -> None:
    X, y = problem(60, 5, 3)
    groups = np.arange(60) // 5
    ours = LinearSVCPath((0.01, 1.0), cv=GroupKFold(4), device="cpu").fit(X, y, groups=groups)
    pipeline = make_pipeline(StandardScaler(), LinearSVC(dual=False, tol=1e-8))
    theirs = GridSearchCV(pipeline, {"linearsvc__C": [0.01, 1.0]}, cv=GroupKFold(4)).fit(X, y, groups=groups)
    for f in range(4):
        assert np.allclose(ours.cv_results_[f"split{f}_test_score"], theirs.cv_results_[f"split{f}_test_score"])
    with pytest.raises(ValueError, match="'groups' parameter should not be None"):
        LinearSVCPath((0.01,), cv=GroupKFold(4), device="cpu").fit(X, y)


def test_the_best_estimator_keeps_the_names_of_the_columns() -> None:
    pd = pytest.importorskip("pandas")
    X, y = problem(60, 3, 2)
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    found = LinearSVCPath((0.01,), cv=2, device="cpu").fit(frame, y)
    assert found.best_estimator_.feature_names_in_.tolist() == ["a", "b", "c"]
    assert np.array_equal(found.best_estimator_.predict(frame), found.predict(frame))  # a warning would be an error
    with pytest.raises(ValueError, match="feature names"):
        found.best_estimator_.predict(frame.rename(columns={"a": "x"}))


@pytest.mark.parametrize("offset", [1e8, 1e12])
def test_columns_far_from_0_are_solved_standardised_and_refused_as_they_are(offset: float) -> None:
    X, y = problem(120, 6, 3)
    near = BatchedLinearSVC(standardize=True, device="cpu").fit(X, y)
    far = BatchedLinearSVC(standardize=True, device="cpu").fit(X + offset, y)
    assert far.objective_ == pytest.approx(near.objective_, rel=1e-3)  # the rows themselves lose digits at 1e12
    assert np.isfinite(far.coef_).all()
    with pytest.raises(ValueError, match=r"X has a column.*standardise the columns, or subtract"):
        BatchedLinearSVC(device="cpu").fit(X + offset, y)
    with pytest.raises(ValueError, match="X has a column"):
        LinearSVCPath((0.01,), cv=2, standardize=False, device="cpu").fit(X + offset, y)


def test_columns_at_the_largest_offset_are_solved() -> None:
    """An offset is a stronger constant: at 1e7 the objective is that at 1e4, where nothing is lost."""
    X, y = problem(120, 6, 3)
    some, most = (BatchedLinearSVC(1.0, device="cpu").fit(X + offset, y) for offset in (1e4, 0.9e7))
    assert most.objective_ == pytest.approx(some.objective_, rel=1e-4)


def test_the_best_c_is_that_of_the_table_where_folds_differ_in_size() -> None:
    X = np.random.default_rng(1).normal(size=(60, 4)) + np.tile([0, 1], 30)[:, None] * 0.6
    y, Cs = np.tile([0, 1], 30), (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    cv = [(np.arange(10, 60), np.arange(3)), (np.arange(30), np.arange(30, 60)), (np.arange(30, 60), np.arange(20))]
    pipeline = make_pipeline(StandardScaler(), LinearSVC(dual=False, tol=1e-8, max_iter=100_000))
    theirs = GridSearchCV(pipeline, {"linearsvc__C": Cs}, cv=cv).fit(X, y)
    ours = LinearSVCPath(Cs, cv=cv, device="cpu").fit(X, y)
    assert ours.best_params_["C"] == theirs.best_params_["linearsvc__C"] == 1.0
    assert ours.best_score_ == pytest.approx(theirs.best_score_, abs=1e-12)
    assert ours.cv_results_["rank_test_score"].tolist() == theirs.cv_results_["rank_test_score"].tolist()


def test_a_fold_that_holds_out_nothing_is_refused_by_name() -> None:
    X, y = problem(60, 4, 3)
    with pytest.raises(ValueError, match="cv: fold 0 of 2 holds out no row"):
        LinearSVCPath((0.1, 1.0), cv=[(np.arange(40), []), (np.arange(30), np.arange(30, 60))], device="cpu").fit(X, y)


def test_a_column_of_rounding_noise_is_not_too_far_from_zero() -> None:
    X, y = problem(60, 4, 3)
    noise = 1e-12 * (1 + 1e-10 * np.random.default_rng(0).normal(size=(60, 1)))
    with_noise = BatchedLinearSVC(1e-2, standardize=False, device="cpu").fit(np.hstack([X, noise]), y)
    assert with_noise.objective_ == pytest.approx(
        BatchedLinearSVC(1e-2, standardize=False, device="cpu").fit(X, y).objective_
    )


def test_numbers_too_large_for_float64_are_refused_where_nan_was_returned() -> None:
    X, y = problem(60, 4, 3)
    with pytest.raises(ValueError, match=r"X cannot be solved in float64 at C = 0\.01"):
        BatchedLinearSVC(1e-2, standardize=False, device="cpu").fit(X * 1e155, y)
