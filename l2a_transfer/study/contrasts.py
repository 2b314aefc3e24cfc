"""Planned contrasts: differences between networks over their training seeds, per target and on average."""

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
    targets : tuple of str
        Targets on which the contrast has a standard error.
    estimate : Estimate or None
        The mean. It and the statistics are None for fewer than two targets.
    tau, q, i2, factor : float or None
        As in `RandomEffects`.
    weights : tuple of float
        The weight of each target.
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
    """The t test of a contrast: the sum over models of weight times the mean of `metric` over the model's runs.

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

    Returns
    -------
    StudentT or str
        The test, or a sentence that says why there is none.

    Raises
    ------
    EvaluationError
        If runs were not tested on the same images.
    """
    first = next(iter(runs.values()))[0]
    truth = _check_same_images(runs, first)
    if metric == "accuracy":  # all images have the same weight, as if they were in one class
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
            return f"the difference is the same in all {len(truth)} draws, so there is no spread to test against"
        if draws.error > images:
            images, freedom = draws.error, draws.freedom
    found = statistics.contrast_over_seeds(sides, images=images, freedom=freedom)
    if found is not None:
        return found
    if any(len(side) > 1 and float(np.std(side, ddof=1)) < NO_SPREAD for _, side in sides):
        return "the training seeds of one side do not differ, so there is no spread to test against"
    return "the two sides answer alike on every image"


def difference(weights: Mapping[str, float], runs: Mapping[str, Sequence[RunAnswers]], metric: str) -> float:
    """The estimate of a contrast, without a test."""
    return float(sum(w * np.mean([value(run, metric) for run in runs[model]]) for model, w in weights.items()))


def value(run: RunAnswers, metric: str) -> float:
    """The mean class accuracy or the accuracy of a run, averaged over its draws."""
    truth = run.truth if metric == "mean_class_accuracy" else tuple(np.zeros_like(own) for own in run.truth)
    return mean_class(truth, run.right)


def over_targets(name: str, found: Mapping[str, Estimate], targets: Sequence[str], comparisons: int) -> OverTargets:
    """The mean over those of `targets` on which the contrast has a standard error."""
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
    """Mean over draws of the mean over classes of `right`, (n,), for test images of the classes `truth`, (n,)."""
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
    """The interval, clipped to −2…2: no contrast of two differences lies outside."""
    return max(interval[0], -2.0), min(interval[1], 2.0)
