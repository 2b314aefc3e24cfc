"""Draws names literally in figures: nothing is markup, and a letter without a glyph is shown as its code."""

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
"""Fonts for letters that matplotlib's own fonts lack. Those that are installed are used, in this order."""


@contextmanager
def plain_texts() -> Iterator[None]:
    """Draw `$`, `_`, `^` and backslashes as letters, and use the fonts in FALLBACKS, while the block runs.

    matplotlib's settings are restored at the end.
    """
    import matplotlib

    fonts = [*matplotlib.rcParams["font.family"], *_installed()]
    with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False, "font.family": fonts}):
        yield


def legible(text: str) -> str:
    r"""The text with an escape such as `\u732b` for each letter without a glyph, and for unprintable characters."""
    known = _letters()
    return "".join(c if c.isprintable() and ord(c) in known else ascii(c)[1:-1] for c in text)


@cache
def _installed() -> tuple[str, ...]:
    from matplotlib import font_manager

    names = set(font_manager.get_font_names())
    return tuple(name for name in FALLBACKS if name in names)


@cache
def _letters() -> frozenset[int]:
    """All code points for which the fonts of `plain_texts` have a glyph."""
    import matplotlib
    from matplotlib import font_manager

    found: set[int] = set()
    for family in (*matplotlib.rcParams["font.family"], *_installed()):
        path = font_manager.findfont(font_manager.FontProperties(family=[family]))
        found.update(font_manager.get_font(path).get_charmap())
    return frozenset(found)
