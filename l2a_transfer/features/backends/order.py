"""Detect swapped arguments: a model in the place of something else."""

from __future__ import annotations

import sys
from pathlib import Path

from l2a_transfer.errors import ArgumentError
from l2a_transfer.features.backends.interface import is_backend
from l2a_transfer.features.backends.registry import REGISTERED_BACKENDS
from l2a_transfer.models.config import ARCHITECTURES
from l2a_transfer.models.weights import pretrained_names


def is_model(thing: object) -> bool:
    """True for a network, (network, card), an open backend, or the name of an architecture or model. Opens nothing."""
    if isinstance(thing, (str, Path)):
        name = str(thing)
        return (
            name in ARCHITECTURES
            or name in pretrained_names()
            or any(
                name in spec.names or name.startswith(spec.prefixes) or name.endswith(spec.suffixes)
                for spec in REGISTERED_BACKENDS.values()
            )
        )
    if isinstance(thing, tuple) and len(thing) == 2:
        thing = thing[0]
    torch = sys.modules.get("torch")  # without it, there cannot be a network
    return is_backend(thing) or (torch is not None and isinstance(thing, torch.nn.Module))


def check_order(call: str, model: tuple[str, object], other: tuple[str, object]) -> None:
    """Check that a model and another argument are not swapped.

    Parameters
    ----------
    call : str
        The right order, such as ``"extract(data, model, out)"``.
    model, other : (str, object)
        The names of the parameters and the given values.

    Raises
    ------
    ArgumentError
        If `other` is a model and `model` is not.
    """
    if is_model(other[1]) and not is_model(model[1]):
        raise ArgumentError(f"{other[0]} is a model but {model[0]} is not; the two are swapped", f"the order is {call}")
