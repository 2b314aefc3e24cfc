"""Score intervals and the paired test: Wilson's interval, sums written down by hand, and p, interval and sign agree."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from l2a_transfer.evaluation.paired import VALUES, PairedTest, mcnemar, paired_test, permutation_p
from l2a_transfer.evaluation.score import Outcomes


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def of_counts(counts: list[tuple[int, int, int]]) -> PairedTest:
    """The test where class k has (only a right, only b right, the same) images."""
    truth, right_a, right_b = [], [], []
    for k, (only_a, only_b, same) in enumerate(counts):
        truth += [k] * (only_a + only_b + same)
        right_a += [True] * only_a + [False] * only_b + [True] * same
        right_b += [False] * only_a + [True] * only_b + [True] * same
    return paired_test(np.array(truth, dtype=np.int32), np.array(right_a), np.array(right_b), rng=rng())


@pytest.mark.parametrize(("right", "rows"), [(19, 19), (0, 7), (60, 100), (1, 3), (1, 1)])
def test_one_class_has_wilsons_interval(right: int, rows: int) -> None:
    low, high = Outcomes(np.array([[[right, rows - right]]], dtype=float), np.array([1.0, 0.0])).interval(0.95)
    wilson = binomtest(right, rows).proportion_ci(0.95, method="wilson")
    assert (low[0], high[0]) == (pytest.approx(wilson.low, abs=1e-8), pytest.approx(wilson.high, abs=1e-8))


def test_one_class_without_a_disagreement_has_wilsons_interval_on_both_sides() -> None:
    """Of n images none is one model's alone: δ is not rejected while δ² ≤ z² δ(1 − δ)/n, so δ ≤ z²/(n + z²)."""
    found = of_counts([(0, 0, 20)])
    z2 = 1.959963984540054**2
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.interval(0.95) == pytest.approx((-z2 / (20 + z2), z2 / (20 + z2)), abs=2e-2)
    assert found.interval(0.95)[0] == pytest.approx(-found.interval(0.95)[1])


def test_equal_classes_are_the_sign_test() -> None:
    """a alone gets 8 right, b alone 1, in two classes of 10: 2 · (C(9,0) + C(9,1)) / 2⁹ = 20/512."""
    assert permutation_p(np.array([6, 2]), np.array([0, 1]), np.array([10, 10]), rng=rng()) == pytest.approx(20 / 512)


def test_the_permutation_p_counts_all_swaps_one_by_one() -> None:
    """Classes of 3, 4 and 7 images, of which 2, 3 and 1 are one model's alone: 2⁶ ways to swap, in fractions."""
    only_a, only_b, rows = np.array([2, 2, 1]), np.array([0, 1, 0]), np.array([3, 4, 7])
    weights = [Fraction(1, int(n)) for n, d in zip(rows, only_a + only_b, strict=True) for _ in range(d)]
    observed = abs(sum(Fraction(int(a - b), int(n)) for a, b, n in zip(only_a, only_b, rows, strict=True)))
    sums = [
        abs(sum(s * w for s, w in zip(signs, weights, strict=True))) for signs in itertools.product((1, -1), repeat=6)
    ]
    exact = sum(value >= observed for value in sums) / 64
    assert permutation_p(only_a, only_b, rows, rng=rng()) == pytest.approx(exact, abs=1e-15)
    drawn = permutation_p(only_a, only_b, rows, rng=rng(), most=1)
    assert drawn == pytest.approx(exact, abs=0.005)
    assert drawn > 0


def test_a_drawn_p_is_never_0() -> None:
    assert permutation_p(np.full(40, 9), np.zeros(40, dtype=int), np.arange(20, 60), rng=rng()) == 1 / 100_001


def test_accuracy_and_class_mean_of_other_signs_do_not_name_the_worse_model() -> None:
    """900 rows of one class and 20 of another: a has accuracy 0.967 and class mean 0.739, b 0.911 and 0.906. McNemar's
    p of 4e-07 speaks for a, the headline for b."""
    found = of_counts([(60, 0, 840), (2, 10, 8)])
    assert mcnemar(62, 10) < 1e-9
    assert found.difference == pytest.approx((60 / 900 - 8 / 20) / 2)
    assert found.difference < 0
    assert found.p == found.p_permutation == pytest.approx(0.038581, abs=1e-6)
    assert found.interval(0.95)[1] < 0


def test_one_image_of_a_class_cannot_carry_a_verdict() -> None:
    """19 images of one class, of which a alone gets 6, and a single one of another, which both get: the permutation
    test knows nothing of the second class; the score test knows that one image is no evidence."""
    found = of_counts([(6, 0, 13), (0, 0, 1)])
    assert found.p_permutation == pytest.approx(2 / 2**6)
    assert found.p > 0.2
    assert found.interval(0.95)[0] < 0 < found.interval(0.95)[1]


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 40)).filter(lambda c: sum(c) > 0),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([0.8, 0.95, 0.99, 1 - 0.05 / 18]),
)
def test_p_and_interval_agree_whatever_the_counts(counts: list[tuple[int, int, int]], confidence: float) -> None:
    found = of_counts(counts)
    low, high = found.interval(confidence)
    assert -1 <= low <= found.difference <= high <= 1
    assert (found.p < 1 - confidence) == (low > 0 or high < 0)
    if found.p < 1 - confidence:
        assert np.sign(low) == np.sign(high) == np.sign(found.difference)


def test_swapping_the_models_turns_everything_round() -> None:
    counts = [(6, 1, 13), (2, 0, 3)]
    one, other = of_counts(counts), of_counts([(b, a, same) for a, b, same in counts])
    assert one.difference == -other.difference
    assert one.p == pytest.approx(other.p)
    low, high = one.interval(0.95)
    assert other.interval(0.95) == (pytest.approx(-high), pytest.approx(-low))


def test_an_interval_widens_with_its_confidence_and_replicates_do_not_mix() -> None:
    counts = np.array([[[5, 1, 14], [0, 3, 2]], [[0, 0, 20], [1, 0, 4]]], dtype=float)
    both = Outcomes(counts, VALUES)
    for k in range(2):
        alone = Outcomes(counts[k : k + 1], VALUES)
        assert [end[k] for end in both.interval(0.95)] == pytest.approx([end[0] for end in alone.interval(0.95)])
        assert both.statistic(0.1)[k] == pytest.approx(alone.statistic(0.1)[0])
    assert (both.interval(0.99)[0] < both.interval(0.95)[0]).all()
    assert (both.interval(0.99)[1] > both.interval(0.95)[1]).all()


def test_a_bound_is_where_the_score_statistic_is_the_normal_quantile() -> None:
    outcomes = Outcomes(np.array([[[8, 2], [3, 1], [40, 60]]], dtype=float), np.array([1.0, 0.0]))
    low, high = (float(end[0]) for end in outcomes.interval(0.95))
    assert outcomes.statistic(low)[0] == pytest.approx(1.959964, abs=1e-4)
    assert outcomes.statistic(high)[0] == pytest.approx(-1.959964, abs=1e-4)


def test_mcnemar_is_the_exact_sign_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 2**6)
    assert mcnemar(9, 1) == mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
