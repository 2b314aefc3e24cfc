"""Which backend a model's name asks for, and the one function that opens it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from l2a_transfer.devices import check_precision, choose_device
from l2a_transfer.errors import ArgumentError, BackendError, unknown_name
from l2a_transfer.features.backends.interface import (
    TAPS,
    FeatureBackend,
    is_backend,
    level_columns,
)
from l2a_transfer.features.backends.onnx import OnnxBackend
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.backends.torch import TorchBackend
from l2a_transfer.models.loading import as_network, load_model

if TYPE_CHECKING:
    from l2a_transfer.models.interface import Network
    from l2a_transfer.models.weights import Card

BACKENDS = ("auto", "torch", "onnxruntime")


def open_backend(
    model: str | Path | Network | tuple[Network, Card] | FeatureBackend,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    tap: str = "ga",
    levels: Sequence[str] | None = None,
    seed: int = 0,
) -> FeatureBackend:
    """What computes the features of a model.

    Parameters
    ----------
    model : str, Path, Network, (Network, Card) or FeatureBackend
        Weights as `load_model` takes them, which run in PyTorch; an `.onnx` file, which runs in ONNX Runtime;
        `pixels`; a network, or what `load_model` gives. A network is copied: it stays as it is, and changing it later
        does not change the features. A backend is open already, and its options are its own.
    backend : {"auto", "torch", "onnxruntime"}, default="auto"
        The runtime that the model must run in.
    device : {"auto", "cpu", "cuda"}, default="auto"
        "auto" is a GPU where there is one.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        "auto" is fp32, IEEE float32 without TF32.
    tap : {"ga", "ga-bn-relu"}, default="ga"
        The attended features themselves, or what the classifier sees of them.
    levels : sequence of str, optional
        The levels to keep, as ["L3"]; all by default.
    seed : int, default=0
        Of untrained weights.

    Returns
    -------
    FeatureBackend
        `backend.features` takes uint8 pixels (B, 3, size, size) and gives float32 (B, D).

    Raises
    ------
    UnknownNameError
        For a name that does not exist.
    WeightsError, BackendError, DeviceError
        For what cannot run.

    Examples
    --------
    >>> import numpy as np
    >>> import l2a_transfer
    >>> backend = l2a_transfer.open_backend("untrained:vgg-att2-concat-pc@0.0625", device="cpu")
    >>> backend.features(np.zeros((2, 3, 32, 32), dtype=np.uint8)).shape
    (2, 64)
    >>> backend.levels
    (('L2', 0, 32), ('L3', 32, 64))
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if is_backend(model):
        if (backend, device, precision, tap, levels) != ("auto", "auto", "auto", "ga", None):
            raise ArgumentError("model must be a name or a network where options are given; it is open already")
        return model
    if not isinstance(model, (str, Path)):
        network, card = as_network(model, seed=seed)
        if backend == "onnxruntime":
            raise BackendError(f"{card.name}: ONNX Runtime takes a file; 'l2a-transfer export' makes one")
        return TorchBackend(network, card, device=device, precision=precision, tap=tap, levels=levels)
    model = os.path.expanduser(model)
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
    network, card = load_model(model, seed=seed)
    return TorchBackend(network, card, device=device, precision=precision, tap=tap, levels=levels)
