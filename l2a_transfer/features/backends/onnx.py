"""Features through ONNX Runtime, from one self-contained file that `export` wrote."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.devices import check_precision, choose_onnx_device
from l2a_transfer.documents import parse
from l2a_transfer.errors import BackendError, unknown_name
from l2a_transfer.features.backends.interface import (
    TAPS,
    Computed,
    backend_repr,
    check_pixels,
    level_columns,
    maps_wanted,
)
from l2a_transfer.features.backends.onnx_graph import check_graph
from l2a_transfer.features.backends.registry import register_backend
from l2a_transfer.features.extraction.interruptible import interruptible
from l2a_transfer.features.machine import arithmetic, gpu_name, onnx_instructions
from l2a_transfer.inputs import check_input, read_input

if TYPE_CHECKING:
    from l2a_transfer.models.weights import Card

WEIGHTS_KEY = "l2a-weights-sha256"
MAX_ONNX_BYTES = 1 << 30
MAP_OUTPUT = "map_"
EXPORT = "create it with 'l2a-transfer export'"
PROVIDERS: dict[str, tuple[str, dict[str, str]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    # By default, it multiplies in TF32 and uses the convolution algorithm that was fastest in a trial.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
}
"""Device → ONNX Runtime's provider and its options: float32 is IEEE float32, and the same file gives the same bytes."""


