"""A study's figures: a forest plot over targets, and low-shot curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from l2a_transfer.report import charts
from l2a_transfer.report.charts import Line, Scale, round_scale
from l2a_transfer.report.legend import with_legend
from l2a_transfer.report.markup import Markup, element, joined, shortened
from l2a_transfer.report.svg import Figure
from l2a_transfer.study.compared import Compared
from l2a_transfer.study.contrasts import Estimate
from l2a_transfer.study.results import Row
from l2a_transfer.wording import with_minus

LEFT, PLOT, RIGHT, LINE, TOP = 170.0, 300.0, 190.0, 22.0, 12.0
"""Sizes in a forest plot: widths of names, intervals and numbers, height of a row, and space above the first row."""


def forest(compared: Compared) -> Figure | None:
    """The contrast on each target with its interval, and two diamonds for each summary below, in points: the planned
    interval and the interval over runs.

    None if nothing has an interval.
    """
    entries = [(one.target, one.estimate, False) for one in compared.targets]
    for one in compared.summaries:
        both = ((one.name, one.estimate), (f"{one.name}, over runs", one.over_runs))
        entries += [(name, estimate, True) for name, estimate in both if estimate is not None and estimate.ci95]
    ends = [end for _, estimate, _ in entries if estimate.ci95 for end in estimate.ci95]
    if not ends:
        return None
    scale = round_scale(100 * min(0.0, *ends), 100 * max(0.0, *ends))
    bottom = TOP + LINE * len(entries)

    def across(points: float) -> float:
        return LEFT + scale.at(points) * PLOT

    parts = [element("line", x1=across(x), x2=across(x), y1=TOP, y2=bottom, class_="grid") for x, _ in scale.ticks]
    parts.append(element("line", x1=across(0), x2=across(0), y1=TOP, y2=bottom, class_="zero"))
    for k, (name, estimate, is_summary) in enumerate(entries):
        y = TOP + LINE * (k + 0.5)
        parts.append(element("text", shortened(name, 28), x=LEFT - 10, y=y + 4, text_anchor="end"))
        parts.append(element("text", numbers(estimate), x=LEFT + PLOT + 12, y=y + 4))
        parts.append(_diamond(estimate, across, y) if is_summary else _bar(estimate, across, y))
    parts.append(element("line", x1=LEFT, x2=LEFT + PLOT, y1=bottom, y2=bottom, class_="axis"))
    for x, label in scale.ticks:
        parts.append(element("line", x1=across(x), x2=across(x), y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(element("text", label, x=across(x), y=bottom + 16, text_anchor="middle"))
    parts.append(
        element(
            "text",
            "difference in points, with its 95 % interval",
            x=LEFT + PLOT / 2,
            y=bottom + 34,
            text_anchor="middle",
        )
    )
    name = f"forest-{compared.name}{'-matched' if compared.width else ''}.svg"
    label = f"{compared.title}, features {compared.features}: difference on each target and over targets"
    return Figure(label, joined(parts), LEFT + PLOT + RIGHT, bottom + 42, name=name)


def _bar(estimate: Estimate, across: Callable[[float], float], y: float) -> Markup:
    at = f"translate({across(100 * estimate.difference):.1f} {y:.1f})"
    marker = element("path", d=charts.SHAPES[1], class_="marker", transform=at)
    if estimate.ci95 is None:
        return element("g", marker, class_="s0")
    low, high = (across(100 * end) for end in estimate.ci95)
    return element("g", element("line", x1=low, x2=high, y1=y, y2=y, class_="line"), marker, class_="s0")


def _diamond(estimate: Estimate, across: Callable[[float], float], y: float) -> Markup:
    assert estimate.ci95 is not None
    low, middle, high = (across(100 * x) for x in (estimate.ci95[0], estimate.difference, estimate.ci95[1]))
    path = f"M{low:.1f} {y:.1f}L{middle:.1f} {y - 6:.1f}L{high:.1f} {y:.1f}L{middle:.1f} {y + 6:.1f}Z"
    return element("g", element("path", d=path, class_="marker"), class_="s1")


def numbers(estimate: Estimate) -> str:
    """`+0.6 [−0.1, +1.3]` in points, or just `+0.6` without an interval."""
    shown = signed(estimate.difference)
    return shown if estimate.ci95 is None else f"{shown} [{signed(estimate.ci95[0])}, {signed(estimate.ci95[1])}]"


def signed(value: float) -> str:
    """A fraction in points with its sign; 0 has none."""
    text = with_minus(f"{100 * value:+.1f}")
    return text[1:] if text[1:] == "0.0" else text


def low_shot(target: str, protocol: str, rows: Sequence[Row]) -> Figure | None:
    """Mean class accuracy against k for each model: mean, minimum and maximum over its seeds; None for a single k."""
    ks = sorted({row.shots for row in rows if row.shots is not None})
    if len(ks) < 2:
        return None
    models = list(dict.fromkeys(row.model for row in rows))
    x = Scale(math.log2(ks[0]), math.log2(ks[-1]), tuple((math.log2(k), str(k)) for k in ks))
    y = round_scale(100 * min(min(row.values) for row in rows), 100 * max(max(row.values) for row in rows))
    with_bars = any(row.sd is not None for row in rows)
    lines = []
    for series, model in enumerate(models):
        own = sorted((row for row in rows if row.model == model), key=lambda row: row.shots or 0)
        lines.append(
            Line(
                series,
                model,
                tuple((math.log2(row.shots or 1), 100 * row.mean) for row in own),
                tuple((100 * min(row.values), 100 * max(row.values)) for row in own) if with_bars else (),
            )
        )
    label = f"Mean class accuracy on {target} with few training images a class"
    across = "training images a class" + ("; bars: lowest and highest seed" if with_bars else "")
    drawn = charts.curves(lines, x, y, x_label=across, y_label="mean class accuracy, %", label=label)
    return with_legend(drawn, models, label=label, name=f"low-shot-{target}-{protocol}.svg")
