"""Checkpoints of other programs: the tensors in a file, without running code, and how they fit a network."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from l2a_transfer.errors import WeightsError
from l2a_transfer.inputs import read_input
from l2a_transfer.wording import counted, first_line

log = logging.getLogger(__name__)
PICKLED = (".pth", ".pt", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *PICKLED)
MAX_BYTES = 16 << 30
INSIDE = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
"""Keys under which training programs keep the state of the network."""
PREFIX = "module."
"""What DistributedDataParallel puts before every name."""
SHOWN = 4


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Parameters
    ----------
    path : Path
        `.safetensors`, or a file of torch.save, of which only tensors and plain containers are read
        (``weights_only=True``). The state may lie under a key as "state_dict"; "module." before all names is dropped.

    Returns
    -------
    dict
        Name → tensor.

    Raises
    ------
    WeightsError
        For a file that is missing, damaged, or holds anything that would have to be run.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"{path}: not a checkpoint that can be read", f"`weights` takes {', '.join(SUFFIXES)}")
    try:
        content = read_input(path, MAX_BYTES)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    state = _of_pickle(path, content) if path.suffix.lower() in PICKLED else _of_safetensors(path, content)
    if state and all(name.startswith(PREFIX) for name in state):
        state = {name.removeprefix(PREFIX): value for name, value in state.items()}
    return state


def _of_safetensors(path: Path, content: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a type that torch does not have
        raise WeightsError(f"{path}: not a safetensors file, or damaged: {first_line(error)}") from error


def _of_pickle(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol, in a file that is then refused, or read whole
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: holds more than tensors, and what would run code is not loaded",
            "save the network's state_dict() alone, best as .safetensors",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not a file of torch.save, or damaged: {first_line(error)}") from error
    except (zipfile.BadZipFile, OverflowError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: damaged: {first_line(error)}") from error
    for key in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(
            f"{path}: no state of a network, which is tensors by name, alone or below {', '.join(INSIDE)}",
            "save the network's state_dict()",
        )
    return {str(name): value for name, value in found.items()}


def load_state(network: nn.Module, state: dict[str, Tensor], what: str, unused: Iterable[str]) -> tuple[str, ...]:
    """Put a checkpoint's tensors into a network.

    Parameters
    ----------
    network : nn.Module
        Gets the values.
    state : dict
        Name → tensor.
    what : str
        What errors call the checkpoint.
    unused : iterable of str
        Modules that the features do not need, classifiers: their tensors may be missing, or of another size.

    Returns
    -------
    tuple of str
        Names of tensors of the network that were not in the checkpoint, or of another size there.

    Raises
    ------
    WeightsError
        Naming tensors that are missing, unexpected, of another size, or not finite.
    """
    own = network.state_dict()
    free = tuple(f"{name}." for name in unused)
    wrong = {name: value for name, value in state.items() if name in own and value.shape != own[name].shape}
    lacks = {
        "missing": [name for name in own if name not in state and not name.endswith("num_batches_tracked")],
        "unexpected": [name for name in state if name not in own],
    }
    left_out = (
        [name for name in (*lacks["missing"], *wrong, *lacks["unexpected"]) if name.startswith(free)] if free else []
    )
    parts = []
    for kind, names in lacks.items():
        if bad := [name for name in names if name not in left_out]:
            parts.append(f"{kind} {', '.join(bad[:SHOWN])}{f' … ({len(bad):,} in all)' if len(bad) > SHOWN else ''}")
    parts += [
        f"{name} is {tuple(value.shape)} there and {tuple(own[name].shape)} here"
        for name, value in wrong.items()
        if name not in left_out
    ][:SHOWN]
    if parts:
        raise WeightsError(
            f"{what}: does not fit the network: {'; '.join(parts)}",
            "name the model that the checkpoint is of",
        )
    taken = {name: value for name, value in state.items() if name in own and name not in left_out}
    for name, value in taken.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{what}: the tensor {name} has values that are not finite; use another checkpoint")
    network.load_state_dict(taken, strict=False)
    if left_out:
        log.info("%s: %s of the classifier not used: %s", what, counted(len(left_out), "tensor"), ", ".join(left_out))
    return tuple(name for name in own if name in left_out)


def state_sha256(network: nn.Module, without: Iterable[str] = ()) -> str:
    """SHA-256 of a network's tensors: names, types, shapes and bytes, ordered by name, but for those in `without`."""
    digest, left_out = hashlib.sha256(), set(without)
    for name, value in sorted(network.state_dict().items()):
        if name in left_out or name.endswith("num_batches_tracked") or not isinstance(value, Tensor):
            continue
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
