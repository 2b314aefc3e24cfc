"""Any network of PyTorch as a backend: its layers by name, pooled, with a preprocess that is its own or the user's."""

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
    """What the network gives for images, its only argument."""
    return network(images)


@dataclass(frozen=True)
class Built:
    """A network of others, as the opener of its backend made it.

    Parameters
    ----------
    name : str
        The model's name for cards and reports.
    architecture : str
        The name without that of the weights.
    network : nn.Module
        Nobody else's.
    preprocess : Preprocess or None
        How it takes pictures, where that is known.
    default : str
        The layer that is taken where none is named.
    default_pool : str
        How layers are pooled where nothing is said.
    classifiers : tuple of str
        Modules whose tensors a checkpoint may lack, where the layers do not need them.
    call : callable
        ``call(network, images)`` runs it.
    state : dict, optional
        Tensors to load, which `source` names.
    source : str
        What errors call `state`.
    absent : tuple of str
        Names of tensors that were not in the weights, which `network` has already.
    training : dict
        What the card says of the training.
    card : dict
        What else the card says.
    identity : dict
        What else decides the features, flat.
    classes : tuple of str
        The names of the classes of the weights, where they are known.
    headless : str
        Where `network` has no classifier, what to do to have one.
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
    """The network with the tensors of a file to load, where one is given. Raises: WeightsError, as `read_state`."""
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
    """Whether a model's name asks for random weights. Raises: ArgumentError if a checkpoint is given too."""
    if model.startswith(UNTRAINED) and weights is not None:
        raise ArgumentError(f"weights must not be given for {model}, whose weights are random; got {str(weights)!r}")
    return model.startswith(UNTRAINED)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random weights follow from the seed, and the global random state is as it was afterwards."""
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
    """The model's own preprocess with what the user chose in its place. Raises: BackendError if none is known."""
    numbers: dict[str, Any] = {key: values for key, values in (("mean", mean), ("std", std)) if values is not None}
    if built.preprocess is not None:
        return dataclasses.replace(built.preprocess.changed(image_size, fit, decode), **numbers)
    if image_size is None or len(numbers) < 2:
        lacking = [key for key, value in (("image_size", image_size), ("mean", mean), ("std", std)) if value is None]
        raise BackendError(
            f"{built.name}: how this model preprocesses images is not known",
            f"give {' and '.join(f'`{key}`' for key in lacking)} (and `fit`)",
        )
    return dataclasses.replace(Preprocess().changed(image_size, fit, decode), **numbers)


@contextmanager
def network_errors(name: str, size: int, height: int | None = None, *, by: str = "image_size") -> Iterator[None]:
    """Any exception of a network's own code as BackendError, but for those of this package and a lack of memory.

    `size` is the width of its images, and the height too where that is not given; `by` is the parameter that decides.
    """
    try:
        yield
    except (L2AError, ArgumentError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # code of others raises what it likes
        # No fault of the network: a lack of memory, or a decoding process that ended just now.
        if ("alloc" in str(error) and "memory" in str(error)) or "DataLoader worker" in str(error):
            raise
        raise BackendError(
            f"{name}: its own code failed on pictures of {size} × {height or size} pixels: {type(error).__name__}: "
            f"{first_line(error)}",
            f"it must take float32 images (B, 3, H, W); another `{by}` may be what it takes",
        ) from error


class ModuleBackend(TorchBackend):
    """Layers of a network of others, pooled, in evaluation mode and without gradients.

    Parameters
    ----------
    kind : str
        The name of the backend, as registered.
    model : str or nn.Module
        The model as it was given, by which a copy in another process opens it again.
    built : Built
        The network.
    options : dict
        The values of `BACKBONE_OPTIONS`.

    Raises
    ------
    UnknownNameError, ArgumentError
        For a layer, pool or number that cannot be.
    BackendError
        For a layer that gives no tensor, or features whose number depends on the image, and where nothing says how the
        model takes pictures.
    WeightsError
        For a checkpoint that does not fit.
    """

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
                "name another `layer`, or weights that have them",
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
        """The width of each layer, and the order of events; how often layers run is kept. Raises: BackendError."""
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
                    f"{self._label}: the layer {name!r} gives {values.shape[1]:,} numbers for some images and "
                    f"{widths[name]:,} for others of the same size, so they cannot be used as features",
                    "use `pool='avg'`, or name another `layer`",
                )

    def _normalized(self, images_u8: Tensor) -> Tensor:
        return normalize(images_u8, *self._statistics).contiguous(memory_format=self._formats)

    def _choose_format(self) -> None:
        """Channels last, which is faster, where the network runs so: code that calls `view` may not."""
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
        """The network itself, the names of its classes where they are known, and the number of its classes K.

        It gives logits (B, K) for normalised images (B, 3, H, W). Raises: BackendError if it has no classifier.
        """
        if self._built.headless:
            raise BackendError(
                f"{self._label}: is opened without its classifier, so no class can be explained",
                self._built.headless,
            )
        size = self.preprocess.size
        with network_errors(self._label, size), torch.inference_mode():
            logits = self._model(self._normalized(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=self.device)))
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise BackendError(f"{self._label}: must give logits (B, K) to be explained, got {got}")
        K = logits.shape[1]
        return self._model, self._built.classes if len(self._built.classes) == K else (), K

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), **self._identity}

    def __reduce__(self) -> tuple[Any, ...]:
        model, options = self._again
        return _open_again, (model, {**options, "device": self.device, "precision": self.precision}, self._weights)


def _open_again(model: str | nn.Module, options: dict[str, Any], sha256: str) -> Any:
    """The same backend in another process. Raises: BackendError if the model has other weights there."""
    from l2a_transfer.features.backends.registry import open_backend

    backend: Any = open_backend(model, **options)
    if backend.card["weights_sha256"] != sha256:
        raise BackendError(
            f"{backend.card['name']}: has other weights in this process or on this machine than where the work began"
        )
    return backend
