"""The type of every option that is a path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class _Path(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("an empty name; the current folder is called '.'", param, ctx)
        return super().convert(value, param, ctx)


PATH = _Path(path_type=Path, readable=False)
"""A `Path` that names something; whether it can be read or written, the package says itself."""
