"""Who computes the features: PyTorch, ONNX Runtime, or nobody (raw pixels), over the same uint8 batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import BackendError, unknown_name, wrong_kind
from l2a_transfer.features.devices import PRECISIONS, choose_device, ieee_float32
from l2a_transfer.features.interface import TAPS, Computed, FeatureBackend, check_pixels, feature_width, level_columns
from l2a_transfer.features.onnx_backend import CARD_KEY, OnnxBackend, read_onnx, refers_to_other_files
from l2a_transfer.features.torch_backend import TorchBackend
from l2a_transfer.preprocess import Preprocess

__all__ = [
    "CARD_KEY",
    "FeatureBackend",
    "OnnxBackend",
    "PixelsBackend",
    "TorchBackend",
    "feature_width",
    "ieee_float32",
    "level_columns",
    "open_backend",
    "read_onnx",
    "refers_to_other_files",
]

BACKENDS = ("auto", "torch", "onnxruntime")


class PixelsBackend:
    """The floor: the pixels themselves, divided by 255, channel-major."""

    name, device, precision, tap = "pixels", "cpu", "fp32", "ga"

    def __init__(self, preprocess: Preprocess | None = None) -> None:
        self.preprocess = preprocess or Preprocess()
        self.card: dict[str, Any] = {"name": "pixels"}
        self.levels: tuple[tuple[str, int, int], ...] = (("pixels", 0, 3 * self.preprocess.size**2),)
        self.map_levels: tuple[str, ...] = ()

    def features(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        check_pixels(images_u8, self.preprocess)
        return images_u8.reshape(len(images_u8), self.levels[-1][2]).astype(np.float32) / np.float32(255)

    def stream(self, batches: Iterable[NDArray[np.uint8]], *, attention: bool = False) -> Iterator[Computed]:
        for images_u8 in batches:
            yield Computed(self.features(images_u8))

    def identity(self) -> dict[str, Any]:
        return {"model": "pixels", "weights": ""}


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
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
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
    from l2a_transfer.models.weights import resolve_model

    network, card = resolve_model(model, seed=seed)
    return TorchBackend(network, card, device=device, precision=precision, tap=tap, levels=levels)
