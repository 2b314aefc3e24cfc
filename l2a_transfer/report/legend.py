"""Charts with a legend below, as one figure."""

from __future__ import annotations

from collections.abc import Sequence

from l2a_transfer.report import charts
from l2a_transfer.report.charts import HEIGHT, WIDTH
from l2a_transfer.report.markup import Markup, element, joined, shortened
from l2a_transfer.report.svg import Figure

LEGEND_LINE = 16.0
GAP = 20.0
"""Space between two charts."""


def with_legend(chart: Markup, names: Sequence[str], *, label: str, name: str, title: tuple[str, ...] = ()) -> Figure:
    """A chart of `charts.curves` with the name of each series below.

    Parameters
    ----------
    chart : Markup
        The chart. Its series are numbered like `names`.
    names : sequence of str
        The names of the series.
    label, name, title
        As in `Figure`.

    Returns
    -------
    Figure
    """
    return side_by_side([chart], names, label=label, name=name, title=title)


def side_by_side(
    drawn: Sequence[Markup], names: Sequence[str], *, label: str, name: str, title: tuple[str, ...] = ()
) -> Figure:
    """Charts of the same series in a row, with one legend below. For the parameters, see `with_legend`."""
    parts = [
        element("svg", chart, x=k * (WIDTH + GAP) or None, width=WIDTH, height=HEIGHT) for k, chart in enumerate(drawn)
    ]
    for series, one in enumerate(names):
        at = HEIGHT + LEGEND_LINE * series
        parts.append(element("g", charts.swatch(series), transform=f"translate(42 {at:.0f})"))
        parts.append(element("text", shortened(one, 44), x=80, y=at + 11))
    width = len(drawn) * WIDTH + (len(drawn) - 1) * GAP
    return Figure(label, joined(parts), width, HEIGHT + LEGEND_LINE * len(names) + 4, title=title, name=name)
