"""The solver's parts against dense float64 algebra, and what the solver promises: less work, never another answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from l2a_transfer.svm.directions import Directions, Eigenbasis
from l2a_transfer.svm.estimators import BatchedLinearSVC, LinearSVCPath
from l2a_transfer.svm.memory import ROOMY, MemoryPlan, plan_memory
from l2a_transfer.svm.newton import Problems
from l2a_transfer.svm.objective import Coordinates, NewtonState
from l2a_transfer.svm.rows import Fold, ScaledRows
from l2a_transfer.svm.shared_fits import SharedFits
from l2a_transfer.svm.side_by_side import side_by_side

CPU = torch.device("cpu")
CG, GRAM, MOMENTS = 0, 1, 2


def problem(rows: int, columns: int, classes: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, columns))
    labels = rng.permutation(np.arange(rows) % classes)
    return centres[labels] + 2.0 * rng.normal(size=(rows, columns)), labels


def folds_of(rows: int, count: int) -> list[Fold]:
    place = np.arange(rows) % count
    return [Fold(place != f, np.flatnonzero(place == f), standardize=True) for f in range(count)]


def problems_of(X: NDArray[Any], y: NDArray[Any], *, basis: bool = True, moments: bool = True) -> Problems:
    """Two folds × three classes over X, with blocks of few rows."""
    plan = MemoryPlan(resident=True, batch=6, block=200, basis=basis, moments=moments)
    rows = ScaledRows(X, device=CPU, resident=True, block=200)
    folds = folds_of(len(X), 2)
    coordinates = Coordinates(*rows.fold_statistics(folds), bias=2.0)
    train = torch.from_numpy(np.stack([fold.train for fold in folds]))
    fold, positive = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1, 2])
    targets = torch.from_numpy(y)
    return Problems(rows, coordinates, Eigenbasis(rows, coordinates, plan), targets, train, fold, positive, plan)


def z_of(X: NDArray[Any], fold: int) -> NDArray[Any]:
    """Standardised by the training rows of one of two folds, with the constant 2."""
    own = X[np.arange(len(X)) % 2 != fold]
    return np.hstack([(X - own.mean(axis=0)) / own.std(axis=0), np.full((len(X), 1), 2.0)])


def work_of(problems: Problems) -> NewtonState:
    return problems._at(slice(None))


@pytest.mark.parametrize("seed", [0, 1])
def test_value_gradient_and_active_rows_are_those_of_the_formula(seed: int) -> None:
    X, y = problem(50, 7, 3, seed)
    X = X * np.geomspace(1e-3, 1e3, 7) + 50
    problems = problems_of(X, y)
    w = np.random.default_rng(seed).normal(size=(6, 8)) / 3
    problems.start_at(torch.from_numpy(w))
    value, gradient, active = work_of(problems).value_and_gradient(0.7)
    for j in range(6):
        z, train = z_of(X, j // 3), np.arange(50) % 2 != j // 3
        sign = np.where(y == j % 3, 1.0, -1.0)
        slack = np.maximum(0, 1 - sign * (z @ w[j])) * train
        assert problems.scores[j].numpy() == pytest.approx(z @ w[j])
        assert float(value[j]) == pytest.approx(0.5 * w[j] @ w[j] + 0.7 * (slack**2).sum())
        assert gradient[j].numpy() == pytest.approx(w[j] - 2 * 0.7 * z.T @ (sign * slack))
        assert np.array_equal(active[j].numpy(), slack > 0)


@pytest.mark.parametrize(
    ("way", "basis", "moments"),
    [(CG, True, True), (CG, False, True), (GRAM, True, True), (GRAM, False, True), (MOMENTS, True, True)]
    + [(MOMENTS, False, True), (MOMENTS, True, False)],
)
def test_every_way_to_a_direction_solves_newtons_equation(
    way: int, basis: bool, moments: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, with other rows active the second time, so that kept moments have to be brought up to date."""
    X, y = problem(50, 30, 3)
    problems = problems_of(X, y, basis=basis, moments=moments)
    monkeypatch.setattr(Directions, "_cheapest", lambda *_: torch.full((6,), way))
    for seed in (0, 1):
        w = np.random.default_rng(seed).normal(size=(6, 31))
        problems.start_at(torch.from_numpy(w))
        at = work_of(problems)
        _, gradient, active = at.value_and_gradient(0.3)
        forcing = torch.full((6,), 1e-5, dtype=torch.float64)
        p = problems.directions(torch.arange(6), at, gradient, active, 0.3, forcing).numpy()
        for j in range(6):
            own = z_of(X, j // 3)[active[j].numpy()]
            assert 0 < len(own) < 31
            hessian = np.eye(31) + 2 * 0.3 * own.T @ own
            expected = -np.linalg.solve(hessian, gradient[j].numpy())
            assert np.linalg.norm(p[j] - expected) < 1e-3 * np.linalg.norm(expected)


def test_preconditioner_is_the_inverse_of_the_mean_folds_second_moment() -> None:
    X, y = problem(40, 5, 3)
    problems = problems_of(X, y)
    mean, inverse = problems.folds.mean.mean(dim=0).numpy(), problems.folds.inverse.mean(dim=0).numpy()
    z = np.hstack([((X - X.mean(axis=0)) / X.std(axis=0) - mean) * inverse, np.full((40, 1), 2.0)])
    r = np.random.default_rng(0).normal(size=(2, 6))
    basis = problems.directions.basis
    found = basis.preconditioner(torch.tensor([3.0, 70.0]))(torch.from_numpy(r).float(), torch.tensor([1, 0]))
    for k, weight in enumerate((70.0, 3.0)):
        expected = np.linalg.solve(np.eye(6) + weight * z.T @ z / 40, r[k])
        assert found[k].numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert basis.largest() == pytest.approx(np.linalg.eigvalsh(z.T @ z / 40)[-1])


def test_line_search_ends_where_the_slope_is_down_to_half() -> None:
    X, y = problem(60, 6, 3)
    problems = problems_of(X, y)
    problems.start_at(torch.from_numpy(np.random.default_rng(0).normal(size=(6, 7))))
    at = work_of(problems)
    _, gradient, _ = at.value_and_gradient(1.0)
    for factor in (-1e-6, -1e-2, -10.0):  # far too short, about right, far too long
        direction = factor * gradient
        length = at.line_search(direction, at.scores_of(direction), gradient, 1.0)
        problems.start_at(at.w + length[:, None] * direction)
        _, after, _ = work_of(problems).value_and_gradient(1.0)
        slopes = (after * direction).sum(dim=1).abs() / (gradient * direction).sum(dim=1).abs()
        assert (slopes <= 0.5 + 1e-9).all()
        problems.start_at(at.w)


def shared_fits(X: NDArray[Any], y: NDArray[Any], **settings: Any) -> SharedFits:
    options = {"tol": 1e-8, "max_iter": 100, "device": "cpu"} | settings
    return SharedFits(X, y, int(y.max()) + 1, folds_of(len(X), 2), **options)


def problems_of_all(fits: SharedFits) -> Problems:
    """The columns of the only batch."""
    (place,) = fits._batches()
    return fits._problems(place)


def test_solved_columns_leave_and_solved_problems_take_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = problem(200, 10, 5)
    X[y == 0] += 30  # one class is easily told from the others
    sizes: list[int] = []
    call = Directions.__call__
    monkeypatch.setattr(
        Directions, "__call__", lambda self, todo, *rest: (sizes.append(len(todo)), call(self, todo, *rest))[1]
    )
    problems = problems_of_all(shared_fits(X, y))
    steps = problems.solve(1.0, tol=1e-8, max_iter=100).steps
    assert sizes == [int((steps > k).sum()) for k in range(int(steps.max()))]
    assert sizes[0] == 10
    assert sizes[-1] < 10
    again = problems.solve(1.0, tol=1e-8, max_iter=100)
    assert again.steps.tolist() == [0] * 10


def test_a_warm_start_saves_steps_and_ends_at_the_same_objective() -> None:
    X, y = problem(300, 20, 4)
    cold = problems_of_all(shared_fits(X, y)).solve(1.0, tol=1e-8, max_iter=100)
    problems = problems_of_all(shared_fits(X, y))
    problems.solve(0.8, tol=1e-8, max_iter=100)
    warm = problems.solve(1.0, tol=1e-8, max_iter=100)
    assert int(warm.steps.sum()) < int(cold.steps.sum())
    assert warm.objective.numpy() == pytest.approx(cold.objective.numpy(), rel=1e-7)


def test_little_memory_gives_the_same_counts_and_objectives() -> None:
    X, y = problem(120, 20, 4)
    X *= np.geomspace(0.1, 10, 20)
    whole = LinearSVCPath((1e-3, 1e-1), cv=2, device="cpu").fit(X, y)
    for memory, resident in ((70_000, False), (110_000, True)):
        small = LinearSVCPath((1e-3, 1e-1), cv=2, device="cpu", max_memory=memory).fit(X, y)
        fits = shared_fits(X, y, max_memory=memory)
        assert fits.plan.resident == resident
        assert fits.batch < fits.columns
        assert np.array_equal(small.grid_.counts.correct, whole.grid_.counts.correct)
        assert small.best_estimator_.objective_ == pytest.approx(whole.best_estimator_.objective_, rel=1e-7)


def test_columns_come_class_by_class_with_the_folds_of_a_class_in_one_batch() -> None:
    X, y = problem(120, 20, 4)
    fits = shared_fits(X, y)
    fits.batch = 5
    batches = [place.tolist() for place in fits._batches()]
    assert batches == [[0, 4, 1, 5], [2, 6, 3, 7]]  # the second fold's columns are 4 to 7
    outcome, weights, intercepts = fits.solve(0.1)
    whole, expected, others = shared_fits(X, y).solve(0.1)
    assert outcome.objective.numpy() == pytest.approx(whole.objective.numpy(), rel=1e-7)
    assert weights.numpy() == pytest.approx(expected.numpy(), abs=1e-4)
    assert intercepts.numpy() == pytest.approx(others.numpy(), abs=1e-4)


SINGLE = MemoryPlan(resident=False, batch=8, block=2000, basis=True, moments=False, single=True)


@pytest.mark.parametrize(
    ("kind", "gathers"), [("float32", True), ("float64", False), ("far from zero", False), ("constant columns", True)]
)
def test_float32_alone_gives_the_objectives_of_a_whole_copy(
    kind: str, gathers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where float32 does not hold the rows exactly, so that float64 is read for the stopping test."""
    X, y = problem(120, 20, 4)
    X = X * np.geomspace(0.1, 10, 20)
    if kind != "float64":
        X = X.astype(np.float32).astype(np.float64)
    if kind == "far from zero":
        X = X + 1e4
    if kind == "constant columns":
        X[:, 3], X[:60, 4], X[60:, 4] = 0.0, 5.0, 6.0
    whole, expected, _ = shared_fits(X, y).solve(0.1)
    monkeypatch.setattr("l2a_transfer.svm.shared_fits.plan_memory", lambda *_, **__: SINGLE)
    fits = shared_fits(X, y)
    assert (fits.rows.gathers, fits.rows.resident) == (gathers, False)
    outcome, weights, _ = fits.solve(0.1)
    assert outcome.converged.all()
    assert outcome.objective.numpy() == pytest.approx(whole.objective.numpy(), rel=2e-8)
    assert weights.numpy() == pytest.approx(expected.numpy(), rel=1e-2, abs=1e-3)


def test_conjugate_gradients_take_the_rows_that_are_active_in_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same directions as with products over all rows; groups are made where they cost less."""
    X, y = problem(50, 30, 3)
    problems = problems_of(X, y)
    monkeypatch.setattr(Directions, "_cheapest", lambda *_: torch.full((6,), CG))
    problems.start_at(torch.from_numpy(np.random.default_rng(0).normal(size=(6, 31))))
    at = work_of(problems)
    _, gradient, active = at.value_and_gradient(0.3)
    active[:, 20:] = False
    forcing = torch.full((6,), 1e-5, dtype=torch.float64)
    groups = problems.directions._gathered(torch.arange(6), active)
    assert [part for part, _, _ in groups] == [slice(0, 6)]  # a step costs more than these few rows
    alone = problems.directions(torch.arange(6), at, gradient, active, 0.3, forcing)
    monkeypatch.setattr("l2a_transfer.svm.directions.STEP_COST", 0.0)
    monkeypatch.setattr("l2a_transfer.svm.directions.GATHER_COST", 0.0)
    monkeypatch.setattr("l2a_transfer.svm.directions.READING_COST", 0.0)
    groups = problems.directions._gathered(torch.arange(6), active)
    assert [part for part, _, _ in groups] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    for part, _, weight in groups:
        assert weight.shape[1] == int(active[part].any(dim=0).sum()) < 50
    grouped = problems.directions(torch.arange(6), at, gradient, active, 0.3, forcing)
    assert grouped.numpy() == pytest.approx(alone.numpy(), rel=1e-3, abs=1e-5)


def test_fits_of_the_grid_that_do_not_converge_are_counted() -> None:
    X, y = problem(100, 10, 3)
    with pytest.warns(ConvergenceWarning) as caught:
        found = LinearSVCPath((1e-9, 10.0), cv=2, max_iter=1, device="cpu").fit(X, y)
    assert found.grid_.counts.unconverged.tolist() == [[False, False], [True, True]]
    assert str(caught[0].message) == "2 of 4 fits did not reach tol=1e-08"


def test_two_runs_give_the_same_bytes() -> None:
    X, y = problem(150, 40, 5)
    first, second = (LinearSVCPath((1e-3, 1e-1, 10.0), cv=3, device="cpu").fit(X, y) for _ in range(2))
    assert first.coef_.tobytes() == second.coef_.tobytes()
    assert first.intercept_.tobytes() == second.intercept_.tobytes()


def trouble() -> dict[str, tuple[NDArray[Any], NDArray[Any], float]]:
    X, y = problem(200, 20, 4)
    constant, outlier = X.copy(), X.copy()
    constant[:, 3], constant[:, 4], outlier[7, 3] = 5.0, 0.0, 1e4
    wide, labels = problem(60, 100, 3)
    return {
        "constant columns": (constant, y, 1.0),
        "three rows": (X[:3], np.array([0, 1, 2]), 1.0),
        "repeated rows": (np.repeat(X[:40], 5, axis=0), np.repeat(y[:40], 5), 1.0),
        "repeated columns": (np.hstack([X, X]), y, 1.0),
        "rows of both classes": (np.repeat(X[:40], 2, axis=0), np.tile([0, 1], 40), 1.0),
        "all zero": (0 * X, y, 1.0),
        "large C": (X, y, 1e6),
        "large C, separable": (wide, labels, 1e6),
        "small C": (X, y, 1e-8),
        "large scale": (1e8 * X, y, 1.0),
        "small scale": (1e-6 * X, y, 1.0),
        "far from zero": (X + 1e4, y, 1.0),
        "one huge value": (outlier, y, 1.0),
        "float32": (X.astype(np.float32), y, 1.0),
        "float16": (X.astype(np.float16), y, 1.0),
    }


@pytest.mark.parametrize("name", trouble())
@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
def test_trouble_is_solved_at_least_as_well_as_by_liblinear(name: str) -> None:
    X, y, C = trouble()[name]
    ours = BatchedLinearSVC(C, device="cpu").fit(X, y)  # a ConvergenceWarning would be an error here
    theirs = LinearSVC(C=C, dual=False, tol=1e-8, max_iter=2000).fit(X.astype(np.float64), y)
    for k, positive in enumerate([1] if y.max() == 1 else range(y.max() + 1)):
        sign = np.where(y == positive, 1.0, -1.0)

        def objective(w: NDArray[Any], b: float, sign: NDArray[Any] = sign) -> float:
            slack = np.maximum(0, 1 - sign * (X.astype(np.float64) @ w + b))
            return float(0.5 * (w @ w + b * b) + C * (slack**2).sum())

        own = objective(ours.coef_[k], ours.intercept_[k])
        assert own == pytest.approx(ours.objective_[k], rel=1e-10)
        assert own <= objective(theirs.coef_[k], theirs.intercept_[k]) * (1 + 1e-8)


def test_a_class_that_a_fold_lacks_is_never_predicted_there() -> None:
    X, _ = problem(43, 5, 2)
    y = np.array([0] * 20 + [1] * 20 + [2] * 3)
    X[40:] += 5
    cv = [(np.arange(40), np.arange(40, 43)), (np.arange(10, 43), np.arange(10))]
    found = LinearSVCPath((0.1, 1.0), cv=cv, device="cpu").fit(X, y)
    assert found.cv_results_["split0_test_score"].tolist() == [0.0, 0.0]
    assert found.coef_.shape == (3, 5)
    assert found.predict(X[40:]).tolist() == [2, 2, 2]


def many_columns() -> tuple[NDArray[Any], NDArray[Any]]:
    return problem(600, 120, 60)


def test_batches_on_several_threads_give_the_solution_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = many_columns()
    before = torch.get_num_threads()
    found = {}
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        fits = shared_fits(X, y)
        assert fits.threads == threads
        assert sorted(torch.cat(fits._batches()).tolist()) == list(range(120))
        ticks: list[int] = []
        counts = fits.held_out_counts((1e-3, 1e-1), ticks.append)
        assert sum(ticks) == 240
        found[threads] = counts.correct.tolist(), *fits.solve(0.1)[1:]
    monkeypatch.undo()
    assert found[1][0] == found[3][0]
    for one, three in zip(found[1][1:], found[3][1:], strict=True):
        assert three.numpy() == pytest.approx(one.numpy(), rel=1e-2, abs=1e-4)
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("classes", "rounds", "sizes"), [(4, 1, [8]), (21, 1, [22, 20]), (60, 3, [20] * 6), (61, 3, [22] * 5 + [12])]
)
def test_folds_of_a_class_stay_together_and_batches_are_alike(
    classes: int, rounds: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("GOOD_BATCH", 20), ("GOOD_PRODUCT", 0), ("LEAST_PRODUCT", 0), ("MOST_ROUNDS", rounds)):
        monkeypatch.setattr(f"l2a_transfer.svm.shared_fits.{name}", value)
    X, y = problem(244, 5, classes)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 2)
        fits = shared_fits(X, y)
    assert [len(place) for place in fits._batches()] == sizes
    for place in fits._batches():
        assert ((place % classes).reshape(-1, 2).diff(dim=1) == 0).all()


