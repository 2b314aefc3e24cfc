"""Protocols: which rows of a feature file are used for fitting and choosing C, and which for testing.

A protocol is a function registered with `register` next to its own code; the built-in ones are in `standard_protocols`.
Their splits are reproducible from the seed and the image ids.
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
    """The request to a protocol: number of draws, seed, and training images per class in ascending order."""

    draws: int
    seed: int
    shots: tuple[int, ...] = SHOTS


@dataclass(frozen=True)
class Setting:
    """Names of the source domains for fitting and choosing C, and of the target domain for testing. `by_domain`:
    whether C is chosen by holding out one source after the other; otherwise by stratified folds."""

    sources: tuple[str, ...]
    target: str
    by_domain: bool = False

    @property
    def is_within(self) -> bool:
        """Whether training and test domain are the same."""
        return self.sources == (self.target,)


Settings = Callable[[tuple[str, ...], tuple[str, ...], tuple[str, ...]], list[Setting]]
"""All domains, the requested sources and the requested targets (empty: all) → settings."""
Deal = Callable[[Labelled, Request], tuple[list[Split], tuple[str, ...]]]
"""Feature file and request → its splits, one per draw (and number of shots), and notes for the reader."""


@dataclass(frozen=True)
class SplitProtocol:
    """A protocol and its properties; see `register`."""

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
"""The protocol that `auto` chooses if no other suits."""


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
        The name by which users select it.
    draws : int
        Default number of draws.
    needs : sequence of str
        Splits of the data set that must have rows in the feature file.
    is_drawn : bool
        Whether splits are drawn at random; otherwise there is one fixed split, and `draws` must not be given.
    has_shots : bool
        Whether each draw has several splits, with different numbers of training images per class.
    suits : callable
        Returns the reason why `auto` chooses this protocol for a feature file; empty if it does not.

    Returns
    -------
    callable
        A decorator that returns the function unchanged.

    Raises
    ------
    PluginError
        If the name is taken, or contains characters other than lower-case letters, digits and hyphens.
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
        The name by which users select it.

    Returns
    -------
    callable
        A decorator that returns the function unchanged.

    Raises
    ------
    PluginError
        As `register`.
    """

    def add(settings: Settings) -> Settings:
        def deal(features: Labelled, request: Request) -> tuple[list[Split], tuple[str, ...]]:
            raise EvaluationError(
                f"{features.path}: the {name} protocol works across domains and has no split within a single file",
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
    """Raises: ArgumentError if a setting only for protocols over domains is given with another protocol."""
    for name, value in given.items():
        if value and PROTOCOLS[protocol].settings is None:
            over = ", ".join(other for other, one in PROTOCOLS.items() if one.settings is not None)
            raise ArgumentError(f"{name} requires one of the protocols {over}; got {protocol}")


@dataclass(frozen=True)
class Plan:
    """The protocol chosen for a file, why, and its splits, one per draw (in `low-shot`, one per draw and k)."""

    protocol: str
    why: str
    splits: tuple[Split, ...]
    notes: tuple[str, ...]

    def groups(self) -> list[tuple[int | None, tuple[Split, ...]]]:
        """(shots, splits) of each row of the table: all draws, and in `low-shot` all draws with one k."""
        shots = dict.fromkeys(split.shots for split in self.splits)
        return [(k, tuple(split for split in self.splits if split.shots == k)) for k in shots]


def plan_splits(
    features: Labelled, protocol: str, *, draws: int | None, seed: int, shots: Sequence[int] = SHOTS
) -> Plan:
    """The splits of one file under a protocol.

    A random split depends only on the seed, the draw, and the ids and class names of the images, not on the model or
    the order of the rows.

    Parameters
    ----------
    features : FeatureSet or FeatureFile
        The file. Its ids, labels and splits are read, and its features checked for finite values.
    protocol : str
        A name in `PROTOCOLS`; ``"auto"`` chooses the one that suits the file.
    draws : int or None
        Number of draws; None means the default of the protocol.
    seed : int
        Random seed.
    shots : sequence of int
        Training images per class, for a protocol that uses them.

    Returns
    -------
    Plan

    Raises
    ------
    UnknownNameError
        If there is no such protocol.
    EvaluationError
        If the rows do not allow it.
    """
    chosen, why = PROTOCOLS.find(protocol), "as asked"
    if protocol == AUTO:
        protocol, why = _automatic(features)
        chosen = PROTOCOLS[protocol]
    repeats = chosen.draws if draws is None else draws
    if not chosen.is_drawn and repeats != 1:
        raise EvaluationError(
            f"{features.path}: the {protocol} split of {features.meta.data} is fixed and cannot be drawn "
            f"{repeats} times",
            "omit `draws`, or draw splits with `protocol='stratified'`",
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
