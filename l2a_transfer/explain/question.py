"""What is asked about pictures: by which methods, at which size, and about which class."""

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
    """What is asked about each picture.

    Parameters
    ----------
    methods : tuple of str
        Names in `METHODS`, each once.
    side : int or None
        Pixels of the shorter side as the network takes the picture, with the aspect kept; None for the pixels that
        `extract` uses.
    levels : tuple of str
        For the methods that have maps of several levels; by default those that the classifier reads.
    options : dict
        Method → its options.
    group : bool
        Whether group maps and their control are asked for beside the methods.
    control_seed : int
        Random seed of which class is the control of which.

    Raises
    ------
    UnknownNameError
        For a method, or an option that a method does not have.
    ArgumentError
        For no method or one that is named twice, options of a method that is not asked for, values of another type,
        and levels where no method has them.
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
            raise ArgumentError(f"method must name methods, each once; got {', '.join(self.methods) or 'none'}")
        for name, given in self.options.items():
            if name not in self.methods:
                raise ArgumentError(f"options of {METHODS.find(name).name} were given, but the method is not used")
            METHODS[name].checked_options(dict(given))
        if self.levels and not self.group and not any(spec.per_level for spec in specs):
            raise ArgumentError(
                f"levels are for methods with a map of each level; {', '.join(self.methods)} has one of the input"
            )

    @property
    def class_specific(self) -> bool:
        """Whether any of the methods explains one class."""
        return any(METHODS[name].class_specific for name in self.methods)

    def all_options(self, method: str) -> dict[str, Any]:
        """The options that a method takes, those that were given and the defaults of the others."""
        if method in (GROUP, CONTROL):
            return {"control_seed": self.control_seed} if method == CONTROL else {}
        spec = METHODS[method]
        return {**spec.options, **spec.checked_options(dict(self.options.get(method, {})))}


@dataclass(frozen=True)
class Asked:
    """A picture about which a question is asked, of mode RGB; `target` is the class to explain, None the predicted.

    `group` is the name of the class whose pictures its group map is about.
    """

    name: str
    picture: Image.Image
    target: int | None = None
    group: str | None = None
