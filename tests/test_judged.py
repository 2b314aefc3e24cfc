"""Tests that are judged together say what each says alone."""

from __future__ import annotations

import numpy as np
import pytest

from l2a_transfer.evaluation.judged import judge
from l2a_transfer.evaluation.score import Outcomes
from l2a_transfer.evaluation.statistics import OverDraws, StudentT

VALUES = np.array([1.0, -1.0, 0.0])


def over_draws(seed: int, classes: int) -> OverDraws:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 30, size=(1, classes, 3)).astype(np.float64) + np.array([0.0, 0.0, 1.0])
    return OverDraws(StudentT(float(rng.normal()) / 10, 0.05, 9.0), Outcomes(counts, VALUES))


@pytest.mark.parametrize("together", [1, 1 << 18])
def test_tests_together_say_what_each_says_alone(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2a_transfer.evaluation.judged.TOGETHER", together)
    tests = [over_draws(0, 5), None, StudentT(0.2, 0.1, 4.0), over_draws(1, 5), over_draws(2, 7), over_draws(3, 5)]
    levels = [(0.95, 0.99), (0.95,), (0.95,), (0.95, 0.99), (0.95, 0.99), (0.9, 0.95)]
    found = judge(tests, levels)
    assert found[1] is None
    for test, one, own in zip(tests, found, levels, strict=True):
        if test is not None:
            assert one is not None
            assert one.p == pytest.approx(test.p, rel=1e-9)
            for interval, confidence in zip(one.intervals, own, strict=True):
                assert interval == pytest.approx(test.interval(confidence), abs=1e-10)
