"""Accuracies and intervals: exact on hand-made cases, and against the published formulae."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, t

from l2a_transfer.evaluation.statistics import (
    accuracy,
    bootstrap_accuracy,
    bootstrap_difference,
    bootstrap_mean_class_accuracy,
    confusion_matrix,
    corrected_t,
    corrected_t_p,
    holm,
    macro_f1,
    mcnemar,
    mean_class_accuracy,
    top_k,
    welch,
)


def matrix(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.int64)


def test_confusion_matrix_counts_true_by_predicted() -> None:
    truth = np.array([0, 0, 1, 2, 2, 2], dtype=np.int32)
    predicted = np.array([0, 1, 1, 0, 2, 2], dtype=np.int32)
    assert confusion_matrix(truth, predicted, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_accuracy_and_mean_class_accuracy_of_unequal_classes() -> None:
    confusion = matrix([90, 10], [5, 5])
    assert accuracy(confusion) == 95 / 110
    assert mean_class_accuracy(confusion) == (0.9 + 0.5) / 2


def test_a_class_without_test_rows_does_not_count() -> None:
    assert mean_class_accuracy(matrix([3, 1, 0], [0, 0, 0], [0, 0, 2])) == (0.75 + 1) / 2


def test_bootstrap_of_accuracy_has_the_binomial_quantiles() -> None:
    found = bootstrap_accuracy(matrix([60, 40], [20, 80]), samples=200_000, rng=np.random.default_rng(0))
    low, high = binom.ppf([0.025, 0.975], 200, 0.7) / 200
    assert found.value == 0.7
    assert found.low == pytest.approx(low, abs=0.0051)  # one row of 200
    assert found.high == pytest.approx(high, abs=0.0051)


def test_bootstrap_of_accuracy_agrees_with_resampling_rows_one_by_one() -> None:
    right = np.repeat([True, False], [30, 10])
    rng = np.random.default_rng(1)
    samples = right[rng.integers(0, 40, size=(20_000, 40))].mean(axis=1)
    found = bootstrap_accuracy(matrix([15, 5], [5, 15]), samples=20_000, rng=np.random.default_rng(2))
    np.testing.assert_allclose([found.low, found.high], np.quantile(samples, [0.025, 0.975]), atol=0.026)


def test_bootstrap_of_mean_class_accuracy_resamples_within_classes() -> None:
    """Its spread is sqrt(Σ p(1−p)/n)/K; the rare class decides it, which rows drawn over all classes would blur."""
    confusion = matrix([9900, 100], [100, 100])
    found = bootstrap_mean_class_accuracy(confusion, samples=200_000, rng=np.random.default_rng(0))
    spread = math.sqrt(0.99 * 0.01 / 10_000 + 0.25 / 200) / 2
    assert found.value == pytest.approx(0.745)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * spread, rel=0.06)


@pytest.mark.parametrize("bootstrap", [bootstrap_accuracy, bootstrap_mean_class_accuracy])
def test_a_bootstrap_is_repeatable_and_flat_where_all_rows_are_right(bootstrap: object) -> None:
    assert callable(bootstrap)
    confusion = matrix([7, 3], [4, 6])
    once, again = (bootstrap(confusion, samples=500, rng=np.random.default_rng(3)) for _ in range(2))
    assert once == again
    assert once.low < once.value < once.high
    perfect = bootstrap(matrix([5, 0], [0, 5]), samples=500, rng=np.random.default_rng(3))
    assert (perfect.low, perfect.value, perfect.high) == (1.0, 1.0, 1.0)


def test_corrected_t_on_a_case_computed_by_hand() -> None:
    """Draws 0.70, 0.72, 0.74: mean 0.72, s² = 0.0004; ρ = 1/3 is n_test/n_train = 1/2; variance 0.0004 · 5/6."""
    found = corrected_t([0.70, 0.72, 0.74], shared=1 / 3)
    half = 4.302652729911275 * math.sqrt(0.0004 * (1 / 3 + 1 / 2))
    assert found.value == pytest.approx(0.72)
    assert (found.low, found.high) == (pytest.approx(0.72 - half), pytest.approx(0.72 + half))


def test_corrected_t_is_the_published_formula_and_wider_than_the_plain_t() -> None:
    values = np.random.default_rng(0).normal(0.6, 0.01, size=10)
    found = corrected_t(list(values), shared=4000 / 7030)
    s2 = np.sum((values - values.mean()) ** 2) / 9
    half = t.ppf(0.975, 9) * np.sqrt((1 / 10 + 4000 / 3030) * s2)
    np.testing.assert_allclose([found.low, found.high], [values.mean() - half, values.mean() + half], rtol=1e-10)
    assert half > 3 * t.ppf(0.975, 9) * np.sqrt(s2 / 10)


def test_corrected_t_is_cut_at_0_and_1_and_needs_two_draws() -> None:
    found = corrected_t([0.99, 1.0], shared=0.5)
    assert (found.value, found.high) == (0.995, 1.0)
    assert corrected_t([0.0, 0.01], shared=0.5).low == 0.0
    with pytest.raises(ValueError, match="at least two draws, got 1"):
        corrected_t([0.5], shared=0.5)


def test_macro_f1_by_hand() -> None:
    """Class 0: 2·3/(4 + 4); class 1: 2·1/(2 + 2); class 2 is neither true nor predicted and does not count."""
    assert macro_f1(matrix([3, 1, 0], [1, 1, 0], [0, 0, 0])) == pytest.approx((6 / 8 + 2 / 4) / 2)


def test_top_k_counts_ties_against_the_row() -> None:
    scores = np.array([[0.1, 0.9, 0.5], [0.5, 0.5, 0.1], [3.0, 2.0, 1.0]])
    truth = np.array([2, 0, 2], dtype=np.int32)
    assert top_k(scores, truth, 1).tolist() == [False, False, False]
    assert top_k(scores, truth, 2).tolist() == [True, True, False]
    assert top_k(scores, truth, 3).tolist() == [True, True, True]


def test_mcnemar_is_the_exact_sign_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 2**6)
    assert mcnemar(9, 1) == mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)


def test_bootstrap_difference_has_the_spread_of_paired_rows() -> None:
    """One class, n rows: the difference (a − b)/n has variance (p_a + p_b − (p_a − p_b)²)/n."""
    n = 400
    truth = np.zeros(n, dtype=np.int32)
    right_a, right_b = np.arange(n) < 260, (np.arange(n) >= 60) & (np.arange(n) < 280)
    found = bootstrap_difference(truth, right_a, right_b, samples=20_000, rng=np.random.default_rng(0))
    only_a, only_b = 60 / n, 20 / n
    assert found.value == pytest.approx(40 / n)
    spread = math.sqrt((only_a + only_b - (only_a - only_b) ** 2) / n)
    assert (found.high - found.low) / (2 * 1.959964) == pytest.approx(spread, rel=0.03)


def test_bootstrap_difference_weighs_classes_alike() -> None:
    truth = np.array([0] * 90 + [1] * 10, dtype=np.int32)
    right_a, right_b = truth == 0, truth == 1
    found = bootstrap_difference(truth, right_a, right_b, samples=200, rng=np.random.default_rng(0))
    assert (found.low, found.value, found.high) == (0.0, 0.0, 0.0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_corrected_t_p_agrees_with_its_interval() -> None:
    values = [0.01, 0.03, 0.02, 0.05]
    found = corrected_t(values, shared=0.25, low=-1.0)
    half = found.high - found.value
    error = half / t.ppf(0.975, 3)
    assert corrected_t_p(values, shared=0.25) == pytest.approx(2 * t.sf(found.value / error, 3))
    assert corrected_t_p([0.1, 0.1], shared=0.5) == 0.0
    assert corrected_t_p([0.0, 0.0], shared=0.5) == 1.0
    with pytest.raises(ValueError, match="shared must be at least 0 and below 1"):
        corrected_t(values, shared=1.0)


def test_welch_needs_two_values_a_side() -> None:
    found, p = welch([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (found.value, p) == (0.0, 1.0)
    with pytest.raises(ValueError, match="at least two values on each side, got 3 and 1"):
        welch([1.0, 2.0, 3.0], [1.0])
