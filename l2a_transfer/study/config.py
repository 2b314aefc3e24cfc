"""A study as data: networks, sources, targets, protocols and planned comparisons."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2a_transfer.evaluation.protocols import PROTOCOLS
from l2a_transfer.evaluation.results import EvalConfig
from l2a_transfer.models.config import DEFAULT_SELECTION

METRICS = ("mean_class_accuracy", "accuracy")
COMBINE = ("mean", "sum")
KINDS = ("train", "extract", "evaluate")
GUESS_S = {"train": 3600.0, "extract": 600.0, "evaluate": 300.0}
"""Seconds that a step is assumed to take until one of its kind has been timed."""


@dataclass(frozen=True)
class Images:
    """A data set as the command line names it: `data`, and options as pairs of name and value."""

    name: str
    data: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Target:
    """A data set on which features are evaluated with each of `protocols`. Empty `sources` means all networks."""

    images: Images
    protocols: tuple[str, ...]
    sources: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.images.name


@dataclass(frozen=True)
class Protocol:
    """A protocol of `svm-eval` with options, under a name that the study chooses."""

    name: str
    config: EvalConfig
    options: tuple[tuple[str, str], ...] = ()

    @property
    def is_low_shot(self) -> bool:
        return PROTOCOLS[self.config.protocol].has_shots


@dataclass(frozen=True)
class Network:
    """One network, for each of its seeds and sources.

    Attributes
    ----------
    name : str
        Its name in the study.
    architecture : str or None
        What is trained; None if only existing weights are used.
    width, normalizer, selection : float, str, str
        As in `ModelConfig`.
    train : tuple of (str, str)
        Options of `train` other than data and seed; empty if nothing is trained.
    weights : tuple of str
        Existing weights: paths, globs, templates or bundled names.
    seeds : tuple of int
        The seeds of its runs; `seeds_given` tells whether its own table names them.
    sources : tuple of str
        The data sets that it is trained on.
    extract : tuple of (str, str)
        Options of `extract`.
    levels : tuple of str
        The levels of its features; empty for all.
    targets : tuple of str
        The targets on which it is evaluated; empty for all.
    """

    name: str
    architecture: str | None
    width: float
    normalizer: str
    train: tuple[tuple[str, str], ...]
    weights: tuple[str, ...]
    seeds: tuple[int, ...]
    seeds_given: bool
    sources: tuple[str, ...]
    extract: tuple[tuple[str, str], ...] = ()
    levels: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    selection: str = DEFAULT_SELECTION


@dataclass(frozen=True)
class Bound:
    """A rule such as `above 0.5`: the whole interval must be on that side of this number of percentage points."""

    above: bool
    points: float

    @classmethod
    def parse(cls, text: str) -> Bound:
        """Parse a rule. Raises: ValueError, saying what the text must be."""
        found = re.fullmatch(r"(above|below) ([+-]?\d+(?:\.\d+)?)", text)
        if not found:
            raise ValueError(f"must be a side and points, such as 'above 0' or 'below 1.0'; got {text!r:.100}")
        points = float(found[2])
        if not math.isfinite(points):
            raise ValueError(f"must be a finite number of points; got {text[:40]}…")
        return cls(found[1] == "above", points)

    def holds(self, interval: tuple[float, float]) -> bool:
        """Whether an interval, in fractions, satisfies the rule."""
        low, high = interval
        return 100 * low > self.points if self.above else 100 * high < self.points

    def __str__(self) -> str:
        return f"{'above' if self.above else 'below'} {self.points:g}"


@dataclass(frozen=True)
class Comparison:
    """A planned comparison: the models of `minuend` minus those of `subtrahend`.

    Attributes
    ----------
    name : str
        Its name in the study.
    minuend, subtrahend : tuple of str
        Models on each side.
    combine : {"mean", "sum"}
        How the models of a side are combined.
    targets, protocols : tuple of str
        The targets, and the protocol for each.
    shots : int or None
        Training images per class, for low-shot.
    metric : {"mean_class_accuracy", "accuracy"}
        What is compared.
    matched : bool
        Compare again with all features reduced to the smallest width.
    family : str
        Levels are adjusted for all comparisons of a family.
    summaries : tuple of (str, tuple of str)
        The name and the targets of each random-effects mean; the first one decides.
    support, refute : Bound or None
        When the comparison is supported or refuted.
    """

    name: str
    minuend: tuple[str, ...]
    subtrahend: tuple[str, ...]
    combine: str
    targets: tuple[str, ...]
    protocols: tuple[str, ...]
    shots: int | None
    metric: str
    matched: bool
    family: str
    summaries: tuple[tuple[str, tuple[str, ...]], ...]
    support: Bound | None
    refute: Bound | None

    @property
    def weights(self) -> dict[str, float]:
        """Model → its factor in the contrast."""
        sides = ((1.0, self.minuend), (-1.0, self.subtrahend))
        return {model: sign / (len(side) if self.combine == "mean" else 1) for sign, side in sides for model in side}

    @property
    def title(self) -> str:
        """The contrast in words: `attention − uniform`, or `(a + b) / 2 − (c + d) / 2`."""
        return " − ".join(_side(side, self.combine) for side in (self.minuend, self.subtrahend))


def _side(names: tuple[str, ...], combine: str) -> str:
    if len(names) == 1:
        return names[0]
    text = f"({' + '.join(names)})"
    return f"{text} / {len(names)}" if combine == "mean" else text


@dataclass(frozen=True)
class Hypothesis:
    """Supported if every comparison of `support` is supported; refuted if one of `refute` is refuted."""

    name: str
    says: str
    support: tuple[str, ...]
    refute: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A whole study. Paths in it are relative to `folder`, the folder of its file."""

    name: str
    file: Path
    device: str
    threads: int
    sources: dict[str, Images]
    targets: dict[str, Target]
    protocols: dict[str, Protocol]
    networks: dict[str, Network]
    comparisons: tuple[Comparison, ...]
    hypotheses: tuple[Hypothesis, ...]
    guess_s: dict[str, float] = field(default_factory=lambda: dict(GUESS_S))

    @property
    def folder(self) -> Path:
        return self.file.absolute().parent

    def models(self) -> dict[str, tuple[Network, str | None]]:
        """Model name (NETWORK@SOURCE, or NETWORK without a source) → the network and its source."""
        return {
            model: (network, source)
            for network in self.networks.values()
            for model, source in models_of(network.name, network.sources)
        }

    def places(self, model: str) -> list[tuple[Target, Protocol]]:
        """Every pair of target and protocol for which a model is evaluated."""
        network, source = self.models()[model]
        return [
            (target, self.protocols[name])
            for target in self.targets.values()
            if (not network.targets or target.name in network.targets)
            and (source is None or not target.sources or source in target.sources)
            for name in target.protocols
        ]


def models_of(network: str, sources: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """(model name, source) for each source that a network is trained on."""
    return [(f"{network}@{source}", source) for source in sources] or [(network, None)]


def as_option(value: Any) -> str:
    """A value of the study's file as an argument of the command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(as_option(part) for part in value)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
