"""What a study is, as data: networks, sources, targets, protocols, and the comparisons that were planned."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2a_transfer.evaluation.protocols import PROTOCOLS
from l2a_transfer.evaluation.results import EvalConfig

METRICS = ("mean_class_accuracy", "accuracy")
COMBINE = ("mean", "sum")
KINDS = ("train", "extract", "evaluate")
GUESS_S = {"train": 3600.0, "extract": 600.0, "evaluate": 300.0}
"""How long a step is taken to last before one like it has ended, in seconds."""


@dataclass(frozen=True)
class Images:
    """A set of images as the command line names it: `data` and its options, each an option's name and its value."""

    name: str
    data: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Target:
    """A data set that features are evaluated on, by each of `protocols`; `sources`: of which networks (empty: all)."""

    images: Images
    protocols: tuple[str, ...]
    sources: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.images.name


@dataclass(frozen=True)
class Protocol:
    """A protocol of `svm-eval` under a name of the study's own, with its options."""

    name: str
    config: EvalConfig
    options: tuple[tuple[str, str], ...] = ()

    @property
    def is_low_shot(self) -> bool:
        return PROTOCOLS[self.config.protocol].has_shots


@dataclass(frozen=True)
class Network:
    """One network: how it is trained, or which `weights` are there already, for each of `seeds` and `sources`.

    `train`: the options of `train` but for data and seed; empty where nothing is trained. `extract`: those of
    `extract`. `targets`: which it is evaluated on (empty: all).
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


@dataclass(frozen=True)
class Bound:
    """`above 0.5` or `below 1`: the whole interval lies on that side of so many points."""

    above: bool
    points: float

    def holds(self, interval: tuple[float, float]) -> bool:
        """`interval` in fractions."""
        low, high = interval
        return 100 * low > self.points if self.above else 100 * high < self.points

    def __str__(self) -> str:
        return f"{'above' if self.above else 'below'} {self.points:g}"


@dataclass(frozen=True)
class Comparison:
    """A planned comparison: the models of `minuend` minus those of `subtrahend`, of which each side is averaged, or
    summed where `combine` is `sum`, on each of `targets`.

    `summaries`: (name, targets) of each random-effects mean, of which the first decides. `level` is adjusted for all
    comparisons of one `family`. `matched`: made a second time with the features of all reduced to the smallest width.
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
        return {
            model: sign / (len(side) if self.combine == "mean" else 1) for sign, side in sides for model in side
        }  # fmt: skip

    @property
    def title(self) -> str:
        """As `attention − uniform`, or `(a + b) / 2 − (c + d) / 2`."""
        return " − ".join(_side(side, self.combine) for side in (self.minuend, self.subtrahend))


def _side(names: tuple[str, ...], combine: str) -> str:
    if len(names) == 1:
        return names[0]
    text = f"({' + '.join(names)})"
    return f"{text} / {len(names)}" if combine == "mean" else text


@dataclass(frozen=True)
class Hypothesis:
    """Supported where every comparison of `support` is; refuted where one of `refute` is."""

    name: str
    says: str
    support: tuple[str, ...]
    refute: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A whole study. `folder`: where its file lies, to which every path in it is relative."""

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
        """NETWORK@SOURCE, or NETWORK where no source is named → the network and its source."""
        return {
            model: (network, source)
            for network in self.networks.values()
            for model, source in models_of(network.name, network.sources)
        }

    def places(self, model: str) -> list[tuple[Target, Protocol]]:
        """Every target and protocol that a model is evaluated on."""
        network, source = self.models()[model]
        return [
            (target, self.protocols[name])
            for target in self.targets.values()
            if (not network.targets or target.name in network.targets)
            and (source is None or not target.sources or source in target.sources)
            for name in target.protocols
        ]


def models_of(network: str, sources: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """(name, source) of a network as it was trained on each source."""
    return [(f"{network}@{source}", source) for source in sources] or [(network, None)]


def as_option(value: Any) -> str:
    """A value of the file as the command line writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(as_option(part) for part in value)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
