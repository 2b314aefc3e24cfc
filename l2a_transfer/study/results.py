"""The results of a study as plain data: rows over seeds, planned comparisons with their verdicts, hypotheses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from l2a_transfer.evaluation.probes.registry import SVM
from l2a_transfer.study.answers import EvaluationReader, RunAnswers
from l2a_transfer.study.config import Comparison, Hypothesis, Study
from l2a_transfer.study.contrasts import Estimate, OnTarget, OverTargets, difference, on_target, over_targets, value
from l2a_transfer.study.record import DONE, StudyFolder
from l2a_transfer.study.scheduler import Outcome
from l2a_transfer.study.steps import Plan, matched_width
from l2a_transfer.version import __version__

SCHEMA = "study-results/1"
SUPPORTED, REFUTED, BOTH, UNDECIDED = "supported", "refuted", "both rules hold", "not decided"
INCOMPLETE = "incomplete"
RAW, MATCHED = "as they are", "matched"


@dataclass(frozen=True)
class Row:
    """One model on one target with one protocol, over its seeds. Accuracies are fractions.

    Attributes
    ----------
    model, target, protocol, probe : str
        What was evaluated, on what, and how.
    shots : int or None
        Training images per class, for low-shot.
    components : int or None
        The number of columns after PCA; None without PCA.
    draws, n_classes, n_train, n_test, dim : int
        The number of draws, classes, training rows, test rows and feature columns.
    chance : float
        The mean class accuracy of random guessing.
    seeds : tuple of int or None
        The seed of each run; None if nothing was random.
    values : tuple of float
        The mean class accuracy of each run.
    mean, accuracy_mean : float
        Means over runs of the mean class accuracy and the accuracy.
    sd, accuracy_sd : float or None
        Their sample standard deviations; None for one run.
    weights_sha256 : tuple of str or None
        The digest of the weights of each run.
    missing : tuple of str
        Runs that are not evaluated yet.
    """

    model: str
    target: str
    protocol: str
    shots: int | None
    components: int | None
    draws: int
    n_classes: int
    n_train: int
    n_test: int
    dim: int
    chance: float
    seeds: tuple[int | None, ...]
    values: tuple[float, ...]
    mean: float
    sd: float | None
    accuracy_mean: float
    accuracy_sd: float | None
    weights_sha256: tuple[str | None, ...]
    missing: tuple[str, ...]
    probe: str = SVM


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
        Runs that are not evaluated yet, with their targets.
    summaries : tuple of OverTargets
        Means over targets; the first one decides.
    verdict : str
        What the rules say; empty without rules.
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
    summaries: tuple[OverTargets, ...]
    verdict: str


@dataclass(frozen=True)
class Judged:
    """A hypothesis and the verdict of its comparisons."""

    name: str
    says: str
    support: tuple[str, ...]
    refute: tuple[str, ...]
    verdict: str


@dataclass(frozen=True)
class StudyResults:
    """All results of a study.

    Attributes
    ----------
    name : str
        The name of the study.
    rows, comparisons, hypotheses : tuple
        The results.
    commands : dict
        The command of each step.
    undone : dict
        Why each step that is not done is not done; the report of an incomplete study says so.
    version : str
        The version of this package.
    """

    name: str
    rows: tuple[Row, ...]
    comparisons: tuple[Compared, ...]
    hypotheses: tuple[Judged, ...]
    commands: dict[str, str]
    undone: dict[str, str]
    version: str = __version__

    def document(self) -> dict[str, Any]:
        """The JSON document of schema `study-results/1`."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}


Place = tuple[str, str, int | None, int | None, str]
"""Target, protocol, shots, columns after PCA, and probe."""


def analyse(study: Study, plan: Plan, folder: StudyFolder, outcome: Outcome) -> StudyResults:
    """Read every evaluation that is done; compute the rows, the planned comparisons and the verdicts."""
    reader = EvaluationReader()
    found: dict[str, dict[Place, dict[int | None, RunAnswers]]] = {}
    lacking: dict[tuple[str, str, str], list[str]] = {}
    for run in plan.runs:
        own = found.setdefault(run.model, {})
        for target, protocol in study.places(run.model):
            step = plan.evaluation(run, target.name, protocol.name)
            if outcome.states[step.name].what != DONE:
                lacking.setdefault((run.model, target.name, protocol.name), []).append(run.name)
                continue
            features = folder.path / plan.steps[step.needs or ""].output
            for answered in reader.answers(folder.path / step.output, features):
                place = target.name, protocol.name, answered.shots, answered.components, answered.probe
                own.setdefault(place, {})[run.seed] = answered
    rows = [
        _row(model, place, by_seed, lacking.get((model, *place[:2]), []))
        for model, places in found.items()
        for place, by_seed in places.items()
    ]
    first = {name: protocol.config.probes[0] for name, protocol in study.protocols.items()}
    everything = _Found(found, lacking, plan.widths, first)
    comparisons = tuple(
        compared for comparison in study.comparisons for compared in _compare(study, comparison, everything)
    )
    undone = {name: f"{state.what}: {state.why}" for name, state in outcome.states.items() if state.what != DONE}
    verdicts = {comparison.name: _combined_verdict(comparison, comparisons) for comparison in study.comparisons}
    return StudyResults(
        name=study.name,
        rows=tuple(rows),
        comparisons=comparisons,
        hypotheses=tuple(_judge(hypothesis, verdicts) for hypothesis in study.hypotheses),
        commands={name: step.command for name, step in plan.steps.items()},
        undone=undone,
    )


