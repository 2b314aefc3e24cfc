"""Map methods: where a network looks, each registered by a decorator beside its function.

A method is a function of a network in evaluation mode and of normalised images, float32 (B, 3, H, W). It returns maps
by name, each (B, h, w) of any resolution. `explain.compute` does what all methods have in common.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from l2a_transfer.errors import ArgumentError, unknown_name
from l2a_transfer.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    MapFunction = Callable[..., dict[str, Tensor]]

Method = TypeVar("Method", bound="MapFunction")
MapKind = Literal["signed", "non-negative", "distribution"]
"""Of a map's values: evidence for and against; 0 or more; 0 or more with the sum 1 over the image."""
DEFAULT_METHOD = "attention"


@dataclass(frozen=True)
class MapMethod:
    """A way to say where a network looks.

    Parameters
    ----------
    name : str
        What `method` calls it.
    compute : callable
        ``compute(model, images)`` gives name → map (B, h, w). With `class_specific` it also takes ``targets``, int64
        (B,), the class of each image; with `per_level` the keyword ``levels``, the names of the layers whose maps are
        asked for. Further keywords with defaults are its options.
    kind : {"signed", "non-negative", "distribution"}
        As `MapKind`. A method that gives distributions for some networks only says "non-negative".
    maps : tuple of str
        The names of its maps, which are part of files' names; empty with `per_level`, where they are the levels'.
    class_specific : bool
        Whether a map is about one class.
    per_level : bool
        Whether there is a map for each level, or named layer, of the network.
    gradients : bool
        Whether it differentiates, by `torch.autograd.grad`, which leaves the parameters' own gradients alone; other
        methods run in inference mode.
    """

    name: str
    compute: MapFunction
    kind: MapKind
    maps: tuple[str, ...] = ()
    class_specific: bool = False
    per_level: bool = False
    gradients: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Each option with its default."""
        parameters = inspect.signature(self.compute).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "levels"}

    def checked_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """The options that were given, as the types of their defaults.

        Raises: UnknownNameError for an option that the method does not have; ArgumentError for a value of another
        type.
        """
        defaults = self.options
        found = {}
        for name, value in given.items():
            if name not in defaults:
                raise unknown_name(f"option of {self.name}", name, tuple(defaults))
            found[name] = _converted(f"{self.name}.{name}", value, defaults[name])
        return found


def _converted(name: str, value: Any, default: Any) -> Any:
    """Text from a command line as the type of the default. Raises: ArgumentError."""
    wanted = type(default)
    try:
        if isinstance(value, str) and wanted is not str:
            value = wanted(value)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
    except ValueError:
        pass
    if type(value) is not wanted:
        raise ArgumentError(f"{name} must be of type {wanted.__name__}, as its default {default!r}; got {value!r}")
    return value


METHODS: Registry[MapMethod] = Registry(
    "method",
    *(
        f"l2a_transfer.explain.methods.{module}"
        for module in ("attention", "evidence", "activation", "cam", "gradients", "guided", "occlusion", "controls")
    ),
)


def register_map_method(
    name: str,
    *,
    kind: MapKind,
    maps: tuple[str, ...] = (),
    class_specific: bool = False,
    per_level: bool = False,
    gradients: bool = False,
) -> Callable[[Method], Method]:
    """Register the decorated function as a map method; for the parameters, see `MapMethod`.

    Examples
    --------
    >>> @register_map_method("brightness", kind="non-negative", maps=("pixels",))
    ... def brightness(model, images, *, power=1.0):
    ...     return {"pixels": images.abs().mean(dim=1) ** power}  # (B, H, W)
    >>> METHODS["brightness"].options
    {'power': 1.0}
    >>> METHODS.remove("brightness")
    """

    def register(compute: Method) -> Method:
        spec = MapMethod(name, compute, kind, maps, class_specific, per_level, gradients)
        if bool(maps) == per_level:
            raise ArgumentError("a method either has maps, the names of its maps, or is per_level")
        METHODS.add(name, spec, home=compute.__module__)
        return compute

    return register
