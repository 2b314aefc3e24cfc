"""The random-effects mean: cases that can be worked out by hand, and a published example."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtrit
from scipy.stats import ttest_1samp

from l2a_transfer.study.effects import random_effects

# The BCG vaccine trials (Colditz et al. 1994): log risk ratios and their variances, as metafor's dat.bcg gives them.
BCG = [
    (4, 119, 11, 128),
    (6, 300, 29, 274),
    (3, 228, 11, 209),
    (62, 13536, 248, 12619),
    (33, 5036, 47, 5761),
    (180, 1361, 372, 1079),
    (8, 2537, 10, 619),
    (505, 87886, 499, 87892),
    (29, 7470, 45, 7232),
    (17, 1699, 65, 1600),
    (186, 50448, 141, 27197),
    (5, 2493, 3, 2338),
    (27, 16886, 29, 17825),
]


def test_two_targets_by_hand() -> None:
    """Σ w (y − μ)² = (y₁ − y₂)² / (v₁ + v₂ + 2τ²) = 1 gives τ² = ((y₁ − y₂)² − v₁ − v₂) / 2."""
    found = random_effects([0.0, 4.0], [1.0, 3.0])
    assert found.tau**2 == pytest.approx(6.0)
    weights = np.array([1 / 7, 1 / 9])
    assert found.weights == pytest.approx(weights / weights.sum())
    assert found.test.difference == pytest.approx(4 * 7 / 16)
    assert found.test.error == pytest.approx((63 / 16) ** 0.5)  # 1/Σw, because at this τ² the factor is 1
    assert found.q == pytest.approx(4.0)
    assert found.i2 == pytest.approx(0.75)


@pytest.mark.parametrize("variance", [1e-6, 0.1, 0.3])
def test_equal_variances_give_the_t_interval_of_one_sample(variance: float) -> None:
    y = [0.3, -0.1, 0.9, 1.4, 0.2]
    found, known = random_effects(y, [variance] * 5), ttest_1samp(y, 0.0)
    assert found.test.difference == pytest.approx(np.mean(y))
    assert found.test.p == pytest.approx(known.pvalue)
    assert found.test.interval(0.9) == pytest.approx(tuple(known.confidence_interval(0.9)))
    assert found.tau**2 == pytest.approx(float(np.var(y, ddof=1)) - variance)
    assert found.factor == pytest.approx(1.0)


def test_targets_that_agree_by_chance_are_not_surer_than_what_is_known_of_each() -> None:
    found = random_effects([1.0, 1.1, 0.9], [1.0, 2.0, 4.0])
    assert (found.tau, found.i2) == (0.0, 0.0)
    assert found.weights == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    assert found.test.error == pytest.approx(1.75**-0.5)  # 1/√Σw, and not the spread of the three differences
    mean = 1 + 0.1 * (2 - 1) / 7
    assert found.factor == pytest.approx(((1 - mean) ** 2 + (1.1 - mean) ** 2 / 2 + (0.9 - mean) ** 2 / 4) / 2)


def test_two_targets_a_tenth_apart() -> None:
    """As the docstring has it: errors of 1 each, so that ± 0.6 would be the interval of the unheld factor."""
    found = random_effects([0.0, 0.1], [1.0, 1.0])
    t = float(stdtrit(1, 0.975))
    assert t * (found.factor / 2) ** 0.5 == pytest.approx(0.635, abs=5e-4)
    assert found.test.interval(0.95) == pytest.approx((0.05 - t / 2**0.5, 0.05 + t / 2**0.5))


def test_the_published_example_of_the_bcg_trials() -> None:
    """τ² of Paule and Mandel is 0.3181, Q is 152.2330, as metafor prints them for these trials."""
    y = [np.log(a / (a + b)) - np.log(c / (c + d)) for a, b, c, d in BCG]
    v = [1 / a - 1 / (a + b) + 1 / c - 1 / (c + d) for a, b, c, d in BCG]
    found = random_effects(y, v)
    assert found.tau**2 == pytest.approx(0.3181, abs=5e-5)
    assert found.q == pytest.approx(152.2330, abs=5e-5)
    assert found.test.difference == pytest.approx(-0.7150, abs=5e-4)
    assert found.test.freedom == 12


@pytest.mark.parametrize(("y", "v"), [([1.0], [1.0]), ([1.0, 2.0], [1.0, 0.0]), ([1.0, np.nan], [1.0, 1.0])])
def test_what_has_no_mean_is_refused(y: list[float], v: list[float]) -> None:
    with pytest.raises(ValueError, match=r"random-effects mean|must be finite"):
        random_effects(y, v)
