"""The templates of the pages, `templates/*.html.j2`. They are loaded only from this package and get only values.

All output of a template is cleaned (`text.plain`) and escaped, unless it is markup. Only the filters below are
available, so nothing can bypass this. An undefined name is an error.
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
    """Render a page.

    Parameters
    ----------
    template : str
        The template's file name.
    titles : mapping of str to str
        Section id → heading, in the order of the page.
    **values
        The variables of the template.

    Returns
    -------
    str
        The HTML document.

    Raises
    ------
    jinja2.UndefinedError
        If the template uses a name that is not among the values.
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
    """The text of a value before it is escaped. None and other objects are errors in the template."""
    if hasattr(value, "__html__"):
        return value
    text = str(value)  # raises if the name is undefined
    if not isinstance(value, (str, int)):
        raise TypeError(f"a template may only output text, markup and integers; got {value!r}")
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
