"""Accuracies and intervals: exact on hand-made cases, and against the published formulae."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, t, ttest_ind

from l2a_transfer.evaluation.confusion import Confusion
from l2a_transfer.evaluation.score import Outcomes
from l2a_transfer.evaluation.statistics import (
    RIGHT_OR_WRONG,
    Interval,
    accuracy,
    accuracy_interval,
    bonferroni,
    contrast_over_seeds,
    corrected_resampled_t,
    images_error,
    interval_over_draws,
    macro_f1,
    mean_class_accuracy,
    mean_class_accuracy_interval,
    over_draws,
    over_seeds,
    pooled,
    top_k,
)
from tests.made_results import cells


def matrix(*rows: list[int]) -> Confusion:
    return Confusion(len(rows), np.array(cells(rows), dtype=np.int64))


def test_confusion_matrix_counts_true_by_predicted() -> None:
    truth = np.array([0, 0, 1, 2, 2, 2], dtype=np.int32)
    predicted = np.array([0, 1, 1, 0, 2, 2], dtype=np.int32)
    found = Confusion.from_labels(truth, predicted, 3)
    assert found.cells.tolist() == [[0, 0, 1], [0, 1, 1], [1, 1, 1], [2, 0, 1], [2, 2, 2]]
    assert [found.right.tolist(), found.tested.tolist(), found.answered.tolist()] == [[1, 1, 2], [2, 1, 3], [2, 2, 2]]
    both = Confusion.total([found, Confusion.from_labels(truth, truth, 3)])
    assert both.cells.tolist() == [[0, 0, 3], [0, 1, 1], [1, 1, 2], [2, 0, 1], [2, 2, 5]]


def test_accuracy_and_mean_class_accuracy_of_unequal_classes() -> None:
    confusion = matrix([90, 10], [5, 5])
    assert accuracy(confusion) == 95 / 110
    assert mean_class_accuracy(confusion) == (0.9 + 0.5) / 2


def test_a_class_without_test_rows_does_not_count() -> None:
    assert mean_class_accuracy(matrix([3, 1, 0], [0, 0, 0], [0, 0, 2])) == (0.75 + 1) / 2


def test_19_of_19_right_are_not_100_percent_for_sure() -> None:
    """Wilson: 19/(19 + 1.96²) = 0.832; ten classes of 100 images say more, and one class of one image says little."""
    found = accuracy_interval(matrix([10, 0], [0, 9]))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(19 / (19 + 1.959963984540054**2))
    assert mean_class_accuracy_interval(matrix([18, 0], [0, 1])).low < 0.6
    assert mean_class_accuracy_interval(matrix(*np.diag(np.full(10, 100)).tolist())).low > 0.99


def test_accuracy_has_wilsons_interval() -> None:
    found = accuracy_interval(matrix([60, 40], [20, 80]))
    wilson = binomtest(140, 200).proportion_ci(0.95, method="wilson")
    assert (found.value, found.low, found.high) == (0.7, pytest.approx(wilson.low), pytest.approx(wilson.high))


def test_the_interval_of_the_mean_class_accuracy_weighs_classes_alike() -> None:
    """Its spread is sqrt(Σ p(1−p)/n)/K; the rare class decides it, which rows drawn over all classes would blur."""
    found = mean_class_accuracy_interval(matrix([9900, 100], [1000, 1000]))
    spread = math.sqrt(0.99 * 0.01 / 10_000 + 0.25 / 2000) / 2
    assert found.value == pytest.approx(0.745)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * spread, rel=0.01)


def test_classes_without_rows_do_not_count_in_the_interval() -> None:
    found = mean_class_accuracy_interval(matrix([8, 2, 0], [0, 0, 0], [0, 1, 9]))
    assert found == mean_class_accuracy_interval(matrix([8, 2], [1, 9]))
    assert found.low < found.value < found.high


@pytest.mark.parametrize("shared", [0.0, 0.5])
@pytest.mark.parametrize("values", [[1 / 600] * 3, [0.72 - 0.7, 0.74 - 0.72, 0.76 - 0.74], [0.0, 0.0]])
def test_draws_without_spread_are_no_evidence(values: list[float], shared: float) -> None:
    """Among them differences that are equal but for rounding."""
    assert corrected_resampled_t(values, shared=shared) is None
    assert over_draws(values, many(0.5), shared=shared) is None


@pytest.mark.parametrize("b", [[0.8, 0.8, 0.8], [0.8, 0.81, 0.82]])
def test_seeds_without_spread_are_no_evidence(b: list[float]) -> None:
    assert over_seeds([0.9, 0.9, 0.9], b, images=0.01, freedom=100) is None


def many(accuracy: float) -> Outcomes:
    """So many images that their own interval has no width to speak of."""
    return pooled(
        np.array([[1e12 * accuracy, 1e12 * (1 - accuracy)]]), RIGHT_OR_WRONG, np.array([10**12]), draws=1, shared=0.0
    )


def corrected_t(values: list[float], *, shared: float) -> Interval:
    return interval_over_draws(values, many(float(np.mean(values))), shared=shared)


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
        corrected_resampled_t([0.5], shared=0.5)


def test_draws_that_agree_by_chance_are_as_wide_as_their_test_images_say() -> None:
    """Three draws of the same four images a class: 3 of 4 right in each. Wilson's interval of 3 of 4 in one class."""
    images = pooled(np.array([[9, 3]]), RIGHT_OR_WRONG, np.array([4]), draws=3, shared=0.3)
    wilson = binomtest(3, 4).proportion_ci(0.95, method="wilson")
    for values in ([0.75, 0.75, 0.75], [0.75, 0.7501, 0.7499]):
        found = interval_over_draws(values, images, shared=0.3)
        assert (found.value, found.low, found.high) == pytest.approx((0.75, wilson.low, wilson.high))


