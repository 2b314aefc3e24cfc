"""Any PyTorch network as a backend: pooled layers, chosen by name, with the network's or the user's preprocess."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l2a_transfer.devices import choose_device, extraction_precision, ieee_float32
from l2a_transfer.errors import ArgumentError, BackendError, L2AError
from l2a_transfer.features.backends.checkpoint import load_state, read_state, state_sha256
from l2a_transfer.features.backends.hooks import Call, Hooked
from l2a_transfer.features.backends.interface import level_columns
from l2a_transfer.features.backends.pooling import check_pool, check_same
from l2a_transfer.features.backends.torch import TorchBackend
from l2a_transfer.features.machine import probe_pixels
from l2a_transfer.preprocess import Preprocess, normalize
from l2a_transfer.wording import first_line

log = logging.getLogger(__name__)
UNTRAINED = "untrained:"


def call_module(network: nn.Module, images: Tensor) -> object:
    """Call the network with images as its only argument."""
    return network(images)


@dataclass(frozen=True)
class Built:
    """A network of another library, as built by the opener of its backend.

    Parameters
    ----------
    name : str
        The model's name for cards and reports.
    architecture : str
        The name without the weights.
    network : nn.Module
        The network, which nobody else uses.
    preprocess : Preprocess or None
        The preprocess of its pictures, if it is known.
    default : str
        The default layer.
    default_pool : str
        The default pooling.
    classifiers : tuple of str
        Modules whose tensors may be missing from a checkpoint if the layers do not need them.
    call : callable
        ``call(network, images)`` runs it.
    state : dict, optional
        Tensors to load.
    source : str
        The name of `state` in errors.
    absent : tuple of str
        Names of tensors of `network` that are missing from weights which are already loaded.
    training : dict
        The card's entry on the training.
    card : dict
        Other entries of the card.
    identity : dict
        Other values that determine the features, flat.
    classes : tuple of str
        The class names of the weights, if they are known.
    headless : str
        If `network` has no classifier, how to get one.
    """

    name: str
    architecture: str
    network: nn.Module
    preprocess: Preprocess | None
    default: str
    default_pool: str = "avg"
    classifiers: tuple[str, ...] = ()
    call: Call = call_module
    state: dict[str, Tensor] | None = None
    source: str = ""
    absent: tuple[str, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    headless: str = ""


def with_checkpoint(built: Built, weights: str | Path | None) -> Built:
    """The network, with tensors to load from `weights` if a file is given. Raises: WeightsError, see `read_state`."""
    if weights is None:
        return built
    path = Path(weights).expanduser()
    return dataclasses.replace(
        built,
        name=f"{built.architecture}@{path.name}",
        state=read_state(path),
        source=str(path),
        training={"weights": path.name},
    )


def is_untrained(model: str, weights: str | Path | None) -> bool:
    """Whether a model's name specifies random weights. Raises: ArgumentError if a checkpoint is given too."""
    if model.startswith(UNTRAINED) and weights is not None:
        raise ArgumentError(f"weights must not be given for {model}, whose weights are random; got {str(weights)!r}")
    return model.startswith(UNTRAINED)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the creation of random weights, then restore the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def chosen_preprocess(
    built: Built,
    image_size: int | None,
    fit: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    decode: str | None = None,
) -> Preprocess:
    """The model's own preprocess, with the user's choices in its place. Raises: BackendError if none is known."""
    numbers: dict[str, Any] = {key: values for key, values in (("mean", mean), ("std", std)) if values is not None}
    if built.preprocess is not None:
        return dataclasses.replace(built.preprocess.changed(image_size, fit, decode), **numbers)
    if image_size is None or len(numbers) < 2:
        lacking = [key for key, value in (("image_size", image_size), ("mean", mean), ("std", std)) if value is None]
        raise BackendError(
            f"{built.name}: the preprocessing of this model is unknown",
            f"give {' and '.join(f'`{key}`' for key in lacking)} (and `fit`)",
        )
    return dataclasses.replace(Preprocess().changed(image_size, fit, decode), **numbers)


