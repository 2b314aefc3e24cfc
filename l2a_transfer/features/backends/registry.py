"""Find the backend for a model's name and open it. Backends register with a decorator."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from l2a_transfer.devices import check_precision
from l2a_transfer.errors import (
    ArgumentError,
    BackendError,
    UnknownNameError,
    names_keywords,
    unknown_name,
    wrong_kind,
)
from l2a_transfer.features.backends.interface import TAPS, FeatureBackend, Layer, is_backend
from l2a_transfer.registry import Registry, require_package

if TYPE_CHECKING:
    from torch import nn

    from l2a_transfer.models.interface import Network
    from l2a_transfer.models.weights import Card

BACKEND_OPTIONS = ("device", "precision", "tap", "levels", "seed", "image_size", "fit", "decode")
"""Options of the backends of this package's networks."""
BACKBONE_OPTIONS = (
    *("device", "precision", "seed", "layer", "pool"),
    *("image_size", "fit", "decode", "mean", "std", "weights", "download"),
)
"""Options of the backends of other networks. Both are parameters of `open_backend`."""
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin", ".tar")
"""File extensions of PyTorch's checkpoints."""
DEFAULT_BACKEND = "torch"
"""The backend for names that no other backend accepts, so that a misspelled one gets the nearest names of weights."""
UNSET: dict[str, tuple[object, ...]] = {
    "device": ("auto", "cpu"),
    "precision": ("auto", "fp32"),
    "tap": ("ga",),
    "levels": (None,),
    **dict.fromkeys(("layer", "pool", "image_size", "fit", "decode", "mean", "std", "weights"), (None,)),
}
"""Values of options that are allowed for a backend without these options. `seed` only affects untrained weights, and
`download` permits something that may not be needed."""

Opener = TypeVar("Opener", bound=Callable[..., FeatureBackend])


@dataclass(frozen=True)
class BackendSpec:
    """A way to compute features, and the names of models that it accepts.

    Parameters
    ----------
    name : str
        Its name in `backend`.
    open : callable
        ``open(model, **options)`` returns the backend for a model's name.
    models : str
        The names that it accepts, for help and errors: ``"FILE.onnx"``.
    names, prefixes, suffixes : tuple of str
        A model belongs to this backend if its whole name, its beginning or its end is among them.
    options : tuple of str
        The `BACKEND_OPTIONS` and `BACKBONE_OPTIONS` that `open` accepts. For all others, values other than the default
        are an error.
    package, extra : str
        The optional package that it imports, and the extra of this package that installs it.
    wrap : callable, optional
        ``wrap(network, card, **options)`` returns the backend for a network in memory, without `seed`. The card is None
        for networks of other libraries.
    layers : callable, optional
        ``layers(model, image_size)`` returns a `Layer` for each module that the option `layer` can name.
    """

    name: str
    open: Callable[..., FeatureBackend]
    models: str
    names: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    package: str = ""
    extra: str = ""
    wrap: Callable[..., FeatureBackend] | None = None
    layers: Callable[[str, int | None], Sequence[Layer]] | None = None


REGISTERED_BACKENDS: Registry[BackendSpec] = Registry(
    "backend",
    "l2a_transfer.features.backends.torch",
    "l2a_transfer.features.backends.onnx",
    "l2a_transfer.features.backends.pixels",
    "l2a_transfer.features.backends.torchvision",
    "l2a_transfer.features.backends.timm",
    "l2a_transfer.features.backends.hf",
    "l2a_transfer.features.backends.user_module",
    "l2a_transfer.features.backends.any_onnx",
)


class _Choices(Collection[str]):
    """The values of `backend`: "auto" and the names in the registry, which is read only when they are needed."""

    def __iter__(self) -> Iterator[str]:
        yield "auto"
        yield from REGISTERED_BACKENDS

    def __contains__(self, name: object) -> bool:
        return name == "auto" or name in REGISTERED_BACKENDS

    def __len__(self) -> int:
        return 1 + len(REGISTERED_BACKENDS)


BACKENDS = _Choices()


