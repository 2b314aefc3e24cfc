"""Options whose help lists a registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click


class ListedOption(click.Option):
    """An option that takes a registry's names; the registry is read only when help is shown.

    Parameters
    ----------
    listed : callable
        Gives the names.
    *arguments, **options
        As for `click.Option`; the names are put before the help.
    """

    def __init__(self, *arguments: Any, listed: Callable[[], Iterable[str]], **options: Any) -> None:
        self._listed = listed
        super().__init__(*arguments, **options)

    @property
    def help(self) -> str | None:
        """The names, and what the option was declared with."""
        *others, last = self._listed()
        return f"{', '.join(others)} or {last}{self._rest}" if others else f"{last}{self._rest}"

    @help.setter
    def help(self, text: str | None) -> None:
        self._rest = f": {text}" if text else "."
