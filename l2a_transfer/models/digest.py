"""The digest of a network's content, which identifies it in weights, feature and ONNX files, cards and reports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from l2a_transfer.errors import WeightsError
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.weights import ANOTHER, Card, read_content

if TYPE_CHECKING:
    from l2a_transfer.models.interface import Network

COUNT = "num_batches_tracked"
"""Suffix of the name of batch norm's batch count. Nothing reads the count, so the digest treats it as 0."""


def network_sha256(model: Network) -> str:
    """SHA-256 of a network's config and tensors.

    Parameters
    ----------
    model : Network
        A network on any device and in any mode.

    Returns
    -------
    str
        64 hexadecimal digits, over the config and the name, dtype, shape and bytes of each tensor, ordered by name.
    """
    tensors = []
    for name, value in model.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        content = bytes(8) if name.endswith(COUNT) else tensor.numpy().tobytes()
        tensors.append((name, str(tensor.dtype), tuple(tensor.shape), content))
    return _digest(model.config, tensors)


def file_sha256(path: str | Path) -> str:
    """`network_sha256` of the network in a weights file, computed without importing torch.

    Raises: WeightsError, like `read_described`.
    """
    return read_described(path)[1]


def read_described(path: str | Path) -> tuple[Card, str, int]:
    """The card of a weights file, the digest of its network, and its size in bytes. The file is read once.

    Parameters
    ----------
    path : str or Path
        A `.safetensors` file of this package.

    Returns
    -------
    card : Card
    sha256 : str
        `network_sha256` of the network that `load_weights` builds from it.
    size : int
        Bytes.

    Raises
    ------
    WeightsError
        If the file is damaged or was written by another program, or a tensor is not floating-point.
    """
    from safetensors import SafetensorError, deserialize

    path = Path(path)
    card, content = read_content(path)
    try:
        found = deserialize(content)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise WeightsError(f"{path}: damaged: {error}; {ANOTHER}") from error
    tensors = []
    for name, value in found:
        numbers = _float32(value["dtype"], value["data"])
        if numbers is None:
            raise WeightsError(
                f"{path}: tensor {name} has dtype {value['dtype']}, expected a floating-point one; {ANOTHER}"
            )
        tensors.append((name, "torch.float32", tuple(value["shape"]), numbers))
        if name.endswith("running_mean"):
            tensors.append((name.removesuffix("running_mean") + COUNT, "torch.int64", (), bytes(8)))
    return card, _digest(card.config, tensors), len(content)


def _float32(kind: str, data: bytes) -> bytes | None:
    """The values of a tensor as little-endian float32; None for a dtype that weights files do not have."""
    if kind == "F32":
        return bytes(data)
    if kind == "F16":
        return np.frombuffer(data, "<f2").astype("<f4").tobytes()
    if kind == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << np.uint32(16)).tobytes()
    return None


def _digest(config: ModelConfig, tensors: Iterable[tuple[str, str, tuple[int, ...], bytes]]) -> str:
    digest = hashlib.sha256(json.dumps(config.to_json(), sort_keys=True).encode())
    for name, dtype, shape, content in sorted(tensors):
        digest.update(f"{name} {dtype} {shape}".encode())
        digest.update(content)
    return digest.hexdigest()
