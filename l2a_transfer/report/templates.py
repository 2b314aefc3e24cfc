"""The pages' templates, `templates/*.html.j2`: loaded from this package alone, and given values alone.

Whatever a template writes is made plain (`text.plain`) and escaped, unless it is markup. A template has the filters
below and no others, so that nothing gets past that; a name that it was not given is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from l2a_transfer.report.markup import name_of, words_of
from l2a_transfer.report.svg import style_of
from l2a_transfer.report.tables import Cell
from l2a_transfer.text import plain
from l2a_transfer.wording import counted


def render(template: str, titles: Mapping[str, str], **values: Any) -> str:
    """A page.

    Parameters
    ----------
    template : str
        The template's file name.
    titles : mapping of str to str
        Id of each section → its heading, in the order of the page.
    **values
        What the template names.

    Returns
    -------
    str
        The HTML document.

    Raises
    ------
    jinja2.UndefinedError
        Where the template names what is not among the values.
    """
    style = style_of("colours", "figure", "page")
    return _environment().get_template(template).render(titles=titles, style=style, **values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("l2a_transfer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_plainly,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters = {
        "classes": _classes,
        "counted": counted,
        "length": len,
        "name": name_of,
        "percent": _percent,
        "words": words_of,
    }
    return environment


def _plainly(value: object) -> object:
    """What stands for a value before it is escaped. None and other objects are mistakes of a template."""
    if hasattr(value, "__html__"):
        return value
    text = str(value)  # an error for a name that the template was not given
    if not isinstance(value, (str, int)):
        raise TypeError(f"a template writes text, markup and whole numbers, got {value!r}")
    return plain(text)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _classes(cell: Cell, *, is_number: bool) -> str:
    """The CSS classes of a cell."""
    return " ".join(
        name
        for name, holds in (
            ("number", is_number),
            ("name", cell.name),
            ("digest", cell.code and not cell.name),
            ("wrap", cell.long),
        )
        if holds
    )
