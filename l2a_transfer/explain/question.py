"""Settings for explaining pictures: methods, size, and class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from l2a_transfer.errors import ArgumentError
from l2a_transfer.explain.group import CONTROL, GROUP
from l2a_transfer.explain.registry import METHODS

DEFAULT_SIDE = 128


@dataclass(frozen=True)
class Question:
    """Settings that apply to each picture.

    Parameters
    ----------
    methods : tuple of str
        Names in `METHODS`, each once.
    side : int or None
        Shorter side of the network's input in pixels, with the aspect ratio kept; None for the same pixels as
        `extract`.
    levels : tuple of str
        For methods with maps of several levels; by default, those that the classifier uses.
    options : dict
        Method → its options.
    group : bool
        Whether to add group maps and their controls.
    control_seed : int
        Random seed of the controls.

    Raises
    ------
    UnknownNameError
        For an unknown method or option.
    ArgumentError
        For no method or a duplicate, options of a method that is not used, values of another type, or levels if no
        method has them.
    """

    methods: tuple[str, ...]
    side: int | None = DEFAULT_SIDE
    levels: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    group: bool = False
    control_seed: int = 0

    def __post_init__(self) -> None:
        specs = [METHODS.find(name) for name in self.methods]
        if not specs or len(set(self.methods)) < len(specs):
            raise ArgumentError(f"method must be one or more distinct methods; got {', '.join(self.methods) or 'none'}")
        for name, given in self.options.items():
            if name not in self.methods:
                raise ArgumentError(f"options of {METHODS.find(name).name} were given, but the method is not used")
            METHODS[name].checked_options(dict(given))
        if self.levels and not self.group and not any(spec.per_level for spec in specs):
            raise ArgumentError(
                f"levels are for methods with a map per level; {', '.join(self.methods)} has one map of the input"
            )

    @property
    def class_specific(self) -> bool:
        """Whether any of the methods explains one class."""
        return any(METHODS[name].class_specific for name in self.methods)

    def all_options(self, method: str) -> dict[str, Any]:
        """All options of a method: the given ones, and defaults for the others."""
        if method in (GROUP, CONTROL):
            return {"control_seed": self.control_seed} if method == CONTROL else {}
        spec = METHODS[method]
        return {**spec.options, **spec.checked_options(dict(self.options.get(method, {})))}


@dataclass(frozen=True)
class Asked:
    """A picture to explain, in mode RGB; `target` is the class to explain, None for the predicted one.

    `group` is the name of its class for group maps.
    """

    name: str
    picture: Image.Image
    target: int | None = None
    group: str | None = None
