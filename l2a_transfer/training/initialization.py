"""Starting from trained weights: tensors that fit are copied, and the others are listed."""

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
    """The initial weights of a network: their name and digest, and the tensors that kept their random values.

    `earlier_sha256`: the digest of the same weights in versions before `network_sha256`.
    """

    name: str
    sha256: str
    kept_random: tuple[str, ...]
    earlier_sha256: str


def begin(model: Network, init_from: str | None, *, freeze: str = "") -> Start | None:
    """Load the initial weights of a run into a new network, if there are any, and freeze what its recipe freezes.

    Raises: TrainingError, like `start_from` and `freeze_part`, or if random weights would be frozen.
    """
    if freeze and init_from is None:
        raise TrainingError(
            f"the recipe freezes the {freeze}, which would stay random without weights to start from",
            "set `init_from`, or use 'untrained:ARCH@WIDTH' for it if random weights are intended",
        )
    start = None if init_from is None else start_from(model, init_from)
    freeze_part(model, freeze)
    return start


def freeze_part(model: Network, name: str) -> None:
    """Freeze the part of a network that `TrainConfig.freeze` names; none for "". Raises: TrainingError."""
    if not name:
        return
    part = getattr(model, name, None)
    if not isinstance(part, Trunk):
        raise TrainingError(f"{model.config.architecture} has no {name} to freeze", "use a recipe that freezes nothing")
    part.freeze()


def start_from(model: Network, name: str) -> Start:
    """Copy every tensor of the weights `name` into `model` if its name and shape match.

    Raises: TrainingError, naming a convolution of the trunk that does not fit.
    """
    found, card = load_model(name)
    theirs, own = found.state_dict(), model.state_dict()
    tensors = [key for key in own if not key.endswith("num_batches_tracked")]
    fitting = {key: theirs[key] for key in tensors if key in theirs and theirs[key].shape == own[key].shape}
    trunk = [key for key in tensors if key.startswith("trunk.") and key.endswith("0.weight")]
    if missing := [key for key in trunk if key not in fitting]:
        key = missing[0]
        there = f"is {tuple(theirs[key].shape)} there" if key in theirs else "is missing there"
        raise TrainingError(
            f"{name}: its convolutions do not fit: {key} {there} and {tuple(own[key].shape)} here; "
            f"that network is {card.config.architecture} at width {card.config.width:g}, this one "
            f"{model.config.architecture} at width {model.config.width:g}"
        )
    model.load_state_dict(fitting, strict=False)
    random = tuple(key for key in tensors if key not in fitting)
    return Start(card.name, network_sha256(found), random, _earlier_sha256(theirs))


def _earlier_sha256(state: dict[str, torch.Tensor]) -> str:
    """The digest in `init_from` of cards and checkpoints without `torch` in their fingerprint."""
    sha = hashlib.sha256()
    for key in sorted(state):
        sha.update(key.encode() + state[key].detach().cpu().numpy().tobytes())
    return sha.hexdigest()
