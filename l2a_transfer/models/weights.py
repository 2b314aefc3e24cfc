"""Weights on disk: one `.safetensors` file with the card in its header; bundled weights are in `pretrained/`."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from l2a_transfer.documents import parse
from l2a_transfer.errors import StoreError, WeightsError
from l2a_transfer.files import write_whole
from l2a_transfer.inputs import open_input, read_input
from l2a_transfer.lock import output_lock
from l2a_transfer.models.card_schema import check_card
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.text import repr_line
from l2a_transfer.wording import counted

if TYPE_CHECKING:
    import torch

    from l2a_transfer.models.interface import Network

log = logging.getLogger(__name__)
SCHEMA = "l2a-weights/1"
CARD_KEY = "l2a-card"
DIGEST_KEY = "l2a-sha256"
PRETRAINED = Path(__file__).parent / "pretrained"
MAX_HEADER_BYTES = 8 << 20
MAX_FILE_BYTES = 8 << 30
ANOTHER = "use another copy, or weights that 'l2a-transfer models' lists, or train new ones"


@dataclass(frozen=True)
class Card:
    """What a weights file contains and how it was made. Its metrics were measured with exactly these weights.

    Parameters
    ----------
    name : str
        Such as ``"vgg-att2-concat-pc.cifar10-w025"``.
    config : ModelConfig
        The network.
    preprocess : Preprocess
        How pictures become its input.
    classes : tuple of str
        Class names, in the order of the logits; empty for untrained weights.
    parameters : int
        Number of trainable parameters.
    training : dict
        Data set, recipe, seed, device, seconds, versions, commit; or ``{"untrained": True, "seed": n}``. ``"float32"``
        names the tensors that exceed the range of float16.
    metrics : dict
        Name → ``{"value": …, "n": …}``.
    """

    name: str
    config: ModelConfig
    preprocess: Preprocess
    classes: tuple[str, ...]
    parameters: int
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        trained = [f"trained on {self.training['data']}"] if "data" in self.training else []
        classes = counted(len(self.classes), "class", "classes") if self.classes else "no classes"
        return repr_line(self, self.name, counted(self.parameters, "parameter"), classes, *trained)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "config": self.config.to_json(),
            "preprocess": self.preprocess.to_json(),
            "classes": list(self.classes),
            "parameters": self.parameters,
            "training": self.training,
            "metrics": self.metrics,
        }

    @classmethod
    def from_json(cls, values: Any) -> Card:
        """The card that `to_json` wrote. Raises: ValueError for anything else, naming the field."""
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            schema = values.get("schema") if isinstance(values, dict) else None
            raise ValueError(f"the card's schema must be {SCHEMA!r}, got {schema!r:.60}")
        check_card(values)
        return cls(
            name=values["name"],
            config=ModelConfig.from_json(values["config"]),
            preprocess=Preprocess.from_json(values["preprocess"]),
            classes=tuple(values["classes"]),
            parameters=values["parameters"],
            training=values["training"],
            metrics=values["metrics"],
        )


def save_weights(model: Network, card: Card, path: Path) -> None:
    """Write a network as float16 with its card, atomically: `path` is either the old file or the complete new one.

    Parameters
    ----------
    model : Network
        It is not changed. A tensor with a value that exceeds the range of float16 is written as float32.
    card : Card
        Its card; `training["float32"]` then names the tensors that are float32.
    path : Path
        The `.safetensors` file; overwritten if it exists.

    Raises
    ------
    WeightsError
        If the file cannot be written, or values are not finite.
    OutputExistsError
        If another process is writing `path`, or it is not a regular file.
    """
    import torch
    from safetensors.torch import save

    large = beyond_float16(model)
    if wrong := [key for key, value in large.items() if not math.isfinite(value)]:
        raise WeightsError(
            f"{path}: nothing was written, because tensor {wrong[0]} has values that are not finite; go back to an "
            "earlier state, and continue with a smaller learning rate"
        )
    if large:
        card = dataclasses.replace(card, training={**card.training, "float32": sorted(large)})
    tensors = {}
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            kind = torch.float32 if key in large else torch.float16 if value.is_floating_point() else value.dtype
            tensors[key] = value.detach().cpu().to(kind).contiguous()
    metadata = {CARD_KEY: json.dumps(card.to_json(), sort_keys=True)}
    content = save(tensors, metadata=metadata)
    data = save(tensors, metadata={**metadata, DIGEST_KEY: _sha256(io.BytesIO(content))[1]})
    try:
        with output_lock(path):
            write_whole(path, _in_order(data))
    except (OSError, StoreError) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or error
        raise WeightsError(f"{path}: cannot be written: {said}; free some space, or choose another folder") from error


def beyond_float16(model: Network) -> dict[str, float]:
    """Name → largest absolute value, for tensors with a value above float16's maximum, 65,504, or NaN."""
    import torch

    largest, found = torch.finfo(torch.float16).max, {}
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not bool((value.abs() <= largest).all()):
            found[key] = float(value.abs().max())
    return found


