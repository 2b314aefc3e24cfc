"""Local features of any network: levels of our networks, modules by name of any other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from l2a_transfer.errors import BackendError, unknown_name
from l2a_transfer.models.interface import Attended, Network

WEIGHTS = "parametrizations"
"""Name under which PyTorch keeps the modules that compute a layer's weights."""
ROUNDED = 1e-2
"""Largest deviation from 1 of a sum of attention weights, for bfloat16."""


def default_levels(model: nn.Module, images: Tensor) -> tuple[str, ...]:
    """The levels that a method explains by default.

    For our networks, those that the classifier uses; for any other, the last module without children whose output is a
    map (B, C, h, w) with more than one position.

    Raises
    ------
    BackendError
        For a network without such a module.
    """
    if isinstance(model, Network):
        return tuple(dict.fromkeys(spec.level for spec in model.config.maps)) or ("L3",)
    last = ""

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal last
            if is_map(output, images[:1]) and output[0, 0].numel() > 1:
                last = name

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in model.named_modules() if _is_leaf(name, m)]
    try:
        with torch.no_grad():
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        raise BackendError(
            f"{type(model).__name__} has no layer with maps (B, C, h, w)",
            "use layers with maps, or another method",
        )
    return (last,)


def _is_leaf(name: str, module: nn.Module) -> bool:
    """Whether a module has no children except those that compute its weights, and is not one of these itself."""
    children = {child for child, _ in module.named_children()}
    return not children - {WEIGHTS} and WEIGHTS not in name.split(".")


def is_map(output: object, images: Tensor) -> bool:
    """Whether a layer's output is a map (B, C, h, w) of images (B, 3, H, W): about the same aspect ratio, and not
    larger.

    Queries and keys of a transformer (B, heads, T, C) are not maps, nor are attention weights (B, heads, T, T), whose
    rows sum to 1.
    """
    if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != len(images):
        return False
    (h, w), (H, W) = output.shape[2:], images.shape[2:]
    if h == w > 1 and bool(((output.detach().sum(dim=-1) - 1).abs() < ROUNDED).all()):
        return False
    return abs(h * W - w * H) <= max(H, W) + h * W / 4 and h <= H and w <= W  # allows for rounding or cropped borders


def attended(model: nn.Module, images: Tensor) -> Attended:
    """The forward pass of one of our networks with all intermediate results. Raises: BackendError for any other
    network."""
    if not isinstance(model, Network):
        raise BackendError(
            f"{type(model).__name__} is not an attention network of l2a_transfer, so it has no such maps",
            "use a method for any network, such as grad-cam",
        )
    return model.attend(images)


@contextmanager
def input_kept(model: nn.Module | None) -> Iterator[None]:
    """While active, a third-party network computes on a copy of its images: its code may write into them, and they are
    used again."""
    if model is None or isinstance(model, Network):
        yield
        return

    def copies(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(one.clone() if isinstance(one, Tensor) else one for one in args)

    handle = model.register_forward_pre_hook(copies)
    try:
        yield
    finally:
        handle.remove()


def fast_layout(model: nn.Module, images: Tensor) -> Tensor:
    """The images in the fastest memory layout for one of our networks; the values are the same.

    On a CPU this is channels last: 12 to 25 % more images per second. Sums are rounded differently, so for some images
    a ReLU near zero switches and the gradient jumps. A single gradient therefore keeps its layout.
    """
    if isinstance(model, Network) and images.device.type == "cpu":
        return images.contiguous(memory_format=torch.channels_last)
    return images


def local_features(model: nn.Module, images: Tensor, levels: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and the local features of `levels`, from one forward pass.

    Parameters
    ----------
    model : nn.Module
        A network of l2a_transfer, or any module that returns logits (B, K); its hooks are restored.
    images : Tensor (B, 3, H, W)
        Normalised images.
    levels : sequence of str
        L1, L2 or L3 of our networks; names of modules from `named_modules` of any other.

    Returns
    -------
    logits : Tensor (B, K)
    local : dict of str to Tensor (B, C, h, w)
        In the order of `levels`. The graph from them to the logits is kept, so gradients can be taken.

    Raises
    ------
    UnknownNameError
        For a level that the network does not have.
    BackendError
        For a layer that is not used, or whose output is not a map.
    """
    if isinstance(model, Network):
        found = model.attend(images)
        for level in levels:
            if level not in found.local:
                raise unknown_name("level", level, tuple(found.local))
        return found.logits, {level: found.local[level] for level in levels}
    modules = dict(model.named_modules())
    for level in levels:
        if level not in modules or not level:
            raise unknown_name("layer", level, tuple(name for name in modules if name))
    kept: dict[str, Tensor] = {}

    def keep(level: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            kept[level] = output
            # Later layers may work in place, such as a ReLU or a residual connection; they get the copy.
            return output.clone() if isinstance(output, Tensor) else output

        return hook

    handles = [modules[level].register_forward_hook(keep(level)) for level in dict.fromkeys(levels)]
    try:
        logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    for level in levels:
        if level not in kept:
            raise BackendError(f"{type(model).__name__} does not use its layer {level!r}", "name another layer")
        if not is_map(kept[level], images):
            got = tuple(kept[level].shape) if isinstance(kept[level], Tensor) else type(kept[level]).__name__
            raise BackendError(
                f"the layer {level!r} of {type(model).__name__} has no maps (B, C, h, w); it returns {got}",
                "name another layer",
            )
    return logits, {level: kept[level] for level in levels}


def differentiable(model: nn.Module, images: Tensor, levels: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """As `local_features`, for gradients of the logits with respect to the local features only.

    For L3 alone, no graph of the convolutions is kept: 10 % more images per second, and less memory.
    """
    if isinstance(model, Network) and model.local_steps() and set(levels) == {"L3"}:
        with torch.no_grad():
            found = model.attend(images)
        last = found.local["L3"].requires_grad_()
        logits = model.attend_from({**found.local, "L3": last}).logits
        if agree(logits, found.logits):
            return logits, {"L3": last}
    # If all parameters are frozen, only the input can require a gradient.
    return local_features(model, images.detach().requires_grad_(), levels)


def agree(logits: Tensor, expected: Tensor) -> bool:
    """Whether logits are equal up to rounding: a subclass may attend differently from its steps, or a hook may change a
    layer's output."""
    return torch.allclose(logits, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def class_score(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over images of the logit of each image's class; as images are independent, its gradient is that of each
    image."""
    return logits.gather(1, targets[:, None]).sum()
