"""Who computes the features: PyTorch, ONNX Runtime, or nobody (raw pixels), over the same uint8 batches."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import BackendError, unknown_name
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

    from l2a_transfer.models.vgg import Network
    from l2a_transfer.models.weights import Card

log = logging.getLogger(__name__)
BACKENDS = ("auto", "torch", "onnxruntime")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
TAPS = ("ga", "ga-bn-relu")
CARD_KEY = "l2a-card"
MAX_ONNX_BYTES = 1 << 30
EXPORT = "'l2a-transfer export' writes such files"


class FeatureBackend(Protocol):
    """Turns uint8 pixels into features, and knows everything that decides their bytes.

    `card`: the model's card as JSON; `levels`: (name, start, stop) of each piece of the feature's columns.
    """

    name: str
    device: str
    precision: str
    tap: str
    card: dict[str, Any]
    preprocess: Preprocess
    levels: tuple[tuple[str, int, int], ...]

    def features(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, 3, size, size) → float32 (B, D)."""

    def identity(self) -> dict[str, Any]:
        """What decides the bytes of a feature beside the pictures and the batch size; flat JSON."""


def level_columns(widths: dict[str, int], wanted: Sequence[str] | None) -> tuple[tuple[str, int, int], ...]:
    """(name, start, stop) of the wanted levels, tiling the columns in the network's order.

    Raises: UnknownNameError for a level that the network does not have.
    """
    for level in wanted or ():
        if level not in widths:
            raise unknown_name("level", level, widths)
    columns, start = [], 0
    for level, width in widths.items():
        if not wanted or level in wanted:
            columns.append((level, start, start + width))
            start += width
    return tuple(columns)


