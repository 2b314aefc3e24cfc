"""The type of every option that is a path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from l2a_transfer.files import names_a_format


class _Path(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("an empty name; the current folder is called '.'", param, ctx)
        # Shells expand ~ at the beginning of a word only, and not in --out=~/x.
        return super().convert(os.path.expanduser(value), param, ctx)


class _Folder(_Path):
    """One that a command makes where it is not there; a name that is a file's was meant for another command."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if names_a_format(found) and not found.exists():
            self.fail(f"{str(value)!r} is called like a file, and a folder is made there; leave {found.suffix} out",
                      param, ctx)  # fmt: skip
        return found


PATH = _Path(path_type=Path, readable=False)
"""A `Path` that names something; whether it can be read or written, the package says itself."""
FOLDER = _Folder(path_type=Path, readable=False)
"""A `Path` of a folder to write into."""
