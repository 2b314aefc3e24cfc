"""HTML and SVG that no name can break: text is made plain and escaped, and markup is made by `element` alone.

By hand and not with Jinja: markupsafe escapes HTML, but lets through the controls and the marks that turn text round.
The charts are also made of `element`, because nearly all of what they hold is computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape as escape_html
from typing import Any

import markupsafe

from l2a_transfer.text import plain

VOID = frozenset({"br", "img", "meta", "wbr"})
UNBROKEN = 18
"""Letters after which a line may end even where a name has no separator."""


class Markup(markupsafe.Markup):
    """Text that is HTML already. What is added to it, joined or formatted into it is made plain and escaped."""

    __slots__ = ()

    @classmethod
    def escape(cls, s: Any, /) -> Markup:
        """The text as markup; what is markup already as it is."""
        if isinstance(s, cls):
            return s
        return cls(s) if hasattr(s, "__html__") else cls(escape_html(plain(str(s))))


def shortened(text: str, most: int) -> str:
    """One plain line of at most `most` characters. Its middle is left out, because names often differ at their ends."""
    flat = " ".join(plain(text).split())
    return flat if len(flat) <= most else f"{flat[: most // 2]}…{flat[-(most - most // 2 - 1) :]}"


def element(tag: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element with its children: `<tag …>children</tag>`.

    Parameters
    ----------
    tag : str
        The element's name.
    *children : str
        What stands in it. Text is escaped; `Markup` is not.
    **attributes : str, float or None
        Escaped. In a name `_` is written `-`, and one at the end is dropped (`class_`). None leaves the attribute out;
        numbers get up to two decimals.

    Returns
    -------
    Markup

    Examples
    --------
    >>> element("td", "a < b", class_="number", id=None)
    Markup('<td class="number">a &lt; b</td>')
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in VOID:
        return Markup(f"<{tag}{given}>")
    return Markup(f"<{tag}{given}>{joined(children)}</{tag}>")


def joined(parts: Iterable[str], between: str = "") -> Markup:
    """The parts one after the other, those that are not markup escaped."""
    return Markup(str(Markup.escape(between)).join(map(Markup.escape, parts)))


def words_of(content: str) -> str:
    """The text of markup, for where no markup can stand; text as it is."""
    return content.striptags() if isinstance(content, markupsafe.Markup) else content


def name_of(text: str, most: int = 72) -> Markup:
    """A name out of data, in an element of its own.

    The element keeps the name's direction from turning the text around it. A long name is shortened, with the whole as
    a tooltip, and has places where the line may end.

    Examples
    --------
    >>> name_of("vgg-att2.x")
    Markup('<bdi>vgg-<wbr>att2.<wbr>x</bdi>')
    """
    flat = " ".join(plain(text).split())
    short = shortened(text, most)
    pieces = [Markup("<wbr>") if piece is None else piece for piece in _breakable(short)]
    return element("bdi", *pieces, title=flat if short != flat else None)


def _breakable(text: str) -> list[str | None]:
    """The text in pieces with None between: after separators, and within long runs without one."""
    found: list[str | None] = []
    for part in re.findall(r"[^-._:/@+,\s]*[-._:/@+,\s]*", text):
        for at in range(0, len(part), UNBROKEN):
            found += [part[at : at + UNBROKEN], None]
    return found[:-1]


def _value(value: str | float) -> str:
    return escape_html(plain(value)) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