@contextmanager
def network_errors(name: str, size: int, height: int | None = None, *, by: str = "image_size") -> Iterator[None]:
    """Turn any exception of a network's own code into a BackendError, except this package's errors and lack of memory.

    `size` is the width of its images, and by default their height; `by` is the parameter that determines the size.
    """
    try:
        yield
    except (L2AError, ArgumentError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # other people's code may raise anything
        # Not the network's fault: a lack of memory, or a decoding process that has just ended.
        if ("alloc" in str(error) and "memory" in str(error)) or "DataLoader worker" in str(error):
            raise
        raise BackendError(
            f"{name}: its own code failed on pictures of {size} × {height or size} pixels: {type(error).__name__}: "
            f"{first_line(error)}",
            f"it must accept float32 images (B, 3, H, W); it may need another `{by}`",
        ) from error


class ModuleBackend(TorchBackend):
    """Pooled layers of another library's network, in evaluation mode and without gradients.

    Parameters
    ----------
    kind : str
        The name of the backend, as registered.
    model : str or nn.Module
        The model as it was given. Another process uses it to open a copy.
    built : Built
        The network.
    options : dict
        The values of `BACKBONE_OPTIONS`.

    Raises
    ------
    UnknownNameError, ArgumentError
        For an invalid layer, pool or number.
    BackendError
        If a layer does not return a tensor, if the number of features depends on the image, or if the model's
        preprocessing is unknown.
    WeightsError
        If a checkpoint does not match the network.
    """

    compiled = None  # type: ignore[assignment]  # a network of another library may not run through torch.compile

    def __init__(self, kind: str, model: str | nn.Module, built: Built, options: dict[str, Any]) -> None:
        self.name, self.tap = kind, "ga"
        self.partners, self.map_levels = 0, ()
        self.device = choose_device(options["device"]).type
        self.precision = extraction_precision(options["precision"], self.device)
        asked = (options[key] for key in ("image_size", "fit", "mean", "std", "decode"))
        self.preprocess = chosen_preprocess(built, *asked)
        layers = tuple(options["layer"] or (built.default,))
        pool = options["pool"] or built.default_pool
        check_pool(pool)
        self._model: Any = built.network.eval().requires_grad_(False)
        self._hooked = Hooked(self._model, built.call, layers, (pool,) * len(layers))
        self._built = dataclasses.replace(built, state=None)
        self._label, self._formats = built.name, torch.contiguous_format
        self._again = (model if isinstance(model, str) else self._model, options)
        self._runs: dict[str, int] | None = None
        self._statistics = self.preprocess.statistics("cpu")
        widths, order = self._probe()
        self.levels = level_columns(widths, None)
        unused = [name for name in built.classifiers if not self._hooked.uses(name, order)]
        absent = built.absent
        if built.state is not None:
            absent = load_state(self._model, built.state, built.source, unused)
        elif needed := [name for name in absent if not name.startswith(tuple(f"{part}." for part in unused))]:
            raise BackendError(
                f"{built.name}: its weights lack {', '.join(needed[:4])}, which the features need",
                "choose another `layer`, or weights that contain them",
            )
        self._weights, self._identity = state_sha256(self._model, absent), {**built.identity, "pool": pool}
        self.card: dict[str, Any] = {
            "name": built.name,
            "config": {"architecture": built.architecture, "layers": list(layers), "pool": pool},
            "preprocess": self.preprocess.to_json(),
            "parameters": sum(parameter.numel() for parameter in self._model.parameters()),
            "training": built.training,
            "weights_sha256": self._weights,
            **built.card,
        }
        self._model.to(self.device)
        self._statistics = self.preprocess.statistics(self.device)
        self._choose_format()

    def _probe(self) -> tuple[dict[str, int], list[str]]:
        """The width of each layer, and the order of events; also records how often layers run. Raises: BackendError."""
        size = self.preprocess.size
        with network_errors(self._label, size), torch.inference_mode():
            found, order = self._hooked.features(self._normalized(torch.from_numpy(probe_pixels(2, size))))
            self._runs = {name: order.count(name) for name in self._hooked.layers}
            black, _ = self._hooked.features(self._normalized(torch.zeros(3, 3, size, size, dtype=torch.uint8)))
            alone, _ = self._hooked.features(self._normalized(torch.from_numpy(probe_pixels(2, size)[:1])))
        widths = {name: values.shape[1] for name, values in found.items()}
        self._check_widths(black, widths)
        self._check_widths(alone, widths)
        exact = all(parameter.dtype == torch.float32 for parameter in self._model.parameters())
        check_same(self._label, found, alone, exact=exact)
        return widths, order

    def _check_widths(self, found: dict[str, Tensor], widths: dict[str, int]) -> None:
        for name, values in found.items():
            if values.shape[1] != widths[name]:
                raise BackendError(
                    f"{self._label}: the layer {name!r} returns {values.shape[1]:,} numbers for some images and "
                    f"{widths[name]:,} for others of the same size, so they cannot be used as features",
                    "use `pool='avg'`, or choose another `layer`",
                )

    def _normalized(self, images_u8: Tensor) -> Tensor:
        return normalize(images_u8, *self._statistics).contiguous(memory_format=self._formats)

    def _choose_format(self) -> None:
        """Use channels last, which is faster, if the network supports it; code that calls `view` may not."""
        if any(parameter.ndim == 5 for parameter in self._model.parameters()):
            return
        self._formats = torch.channels_last
        self._model.to(memory_format=torch.channels_last)
        try:
            self.features(probe_pixels(2, self.preprocess.size))
        except BackendError:
            self._formats = torch.contiguous_format
            self._model.to(memory_format=torch.contiguous_format)

    def _forward(self, images_u8: Tensor, *, attention: bool) -> tuple[Tensor, dict[str, Tensor]]:
        if len(images_u8) == 0:
            return torch.zeros(0, self.levels[-1][2], device=images_u8.device), {}
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        with (
            network_errors(self._label, self.preprocess.size),
            torch.inference_mode(),
            ieee_float32(),
            torch.autocast(self.device, dtype, enabled=self.precision != "fp32"),
        ):
            found, _ = self._hooked.features(self._normalized(images_u8), self._runs)
            self._check_widths(found, {name: stop - start for name, start, stop in self.levels})
            return torch.cat(list(found.values()), dim=1), {}  # (B, D)

    def classifier(self) -> tuple[nn.Module, tuple[str, ...], int]:
        """The network itself, the names of its classes if they are known, and the number of classes K.

        It returns logits (B, K) for normalized images (B, 3, H, W). Raises: BackendError if it has no classifier.
        """
        if self._built.headless:
            raise BackendError(
                f"{self._label}: it was opened without its classifier, so no class can be explained",
                self._built.headless,
            )
        size = self.preprocess.size
        with network_errors(self._label, size), torch.inference_mode():
            logits = self._model(self._normalized(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=self.device)))
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise BackendError(f"{self._label}: must return logits (B, K) to be explained, got {got}")
        K = logits.shape[1]
        return self._model, self._built.classes if len(self._built.classes) == K else (), K

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), **self._identity}

    def __reduce__(self) -> tuple[Any, ...]:
        model, options = self._again
        return _open_again, (model, {**options, "device": self.device, "precision": self.precision}, self._weights)


def _open_again(model: str | nn.Module, options: dict[str, Any], sha256: str) -> Any:
    """Open the same backend in another process. Raises: BackendError if the weights there are different."""
    from l2a_transfer.features.backends.registry import open_backend

    backend: Any = open_backend(model, **options)
    if backend.card["weights_sha256"] != sha256:
        raise BackendError(
            f"{backend.card['name']}: its weights in this process or on this machine differ from those at the start"
        )
    return backend
