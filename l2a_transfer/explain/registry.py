"""Map methods: where a network looks, each registered by a decorator beside its function.

A method is a function of a network in evaluation mode and a batch of one normalised picture, float32 (1, 3, H, W); it
returns maps by name, each (h, w) of any resolution. What is the same for all methods, `compute_maps` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from l2a_transfer.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    MapFunction = Callable[..., dict[str, Tensor]]

Method = TypeVar("Method", bound="MapFunction")
DEFAULT_METHOD = "attention"


@dataclass(frozen=True)
class MapMethod:
    """A way to say where a network looks.

    Parameters
    ----------
    name : str
        What `method` calls it.
    compute : callable
        ``compute(model, images)`` gives name → map (h, w); with `class_specific`, ``compute(model, images, target)``,
        where `target` is the index of a class.
    maps : tuple of str
        Every name that a map of it can have, which is part of a file's name.
    class_specific : bool
        Whether a map is about one class.
    signed : bool
        Whether values may be negative, as evidence against a class; other maps are weights.
    gradients : bool
        Whether it differentiates, as by `torch.autograd.grad`, which leaves the parameters' own gradients alone; other
        methods run in inference mode.
    """

    name: str
    compute: MapFunction
    maps: tuple[str, ...]
    class_specific: bool = False
    signed: bool = False
    gradients: bool = False


METHODS: Registry[MapMethod] = Registry("method", "l2a_transfer.explain.methods.attention")


def register_map_method(
    name: str, *, maps: tuple[str, ...], class_specific: bool = False, signed: bool = False, gradients: bool = False
) -> Callable[[Method], Method]:
    """Register the decorated function as a map method; for the parameters, see `MapMethod`.

    Examples
    --------
    >>> @register_map_method("brightness", maps=("pixels",))
    ... def brightness(model, images):
    ...     return {"pixels": images.abs().mean(dim=1)[0]}  # (H, W)
    >>> "brightness" in METHODS
    True
    >>> METHODS.remove("brightness")
    """

    def register(compute: Method) -> Method:
        spec = MapMethod(name, compute, maps, class_specific, signed, gradients)
        METHODS.add(name, spec, home=compute.__module__)
        return compute

    return register
