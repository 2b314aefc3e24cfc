"""Planned contrasts: differences between networks over their training seeds, per target and on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import EvaluationError
from l2a_transfer.evaluation import statistics
from l2a_transfer.evaluation.statistics import CONFIDENCE, StudentT
from l2a_transfer.study.answers import RunAnswers
from l2a_transfer.study.effects import RandomEffects, over_runs, random_effects

ByRun = Mapping[str, Mapping[int | None, RunAnswers]]
"""The predictions of each model's runs, by seed."""


@dataclass(frozen=True)
class Estimate:
    """A difference as a fraction, with its 95 % interval and p value.

    Attributes
    ----------
    difference : float
        The estimate.
    error : float or None
        Its standard error.
    ci95, ci95_adjusted : tuple of float or None
        The 95 % interval, and the one adjusted for `comparisons` (Bonferroni).
    p, p_adjusted : float or None
        The p value, and the adjusted one.
    comparisons : int
        The number of comparisons that are adjusted for.
    not_defined : str
        Why intervals and p are None.
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
        """The estimate of a t test that is one of `comparisons`."""
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

    @classmethod
    def without_test(cls, difference: float, comparisons: int, why: str) -> Estimate:
        """An estimate that has no interval and no p."""
        return cls(difference, None, None, None, None, None, comparisons, why)


@dataclass(frozen=True)
class Measured:
    """A contrast on one target.

    Attributes
    ----------
    difference : float
        The estimate.
    test : StudentT or None
        The test over training seeds.
    not_defined : str
        Why there is no test.
    images : float
        The standard error over test images or, if it is larger, over draws.
    values : dict
        Model → seed → the measure of that run.
    """

    difference: float
    test: StudentT | None
    not_defined: str
    images: float
    values: dict[str, dict[int | None, float]]

    def estimate(self, comparisons: int) -> Estimate:
        """The estimate, as one of `comparisons`."""
        if self.test is not None:
            return Estimate.from_test(self.test, comparisons)
        return Estimate.without_test(self.difference, comparisons, self.not_defined)


@dataclass(frozen=True)
class OnTarget:
    """A contrast on one target. `seeds` is the number of runs of each model."""

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
    """The random-effects mean of the differences on several targets.

    Attributes
    ----------
    name : str
        The name of the summary.
    planned : tuple of str
        The targets of the summary.
    targets : tuple of str
        Those of them on which the contrast has a standard error.
    estimate : Estimate or None
        The mean. It and the statistics are None for fewer than two targets.
    over_runs : Estimate or None
        The same mean with the interval over runs.
    tau, q, i2, factor : float or None
        As in `RandomEffects`.
    weights : tuple of float
        The weight of each target.
    """

    name: str
    planned: tuple[str, ...]
    targets: tuple[str, ...]
    estimate: Estimate | None = None
    over_runs: Estimate | None = None
    tau: float | None = None
    q: float | None = None
    i2: float | None = None
    factor: float | None = None
    weights: tuple[float, ...] = ()


def measure(weights: Mapping[str, float], runs: ByRun, metric: str) -> Measured:
    """A contrast on one target: the sum over models of weight times the mean of `metric` over the model's runs.

    The squared errors of two sources are added. Seeds: s²/n for each model with several runs (Welch 1947). Test images:
    the error of the contrast over the images; with several draws, that of the corrected resampled t test if it is
    larger. A model with one run does not contribute to the error of seeds, and the result holds for that run only.

    Parameters
    ----------
    weights : mapping
        The weight of each model.
    runs : mapping
        The runs of each model.
    metric : {"mean_class_accuracy", "accuracy"}
        What is compared.

    Raises
    ------
    EvaluationError
        If runs were not tested on the same images.
    """
    first = next(iter(next(iter(runs.values())).values()))
    truth = _check_same_images(runs, first)
    if metric == "accuracy":  # all images have the same weight, as if they were in one class
        truth = tuple(np.zeros_like(own) for own in truth)
    values = {model: {seed: mean_class(truth, run.right) for seed, run in runs[model].items()} for model in weights}
    sides = [(weight, list(values[model].values())) for model, weight in weights.items()]
    contrast = [
        np.sum(
            [w * np.mean([run.right[draw] for run in runs[model].values()], axis=0) for model, w in weights.items()],
            axis=0,
        )
        for draw in range(len(truth))
    ]
    difference = float(sum(weight * np.mean(side) for weight, side in sides))
    images, freedom = statistics.images_error(truth[0], contrast[0])
    if len(truth) > 1:
        by_draw = [mean_class((t,), (x,)) for t, x in zip(truth, contrast, strict=True)]
        draws = statistics.corrected_resampled_t(by_draw, shared=first.shared)
        if draws is None:
            why = f"the difference is the same in all {len(truth)} draws, so there is no spread to test against"
            return Measured(difference, None, why, images, values)
        if draws.error > images:
            images, freedom = draws.error, draws.freedom
    found = statistics.contrast_over_seeds(sides, images=images, freedom=freedom)
    why = "" if found else "the two sides answer alike on every image"
    return Measured(difference, found, why, images, values)


def value(run: RunAnswers, metric: str) -> float:
    """The mean class accuracy or the accuracy of a run, averaged over its draws."""
    truth = run.truth if metric == "mean_class_accuracy" else tuple(np.zeros_like(own) for own in run.truth)
    return mean_class(truth, run.right)


def over_targets(
    name: str, weights: Mapping[str, float], found: Mapping[str, Measured], planned: Sequence[str], comparisons: int
) -> OverTargets:
    """The mean over those of the `planned` targets on which the contrast has a standard error.

    Parameters
    ----------
    name : str
        The name of the summary.
    weights : mapping
        The weight of each model in the contrast.
    found : mapping
        The contrast on each target.
    planned : sequence of str
        The targets of the summary.
    comparisons : int
        The number of comparisons that intervals and p are adjusted for.
    """
    own = {target: found[target] for target in planned if target in found and found[target].test is not None}
    tests = [one.test for one in own.values() if one.test is not None]
    if len(tests) < 2:
        return OverTargets(name, tuple(planned), tuple(own))
    effects = random_effects([test.difference for test in tests], [test.error**2 for test in tests])
    return OverTargets(
        name=name,
        planned=tuple(planned),
        targets=tuple(own),
        estimate=Estimate.from_test(effects.test, comparisons),
        over_runs=_over_runs(weights, list(own.values()), effects, comparisons),
        tau=effects.tau,
        q=effects.q,
        i2=effects.i2,
        factor=effects.factor,
        weights=effects.weights,
    )


def _over_runs(
    weights: Mapping[str, float], found: Sequence[Measured], effects: RandomEffects, comparisons: int
) -> Estimate:
    """The estimate with the interval over runs. It needs every run on every target."""
    sides = []
    for model, weight in weights.items():
        by_target = [one.values[model] for one in found]
        if any(own.keys() != by_target[0].keys() for own in by_target):
            why = f"not every run of {model} was evaluated on every target"
            return Estimate.without_test(effects.test.difference, comparisons, why)
        sides.append((weight, np.array([[own[seed] for own in by_target] for seed in by_target[0]])))  # (runs, k)
    test = over_runs(sides, [one.images for one in found], effects)
    if test is None:
        return Estimate.without_test(effects.test.difference, comparisons, "the runs do not differ over the targets")
    return Estimate.from_test(test, comparisons)


def mean_class(truth: Sequence[NDArray[np.int32]], right: Sequence[NDArray[np.generic]]) -> float:
    """Mean over draws of the mean over classes of `right`, (n,), for test images of the classes `truth`, (n,)."""
    values = []
    for own, hits in zip(truth, right, strict=True):
        rows = np.bincount(own)  # (K,)
        sums = np.bincount(own, weights=hits.astype(np.float64))
        values.append(float(np.mean(sums[rows > 0] / rows[rows > 0])))
    return float(np.mean(values))


def _check_same_images(runs: ByRun, first: RunAnswers) -> tuple[NDArray[np.int32], ...]:
    for model, own in runs.items():
        for run in own.values():
            same = run.digests == first.digests and len(run.truth) == len(first.truth)
            if not same or any(not np.array_equal(x, y) for x, y in zip(run.truth, first.truth, strict=True)):
                raise EvaluationError(
                    f"{model} was not tested on the same images of {first.row['data']} as the networks beside it",
                    "extract all with the same split and limit, in another study's folder",
                )
    return first.truth


def _possible(interval: tuple[float, float]) -> tuple[float, float]:
    """The interval, clipped to −2…2: no contrast of two differences lies outside."""
    return max(interval[0], -2.0), min(interval[1], 2.0)
