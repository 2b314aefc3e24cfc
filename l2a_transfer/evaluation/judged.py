"""Evaluate many tests at once: a report of 60 models has 1,770 comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.special import ndtr

from l2a_transfer.evaluation.score import Outcomes
from l2a_transfer.evaluation.statistics import OverDraws

TOGETHER = 1 << 18
"""How many outcome counts are processed at a time."""


class Testing(Protocol):
    """A test of "the difference is 0" with a matching interval."""

    @property
    def p(self) -> float: ...
    def interval(self, confidence: float) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Judged:
    """The p value of a test, and its interval at each requested confidence."""

    p: float
    intervals: tuple[tuple[float, float], ...]


def judge(tests: Sequence[Testing | None], confidences: Sequence[tuple[float, ...]]) -> list[Judged | None]:
    """`p` and `interval` of each test at its `confidences`; None if there is no test.

    The score tests of `OverDraws` with the same number of classes are solved together, which takes little longer than
    solving one.
    """
    found: list[Judged | None] = [None] * len(tests)
    alike: dict[tuple[Any, ...], list[tuple[int, OverDraws]]] = {}
    for k, (test, own) in enumerate(zip(tests, confidences, strict=True)):
        if isinstance(test, OverDraws):
            alike.setdefault((test.images.counts.shape, test.images.values.tobytes(), own), []).append((k, test))
        elif test is not None:
            found[k] = Judged(test.p, tuple(test.interval(confidence) for confidence in own))
    for (_, _, own), members in alike.items():
        size = max(1, TOGETHER // members[0][1].images.counts.size)
        for start in range(0, len(members), size):
            some = members[start : start + size]
            images = Outcomes(np.concatenate([test.images.counts for _, test in some]), some[0][1].images.values)
            statistic, ends = images.statistic(0.0), [images.interval(confidence) for confidence in own]
            for place, (k, test) in enumerate(some):
                intervals = []
                for confidence, (low, high) in zip(own, ends, strict=True):
                    t_low, t_high = test.draws.interval(confidence)
                    intervals.append((min(float(low[place]), t_low), max(float(high[place]), t_high)))
                p = max(test.draws.p, float(2 * ndtr(-abs(statistic[place]))))
                found[k] = Judged(p, tuple(intervals))
    return found
