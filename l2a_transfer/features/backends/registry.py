"""Which backend takes a model's name, and the one function that opens it; a backend registers by decorator."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from l2a_transfer.devices import check_precision
from l2a_transfer.errors import BackendError, unknown_name, wrong_kind
from l2a_transfer.features.backends.interface import TAPS, FeatureBackend
from l2a_transfer.registry import Registry, require_package

BACKEND_OPTIONS = ("device", "precision", "tap", "levels", "seed")
"""What a backend may let its user choose: parameters of `open_backend` that its opener may take."""
DEFAULT_BACKEND = "torch"
"""Takes each name that no other backend takes, so that a misspelt one gets the nearest names of weights."""
UNSET: dict[str, tuple[object, ...]] = {
    "device": ("auto", "cpu"),
    "precision": ("auto", "fp32"),
    "tap": ("ga",),
    "levels": (None,),
}
"""Values of options that are right for a backend that does not take them. `seed` decides untrained weights alone."""

Opener = TypeVar("Opener", bound=Callable[..., FeatureBackend])


@dataclass(frozen=True)
class BackendSpec:
    """A way to compute features, and the names of models that it takes.

    Parameters
    ----------
    name : str
        What `backend` calls it.
    open : callable
        ``open(model, **options)`` gives the backend for a model's name.
    models : str
        The names that it takes, as help and errors show them: ``"FILE.onnx"``.
    names, prefixes, suffixes : tuple of str
        A model is this backend's where its whole name, its beginning or its end is among them.
    options : tuple of str
        Those of `BACKEND_OPTIONS` that `open` takes; any other value of the rest than the default is an error.
    package, extra : str
        The optional package that it imports, and the extra of this package that installs it.
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


REGISTERED_BACKENDS: Registry[BackendSpec] = Registry(
    "backend",
    "l2a_transfer.features.backends.torch",
    "l2a_transfer.features.backends.onnx",
    "l2a_transfer.features.backends.pixels",
)


class _Choices(Collection[str]):
    """The values of `backend`: "auto", and the names in the registry, which is read when these are asked for."""

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
) -> Callable[[Opener], Opener]:
    """Register the decorated function as the opener of a backend; for the parameters, see `BackendSpec`."""

    def register(opener: Opener) -> Opener:
        spec = BackendSpec(name, opener, models, names, prefixes, suffixes, options, package, extra)
        REGISTERED_BACKENDS.add(name, spec, home=opener.__module__)
        return opener

    return register


def backend_for(model: str) -> BackendSpec:
    """The backend that takes a model's name: by the whole name, else its beginning, else its end, else the default."""
    specs = tuple(REGISTERED_BACKENDS.values())
    found = [spec for spec in specs if model in spec.names]
    found += [spec for spec in specs if model.startswith(spec.prefixes)]
    found += [spec for spec in specs if model.endswith(spec.suffixes)]
    return found[0] if found else REGISTERED_BACKENDS[DEFAULT_BACKEND]


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
    """Open what computes a model's features.

    Parameters
    ----------
    model : str or Path
        Weights (a bundled name, a `.safetensors` file, or ``untrained:ARCH[@WIDTH]``), an `.onnx` file that
        ``l2a-transfer export`` wrote, ``pixels``, or a name that an installed plugin takes.
    backend : str
        What computes: "auto" is the backend that takes the model's name.
    device : {"auto", "cpu", "cuda"}
        Where it computes.
    precision : {"auto", "fp32", "bf16", "fp16"}
        What it multiplies in; "auto" is fp32.
    tap : {"ga", "ga-bn-relu"}
        Attended features as they are, or as the classifier sees them.
    levels : sequence of str, optional
        The levels whose features are kept; all by default.
    seed : int
        Seed of untrained weights.

    Returns
    -------
    FeatureBackend
        Pixels, uint8 (B, 3, size, size), in; features, float32 (B, D), out.

    Raises
    ------
    UnknownNameError
        For the name of a model, backend, tap, precision or level that does not exist, with the nearest.
    WeightsError, BackendError, DeviceError
        For a file that is damaged, and for what cannot run here.
    MissingExtraError
        For a backend that needs a package that is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> backend = open_backend("untrained:vgg-att2-concat-pc@0.0625", device="cpu")
    >>> backend.features(np.zeros((2, 3, 32, 32), dtype=np.uint8)).shape
    (2, 64)
    """
    if not isinstance(model, (str, Path)):
        raise wrong_kind("model", "a model's name, or a path to .safetensors or .onnx", model)
    model = os.path.expanduser(model)
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if tap not in TAPS:
        raise unknown_name("tap", tap, TAPS)
    check_precision(precision)
    spec = backend_for(model)
    if backend not in ("auto", spec.name):
        raise BackendError(
            f"{model}: runs in {spec.name}; {backend} takes {REGISTERED_BACKENDS[backend].models}",
            f"use `backend='{spec.name}'`",
        )
    given: dict[str, Any] = {"device": device, "precision": precision, "tap": tap, "levels": levels, "seed": seed}
    refused = [f"`{name}`" for name, values in UNSET.items() if name not in spec.options and given[name] not in values]
    if refused:
        raise BackendError(f"{model}: {spec.name} has no such option", f"leave out {' and '.join(refused)}")
    if spec.package:
        require_package(model, spec.package, spec.extra)
    return spec.open(model, **{name: given[name] for name in spec.options})
