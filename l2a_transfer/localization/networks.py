"""The networks whose maps are measured: their names, classes, and results on a batch of pictures."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import ArgumentError, BackendError, unknown_name
from l2a_transfer.evaluation.groups import Source
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.localization.pictures import Pictured, input_size
from l2a_transfer.localization.results import LocalizationConfig

if TYPE_CHECKING:
    from torch import Tensor

    from l2a_transfer.explain.compute import MapBatch
    from l2a_transfer.models.interface import Network
    from l2a_transfer.models.weights import Card

log = logging.getLogger(__name__)
CONTROLS = ("centre", "sobel", "random")
EVERYTHING = "everything"
"""The control that takes every pixel as the object: a constant map."""
TRUE, PREDICTED = "true", "predicted"
SIZE_OF_TRIAL = (1, 3)


@dataclass(frozen=True)
class MapName:
    """A map of a method, and its kind."""

    method: str
    map: str
    kind: str


@dataclass(frozen=True)
class Opened:
    """A network with its card.

    Parameters
    ----------
    label : str
        Name in the table.
    network : Network
    card : Card
    sha256 : str
        The digest of its weights.
    classes : dict of str to int
        Class of the data → class of the network, if it has that class.
    """

    label: str
    network: Network
    card: Card
    sha256: str
    classes: dict[str, int]

    @property
    def document(self) -> dict[str, Any]:
        """The card with the digest, as JSON."""
        return {**self.card.to_json(), "weights_sha256": self.sha256}

    def source(self, name: MapName, data: str) -> Source:
        """The origin of a row of the table."""
        return Source(self.label, data, self.card.to_json(), self.sha256, tap=f"{name.method} {name.map}")

    def pixels(self, pictures: Sequence[Pictured], side: int) -> Tensor:
        """The normalised network input (B, 3, h, w) for the pictures."""
        import torch
        from PIL import Image

        from l2a_transfer.preprocess import normalize

        device = next(self.network.parameters()).device
        resample = Image.Resampling[self.card.preprocess.filter.upper()]
        sizes = [input_size(own.image, side, 1, own.name) for own in pictures]
        arrays = [np.asarray(p.image.resize(size, resample)) for p, size in zip(pictures, sizes, strict=True)]
        images_u8 = torch.from_numpy(np.stack(arrays).transpose(0, 3, 1, 2).copy()).to(device)
        return normalize(images_u8, *self.card.preprocess.statistics(device))

    def targets(self, pictures: Sequence[Pictured], config: LocalizationConfig, classes: Sequence[str]) -> list[int]:
        """The class of each picture that maps explain, by `config.target`; predicted classes are from the network
        itself."""
        if config.target == TRUE:
            return [self.classes[classes[own.label]] for own in pictures]
        return [self.card.classes.index(config.target)] * len(pictures)


def open_networks(
    models: Sequence[str | Path], config: LocalizationConfig, classes: Sequence[str], *, device: str, seed: int = 0
) -> list[Opened]:
    """Open networks by name, and match their classes with those of the data.

    Parameters
    ----------
    models : sequence of str or Path
        As for `load_model`.
    config : LocalizationConfig
        Settings, with the class that the maps explain.
    classes : sequence of str
        Classes of the data.
    device : str
        "auto", "cpu" or "cuda".
    seed : int, default=0
        Random seed of untrained weights.

    Raises
    ------
    ArgumentError
        For no model, a duplicate, or a class that a network does not have.
    WeightsError, UnknownNameError
        As `load_model`.
    """
    from l2a_transfer.devices import choose_device
    from l2a_transfer.models.digest import network_sha256
    from l2a_transfer.models.loading import load_model

    if not models:
        raise ArgumentError("at least one model is needed")
    where = choose_device(device)
    for name in config.same_class:
        if name not in classes:
            raise unknown_name("class of the data in same_class", name, classes)
    loaded = [load_model(name, seed=seed) for name in models]
    found = []
    for label, (network, card) in zip(_labels(models), loaded, strict=True):
        if not card.classes:
            card = dataclasses.replace(card, classes=_names_of_others(card, [own for _, own in loaded]))
        own = {cls: k for cls in classes if (k := _class_index(cls, card.classes, config.same_class)) is not None}
        if config.target not in (TRUE, PREDICTED) and config.target not in card.classes:
            raise unknown_name(f"class of {label}", config.target, card.classes or (TRUE, PREDICTED))
        found.append(Opened(label, network.to(where), card, network_sha256(network), own))
    twice = [own for own, n in Counter(one.sha256 for one in found).items() if n > 1]
    if twice:
        first, second = [one.label for one in found if one.sha256 == twice[0]][:2]
        raise ArgumentError(f"model {second} has the weights of {first}", "name each network once")
    return found


def _labels(models: Sequence[str | Path]) -> list[str]:
    """Distinct short names: a file's name without suffix, or its path if two names are equal."""
    short = [Path(name).stem if str(name).endswith(".safetensors") else str(name) for name in models]
    often = Counter(short)
    return [own if often[own] == 1 else str(name) for own, name in zip(short, models, strict=True)]


def _names_of_others(card: Card, others: Sequence[Card]) -> tuple[str, ...]:
    """Class names for untrained weights: those of the first network with as many classes, so that "true" is defined."""
    return next((own.classes for own in others if len(own.classes) == card.config.num_classes), ())


def _class_index(name: str, known: Sequence[str], same: Mapping[str, str]) -> int | None:
    """The network's class for a class of the data. Raises: UnknownNameError for an invalid `same_class`."""
    if name in same:
        if known and same[name] not in known:
            raise unknown_name(f"same_class of {name}", same[name], known)
        return known.index(same[name]) if known else None
    folded = {own.casefold(): k for k, own in enumerate(known)}
    return folded.get(name.casefold())


def shared_classes(networks: Sequence[Opened], classes: Sequence[str]) -> list[str]:
    """The classes of the data that every network has."""
    return [name for name in classes if all(name in own.classes for own in networks)]


def available(opened: Opened, config: LocalizationConfig) -> Iterator[tuple[str, MapBatch]]:
    """The methods that a network supports, each with its maps, tested on one image of noise.

    Raises: BackendError if it supports none of them; ArgumentError for unknown options or levels of a method.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(*SIZE_OF_TRIAL, config.side, config.side, generator=generator)
    noise = noise.to(next(opened.network.parameters()).device)
    missing: list[BackendError] = []
    for method in config.methods:
        try:
            yield method, maps_of(opened.network, noise, method, config, None)
        except BackendError as error:
            missing.append(error)
    if len(missing) == len(config.methods):
        raise missing[0]
    for reason in missing:
        log.warning("a method is left out: %s", reason)


def maps_of(
    network: Network, images: Tensor, method: str, config: LocalizationConfig, targets: Sequence[int] | None
) -> MapBatch:
    """The maps of a batch by one method, with the requested options and levels."""
    from l2a_transfer.explain.compute import map_batch

    spec = METHODS.find(method)
    return map_batch(
        network,
        images,
        method=method,
        targets=targets if spec.class_specific else None,
        levels=config.levels if spec.per_level else (),
        options=config.options.get(method),
    )


def predicted(network: Network, images: Tensor) -> NDArray[np.int64]:
    """The predicted class of each image, (B,)."""
    import torch

    from l2a_transfer.models.copies import in_evaluation

    with torch.no_grad():
        found: NDArray[np.int64] = in_evaluation(network)(images).argmax(dim=1).cpu().numpy()
    return found
