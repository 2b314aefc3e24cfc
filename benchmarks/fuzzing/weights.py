"""Weights: safetensors files with arbitrary changes, and with changes followed by a renewed digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from fuzzing.kinds import Kind, sha256
from fuzzing.mutate import NAMES, NUMBERS, VALUES, mutate, mutate_file, pick, special_file
from l2a_transfer.features.backends.torch import TorchBackend
from l2a_transfer.models.digest import network_sha256
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import DIGEST_KEY, load_weights, save_weights

NETWORK = "untrained:vgg-att2-concat-pc@0.0625"


def seeds(folder: Path) -> None:
    network, card = load_model(NETWORK)
    save_weights(network, card, folder / "tiny.safetensors")


def answer(path: Path) -> str:
    network, card = load_weights(path)
    return sha256(network_sha256(network), card)


def answer_features(path: Path) -> str:
    """The network's digest and the features of a picture, as computed by `extract`."""
    network, card = load_weights(path)
    pixels = card.preprocess.pixels(Image.new("RGB", (8, 8), (1, 2, 3)))[None]
    features = TorchBackend(network, card, device="cpu", precision="fp32").features(np.ascontiguousarray(pixels))
    return sha256(network_sha256(network), card, features.shape)


def parts_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the tensors of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header: str | dict[str, Any], tensors: bytes) -> bytes:
    text = header if isinstance(header, str) else json.dumps(header)
    data = text.encode("utf-8", "surrogatepass")
    data += b" " * (-len(data) % 8)
    return len(data).to_bytes(8, "little") + data + tensors


def resealed(header: dict[str, Any], tensors: bytes) -> bytes:
    """The file with the SHA-256 that `save_weights` would write."""
    metadata = header.pop("__metadata__", {})
    signed = {key: value for key, value in metadata.items() if key != DIGEST_KEY}
    sha = hashlib.sha256(json.dumps([signed, header], sort_keys=True).encode("utf-8", "surrogatepass"))
    sha.update(tensors)
    return joined({"__metadata__": {**signed, DIGEST_KEY: sha.hexdigest()}, **header}, tensors)


def _tensors(path: Path, rng: Random) -> str:
    """Header entries that do not match their bytes, values that are not finite, and a renewed digest."""
    header, tensors = parts_of(path.read_bytes())
    names = [name for name in header if name != "__metadata__"]
    done = []
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(names)
        entry = header.get(name)
        how = rng.randrange(8)
        done.append(str(how))
        if not isinstance(entry, dict):
            continue
        if how == 0:
            entry["dtype"] = rng.choice(("F64", "F16", "F32", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "X", "", 5))
        elif how == 1:
            entry["shape"] = rng.choice(
                ([], [0], [2**63, 2], [-1], [1] * 100, "a", entry.get("shape", [])[::-1], [2**31, 2**31, 2**31])
            )
        elif how == 2:
            entry["data_offsets"] = rng.choice(
                ([0, 0], [5, 3], [0, len(tensors)], [0, 2**64 - 1], [-1, 5], [], [0.5, 1], None)
            )
        elif how == 3:
            header[rng.choice((*NAMES, names[0]))] = header.pop(name)
        elif how == 4:
            del header[name]
        elif how == 5:
            header[name] = rng.choice(VALUES[:12])
        elif how == 6 and len(tensors) > 4:
            at = rng.randrange(0, len(tensors) - 4, 2)
            tensors = (
                tensors[:at]
                + rng.choice((b"\x00\x7c", b"\x00\xfe", b"\xff\x7b", b"\x00\x7e\xff\xff"))
                + tensors[at + 2 :]
            )
        else:  # also where an earlier change has left no tensors
            tensors = rng.choice((tensors[:-2], tensors + bytes(2), b"", tensors * 3))
    path.write_bytes(resealed(header, tensors))
    return f"tensors {''.join(done)}"


def _header(path: Path, rng: Random) -> str:
    """Change the text of the header; its length stays correct or is forged."""
    header, tensors = parts_of(path.read_bytes())
    text = mutate(json.dumps(header).encode(), rng)
    size = len(text) if rng.random() < 0.7 else rng.choice(NUMBERS)
    path.write_bytes(size.to_bytes(8, "little") + text + tensors)
    return "header"


KINDS = {
    "safetensors": Kind(seeds, pick((9, mutate_file), (3, _header), (1, special_file)), answer, sealed=True, share=4),
    "safetensors-resealed": Kind(seeds, _tensors, answer_features, share=3),
}
