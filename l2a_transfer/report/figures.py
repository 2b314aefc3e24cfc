"""The report's figures as SVG: low-shot curves, what each C did, confusion matrices."""

from __future__ import annotations

import base64
import io
import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image

from l2a_transfer.evaluation.results import EvalDetail, EvalRow
from l2a_transfer.report import lookup
from l2a_transfer.report.charts import Line, Scale, curves, round_scale
from l2a_transfer.report.markup import Markup, element, shortened

NUMBERS_UP_TO = 20
NAMES_UP_TO = 250
AXIS_NAME = 60.0
"""Half as wide as "predicted class"."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
DODGE = 0.05
"""How far, in doublings of k, one model's points stand beside the next one's, so that whiskers do not cover."""


def low_shot(data: str, rows: Sequence[EvalRow]) -> Markup:
    """Mean class accuracy over k images a class, on a logarithmic axis; a line a model."""
    models = {row.line: row.label for row in rows}
    shots = sorted({row.shots for row in rows if row.shots is not None})
    x = Scale(math.log2(shots[0]) - 0.35, math.log2(shots[-1]) + 0.35, tuple((math.log2(k), str(k)) for k in shots))
    y = round_scale(0.0, 100 * max(row.mean_class_accuracy_ci95[1] for row in rows))
    lines = []
    for place, (series, label) in enumerate(models.items()):
        own = sorted((row for row in rows if row.line == series), key=lambda row: row.shots or 0)
        aside = DODGE * (place - (len(models) - 1) / 2)
        lines.append(Line(
            series,
            label,
            tuple((math.log2(row.shots or 1) + aside, 100 * row.mean_class_accuracy) for row in own),
            tuple((100 * row.mean_class_accuracy_ci95[0], 100 * row.mean_class_accuracy_ci95[1]) for row in own),
        ))  # fmt: skip
    return curves(
        lines, x, y, guide=100 * rows[0].chance, x_label="training images a class, k",
        y_label="mean class accuracy, %",
        label=f"Mean class accuracy on {data} over the training images a class; the tables have the numbers",
    )  # fmt: skip


def c_path(rows: Sequence[EvalRow], series: Sequence[int], title: str) -> Markup:
    """Share of held-out training rows right over C: a line a draw, a marker where C was chosen.
    `series`: of each row."""
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
                lines.append(Line(
                    own,
                    f"{name}, draw {draw}: C = {C:g}",
                    tuple((math.log10(c), 100 * value) for c, value in zip(grid, values, strict=True)),
                    marked=(grid.index(C),),
                    thin=row.draws > 1,
                ))  # fmt: skip
    return curves(
        lines, x, y, x_label="C", y_label="held-out training rows right, %",
        label=f"Cross-validation accuracy over C on {title}; the C that was chosen is marked and stands in the tables",
    )  # fmt: skip


def has_path(row: EvalRow) -> bool:
    """Whether C was chosen among several."""
    return any(len(grid) > 1 for grid in row.c_grid_draws)


def confusion(detail: EvalDetail, label: str) -> Markup:
    """Share of each true class's test images by predicted class: a picture of one pixel a cell, enlarged without
    smoothing, under class names (up to 250) and, up to 20 classes, numbers that are text. Of more than a thousand
    classes, neighbours share a pixel."""
    share, together = detail.confusion.picture()  # (S, S)
    K = len(detail.classes)
    cell = 27.0 if K <= NUMBERS_UP_TO else 9.0 if K <= NAMES_UP_TO else max(1.0, 900.0 / K)
    size = 11.0 if K <= NUMBERS_UP_TO else 7.5
    names = [shortened(name, 24) for name in detail.classes] if K <= NAMES_UP_TO else []
    margin = 24.0 + max((size * _ems(name) for name in names), default=0.0)
    side = K * cell
    parts = [element("image", href=_picture(share, exact=K <= NUMBERS_UP_TO), x=margin, y=4, width=side, height=side)]
    parts.append(element("rect", x=margin, y=4, width=side, height=side, class_="frame"))
    for k, name in enumerate(names):
        middle = (k + 0.5) * cell
        parts.append(element("text", name, x=margin - 4, y=4 + middle + 0.35 * size, text_anchor="end", font_size=size))
        turned = f"translate({margin + middle + 0.35 * size:.1f} {side + 8:.1f}) rotate(-90)"
        parts.append(element("text", name, transform=turned, text_anchor="end", font_size=size))
    if K <= NUMBERS_UP_TO:
        for i, k in zip(*np.nonzero(share), strict=True):
            parts.append(element(
                "text", f"{100 * share[i, k]:.0f}", x=margin + (k + 0.5) * cell, y=4 + (i + 0.5) * cell + 3.8,
                text_anchor="middle", font_size=10.5, class_="over" if share[i, k] > 0.55 else None,
            ))  # fmt: skip
    unnamed = "" if names else unnamed_axis(K, together)
    parts.append(element("text", f"predicted class{unnamed}", x=margin + side / 2, y=side + margin, font_size=12,
                         text_anchor="middle"))  # fmt: skip
    parts.append(element("text", f"true class{unnamed}", transform=f"translate(12 {4 + side / 2:.1f}) rotate(-90)",
                         font_size=12, text_anchor="middle"))  # fmt: skip
    width, height = margin + side / 2 + max(side / 2 + 6, AXIS_NAME), margin + side + 8
    return element(
        "svg", *parts, class_="matrix", width=width, height=height, viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img", aria_label=label,
    )  # fmt: skip


def unnamed_axis(K: int, together: int) -> str:
    """What stands beside an axis of so many classes that it has no names."""
    return f" ({K}, in the order of results.json{f', {together} a pixel' if together > 1 else ''})"


def _ems(name: str) -> float:
    """About how wide a name is, in units of its font's size."""
    return sum(1.05 if unicodedata.east_asian_width(letter) in "WF" else 0.57 for letter in name)


def _picture(share: np.ndarray, *, exact: bool) -> str:
    """A PNG of one pixel a cell as a data URI: white at 0, dark blue at 1. Without numbers in the cells a square root
    keeps a few per cent of errors visible."""
    level = share if exact else np.sqrt(share)
    ends = np.array([[255, 255, 255], [8, 48, 107]], dtype=np.float64)
    middle = np.array([107, 174, 214], dtype=np.float64)
    at = level[..., None]
    rgb = np.where(at < 0.5, ends[0] + (middle - ends[0]) * 2 * at, middle + (ends[1] - middle) * (2 * at - 1))
    stream = io.BytesIO()
    Image.fromarray(rgb.round().astype(np.uint8)).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
