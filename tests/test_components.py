"""Components by iteration: against exact ones, from a near start, and on rows that leave nothing to keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from l2a_transfer.svm import components
from l2a_transfer.svm.components import TOLERANCE, LeadingComponents


def rows_of(N: int, D: int, seed: int = 0) -> NDArray[np.float64]:
    """Correlated columns, whose variances fall slowly, as those of pixels do."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(D, D)))[0]
    own: NDArray[np.float64] = (rng.normal(size=(N, D)) * np.arange(1, D + 1) ** -0.7) @ basis + 3.0
    return own


def held(X: NDArray[Any], components: NDArray[Any]) -> float:
    """The variance of the rows along orthonormal components (k, D), summed."""
    return float(((X - X.mean(axis=0)) @ components.T).var(axis=0).sum())


def exact(X: NDArray[Any], k: int) -> NDArray[Any]:
    return np.linalg.svd(X - X.mean(axis=0), full_matrices=False)[2][:k]


@pytest.mark.parametrize(("N", "D"), [(90, 60), (60, 90)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e8])
def test_components_hold_what_exact_ones_hold(N: int, D: int, scale: float) -> None:
    X = rows_of(N, D) * scale
    found = LeadingComponents(15).fit(X)
    assert held(X, found.components_) >= held(X, exact(X, 15)) * (1 - TOLERANCE)
    np.testing.assert_allclose(found.components_ @ found.components_.T, np.eye(15), atol=1e-12)
    np.testing.assert_allclose(found.transform(X), (X - X.mean(axis=0)) @ found.components_.T, atol=1e-9 * scale)
    np.testing.assert_allclose(found.explained_variance_, found.transform(X).var(axis=0, ddof=1), rtol=1e-3)


def test_first_components_are_the_exact_ones_with_a_positive_largest_loading() -> None:
    X = rows_of(200, 60)
    found, expected = LeadingComponents(10).fit(X).components_, exact(X, 3)
    largest = found[np.arange(10), np.abs(found).argmax(axis=1)]
    assert (largest > 0).all()
    np.testing.assert_allclose(np.abs((found[:3] * expected).sum(axis=1)), 1, atol=1e-3)


def test_a_start_from_similar_rows_saves_iterations_and_ends_within_the_tolerance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X = rows_of(300, 120)
    near = LeadingComponents(20).fit(X)
    fold = X[:240]
    calls: list[int] = []
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda moment: (calls.append(1), eigh(moment))[1])
    cold = LeadingComponents(20).fit(fold)
    without = len(calls)
    warm = LeadingComponents(20, start=near.directions_).fit(fold)
    assert len(calls) - without < without
    for found in (cold, warm):
        assert held(fold, found.components_) >= held(fold, exact(fold, 20)) * (1 - TOLERANCE)


def test_two_fits_give_the_same_bytes() -> None:
    X = rows_of(80, 50)
    first, second = (LeadingComponents(10, seed=3).fit_transform(X) for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("rank", [0, 3])
def test_rows_of_less_rank_than_components_give_orthonormal_ones(rank: int) -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, rank)) @ rng.normal(size=(rank, 30)) + 1.0
    found = LeadingComponents(8).fit(X)
    np.testing.assert_allclose(found.components_ @ found.components_.T, np.eye(8), atol=1e-10)
    np.testing.assert_allclose(found.transform(X)[:, rank:], 0, atol=1e-4)


@pytest.mark.parametrize(("N", "D", "k"), [(60, 300, 24), (60, 300, 30), (50, 300, 30), (300, 60, 24), (300, 60, 35)])
@pytest.mark.parametrize("start", ["random", "of other rows", "at right angles"])
def test_the_first_directions_are_never_taken_for_the_components(N: int, D: int, k: int, start: str) -> None:
    """With nearly as many directions as rows, the spread of random directions looks like fast convergence."""
    rng = np.random.default_rng(0)
    scale = 1 / np.arange(1, D + 1) ** 0.7
    X = rng.normal(size=(N, D)) * scale
    given = None
    if start == "of other rows":
        given = LeadingComponents(k).fit(rng.normal(size=(N, D)) * scale).directions_
    elif start == "at right angles":  # to the columns of the largest variance
        given = np.eye(D, dtype=np.float32)[:, -min(2 * k, N, D) :]
    found = LeadingComponents(k, start=given).fit(X)
    expected = held(X, exact(X, k))
    assert held(X, found.components_) >= expected * (1 - TOLERANCE)
    assert found.explained_variance_.sum() * (N - 1) / N == pytest.approx(expected, rel=2 * TOLERANCE)


@pytest.mark.parametrize(("N", "D"), [(90, 60), (60, 90)])
def test_rows_on_which_the_iteration_does_not_end_get_the_exact_components(
    N: int, D: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(components, "MAX_ITERATIONS", 2)
    X = np.random.default_rng(0).normal(size=(N, D))  # variances that hardly fall
    found = LeadingComponents(15).fit(X)
    assert held(X, found.components_) == pytest.approx(held(X, exact(X, 15)), rel=1e-6)
    assert found.explained_variance_.sum() * (N - 1) / N == pytest.approx(held(X, exact(X, 15)), rel=1e-6)
    assert found.directions_.shape == (D, 30)