class PixelsBackend:
    """The floor: the pixels themselves, divided by 255, channel-major."""

    name, device, precision, tap = "pixels", "cpu", "fp32", "ga"

    def __init__(self, preprocess: Preprocess | None = None) -> None:
        self.preprocess = preprocess or Preprocess()
        self.card: dict[str, Any] = {"name": "pixels"}
        self.levels: tuple[tuple[str, int, int], ...] = (("pixels", 0, 3 * self.preprocess.size**2),)

    def features(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        return images_u8.reshape(len(images_u8), -1).astype(np.float32) / np.float32(255)

    def identity(self) -> dict[str, Any]:
        return {"model": "pixels", "weights": ""}


class TorchBackend:
    """A network in PyTorch, in evaluation mode, on one device. fp32 means IEEE float32: TF32 is off."""

    name = "torch"

    def __init__(
        self,
        model: Network,
        card: Card,
        *,
        device: str = "auto",
        precision: str = "auto",
        tap: str = "ga",
        levels: Sequence[str] | None = None,
    ) -> None:
        import torch

        if tap not in TAPS:
            raise unknown_name("tap", tap, TAPS)
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.tap, self.card, self.preprocess = tap, card.to_json(), card.preprocess
        self.levels = level_columns(model.config.feature_levels, levels)
        self._weights = state_sha256(model)
        self._model: Any = model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean = torch.tensor(self.preprocess.mean, device=self.device)[:, None, None]
        self._std = torch.tensor(self.preprocess.std, device=self.device)[:, None, None]

    def features(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision, torch.bfloat16)
        with (
            torch.inference_mode(),
            ieee_float32(),
            torch.autocast(self.device, dtype, enabled=self.precision != "fp32"),
        ):
            pixels = torch.from_numpy(images_u8).to(self.device).float() / 255
            images = ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
            attended = self._model.attend(images)
            values = attended.g_a if self.tap == "ga" else attended.g_a_bn_relu
            features = torch.cat([values[level].float() for level, _, _ in self.levels], dim=1)  # (B, D)
        array: NDArray[np.float32] = features.cpu().numpy()
        return array

    def identity(self) -> dict[str, Any]:
        import torch

        return {
            "model": self.card["name"],
            "weights": self._weights,
            "runtime": f"torch {torch.__version__}",
            "threads": torch.get_num_threads() if self.device == "cpu" else 0,
        }


class OnnxBackend:
    """A file that `l2a-transfer export` wrote, in ONNX Runtime; the provider that runs is the one asked for."""

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
        import onnxruntime as ort
        import torch

        if tap not in TAPS:
            raise unknown_name("tap", tap, TAPS)
        if tap != "ga":
            raise BackendError(f"{path}: an ONNX file holds the tap 'ga' alone, got {tap!r}; use the weights file")
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        if precision not in ("auto", "fp32"):
            raise BackendError(f"{path}: ONNX files are float32, got precision {precision!r}; use --backend torch")
        content, card = read_onnx(path)
        self.card, self.preprocess = card.to_json(), card.preprocess
        widths = card.config.feature_levels
        self.levels = level_columns(widths, levels)
        whole = {name: range(start, stop) for name, start, stop in level_columns(widths, None)}
        self._columns = np.concatenate([np.asarray(whole[name]) for name, _, _ in self.levels])
        self._width = sum(widths.values())
        self._weights = hashlib.sha256(content).hexdigest()
        self.device = choose_onnx_device(device)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads = torch.get_num_threads()
        options.log_severity_level = 3
        provider = "CUDAExecutionProvider" if self.device == "cuda" else "CPUExecutionProvider"
        if self.device == "cuda" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        with _runtime_errors(path):
            self._session = ort.InferenceSession(content, options, providers=[provider])
        if provider not in self._session.get_providers():
            raise BackendError(f"{path}: ONNX Runtime could not start {provider}; use --device cpu")
        self._path = path

    def features(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = self.run(images_u8)["features"]
        if found.shape != (len(images_u8), self._width) or found.dtype != np.float32:
            raise BackendError(
                f"{self._path}: gave features {found.dtype} {found.shape}, its card says float32 "
                f"{(len(images_u8), self._width)}; export it again"
            )
        return np.ascontiguousarray(found[:, self._columns])

    def run(self, images_u8: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Every output of the file by name: `features` (B, D) and `map_LEVEL` (B, H, W)."""
        names = [output.name for output in self._session.get_outputs()]
        with _runtime_errors(self._path):
            return dict(zip(names, self._session.run(names, {"images": images_u8}), strict=True))

    def identity(self) -> dict[str, Any]:
        import onnxruntime as ort

        return {
            "model": self.card["name"],
            "weights": self._weights,
            "runtime": f"onnxruntime {ort.__version__}",
            "threads": self._threads if self.device == "cpu" else 0,
        }


@contextmanager
def _runtime_errors(path: Path) -> Iterator[None]:
    """ONNX Runtime's own exceptions, which share no base class, as BackendError."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    try:
        yield
    except kinds as error:
        raise BackendError(f"{path}: ONNX Runtime cannot run it: {error}") from error


def read_onnx(path: Path) -> tuple[bytes, Card]:
    """The bytes and the card of a self-contained file that `export` wrote, checked before any runtime sees them.

    Raises: BackendError for a file of another program, a damaged one, or one that refers to other files.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from l2a_transfer.models.weights import Card

    try:
        if path.stat().st_size > MAX_ONNX_BYTES:
            raise BackendError(f"{path}: larger than {MAX_ONNX_BYTES >> 20} MiB, which no exported network is")
        content = path.read_bytes()
    except OSError as error:
        raise BackendError(f"{path}: cannot be read: {error.strerror or error}; {EXPORT}") from error
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise BackendError(f"{path}: not an ONNX file or damaged: {error}; {EXPORT}") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if CARD_KEY not in metadata:
        raise BackendError(f"{path}: an ONNX file of another program (no {CARD_KEY!r} in its metadata); {EXPORT}")
    if refers_to_other_files(model):
        raise BackendError(f"{path}: keeps data in other files, which is refused; export it again")
    try:
        card = Card.from_json(json.loads(metadata[CARD_KEY]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BackendError(f"{path}: its card cannot be read: {error}; {EXPORT}") from error
    inputs = [i.name for i in model.graph.input]
    outputs = [o.name for o in model.graph.output]
    if inputs != ["images"] or "features" not in outputs:
        raise BackendError(
            f"{path}: needs the input 'images' and the output 'features', has {inputs} and {outputs}; {EXPORT}"
        )
    return content, card


def refers_to_other_files(model: Any) -> bool:
    """True where any tensor of an ONNX model, in any subgraph or function, lives outside the file."""
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


def choose_device(name: str) -> str:
    """`auto` is CUDA where PyTorch sees a GPU, else the CPU.

    Raises: UnknownNameError; BackendError where CUDA was asked for and is not there.
    """
    import torch

    if name not in DEVICES:
        raise unknown_name("device", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendError("device 'cuda' was asked for and PyTorch sees no CUDA GPU; use --device cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def choose_onnx_device(name: str) -> str:
    """`auto` is CUDA where ONNX Runtime has the provider and PyTorch sees a GPU, else the CPU. Raises: as above."""
    import onnxruntime as ort

    device = choose_device(name)
    if device == "cuda" and "CUDAExecutionProvider" not in ort.get_available_providers():
        if name == "cuda":
            raise BackendError("device 'cuda' was asked for and this onnxruntime has no CUDAExecutionProvider")
        return "cpu"
    return device


def choose_precision(name: str, device: str) -> str:
    """`auto` is fp32, because features are compared across machines. Raises: UnknownNameError, BackendError."""
    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
    if name == "fp16" and device != "cuda":
        raise BackendError("precision fp16 needs a CUDA GPU; use fp32 or bf16")
    if name == "auto" and device == "cuda":
        log.info("precision fp32, without TF32; --precision bf16 trades exactness for speed")
    return "fp32" if name == "auto" else name


@contextmanager
def ieee_float32() -> Iterator[None]:
    """TF32 off and deterministic convolution algorithms on; what was set before comes back at the end."""
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic)
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = False, False, True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before


def state_sha256(model: Network) -> str:
    """SHA-256 over a network's config and tensors, in the order of their names."""
    digest = hashlib.sha256(json.dumps(model.config.to_json(), sort_keys=True).encode())
    for key, value in sorted(model.state_dict().items()):
        tensor: torch.Tensor = value.detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def open_backend(
    model: str,
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
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if model == "pixels":
        if tap not in TAPS:
            raise unknown_name("tap", tap, TAPS)
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        if tap != "ga" or precision not in ("auto", "fp32") or backend != "auto":
            raise BackendError("pixels are no network: leave out --tap, --precision and --backend")
        choose_device(device)
        pixels = PixelsBackend()
        level_columns({"pixels": pixels.levels[0][2]}, levels)
        return pixels
    if model.endswith(".onnx"):
        if backend == "torch":
            raise BackendError(f"{model}: an ONNX file runs in ONNX Runtime; use --backend onnxruntime")
        return OnnxBackend(Path(model), device=device, precision=precision, tap=tap, levels=levels)
    if backend == "onnxruntime":
        raise BackendError(f"{model}: ONNX Runtime takes a file; make one with 'l2a-transfer export --model {model}'")
    from l2a_transfer.models.weights import resolve_model

    network, card = resolve_model(model, seed=seed)
    return TorchBackend(network, card, device=device, precision=precision, tap=tap, levels=levels)


def feature_width(backend: FeatureBackend) -> int:
    """D, the number of columns of a backend's features."""
    return backend.levels[-1][2]


def config_of(card: dict[str, Any]) -> ModelConfig | None:
    """The model config inside a card, None for `pixels`."""
    return ModelConfig.from_json(card["config"]) if "config" in card else None
