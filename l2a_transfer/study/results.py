"""The results of a study as plain data: rows over seeds, planned comparisons with their verdicts, hypotheses."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from l2a_transfer.evaluation.probes.registry import SVM
from l2a_transfer.study.answers import EvaluationReader, RunAnswers
from l2a_transfer.study.compared import Compared, Found, Place, compare
from l2a_transfer.study.config import Study
from l2a_transfer.study.contrasts import value
from l2a_transfer.study.record import DONE, StudyFolder
from l2a_transfer.study.scheduler import Outcome
from l2a_transfer.study.steps import Plan
from l2a_transfer.study.verdicts import Judged, judge
from l2a_transfer.version import __version__

SCHEMA = "study-results/1"


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
    programs : dict
        Each version and commit that made steps of the study → how many of them.
    version : str
        The version of this package.
    """

    name: str
    rows: tuple[Row, ...]
    comparisons: tuple[Compared, ...]
    hypotheses: tuple[Judged, ...]
    commands: dict[str, str]
    undone: dict[str, str]
    programs: dict[str, int] = field(default_factory=dict)
    version: str = __version__

    def document(self) -> dict[str, Any]:
        """The JSON document of schema `study-results/1`."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}


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
    comparisons = tuple(compare(study, Found(found, plan.runs, plan.widths, first)))
    undone = {name: f"{state.what}: {state.why}" for name, state in outcome.states.items() if state.what != DONE}
    return StudyResults(
        name=study.name,
        rows=tuple(rows),
        comparisons=comparisons,
        hypotheses=tuple(judge(hypothesis, comparisons) for hypothesis in study.hypotheses),
        commands={name: step.command for name, step in plan.steps.items()},
        undone=undone,
        programs=dict(Counter(folder.program(step) for step in plan.steps.values() if step.name not in undone)),
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
