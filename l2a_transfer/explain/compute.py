"""The maps of a batch by any method: the part common to all methods, from normalised images to validated arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import ArgumentError, BackendError, PluginError, wrong_kind
from l2a_transfer.explain.registry import DEFAULT_METHOD, METHODS, MapKind, MapMethod
from l2a_transfer.memory import usable_memory
from l2a_transfer.wording import first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

SMALL = 128 << 20
"""Memory in bytes that is used without checking how much is available."""
MOST_OF_A_VALUE = 8192
"""Upper bound of the bytes that a network keeps per input value; at the paper's width, it is 4,800."""
MEASURED_AT = 32
"""Side of the image used to measure this."""
WITHOUT_GRADIENT = 4
"""Memory kept for a gradient, relative to that of a pass without one."""
BESIDE = 2
"""Peak memory of a method, relative to that kept for a gradient."""


@dataclass(frozen=True)
class MapBatch:
    """The maps of B images by one method.

    Parameters
    ----------
    method : str
        Name of the method.
    maps : dict of str to ndarray
        Name → float32 (B, h, w).
    kinds : dict of str to str
        Name → "signed", "non-negative" or "distribution".
    targets : ndarray or None
        The class that each map explains, int64 (B,); None for a method that is not class-specific.
    """

    method: str
    maps: dict[str, NDArray[np.float32]]
    kinds: dict[str, MapKind]
    targets: NDArray[np.int64] | None = None


