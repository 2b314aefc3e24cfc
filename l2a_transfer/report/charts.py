"""Charts as inline SVG without a plotting library: text stays text, colours come from the page's style sheet, and
nothing is loaded.

Series differ in colour, marker shape and dash pattern. The page defines the colours `s0` … `s7` for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from l2a_transfer.report.markup import Markup, element, joined
from l2a_transfer.wording import with_minus

COLOURS = 8
# Centred at (0, 0), with about the same area.
SHAPES = (
    "M-3.8 0A3.8 3.8 0 1 1 3.8 0A3.8 3.8 0 1 1-3.8 0Z",
    "M-3.4-3.4H3.4V3.4H-3.4Z",
    "M0-4.6L4.4 3.3H-4.4Z",
    "M0-4.9L4.9 0L0 4.9L-4.9 0Z",
    "M0 4.6L4.4-3.3H-4.4Z",
    "M-1.5-4.4H1.5V-1.5H4.4V1.5H1.5V4.4H-1.5V1.5H-4.4V-1.5H-1.5Z",
    "M0-4.5L4.3-1.4L2.6 3.6H-2.6L-4.3-1.4Z",
    "M-4.4-3.6H4.4L-4.4 3.6H4.4Z",
)
DASHES = (None, "7 3", "2 2.5", "9 3 2 3", "4 2", "1 3", "12 3", "6 2 1 2 1 2")
WIDTH, HEIGHT = 344.0, 252.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 10.0, 12.0, 40.0


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` … `high` to 0 … 1, with ticks at (value, label)."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Line:
    """One line of a chart: points (x, y) in units of the scales, optional `low` and `high` of their intervals, and the
    points with a marker (None: all)."""

    series: int
    label: str
    points: tuple[tuple[float, float], ...]
    intervals: tuple[tuple[float, float], ...] = ()
    marked: tuple[int, ...] | None = None
    thin: bool = False


LEAST_SPAN = 1e-3
"""Smallest span of a scale, in points or per cent; anything smaller is drawn as a single value."""


def round_scale(low: float, high: float, *, most: int = 6, unit: str = "") -> Scale:
    """A scale from a round number at or below `low` to one at or above `high`. Ticks are 1, 2 or 5 × 10ⁿ apart, at most
    `most` + 1 of them."""
    span = high - low if high - low > LEAST_SPAN else 1.0
    high = low + span
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(
        m * power for m in (1, 2, 5, 10, 20) if math.ceil(high / (m * power)) - math.floor(low / (m * power)) <= most
    )
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), math.floor(low / step + 1e-9) + 1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [(k * step, with_minus(f"{k * step:.{digits}f}") + unit) for k in range(first, last + 1)]
    return Scale(first * step, last * step, tuple(ticks))


def swatch(series: int) -> Markup:
    """A sample of a series' line with its marker, for a legend."""
    line = element("line", x1=1, x2=29, y1=7, y2=7, class_="line", stroke_dasharray=DASHES[series % COLOURS])
    return element(
        "svg", line, _marker(15, 7, series), class_=f"swatch {colour(series)}", width=30, height=14, aria_hidden="true"
    )


def colour(series: int) -> str:
    """The CSS class for the colour of a series."""
    return f"s{series % COLOURS}"


def interval_bar(
    value: float,
    interval: tuple[float, float],
    scale: Scale,
    *,
    series: int,
    hollow: bool = False,
    guides: Sequence[tuple[float, str]] = (),
    label: str,
) -> Markup:
    """A point with its interval that fills its box. Positions are in percent, so it grows with the table, while text
    and lines keep their size. `guides`: vertical lines at (value, class)."""
    low, high = (_percent(scale.at(x)) for x in interval)
    parts = _guides(guides, scale)
    parts.append(element("line", x1=low, x2=high, y1="50%", y2="50%", class_="line"))
    # A nested svg can be positioned in percent, but a transform cannot.
    at = _percent(scale.at(value))
    parts.append(element("svg", _marker(0, 0, series, hollow=hollow), x=at, y="50%", class_="point"))
    return element("svg", *parts, class_=f"bar {colour(series)}", role="img", aria_label=label)