def _in_order(data: bytes) -> bytes:
    """The same file with its metadata sorted, because safetensors writes them in arbitrary order."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def read_card(path: Path) -> Card:
    """The card in a weights file's header, without importing torch. The file's SHA-256 is checked first.

    Files of early versions have no SHA-256. They are read with a warning.

    Parameters
    ----------
    path : Path
        A `.safetensors` file of this package.

    Returns
    -------
    Card

    Raises
    ------
    WeightsError
        If the file does not exist, is damaged, or was written by another program.
    """
    try:
        with open_input(path) as file:
            return _checked_card(path, file, warn=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}; {ANOTHER}") from error


def read_content(path: Path, *, warn: bool = True) -> tuple[Card, bytes]:
    """The card and all bytes of a weights file. It is read once, so the bytes that were checked are the bytes used.

    Parameters
    ----------
    path : Path
        A `.safetensors` file of this package.
    warn : bool
        Log a warning if the file has no SHA-256.

    Returns
    -------
    card : Card
    content : bytes

    Raises
    ------
    WeightsError
        Like `read_card`.
    """
    try:
        content = read_input(path, MAX_FILE_BYTES)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}; {ANOTHER}") from error
    return _checked_card(path, io.BytesIO(content), warn=warn), content


def _checked_card(path: Path, file: BinaryIO, *, warn: bool) -> Card:
    try:
        metadata, sha256 = _sha256(file)
        if CARD_KEY not in metadata:
            raise ValueError(f"the header has no {CARD_KEY!r}; weights of another program cannot be used")
        if unknown := sorted(set(metadata) - {CARD_KEY, DIGEST_KEY}):
            raise ValueError(f"the header has the unexpected key {unknown[0]!r}")
        if metadata.get(DIGEST_KEY, sha256) != sha256:
            raise WeightsError(f"{path}: damaged: its SHA-256 does not match the one in its header; {ANOTHER}")
        card = Card.from_json(parse(metadata[CARD_KEY]))
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path}: not an l2a-transfer weights file: {error}; {ANOTHER}") from error
    if warn and DIGEST_KEY not in metadata:
        log.warning("%s: not verified: it has no SHA-256, so damage and changes cannot be detected", path)
    return card


def _sha256(file: BinaryIO) -> tuple[dict[str, Any], str]:
    """The metadata of a safetensors file, and the SHA-256 of its tensors and its header without DIGEST_KEY.

    Raises: ValueError for any other file.
    """
    size = int.from_bytes(file.read(8), "little")
    if not 2 <= size <= MAX_HEADER_BYTES:
        raise ValueError("not a safetensors file")
    header = parse(file.read(size))
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"the header has no {CARD_KEY!r}; weights of another program cannot be used")
    signed = {key: value for key, value in metadata.items() if key != DIGEST_KEY}
    sha = hashlib.sha256(json.dumps([signed, header], sort_keys=True).encode())
    while chunk := file.read(1 << 20):
        sha.update(chunk)
    return metadata, sha.hexdigest()


def load_weights(path: str | Path) -> tuple[Network, Card]:
    """The network, in evaluation mode and float32 on the CPU, and its card.

    Raises: WeightsError, naming missing, unexpected, misshapen or non-finite tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from l2a_transfer.models.registry import build_model

    path = Path(path)
    card, content = read_content(path)
    try:
        tensors = load(content)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a type that torch does not have
        raise WeightsError(f"{path}: damaged: {error}; {ANOTHER}") from error
    # `meta` allocates nothing, so a hostile card cannot request more memory than its own tensors take.
    with torch.device("meta"):
        model = build_model(card.config)
    expected = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    _check_tensors(path, expected, tensors)
    state = {key: value.float() for key, value in tensors.items()}
    state |= {key: torch.zeros((), dtype=torch.long) for key in set(model.state_dict()) - set(expected)}
    model.load_state_dict(state, assign=True)
    model.preprocess = card.preprocess
    return model.eval(), card


def _check_tensors(path: Path, expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    import torch

    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        parts = [
            f"{what} {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
            for what, names in (("missing", missing), ("extra", extra))
            if names
        ]
        raise WeightsError(f"{path}: the tensors do not fit the card's network: {'; '.join(parts)}; {ANOTHER}")
    for key, value in found.items():
        if value.shape != expected[key].shape:
            raise WeightsError(
                f"{path}: tensor {key} has shape {tuple(value.shape)}, expected {tuple(expected[key].shape)}; {ANOTHER}"
            )
        if value.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            raise WeightsError(
                f"{path}: tensor {key} has dtype {value.dtype}, expected a floating-point one; {ANOTHER}"
            )
        if not torch.isfinite(value).all():
            raise WeightsError(f"{path}: tensor {key} has values that are not finite; {ANOTHER}")


def pretrained_names() -> list[str]:
    """The names of the weights that ship with the package."""
    return sorted(p.name.removesuffix(".safetensors") for p in PRETRAINED.glob("*.safetensors"))


def count_parameters(model: Network) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters())


def with_metrics(card: Card, metrics: dict[str, Any]) -> Card:
    """The same card with other metrics."""
    return dataclasses.replace(card, metrics=metrics)