def test_draws_count_as_their_different_images_or_fewer() -> None:
    """Ten draws, ρ = 0.5, are worth 1/1.1 of one in a class of few images; of draws with nothing in common all images
    count, if they differ, and so they do in a class of many."""
    counts = np.array([[30, 10], [8, 2], [0, 0]])  # 4 and 1 images a draw
    found = pooled(counts, RIGHT_OR_WRONG, np.array([8, 2, 0]), draws=10, shared=0.5)
    assert found.counts[0] == pytest.approx(np.array([[3, 1], [0.8, 0.2]]) / 1.1)
    alone = pooled(counts, RIGHT_OR_WRONG, np.array([8, 2, 0]), draws=10, shared=0.0)
    assert alone.counts[0] == pytest.approx(np.array([[6, 2], [1.6, 0.4]]))
    assert found.estimate == pytest.approx((0.75 + 0.8) / 2)
    assert alone.estimate == pytest.approx((0.75 + 0.8) / 2)
    large = pooled(10 * counts, RIGHT_OR_WRONG, np.array([80, 20, 0]), draws=10, shared=0.5)
    assert large.counts[0] == pytest.approx(np.array([[60, 20], [16, 4]]))


def test_over_draws_the_larger_p_and_the_wider_interval_count() -> None:
    """Ten draws say +5 points for sure; the four different images that they test do not."""
    images = pooled(np.array([[4, 0, 36]]), np.array([1.0, -1.0, 0.0]), np.array([4]), draws=10, shared=0.3)
    found = over_draws([0.1 + 0.001 * k for k in range(10)], images, shared=0.3)
    assert found is not None
    assert found.draws.p < 1e-6
    assert found.p > 0.3
    low, high = found.interval(0.95)
    assert low < 0 < high


def test_macro_f1_by_hand() -> None:
    """Class 0: 2·3/(4 + 4); class 1: 2·1/(2 + 2); class 2 is neither true nor predicted and does not count."""
    assert macro_f1(matrix([3, 1, 0], [1, 1, 0], [0, 0, 0])) == pytest.approx((6 / 8 + 2 / 4) / 2)


