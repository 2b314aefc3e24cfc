"""Map methods, each registered by a decorator next to its function.

A method is a function of a network in evaluation mode and of normalised images, float32 (B, 3, H, W). It returns maps
by name, each (B, h, w) at any resolution. `explain.compute` does what is common to all methods.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from l2a_transfer.errors import ArgumentError, PluginError, unknown_name
from l2a_transfer.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    MapFunction = Callable[..., dict[str, Tensor]]

Method = TypeVar("Method", bound="MapFunction")
MapKind = Literal["signed", "non-negative", "distribution"]
"""Values of a map: signed for evidence for and against; 0 or more; 0 or more with a sum of 1 over the image."""
DEFAULT_METHOD = "attention"


@dataclass(frozen=True)
class MapMethod:
    """A map method.

    Parameters
    ----------
    name : str
        Name of the method, for `method` arguments.
    compute : callable
        ``compute(model, images)`` returns name → map (B, h, w). With `class_specific` it also takes ``targets``, int64
        (B,), the class of each image; with `per_level` the keyword ``levels``, the names of the requested layers.
        Further keywords with defaults are its options.
    kind : {"signed", "non-negative", "distribution"}
        As `MapKind`. "non-negative" for a method that returns distributions only for some networks.
    maps : tuple of str
        Names of its maps, used in file names; empty with `per_level`, which uses the names of the levels.
    class_specific : bool
        Whether a map explains one class.
    per_level : bool
        Whether there is a map for each level, or named layer, of the network.
    gradients : bool
        Whether it computes gradients, with `torch.autograd.grad`, which does not touch the gradients of the parameters;
        other methods run in inference mode.
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
        """The given options, converted to the types of their defaults.

        Raises: UnknownNameError for an unknown option; ArgumentError for a value of another type.
        """
        defaults = self.options
        found = {}
        for name, value in given.items():
            if name not in defaults:
                raise unknown_name(f"option of {self.name}", name, tuple(defaults))
            found[name] = _converted(f"{self.name}.{name}", value, defaults[name])
        return found


def _converted(name: str, value: Any, default: Any) -> Any:
    """Convert text from a command line to the type of the default. Raises: ArgumentError."""
    wanted = type(default)
    try:
        if isinstance(value, str) and wanted is not str:
            value = wanted(value)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
    except ValueError:
        pass
    if type(value) is not wanted:
        raise ArgumentError(f"{name} must be of type {wanted.__name__}, like its default {default!r}; got {value!r}")
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
            raise PluginError("a map method must have either named maps or a map per level")
        METHODS.add(name, spec, home=compute.__module__)
        return compute

    return register
