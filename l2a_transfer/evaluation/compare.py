"""Comparisons of models on the same test images: difference, interval, p value and verdict, all for the mean class
accuracy."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import EvaluationError
from l2a_transfer.evaluation import statistics
from l2a_transfer.evaluation.comparison_families import FAMILIES, VARIANTS, Planned, Wanted, plan
from l2a_transfer.evaluation.groups import Group, Source, groups_of
from l2a_transfer.evaluation.judged import Judged, judge
from l2a_transfer.evaluation.paired import VALUES, PairedTest, mcnemar, outcomes_of, paired_test
from l2a_transfer.evaluation.probes.registry import SVM
from l2a_transfer.evaluation.statistics import CONFIDENCE, OverDraws, StudentT
from l2a_transfer.evaluation.verdict import population_of_groups, population_of_rows, sentence
from l2a_transfer.wording import counted


@dataclass(frozen=True)
class Answers:
    """Answers of one row of the table: for each draw, the true class index of each test image (ordered by id) and
    whether the answer was right. `digests`: of the splits. `shared`: the correlation of the draws. `different` (K,):
    the number of test images of each class over all draws."""

    source: Source
    protocol: str
    shots: int | None
    variant: str
    digests: tuple[str, ...]
    truth: tuple[NDArray[np.int32], ...]
    right: tuple[NDArray[np.bool_], ...]
    mean_class_accuracy: float
    shared: float
    different: NDArray[np.int64]
    probe: str = SVM

    @property
    def place(self) -> tuple[str, str, int | None, str]:
        """Only rows of the same place are compared."""
        return self.source.data, self.protocol, self.shots, self.probe

    @property
    def name(self) -> str:
        return f"{self.source.label}, {self.variant}" if self.variant else self.source.label


@dataclass(frozen=True)
class Comparison:
    """`a` against `b` on one data set. `difference`: mean class accuracy of a minus b, a fraction, with its own 95 %
    interval `ci95` and `p`, neither adjusted for other comparisons.

    `family`: one of FAMILIES, with `comparisons` members in the report; `p_adjusted` and `ci95_simultaneous` are
    adjusted for all of them (Bonferroni): the interval excludes 0 if and only if `p_adjusted` is below 0.05. `test`:
    `permutation` (rows of one split), `corrected-t` (draws) or `seeds`. Interval and p are None if undefined;
    `not_defined` says why. `only_a`, `only_b`: test images that only one model got right, over all draws. `p_mcnemar`:
    p of equal accuracy, each image weighing the same (one split only; not adjusted). `effect`: for a permutation test,
    the weighted share of the disagreements that a gets right, minus a half, an image weighing 1/(images of its class);
    otherwise the mean difference divided by its standard deviation over draws or seeds. `population`: what the verdict
    holds for. `n`: draws, or seeds per side (1 if a side is not a sample of seeds). `a` and `b` are names for readers;
    `files` (SHA-256 of each side's feature files), `variants` and `probe` identify the rows.
    """

    data: str
    protocol: str
    shots: int | None
    family: str
    comparisons: int
    a: str
    b: str
    population: str
    n: tuple[int, int]
    difference: float
    ci95: tuple[float, float] | None
    ci95_simultaneous: tuple[float, float] | None
    only_a: int
    only_b: int
    test: str
    p: float | None
    p_adjusted: float | None
    p_mcnemar: float | None
    effect: float | None
    not_defined: str
    verdict: str
    files: tuple[tuple[str, ...], tuple[str, ...]]
    variants: tuple[str, str]
    probe: str = SVM


@dataclass(frozen=True)
class _Found:
    """A comparison before adjustment, and its test (None if undefined)."""

    comparison: Comparison
    test: PairedTest | OverDraws | StudentT | None


def compare(
    answers: Sequence[Answers], *, seed: int, wanted: Wanted | None = None, called: Mapping[str, str] | None = None
) -> tuple[Comparison, ...]:
    """Compare the rows of each data set, protocol, k and probe, and each variant of a model with the unchanged model.

    Parameters
    ----------
    answers : sequence of Answers
        One for each row of the table.
    seed : int
        Random seed of the permutations.
    wanted : Wanted, optional
        Comparisons requested by the user; they replace the planned ones.

    Returns
    -------
    tuple of Comparison
        Families in the order of `FAMILIES`, each adjusted for its members.

    Raises
    ------
    EvaluationError
        If two rows that are to be compared were not tested on the same images.
    """
    found: list[_Found] = []
    sources = [a.source for a in answers]
    for place in dict.fromkeys(a.place for a in answers):
        here = [a for a in answers if a.place == place]
        plain = [a for a in here if not a.variant]
        planned = plan(groups_of(plain, sources), wanted or Wanted())
        planned += [
            Planned(VARIANTS, a, base)
            for base in plain
            for a in here
            if a.variant and a.source.sha256 == base.source.sha256
        ]
        found += [_compared(own, seed) for own in planned]
    found.sort(key=lambda own: list(FAMILIES).index(own.comparison.family))
    size = Counter(own.comparison.family for own in found)
    words = called or {}
    levels = [(CONFIDENCE, 1 - (1 - CONFIDENCE) / size[own.comparison.family]) for own in found]
    judged = judge([own.test for own in found], levels)
    return tuple(
        _adjusted(own, test, size[own.comparison.family], words.get(own.comparison.data, own.comparison.data))
        for own, test in zip(found, judged, strict=True)
    )


def _compared(planned: Planned[Answers], seed: int) -> _Found:
    if isinstance(planned.a, Group):
        assert isinstance(planned.b, Group)
        return _of_groups(planned.family, planned.a, planned.b)
    assert not isinstance(planned.b, Group)
    return _of_rows(planned.family, planned.a, planned.b, seed)


def _adjusted(found: _Found, test: Judged | None, size: int, where: str) -> Comparison:
    """The comparison adjusted for its family, with its verdict, in which the data are called `where`."""
    c = found.comparison
    ci95 = simultaneous = p_adjusted = None
    if test is not None:
        ci95, simultaneous = map(_possible, test.intervals)
        p_adjusted = statistics.bonferroni(test.p, size)
    verdict = sentence(
        c.a,
        c.b,
        where
        + (f" with {counted(c.shots, 'training image')} a class" if c.shots else "")
        + (f" by the probe {c.probe}" if c.probe != SVM else ""),
        difference=c.difference,
        interval=simultaneous,
        p_adjusted=p_adjusted,
        comparisons=size,
        population=c.population,
        not_defined=c.not_defined,
    )
    return dataclasses.replace(
        c,
        comparisons=size,
        ci95=ci95,
        ci95_simultaneous=simultaneous,
        p=None if test is None else test.p,
        p_adjusted=p_adjusted,
        verdict=verdict,
    )


def _possible(interval: tuple[float, float]) -> tuple[float, float]:
    """Clip to [-1, 1], the range of a difference of accuracies."""
    return max(interval[0], -1.0), min(interval[1], 1.0)


def _of_rows(family: str, a: Answers, b: Answers, seed: int) -> _Found:
    _check_same_images([a, b])
    only_a = sum(int((x & ~y).sum()) for x, y in zip(a.right, b.right, strict=True))
    only_b = sum(int((y & ~x).sum()) for x, y in zip(a.right, b.right, strict=True))
    draws = len(a.right)
    test: PairedTest | OverDraws | StudentT | None
    if draws == 1:
        paired = test = paired_test(a.truth[0], a.right[0], b.right[0], rng=np.random.default_rng(seed))
        difference, effect = paired.difference, _share(a.truth[0], a.right[0], b.right[0])
        why = ""
    else:
        values = [_mean_class(t, x) - _mean_class(t, y) for t, x, y in zip(a.truth, a.right, b.right, strict=True)]
        counts = [outcomes_of(t, x, y, len(a.different)) for t, x, y in zip(a.truth, a.right, b.right, strict=True)]
        images = statistics.pooled(np.sum(counts, axis=0), VALUES, a.different, draws=draws, shared=a.shared)
        difference, test = float(np.mean(values)), statistics.over_draws(values, images, shared=a.shared)
        effect = None if test is None else difference / float(np.std(values, ddof=1))
        why = (
            f"the difference is the same in all {draws} draws, so there is no spread to test against"
            if not test
            else ""
        )
    comparison = _comparison(
        a,
        family,
        a.name,
        b.name,
        test="permutation" if draws == 1 else "corrected-t",
        n=(draws, draws),
        effect=effect,
        difference=difference,
        only=(only_a, only_b),
        p_mcnemar=mcnemar(only_a, only_b) if draws == 1 else None,
        population=population_of_rows(a.source, b.source),
        not_defined=why,
        files=((a.source.sha256,), (b.source.sha256,)),
        variants=(a.variant, b.variant),
    )
    return _Found(comparison, test)


def _of_groups(family: str, a: Group[Answers], b: Group[Answers]) -> _Found:
    """Compare means over seeds; rows with the same seed are averaged first."""
    _check_same_images([*a.rows, *b.rows])
    fixed = not b.is_sample
    values_a, values_b = (
        [float(np.mean([row.mean_class_accuracy for row in own])) for own in group.runs] for group in (a, b)
    )
    first = a.rows[0]
    mean_a, mean_b = (_mean_right(group) for group in (a, b))
    test, why = None, ""
    if len(first.right) == 1:
        images, freedom = statistics.images_error(first.truth[0], mean_a[0] - mean_b[0])
    else:
        by_draw = [_mean_class(t, x) - _mean_class(t, y) for t, x, y in zip(first.truth, mean_a, mean_b, strict=True)]
        draws = statistics.corrected_resampled_t(by_draw, shared=first.shared)
        images, freedom = statistics.images_error(first.truth[0], mean_a[0] - mean_b[0])
        if draws is not None and draws.error > images:
            images, freedom = draws.error, draws.freedom
        why = f"the difference is the same in all {len(by_draw)} draws" if draws is None else ""
    if not why:
        test = statistics.over_seeds(values_a, values_b, images=images, freedom=freedom, fixed=fixed)
        why = (
            ""
            if test
            else "the training seeds of one side do not differ in accuracy, so there is no spread to test against"
        )
    sides = [values_a] if fixed else [values_a, values_b]
    spread = float(np.sqrt(np.mean([np.var(side, ddof=1) for side in sides])))
    difference = float(np.mean(values_a) - np.mean(values_b))
    comparison = _comparison(
        first,
        family,
        a.title,
        b.title,
        test="seeds",
        n=(len(values_a), len(values_b)),
        difference=difference,
        effect=difference / spread if test else None,
        only=(0, 0),
        p_mcnemar=None,
        not_defined=why,
        population=population_of_groups(a, b),
        files=(_files(a), _files(b)),
        variants=("", ""),
    )
    return _Found(comparison, test)


def _comparison(place: Answers, family: str, a: str, b: str, *, only: tuple[int, int], **given: Any) -> Comparison:
    return Comparison(
        data=place.source.data,
        protocol=place.protocol,
        shots=place.shots,
        probe=place.probe,
        family=family,
        comparisons=1,
        a=a,
        b=b,
        ci95=None,
        ci95_simultaneous=None,
        p=None,
        p_adjusted=None,
        verdict="",
        only_a=only[0],
        only_b=only[1],
        **given,
    )


def _check_same_images(rows: Sequence[Answers]) -> None:
    first = rows[0]
    for row in rows[1:]:
        same = row.digests == first.digests and len(row.truth) == len(first.truth)
        if not same or any(not np.array_equal(x, y) for x, y in zip(row.truth, first.truth, strict=True)):
            raise EvaluationError(
                f"{first.name} and {row.name} were not tested on the same images of {first.source.data}, so they "
                "cannot be paired",
                "extract both with the same `split` and `limit`",
            )


def _files(group: Group[Answers]) -> tuple[str, ...]:
    return tuple(row.source.sha256 for row in group.rows)


def _mean_right(group: Group[Answers]) -> list[NDArray[np.float64]]:
    """For each draw, the share of the group's seeds that get each test image right, (N,)."""
    runs = [
        [np.mean([row.right[draw] for row in own], axis=0) for draw in range(len(group.rows[0].right))]
        for own in group.runs
    ]
    return [np.mean(draw, axis=0) for draw in zip(*runs, strict=True)]


def _mean_class(truth: NDArray[np.int32], right: NDArray[Any]) -> float:
    return float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))


def _share(truth: NDArray[np.int32], right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> float | None:
    """Cohen's g with weight 1/(images of its class) for each image; None if the models never disagree."""
    _, index, rows = np.unique(truth, return_inverse=True, return_counts=True)
    weight = 1 / rows[index]
    only_a, only_b = float(weight[right_a & ~right_b].sum()), float(weight[right_b & ~right_a].sum())
    return only_a / (only_a + only_b) - 0.5 if only_a + only_b else None
