"""Starting from trained weights: what fits is taken over, and what does not is named."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from l2a_transfer.errors import TrainingError
from l2a_transfer.models.blocks import Trunk
from l2a_transfer.models.digest import network_sha256
from l2a_transfer.models.interface import Network
from l2a_transfer.models.loading import load_model


@dataclass(frozen=True)
class Start:
    """What a network began with: the weights' name and digest, and the tensors that kept their random values.

    `earlier_sha256`: the digest by which versions before the one digest named the same weights.
    """

    name: str
    sha256: str
    kept_random: tuple[str, ...]
    earlier_sha256: str


def begin(model: Network, init_from: str | None, *, freeze: str = "") -> Start | None:
    """Give a fresh network the weights that a run starts from, if any, and freeze what its recipe freezes.

    Raises: TrainingError, as `start_from` and `freeze_part`; and where random weights would be frozen.
    """
    if freeze and init_from is None:
        raise TrainingError(
            f"the recipe freezes the {freeze}, which would stay random without weights to start from",
            "set `init_from`; to 'untrained:ARCH@WIDTH' if it is meant to be random",
        )
    start = None if init_from is None else start_from(model, init_from)
    freeze_part(model, freeze)
    return start


def freeze_part(model: Network, name: str) -> None:
    """Freeze a part of a network, as `TrainConfig.freeze` names it; none for "". Raises: TrainingError."""
    if not name:
        return
    part = getattr(model, name, None)
    if not isinstance(part, Trunk):
        raise TrainingError(f"{model.config.architecture} has no {name} to freeze", "use a recipe that freezes nothing")
    part.freeze()


def start_from(model: Network, name: str) -> Start:
    """Copy into `model` every tensor of the weights `name` (as `--model` takes it) that has its name and shape.

    Raises: TrainingError where a convolution of the trunk does not fit, naming it.
    """
    found, card = load_model(name)
    theirs, own = found.state_dict(), model.state_dict()
    tensors = [key for key in own if not key.endswith("num_batches_tracked")]
    fitting = {key: theirs[key] for key in tensors if key in theirs and theirs[key].shape == own[key].shape}
    trunk = [key for key in tensors if key.startswith("trunk.") and key.endswith("0.weight")]
    if missing := [key for key in trunk if key not in fitting]:
        key = missing[0]
        there = f"is {tuple(theirs[key].shape)} there" if key in theirs else "is not there"
        raise TrainingError(
            f"{name}: its convolutions do not fit: {key} {there} and {tuple(own[key].shape)} here; "
            f"that network is {card.config.architecture} at width {card.config.width:g}, this one "
            f"{model.config.architecture} at width {model.config.width:g}"
        )
    model.load_state_dict(fitting, strict=False)
    random = tuple(key for key in tensors if key not in fitting)
    return Start(card.name, network_sha256(found), random, _earlier_sha256(theirs))


def _earlier_sha256(state: dict[str, torch.Tensor]) -> str:
    """The digest in `init_from` of cards and checkpoints that lack the fingerprint's `torch`."""
    sha = hashlib.sha256()
    for key in sorted(state):
        sha.update(key.encode() + state[key].detach().cpu().numpy().tobytes())
    return sha.hexdigest()
