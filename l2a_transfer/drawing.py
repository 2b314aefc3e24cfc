"""Text in figures as it is: no name is ever markup, and a letter that no font has is shown as its code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

FALLBACKS = (
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Noto Sans JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "IPAexGothic",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Sans KR",
    "NanumGothic",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "PingFang SC",
    "Arial Unicode MS",
    "Noto Emoji",
    "Symbola",
    "Unifont",
)
"""Fonts for letters that matplotlib's own lacks, where they are installed."""


@contextmanager
def plain_texts() -> Iterator[None]:
    """While the body draws and saves: `$`, `_`, `^` and backslashes are letters, and FALLBACKS help out.

    What is changed of matplotlib's settings comes back at the end.
    """
    import matplotlib

    fonts = [*matplotlib.rcParams["font.family"], *_installed()]
    with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False, "font.family": fonts}):
        yield


def legible(text: str) -> str:
    r"""The text with `\u732b` for each letter that no font of `plain_texts` has, and for what cannot be printed."""
    known = _letters()
    return "".join(c if c.isprintable() and ord(c) in known else ascii(c)[1:-1] for c in text)


@cache
def _installed() -> tuple[str, ...]:
    from matplotlib import font_manager

    names = set(font_manager.get_font_names())
    return tuple(name for name in FALLBACKS if name in names)


@cache
def _letters() -> frozenset[int]:
    """The code points that the fonts of `plain_texts` have between them."""
    import matplotlib
    from matplotlib import font_manager

    found: set[int] = set()
    for family in (*matplotlib.rcParams["font.family"], *_installed()):
        path = font_manager.findfont(font_manager.FontProperties(family=[family]))
        found.update(font_manager.get_font(path).get_charmap())
    return frozenset(found)
