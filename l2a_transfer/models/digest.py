"""The one digest of a network's content. Weights file, feature file, ONNX, card and report name a network by it."""

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
"""The last part of the names of batch norm's counts, which nothing reads; in the digest they are 0."""


def network_sha256(model: Network) -> str:
    """SHA-256 (hex) of a network: its config, and each tensor's name, dtype, shape and bytes, in the order of names."""
    tensors = []
    for name, value in model.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        content = bytes(8) if name.endswith(COUNT) else tensor.numpy().tobytes()
        tensors.append((name, str(tensor.dtype), tuple(tensor.shape), content))
    return _digest(model.config, tensors)


def file_sha256(path: str | Path) -> str:
    """`network_sha256` of the network that `load_weights` makes of a weights file, without torch. Raises: as
    `read_described`."""
    return read_described(path)[1]


def read_described(path: str | Path) -> tuple[Card, str, int]:
    """The card of a weights file, `network_sha256` of its network and its size in bytes, all of one reading.

    Raises: WeightsError where the file is none, or has a tensor of another kind.
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
    """The numbers of a tensor as float32, little-endian; None for a kind that no weights file has."""
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