def register_backend(
    name: str,
    *,
    models: str,
    names: tuple[str, ...] = (),
    prefixes: tuple[str, ...] = (),
    suffixes: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
    package: str = "",
    extra: str = "",
    wrap: Callable[..., FeatureBackend] | None = None,
    layers: Callable[[str, int | None], Sequence[Layer]] | None = None,
) -> Callable[[Opener], Opener]:
    """Register the decorated function as the opener of a backend; for the parameters, see `BackendSpec`."""

    def register(opener: Opener) -> Opener:
        spec = BackendSpec(name, opener, models, names, prefixes, suffixes, options, package, extra, wrap, layers)
        REGISTERED_BACKENDS.add(name, spec, home=opener.__module__)
        return opener

    return register


def backend_for(model: str) -> BackendSpec:
    """The backend for a model's name: chosen by the whole name, or else the longest prefix, or else the suffix, or else
    the default."""
    specs = tuple(REGISTERED_BACKENDS.values())
    found = [spec for spec in specs if model in spec.names]
    begun = [(len(prefix), spec) for spec in specs for prefix in spec.prefixes if model.startswith(prefix)]
    found += [spec for _, spec in sorted(begun, key=lambda pair: -pair[0])]
    found += [spec for spec in specs if model.endswith(spec.suffixes)]
    return found[0] if found else REGISTERED_BACKENDS[DEFAULT_BACKEND]


