"""Resolving model names, and creating networks by name, from a file, or with random weights. Imports no torch."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2a_transfer.errors import (
    ArgumentError,
    UnknownNameError,
    WeightsError,
    did_you_mean,
    names_keywords,
    unknown_name,
    wrong_kind,
)
from l2a_transfer.models.config import ARCHITECTURES, DEFAULT_WIDTH, ModelConfig, attention_name
from l2a_transfer.models.weights import (
    ANOTHER,
    PRETRAINED,
    Card,
    count_parameters,
    load_weights,
    pretrained_names,
    read_card,
)
from l2a_transfer.preprocess import Preprocess

if TYPE_CHECKING:
    from l2a_transfer.models.interface import Network

OF_OTHERS = re.compile("(?:untrained:)?(torchvision|timm|hf|module|onnx):")
"""Prefixes of names that are for a backend of `features`, not for `load_model`."""


@names_keywords
def load_model(name: str | Path, *, seed: int = 0) -> tuple[Network, Card]:
    """Load a network with its weights, and its model card.

    Parameters
    ----------
    name : str or Path
        Bundled weights (`list_models(pretrained=True)` lists them), a path to a `.safetensors` file, or
        `untrained:ARCH[@WIDTH]` for random weights. The default width is 0.25, as in `train`. The name of an
        architecture alone is not enough.
    seed : int, default=0
        Random seed of untrained weights. The global random state is not changed.

    Returns
    -------
    network : Network
        In evaluation mode, float32, on the CPU. It takes images (B, 3, H, W), normalised by `card.preprocess`.
    card : Card
        Config, preprocess, classes, training and metrics.

    Raises
    ------
    UnknownNameError
        For an unknown name; the message suggests the nearest one. For an architecture, it lists the weights.
    WeightsError
        For a file that cannot be used.

    Examples
    --------
    >>> import l2a_transfer
    >>> network, card = l2a_transfer.load_model("vgg-att2-concat-pc.cifar10-w025")
    >>> card.parameters, card.config.feature_levels
    (925178, {'L2': 128, 'L3': 128})
    """
    if not isinstance(name, (str, Path)):
        raise wrong_kind("name", "a model's name, or a path to .safetensors", name)
    name = os.path.expanduser(name)
    if os.path.isdir(name):
        there = sorted(Path(name).glob("*.safetensors"))
        raise WeightsError(
            f"{name}: is a folder; name a weights file" + (f", such as {there[0]}" if there else f" in it; {ANOTHER}")
        )
    if kind := OF_OTHERS.match(name):
        raise UnknownNameError(
            f"{name!r} is a network of another package ({kind[1]}), for 'l2a-transfer extract' and open_backend only",
            "use one of this package's networks here",
        )
    if name.startswith("untrained:"):
        return _untrained(name.removeprefix("untrained:"), seed)
    if name.endswith(".onnx"):
        raise WeightsError(
            f"{name}: is an ONNX file, which only 'l2a-transfer extract' accepts; use a weights file instead"
        )
    if name.endswith(".safetensors") or "/" in name or os.sep in name:
        return load_weights(Path(name))
    check_pretrained(name)
    return load_weights(PRETRAINED / f"{name}.safetensors")


def check_pretrained(name: str, *, random: str = "") -> None:
    """Raises: UnknownNameError unless `name` is bundled weights. `random` says how to request random weights."""
    random = random or f"'untrained:{name}'"
    names = pretrained_names()
    if name in names:
        return
    if name in ARCHITECTURES:
        own = [known for known in names if known.split(".")[0] == name]
        if own:
            raise UnknownNameError(
                f"{name!r} is an architecture; its weights are {', '.join(own)}",
                f"use one of them, or {random} for random weights",
            )
        raise UnknownNameError(
            f"{name!r} is an architecture without bundled weights; bundled weights are: {', '.join(names) or 'none'}",
            f"use {random} for random weights, or train some with 'l2a-transfer train'",
        )
    if name == "pixels":
        raise UnknownNameError("'pixels' is not a network and has no weights")
    hint = did_you_mean(name, [*names, *ARCHITECTURES, "pixels"]) or "."
    raise UnknownNameError(
        f"unknown model {name!r}{hint} Models are: a bundled name ({', '.join(names) or 'none'}), a path to "
        ".safetensors or .onnx, 'untrained:ARCH[@WIDTH]', or 'pixels'"
    )


def _untrained(text: str, seed: int) -> tuple[Network, Card]:
    from l2a_transfer.models.registry import build_model

    architecture, at, width = text.partition("@")
    try:
        config = ModelConfig(architecture, width=float(width) if at else DEFAULT_WIDTH)
    except UnknownNameError:
        raise
    except ValueError as error:
        raise UnknownNameError(f"untrained:{text}: {error}; expected untrained:ARCH[@WIDTH], such as @0.25") from error
    model = build_model(config, seed=seed).eval()
    card = Card(
        name=f"untrained:{architecture}@{_number(config.width)}",  # includes the width even if it is the default
        config=config,
        preprocess=Preprocess(),
        classes=(),
        parameters=count_parameters(model),
        training={"untrained": True, "seed": seed},
    )
    return model, card


def _number(width: float) -> str:
    """The shortest unique spelling of a width: 0.25 rather than 0.250, 1 rather than 1.0."""
    return f"{width:g}" if float(f"{width:g}") == width else repr(width)


@names_keywords
def list_models(pattern: str = "*", pretrained: bool | None = None) -> list[str]:
    """List the networks whose names match a pattern.

    Parameters
    ----------
    pattern : str, default="*"
        Shell-style: `*` matches any characters, `?` one character, `[ab]` one of those listed.
    pretrained : bool, optional
        True: weights that ship with the package (`ARCH.TAG`); False: architectures; None: both.

    Returns
    -------
    list of str
        Architectures in the order of `l2a-transfer models`, then weights in alphabetical order.

    Examples
    --------
    >>> import l2a_transfer
    >>> l2a_transfer.list_models("vgg-att2-indep-*", pretrained=False)
    ['vgg-att2-indep-pc', 'vgg-att2-indep-dp', 'vgg-att2-indep-add', 'vgg-att2-indep-uniform']
    >>> l2a_transfer.list_models("*-pc.*", pretrained=True)
    ['vgg-att2-concat-pc.cifar10-w025', 'vgg-att2-concat-pc.cifar10-w050']
    """
    if not isinstance(pattern, str):
        raise wrong_kind("pattern", "a name pattern, such as 'vgg-att2-*'", pattern)
    names = [] if pretrained else list(ARCHITECTURES)
    names += pretrained_names() if pretrained in (True, None) else []
    return [name for name in names if fnmatchcase(name, pattern)]


@names_keywords
def create_model(
    name: str,
    pretrained: bool | None = None,
    *,
    num_classes: int | None = None,
    width: float | None = None,
    normalizer: str | None = None,
    dropout: float | None = None,
    global_branch: str | None = None,
    selection: str | None = None,
    seed: int | None = None,
) -> Network:
    """Create a network, with random or pretrained weights.

    Parameters
    ----------
    name : str
        An architecture, such as `vgg-att2-concat-pc`, or weights, such as `vgg-att2-concat-pc.cifar10-w025`. The config
        of the weights sets the defaults of the parameters below.
    pretrained : bool, optional
        True loads the weights called `name`; this fails if `name` is an architecture. False creates random weights. The
        default is random weights, as in timm, with a warning if `name` is the name of weights.
    num_classes : int, optional
        Number of classes K, 10 by default. If it differs from that of the weights, the classifier is random.
    width : float, optional
        Multiplier for all channel counts, 0.25 by default; 1 is the paper's network.
    normalizer : str, optional
        The normalizer, which turns scores into attention weights; `softmax` by default.
    dropout : float, optional
        Multiplier for the paper's dropout rates, 1 by default.
    global_branch : str, optional
        `auto` (default), or `always` to build the layers behind g even if g has no effect.
    selection : str, optional
        Positions to attend to: `soft` (default), `hard`, `top:K` or `random`.
    seed : int, optional
        Random seed of the weights; the global random state is not changed. Without a seed, weights are drawn from
        torch's global generator, as for any torch module.

    Returns
    -------
    Network
        In training mode, float32, on the CPU. It maps images (B, 3, H, W), normalised by `network.preprocess`, to
        logits (B, K). `network.attend(images)` also returns features and maps.

    Raises
    ------
    UnknownNameError
        For an unknown name; the message suggests the nearest one.
    ArgumentError
        For a number out of range, and for a `width`, `global_branch` or `normalizer` that does not fit the weights.

    Warns
    -----
    UserWarning
        If `name` is the name of weights and `pretrained` is not given, so that the weights are not loaded.

    References
    ----------
    .. [1] S. Jetley, N. Lord, N. Lee, P. Torr: Learn to Pay Attention. ICLR 2018.

    Examples
    --------
    >>> import l2a_transfer
    >>> network = l2a_transfer.create_model("vgg-att2-concat-pc", num_classes=5, width=1 / 16, seed=0)
    >>> network.config.feature_levels
    {'L2': 32, 'L3': 32}
    >>> l2a_transfer.create_model("vgg-att2-concat-pc.cifar10-w025", pretrained=True, num_classes=5).config.num_classes
    5
    """
    from l2a_transfer.models.registry import build_model

    if not isinstance(name, str):
        raise wrong_kind("name", "the name of an architecture or of weights; list_models() lists them", name)
    if width is not None and not isinstance(width, (int, float)):
        raise wrong_kind("width", "a number, such as 0.25", width)
    given = {
        "num_classes": num_classes,
        "width": None if width is None else float(width),  # 1 and 1.0 give the same config and digest
        "normalizer": normalizer,
        "dropout": dropout,
        "global_branch": global_branch,
        "selection": selection,
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if name in ARCHITECTURES and not pretrained:
        return build_model(ModelConfig(name, **changes), seed=seed)
    if name not in ARCHITECTURES and name not in pretrained_names():
        raise unknown_name("name", name, list_models(pretrained=True if pretrained else None))
    check_pretrained(name, random="pretrained=False")
    path = PRETRAINED / f"{name}.safetensors"
    card = read_card(path)
    if pretrained is None:
        warnings.warn(
            f"{name!r} names weights, but they are not loaded and this network is random; pass pretrained=True to load "
            "them, or pretrained=False to use random weights without this warning",
            stacklevel=3,  # the caller's line; the decorator is in between
        )
    network = build_model(dataclasses.replace(card.config, **changes), seed=seed)
    network.preprocess = card.preprocess
    if pretrained:
        for key in ("width", "global_branch"):
            own = getattr(card.config, key)
            if getattr(network.config, key) != own:
                raise ArgumentError(f"{key} must be {own!r}, as in the weights {name}; got {given[key]!r}")
        if network.config.builds_global_branch != card.config.builds_global_branch:
            raise ArgumentError(
                f"normalizer must be {card.config.normalizer!r}, as in the weights {name}, or one with the same effect "
                f"on the global feature g; got {normalizer!r}"
            )
        own, theirs = network.state_dict(), load_weights(path)[0].state_dict()
        network.load_state_dict(
            {key: value for key, value in theirs.items() if value.shape == own[key].shape}, strict=False
        )
    return network


def as_network(model: object, *, seed: int = 0) -> tuple[Network, Card]:
    """Resolve a `model` argument: a name or path as for `load_model`, a network, or a network and its card.

    A network without a card gets one that describes its config but not its training. Raises: like `load_model`;
    TypeError for anything else.
    """
    from l2a_transfer.models.interface import Network

    if isinstance(model, (str, Path)):
        return load_model(model, seed=seed)
    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[0], Network) and isinstance(model[1], Card):
        return model
    if not isinstance(model, Network):
        raise wrong_kind("model", "a model's name, a path, a network, or what load_model(NAME) gives", model)
    config = model.config
    name = attention_name(config.architecture, config.normalizer, config.selection)
    card = Card(
        name=f"memory:{name}@{_number(config.width)}",
        config=config,
        preprocess=model.preprocess,
        classes=(),
        parameters=count_parameters(model),
    )
    return model, card
