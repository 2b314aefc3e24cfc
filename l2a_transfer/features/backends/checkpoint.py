"""Checkpoints of other programs: read the tensors in a file without running code, and load them into a network."""

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
"""Keys under which training programs store the state of the network."""
PREFIX = "module."
"""The prefix that DistributedDataParallel adds to every name."""
SHOWN = 4


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name, on the CPU.

    Parameters
    ----------
    path : Path
        A `.safetensors` file, or a file of torch.save, from which only tensors and plain containers are read
        (``weights_only=True``). The state may be under a key such as "state_dict"; the prefix "module." is removed if
        all names have it.

    Returns
    -------
    dict
        Name → tensor.

    Raises
    ------
    WeightsError
        If the file is missing, corrupt, or contains anything that would have to be run.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"{path}: not a supported checkpoint", f"`weights` accepts {', '.join(SUFFIXES)}")
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
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a type that torch does not support
        raise WeightsError(f"{path}: not a safetensors file, or corrupt: {first_line(error)}") from error


def _of_pickle(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol; the file is then read or rejected
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: contains more than tensors; anything that would run code is not loaded",
            "save only the network's state_dict(), preferably as .safetensors",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not a file of torch.save, or corrupt: {first_line(error)}") from error
    except (zipfile.BadZipFile, OverflowError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: corrupt: {first_line(error)}") from error
    for key in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(
            f"{path}: does not contain the state of a network: tensors by name, alone or in {', '.join(INSIDE)}",
            "save the network's state_dict()",
        )
    return {str(name): value for name, value in found.items()}


def load_state(network: nn.Module, state: dict[str, Tensor], what: str, unused: Iterable[str]) -> tuple[str, ...]:
    """Put a checkpoint's tensors into a network.

    Parameters
    ----------
    network : nn.Module
        The network to change.
    state : dict
        Name → tensor.
    what : str
        The checkpoint's name in errors.
    unused : iterable of str
        Modules that the features do not need (classifiers). Their tensors may be missing or have another size.

    Returns
    -------
    tuple of str
        Names of tensors of the network that were missing from the checkpoint, or had another size there.

    Raises
    ------
    WeightsError
        If tensors are missing, unexpected, of another size, or not finite. The message names them.
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
            f"{what}: does not match the network: {'; '.join(parts)}",
            "use the model that the checkpoint was made for",
        )
    taken = {name: value for name, value in state.items() if name in own and name not in left_out}
    for name, value in taken.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{what}: the tensor {name} has values that are not finite; use another checkpoint")
    network.load_state_dict(taken, strict=False)
    if left_out:
        log.info("%s: ignored %s of the classifier: %s", what, counted(len(left_out), "tensor"), ", ".join(left_out))
    return tuple(name for name in own if name in left_out)


def state_sha256(network: nn.Module, without: Iterable[str] = ()) -> str:
    """SHA-256 of a network's tensors: names, types, shapes and bytes, sorted by name, except those in `without`."""
    digest, left_out = hashlib.sha256(), set(without)
    for name, value in sorted(network.state_dict().items()):
        if name in left_out or name.endswith("num_batches_tracked") or not isinstance(value, Tensor):
            continue
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
