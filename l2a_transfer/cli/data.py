"""Options of every command that reads a data set's pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def reading_options(command: Command) -> Command:
    """Add `--verify-source` and `--split-from`, which say how files and splits are told apart."""
    command = click.option(
        "--split-from",
        default="auto",
        show_default=True,
        help="What the splits are: auto (by names), folders (each first-level folder), none (one split).",
    )(command)
    return click.option(
        "--verify-source/--no-verify-source",
        default=False,
        help="Tell changed pictures by their bytes, not by size and time; reads every file. "
        "Give it from the first run on.",
    )(command)
