"""Protocols: which rows of a feature file are fitted and chosen on, and which are tested on.

A protocol is a function that is registered beside its own code (`register`); the package's own are in
`standard_protocols`. Each can be repeated from the seed and the ids of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from l2a_transfer.errors import EvaluationError
from l2a_transfer.evaluation.splits import Labelled, Split
from l2a_transfer.registry import Registry

SHOTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Request:
    """What a protocol is asked for: so many draws from this seed, and training images a class in rising order."""

    draws: int
    seed: int
    shots: tuple[int, ...] = SHOTS


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


PROTOCOLS: Registry[SplitProtocol] = Registry("protocol", "l2a_transfer.evaluation.standard_protocols")
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
        PROTOCOLS.add(name, SplitProtocol(deal, draws, tuple(needs), is_drawn, has_shots, suits))
        return deal

    return add


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