def _row(model: str, place: Place, by_seed: Mapping[int | None, RunAnswers], missing: list[str]) -> Row:
    target, protocol, shots, components, probe = place
    values = [value(run, "mean_class_accuracy") for run in by_seed.values()]
    accuracies = [value(run, "accuracy") for run in by_seed.values()]
    row = next(iter(by_seed.values())).row
    return Row(
        model=model,
        target=target,
        protocol=protocol,
        shots=shots,
        components=components,
        draws=row["draws"],
        n_classes=row["n_classes"],
        n_train=row["n_train"],
        n_test=row["n_test"],
        dim=row["dim"] if components is None else components,
        chance=row["chance"],
        seeds=tuple(by_seed),
        values=tuple(values),
        mean=float(np.mean(values)),
        sd=_sd(values),
        accuracy_mean=float(np.mean(accuracies)),
        accuracy_sd=_sd(accuracies),
        weights_sha256=tuple(run.weights_sha256 for run in by_seed.values()),
        missing=tuple(missing),
        probe=probe,
    )


def _sd(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class _Found:
    """All predictions of a study by model, place and seed; the runs without evaluation by model, target and protocol
    (`lacking`); and the first probe of each protocol, with which models are compared."""

    answers: dict[str, dict[Place, dict[int | None, RunAnswers]]]
    lacking: dict[tuple[str, str, str], list[str]]
    widths: dict[str, int | None]
    probes: dict[str, str]

    def runs(self, model: str, place: tuple[str, str, int | None], width: int | None) -> list[RunAnswers]:
        """The runs of a model at a place. A network of exactly this width is not reduced."""
        reduced = None if width == self.widths[model] else width
        return list(self.answers.get(model, {}).get((*place, reduced, self.probes[place[1]]), {}).values())


def _compare(study: Study, comparison: Comparison, found: _Found) -> list[Compared]:
    """The comparison with features as they are; also matched, if the study asks for it and widths differ."""
    width = matched_width(study, comparison, found.widths) if comparison.matched else None
    family = [c for c in study.comparisons if c.family == comparison.family]
    sizes = len(family), sum(len(c.targets) for c in family)
    made = [_compared(comparison, found, sizes, None)]
    return [*made, _compared(comparison, found, sizes, width)] if width else made


def _compared(comparison: Comparison, found: _Found, sizes: tuple[int, int], width: int | None) -> Compared:
    """One comparison. Levels are adjusted for `sizes`: the comparisons of the family, and all their targets."""
    on: list[OnTarget] = []
    missing: list[str] = []
    for target, protocol in zip(comparison.targets, comparison.protocols, strict=True):
        place = target, protocol, comparison.shots
        runs = {model: found.runs(model, place, width) for model in comparison.weights}
        lacking = [name for model in runs for name in found.lacking.get((model, target, protocol), [])]
        missing += [f"{name} on {target}" for name in lacking]
        if all(runs.values()):
            on.append(_on_target(comparison, target, protocol, runs, sizes[1]))
    estimates = {one.target: one.estimate for one in on}
    summaries = tuple(over_targets(name, estimates, targets, sizes[0]) for name, targets in comparison.summaries)
    deciding = on[0].estimate if len(comparison.targets) == 1 and on else summaries[0].estimate
    verdict = _verdict(comparison, deciding, complete=not missing)
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
        summaries=summaries,
        verdict=verdict,
    )


def _on_target(
    comparison: Comparison, target: str, protocol: str, runs: dict[str, list[RunAnswers]], comparisons: int
) -> OnTarget:
    row = next(iter(runs.values()))[0].row
    test = on_target(comparison.weights, runs, comparison.metric)
    if isinstance(test, str):
        estimate = Estimate(
            difference(comparison.weights, runs, comparison.metric), None, None, None, None, None, comparisons, test
        )
    else:
        estimate = Estimate.from_test(test, comparisons)
    seeds = {model: len(own) for model, own in runs.items()}
    return OnTarget(
        target=target,
        protocol=protocol,
        shots=comparison.shots,
        draws=row["draws"],
        n_train=row["n_train"],
        n_test=row["n_test"],
        seeds=seeds,
        estimate=estimate,
    )


def _verdict(comparison: Comparison, estimate: Estimate | None, *, complete: bool) -> str:
    """The verdict on the adjusted interval according to the rules of the study's file."""
    bounds = (comparison.support, comparison.refute)
    if bounds == (None, None):
        return ""
    if not complete:
        return INCOMPLETE
    interval = None if estimate is None else estimate.ci95_adjusted
    supported, refuted = (bound is not None and interval is not None and bound.holds(interval) for bound in bounds)
    return _verdict_of(supported=supported, refuted=refuted)


def _verdict_of(*, supported: bool, refuted: bool) -> str:
    if supported and refuted:
        return BOTH
    return SUPPORTED if supported else REFUTED if refuted else UNDECIDED


def _combined_verdict(comparison: Comparison, compared: tuple[Compared, ...]) -> str:
    """The verdict of a comparison; if features as they are and matched features disagree, it is undecided."""
    found = {one.verdict for one in compared if one.name == comparison.name}
    return found.pop() if len(found) == 1 else UNDECIDED


def _judge(hypothesis: Hypothesis, verdicts: dict[str, str]) -> Judged:
    used = {*hypothesis.support, *hypothesis.refute}
    if any(verdicts[name] == INCOMPLETE for name in used):
        word = INCOMPLETE
    else:
        word = _verdict_of(
            supported=all(verdicts[name] in (SUPPORTED, BOTH) for name in hypothesis.support),
            refuted=any(verdicts[name] in (REFUTED, BOTH) for name in hypothesis.refute),
        )
    return Judged(hypothesis.name, hypothesis.says, hypothesis.support, hypothesis.refute, word)
