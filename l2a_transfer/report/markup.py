"""Safe HTML and SVG: text is cleaned and escaped, and only `element` creates markup.

This is not left to Jinja, because markupsafe escapes HTML but passes control characters and bidirectional marks. Charts
also use `element`, because nearly all of their content is computed.
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
"""Number of letters after which a line may break even if a name has no separator."""


class Markup(markupsafe.Markup):
    """Text that is already HTML. Anything added, joined or formatted into it is cleaned and escaped."""

    __slots__ = ()

    @classmethod
    def escape(cls, s: Any, /) -> Markup:
        """The text as markup; markup is returned unchanged."""
        if isinstance(s, cls):
            return s
        return cls(s) if hasattr(s, "__html__") else cls(escape_html(plain(str(s))))


def shortened(text: str, most: int) -> str:
    """One plain line of at most `most` characters. The middle is left out, because names often differ at their ends."""
    flat = " ".join(plain(text).split())
    return flat if len(flat) <= most else f"{flat[: most // 2]}…{flat[-(most - most // 2 - 1) :]}"


def element(tag: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element with its children: `<tag …>children</tag>`.

    Parameters
    ----------
    tag : str
        The element's name.
    *children : str
        Its content. Text is escaped; `Markup` is not.
    **attributes : str, float or None
        Its attributes, escaped. `_` in a name becomes `-`, and a trailing `_` is dropped (`class_`). None leaves the
        attribute out. Numbers get up to two decimals.

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
    """Join the parts, escaping those that are not markup."""
    return Markup(str(Markup.escape(between)).join(map(Markup.escape, parts)))


def words_of(content: str) -> str:
    """The text of markup, for places without markup; text is returned unchanged."""
    return content.striptags() if isinstance(content, markupsafe.Markup) else content


def name_of(text: str, most: int = 72) -> Markup:
    """A name from data in its own element.

    The element keeps the text direction of the name from affecting the text around it. A long name is shortened, with
    the full name as a tooltip, and has possible line breaks.

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
    """The text in pieces, with None at possible line breaks: after separators, and within long runs without one."""
    found: list[str | None] = []
    for part in re.findall(r"[^-._:/@+,\s]*[-._:/@+,\s]*", text):
        for at in range(0, len(part), UNBROKEN):
            found += [part[at : at + UNBROKEN], None]
    return found[:-1]


def _value(value: str | float) -> str:
    return escape_html(plain(value)) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
