"""Maps over pictures for print: overlays at a picture's own resolution, and a sheet of methods × pictures."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from l2a_transfer.drawing import legible, plain_texts
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.explain.painting import (
    State,
    Style,
    blended,
    heading_of,
    over_grey,
    prediction_of,
    scale_of,
    shortened,
    state_of,
    subject_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from l2a_transfer.explain.registry import MapKind

COLUMN, PAGE = 3.3, 6.9
"""Width in inches of a column, and of a page with two columns."""
NARROW, LEAST_CELL = 4, 0.7
"""Cells in a row that fit into a column; smallest width of a cell in inches."""
GAP, MARGIN, LINE = 0.04, 0.03, 0.115
SIZE = 6.5
"""Font size in points."""
LETTERS = 72 / SIZE / 0.58
"""Letters per inch, approximately."""
THUMBNAIL = 480
"""Longer side in pixels of a picture on a sheet, at most."""
HIGHEST = 1.5
"""Largest ratio of height to width of a cell."""


def overlay_file(picture: NDArray[np.uint8], maps: ImageMaps, level: str, style: Style, format: str) -> bytes:
    """One map over its picture.

    A PNG has exactly the pixels of the picture, and explains the colours in its description. PDF and SVG contain the
    picture at that resolution with the width of a column, a heading and a scale.
    """
    values, kind = maps.maps[level], maps.kinds[level]
    drawn, state = blended(picture, values, kind, style), state_of(values)
    if format != "png":
        return _overlay_figure(drawn, maps, level, style, format)
    if state:
        drawn = _labelled(drawn, state)
    subject = subject_of(maps)
    about = f" of {subject}" if subject else ""
    info = PngInfo()
    info.add_itxt("Description", f"{heading_of(maps, level)}{about}; strongest colour: {scale_of(values, kind)}")
    info.add_itxt("Software", "l2a-transfer")
    stream = io.BytesIO()
    Image.fromarray(drawn).save(stream, format="png", pnginfo=info, dpi=(style.dpi, style.dpi))
    return stream.getvalue()


@plain_texts()
def _labelled(picture: NDArray[np.uint8], word: str) -> NDArray[np.uint8]:
    """The picture (H, W, 3) with a word in the middle, two thirds as wide as the picture."""
    H, W = picture.shape[:2]
    figure = _new_figure(W / 100, H / 100, 100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(picture, aspect="auto", interpolation="nearest")
    axes.set_axis_off()
    _write_word(axes, word, min(72 / 100 * 0.67 * W / (0.55 * len(word)), 0.4 * H))
    return _pixels(figure, W, H)


def _write_word(axes: Axes, word: str, size: float) -> None:
    from matplotlib import patheffects

    axes.text(
        0.5,
        0.5,
        word,
        transform=axes.transAxes,
        fontsize=size,
        color="white",
        ha="center",
        va="center",
        path_effects=[patheffects.withStroke(linewidth=size / 8, foreground="black")],
    )


def _pixels(figure: Figure, W: int, H: int) -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    with Image.open(stream, formats=["PNG"]) as found:
        return np.asarray(found.convert("RGB").resize((W, H), Image.Resampling.NEAREST))


def _new_figure(width: float, height: float, dpi: int) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi)


def _saved(figure: Figure, style: Style, format: str) -> bytes:
    """The figure as bytes, which are reproducible because they contain no date."""
    import matplotlib

    date = {"png": {"Software": "l2a-transfer"}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[format]
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "l2a-transfer", "svg.fonttype": "path", "pdf.fonttype": 42}):
        figure.savefig(stream, format=format, dpi=style.dpi, metadata=date)
    return stream.getvalue()


@plain_texts()
def _overlay_figure(drawn: NDArray[np.uint8], maps: ImageMaps, level: str, style: Style, format: str) -> bytes:
    H, W = drawn.shape[:2]
    wide, high = COLUMN - 2 * MARGIN, (COLUMN - 2 * MARGIN) * H / W
    if high > HIGHEST * wide:
        wide, high = HIGHEST * wide * W / H, HIGHEST * wide
    subject = subject_of(maps)
    heading = [shortened(legible(maps.name), int(COLUMN * LETTERS)), heading_of(maps, level)]
    heading[1] += f", of {subject}" if subject else ""
    top, bottom = 2 * LINE + 3 * MARGIN, 0.45
    whole = top + high + bottom
    figure = _new_figure(COLUMN, whole, style.dpi)
    for k, line in enumerate(heading):
        figure.text(0.5, 1 - (MARGIN + k * LINE) / whole, line, fontsize=SIZE, ha="center", va="top")
    axes = figure.add_axes(((COLUMN - wide) / 2 / COLUMN, bottom / whole, wide / COLUMN, high / whole))
    axes.imshow(drawn, aspect="auto", interpolation="none")
    axes.set_axis_off()
    values, kind = maps.maps[level], maps.kinds[level]
    if state := state_of(values):
        _write_word(axes, state, 2 * SIZE)
        figure.text(0.5, 0.2 / whole, scale_of(values, kind), fontsize=SIZE, ha="center", va="center")
    else:
        largest = float(np.abs(values).max())
        _scale_bar(figure, kind, style, (COLUMN / 2 - 0.8, 0.28, 1.6, 0.09), [f"−{largest:.2g}", f"{largest:.2g}"])
    return _saved(figure, style, format)


def _scale_bar(
    figure: Figure, kind: MapKind, style: Style, at: tuple[float, float, float, float], ends: Sequence[str]
) -> None:
    """The colours over medium grey, as over a picture. `at`: left, bottom, width, height in inches."""
    width, height = figure.get_size_inches()
    signed = kind == "signed"
    values = np.linspace(-1 if signed else 0, 1, 256, dtype=np.float32)[None]
    axes = figure.add_axes((at[0] / width, at[1] / height, at[2] / width, at[3] / height))
    axes.imshow(over_grey(np.full((1, 256), 128, np.float32), values, kind, style), aspect="auto", extent=(0, 1, 0, 1))
    axes.set(yticks=[], xticks=[0, 0.5, 1] if signed else [0, 1])
    axes.set_xticklabels([ends[0], "0", ends[1]] if signed else ["0", ends[1]])
    axes.tick_params(labelsize=SIZE, length=2, width=0.5, pad=1)
    axes.spines[:].set(linewidth=0.5)


@dataclass(frozen=True)
class SheetRow:
    """A picture on the sheet: its name, its caption, and cells of small picture, heading, scale and state."""

    name: str
    said: str
    picture: NDArray[np.uint8]
    cells: tuple[tuple[NDArray[np.uint8], str, str, State], ...]
    kinds: frozenset[str]


def sheet_row(picture: NDArray[np.uint8], found: Sequence[ImageMaps], style: Style) -> SheetRow:
    """The row of a picture on the sheet, using little memory."""
    small = _thumbnail(picture)
    cells = [
        (
            blended(small, values, maps.kinds[level], style),
            heading_of(maps, level),
            _short_template(maps) + scale_of(values, maps.kinds[level]),
            state_of(values),
        )
        for maps in found
        for level, values in maps.maps.items()
    ]
    first = found[0]
    about = next((maps for maps in found if maps.target not in (None, first.predicted)), None)
    said = f": predicted {prediction_of(first)}" + (f"; explained {subject_of(about)}" if about else "")
    name = legible(first.name)
    return SheetRow(name, said, small, tuple(cells), frozenset(kind for maps in found for kind in maps.kinds.values()))


def _short_template(maps: ImageMaps) -> str:
    """The class of the template of a group map, which differs between pictures."""
    return "" if maps.template is None else f"{shortened(legible(maps.template), 8)} "


def _thumbnail(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    H, W = picture.shape[:2]
    scale = THUMBNAIL / max(H, W)
    if scale >= 1:
        return picture
    size = max(1, round(W * scale)), max(1, round(H * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


@plain_texts()
def explain_sheet(rows: Sequence[SheetRow], style: Style, format: str, *, title: str) -> bytes:
    """The sheet: a row for each picture with its maps, and the scales at the bottom.

    It is as wide as a column of a paper; if the maps do not fit, as a page; if they still do not fit, wider.
    """
    cells = 1 + len(rows[0].cells)
    width = COLUMN if cells <= NARROW else max(PAGE, cells * (LEAST_CELL + GAP) + 2 * MARGIN)
    cell = (width - 2 * MARGIN - (cells - 1) * GAP) / cells
    headings = [textwrap.wrap(heading, max(8, int(cell * LETTERS))) for _, heading, _, _ in rows[0].cells]
    title_lines = textwrap.wrap(legible(title), int(width * LETTERS)) or [""]
    highs = [cell * min(row.picture.shape[0] / row.picture.shape[1], HIGHEST) for row in rows]
    top = MARGIN + LINE * (len(title_lines) + max(map(len, headings))) + GAP
    kinds = frozenset[str]().union(*(row.kinds for row in rows))
    whole = top + sum(highs) + (2 * LINE + 2 * GAP) * len(rows) + 0.5
    figure = _new_figure(width, whole, style.dpi)
    figure.text(0.5, 1 - MARGIN / whole, "\n".join(title_lines), fontsize=SIZE, ha="center", va="top", linespacing=1.1)
    for k, lines in enumerate(headings):
        middle = MARGIN + (k + 1) * (cell + GAP) + cell / 2
        figure.text(
            middle / width,
            1 - (top - 1.5 * GAP) / whole,
            "\n".join(lines),
            fontsize=SIZE,
            ha="center",
            va="baseline",
            linespacing=1,
        )
    below = top
    for row, high in zip(rows, highs, strict=True):
        name = shortened(row.name, max(8, int(width * LETTERS) - len(row.said)))
        figure.text(MARGIN / width, 1 - (below + LINE) / whole, f"{name}{row.said}", fontsize=SIZE, va="baseline")
        below += LINE + GAP
        pictures = [(row.picture, "", "", ""), *row.cells]
        for k, (picture, _, scale, state) in enumerate(pictures):
            left = MARGIN + k * (cell + GAP)
            axes = figure.add_axes((left / width, 1 - (below + high) / whole, cell / width, high / whole))
            small = max(picture.shape[:2]) < 100
            axes.imshow(picture, interpolation="nearest" if small else "antialiased")
            axes.set_anchor("N")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color="0.8", linewidth=0.3)  # shows where a white picture ends
            if state:
                _write_word(axes, state, min(1.5 * SIZE, cell * 72 / 5))
            figure.text(
                (left + cell / 2) / width, 1 - (below + high + LINE) / whole, scale, fontsize=SIZE - 0.5, ha="center"
            )
        below += high + LINE + GAP
    _scales(figure, kinds, style, width)
    return _saved(figure, style, format)


def _scales(figure: Figure, kinds: frozenset[str], style: Style, width: float) -> None:
    """One scale for maps from 0 up, and one for signed maps, if the sheet has such maps."""
    bars: list[tuple[MapKind, str, tuple[str, str]]] = []
    if kinds - {"signed"}:
        bars.append(("non-negative", "share of the map's largest value", ("0", "1")))
    if "signed" in kinds:
        bars.append(("signed", "share of the map's largest |value|", ("−1", "1")))
    wide = min(1.35, (width - 0.5) / len(bars) - 0.2)
    height = figure.get_size_inches()[1]
    for k, (kind, text, ends) in enumerate(bars):
        middle = width * (k + 1) / (len(bars) + 1) if len(bars) == 1 else width * (2 * k + 1) / 4
        _scale_bar(figure, kind, style, (middle - wide / 2, 0.3, wide, 0.08), ends)
        figure.text(middle / width, 0.04 / height, text, fontsize=SIZE - 0.5, ha="center", va="baseline")
