"""The models of timm, with its published weights, a checkpoint, or random weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from l2a_transfer.errors import BackendError, unknown_name
from l2a_transfer.features.backends.interface import Layer
from l2a_transfer.features.backends.registry import BACKBONE_OPTIONS, register_backend
from l2a_transfer.preprocess import FILTERS, Preprocess
from l2a_transfer.registry import require_package
from l2a_transfer.wording import first_line

if TYPE_CHECKING:
    from l2a_transfer.features.backends.backbone import Built, ModuleBackend

PREFIX = "timm:"


@register_backend(
    "timm",
    models="timm:NAME",
    prefixes=(PREFIX, f"untrained:{PREFIX}"),
    options=BACKBONE_OPTIONS,
    package="timm",
    extra="timm",
    layers=lambda model, size: list_layers(model, size),
)
def open_timm(model: str, **options: Any) -> ModuleBackend:
    """A model of timm. Raises: UnknownNameError; BackendError; WeightsError."""
    from l2a_transfer.features.backends.backbone import ModuleBackend, is_untrained, with_checkpoint

    fresh, weights, seed = is_untrained(model, options["weights"]), options["weights"], options["seed"]
    if not fresh and weights is None and not options["download"]:
        raise BackendError(
            f"{model}: timm downloads its weights from a hub, but downloads are off by default",
            "use `download=True`, `weights` with your own checkpoint, or 'untrained:' before the name",
        )
    built = with_checkpoint(build(model, seed=seed, pretrained=not fresh and weights is None), weights)
    return ModuleBackend("timm", model, built, options)


def list_layers(model: str, image_size: int | None) -> Sequence[Layer]:
    """The layers of a model; this needs no weights. Raises: UnknownNameError; MissingExtraError."""
    require_package(model, "timm", "timm")
    from l2a_transfer.features.backends.hooks import layer_list

    built = build(model, seed=0, pretrained=False)
    own = built.preprocess.size if built.preprocess else 224
    return layer_list(built.network.eval(), built.call, image_size or own, [built.default])


def build(model: str, *, seed: int, pretrained: bool) -> Built:
    """Build a network of timm. Its default layer is the features before the logits, as defined by timm.

    Raises: UnknownNameError for a name that timm does not have; BackendError if weights cannot be downloaded.
    """
    import timm

    from l2a_transfer.features.backends.backbone import UNTRAINED, Built, seeded

    name = model.removeprefix(UNTRAINED).removeprefix(PREFIX)
    if "/" in name or ":" in name or timm.models.split_model_name_tag(name)[0] not in timm.list_models():
        raise unknown_name("the name after timm:", name, timm.list_models())
    architecture = f"{PREFIX}{name}"
    try:
        with seeded(seed):
            network = timm.create_model(name, pretrained=pretrained)
        heads = _heads(network)
        default = f"{heads[0]}:in"
        if len(heads) != 1:  # distilled models have two classifiers and combine their inputs
            default = "output"
            with seeded(seed):
                network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise BackendError(f"{model}: timm cannot create it: {first_line(error)}") from error
    training: dict[str, Any] = {"untrained": True, "seed": seed}
    if pretrained:
        config = network.pretrained_cfg
        training = {"weights": str(config.get("hf_hub_id") or config.get("url") or config.get("tag") or "published")}
    return Built(
        architecture if pretrained else f"{UNTRAINED}{architecture}",
        architecture,
        network,
        _preprocess(network),
        default,
        classifiers=heads,
        training=training,
        identity={"timm": timm.__version__},
        headless="" if len(heads) == 1 else "create the network in your own function, as module:FILE.py:FUNCTION",
    )


def _heads(network: Any) -> tuple[str, ...]:
    """The names of a network's classifiers. They have no weights in a network without a classifier."""
    found = network.get_classifier()
    own = [id(module) for module in (found if isinstance(found, (tuple, list)) else (found,))]
    names = tuple(name for name, module in network.named_modules() if id(module) in own)
    return names or ("head",)


def _preprocess(network: Any) -> Preprocess | None:
    """The preprocess of timm's data config; None if it is unsupported."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(network)
    channels, H, W = config["input_size"]
    if (channels, H) != (3, W) or config["interpolation"] not in FILTERS:
        return None
    mean, std, share = tuple(config["mean"]), tuple(config["std"]), config["crop_pct"]
    if config["crop_mode"] == "center" and 0 < share <= 1:
        return Preprocess(H, "crop", config["interpolation"], mean, std, math.floor(H / share))
    if config["crop_mode"] == "squash" and share == 1:
        return Preprocess(H, "stretch", config["interpolation"], mean, std)
    return None
