"""Layers of any network by name: what each gives for a batch of images, and what there is to name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2a_transfer.errors import ArgumentError, BackendError, unknown_name
from l2a_transfer.features.backends.interface import Layer
from l2a_transfer.features.backends.pooling import pooled, tensor_of

INPUT = ":in"
"""Behind the name of a module: what it takes, and not what it gives."""
OUTPUT = "output"
"""The name of what the whole network gives."""

Call = Callable[[nn.Module, Tensor], object]


class _AllThere(BaseException):
    """Ends a forward pass when every layer has given its features; no code of a network catches it."""


@dataclass(frozen=True)
class Hooked:
    """A network and the layers of it that are wanted.

    Parameters
    ----------
    network : nn.Module
        Runs in the mode that it is in.
    call : callable
        ``call(network, images)`` runs it.
    layers : tuple of str
        Names of modules, with `INPUT` behind what a module takes, or `OUTPUT`.
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
        """The features of normalised images.

        A module that runs several times for an image gives what it gave last.

        Parameters
        ----------
        images : Tensor, shape (B, 3, H, W)
            Normalised.
        runs : dict, optional
            How many times each layer runs; the network is then left when all have.

        Returns
        -------
        features : dict
            Layer → float32 (B, D).
        order : list of str
            The layers, and after them the other modules with weights, in the order in which they began, or ended, as
            often as they did.

        Raises
        ------
        BackendError
            For a layer that does not run, or gives no tensor.
        """
        found: dict[str, Tensor] = {}
        order: list[str] = []

        def keep(name: str, value: object) -> None:
            order.append(name)
            # Pooled at once: a module after this one may write into the same memory.
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
                f"the layer {missing[0]!r} does not run as a module when the network sees an image",
                "name another `layer`; 'l2a-transfer layers' lists them",
            )
        return {name: found[name] for name in self.layers}, order

    def uses(self, module: str, order: Sequence[str]) -> bool:
        """Whether a module begins before the last layer is there, in an order that `features` gave."""
        last = max(at for at, name in enumerate(order) if name in self.layers)
        return f"{module} begins" in order[:last]


def last_linear(network: nn.Module) -> str:
    """The name of the last linear layer, or else of the last convolution: a classifier; empty if there is none."""
    for kind in (nn.Linear, nn.Conv2d):
        names = [str(name) for name, module in network.named_modules() if name and isinstance(module, kind)]
        if names:
            return names[-1]
    return ""


def layer_list(network: nn.Module, call: Call, size: int, default: Iterable[str]) -> list[Layer]:
    """Every module of a network, with what it gives for an image of `size` pixels; the defaults stand first."""
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
