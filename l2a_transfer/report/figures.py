"""The report's figures as SVG: accuracies, low-shot curves, accuracy over C, confusion matrices.

The page and the separate files have the same drawings. SVG is sharp at any size, its names stay text, and it needs no
plotting library.
"""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from l2a_transfer.evaluation.results import EvalDetail, EvalRow
from l2a_transfer.report import charts, lookup
from l2a_transfer.report.charts import Line, Scale, curves, round_scale
from l2a_transfer.report.markup import Markup, element, joined, shortened
from l2a_transfer.report.svg import Figure, width_in_ems
from l2a_transfer.wording import counted

NUMBERS_UP_TO = 20
NAMES_UP_TO = 250
AXIS_NAME = 60.0
"""Half the width of "predicted class"."""
FONT_SIZE = 11.0
BAR, ROW, PANEL_TITLE, PANEL_AXIS = 300.0, 22.0, 26.0, 40.0
"""Sizes in the accuracy figure: width of the bars, height of a row, and space above and below the rows."""
PERCENT = Scale(0, 100, tuple((float(value), f"{value}") for value in range(0, 101, 20)))
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
DODGE = 0.05
"""Offset in doublings of k between the points of two models, so that whiskers do not overlap."""


def low_shot(data: str, rows: Sequence[EvalRow]) -> Markup:
    """Mean class accuracy over k images per class on a logarithmic axis, with one line per model."""
    models = {row.line: row.label for row in rows}
    shots = sorted({row.shots for row in rows if row.shots is not None})
    x = Scale(math.log2(shots[0]) - 0.35, math.log2(shots[-1]) + 0.35, tuple((math.log2(k), str(k)) for k in shots))
    y = round_scale(0.0, 100 * max(row.mean_class_accuracy_ci95[1] for row in rows))
    lines = []
    for place, (series, label) in enumerate(models.items()):
        own = sorted((row for row in rows if row.line == series), key=lambda row: row.shots or 0)
        aside = DODGE * (place - (len(models) - 1) / 2)
        points = tuple((math.log2(row.shots or 1) + aside, 100 * row.mean_class_accuracy) for row in own)
        intervals = tuple((100 * low, 100 * high) for low, high in (row.mean_class_accuracy_ci95 for row in own))
        lines.append(Line(series, label, points, intervals))
    return curves(
        lines,
        x,
        y,
        guide=100 * rows[0].chance,
        x_label="training images per class, k",
        y_label="mean class accuracy, %",
        label=f"Mean class accuracy on {data} over the training images per class; the tables have the numbers",
    )


def c_path(rows: Sequence[EvalRow], series: Sequence[int], title: str) -> Markup:
    """Cross-validation accuracy on held-out training rows over C, with one line per draw and a marker at the chosen C.

    `series`: the colour of each row.
    """
    grids = [C for row in rows for grid in row.c_grid_draws for C in grid]
    found = [value for row in rows for draw in row.cv_accuracy_draws for value in draw]
    low, high = math.log10(min(grids)), math.log10(max(grids))
    decades = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    every = math.ceil(len(decades) / 8) if decades else 1
    ticks = tuple((float(n), f"10{str(n).translate(SUPERSCRIPTS)}") for n in decades if n % every == 0)
    x = Scale(low - 0.2, high + 0.2, ticks)
    y = round_scale(100 * min(found), 100 * max(found))
    lines = []
    for row, own in zip(rows, series, strict=True):
        name = lookup.full_name(row)
        for draw, (grid, values, C) in enumerate(zip(row.c_grid_draws, row.cv_accuracy_draws, row.C, strict=True)):
            if grid:
                points = tuple((math.log10(c), 100 * value) for c, value in zip(grid, values, strict=True))
                label = f"{name}, draw {draw}: C = {C:g}"
                lines.append(Line(own, label, points, marked=(grid.index(C),), thin=row.draws > 1))
    return curves(
        lines,
        x,
        y,
        x_label="C",
        y_label="cross-validation accuracy, %",
        label=f"Cross-validation accuracy over C, {title}; the chosen C is marked; the tables have the numbers",
    )


def has_path(row: EvalRow) -> bool:
    """Whether C was chosen among several."""
    return any(len(grid) > 1 for grid in row.c_grid_draws)


def accuracy_bar(row: EvalRow) -> Markup:
    """Mean class accuracy with its interval, on the scale `PERCENT`, and the level of guessing."""
    low, high = row.mean_class_accuracy_ci95
    return charts.interval_bar(
        100 * row.mean_class_accuracy,
        (100 * low, 100 * high),
        PERCENT,
        series=row.line,
        guides=[(100 * row.chance, "guess")],
        label=f"{100 * row.mean_class_accuracy:.1f} %",
    )


