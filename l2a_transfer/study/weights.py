"""Finds the weights of each run of a study: existing files and bundled names, which are checked against the study, or
a run that the study trains."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from l2a_transfer.errors import StudyError, WeightsError, unknown_name
from l2a_transfer.features.backends.interface import tap_levels
from l2a_transfer.models.config import DEFAULT_SELECTION, DEFAULT_WIDTH, ModelConfig
from l2a_transfer.models.weights import PRETRAINED, Card, pretrained_names, read_card
from l2a_transfer.study.config import Network, Study

PIXELS, UNTRAINED = "pixels", "untrained:"
ONNX = ".onnx"


@dataclass(frozen=True)
class Run:
    """One network with one seed. The tables of a study show means over runs.

    Attributes
    ----------
    model : str
        The name in `Study.models`.
    seed : int or None
        The seed of training or of untrained weights; None if nothing is random.
    source : str or None
        The data set of the training.
    given : str or None
        The model for `extract`; None if the study trains it.
    file : Path or None
        The weights file of `given`.
    width : int or None
        The number of feature columns; None if it is only known from the features.
    """

    model: str
    seed: int | None
    source: str | None
    given: str | None = None
    file: Path | None = None
    width: int | None = None

    @property
    def name(self) -> str:
        return f"{self.model}/{'fixed' if self.seed is None else f'seed-{self.seed}'}"

    @property
    def draws_weights(self) -> bool:
        return self.given is not None and self.given.startswith(UNTRAINED)


def runs_of(study: Study) -> list[Run]:
    """Every run, in the order of the file.

    Raises
    ------
    StudyError
        If weights are missing or damaged, are given twice for one seed, or belong to another network or data set.
    """
    return [run for model, (network, source) in study.models().items() for run in _runs(study, model, network, source)]


def _runs(study: Study, model: str, network: Network, source: str | None) -> list[Run]:
    found: dict[int | None, Run] = {}
    for run in _given(study, model, network, source):
        if network.seeds_given and run.seed is not None and run.seed not in network.seeds:
            continue
        if run.seed in found:
            raise StudyError(
                f"{study.file}: networks.{network.name}.weights: {found[run.seed].given} and {run.given} are both of "
                f"{'no seed' if run.seed is None else f'seed {run.seed}'}"
            )
        found[run.seed] = run
    if network.architecture is not None:
        config = ModelConfig(
            network.architecture, width=network.width, normalizer=network.normalizer, selection=network.selection
        )
        width = _width(study, network, config)
        for number in network.seeds:
            found.setdefault(number, Run(model, number, source, width=width))
    if not found:
        raise StudyError(f"{study.file}: networks.{network.name}.weights: no such file: {', '.join(network.weights)}")
    if len({run.width for run in found.values()}) > 1:
        where = f"{study.file}: networks.{network.name}.weights"
        raise StudyError(f"{where}: have features of different widths; split them into two networks")
    return [found[seed] for seed in sorted(found, key=lambda seed: (seed is None, seed or 0))]


def _given(study: Study, model: str, network: Network, source: str | None) -> Iterator[Run]:
    for item in network.weights:
        where = f"{study.file}: networks.{network.name}.weights"
        text = item.replace("{source}", source or "")
        if "{source}" in item and network.architecture and "/" not in text and text not in pretrained_names():
            continue  # there are no bundled weights for this source, so the study trains it
        if text == PIXELS:
            yield Run(model, None, source, PIXELS)
        elif text.startswith(UNTRAINED):
            config = _untrained(where, text)
            for drawn in network.seeds:
                yield Run(model, drawn, source, text, width=_width(study, network, config))
        else:
            for name, seed in _names(where, text, study.folder, network):
                yield _of_file(study, Run(model, seed, source, name), network)


def _untrained(where: str, text: str) -> ModelConfig:
    architecture, at, width = text.removeprefix(UNTRAINED).partition("@")
    try:
        return ModelConfig(architecture, width=float(width) if at else DEFAULT_WIDTH)
    except ValueError as error:
        raise StudyError(f"{where}: {text!r} is refused: {error}") from error


def _names(where: str, text: str, folder: Path, network: Network) -> Iterator[tuple[str, int | None]]:
    """(model for `extract`, seed) of each file or name that a template, glob, path or bundled name stands for."""
    if "{seed}" in text:
        for seed in network.seeds:
            name = text.replace("{seed}", str(seed))
            if (folder / os.path.expanduser(name)).exists():
                yield name, seed
            elif network.architecture is None:
                raise StudyError(f"{where}: {name}: no such file")
    elif glob.has_magic(text):
        yield from ((name, None) for name in sorted(glob.glob(text, root_dir=folder)))
    elif text.endswith((".safetensors", ONNX)) or "/" in text:
        if (folder / os.path.expanduser(text)).exists():
            yield text, None
        elif network.architecture is None:
            raise StudyError(f"{where}: {text}: no such file")
    elif text in pretrained_names():
        yield text, None
    else:
        try:
            raise unknown_name("weights", text, [*pretrained_names(), PIXELS, "untrained:ARCH[@WIDTH]"])
        except ValueError as error:
            raise StudyError(f"{where}: {error}") from None


def _of_file(study: Study, run: Run, network: Network) -> Run:
    """The run with the seed and width of its file. Raises: StudyError if they are not what the study says."""
    assert run.given is not None
    bundled = run.given in pretrained_names()
    path = PRETRAINED / f"{run.given}.safetensors" if bundled else study.folder / os.path.expanduser(run.given)
    if path.suffix == ONNX:
        return Run(run.model, run.seed, run.source, run.given, path)
    where = f"{study.file}: networks.{network.name}.weights: {run.given}"
    try:
        card = read_card(path)
    except WeightsError as error:
        raise StudyError(f"{study.file}: networks.{network.name}.weights: {error}") from error
    seed = card.training.get("seed")
    # The seed is used in folder names, and a card may contain anything.
    if seed is not None and (type(seed) is not int or seed < 0):
        raise StudyError(f"{path}: `training.seed` must be a whole number of at least 0, or null, got {seed!r:.60}")
    if run.seed is not None and seed not in (None, run.seed):
        raise StudyError(f"{where}: its card says seed {seed}, but its name says seed {run.seed}")
    if network.architecture is not None:
        said = (network.architecture, network.width, network.normalizer, network.selection)
        of = card.config
        there = (of.architecture, of.width, of.normalizer, of.selection)
        if said != there:
            raise StudyError(f"{where}: is {_described(there)}, not {_described(said)}")
    if run.source is not None:
        _check_source(where, card, study.sources[run.source].data)
    width = _width(study, network, card.config)
    return Run(run.model, seed if run.seed is None else run.seed, run.source, run.given, path, width)


def _check_source(where: str, card: Card, data: str) -> None:
    """Raises: StudyError if the card names another data set. Data that is given as a path is not checked."""
    there = str(card.training.get("data", data))
    if ":" not in data and there.partition(":")[0] != data:
        raise StudyError(f"{where}: was trained on {there}, not on {data}")


def _described(network: tuple[str, float, str, str]) -> str:
    architecture, width, normalizer, selection = network
    chosen = "" if selection == DEFAULT_SELECTION else f" and {selection} selection"
    return f"{architecture} of width {width:g} with {normalizer}{chosen}"


def _width(study: Study, network: Network, config: ModelConfig) -> int:
    """The number of feature columns. Raises: StudyError for levels that the network does not have."""
    levels = tap_levels(config, dict(network.extract).get("tap", "ga"))
    if unknown := [level for level in network.levels if level not in levels]:
        raise StudyError(
            f"{study.file}: networks.{network.name}.levels names {unknown[0]!r}; the network has {', '.join(levels)}"
        )
    return sum(width for level, width in levels.items() if not network.levels or level in network.levels)
