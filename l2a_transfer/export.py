"""ONNX export: one self-contained file that turns uint8 pixels into attended features, checked before it is kept."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from l2a_transfer.errors import ArgumentError, BackendError, OutputExistsError, names_keywords
from l2a_transfer.features.backends.onnx import WEIGHTS_KEY, OnnxBackend, with_sha256
from l2a_transfer.features.backends.order import check_order
from l2a_transfer.features.backends.torch import TorchBackend
from l2a_transfer.files import check_free, output_path, replacing
from l2a_transfer.lock import output_lock
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.copies import evaluation_copy
from l2a_transfer.models.digest import network_sha256
from l2a_transfer.models.inference import fold_batch_norms
from l2a_transfer.models.interface import Network
from l2a_transfer.models.loading import as_network
from l2a_transfer.models.normalizers import find_normalizer
from l2a_transfer.models.selection import find_selection
from l2a_transfer.models.weights import CARD_KEY, Card
from l2a_transfer.preprocess import normalize

TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 7)
OPSET = 18
PREPROCESS_KEY = "l2a-preprocess"


@dataclass(frozen=True)
class ExportResult:
    """The file, its size, and the largest difference from PyTorch in the check, relative to the features' norm."""

    path: Path
    bytes: int
    max_relative_error: float
    outputs: tuple[str, ...]


