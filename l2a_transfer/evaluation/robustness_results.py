"""Settings and results of a robustness evaluation, and the schema of `robustness.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.devices import check_device_name
from l2a_transfer.documents import (
    ANYTHING,
    FLAG,
    NOTHING,
    NUMBER,
    Kind,
    either,
    integer,
    list_of,
    parse,
    row_of,
    table,
    text,
)
from l2a_transfer.errors import ArgumentError, EvaluationError
from l2a_transfer.explain.checks.attacks import ATTACKS, AttackConfig
from l2a_transfer.explain.checks.robustness import settings
from l2a_transfer.inputs import read_input
from l2a_transfer.memory import require_memory_to_parse

SCHEMA = "l2a-robustness/1"


@dataclass(frozen=True)
class RobustnessConfig:
    """The settings of a robustness evaluation.

    Parameters
    ----------
    epsilon : sequence of float, default=(1, 2, 4)
        The largest changes of a pixel, in 1/255; they are sorted.
    attack : sequence of str, default=("fgsm", "pgd")
        The attacks. Noise of the same size is always measured too.
    steps : int, default=10
        Gradient steps of PGD.
    step : float, optional
        Step size, in 1/255; `2.5 ε / steps` by default.
    seed : int, default=0
        Random seed of PGD's starts, the noise and untrained weights.
    reference : str, optional
        The network that all others are compared with; the first by default.
    batch_size : int, default=64
        Images per batch; it affects only the last bits of results.
    device : {"auto", "cpu", "cuda"}, default="auto"
        Device of the networks.

    Raises
    ------
    UnknownNameError, ArgumentError
        For unknown names and numbers out of range.
    """

    epsilon: tuple[float, ...] = (1.0, 2.0, 4.0)
    attack: tuple[str, ...] = ATTACKS
    steps: int = 10
    step: float | None = None
    seed: int = 0
    reference: str | None = None
    batch_size: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        check_device_name(self.device)
        object.__setattr__(self, "attack", tuple(self.attack))
        found = settings(self.epsilon, self.attack)
        object.__setattr__(self, "epsilon", tuple(sorted({epsilon for _, epsilon in found[1:]})))
        if self.batch_size < 1:
            raise ArgumentError(f"batch_size must be at least 1, got {self.batch_size}")
        self.attacks()

    def attacks(self) -> AttackConfig:
        """Settings for the attack functions. Raises: ArgumentError."""
        return AttackConfig(self.steps, self.step, self.seed)


@dataclass(frozen=True)
class RobustnessRow:
    """One network at one setting: `right` of `n` images, the share with its 95 % Wilson interval. `epsilon` is in
    1/255; `attack` is "clean" with ε = 0, "fgsm", "pgd", or the control "noise"."""

    model: str
    attack: str
    epsilon: float
    n: int
    right: int
    accuracy: float
    accuracy_ci95: tuple[float, float]


@dataclass(frozen=True)
class RobustnessComparison:
    """Accuracy of `a` minus that of `b` on the same images, attacked separately for each network.

    `p`: the larger of McNemar's exact p and the score test's. `p_adjusted` and `ci95_simultaneous` are adjusted for all
    `comparisons` of the report (Bonferroni); the interval excludes 0 if and only if `p_adjusted` is below 0.05.
    `only_a`, `only_b`: the images that only one network classifies correctly.
    """

    a: str
    b: str
    attack: str
    epsilon: float
    difference: float
    ci95_simultaneous: tuple[float, float]
    p: float
    p_mcnemar: float
    p_adjusted: float
    only_a: int
    only_b: int
    comparisons: int
    verdict: str


@dataclass(frozen=True)
class RobustnessResults:
    """Results of a robustness evaluation. `models` describes the networks, `data` the images; `run` has versions,
    commit and device. `flat`: network → number of images with a gradient of 0 in every pixel. `warnings`: signs that
    gradients are masked. `right`: (model, attack, ε) → whether each image, in the order of `images`, is classified
    correctly."""

    config: RobustnessConfig
    models: tuple[dict[str, Any], ...]
    data: dict[str, Any]
    run: dict[str, Any]
    rows: tuple[RobustnessRow, ...]
    comparisons: tuple[RobustnessComparison, ...]
    flat: dict[str, int]
    warnings: tuple[str, ...]
    images: tuple[str, ...] = field(repr=False)
    right: dict[tuple[str, str, float], NDArray[np.bool_]] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """The JSON document of schema `l2a-robustness/1`; answers are one character per image, 1 if it is right."""
        return {
            "schema": SCHEMA,
            "config": {name: _plain(value) for name, value in vars(self.config).items()},
            **self.run,
            "data": self.data,
            "models": [dict(model) for model in self.models],
            "rows": [_flat(row) for row in self.rows],
            "comparisons": [_flat(comparison) for comparison in self.comparisons],
            "flat_gradients": self.flat,
            "warnings": list(self.warnings),
            "images": list(self.images),
            "answers": [
                {
                    "model": model,
                    "attack": attack,
                    "epsilon": epsilon,
                    "right": "".join("01"[x] for x in right.tolist()),
                }
                for (model, attack, epsilon), right in self.right.items()
            ],
        }


def _plain(value: Any) -> Any:
    """Tuples as lists, as in JSON."""
    return list(value) if isinstance(value, tuple) else value


def _flat(row: RobustnessRow | RobustnessComparison) -> dict[str, Any]:
    return {name: _plain(value) for name, value in vars(row).items()}


SHARE = Kind("a number between 0 and 1", lambda value: NUMBER.holds(value) and 0 <= value <= 1)
DIFFERENCE = Kind("a number between -1 and 1", lambda value: NUMBER.holds(value) and -1 <= value <= 1)
EPSILON = Kind("a number between 0 and 255", lambda value: NUMBER.holds(value) and 0 <= value <= 255)
NAME = text(4096)
ANSWERS = Kind("text of 0 and 1", lambda value: isinstance(value, str) and not set(value) - {"0", "1"})
RUN = {"versions": table(others=NAME), "commit": either(NAME, NOTHING), "device": NAME}
"""Facts about the run in every results file; see `tested.run_facts`."""
MODEL = table(
    {"name": NAME, "weights_sha256": NAME, "architecture": NAME, "untrained": FLAG, "side": integer(1)},
)
DATA = table(
    {
        "name": NAME,
        "fingerprint": NAME,
        "splits": list_of(NAME),
        "images": integer(1),
        "classes": list_of(NAME),
    }
)
DOCUMENT = table(
    {
        "schema": Kind(repr(SCHEMA), lambda value: value == SCHEMA),
        "config": table(others=ANYTHING),
        **RUN,
        "data": DATA,
        "models": list_of(MODEL),
        "rows": list_of(
            table(
                {
                    "model": NAME,
                    "attack": NAME,
                    "epsilon": EPSILON,
                    "n": integer(1),
                    "right": integer(),
                    "accuracy": SHARE,
                    "accuracy_ci95": row_of(SHARE, SHARE),
                }
            )
        ),
        "comparisons": list_of(
            table(
                {
                    "a": NAME,
                    "b": NAME,
                    "attack": NAME,
                    "epsilon": EPSILON,
                    "difference": DIFFERENCE,
                    "ci95_simultaneous": row_of(DIFFERENCE, DIFFERENCE),
                    "p": SHARE,
                    "p_mcnemar": SHARE,
                    "p_adjusted": SHARE,
                    "only_a": integer(),
                    "only_b": integer(),
                    "comparisons": integer(1),
                    "verdict": text(),
                }
            )
        ),
        "flat_gradients": table(others=integer()),
        "warnings": list_of(text()),
        "images": list_of(NAME),
        "answers": list_of(table({"model": NAME, "attack": NAME, "epsilon": EPSILON, "right": ANSWERS})),
    }
)
MAX_BYTES = 1 << 28


def read_robustness(path: str | Path) -> dict[str, Any]:
    """The document of a `robustness.json`, checked against its schema.

    Raises
    ------
    EvaluationError
        If the file cannot be read or does not match the schema; the message names the invalid field.
    """
    return read_checked(path, DOCUMENT, "robustness")


def read_checked(path: str | Path, kind: Kind, name: str) -> dict[str, Any]:
    """A JSON document of one kind. Raises: as `read_robustness`."""
    try:
        content = read_input(path, MAX_BYTES)
        require_memory_to_parse(content, path)
        document: dict[str, Any] = parse(content)
        kind.check(document, name)
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror or error}", "name another file") from error
    except ValueError as error:
        raise EvaluationError(f"{path}: not {name} results of this program: {error}", "name another file") from error
    return document
