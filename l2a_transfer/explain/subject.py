"""The network that maps explain: one of ours, or a third-party network that returns one logit per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2a_transfer.errors import BackendError
from l2a_transfer.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import nn

    from l2a_transfer.models.interface import Network
    from l2a_transfer.models.weights import Card


@dataclass(frozen=True)
class Subject:
    """A network, and the facts that its maps need.

    Parameters
    ----------
    network : nn.Module
        It returns logits (B, K) for normalised images (B, 3, H, W).
    name : str
        The model's name.
    preprocess : Preprocess
        Its preprocessing.
    classes : tuple of str
        The names of its classes; may be empty.
    num_classes : int
        Number of classes K.
    weights_sha256 : str
        The digest of its weights.
    card : dict
        Its card, as in feature files.
    maps : tuple of str
        The names of its attention maps.
    """

    network: nn.Module
    name: str
    preprocess: Preprocess
    classes: tuple[str, ...]
    num_classes: int
    weights_sha256: str
    card: dict[str, Any] = field(default_factory=dict)
    maps: tuple[str, ...] = ()

    @property
    def is_own(self) -> bool:
        """Whether it is a network of l2a_transfer."""
        from l2a_transfer.models.interface import Network

        return isinstance(self.network, Network)


def open_subject(
    model: str | Path | Network | tuple[Network, Card] | nn.Module,
    *,
    seed: int = 0,
    device: str | None = None,
    image_size: int | None = None,
    fit: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights: str | Path | None = None,
    download: bool = False,
) -> Subject:
    """Open the network of a model.

    Parameters
    ----------
    model : str, Path, Network, (Network, Card) or nn.Module
        As for `open_backend`, except models that do not run in PyTorch.
    seed : int, default=0
        Random seed of untrained weights.
    device : {"auto", "cpu", "cuda"}, optional
        By default, the device of the network; for a name, the CPU.
    image_size, fit, mean, std, weights, download
        For third-party networks, as for `open_backend`.

    Raises
    ------
    UnknownNameError, WeightsError, DeviceError, MissingExtraError
        As `open_backend`.
    BackendError
        For a model that does not run in PyTorch or has no classes, or for options that it does not support.
    TypeError
        For anything that is not a model.
    """
    from torch import nn

    from l2a_transfer.devices import choose_device
    from l2a_transfer.models.copies import device_of, evaluation_copy
    from l2a_transfer.models.digest import network_sha256
    from l2a_transfer.models.loading import as_network

    of_others: dict[str, Any] = {"image_size": image_size, "fit": fit, "mean": mean, "std": std, "weights": weights}
    named = isinstance(model, (str, Path))
    if _is_of_others(model):
        if isinstance(model, nn.Module) and device is None:
            device = device_of(model).type
        return _of_backend(model, {**of_others, "seed": seed, "device": device or "cpu", "download": download})
    network, card = as_network(model, seed=seed)
    if given := [f"`{name}`" for name, value in of_others.items() if value is not None]:
        raise BackendError(f"{card.name}: its preprocessing and weights are fixed", f"omit {' and '.join(given)}")
    if device is not None:
        network = (network if named else evaluation_copy(network, shared=True)).to(choose_device(device))
    return Subject(
        network,
        card.name,
        card.preprocess,
        tuple(card.classes),
        card.config.num_classes,
        network_sha256(network),
        card.to_json(),
        tuple(own.name for own in network.config.maps),
    )


def _is_of_others(model: object) -> bool:
    """Whether a model, by name or in memory, is a third-party network."""
    from torch import nn

    from l2a_transfer.features.backends.registry import DEFAULT_BACKEND, backend_for
    from l2a_transfer.models.interface import Network

    if isinstance(model, (str, Path)):
        return backend_for(os.path.expanduser(model)).name != DEFAULT_BACKEND
    return isinstance(model, nn.Module) and not isinstance(model, Network)


def _of_backend(model: Any, how: dict[str, Any]) -> Subject:
    """A third-party network. Its weights must include the classifier, because its output is needed."""
    from l2a_transfer.features.backends.registry import backend_for, open_backend

    if isinstance(model, (str, Path)):
        spec = backend_for(os.path.expanduser(model))
        if "weights" not in spec.options:
            raise BackendError(f"{model}: runs in {spec.name}, but maps need a network that runs in PyTorch")
    backend: Any = open_backend(model, layer=["output"], pool="none", **how)
    network, classes, K = backend.classifier()
    card = {key: value for key, value in backend.card.items() if key != "config"}
    architecture = backend.card["config"]["architecture"]
    return Subject(
        network,
        backend.card["name"],
        backend.preprocess,
        classes,
        K,
        backend.card["weights_sha256"],
        {**card, "config": {"architecture": architecture}},
    )
