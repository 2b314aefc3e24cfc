"""The text representation of image sources."""

from __future__ import annotations

from typing import Any

from l2a_transfer.text import classes_and_splits, repr_line
from l2a_transfer.wording import counted


class Shown:
    """Base class of sources that are dataclasses: a repr in one line, instead of one with every id and label."""

    def __init_subclass__(cls) -> None:
        # The decorator `dataclass` creates a repr of all fields unless the class itself has one.
        if "__repr__" not in vars(cls):
            setattr(cls, "__repr__", Shown.__repr__)  # noqa: B010 - set on the class, not on an instance

    def __repr__(self) -> str:
        own: Any = self
        images = counted(len(own), "image")
        return repr_line(self, own.name, images, *classes_and_splits(own.classes, own.splits))
