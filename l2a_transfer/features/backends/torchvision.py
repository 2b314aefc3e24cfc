"""Classifiers of torchvision, with its published weights, a checkpoint, or random weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2a_transfer.errors import BackendError, unknown_name
from l2a_transfer.features.backends.interface import Layer
from l2a_transfer.features.backends.registry import BACKBONE_OPTIONS, register_backend
from l2a_transfer.preprocess import FILTERS, Preprocess

if TYPE_CHECKING:
    from l2a_transfer.features.backends.backbone import Built, ModuleBackend

PREFIX = "torchvision:"
UNUSUAL = {"googlenet": {"init_weights": True}, "inception_v3": {"init_weights": True}}
"""Arguments that avoid warnings of these networks."""
WITH_WEIGHTS = {name: {"transform_input": True, "init_weights": False} for name in UNUSUAL}
"""Arguments that torchvision uses to build these networks with its own weights."""


@register_backend(
    "torchvision",
    models="torchvision:NAME[@WEIGHTS]",
    prefixes=(PREFIX, f"untrained:{PREFIX}"),
    options=BACKBONE_OPTIONS,
    layers=lambda model, size: list_layers(model, size),
)
def open_torchvision(model: str, **options: Any) -> ModuleBackend:
    """A classifier of torchvision. Raises: UnknownNameError; BackendError; WeightsError."""
    from l2a_transfer.features.backends.backbone import ModuleBackend, is_untrained, with_checkpoint

    fresh, weights = is_untrained(model, options["weights"]), options["weights"]
    source = "random" if fresh else "published" if weights is None else "file"
    built = with_checkpoint(build(model, source, seed=options["seed"], download=options["download"]), weights)
    return ModuleBackend("torchvision", model, built, options)


def list_layers(model: str, image_size: int | None) -> Sequence[Layer]:
    """The layers of a model; this needs no weights. Raises: UnknownNameError."""
    from l2a_transfer.features.backends.hooks import layer_list

    built = build(model, "random")
    assert built.preprocess is not None
    return layer_list(built.network.eval(), built.call, image_size or built.preprocess.size, [built.default])


def build(model: str, source: str, *, seed: int = 0, download: bool = False) -> Built:
    """Build a network of torchvision. `source` is "random", "published" (weights to load), or "file".

    Raises: UnknownNameError for an unknown name or weights; BackendError if weights are not on this machine.
    """
    import torchvision.models as zoo

    from l2a_transfer.features.backends.backbone import UNTRAINED, Built, seeded
    from l2a_transfer.features.backends.hooks import last_linear

    name, at, wanted = model.removeprefix(UNTRAINED).removeprefix(PREFIX).partition("@")
    names = zoo.list_models(module=zoo)
    if name not in names:
        raise unknown_name("the name after torchvision:", name, names)
    known = zoo.get_model_weights(name)
    if at and wanted not in [*known.__members__, "DEFAULT"]:
        raise unknown_name(f"the weights of torchvision:{name}", wanted, known.__members__)
    weights = known[wanted] if at else known.DEFAULT
    architecture = f"{PREFIX}{name}"
    arguments: dict[str, Any] = (UNUSUAL if source == "random" else WITH_WEIGHTS).get(name, {})
    with seeded(seed):
        network = zoo.get_model(name, weights=None, **arguments)
    classifier = last_linear(network)
    shared: dict[str, Any] = {
        "architecture": architecture,
        "network": network,
        "preprocess": _preprocess(weights.transforms()),
        "default": f"{classifier}:in",
        "classifiers": (classifier, *(part for part in ("aux1", "aux2", "AuxLogits") if hasattr(network, part))),
    }
    if source != "published":
        return Built(f"{UNTRAINED}{architecture}", **shared, training={"untrained": True, "seed": seed})
    full = f"{architecture}@{weights.name}"
    path = _published(full, weights.url, download=download)
    from l2a_transfer.features.backends.checkpoint import read_state

    training = {"weights": weights.name, "url": weights.url}
    classes = tuple(weights.meta["categories"])
    return Built(full, **shared, state=read_state(path), source=full, training=training, classes=classes)


def _published(name: str, url: str, *, download: bool) -> Path:
    """The file of published weights in torch's cache folder. Raises: BackendError if it is not there."""
    import torch

    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if file.is_file():
        return file
    if not download:
        raise BackendError(
            f"{name}: its weights are not on this machine ({file})",
            "use `download=True`, `weights` with your own checkpoint, or 'untrained:' before the name",
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        digits = re.search(r"-([0-9a-f]{8,})\.", file.name)  # the first digits of the file's SHA-256
        torch.hub.download_url_to_file(url, str(file), digits[1] if digits else None, progress=False)
    except (OSError, RuntimeError) as error:
        raise BackendError(f"{name}: its weights cannot be downloaded from {url}: {error}") from error
    return file


def _preprocess(transforms: Any) -> Preprocess | None:
    """The preprocess of torchvision's transforms for classification; None for other transforms."""
    try:
        size, resize = transforms.crop_size[0], transforms.resize_size[0]
        chosen = transforms.interpolation.value
        mean, std = tuple(transforms.mean), tuple(transforms.std)
    except (AttributeError, TypeError, IndexError):
        return None
    if chosen not in FILTERS or resize < size:
        return None
    return Preprocess(size, "crop", chosen, mean, std, resize)