class ExportedExtractor(nn.Module):
    """The exported computation: images uint8 (N, 3, H, W) → features float32 (N, D) and one map (N, H', W') per
    level."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Network, card: Card) -> None:
        super().__init__()
        self.model = model
        for name, values in zip(("mean", "std"), card.preprocess.statistics(), strict=True):
            self.register_buffer(name, values)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        attended = self.model.attend(normalize(images, self.mean, self.std))
        return (attended.features, *attended.maps.values())


def relative_error(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """The largest row-wise ‖found − expected‖ / ‖expected‖."""
    difference = np.linalg.norm((found - expected).reshape(len(found), -1).astype(np.float64), axis=1)
    scale = np.linalg.norm(expected.reshape(len(expected), -1).astype(np.float64), axis=1)
    return float((difference / np.maximum(scale, np.finfo(np.float32).tiny)).max())


@names_keywords
def export_onnx(
    model: str | Path | Network | tuple[Network, Card], out: str | Path, *, overwrite: bool = False, seed: int = 0
) -> ExportResult:
    """Export a feature extractor to ONNX. It takes uint8 pixels and returns features and attention maps.

    A network with partners is exported with each image as its own partner.

    The file is run in ONNX Runtime at batch sizes 1 and 7. It is kept only if features and maps agree with PyTorch
    within a relative error of 1e-4.

    Parameters
    ----------
    model : str, Path, Network or (Network, Card)
        A name or path as for `load_model`, what `load_model` returns, or a network, which is not changed.
    out : str or Path
        The file, `.onnx`. Its folder is created if needed. The file contains the model card, the preprocessing and the
        digest of the network.
    overwrite : bool, default=False
        Overwrite `out`.
    seed : int, default=0
        Random seed of untrained weights.

    Returns
    -------
    ExportResult
        The file, its size in bytes, and the largest relative difference from PyTorch. Input: images uint8
        (N, 3, size, size). Outputs: features float32 (N, D) and one map (N, H, W) per level.

    Raises
    ------
    OutputExistsError
        If `out` exists and `overwrite` is not given, if it is not a regular file, or if another process is writing it.
    BackendError
        If the network cannot be exported, or if the results differ from PyTorch.
    OSError
        If `out` cannot be written.

    Examples
    --------
    >>> import l2a_transfer
    >>> result = l2a_transfer.export_onnx("untrained:vgg-gap@0.015625", "vgg.onnx")
    >>> result.outputs, result.max_relative_error < 1e-4
    (('features',), True)
    """
    # Other functions accept an .onnx file as a model; here it is the output.
    given, other = (None if _is_onnx(thing) else thing for thing in (model, out))
    check_order("export_onnx(model, out)", ("model", given), ("out", other))
    network, card = as_network(model, seed=seed)
    if reason := not_exported(network.config):
        raise BackendError(f"{card.name}: {reason}", "run it in PyTorch")
    out = output_path(out)
    if out.suffix != ".onnx":
        raise ArgumentError(
            f"out must be the name of an ONNX file, such as {out.with_suffix('.onnx').name}; got {out.name!r}"
        )
    if out.is_dir():
        raise OutputExistsError(f"{out}: is a folder, but a network is one file", "choose another `out`")
    check_free(out, overwrite=overwrite)
    if not out.parent.is_dir():
        out.parent.mkdir(parents=True, exist_ok=True)
    with output_lock(out):
        check_free(out, overwrite=overwrite)  # the previous owner of the lock may have finished in the meantime
        return _export(network, card, out)


def not_exported(config: ModelConfig) -> str:
    """Why networks of this config cannot be written as ONNX; empty if they can."""
    normalizer = find_normalizer(config.normalizer)
    if find_selection(config.selection).needs == "noise":
        return "its positions are drawn from the pixels, which cannot be exported to ONNX"
    if config.has_scores and not normalizer.exports:
        return f"its normalizer {normalizer.name} is computed iteratively, for which ONNX has no operators"
    return ""


def _is_onnx(thing: object) -> bool:
    return isinstance(thing, (str, Path)) and str(thing).endswith(".onnx")


def _export(model: Network, card: Card, out: Path) -> ExportResult:
    model = evaluation_copy(model, shared=True).cpu()
    size = card.preprocess.size
    extractor = ExportedExtractor(fold_batch_norms(evaluation_copy(model)), card).eval()
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    maps = model.attend(example.float()).maps
    names = ["features", *(f"map_{level}" for level in maps)]
    content = _convert(extractor, example, names, card, network_sha256(model))
    with replacing(out) as file:
        file.write(content)
        file.flush()
        error = check_parity(model, card, Path(file.name))
        if not error <= TOLERANCE:
            raise BackendError(
                f"{out}: the relative difference of ONNX Runtime from PyTorch is {error:.2e}; nothing was written"
            )
    return ExportResult(out, len(content), error, tuple(names))


def _convert(extractor: ExportedExtractor, example: Tensor, names: list[str], card: Card, weights: str) -> bytes:
    from torch.onnx.errors import OnnxExporterError

    try:
        # Hide the exporter's progress and torch's warnings about its own deprecated internals from the user.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                extractor,
                (example,),
                input_names=["images"],
                output_names=names,
                dynamic_shapes={"images": {0: torch.export.Dim("N", min=1)}},
                opset_version=OPSET,
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    except (OnnxExporterError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise BackendError(f"{card.name}: cannot be exported to ONNX: {first}") from error
    assert program is not None
    proto = program.model_proto
    proto.producer_name = "l2a-transfer"
    # Source paths and stack traces of the exporting machine do not belong in a file that is passed on.
    for node in [*proto.graph.node, *(n for function in proto.functions for n in function.node)]:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    metadata = {CARD_KEY: card.to_json(), PREPROCESS_KEY: card.preprocess.to_json(), WEIGHTS_KEY: weights}
    for key, values in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(values, sort_keys=True)
    return with_sha256(proto.SerializeToString(deterministic=True))


def check_parity(model: Network, card: Card, path: Path) -> float:
    """The largest relative difference of features and maps between a file in ONNX Runtime and `model` in PyTorch.

    Random pixels at batch 1 and 7, float32, on the CPU.
    """
    onnx = OnnxBackend(path, device="cpu")
    reference = TorchBackend(model, card, device="cpu", precision="fp32")
    rng = np.random.default_rng(0)
    worst = 0.0
    for batch in CHECKED_BATCHES:
        pixels = rng.integers(0, 256, (batch, 3, card.preprocess.size, card.preprocess.size), dtype=np.uint8)
        found = onnx.run(pixels)
        expected = {"features": reference.features(pixels)}
        images = normalize(torch.from_numpy(pixels), *card.preprocess.statistics())
        with torch.inference_mode():
            maps = model.attend(images).maps
        expected |= {f"map_{level}": values.numpy() for level, values in maps.items()}
        if set(found) != set(expected):
            raise BackendError(f"{path}: has the outputs {sorted(found)}, expected {sorted(expected)}")
        worst = max(worst, *(relative_error(found[name], expected[name]) for name in expected))
    return worst