def accuracy(rows: Sequence[EvalRow]) -> Figure:
    """Mean class accuracy of every model and variant with its interval; one panel per data set (and k, in low-shot)."""
    panels = {
        place: [row for row in rows if lookup.place_of(row) == place]
        for place in dict.fromkeys(map(lookup.place_of, rows))
    }
    names = {place: apart([lookup.full_name(row) for row in own], 46) for place, own in panels.items()}
    left = 18.0 + FONT_SIZE * max(width_in_ems(name) for own in names.values() for name in own)
    y, parts = 0.0, []
    for place, own in panels.items():
        first = own[0]
        kind = "over test images" if first.interval == "score" else f"over {first.draws} draws"
        heading = (
            f"{shortened(str(place), 40)}, {first.protocol}, {counted(first.n_test, 'test image')}; intervals {kind}"
        )
        parts.append(element("text", heading, x=8, y=y + 16, class_="title"))
        y += PANEL_TITLE
        for name, row in zip(names[place], own, strict=True):
            low, high = row.mean_class_accuracy_ci95
            numbers = f"{100 * row.mean_class_accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            parts.append(element("text", name, x=left - 10, y=y + ROW / 2 + 4, text_anchor="end"))
            parts.append(element("svg", accuracy_bar(row), x=left, y=y, width=BAR, height=ROW))
            parts.append(element("text", numbers, x=left + BAR + 14, y=y + ROW / 2 + 4))
            y += ROW
        parts.append(element("svg", charts.axis(PERCENT), x=left, y=y, width=BAR, height=20, class_="ticks"))
        y += PANEL_AXIS
    below = "mean class accuracy, % [95 % interval]; dotted: chance level"
    parts.append(element("text", below, x=left + BAR / 2, y=y + 4, text_anchor="middle"))
    label = "Mean class accuracy of every model with its 95 % interval; the tables have the numbers"
    return Figure(label, joined(parts), left + BAR + 110, y + 14)


def confusion(row: EvalRow, detail: EvalDetail) -> Figure:
    """Share of each true class's test images by predicted class.

    It is an image with one pixel per cell, enlarged without smoothing. Class names are drawn for up to 250 classes, and
    numbers, as text, for up to 20. With more than a thousand classes, neighbours share a pixel.
    """
    share, together = detail.confusion.picture()  # (S, S)
    K = len(detail.classes)
    has_numbers, has_names = K <= NUMBERS_UP_TO, K <= NAMES_UP_TO
    cell = 27.0 if has_numbers else 9.0 if has_names else max(1.0, 900.0 / K)
    size = FONT_SIZE if has_numbers else 7.5
    names = apart(detail.classes, 24) if has_names else []
    margin = 24.0 + max((size * width_in_ems(name) for name in names), default=0.0)
    side = K * cell
    parts = [element("image", href=picture_of(share, exact=has_numbers), x=margin, y=4, width=side, height=side)]
    parts.append(element("rect", x=margin, y=4, width=side, height=side, class_="frame"))
    for k, name in enumerate(names):
        middle = (k + 0.5) * cell
        parts.append(element("text", name, x=margin - 4, y=4 + middle + 0.35 * size, text_anchor="end", font_size=size))
        turned = f"translate({margin + middle + 0.35 * size:.1f} {side + 8:.1f}) rotate(-90)"
        parts.append(element("text", name, transform=turned, text_anchor="end", font_size=size))
    for i, k in zip(*np.nonzero(share), strict=True) if has_numbers else ():
        parts.append(
            element(
                "text",
                f"{100 * share[i, k]:.0f}",
                x=margin + (k + 0.5) * cell,
                y=4 + (i + 0.5) * cell + 3.8,
                text_anchor="middle",
                font_size=10.5,
                class_="over" if share[i, k] > 0.55 else None,
            )
        )
    unnamed = "" if names else unnamed_axis(K, together)
    across = {"x": margin + side / 2, "y": side + margin}
    upward = {"transform": f"translate(12 {4 + side / 2:.1f}) rotate(-90)"}
    parts.append(element("text", f"predicted class{unnamed}", **across, font_size=12, text_anchor="middle"))
    parts.append(element("text", f"true class{unnamed}", **upward, font_size=12, text_anchor="middle"))
    model, data, after = shortened(row.label, 50), shortened(row.data, 40), lookup.place_of(row).after
    return Figure(
        f"Confusion matrix of {row.label}{after}{row.data}, {K} classes; its most frequent confusions are listed in "
        "the table below it",
        joined(parts),
        margin + side / 2 + max(side / 2 + 6, AXIS_NAME),
        margin + side + 8,
        kind="matrix",
        title=(
            f"{model}{after}{data}",
            f"mean class accuracy {100 * row.mean_class_accuracy:.1f} %",
            "% of each true class" if has_numbers else "share of each true class, by its square root",
        ),
    )


def apart(names: Sequence[str], most: int) -> list[str]:
    """The names shortened; names that become the same are numbered."""
    short = [shortened(name, most) for name in names]
    often = Counter(short)
    return [f"{k + 1}: {name}" if often[name] > 1 else name for k, name in enumerate(short)]


def unnamed_axis(K: int, together: int) -> str:
    """The label of an axis with too many classes for names."""
    return f" ({K}, in the order of results.json{f', {together} a pixel' if together > 1 else ''})"


def picture_of(share: np.ndarray, *, exact: bool) -> str:
    """A PNG with one pixel per cell as a data URI: white at 0, dark blue at 1. If the cells have no numbers, a square
    root keeps a few per cent of errors visible."""
    level = share if exact else np.sqrt(share)
    ends = np.array([[255, 255, 255], [8, 48, 107]], dtype=np.float64)
    middle = np.array([107, 174, 214], dtype=np.float64)
    at = level[..., None]
    rgb = np.where(at < 0.5, ends[0] + (middle - ends[0]) * 2 * at, middle + (ends[1] - middle) * (2 * at - 1))
    stream = io.BytesIO()
    Image.fromarray(rgb.round().astype(np.uint8)).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
