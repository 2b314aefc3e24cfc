"""Networks tested on the same images, and these images with each network's class indices."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.folders import find_pictures
from l2a_transfer.data.loader import choose_workers, pixel_batches
from l2a_transfer.data.selection import select
from l2a_transfer.data.sources import FileSource, ImageSource, check_source
from l2a_transfer.errors import ArgumentError, DataError, nearest
from l2a_transfer.memory import usable_memory
from l2a_transfer.models.weights import Card
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.wording import counted

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from l2a_transfer.models.interface import Network

SHARE_OF_MEMORY = 1 / 4
TEST = "test"
TRAINED = "use weights that were trained on these classes"


@dataclass(frozen=True)
class OpenNetwork:
    """A network with its card, a name unique within the run, and the digest of its weights."""

    name: str
    network: Network
    card: Card
    sha256: str

    def document(self) -> dict[str, Any]:
        """The description of the network in a results file."""
        return {
            "name": self.name,
            "weights_sha256": self.sha256,
            "architecture": self.card.config.architecture,
            "untrained": bool(self.card.training.get("untrained", False)),
            "side": self.card.preprocess.size,
        }


def open_networks(
    models: Sequence[str | Path | tuple[Network, Card]], *, device: torch.device, seed: int = 0
) -> tuple[OpenNetwork, ...]:
    """The networks, in evaluation mode on a device.

    Parameters
    ----------
    models : sequence of str, Path or (Network, Card)
        Names accepted by `load_model`, or its return values. A given network is copied.
    device : torch.device
        Device of the networks.
    seed : int, default=0
        Random seed of untrained weights.

    Returns
    -------
    tuple of OpenNetwork
        Networks whose cards have the same name are named as they were given, or by number.

    Raises
    ------
    ArgumentError
        If there is no model, or the same one twice.
    UnknownNameError, WeightsError
        As `load_model`.
    """
    from l2a_transfer.models.copies import evaluation_copy
    from l2a_transfer.models.digest import network_sha256
    from l2a_transfer.models.loading import load_model

    if not models:
        raise ArgumentError("models must be one or more networks, got none")
    opened: list[tuple[str, Network, Card]] = []
    for number, one in enumerate(models, 1):
        network, card = one if isinstance(one, tuple) else load_model(one, seed=seed)
        opened.append((f"{card.name} ({number})" if isinstance(one, tuple) else str(one), network, card))
    often = Counter(card.name for _, _, card in opened)
    found: dict[str, OpenNetwork] = {}
    for given, network, card in opened:
        name = card.name if often[card.name] == 1 else given
        if name in found:
            raise ArgumentError(f"each model must be given once, got {name!r} twice")
        found[name] = OpenNetwork(name, _laid_out(evaluation_copy(network).to(device)), card, network_sha256(network))
    return tuple(found.values())


def _laid_out(network: Network) -> Network:
    """The network in channels-last format, which makes convolutions with gradients 1.2 to 1.7 times as fast on a
    CPU."""
    import torch

    return network.to(memory_format=torch.channels_last)


def chosen_images(source: ImageSource, *, split: str | None = None, limit: int | None = None) -> ImageSource:
    """The test images: one split; by default the one called "test" if there is one, otherwise all images.

    Raises: UnknownNameError, ArgumentError, as `select`; DataError if there are no images.
    """
    chosen = TEST if split is None and TEST in source.splits else split
    found = select(source, split=chosen, limit=limit)
    if not len(found):
        raise DataError(f"{source.name}: no images to test on")
    return found


def pictures_source(paths: Sequence[Path]) -> ImageSource:
    """Pictures, and those in folders and their sub-folders, as a source without classes. Each picture counts once.

    Raises: DataError for a folder without pictures, and for a path that does not exist.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            below = sorted(find_pictures(path)[0])
            if not below:
                raise DataError(f"{path}: folder contains no pictures", "name another folder, or a picture")
            found.update(dict.fromkeys((path / name).absolute() for name in below))
        elif path.exists():
            found[path.absolute()] = None
        else:
            raise DataError(f"{path}: no such file", "check the spelling")
    root = Path(os.path.commonpath([path.parent for path in found]))
    ids = tuple(path.relative_to(root).as_posix() for path in found)
    none = np.full(len(ids), -1, dtype=np.int32)
    source = FileSource("pictures", (), ("all",), ids, none, np.zeros(len(ids), dtype=np.uint8), root=root)
    check_source(source)
    return source


