"""HTML and SVG that cannot be broken by a name: plain text is escaped, markup is made by `element` alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape as escape_html
from html import unescape

from l2a_transfer.text import plain

VOID = frozenset({"br", "meta", "wbr"})
UNBROKEN = 18
"""Letters after which a line may end even where a name has no separator."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def shortened(text: str, most: int) -> str:
    """One plain line of at most `most` characters, the middle left out: names often differ at their ends."""
    flat = " ".join(plain(text).split())
    return flat if len(flat) <= most else f"{flat[: most // 2]}…{flat[-(most - most // 2 - 1) :]}"


def element(tag: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """`<tag …>children</tag>`. A child that is not Markup, and every attribute, is text and escaped.

    An attribute's `_` is written `-`, a final one is dropped (`class_`); None leaves it out; numbers get two decimals.
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
    """The parts one after the other, those that are not Markup escaped."""
    return Markup(_text(between).join(part if isinstance(part, Markup) else _text(part) for part in parts))


def words_of(content: str) -> str:
    """The text of markup, for where no markup can stand."""
    return unescape(re.sub(r"<[^>]*>", "", content)) if isinstance(content, Markup) else content


def name_of(text: str, most: int = 72) -> Markup:
    """A name out of data: isolated, so that its direction stays its own; shortened, with the whole as a tooltip; and
    with places where the line may end."""
    flat = " ".join(plain(text).split())
    short = shortened(text, most)
    pieces = [Markup("<wbr>") if piece is None else _text(piece) for piece in _breakable(short)]
    return element("bdi", *pieces, title=flat if short != flat else None)


def _breakable(text: str) -> list[str | None]:
    """The text in pieces with None between: after separators, and within long runs without one."""
    found: list[str | None] = []
    for part in re.findall(r"[^-._:/@+,\s]*[-._:/@+,\s]*", text):
        for at in range(0, len(part), UNBROKEN):
            found += [part[at : at + UNBROKEN], None]
    return found[:-1]


def _text(text: str) -> Markup:
    return Markup(escape_html(plain(text)))


def _value(value: str | float) -> str:
    return escape_html(plain(value)) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