class OnnxBackend:
    """A file written by `l2a-transfer export`, in ONNX Runtime. It runs on the requested provider, or not at all."""

    name, precision, tap = "onnxruntime", "fp32", "ga"

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        tap: str = "ga",
        levels: Sequence[str] | None = None,
    ) -> None:
        import torch

        if tap not in TAPS:
            raise unknown_name("tap", tap, TAPS)
        if tap != "ga":
            raise BackendError(f"{path}: an ONNX file contains only the tap 'ga', got {tap!r}; use the weights file")
        check_precision(precision)
        if precision not in ("auto", "fp32"):
            raise BackendError(f"{path}: ONNX files are float32, got precision {precision!r}", "use `backend='torch'`")
        content, card, self._weights = read_exported(path)
        self.card, self.preprocess = card.to_json(), card.preprocess
        widths = card.config.feature_levels
        self.levels = level_columns(widths, levels)
        self.map_levels = maps_wanted(card.config.map_levels, widths, levels)
        whole = {name: range(start, stop) for name, start, stop in level_columns(widths, None)}
        self._columns = np.concatenate([np.asarray(whole[name]) for name, _, _ in self.levels])
        self._width = sum(widths.values())
        self._graph = hashlib.sha256(content).hexdigest()
        self.device = choose_onnx_device(device)
        self._threads, self._path, self._content = torch.get_num_threads(), path, content
        self._session = self._start()

    def _start(self) -> Any:
        """A session on the requested provider, and no other. Raises: BackendError."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4  # errors are raised anyway, and log lines would contain names from the file
        provider, settings = PROVIDERS[self.device]
        if self.device == "cuda" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        with _runtime_errors(self._path):
            # Without enable_fallback=0, a provider that fails is replaced by another, with only a printed line.
            session = interruptible(
                lambda: ort.InferenceSession(
                    self._content, options, providers=[(provider, settings)], enable_fallback=0
                )
            )
        if session.get_providers()[0] != provider:
            raise BackendError(
                f"{self._path}: ONNX Runtime could not start {provider} and uses {session.get_providers()}",
                "use `device='cpu'`",
            )
        return session

    def __repr__(self) -> str:
        return backend_repr(self)

    def features(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        check_pixels(images_u8, self.preprocess)
        return self._checked(self.run(images_u8, ["features"]), len(images_u8)).features

    def stream(self, batches: Iterable[NDArray[np.uint8]], *, attention: bool = False) -> Iterator[Computed]:
        names = ["features", *(MAP_OUTPUT + level for level in self.map_levels if attention)]
        run = self.run_bound if self.device == "cuda" else self.run
        for images_u8 in batches:
            check_pixels(images_u8, self.preprocess)
            yield self._checked(run(images_u8, names), len(images_u8))

    def _checked(self, found: dict[str, NDArray[np.float32]], B: int) -> Computed:
        """Check the shapes of the outputs against the card. Raises: BackendError."""
        features = found.pop("features")
        if features.shape != (B, self._width) or features.dtype != np.float32:
            raise BackendError(
                f"{self._path}: expected features float32 {(B, self._width)} according to its card, got "
                f"{features.dtype} {features.shape}; export it again"
            )
        for name, values in found.items():
            if values.ndim != 3 or len(values) != B:
                raise BackendError(f"{self._path}: expected {name} ({B}, H, W), got {values.shape}; export it again")
        maps = {name.removeprefix(MAP_OUTPUT): values.astype(np.float16) for name, values in found.items()}
        return Computed(np.ascontiguousarray(features[:, self._columns]), maps)

    def run(self, images_u8: NDArray[np.uint8], names: Sequence[str] | None = None) -> dict[str, NDArray[np.float32]]:
        """Run the file and return outputs by name, by default all: `features` (B, D) and `map_LEVEL` (B, H, W)."""
        if len(images_u8) == 0:
            return _empty_outputs(self.run, images_u8, names)
        import onnxruntime as ort

        wanted = list(names) if names else [output.name for output in self._session.get_outputs()]
        options = ort.RunOptions()
        with _runtime_errors(self._path):
            found = interruptible(
                lambda: self._session.run(wanted, {"images": images_u8}, options), lambda: _terminate(options)
            )
        return dict(zip(wanted, found, strict=True))

    def run_bound(self, images_u8: NDArray[np.uint8], names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Same as `run`, but copy the pixels to the device once and allocate the outputs there (I/O binding)."""
        if len(images_u8) == 0:
            return _empty_outputs(self.run_bound, images_u8, names)
        import onnxruntime as ort

        with _runtime_errors(self._path):
            binding = self._session.io_binding()
            binding.bind_ortvalue_input("images", ort.OrtValue.ortvalue_from_numpy(images_u8, self.device, 0))
            for name in names:
                binding.bind_output(name, self.device)
            options = ort.RunOptions()
            interruptible(lambda: self._session.run_with_iobinding(binding, options), lambda: _terminate(options))
            return dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._session = self._start()

    def identity(self) -> dict[str, Any]:
        import onnxruntime as ort

        return {
            "model": self.card["name"],
            "weights": self._weights,
            "graph": self._graph,
            "runtime": f"onnxruntime {ort.__version__}",
            "threads": self._threads if self.device == "cpu" else 0,
            "instructions": onnx_instructions(self.device),
            "gpu": gpu_name(self.device),
            "arithmetic": arithmetic(self.device, self.preprocess.size, self.features),
        }


@register_backend(
    "onnxruntime",
    models="FILE.onnx, which 'l2a-transfer export' makes",
    suffixes=(".onnx",),
    options=("device", "precision", "tap", "levels"),
)
def open_onnx(model: str, *, device: str, precision: str, tap: str, levels: Sequence[str] | None) -> OnnxBackend:
    """An exported file, in ONNX Runtime. Raises: BackendError."""
    return OnnxBackend(Path(model), device=device, precision=precision, tap=tap, levels=levels)


def _terminate(options: Any) -> None:
    options.terminate = True


def _empty_outputs(
    run: Any, images_u8: NDArray[np.uint8], names: Sequence[str] | None
) -> dict[str, NDArray[np.float32]]:
    """Empty outputs for zero pictures, which ONNX Runtime's pooling rejects: zero rows of those of a black picture."""
    one = np.zeros((1, *images_u8.shape[1:]), dtype=images_u8.dtype)
    return {name: values[:0] for name, values in run(one, names).items()}