def map_batch(
    model: nn.Module,
    images: Tensor,
    *,
    method: str = DEFAULT_METHOD,
    targets: Tensor | Sequence[int] | None = None,
    levels: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> MapBatch:
    """Compute the maps of images with one of the registered methods.

    Parameters
    ----------
    model : nn.Module
        A network of l2a_transfer, or for methods that need no attention, any module that returns logits (B, K). Its
        mode, hooks, parameters and their gradients are not changed.
    images : Tensor (B, 3, H, W)
        Normalised images on the device of the model. A batch that does not fit into memory is split.
    method : str, default="attention"
        A name in `METHODS`.
    targets : Tensor or sequence of int, optional
        The class of each image that a class-specific method explains; by default, the predicted one.
    levels : sequence of str, optional
        For methods with maps of several levels: L1, L2 or L3 of our networks, or module names of any other. By default,
        those that the classifier uses, or the last module with maps.
    options : mapping, optional
        Options of the method, such as ``{"window": 16}`` for occlusion.

    Returns
    -------
    MapBatch

    Raises
    ------
    UnknownNameError
        For an unknown method, level or option.
    ArgumentError
        For a class that the network does not have, or a value that a method does not support.
    BackendError
        If the network has no such maps, or if their values are not finite.

    Examples
    --------
    >>> import torch
    >>> from l2a_transfer.models.loading import load_model
    >>> network, card = load_model("untrained:vgg-att2-concat-pc@0.0625")
    >>> found = map_batch(network, torch.zeros(2, 3, 32, 32), method="grad-cam", targets=[0, 3])
    >>> {level: maps.shape for level, maps in found.maps.items()}
    {'L2': (2, 16, 16), 'L3': (2, 8, 8)}
    """
    import torch

    from l2a_transfer.models.copies import in_evaluation

    spec = METHODS.find(method)
    if not isinstance(model, torch.nn.Module):
        raise wrong_kind("model", "a network, such as the first value returned by load_model(NAME)", model)
    given = spec.checked_options(dict(options or {}))
    if levels and not spec.per_level:
        raise ArgumentError(f"levels are for methods with a map per level; {method} has one map of the input")
    if targets is not None and not spec.class_specific:
        raise ArgumentError(f"targets are for methods that explain one class; {method} does not", "omit them")
    model = in_evaluation(model)
    classes = _targets(model, images, targets) if spec.class_specific else None

    def compute(some: Tensor, of: Tensor | None) -> dict[str, Tensor]:
        arguments: tuple[Any, ...] = (model, some) if of is None else (model, some, of)
        keywords = {**given, "levels": tuple(levels)} if spec.per_level else given
        with torch.set_grad_enabled(spec.gradients), _method_errors(model, spec):
            found = spec.compute(*arguments, **keywords)
        return {name: values.detach().float().cpu() for name, values in found.items()}

    maps = {
        name: values.numpy()
        for name, values in split_to_fit(compute, images, classes, model=model, gradients=spec.gradients).items()
    }
    _check(spec, maps, len(images))
    kinds = {name: kind_of(spec, model, name) for name in maps}
    return MapBatch(method, maps, kinds, None if classes is None else classes.cpu().numpy())


@contextmanager
def _method_errors(model: nn.Module, spec: MapMethod) -> Iterator[None]:
    """Raise errors of PyTorch for third-party networks that a method cannot handle as BackendError."""
    from l2a_transfer.models.interface import Network

    try:
        yield
    except RuntimeError as error:
        if isinstance(model, Network) or out_of_memory(error):
            raise
        raise BackendError(
            f"{type(model).__name__}: {spec.name} failed: {first_line(error)}",
            "it needs a differentiable network; use occlusion" if spec.gradients else "",
        ) from error


def kind_of(spec: MapMethod, model: nn.Module, name: str) -> MapKind:
    """The kind of a map: attention is a distribution if the network's weights sum to 1."""
    if spec.name == DEFAULT_METHOD:
        for own in getattr(model, "config").maps:  # noqa: B009 - only a Network has attention
            if own.name == name and own.kind == "distribution":
                return "distribution"
    return spec.kind


def split_to_fit(
    compute: Callable[[Tensor, Tensor | None], dict[str, Tensor]],
    images: Tensor,
    targets: Tensor | None,
    *,
    model: nn.Module | None = None,
    gradients: bool = False,
) -> dict[str, Tensor]:
    """Apply `compute` to the whole batch, or if memory does not suffice, to smaller batches, down to single images.

    A GPU reports a lack of memory. On a CPU, the kernel kills the process instead, so the memory needed by one of our
    networks, `model`, is estimated first; it is larger if `compute` takes gradients.

    Raises: BackendError if a single image does not fit.
    """
    from l2a_transfer.explain.layers import input_kept

    each = 0 if model is None else kept_bytes(model, images) // (1 if gradients else WITHOUT_GRADIENT)
    at_once = len(images)
    if each * at_once > SMALL:
        usable = usable_memory()
        if each > usable:
            raise _too_large(images)
        at_once = min(at_once, max(1, usable // (BESIDE * each)))
    with input_kept(model):
        if at_once == len(images):
            try:
                return compute(images, targets)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if len(images) == 1:
                    raise _too_large(images) from error
            at_once = -(-len(images) // 2)
        return _joined(compute, images, targets, at_once)


def _joined(
    compute: Callable[[Tensor, Tensor | None], dict[str, Tensor]], images: Tensor, targets: Tensor | None, at_once: int
) -> dict[str, Tensor]:
    """Apply `split_to_fit` to batches of `at_once` images."""
    import torch

    places = [slice(k, k + at_once) for k in range(0, len(images), at_once)]
    parts = [split_to_fit(compute, images[own], None if targets is None else targets[own]) for own in places]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _too_large(images: Tensor) -> BackendError:
    size = " × ".join(str(n) for n in images.shape[:1:-1])
    return BackendError(f"the maps of one image of {size} pixels do not fit into memory", "use a smaller `side`")


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that one of our networks keeps of one image (B, 3, H, W) for its gradient on a CPU; otherwise 0.

    They are proportional to the number of pixels, and measured once per network on a small image; small batches return
    0.
    """
    from l2a_transfer.models.interface import Network

    if images.device.type != "cpu" or images.ndim != 4 or images.numel() * MOST_OF_A_VALUE < SMALL:
        return 0
    if not isinstance(model, Network) or model.partners != model.config.partners:  # fixed partners have one size
        return 0
    side = max(model.config.min_size, MEASURED_AT)
    if model not in _MEASURED:
        _MEASURED[model] = _kept_bytes_of(model, side)
    return _MEASURED[model] * images.shape[2] * images.shape[3] // side**2


_MEASURED: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def _kept_bytes_of(model: nn.Module, side: int) -> int:
    """Bytes that a network keeps of one image of `side` × `side` pixels, in its own precision."""
    import torch

    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(torch.zeros(1, 3, side, side, dtype=next(model.parameters()).dtype).requires_grad_())
    of_pixels = sum(count for place, count in kept.items() if place not in own)
    del logits
    return of_pixels


def out_of_memory(error: BaseException) -> bool:
    """Whether an error reports a lack of memory, on the machine or a GPU."""
    import torch

    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


def _targets(model: nn.Module, images: Tensor, given: Tensor | Sequence[int] | None) -> Tensor:
    """The class of each image. Raises: ArgumentError for a class that the network does not have, or a wrong number of
    classes."""
    import torch

    from l2a_transfer.models.interface import Network

    if given is not None and len(given) != len(images):
        raise ArgumentError(f"targets must have one entry per image, {len(images)}; got {len(given)}")
    if given is not None and isinstance(model, Network):
        K = model.config.num_classes  # known without a pass
    else:
        logits = split_to_fit(lambda some, _: {"logits": _no_grad(model, some)}, images, None, model=model)["logits"]
        if logits.ndim != 2:
            raise BackendError(f"the network must give logits (B, K), got {tuple(logits.shape)}")
        if given is None:
            return logits.argmax(dim=1)
        K = logits.shape[1]
    classes = torch.as_tensor(given, dtype=torch.int64, device=images.device)
    for own in classes.tolist():
        if not 0 <= own < K:
            raise ArgumentError(f"target must be between 0 and {K - 1}, got {own}")
    return classes


def _no_grad(model: nn.Module, images: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        logits: Tensor = model(images)
    return logits


def _check(spec: MapMethod, maps: Mapping[str, NDArray[np.float32]], B: int) -> None:
    """Raises: PluginError for maps that differ from the declaration, BackendError for values that are not finite."""
    if not maps:
        raise PluginError(f"the method {spec.name!r} returned no map")
    if spec.maps and (unknown := sorted(set(maps) - set(spec.maps))):
        raise PluginError(f"the method {spec.name!r} returned undeclared maps: {', '.join(unknown)}")
    if bad := [name for name, values in maps.items() if not np.isfinite(values).all()]:
        raise BackendError(f"{spec.name} that is not finite at {', '.join(bad)}", "use other weights as `model`")
    for name, values in maps.items():
        if values.ndim != 3 or len(values) != B:
            raise PluginError(f"the method {spec.name!r} returned {name} of shape {values.shape}, expected ({B}, h, w)")
        if spec.kind != "signed" and values.size and values.min() < 0:
            raise PluginError(f"the method {spec.name!r} returned negative values at {name}, but declares {spec.kind}")
