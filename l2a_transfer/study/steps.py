"""The steps of a study: train, extract, evaluate. Each is one command with an input and an output."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from l2a_transfer.errors import StudyError
from l2a_transfer.study.config import Comparison, Images, Network, Protocol, Study, Target
from l2a_transfer.study.paths import WEIGHTS
from l2a_transfer.study.weights import PIXELS, Run, runs_of
from l2a_transfer.text import shell_line
from l2a_transfer.training.recipe import find_recipe

TRAIN, EXTRACT, EVALUATE = "train", "extract", "evaluate"
OUT = "OUT"
"""The placeholder for the study's folder in commands."""


class InOut(str):
    """An argument that is a path below the study's folder, written `OUT/…`. Plain strings may begin with that too."""

    __slots__ = ()

    @classmethod
    def of(cls, relative: str) -> InOut:
        return cls(f"{OUT}/{relative}")

    @property
    def relative(self) -> str:
        return self.removeprefix(f"{OUT}/")


RESULTS = "results.json"


@dataclass(frozen=True)
class Step:
    """One command of `l2a-transfer`. Its paths are relative to the study's file, or `InOut`.

    Attributes
    ----------
    kind, name : str
        `train`, `extract` or `evaluate`; the name is unique in the study.
    arguments : tuple of str
        The verb and its arguments.
    output : str
        Its output file, relative to the study's folder; for training, a pattern.
    run : Run
        The network and seed that it belongs to.
    like : str
        Steps with the same text take about the same time.
    needs : str or None
        The step that creates its input.
    given : Path or None
        An input that existed before the study.
    epochs : int
        Number of epochs, for training.
    target, protocol : str
        What is extracted, and how it is evaluated.
    """

    kind: str
    name: str
    arguments: tuple[str, ...]
    output: str
    run: Run
    like: str
    needs: str | None = None
    given: Path | None = None
    epochs: int = 0
    target: str = ""
    protocol: str = ""

    @property
    def command(self) -> str:
        """The command line for a shell, in which OUT stands for the study's folder."""
        return shell_line(["l2a-transfer", *self.arguments])


@dataclass(frozen=True)
class Plan:
    """All steps of a study by name, each after the one that it needs; its runs; and the widths of its models."""

    steps: dict[str, Step]
    runs: tuple[Run, ...]
    widths: dict[str, int | None]

    def evaluation(self, run: Run, target: str, protocol: str) -> Step:
        """The step that evaluates a run on a target with a protocol."""
        return self.steps[f"{EVALUATE}/{run.name}/{target}/{protocol}"]


def plan_steps(study: Study) -> Plan:
    """Every step that the study's report needs.

    Raises
    ------
    StudyError
        Like `runs_of`, or if a comparison at equal widths has networks whose width is not known.
    """
    runs = runs_of(study)
    widths = {run.model: run.width for run in runs}
    reduced = _reduced(study, widths)
    steps: list[Step] = []
    for run in runs:
        network, _ = study.models()[run.model]
        if run.given is None:
            steps.append(_train(study, network, run))
        for name in dict.fromkeys(target.name for target, _ in study.places(run.model)):
            steps.append(_extract(study, network, run, study.targets[name].images))
        for target, protocol in study.places(run.model):
            steps.append(_evaluate(study, run, target, protocol, reduced.get((run.model, target.name, protocol.name))))
    return Plan({step.name: step for step in steps}, tuple(runs), widths)


def matched_width(study: Study, comparison: Comparison, widths: dict[str, int | None]) -> int | None:
    """The smallest feature width of the networks in a comparison; None if all widths are equal.

    Raises
    ------
    StudyError
        If a width is not known.
    """
    own = {model: widths[model] for model in comparison.weights}
    known = {width for width in own.values() if width is not None}
    if unknown := [model for model, width in own.items() if width is None]:
        what = "already reduced to 256 columns" if unknown[0] == PIXELS else "only known from its features"
        raise StudyError(
            f"{study.file}: comparison {comparison.name}: matched, but the width of {unknown[0]} is {what}; leave "
            "'matched' out"
        )
    return min(known) if len(known) > 1 else None


def _reduced(study: Study, widths: dict[str, int | None]) -> dict[tuple[str, str, str], set[int]]:
    """(model, target, protocol) → the widths to which comparisons need its features reduced."""
    found: dict[tuple[str, str, str], set[int]] = {}
    for comparison in study.comparisons:
        width = matched_width(study, comparison, widths) if comparison.matched else None
        for model in comparison.weights if width else ():
            for target, protocol in zip(comparison.targets, comparison.protocols, strict=True):
                if widths[model] != width:
                    found.setdefault((model, target, protocol), set()).add(width or 0)
    return found


def _train(study: Study, network: Network, run: Run) -> Step:
    assert run.source is not None
    images = study.sources[run.source]
    folder = f"runs/{run.name}"
    shared = _flags(network.train) + _data(images) + ["--device", study.device]
    arguments = ["train", *shared, "--seed", str(run.seed), "--out", InOut.of(folder), "--resume"]
    settings = [value for key, value in network.train if key == "set"]
    recipe = find_recipe(dict(network.train)["recipe"], images.data).with_settings(settings)
    name = f"{TRAIN}/{run.name}"
    return Step(
        kind=TRAIN,
        name=name,
        arguments=tuple(arguments),
        output=f"{folder}/{WEIGHTS}",
        run=run,
        like=shlex.join(shared),
        epochs=recipe.epochs,
    )


def _extract(study: Study, network: Network, run: Run, images: Images) -> Step:
    output = f"features/{run.name}/{images.name}.h5"
    model = run.given or InOut.of(f"runs/{run.name}/{WEIGHTS}")
    arguments = ["extract", "--model", model, *_data(images), *_flags(network.extract), "--device", study.device]
    arguments += ["--seed", str(run.seed)] if run.draws_weights else []
    arguments += ["--out", InOut.of(output), "--resume", "--overwrite"]
    return Step(
        kind=EXTRACT,
        name=f"{EXTRACT}/{run.name}/{images.name}",
        arguments=tuple(arguments),
        output=output,
        run=run,
        like=f"{run.model} {images.name}",
        needs=None if run.given else f"{TRAIN}/{run.name}",
        given=run.file,
        target=images.name,
    )


def _evaluate(study: Study, run: Run, target: Target, protocol: Protocol, widths: Iterable[int] | None) -> Step:
    place = f"{run.name}/{target.name}/{protocol.name}"
    folder = f"evaluations/{place}"
    arguments = ["svm-eval", InOut.of(f"features/{run.name}/{target.name}.h5"), "--protocol", protocol.config.protocol]
    arguments += [*_flags(protocol.options), "--device", study.device]
    arguments += ["--widths", ",".join(map(str, sorted(widths)))] if widths else []
    arguments += ["--out", InOut.of(folder), "--overwrite"]
    return Step(
        kind=EVALUATE,
        name=f"{EVALUATE}/{place}",
        arguments=tuple(arguments),
        output=f"{folder}/{RESULTS}",
        run=run,
        like=f"{run.model} {target.name} {protocol.name}",
        needs=f"{EXTRACT}/{run.name}/{target.name}",
        target=target.name,
        protocol=protocol.name,
    )


def _data(images: Images) -> list[str]:
    return ["--data", images.data, *_flags(images.options)]


def _flags(options: Iterable[tuple[str, str]]) -> list[str]:
    return [part for key, value in options for part in (f"--{key}", value) if part]
