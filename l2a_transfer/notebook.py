"""HTML for notebooks, which show the `_repr_html_` of a result. Names come from data, so all text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from l2a_transfer.text import plain


def html_table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "") -> str:
    """A table of text cells; numbers are right-aligned."""
    head = "".join(f'<th scope="col">{_text(heading)}</th>' for heading in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    above = f"<caption>{_text(caption)}</caption>" if caption else ""
    return f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_images(images: Sequence[tuple[str, bytes]]) -> str:
    """PNG files side by side, each above its caption. They are embedded, so the page needs no other file."""
    return "".join(
        '<figure style="display: inline-block; margin: 0 0.5em">'
        f'<img alt="{_text(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
        for caption, png in images
    )


def _cell(value: object) -> str:
    number = isinstance(value, (int, float))
    shown = f"{value:,}" if number else str(value)
    return f'<td style="text-align: {"right" if number else "left"}">{_text(shown)}</td>'


def _text(value: str) -> str:
    return escape(plain(value))