def test_pieces_come_in_order_and_a_failing_one_stops_the_others() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    ended: list[int] = []

    def work(piece: int, check: Callable[[], None]) -> int:
        assert torch.get_num_threads() == 1
        seen.append(piece)
        if piece == 5:
            raise ValueError("the fifth")
        for _ in range(20_000 if 5 in pieces else 10 * (4 - piece)):  # the first piece ends last
            check()
            time.sleep(0.001)
        ended.append(piece)
        return piece

    pieces = [1, 2, 3]
    assert list(side_by_side(work, pieces, 2)) == pieces
    assert torch.get_num_threads() == before
    seen.clear()
    ended.clear()
    pieces = [1, 5, 2, 3, 4]
    with pytest.raises(ValueError, match="the fifth"):
        list(side_by_side(work, pieces, 2))
    assert sorted(seen) in ([1, 5], [1, 2, 5])
    assert ended == []
    assert torch.get_num_threads() == before


def test_batches_are_solved_at_once_only_with_memory_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = many_columns()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    sizes = {"folds": 2, "problems": 120}
    needed = next(
        n for n in range(8 << 20, 1 << 30, 1 << 20) if plan_memory(*X.shape, **sizes, budget=n).moments
    )  # bytes
    tight, roomy = shared_fits(X, y, max_memory=needed), shared_fits(X, y, max_memory=int(needed / ROOMY) + (1 << 20))
    assert (tight.threads, tight.batch) == (1, 120)
    assert (roomy.threads, roomy.plan.moments) == (2, True)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_tick_that_raises_ends_the_search(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = many_columns()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: threads)
        fits = shared_fits(X, y)
    assert fits.threads == threads

    def tick(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fits.held_out_counts((1e-3, 1e-1), tick)
