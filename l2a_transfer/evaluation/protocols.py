"""Protocols: which rows of a feature file are fitted and chosen on, and which are tested on.

A protocol is a function that is registered beside its own code (`register`); the package's own are in
`standard_protocols`. Each can be repeated from the seed and the ids of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from l2a_transfer.errors import ArgumentError, EvaluationError
from l2a_transfer.evaluation.splits import Labelled, Split
from l2a_transfer.registry import Registry

SHOTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Request:
    """What a protocol is asked for: so many draws from this seed, and training images a class in rising order."""

    draws: int
    seed: int
    shots: tuple[int, ...] = SHOTS


@dataclass(frozen=True)
class Setting:
    """Names of the domains that one place is fitted and chosen on, and of the one that it is tested on. `by_domain`:
    whether C is chosen by holding out one source after the other, else by stratified folds."""

    sources: tuple[str, ...]
    target: str
    by_domain: bool = False

    @property
    def is_within(self) -> bool:
        """Whether it is fitted on the domain that it is tested on."""
        return self.sources == (self.target,)


Settings = Callable[[tuple[str, ...], tuple[str, ...], tuple[str, ...]], list[Setting]]
"""All domains, the sources and the targets that were asked for (none: all) → settings."""
Deal = Callable[[Labelled, Request], tuple[list[Split], tuple[str, ...]]]
"""Feature file and request → its splits, one a draw (and number of shots), and notes for the reader."""


@dataclass(frozen=True)
class SplitProtocol:
    """A protocol and what it says of itself; see `register`."""

    deal: Deal
    draws: int
    needs: tuple[str, ...]
    is_drawn: bool
    has_shots: bool
    suits: Callable[[Labelled], str]
    settings: Settings | None = None


PROTOCOLS: Registry[SplitProtocol] = Registry(
    "protocol", "l2a_transfer.evaluation.standard_protocols", "l2a_transfer.evaluation.domain_protocols"
)
AUTO = "auto"
FALLBACK = "stratified"
"""The protocol that `auto` takes where no other suits."""


def register(
    name: str,
    *,
    draws: int = 1,
    needs: Sequence[str] = (),
    is_drawn: bool = True,
    has_shots: bool = False,
    suits: Callable[[Labelled], str] = lambda features: "",
) -> Callable[[Deal], Deal]:
    """Register a function as a protocol.

    Parameters
    ----------
    name : str
        What users ask for it by.
    draws : int
        Number of draws where the user names none.
    needs : sequence of str
        Splits of the data set in which the feature file must have rows.
    is_drawn : bool
        Whether splits are drawn at random; else there is one, and no draws can be asked for.
    has_shots : bool
        Whether each draw is split for several numbers of training images a class.
    suits : callable
        Says why `auto` takes this protocol for a feature file; an empty text where it does not.

    Returns
    -------
    callable
        A decorator that gives the function back.

    Raises
    ------
    PluginError
        If the name is taken, or has other characters than lower-case letters, digits and hyphens.
    """

    def add(deal: Deal) -> Deal:
        entry = SplitProtocol(deal, draws, tuple(needs), is_drawn, has_shots, suits)
        PROTOCOLS.add(name, entry, home=deal.__module__)
        return deal

    return add


def register_domains(name: str) -> Callable[[Settings], Settings]:
    """Register a function as a protocol over domains.

    Parameters
    ----------
    name : str
        What users ask for it by.

    Returns
    -------
    callable
        A decorator that gives the function back.

    Raises
    ------
    PluginError
        As `register`.
    """

    def add(settings: Settings) -> Settings:
        def deal(features: Labelled, request: Request) -> tuple[list[Split], tuple[str, ...]]:
            raise EvaluationError(
                f"{features.path}: the {name} protocol is about domains, which one split of a file cannot show",
                "use `protocol='stratified'`",
            )

        entry = SplitProtocol(deal, 1, (), False, False, lambda features: "", settings)
        PROTOCOLS.add(name, entry, home=settings.__module__)
        return settings

    return add


def over_domains(protocol: str) -> bool:
    """Whether a protocol's places are domains."""
    return protocol in PROTOCOLS and PROTOCOLS[protocol].settings is not None


def check_over_domains(protocol: str, **given: object) -> None:
    """Raises: ArgumentError where something is given that only protocols over domains use, and this is none."""
    for name, value in given.items():
        if value and PROTOCOLS[protocol].settings is None:
            over = ", ".join(other for other, one in PROTOCOLS.items() if one.settings is not None)
            raise ArgumentError(f"{name} is for the protocols {over}; got protocol {protocol}")


@dataclass(frozen=True)
class Plan:
    """The protocol that holds for a file, why, and its splits, one a draw (in `low-shot` one a draw and k)."""

    protocol: str
    why: str
    splits: tuple[Split, ...]
    notes: tuple[str, ...]

    def groups(self) -> list[tuple[int | None, tuple[Split, ...]]]:
        """(shots, splits) of every row of the table: all draws, and in `low-shot` all draws of one k."""
        shots = dict.fromkeys(split.shots for split in self.splits)
        return [(k, tuple(split for split in self.splits if split.shots == k)) for k in shots]


def plan_splits(
    features: Labelled, protocol: str, *, draws: int | None, seed: int, shots: Sequence[int] = SHOTS
) -> Plan:
    """The splits of one file under a protocol.

    A drawn split depends on the seed, the draw, and the images' ids and class names: neither on the model nor on the
    order of the rows.

    Parameters
    ----------
    features : FeatureSet or FeatureFile
        The file, of which ids, labels, splits and, to see whether they are finite, features are read.
    protocol : str
        A name of `PROTOCOLS`; ``"auto"`` takes the one that suits the file.
    draws : int or None
        Number of draws; None means the protocol's own.
    seed : int
        Random seed.
    shots : sequence of int
        Training images a class, for a protocol that has them.

    Returns
    -------
    Plan

    Raises
    ------
    UnknownNameError
        If there is no such protocol.
    EvaluationError
        If the rows cannot serve it.
    """
    chosen, why = PROTOCOLS.find(protocol), "as asked"
    if protocol == AUTO:
        protocol, why = _automatic(features)
        chosen = PROTOCOLS[protocol]
    repeats = chosen.draws if draws is None else draws
    if not chosen.is_drawn and repeats != 1:
        raise EvaluationError(
            f"{features.path}: the {protocol} split of {features.meta.data} is one split and cannot be drawn "
            f"{repeats} times",
            "leave `draws` out, or draw splits with `protocol='stratified'`",
        )
    _check_needs(features, protocol, chosen.needs)
    splits, notes = chosen.deal(features, Request(repeats, seed, tuple(sorted(set(shots)))))
    return Plan(protocol, why, tuple(splits), notes)


def _automatic(features: Labelled) -> tuple[str, str]:
    """The protocol that suits a file, and why."""
    names = [*(name for name in PROTOCOLS if name != FALLBACK), FALLBACK]
    return next((name, why) for name in names if (why := PROTOCOLS[name].suits(features)))


def _check_needs(features: Labelled, protocol: str, needs: tuple[str, ...]) -> None:
    splits = features.meta.splits
    filled = {splits[k] for k in np.unique(features.split)}
    missing = [name for name in needs if name not in filled]
    if missing:
        raise EvaluationError(
            f"{features.path}: the {protocol} protocol needs the splits {' and '.join(needs)}, no row is in "
            f"{' or '.join(missing)} (the file has {', '.join(splits)})",
            "extract all splits, or use `protocol='stratified'`",
        )