@names_keywords
def open_backend(
    model: str | Path | Network | tuple[Network, Card] | nn.Module | FeatureBackend,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    tap: str = "ga",
    levels: Sequence[str] | None = None,
    seed: int = 0,
    layer: Sequence[str] | None = None,
    pool: str | None = None,
    image_size: int | None = None,
    fit: str | None = None,
    decode: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights: str | Path | None = None,
    download: bool = False,
) -> FeatureBackend:
    """Open the backend that computes the features of a model.

    Parameters
    ----------
    model : str, Path, Network, (Network, Card), nn.Module or FeatureBackend
        One of these:

        - weights, as for `load_model`, which run in PyTorch
        - an `.onnx` file written by `export_onnx`, which runs in ONNX Runtime
        - `pixels`, the pixels themselves
        - another network: `torchvision:NAME`, `timm:NAME`, `hf:FOLDER`, `module:FILE.py:FUNCTION` or `onnx:FILE`;
          `untrained:` before the name gives it random weights
        - a name that an installed plugin accepts
        - a network, what `load_model` returns, or any `torch.nn.Module`. It is copied, so it is not changed, and
          changing it later does not change the features
        - an open backend, which is returned; its options cannot be changed
    backend : str, default="auto"
        The runtime: "torch", "onnxruntime", or that of an installed plugin. "auto" chooses it from the model.
    device : {"auto", "cpu", "cuda"}, default="auto"
        "auto" uses a GPU if there is one.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        "auto" is fp32, IEEE float32 without TF32.
    tap : {"ga", "ga-bn-relu", "local"}, default="ga"
        The attention outputs g_a; g_a after batch norm and ReLU, the input of the classifier; or the mean over the
        positions of the local features, which every network has at L1, L2 and L3.
    levels : sequence of str, optional
        The levels to extract, such as ["L3"]. By default, all.
    seed : int, default=0
        Random seed of untrained weights.
    layer : sequence of str, optional
        For other networks: the modules whose outputs are the features, such as ["layer3", "layer4"];
        `l2a-transfer layers` lists them. A name that ends with ":in" stands for the input of a module. Each module is a
        level. By default, the input of the classifier.
    pool : {"avg", "max", "cls", "flatten", "none"}, optional
        How to pool the positions of a layer: mean (default), maximum, first token, or all values. "none" is "flatten"
        for layers with few values.
    image_size : int, optional
        Side of the input in pixels; the model's own by default.
    fit : {"stretch", "crop"}, optional
        How to make images square: stretch them, or crop the middle; the model's own by default.
    decode : {"exact", "scaled"}, optional
        "scaled" decodes large JPEG files at a smaller scale, which gives other pixels (see `Preprocess`); the model's
        own by default.
    mean, std : sequence of float, optional
        Mean and standard deviation of each channel, for pixels between 0 and 1; the model's own by default.
    weights : str or Path, optional
        For other networks: a checkpoint, `.safetensors` or `.pth`. Only numbers are read from it.
    download : bool, default=False
        Download published weights that are not on this machine.

    Returns
    -------
    FeatureBackend
        `backend.features` takes uint8 pixels (B, 3, size, size) and returns float32 (B, D).

    Raises
    ------
    UnknownNameError
        For an unknown model, backend, tap, precision or level; the message suggests the nearest name.
    WeightsError, BackendError, DeviceError
        If a file is corrupt, or if the model cannot run on this machine.
    MissingExtraError
        If the backend needs a package that is not installed.

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
        chosen = (layer, pool, image_size, fit, decode, mean, std, weights)
        if (backend, device, precision, tap, levels) != ("auto", "auto", "auto", "ga", None) or any(
            value is not None for value in chosen
        ):
            raise ArgumentError("model must be a name or a network if options are given; this backend is already open")
        return model
    if tap not in TAPS:
        raise unknown_name("tap", tap, TAPS)
    check_precision(precision)
    if isinstance(layer, str):
        raise wrong_kind("layer", f"a list of names, such as [{layer!r}]", layer)
    given: dict[str, Any] = {"device": device, "precision": precision, "tap": tap, "levels": levels, "seed": seed}
    mean, std = _channels("mean", mean), _channels("std", std)
    given |= {"layer": layer, "pool": pool, "image_size": image_size, "fit": fit, "decode": decode}
    given |= {"mean": mean, "std": std, "weights": weights, "download": download}
    if not isinstance(model, (str, Path)):
        from torch import nn

        from l2a_transfer.models.interface import Network
        from l2a_transfer.models.loading import as_network

        if isinstance(model, nn.Module) and not isinstance(model, Network):
            spec = REGISTERED_BACKENDS["module"]
            _refuse_others(type(model).__name__, spec, given)
            assert spec.wrap is not None
            return spec.wrap(model, None, **{name: given[name] for name in spec.options})
        network, card = as_network(model, seed=seed)
        spec = REGISTERED_BACKENDS[DEFAULT_BACKEND if backend == "auto" else backend]
        if spec.wrap is None:
            raise BackendError(f"{card.name}: {spec.name} accepts {spec.models}, but not a network in memory")
        _refuse_others(card.name, spec, given)
        taken = {name: given[name] for name in spec.options if name != "seed"}
        return spec.wrap(network, card, **taken)
    model = os.path.expanduser(model)
    spec = backend_for(model)
    if backend not in ("auto", spec.name):
        raise BackendError(
            f"{model}: runs in {spec.name}; {backend} accepts {REGISTERED_BACKENDS[backend].models}",
            f"leave out `backend`, or use `backend='{spec.name}'`",
        )
    if spec.name == DEFAULT_BACKEND and model.endswith(CHECKPOINTS):
        raise UnknownNameError(
            f"{model}: a PyTorch checkpoint, which does not say what network it is of",
            "name its network, such as torchvision:resnet18, and pass the file as `weights`",
        )
    _refuse_others(model, spec, given)
    if spec.package:
        require_package(model, spec.package, spec.extra)
    try:
        return spec.open(model, **{name: given[name] for name in spec.options})
    except UnknownNameError as error:
        if error.remedy or spec.name != DEFAULT_BACKEND or not re.fullmatch(r"\w+", model):
            raise
        raise UnknownNameError(
            error.problem, f"networks of other libraries have a prefix: {_prefixed(model)}"
        ) from error


def _prefixed(model: str) -> str:
    """The names of such a model in other libraries."""
    return f"torchvision:{model}, timm:{model} or hf:{model}"


def _channels(name: str, values: Sequence[float] | None) -> tuple[float, float, float] | None:
    """Check one number per channel. Raises: TypeError; ArgumentError if there are not three."""
    if values is None:
        return None
    if isinstance(values, (str, int, float)):
        raise wrong_kind(name, "three numbers, one for each channel", values)
    if len(values) != 3:
        raise ArgumentError(f"{name} must be three numbers, one for each channel; got {len(values)}")
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _refuse_others(model: str, spec: BackendSpec, given: dict[str, Any]) -> None:
    """Raises: BackendError if options are given that the backend does not have."""
    refused = [f"`{name}`" for name, values in UNSET.items() if name not in spec.options and given[name] not in values]
    if refused:
        remedy = f"leave out {' and '.join(refused)}"
        if spec.name == DEFAULT_BACKEND and re.fullmatch(r"\w+", model):
            remedy = f"networks of other libraries have a prefix: {_prefixed(model)}; otherwise {remedy}"
        raise BackendError(f"{model}: {spec.name} has no such option", remedy)
