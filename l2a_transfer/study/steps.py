"""The work of a study as steps: train, extract, evaluate; each is one command, with what it needs and what it makes."""

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
"""How commands write the study's folder."""


class InOut(str):
    """An argument that is a path below the study's folder, and written `OUT/…`; other arguments may begin so too."""

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

    `output`: the file that is there when it has ended, below the study's folder; of training, a pattern. `needs`: the
    step that makes what it reads. `given`: a file that it reads and that was there before. `like`: steps of the same
    text take about as long. `epochs`: of training.
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
        """What a shell takes, where OUT is the study's folder."""
        return shell_line(["l2a-transfer", *self.arguments])


@dataclass(frozen=True)
class Work:
    """All steps of a study by name, each after what it needs, and the runs that they are of."""

    steps: dict[str, Step]
    runs: tuple[Run, ...]
    widths: dict[str, int | None]

    def of(self, run: Run, target: str, protocol: str) -> Step:
        """The evaluation of a run on a target."""
        return self.steps[f"{EVALUATE}/{run.name}/{target}/{protocol}"]


def plan_work(study: Study) -> Work:
    """Every step that the study's report needs. Raises: StudyError as `runs_of`, and for a comparison at equal widths
    of networks whose width is not known."""
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
    return Work({step.name: step for step in steps}, tuple(runs), widths)


def matched_width(study: Study, comparison: Comparison, widths: dict[str, int | None]) -> int | None:
    """The smallest width of the networks of a comparison; None where they are all of one width.

    Raises: StudyError where a width is not known.
    """
    own = {model: widths[model] for model in comparison.weights}
    known = {width for width in own.values() if width is not None}
    if unknown := [model for model, width in own.items() if width is None]:
        what = "reduced to 256 columns already" if unknown[0] == PIXELS else "known from its features alone"
        raise StudyError(
            f"{study.file}: comparison {comparison.name}: matched, but the width of {unknown[0]} is {what}; leave "
            "'matched' out"
        )
    return min(known) if len(known) > 1 else None


def _reduced(study: Study, widths: dict[str, int | None]) -> dict[tuple[str, str, str], set[int]]:
    """(model, target, protocol) → the widths that comparisons need it reduced to."""
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
        TRAIN, name, tuple(arguments), f"{folder}/{WEIGHTS}", run, shlex.join(shared), epochs=recipe.epochs
    )  # fmt: skip


def _extract(study: Study, network: Network, run: Run, images: Images) -> Step:
    output = f"features/{run.name}/{images.name}.h5"
    model = run.given or InOut.of(f"runs/{run.name}/{WEIGHTS}")
    arguments = ["extract", "--model", model, *_data(images), *_flags(network.extract), "--device", study.device]
    arguments += ["--seed", str(run.seed)] if run.draws_weights else []
    arguments += ["--out", InOut.of(output), "--resume", "--overwrite"]
    return Step(
        EXTRACT, f"{EXTRACT}/{run.name}/{images.name}", tuple(arguments), output, run, f"{run.model} {images.name}",
        needs=None if run.given else f"{TRAIN}/{run.name}", given=run.file, target=images.name,
    )  # fmt: skip


def _evaluate(study: Study, run: Run, target: Target, protocol: Protocol, widths: Iterable[int] | None) -> Step:
    place = f"{run.name}/{target.name}/{protocol.name}"
    folder = f"evaluations/{place}"
    arguments = ["svm-eval", InOut.of(f"features/{run.name}/{target.name}.h5"), "--protocol", protocol.config.protocol]
    arguments += [*_flags(protocol.options), "--device", study.device]
    arguments += ["--widths", ",".join(map(str, sorted(widths)))] if widths else []
    arguments += ["--out", InOut.of(folder), "--overwrite"]
    return Step(
        EVALUATE, f"{EVALUATE}/{place}", tuple(arguments), f"{folder}/{RESULTS}", run,
        f"{run.model} {target.name} {protocol.name}", needs=f"{EXTRACT}/{run.name}/{target.name}", target=target.name,
        protocol=protocol.name,
    )  # fmt: skip


def _data(images: Images) -> list[str]:
    return ["--data", images.data, *_flags(images.options)]


def _flags(options: Iterable[tuple[str, str]]) -> list[str]:
    return [part for key, value in options for part in (f"--{key}", value) if part]
