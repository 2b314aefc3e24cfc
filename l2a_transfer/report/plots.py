"""PNG plots of results: accuracy bars with intervals, and confusion matrices. matplotlib is loaded when drawing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from l2a_transfer.drawing import legible, plain_texts
from l2a_transfer.evaluation.results import EvalDetail, EvalRow
from l2a_transfer.report.figures import unnamed_axis
from l2a_transfer.report.lookup import full_name, place_of
from l2a_transfer.report.markup import shortened
from l2a_transfer.wording import counted

NUMBERS_UP_TO = 20
NAMES_UP_TO, UNNAMED_INCHES = 250, 14.0
SHORT = 32


@plain_texts()
def accuracy_png(rows: Sequence[EvalRow]) -> bytes:
    """Mean class accuracy of every model and variant, one panel a data set (in low-shot: and k), with 95 % intervals
    and the level of guessing."""
    from matplotlib import colormaps

    panels = {place: [row for row in rows if place_of(row) == place] for place in dict.fromkeys(map(place_of, rows))}
    colors = {line: colormaps["tab10"](k % 10) for k, line in enumerate(dict.fromkeys(row.line for row in rows))}
    heights = [0.34 * len(members) + 0.75 for members in panels.values()]
    figure = _figure(9.5, sum(heights) + 0.6)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (place, members) in zip(axes, panels.items(), strict=True):
        values = np.array([100 * row.mean_class_accuracy for row in members])
        limits = 100 * np.array([row.mean_class_accuracy_ci95 for row in members])
        spread = np.stack([values - limits[:, 0], limits[:, 1] - values]).clip(min=0)
        upward = np.arange(len(members))
        shades = [(*colors[row.line][:3], 0.4 if row.variant else 0.75) for row in members]
        axis.barh(upward, values, height=0.7, color=shades)
        axis.errorbar(values, upward, xerr=spread, fmt="none", ecolor="black", elinewidth=1.2, capsize=3)
        for height, value, (_, high) in zip(upward, values, limits, strict=True):
            axis.text(max(value, high) + 1, height, f"{value:.1f}", va="center", fontsize=8)
        axis.axvline(100 * members[0].chance, color="black", linestyle=":", linewidth=1)
        axis.set_yticks(upward, apart([full_name(row) for row in members], 46), fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, 108)
        axis.set_xticks(range(0, 101, 10))
        axis.tick_params(axis="x", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        kind = "over test images" if members[0].interval == "score" else f"over {members[0].draws} draws"
        images = counted(members[0].n_test, "test image")
        title = f"{_short(str(place), 40)}, {members[0].protocol}, {images}; intervals: {kind}"
        axis.set_title(title, fontsize=9, loc="left")
    axes[-1].set_xlabel("mean class accuracy, % (with 95 % interval; dotted: guessing)", fontsize=9)
    return _png(figure, dpi=130)


@plain_texts()
def confusion_png(row: EvalRow, detail: EvalDetail) -> bytes:
    """One confusion matrix: share of each true class's test images by predicted class, rows adding up to 100 %.

    Cells carry numbers up to 20 classes, and axes class names up to 250.
    """
    from matplotlib.colors import Normalize, PowerNorm

    share, together = detail.confusion.picture()  # (S, S)
    share, classes = 100 * share, len(detail.classes)
    cell_inches = 0.36 if classes <= NUMBERS_UP_TO else 0.135
    side = max(3.6, cell_inches * classes) if classes <= NAMES_UP_TO else UNNAMED_INCHES
    fontsize = min(8.0, 0.72 * 72 * cell_inches)  # 72 points an inch
    figure = _figure(side + 2.6, side + 2.2)
    axis = figure.subplots()
    # Without numbers in the cells, a square-root scale keeps a few per cent of errors visible.
    norm = Normalize(0, 100) if classes <= NUMBERS_UP_TO else PowerNorm(0.5, 0, 100)
    picture = axis.imshow(share, cmap="Blues", norm=norm, interpolation="nearest")
    names = apart(detail.classes, SHORT) if classes <= NAMES_UP_TO else []
    places = np.arange(len(names))
    axis.set_xticks(places, names, rotation=90, fontsize=fontsize)
    axis.set_yticks(places, names, fontsize=fontsize)
    axis.tick_params(length=0, pad=1)
    if classes <= NUMBERS_UP_TO:
        for i, k in zip(*np.nonzero(share), strict=True):
            shade = "white" if share[i, k] > 55 else "black"
            axis.text(k, i, f"{share[i, k]:.0f}", ha="center", va="center", fontsize=7, color=shade)
    unnamed = "" if names else unnamed_axis(classes, together)
    axis.set_xlabel(f"predicted class{unnamed}", fontsize=9)
    axis.set_ylabel(f"true class{unnamed}", fontsize=9)
    value = f"mean class accuracy {100 * row.mean_class_accuracy:.1f} %"
    figure.suptitle(f"{_short(row.label, 50)}\non {_short(row.data, 40)}: {value}", fontsize=10)
    bar = figure.colorbar(picture, ax=axis, fraction=0.04, pad=0.02, aspect=30)
    bar.set_label("% of the true class's test images", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return _png(figure, dpi=130)


def _figure(width: float, height: float) -> Any:
    """A figure of its own, in inches, outside pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any, *, dpi: int) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": "l2a-transfer"})
    return stream.getvalue()


def _short(name: str, most: int) -> str:
    return shortened(legible(name), most)


def apart(names: Sequence[str], most: int) -> list[str]:
    """The names shortened, in letters that the fonts have; where two become the same, with their place among them."""
    short = [_short(name, most) for name in names]
    return [f"{k + 1}: {name}" if short.count(name) > 1 else name for k, name in enumerate(short)]
