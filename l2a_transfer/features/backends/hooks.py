"""Layers of any network by name: their outputs for a batch of images, and a list of all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2a_transfer.errors import ArgumentError, BackendError, unknown_name
from l2a_transfer.features.backends.interface import Layer
from l2a_transfer.features.backends.pooling import pooled, tensor_of

INPUT = ":in"
"""Suffix of a module's name for its input instead of its output."""
OUTPUT = "output"
"""The name of the output of the whole network."""

Call = Callable[[nn.Module, Tensor], object]


class _AllThere(BaseException):
    """Ends a forward pass once all layers have their features. A network's own code does not catch it."""


@dataclass(frozen=True)
class Hooked:
    """A network and its requested layers.

    Parameters
    ----------
    network : nn.Module
        The network, which runs in its current mode.
    call : callable
        ``call(network, images)`` runs it.
    layers : tuple of str
        Names of modules, with the suffix `INPUT` for a module's input, or `OUTPUT`.
    pools : tuple of str
        How each layer is pooled.
    """

    network: nn.Module
    call: Call
    layers: tuple[str, ...]
    pools: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises: UnknownNameError for a layer that does not exist; ArgumentError for one that is named twice."""
        modules = dict(self.network.named_modules())
        for name in self.layers:
            if name != OUTPUT and (not name or name.removesuffix(INPUT) not in modules):
                raise unknown_name("layer", name, [OUTPUT, *filter(None, modules)])
        if len(set(self.layers)) < len(self.layers):
            raise ArgumentError(f"layer must be different names; got {', '.join(self.layers)}")

    def features(self, images: Tensor, runs: dict[str, int] | None = None) -> tuple[dict[str, Tensor], list[str]]:
        """The features of normalized images.

        If a module runs several times for an image, its last output counts.

        Parameters
        ----------
        images : Tensor, shape (B, 3, H, W)
            Normalized images.
        runs : dict, optional
            How many times each layer runs. The forward pass then ends as soon as all layers have run.

        Returns
        -------
        features : dict
            Layer → float32 (B, D).
        order : list of str
            Events in the order of execution: the name of a layer when its features are computed and, without `runs`,
            "NAME begins" when a module starts. A module that runs several times has several entries.

        Raises
        ------
        BackendError
            If a layer does not run, or does not return a tensor.
        """
        found: dict[str, Tensor] = {}
        order: list[str] = []

        def keep(name: str, value: object) -> None:
            order.append(name)
            # Pooled immediately, because a later module may write into the same memory.
            found[name] = pooled(value, len(images), self.pools[self.layers.index(name)], name)
            if runs is not None and all(order.count(layer) >= runs[layer] for layer in self.layers):
                raise _AllThere

        modules, handles = dict(self.network.named_modules()), []
        try:
            for name in self.layers:
                if name.endswith(INPUT):
                    handles.append(
                        modules[name.removesuffix(INPUT)].register_forward_pre_hook(
                            lambda _, args, given, name=name: keep(name, args or tuple(given.values())),
                            with_kwargs=True,
                        )
                    )
                elif name != OUTPUT:
                    handles.append(modules[name].register_forward_hook(lambda _, args, out, name=name: keep(name, out)))
            if runs is None:
                for name, module in modules.items():
                    begun = f"{name} begins"
                    handles.append(module.register_forward_pre_hook(lambda _, args, name=begun: order.append(name)))
            output = self.call(self.network, images)
            if OUTPUT in self.layers:
                keep(OUTPUT, output)
        except _AllThere:
            pass
        finally:
            for handle in handles:
                handle.remove()
        if missing := [name for name in self.layers if name not in found]:
            raise BackendError(
                f"the layer {missing[0]!r} is not called as a module when the network processes an image",
                "choose another `layer`; 'l2a-transfer layers' lists them",
            )
        return {name: found[name] for name in self.layers}, order

    def uses(self, module: str, order: Sequence[str]) -> bool:
        """Whether a module starts before the last layer is done, in an order returned by `features`."""
        last = max(at for at, name in enumerate(order) if name in self.layers)
        return f"{module} begins" in order[:last]


def last_linear(network: nn.Module) -> str:
    """The name of the last linear layer, or else the last convolution, which is the classifier; empty if none."""
    for kind in (nn.Linear, nn.Conv2d):
        names = [str(name) for name, module in network.named_modules() if name and isinstance(module, kind)]
        if names:
            return names[-1]
    return ""


def layer_list(network: nn.Module, call: Call, size: int, default: Iterable[str]) -> list[Layer]:
    """All modules of a network with their outputs for an image of `size` pixels; default layers come first."""
    shapes: dict[str, tuple[int, ...] | None] = {}
    B = 2

    def note(name: str, value: object) -> None:
        values = tensor_of(value, B)
        shapes[name] = None if values is None else tuple(values.shape[1:])

    modules = {name: module for name, module in network.named_modules() if name}
    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(lambda _, args, out, name=name: note(name, out)))
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, args, given, name=name: note(name + INPUT, args or tuple(given.values())),
                    with_kwargs=True,
                )
            )
        with torch.inference_mode():
            note(OUTPUT, call(network, torch.zeros(B, 3, size, size)))
    finally:
        for handle in handles:
            handle.remove()

    def counted(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    whole = {OUTPUT: network, **modules}
    rows = []
    for name in default:
        module = whole[name.removesuffix(INPUT)]
        rows.append(Layer(name, type(module).__name__, shapes.get(name), counted(module), is_default=True))
    rows += [
        Layer(name, type(module).__name__, shapes.get(name), counted(module))
        for name, module in whole.items()
        if name not in default
    ]
    return rows
