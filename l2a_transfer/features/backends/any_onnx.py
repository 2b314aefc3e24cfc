"""An ONNX file written by any program. The user specifies the preprocessing; the graph is run unchanged."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.devices import choose_onnx_device
from l2a_transfer.errors import ArgumentError, BackendError, unknown_name
from l2a_transfer.features.backends.interface import Computed, Layer, backend_repr, check_pixels, level_columns
from l2a_transfer.features.backends.pooling import check_pool, check_same, pooled
from l2a_transfer.features.backends.registry import register_backend
from l2a_transfer.features.extraction.interruptible import interruptible
from l2a_transfer.features.machine import arithmetic, gpu_name, onnx_instructions, probe_pixels
from l2a_transfer.inputs import read_input
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.wording import first_line

PREFIX = "onnx:"
MAX_BYTES = 1 << 31
"""Limit of a protobuf message."""
KINDS = {1: np.float32, 2: np.uint8}
"""ONNX's number of an input type → NumPy's type. uint8 inputs get raw pixels, float32 inputs normalized ones."""
OPTIONS = ("device", "layer", "pool", "image_size", "fit", "decode", "mean", "std")


class AnyOnnxBackend:
    """A file of any program in ONNX Runtime, with one input of pictures, (N, 3, H, W), and the requested values."""

    name, precision, tap = "onnx", "fp32", "ga"
    map_levels: tuple[str, ...] = ()

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        import torch

        self._again, self._path = (model, options), Path(model.removeprefix(PREFIX)).expanduser()
        self._pool = options["pool"] or "avg"
        check_pool(self._pool)
        proto, content = _read(self._path)
        self._input, self._kind, batch, side = _picture_input(self._path, proto)
        self._one_by_one = batch == 1
        self.preprocess = _preprocess(model, self._kind, side, options)
        values = [*(output.name for output in proto.graph.output), *_values(proto)]
        self._layers = tuple(options["layer"] or values[:1])
        for layer in self._layers:
            if layer not in values:
                raise unknown_name("layer", layer, dict.fromkeys(values))
        if len(set(self._layers)) < len(self._layers):
            raise ArgumentError(f"layer must be different names; got {', '.join(self._layers)}")
        self.device = choose_onnx_device(options["device"])
        self._threads = torch.get_num_threads()
        self._session = self._start(proto)
        self._weights = hashlib.sha256(content).hexdigest()
        self.card: dict[str, Any] = {
            "name": f"{PREFIX}{self._path.name}",
            "config": {"architecture": f"{PREFIX}{self._path.name}", "layers": list(self._layers), "pool": self._pool},
            "preprocess": self.preprocess.to_json(),
            "weights_sha256": self._weights,
        }
        probes = probe_pixels(2, self.preprocess.size)
        found, alone = self._parts(probes), self._parts(probes[:1])
        widths = {name: part.shape[1] for name, part in found.items()}
        if all(part.shape[1] == widths[name] for name, part in alone.items()):
            check_same(self.card["name"], found, alone, exact=False)
        self.levels = level_columns(widths, None)

    def _start(self, proto: Any) -> Any:
        """A session that also returns the requested values. Raises: BackendError if ONNX Runtime rejects the model."""
        import onnx
        import onnxruntime as ort

        from l2a_transfer.features.backends.onnx import PROVIDERS, _runtime_errors

        there = {output.name for output in proto.graph.output}
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._layers if name not in there)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4
        if self.device == "cuda" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        with _runtime_errors(self._path):
            return interruptible(
                lambda: ort.InferenceSession(
                    proto.SerializeToString(), options, providers=[PROVIDERS[self.device]], enable_fallback=0
                )
            )

    def __repr__(self) -> str:
        return backend_repr(self)

    def _parts(self, images_u8: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Each layer's features, (B, D). Raises: BackendError."""
        import torch

        from l2a_transfer.features.backends.onnx import _runtime_errors

        images: NDArray[Any] = images_u8
        if self._kind == np.float32:
            mean, std = (
                np.array(values, dtype=np.float32)[:, None, None]
                for values in (self.preprocess.mean, self.preprocess.std)
            )
            images = ((images_u8.astype(np.float32) / np.float32(255)) - mean) / std
        step = 1 if self._one_by_one else len(images)
        parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self._layers}
        for start in range(0, len(images), step):
            some = np.ascontiguousarray(images[start : start + step])
            with _runtime_errors(self._path):
                found = interruptible(partial(self._session.run, list(self._layers), {self._input: some}))
            for name, values in zip(self._layers, found, strict=True):
                given = torch.from_numpy(values) if isinstance(values, np.ndarray) and values.ndim else values
                parts[name].append(pooled(given, len(some), self._pool, name).numpy())
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def features(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        check_pixels(images_u8, self.preprocess)
        if len(images_u8) == 0:
            return np.zeros((0, self.levels[-1][2]), dtype=np.float32)
        parts = self._parts(images_u8)
        for name, start, stop in self.levels:
            if parts[name].shape[1] != stop - start:
                raise BackendError(
                    f"{self._path}: {name!r} returns {parts[name].shape[1]:,} numbers for some images and "
                    f"{stop - start:,} for others of the same size, so they cannot be used as features",
                    "choose another `layer`",
                )
        return np.concatenate(list(parts.values()), axis=1)  # (B, D)

    def stream(self, batches: Iterable[NDArray[np.uint8]], *, attention: bool = False) -> Iterator[Computed]:
        for images_u8 in batches:
            yield Computed(self.features(images_u8))

    def identity(self) -> dict[str, Any]:
        import onnxruntime as ort

        return {
            "model": self.card["name"],
            "weights": self._weights,
            "pool": self._pool,
            "runtime": f"onnxruntime {ort.__version__}",
            "threads": self._threads if self.device == "cpu" else 0,
            "instructions": onnx_instructions(self.device),
            "gpu": gpu_name(self.device),
            "arithmetic": arithmetic(self.device, self.preprocess.size, self.features),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        from l2a_transfer.features.backends.backbone import _open_again

        model, options = self._again
        return _open_again, (model, {**options, "device": self.device}, self._weights)


@register_backend(
    "onnx",
    models="onnx:FILE",
    prefixes=(PREFIX,),
    options=OPTIONS,
    layers=lambda model, size: list_layers(model),
)
def open_any_onnx(model: str, **options: Any) -> AnyOnnxBackend:
    """An ONNX file of any program, in ONNX Runtime. Raises: BackendError; UnknownNameError for a layer."""
    return AnyOnnxBackend(model, options)


def list_layers(model: str) -> Sequence[Layer]:
    """The values of a graph whose shapes are known, outputs first. Raises: BackendError."""
    import onnx

    path = Path(model.removeprefix(PREFIX)).expanduser()
    proto, _ = _read(path)
    _picture_input(path, proto)
    kinds = {name: node.op_type for node in proto.graph.node for name in node.output}
    try:
        proto = onnx.shape_inference.infer_shapes(proto)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise BackendError(f"{path}: its shapes are inconsistent: {first_line(error)}") from error
    shapes: dict[str, tuple[int, ...]] = {}
    for value in (*proto.graph.value_info, *proto.graph.output):
        sides = [side.dim_value for side in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.HasField("shape") and sides and all(sides[1:]):
            shapes[value.name] = tuple(sides[1:])
    outputs = [output.name for output in proto.graph.output]
    names = dict.fromkeys([*outputs, *kinds])
    return [Layer(name, kinds.get(name, ""), shapes.get(name), 0, name == outputs[0]) for name in names]


def _values(proto: Any) -> list[str]:
    return [name for node in proto.graph.node for name in node.output if name]


def _read(path: Path) -> tuple[Any, bytes]:
    """The model in a file. Raises: BackendError if it is not an ONNX file, or if it stores data in other files."""
    import onnx
    from google.protobuf.message import DecodeError

    from l2a_transfer.features.backends.onnx import refers_to_other_files

    try:
        content = read_input(path, MAX_BYTES)
    except OSError as error:
        raise BackendError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        proto = onnx.load_model_from_string(content)
    except (DecodeError, ValueError, RecursionError) as error:
        raise BackendError(f"{path}: not an ONNX file, or corrupt: {first_line(error)}") from error
    if refers_to_other_files(proto):
        raise BackendError(f"{path}: stores data in other files, which is not allowed; save it as one file")
    if not proto.graph.output:
        raise BackendError(f"{path}: not an ONNX file, or corrupt: it has no output")
    return proto, content


def _picture_input(path: Path, proto: Any) -> tuple[str, Any, int, int]:
    """Name, type, batch and side of the only input; 0 for dynamic sizes. Raises: BackendError for other inputs."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    tensor = inputs[0].type.tensor_type if len(inputs) == 1 else None
    sides = [side.dim_value for side in tensor.shape.dim] if tensor is not None else []
    fits = len(sides) == 4 and sides[0] in (0, 1) and sides[1] in (0, 3) and sides[2] == sides[3]
    if tensor is None or not fits or tensor.elem_type not in KINDS:
        found = ", ".join(
            f"{value.name} {[side.dim_value for side in value.type.tensor_type.shape.dim]}" for value in inputs
        )
        raise BackendError(
            f"{path}: must have pictures as its only input, float32 or uint8 (N, 3, side, side); has {found or 'none'}"
        )
    return inputs[0].name, KINDS[tensor.elem_type], sides[0], sides[2]


def _preprocess(model: str, kind: Any, side: int, options: dict[str, Any]) -> Preprocess:
    """The preprocess that the user's options specify. Raises: BackendError if they are incomplete."""
    size, mean, std = options["image_size"] or side, options["mean"], options["std"]
    if side and size != side:
        raise ArgumentError(f"image_size must be {side}, the side of the file's input; got {size}")
    if kind == np.uint8:  # normalized inside the graph
        if mean is not None or std is not None:
            raise ArgumentError("mean and std must be left out, because the file takes pixels from 0 to 255")
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    given = {"image_size": size or None, "mean": mean, "std": std}
    if lacking := [key for key, value in given.items() if value is None]:
        raise BackendError(
            f"{model}: the preprocessing of this model is unknown",
            f"give {' and '.join(f'`{key}`' for key in lacking)} (and `fit`)",
        )
    chosen = Preprocess().changed(size, options["fit"], options["decode"])
    return dataclasses.replace(chosen, mean=mean, std=std)