def test_top_k_counts_ties_against_the_row() -> None:
    scores = np.array([[0.1, 0.9, 0.5], [0.5, 0.5, 0.1], [3.0, 2.0, 1.0]])
    truth = np.array([2, 0, 2], dtype=np.int32)
    assert top_k(scores, truth, 1).tolist() == [False, False, False]
    assert top_k(scores, truth, 2).tolist() == [True, True, False]
    assert top_k(scores, truth, 3).tolist() == [True, True, True]


def test_bonferroni_stops_at_1() -> None:
    assert bonferroni(0.01, 3) == pytest.approx(0.03)
    assert bonferroni(0.5, 3) == 1.0


def test_p_over_draws_agrees_with_its_interval() -> None:
    found = corrected_resampled_t([0.01, 0.03, 0.02, 0.05], shared=0.25)
    assert found is not None
    low, high = found.interval(0.95)
    error = (high - found.difference) / t.ppf(0.975, 3)
    assert found.p == pytest.approx(2 * t.sf(found.difference / error, 3))
    assert found.interval(1 - found.p)[0] == pytest.approx(0, abs=1e-12)
    assert low < found.difference < high
    with pytest.raises(ValueError, match="shared must be at least 0 and below 1"):
        corrected_resampled_t([0.1, 0.2], shared=1.0)


def test_without_an_error_over_images_seeds_are_compared_by_welchs_t() -> None:
    a, b = [0.75, 0.80, 0.85], [0.5, 0.55, 0.70, 0.72]
    found, expected = over_seeds(a, b, images=0.0, freedom=100), ttest_ind(a, b, equal_var=False)
    assert found is not None
    assert found.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert found.interval(0.95) == pytest.approx((low, high))


def test_the_error_over_images_is_added_to_the_one_over_seeds() -> None:
    """Seeds: s² = 0.01² a side, so 2 · 0.0001/3; images: 0.02². Degrees of freedom by Satterthwaite."""
    found = over_seeds([0.71, 0.72, 0.73], [0.60, 0.61, 0.62], images=0.02, freedom=50)
    assert found is not None
    seeds, images = 0.0001 / 3, 0.0004
    assert found.difference == pytest.approx(0.11)
    assert found.error == pytest.approx(math.sqrt(2 * seeds + images))
    assert found.freedom == pytest.approx((2 * seeds + images) ** 2 / (2 * seeds**2 / 2 + images**2 / 50))
    one_side = over_seeds([0.71, 0.72, 0.73], [0.6], images=0.02, freedom=50, fixed=True)
    assert one_side is not None
    assert one_side.error == pytest.approx(math.sqrt(seeds + images))


def test_in_a_contrast_seeds_that_are_equal_add_no_error() -> None:
    sides = [(1.0, [0.7, 0.7, 0.7]), (-1.0, [0.6, 0.61, 0.62])]
    found = contrast_over_seeds(sides, images=0.02, freedom=50)
    assert found is not None
    seeds = 0.0001 / 3
    assert (found.difference, found.error) == pytest.approx((0.09, math.sqrt(seeds + 0.0004)))
    assert found.freedom == pytest.approx((seeds + 0.0004) ** 2 / (seeds**2 / 2 + 0.0004**2 / 50))
    assert contrast_over_seeds([(1.0, [0.7, 0.7]), (-1.0, [0.6])], images=0.0, freedom=50) is None


def test_seeds_need_two_values_a_side() -> None:
    with pytest.raises(ValueError, match="at least two values on each side, got 3 and 1"):
        over_seeds([1.0, 2.0, 3.0], [1.0], images=0.1, freedom=9)


def test_the_error_over_images_by_hand() -> None:
    """Two classes of 2 and 4 rows; squares 2 and 1 of 6, whose mean is 1/2, so that each class gets 4 · 1/2 more."""
    truth = np.array([0, 0, 1, 1, 1, 1], dtype=np.int32)
    error, freedom = images_error(truth, np.array([1.0, -1.0, 1.0, 0.0, 0.0, 0.0]))
    assert error == pytest.approx(math.sqrt((4 / 6 / 2 + 3 / 8 / 4) / 4))
    assert freedom == 5