@contextmanager
def _runtime_errors(path: Path) -> Iterator[None]:
    """Turn ONNX Runtime's own exceptions, which share no base class, into BackendError."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    try:
        yield
    except kinds as error:
        raise BackendError(f"{path}: ONNX Runtime cannot run it: {error}") from error


def read_onnx(path: Path) -> tuple[bytes, Card]:
    """Same as `read_exported`, without the digest."""
    return read_exported(path)[:2]


def read_exported(path: Path) -> tuple[bytes, Card, str]:
    """The bytes, the card and the network's digest of a self-contained file written by `export`, checked before any
    runtime loads them. The digest is empty if an earlier version wrote the file.

    Raises: BackendError if the file was written by another program, is corrupt, or refers to other files.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from l2a_transfer.models.weights import CARD_KEY, Card

    try:
        if check_input(path).st_size > MAX_ONNX_BYTES:
            raise BackendError(
                f"{path}: larger than {MAX_ONNX_BYTES >> 20} MiB, which is larger than any exported network"
            )
        content = read_input(path, MAX_ONNX_BYTES)
    except OSError as error:
        raise BackendError(f"{path}: cannot be read: {error.strerror or error}; {EXPORT}") from error
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        raise BackendError(f"{path}: not an ONNX file, or corrupt: {error}; {EXPORT}") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if CARD_KEY not in metadata:
        raise BackendError(f"{path}: an ONNX file of another program (no {CARD_KEY!r} in its metadata); {EXPORT}")
    if refers_to_other_files(model):
        raise BackendError(f"{path}: stores data in other files, which is not allowed; export it again")
    try:
        card = Card.from_json(parse(metadata[CARD_KEY]))
        weights = parse(metadata.get(WEIGHTS_KEY, '""'))
        if not isinstance(weights, str) or not re.fullmatch("(?:[0-9a-f]{64})?", weights):
            raise ValueError(f"{WEIGHTS_KEY} is not a SHA-256")
    except (ValueError, TypeError) as error:
        raise BackendError(f"{path}: its card cannot be read: {error}; {EXPORT}") from error
    inputs = [i.name for i in model.graph.input]
    outputs = [o.name for o in model.graph.output]
    if inputs != ["images"] or "features" not in outputs:
        raise BackendError(
            f"{path}: must have the input 'images' and the output 'features', got {inputs} and {outputs}; {EXPORT}"
        )
    if content != with_sha256(content[: -len(with_sha256(b""))]):
        raise BackendError(f"{path}: changed since it was exported: its SHA-256 does not match or is missing; {EXPORT}")
    try:
        check_graph(model, card.config, card.preprocess.size)
    except ValueError as error:
        raise BackendError(f"{path}: unexpected content for an exported file: {error}", "export it again") from error
    return content, card, weights


def described_tensors(content: bytes) -> dict[str, dict[str, dict[str, Any]]]:
    """The inputs and outputs of a file that `read_exported` accepted: name → type and shape, with "N" for the batch."""
    import onnx

    graph = onnx.load_model_from_string(content).graph

    def of(value: Any) -> dict[str, Any]:
        kind = value.type.tensor_type
        shape = [axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?" for axis in kind.shape.dim]
        return {"type": onnx.TensorProto.DataType.Name(kind.elem_type).lower(), "shape": shape}

    return {
        "inputs": {value.name: of(value) for value in graph.input},
        "outputs": {value.name: of(value) for value in graph.output},
    }


def with_sha256(content: bytes) -> bytes:
    """A serialized model with its own SHA-256 appended.

    Concatenated protobuf messages are one message, so the SHA-256 becomes an entry of the model's metadata.
    """
    import onnx

    from l2a_transfer.models.weights import DIGEST_KEY

    entry = onnx.StringStringEntryProto(key=DIGEST_KEY, value=hashlib.sha256(content).hexdigest())
    last: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return content + last


def refers_to_other_files(model: Any) -> bool:
    """True if any tensor of an ONNX model, in any subgraph or function, is stored outside the file."""
    pending, external = [model], False
    while pending and not external:
        message = pending.pop()
        if type(message).__name__ == "TensorProto":
            external = bool(message.external_data) or message.data_location == 1
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                pending.extend([value] if hasattr(value, "ListFields") else list(value))
    return external
