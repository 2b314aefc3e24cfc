"""The figure of a sanity check: similarity with the maps of the intact network, after each randomised part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from l2a_transfer.explain.checks.results import LABELS, PERMUTED, SanityResults, SanityRow
from l2a_transfer.report.charts import DASHES, SHAPES, Scale, colour, round_scale
from l2a_transfer.report.markup import Markup, element, joined, shortened
from l2a_transfer.report.svg import Figure, width_in_ems

TITLES = {
    "cascade": "random from the logits down to …",
    "independent": "this part alone random",
    LABELS: "trained on permuted labels",
}
MEASURE = "spearman"
STEP, LEFT, RIGHT, TOP, HEIGHT, BELOW, GAP = 58.0, 42.0, 14.0, 30.0, 190.0, 58.0, 6.0
"""Sizes in pixels: distance of two parts, left, right and top margins of a panel, height of its plot, space for the
names below it, and the gap between panels."""
LEGEND_LINE, LEGEND_COLUMNS, FONT = 17.0, 3, 11.0
DODGE = 3.2
"""Offset in pixels between the points of two lines, so that intervals do not overlap."""


def figure(results: SanityResults) -> Figure:
    """Spearman's rank correlation over the random parts, with one panel per order and one line per map."""
    styles = _styles(results)
    parts = [part.name for part in results.parts]
    ends = [0.0, 1.0]
    for row in results.rows:
        found = row.similarity[MEASURE]
        ends += [] if found.mean is None else list(found.ci95 or (found.mean, found.mean))
    y = round_scale(max(-1.0, min(ends)), 1.0)
    panels, top, width = [], 0.0, 0.0
    for order in results.orders:
        columns = [PERMUTED] if order == LABELS else parts
        drawn, wide = _panel(results.rows_of(order=order), order, columns, y, styles, alone=order == LABELS)
        panels.append(element("g", drawn, transform=f"translate(0 {top:.0f})"))
        top, width = top + TOP + HEIGHT + BELOW + GAP, max(width, wide)
    width = max(width, 440.0)
    legend, height = _legend(results, styles, width, top)
    label = (
        f"Sanity check of {results.network}: Spearman's rank correlation of its maps with those of random networks; "
        "the tables have the numbers"
    )
    return Figure(label, joined([*panels, legend]), width, top + height, name="sanity.svg", title=_title(results))


def _title(results: SanityResults) -> tuple[str, str]:
    n, seeds = len(results.ids), len(results.seeds)
    return (
        f"Maps of {shortened(results.network, 60)} and of random networks",
        f"mean over {n} images and {seeds} random networks, 95 % interval over images",
    )


def _styles(results: SanityResults) -> dict[str, tuple[int, int]]:
    """Label of a map → the number of its method, which sets its colour, and its number among the method's maps."""
    methods = list(dict.fromkeys(row.method for row in results.rows))
    styles: dict[str, tuple[int, int]] = {}
    for row in results.rows:
        if row.label not in styles:
            number = methods.index(row.method)
            styles[row.label] = (number, sum(method == number for method, _ in styles.values()))
    return styles


def _panel(
    rows: Sequence[SanityRow],
    order: str,
    columns: Sequence[str],
    y: Scale,
    styles: dict[str, tuple[int, int]],
    *,
    alone: bool,
) -> tuple[Markup, float]:
    """A panel and its width."""
    step = 360.0 if alone else STEP
    right, bottom = LEFT + step * len(columns), TOP + HEIGHT

    def up(value: float) -> float:
        return bottom - y.at(value) * HEIGHT

    drawn = [element("text", TITLES[order], x=LEFT, y=TOP - 12, class_="title")]
    drawn += [
        element("line", x1=LEFT, x2=right, y1=up(v), y2=up(v), class_="zero" if v == 0 else "grid") for v, _ in y.ticks
    ]
    drawn += [element("text", name, x=LEFT - 6, y=up(v) + 3.8, text_anchor="end") for v, name in y.ticks]
    middle = {part: LEFT + (k + 0.5) * step for k, part in enumerate(columns)}
    for part, x in middle.items():
        drawn.append(element("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
        where = f"translate({x:.1f} {bottom + 16:.1f})" + ("" if alone else " rotate(-32)")
        name = shortened(part, 14)
        drawn.append(element("text", name, transform=where, text_anchor="middle" if alone else "end"))
    drawn.append(element("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    drawn.append(
        element(
            "text",
            "Spearman's correlation",
            transform=f"translate(11 {TOP + HEIGHT / 2:.1f}) rotate(-90)",
            text_anchor="middle",
        )
    )
    dodge = min(DODGE, 0.8 * STEP / max(1, len(styles))) * (8 if alone else 1)
    for place, (label, style) in enumerate(styles.items()):
        aside = dodge * (place - (len(styles) - 1) / 2)
        own = [row for row in rows if row.label == label and row.similarity[MEASURE].mean is not None]
        drawn.append(_line(own, {part: x + aside for part, x in middle.items()}, up, label, style))
    return joined(drawn), right + RIGHT


def _line(
    rows: Sequence[SanityRow],
    across: dict[str, float],
    up: Callable[[float], float],
    label: str,
    style: tuple[int, int],
) -> Markup:
    method, variant = style
    drawn, places = [element("title", label)], []
    for row in rows:
        found, x = row.similarity[MEASURE], across[row.part]
        if found.ci95 is not None:
            low, high = (up(min(1.0, max(-1.0, end))) for end in found.ci95)
            drawn.append(element("line", x1=x, x2=x, y1=low, y2=high, class_="line whisker"))
        assert found.mean is not None
        places.append((x, up(found.mean)))
    path = "".join(f"{'L' if k else 'M'}{x:.1f} {y:.1f}" for k, (x, y) in enumerate(places))
    # Parts that are randomised one at a time are not a sequence, so the line is only a visual aid.
    kind = "line thin" if rows and rows[0].order == "independent" else "line"
    drawn.append(element("path", d=path, class_=kind, stroke_dasharray=DASHES[variant % len(DASHES)]))
    for x, y in places:
        drawn.append(_marker(x, y, method + variant))
    return element("g", *drawn, class_=colour(method))


def _marker(x: float, y: float, shape: int) -> Markup:
    where = f"translate({x:.1f} {y:.1f})"
    return element("path", d=SHAPES[shape % len(SHAPES)], transform=where, class_="marker")


def _legend(
    results: SanityResults, styles: dict[str, tuple[int, int]], width: float, top: float
) -> tuple[Markup, float]:
    """A sample of each line with its name, and their total height."""
    undefined = {
        label for label in styles if all(not row.similarity[MEASURE].n for row in results.rows_of(label=label))
    }
    names = {label: label + (" (constant)" if label in undefined else "") for label in styles}
    widest = 44 + FONT * max(width_in_ems(name) for name in names.values())
    columns = max(1, min(LEGEND_COLUMNS, int((width - LEFT) / widest)))
    drawn = []
    for k, (label, (method, variant)) in enumerate(styles.items()):
        x, y = LEFT + (k % columns) * (width - LEFT) / columns, top + (k // columns + 0.5) * LEGEND_LINE
        dash = DASHES[variant % len(DASHES)]
        drawn.append(
            element(
                "g",
                element("line", x1=x, x2=x + 28, y1=y, y2=y, class_="line", stroke_dasharray=dash),
                _marker(x + 14, y, method + variant),
                class_=colour(method),
            )
        )
        drawn.append(element("text", shortened(names[label], 40), x=x + 34, y=y + 4))
    return joined(drawn), LEGEND_LINE * (-(-len(styles) // columns)) + 10
