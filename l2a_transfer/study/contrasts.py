"""Planned contrasts: on each target a difference of networks over their training seeds, then one mean over targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import EvaluationError
from l2a_transfer.evaluation import statistics
from l2a_transfer.evaluation.statistics import CONFIDENCE, NO_SPREAD, StudentT
from l2a_transfer.study.answers import RunAnswers
from l2a_transfer.study.effects import RandomEffects, random_effects


@dataclass(frozen=True)
class Estimate:
    """A difference, a fraction, with its own 95 % interval and p, and both adjusted for `comparisons` (Bonferroni).

    Intervals and p are None where they are not defined, for the reason `not_defined`.
    """

    difference: float
    error: float | None
    ci95: tuple[float, float] | None
    ci95_adjusted: tuple[float, float] | None
    p: float | None
    p_adjusted: float | None
    comparisons: int
    not_defined: str = ""

    @classmethod
    def from_test(cls, test: StudentT, comparisons: int) -> Estimate:
        level = 1 - (1 - CONFIDENCE) / comparisons
        adjusted = statistics.bonferroni(test.p, comparisons)
        return cls(
            test.difference,
            test.error,
            _possible(test.interval(CONFIDENCE)),
            _possible(test.interval(level)),
            test.p,
            adjusted,
            comparisons,
        )


@dataclass(frozen=True)
class OnTarget:
    """A contrast on one target. `seeds`: of each model, how many runs; one is no sample of seeds."""

    target: str
    protocol: str
    shots: int | None
    draws: int
    n_train: int
    n_test: int
    seeds: dict[str, int]
    estimate: Estimate


@dataclass(frozen=True)
class OverTargets:
    """The random-effects mean of the differences on `targets`. `tau`: the standard deviation of the true differences
    between targets; `q` Cochran's; `factor` as `RandomEffects` has it; `weights`: of each target. None where fewer than
    two targets have an error.
    """

    name: str
    targets: tuple[str, ...]
    estimate: Estimate | None
    tau: float | None
    q: float | None
    i2: float | None
    factor: float | None
    weights: tuple[float, ...]


def on_target(weights: Mapping[str, float], runs: Mapping[str, Sequence[RunAnswers]], metric: str) -> StudentT | str:
    """Σ weight · mean over a model's runs of `metric`; or a sentence that says why there is no test.

    Seeds: s²/n of each side with several runs, as Welch (1947) has it. Images: the error of the same contrast over test
    images, and with several draws that of the corrected resampled t where it is the larger one; errors are added. A
    side of one run has no part in the seeds' error: then the result holds for that run only. Raises: EvaluationError
    for runs that were not tested on the same images.
    """
    first = next(iter(runs.values()))[0]
    truth = _check_same_images(runs, first)
    if metric == "accuracy":  # every image weighs alike, as if all were of one class
        truth = tuple(np.zeros_like(own) for own in truth)
    sides = [(weight, [mean_class(truth, run.right) for run in runs[model]]) for model, weight in weights.items()]
    contrast = [
        np.sum([w * np.mean([run.right[draw] for run in runs[model]], axis=0) for model, w in weights.items()], axis=0)
        for draw in range(len(truth))
    ]
    images, freedom = statistics.images_error(truth[0], contrast[0])
    if len(truth) > 1:
        by_draw = [mean_class((t,), (x,)) for t, x in zip(truth, contrast, strict=True)]
        draws = statistics.corrected_resampled_t(by_draw, shared=first.shared)
        if draws is None:
            return f"the difference is the same in all {len(truth)} draws, which leaves no spread to judge by"
        if draws.error > images:
            images, freedom = draws.error, draws.freedom
    found = statistics.contrast_over_seeds(sides, images=images, freedom=freedom)
    if found is not None:
        return found
    if any(len(side) > 1 and float(np.std(side, ddof=1)) < NO_SPREAD for _, side in sides):
        return "the training seeds of one side do not differ, which leaves no spread to judge by"
    return "the two sides answer alike on every image"


def difference(weights: Mapping[str, float], runs: Mapping[str, Sequence[RunAnswers]], metric: str) -> float:
    """The contrast alone."""
    return float(sum(w * np.mean([value(run, metric) for run in runs[model]]) for model, w in weights.items()))


def value(run: RunAnswers, metric: str) -> float:
    """A run's mean class accuracy, or accuracy, over its draws."""
    truth = run.truth if metric == "mean_class_accuracy" else tuple(np.zeros_like(own) for own in run.truth)
    return mean_class(truth, run.right)


def over_targets(name: str, found: Mapping[str, Estimate], targets: Sequence[str], comparisons: int) -> OverTargets:
    """The mean over those of `targets` on which the contrast has an error."""
    own = {target: found[target] for target in targets if target in found and found[target].error}
    if len(own) < 2:
        return OverTargets(
            name=name, targets=tuple(own), estimate=None, tau=None, q=None, i2=None, factor=None, weights=()
        )
    result: RandomEffects = random_effects(
        [one.difference for one in own.values()], [(one.error or 0.0) ** 2 for one in own.values()]
    )
    return OverTargets(
        name=name,
        targets=tuple(own),
        estimate=Estimate.from_test(result.test, comparisons),
        tau=result.tau,
        q=result.q,
        i2=result.i2,
        factor=result.factor,
        weights=result.weights,
    )


def mean_class(truth: Sequence[NDArray[np.int32]], right: Sequence[NDArray[np.generic]]) -> float:
    """Mean over draws of the mean over classes of `right` (n,), of a draw's test images, whose classes are `truth`."""
    values = []
    for own, hits in zip(truth, right, strict=True):
        rows = np.bincount(own)  # (K,)
        sums = np.bincount(own, weights=hits.astype(np.float64))
        values.append(float(np.mean(sums[rows > 0] / rows[rows > 0])))
    return float(np.mean(values))


def _check_same_images(runs: Mapping[str, Sequence[RunAnswers]], first: RunAnswers) -> tuple[NDArray[np.int32], ...]:
    for model, own in runs.items():
        for run in own:
            same = run.digests == first.digests and len(run.truth) == len(first.truth)
            if not same or any(not np.array_equal(x, y) for x, y in zip(run.truth, first.truth, strict=True)):
                raise EvaluationError(
                    f"{model} was not tested on the same images of {first.row['data']} as the networks beside it",
                    "extract all with the same split and limit, in another study's folder",
                )
    return first.truth


def _possible(interval: tuple[float, float]) -> tuple[float, float]:
    """Cut at −2 and 2, beyond which no contrast of two differences lies."""
    return max(interval[0], -2.0), min(interval[1], 2.0)