def class_numbers(source: ImageSource, tested: OpenNetwork) -> NDArray[np.int64]:
    """The network's class index of each image, (N,).

    Raises
    ------
    DataError
        For images without a class, and classes that the network does not know.
    """
    if (source.labels < 0).any():
        none = int((source.labels < 0).sum())
        raise DataError(f"{source.name}: {counted(none, 'image')} without a class; every image needs its true class")
    own = tested.card.classes
    if not own:
        raise DataError(f"{tested.name} has no class names, so its answers cannot be checked", TRAINED)
    numbers = {name: k for k, name in enumerate(own)}
    used = [source.classes[k] for k in np.unique(source.labels)]
    if unknown := [name for name in used if name not in numbers]:
        close = nearest(unknown[0], own)
        hint = f"; did you mean {close!r}?" if close else ""
        more = f" and {counted(len(unknown) - 1, 'other')}" if len(unknown) > 1 else ""
        raise DataError(
            f"{source.name} has the class {unknown[0]!r}{more}, which {tested.name} does not know{hint}",
            f"its classes are {', '.join(own[:12])}{', …' if len(own) > 12 else ''}",
        )
    table = np.array([numbers.get(name, -1) for name in source.classes], dtype=np.int64)
    return table[source.labels]


class SharedImages:
    """The preprocessed images, decoded once for all networks with the same resizing.

    They are kept between networks if they take at most SHARE_OF_MEMORY of the usable memory.

    Parameters
    ----------
    source : ImageSource
        The images.
    preprocesses : iterable of Preprocess
        One for each network that `batches` will be called for.
    """

    def __init__(self, source: ImageSource, preprocesses: Iterable[Preprocess]) -> None:
        self.source = source
        self._left = Counter(map(_resizing, preprocesses))
        self._kept: dict[Preprocess, NDArray[np.uint8]] = {}

    def batches(
        self, preprocess: Preprocess, *, device: torch.device, batch_size: int, workers: int | None = None
    ) -> Iterator[tuple[Tensor, slice]]:
        """The images of one network, uint8 (B, 3, size, size) on a device, with their row numbers.

        Raises: DataError for an image that cannot be used; ArgumentError for a batch size below 1.
        """
        import torch

        if batch_size < 1:
            raise ArgumentError(f"batch_size must be at least 1, got {batch_size}")
        for own, images_u8 in self._decoded(preprocess, batch_size, workers):
            images = torch.from_numpy(images_u8).to(device)
            yield images.contiguous(memory_format=torch.channels_last), slice(own.start, own.stop)

    def _decoded(
        self, preprocess: Preprocess, batch_size: int, workers: int | None
    ) -> Iterator[tuple[range, NDArray[np.uint8]]]:
        key, N = _resizing(preprocess), len(self.source)
        rows = [range(k, min(k + batch_size, N)) for k in range(0, N, batch_size)]
        self._left[key] -= 1
        kept = self._kept.get(key)
        if kept is not None:
            yield from ((own, kept[own.start : own.stop]) for own in rows)
        else:
            shape = (N, 3, preprocess.size, preprocess.size)
            keeps = self._left[key] > 0 and math.prod(shape) <= SHARE_OF_MEMORY * usable_memory()
            kept = np.empty(shape, dtype=np.uint8) if keeps else None
            decoding = choose_workers(N, workers)
            for own, batch in zip(rows, pixel_batches(self.source, preprocess, rows, workers=decoding), strict=True):
                if kept is not None:
                    kept[own.start : own.stop] = batch.images_u8
                yield own, batch.images_u8
            if kept is not None:
                self._kept[key] = kept
        if self._left[key] < 1:
            self._kept.pop(key, None)


def _resizing(preprocess: Preprocess) -> Preprocess:
    """The part of a preprocess that determines pixels: everything except normalisation."""
    return dataclasses.replace(preprocess, mean=Preprocess.mean, std=Preprocess.std)


def run_facts(device: torch.device) -> dict[str, Any]:
    """Facts about the run: versions, commit and device."""
    import platform

    import torch

    from l2a_transfer.devices import device_name
    from l2a_transfer.provenance import commit
    from l2a_transfer.version import __version__

    return {
        "versions": {
            "l2a-transfer": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "commit": commit(),
        "device": device_name(device),
    }
