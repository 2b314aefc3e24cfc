"""Planned comparisons: the contrast on each target, over targets, and the verdict with what it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from l2a_transfer.study.answers import RunAnswers
from l2a_transfer.study.config import Comparison, Study
from l2a_transfer.study.contrasts import Measured, OnTarget, OverTargets, measure, over_targets
from l2a_transfer.study.steps import matched_width
from l2a_transfer.study.verdicts import INCOMPLETE, Interval, only_planned, verdict
from l2a_transfer.study.weights import PIXELS, Run

RAW, MATCHED = "as they are", "matched"
Place = tuple[str, str, int | None, int | None, str]
"""Target, protocol, shots, columns after PCA, and probe."""


@dataclass(frozen=True)
class Compared:
    """A planned comparison, with features as they are or matched (reduced to the same number of columns).

    Attributes
    ----------
    name, title : str
        Its name in the study's file, and the contrast in words.
    features : str
        `as they are` or `matched`.
    width : int or None
        The number of columns of matched features.
    metric, family : str
        What is compared, and the family of comparisons within which p values are adjusted.
    support, refute : str
        The rules of the study's file.
    targets : tuple of OnTarget
        The contrast on each target.
    missing : tuple of str
        Why the comparison is not complete: runs that are not evaluated, and targets of the first summary without a
        test.
    one_run : tuple of str
        Networks with one run. The intervals leave out their spread over seeds.
    summaries : tuple of OverTargets
        Means over targets; the first one decides.
    verdict : str
        What the rules say of the planned interval; empty without rules.
    verdict_over_runs : str
        What they say of the interval over runs.
    note : str
        The rules that only the planned interval satisfies, in words; empty if there are none.
    """

    name: str
    title: str
    features: str
    width: int | None
    metric: str
    family: str
    support: str
    refute: str
    targets: tuple[OnTarget, ...]
    missing: tuple[str, ...]
    one_run: tuple[str, ...]
    summaries: tuple[OverTargets, ...]
    verdict: str
    verdict_over_runs: str
    note: str


@dataclass(frozen=True)
class Found:
    """All predictions of a study by model, place and seed; the planned runs; the width of each model; and the first
    probe of each protocol, with which models are compared."""

    answers: dict[str, dict[Place, dict[int | None, RunAnswers]]]
    planned: tuple[Run, ...]
    widths: dict[str, int | None]
    probes: dict[str, str]

    def runs(self, model: str, place: tuple[str, str, int | None], width: int | None) -> dict[int | None, RunAnswers]:
        """The runs of a model at a place. A network of exactly this width is not reduced."""
        reduced = None if width == self.widths[model] else width
        return self.answers.get(model, {}).get((*place, reduced, self.probes[place[1]]), {})

    def lacking(self, model: str, there: dict[int | None, RunAnswers]) -> list[str]:
        """The names of the model's planned runs that are not `there`."""
        return [run.name for run in self.planned if run.model == model and run.seed not in there]

    def is_random(self, model: str) -> bool:
        """Whether a model has seeds: all but raw pixels do, even if only one was run."""
        return any(run.given != PIXELS for run in self.planned if run.model == model)


def compare(study: Study, found: Found) -> Iterator[Compared]:
    """Each comparison with features as they are; also matched, if the study asks for it and widths differ."""
    for comparison in study.comparisons:
        width = matched_width(study, comparison, found.widths) if comparison.matched else None
        family = [c for c in study.comparisons if c.family == comparison.family]
        sizes = len(family), sum(len(c.targets) for c in family)
        for own in (None, width) if width else (None,):
            yield compare_one(comparison, found, sizes, own)


def compare_one(comparison: Comparison, found: Found, sizes: tuple[int, int], width: int | None) -> Compared:
    """One comparison. Levels are adjusted for `sizes`: the comparisons of the family, and all their targets."""
    on: list[OnTarget] = []
    measured: dict[str, Measured] = {}
    missing: list[str] = []
    for target, protocol in zip(comparison.targets, comparison.protocols, strict=True):
        place = target, protocol, comparison.shots
        runs = {model: found.runs(model, place, width) for model in comparison.weights}
        missing += [
            f"{name} on {target}: not evaluated" for model, own in runs.items() for name in found.lacking(model, own)
        ]
        if all(runs.values()):
            measured[target] = measure(comparison.weights, runs, comparison.metric)
            on.append(_on_target(comparison, target, protocol, runs, measured[target], sizes[1]))
    summaries = tuple(
        over_targets(name, comparison.weights, measured, targets, sizes[0]) for name, targets in comparison.summaries
    )
    missing += [
        f"{target}: no test, because {measured[target].not_defined}"
        for target in (comparison.targets if len(comparison.targets) == 1 else summaries[0].planned)
        if target in measured and measured[target].test is None
    ]
    planned, runs_interval = _deciding(comparison, on, summaries[0])
    word, of_runs = (verdict(comparison, interval) for interval in (planned, runs_interval))
    if word and missing:
        word = of_runs = INCOMPLETE
    return Compared(
        name=comparison.name,
        title=comparison.title,
        features=RAW if width is None else MATCHED,
        width=width,
        metric=comparison.metric,
        family=comparison.family,
        support=str(comparison.support or ""),
        refute=str(comparison.refute or ""),
        targets=tuple(on),
        missing=tuple(missing),
        one_run=tuple(
            model for model in comparison.weights if any(one.seeds[model] == 1 for one in on) and found.is_random(model)
        ),
        summaries=summaries,
        verdict=word,
        verdict_over_runs=of_runs,
        note="" if missing else only_planned(comparison, planned, runs_interval),
    )


def _deciding(comparison: Comparison, on: list[OnTarget], first: OverTargets) -> tuple[Interval, Interval]:
    """The planned interval and the interval over runs that decide. On one target they are the same."""
    if len(comparison.targets) == 1:
        own = on[0].estimate.ci95_adjusted if on else None
        return own, own
    planned, runs = (None if one is None else one.ci95_adjusted for one in (first.estimate, first.over_runs))
    return planned, runs


def _on_target(
    comparison: Comparison,
    target: str,
    protocol: str,
    runs: dict[str, dict[int | None, RunAnswers]],
    measured: Measured,
    comparisons: int,
) -> OnTarget:
    row = next(iter(next(iter(runs.values())).values())).row
    return OnTarget(
        target=target,
        protocol=protocol,
        shots=comparison.shots,
        draws=row["draws"],
        n_train=row["n_train"],
        n_test=row["n_test"],
        seeds={model: len(own) for model, own in runs.items()},
        estimate=measured.estimate(comparisons),
    )