def guide_bar(guides: Sequence[tuple[float, str]], scale: Scale) -> Markup:
    """The vertical lines of a column of interval bars, for a row without a bar."""
    return element("svg", *_guides(guides, scale), class_="bar", aria_hidden="true")


def _guides(guides: Sequence[tuple[float, str]], scale: Scale) -> list[Markup]:
    return [
        element("line", x1=_percent(scale.at(x)), x2=_percent(scale.at(x)), y1="0", y2="100%", class_=kind)
        for x, kind in guides
    ]


def axis(scale: Scale) -> Markup:
    """The ticks below a column of interval bars."""
    parts = [element("line", x1="0", x2="100%", y1="0.5", y2="0.5", class_="axis")]
    for value, label in scale.ticks:
        at = scale.at(value)
        parts.append(element("line", x1=_percent(at), x2=_percent(at), y1="0", y2="4", class_="axis"))
        parts.append(element("text", label, x=_percent(at), y="16", text_anchor="middle"))
    return element("svg", *parts, class_="ticks", aria_hidden="true")


def curves(
    lines: Sequence[Line], x: Scale, y: Scale, *, x_label: str, y_label: str, label: str, guide: float | None = None
) -> Markup:
    """Lines over an x axis, with intervals as whiskers. `guide`: y of a dotted horizontal line."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def across(value: float) -> float:
        return LEFT + x.at(value) * (right - LEFT)

    def up(value: float) -> float:
        return bottom - y.at(value) * (bottom - TOP)

    parts = [element("line", x1=LEFT, x2=right, y1=up(v), y2=up(v), class_="grid") for v, _ in y.ticks]
    parts += [element("text", name, x=LEFT - 6, y=up(v) + 3.8, text_anchor="end") for v, name in y.ticks]
    parts.append(element("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    for v, name in x.ticks:
        parts.append(element("line", x1=across(v), x2=across(v), y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(element("text", name, x=across(v), y=bottom + 16, text_anchor="middle"))
    parts.append(element("text", x_label, x=(LEFT + right) / 2, y=HEIGHT - 6, text_anchor="middle"))
    parts.append(
        element("text", y_label, transform=f"translate(11 {(TOP + bottom) / 2:.1f}) rotate(-90)", text_anchor="middle")
    )
    if guide is not None:
        parts.append(element("line", x1=LEFT, x2=right, y1=up(guide), y2=up(guide), class_="guess"))
    parts += [_line(line, across, up) for line in lines]
    return element("svg", *parts, class_="chart", viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", aria_label=label)


def _line(line: Line, across: Callable[[float], float], up: Callable[[float], float]) -> Markup:
    places = [(across(x), up(y)) for x, y in line.points]
    parts = [element("title", line.label)]
    for (x, _), (low, high) in zip(places, line.intervals, strict=False):
        parts.append(element("line", x1=x, x2=x, y1=up(low), y2=up(high), class_="line whisker"))
    path = "".join(f"{'L' if k else 'M'}{x:.1f} {y:.1f}" for k, (x, y) in enumerate(places))
    dashes = DASHES[line.series % COLOURS]
    parts.append(element("path", d=path, class_="line thin" if line.thin else "line", stroke_dasharray=dashes))
    kept = range(len(places)) if line.marked is None else line.marked
    parts += [_marker(*places[k], line.series) for k in kept]
    return element("g", *parts, class_=colour(line.series))


def _marker(x: float, y: float, series: int, *, hollow: bool = False) -> Markup:
    # After all colours have been used, the shapes shift by one, so that 64 series differ.
    shape = SHAPES[(series + series // COLOURS) % len(SHAPES)]
    where = None if x == y == 0 else f"translate({x:.1f} {y:.1f})"
    return element("path", d=shape, transform=where, class_="marker hollow" if hollow else "marker")


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def legend(names: Sequence[tuple[int, Markup]]) -> Markup:
    """The names of all lines, given as (series, name), as a list."""
    return (
        element("ul", *(element("li", swatch(series), " ", name) for series, name in names), class_="legend")
        if names
        else joined(())
    )
