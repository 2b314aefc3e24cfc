"""Which backend a model's name asks for, and the one function that opens it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from l2a_transfer.devices import check_precision, choose_device
from l2a_transfer.errors import BackendError, unknown_name, wrong_kind
from l2a_transfer.features.backends.interface import (
    TAPS,
    FeatureBackend,
    level_columns,
)
from l2a_transfer.features.backends.onnx import OnnxBackend
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.backends.torch import TorchBackend

BACKENDS = ("auto", "torch", "onnxruntime")


def open_backend(
    model: str | Path,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    tap: str = "ga",
    levels: Sequence[str] | None = None,
    seed: int = 0,
) -> FeatureBackend:
    """The backend for what `--model` names: weights (PyTorch), an `.onnx` file (ONNX Runtime) or `pixels`.

    Raises: UnknownNameError for a name that does not exist; WeightsError or BackendError for what cannot run.
    """
    if not isinstance(model, (str, Path)):
        raise wrong_kind("model", "a model's name, or a path to .safetensors or .onnx", model)
    model = os.path.expanduser(model)
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if model == "pixels":
        if tap not in TAPS:
            raise unknown_name("tap", tap, TAPS)
        check_precision(precision)
        if tap != "ga" or precision not in ("auto", "fp32") or backend != "auto":
            raise BackendError("pixels are no network", "leave out `tap`, `precision` and `backend`")
        choose_device(device)
        pixels = PixelsBackend()
        level_columns({"pixels": pixels.levels[0][2]}, levels)
        return pixels
    if model.endswith(".onnx"):
        if backend == "torch":
            raise BackendError(f"{model}: an ONNX file runs in ONNX Runtime", "use `backend='onnxruntime'`")
        return OnnxBackend(Path(model), device=device, precision=precision, tap=tap, levels=levels)
    if backend == "onnxruntime":
        raise BackendError(f"{model}: ONNX Runtime takes a file; 'l2a-transfer export' makes one")
    from l2a_transfer.models.loading import load_model

    network, card = load_model(model, seed=seed)
    return TorchBackend(network, card, device=device, precision=precision, tap=tap, levels=levels)
