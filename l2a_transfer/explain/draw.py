"""Draw maps over their images, one PNG each and all on a contact sheet, and write them to a folder."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from l2a_transfer.drawing import legible, plain_texts
from l2a_transfer.errors import ArgumentError
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.explain.overlay import COLORMAP, SIGNED_COLORMAP, heat, overlay
from l2a_transfer.files import check_folder, check_free, leftovers, replacing_all, write_whole
from l2a_transfer.lock import folder_lock, output_lock
from l2a_transfer.models.config import LEVELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHEET = "attention.png"
CELL, GAP, MARGIN, HEADING, TITLE_LINE, SCALE, BAR, BAR_HEIGHT = 2.15, 0.1, 0.12, 0.24, 0.22, 0.62, 4.2, 0.12
"""Layout of a contact sheet in inches: width of a picture, gap between pictures, outer margin, space above a picture,
height of a title line, space for the scale at the bottom, and its width and height."""
HIGHEST = 1.6
"""Height of a picture relative to its width above which it is drawn narrower than its cell."""
LETTERS = 11.2
"""Letters per inch in the title."""
MAX_PICTURES = 500
"""Maximum number on a sheet. matplotlib cannot draw more than 65,535 pixels per side, and needs minutes for that many
axes."""


def contact_sheet(results: Sequence[ImageMaps], out: Path, *, title: str) -> None:
    """Write the contact sheet of `sheet_png` to a file.

    Raises
    ------
    ArgumentError
        For more than MAX_PICTURES.
    OutputExistsError
        If another process writes `out`, or `out` is not a regular file.
    OSError
        If the file cannot be written. The error names the file.
    """
    with output_lock(out):
        write_whole(out, sheet_png(results, title=title))


@plain_texts()
def sheet_png(results: Sequence[ImageMaps], *, title: str) -> bytes:
    """A contact sheet as PNG.

    Each image has a row: the image itself, then each of its maps drawn over it with the map's peak. Rows are as high as
    their images. More than six images are drawn in two columns. One color scale at the bottom applies to the whole
    sheet.

    Raises: ArgumentError for more than MAX_PICTURES.
    """
    _check_count(len(results))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    levels = list(results[0].maps)
    pairs = 2 if len(results) > 6 else 1
    rows, columns = math.ceil(len(results) / pairs), 1 + len(levels)
    heights = [max(_height(result) for result in results[row::rows]) for row in range(rows)]
    width = MARGIN + (CELL + GAP) * columns * pairs - GAP + MARGIN
    lines = textwrap.wrap(legible(title), int(width * LETTERS)) or [""]
    top = MARGIN + TITLE_LINE * len(lines)
    whole = top + sum(heights) + (HEADING + GAP) * rows + SCALE
    figure = Figure(figsize=(width, whole), dpi=110)
    FigureCanvasAgg(figure)
    said = figure.text(0.5, 1 - MARGIN / whole, "\n".join(lines), fontsize=11, ha="center", va="top")
    said.set_fontsize(11 * min(1.0, (width - 2 * MARGIN) * figure.dpi / max(1.0, said.get_window_extent().width)))

    def add_axes(left: float, below: float, wide: float, high: float) -> Axes:
        """Axes with a size in inches; `below`: distance from the figure's upper edge."""
        return figure.add_axes((left / width, 1 - (below + high) / whole, wide / width, high / whole))

    for i, result in enumerate(results):
        row, first = i % rows, (i // rows) * columns
        below = top + sum(heights[:row]) + (HEADING + GAP) * row + HEADING
        pictures = [(result.image, _shortened(legible(result.name)))]
        size = (result.image.shape[1], result.image.shape[0])
        for level in levels:
            drawn = overlay(result.image, heat(result.maps[level], size), signed=result.kinds[level] == "signed")
            pictures.append((drawn, f"{level}, peak {result.peak(level):.3g} × mean"))
        for k, (picture, heading) in enumerate(pictures):
            axis = add_axes(MARGIN + (CELL + GAP) * (first + k), below, CELL, heights[row])
            axis.imshow(picture)
            axis.set_anchor("N")
            axis.set_title(heading, fontsize=9, pad=3)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(color="0.8", linewidth=0.5)  # shows where a white picture ends
    if "signed" in results[0].kinds.values():
        colored = ScalarMappable(Normalize(-1, 1), SIGNED_COLORMAP)
        text = "value / largest size of a value in the map"
    else:
        colored, text = ScalarMappable(cmap=COLORMAP), "attention weight / largest weight of the map"
    bar = min(BAR, width - 4 * MARGIN)
    scale = figure.colorbar(
        colored, cax=add_axes((width - bar) / 2, whole - SCALE, bar, BAR_HEIGHT), orientation="horizontal"
    )
    scale.ax.tick_params(labelsize=8)
    scale.set_label(text, fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": "l2a-transfer"})
    return stream.getvalue()


def _height(result: ImageMaps) -> float:
    """Height in inches of a picture at the width of a cell; a very high picture is drawn narrower."""
    H, W = result.image.shape[:2]
    return float(CELL * min(H / W, HIGHEST))


def _shortened(name: str, most: int = 26) -> str:
    """The name, or an ellipsis and its end, with at most `most` characters."""
    return name if len(name) <= most else "…" + name[-(most - 1) :]


@contextmanager
def maps_folder(
    out: Path, stems: Sequence[str], *, overwrite: bool, maps: Sequence[str] = tuple(LEVELS)
) -> Iterator[None]:
    """Create the folder `out` if needed, and hold its lock while maps are drawn.

    Parameters
    ----------
    out : Path
        The folder.
    stems : sequence of str
        Names of the images in file names.
    overwrite : bool
        Whether files may be replaced. Those of an interrupted run may always be replaced.
    maps : sequence of str
        All possible names of maps.

    Raises
    ------
    ArgumentError
        For more than MAX_PICTURES.
    OutputExistsError
        If a file exists and `overwrite` is false, if one is not a regular file, if `out` is not a folder, or if another
        process writes into it.
    """
    _check_count(len(stems))
    names = [SHEET, *(overlay_name(stem, level) for stem in stems for level in maps)]
    _check_free(out, names, overwrite=overwrite)
    with folder_lock(out):
        _check_free(out, names, overwrite=overwrite)  # the previous holder of the lock may have written files
        yield


def write_maps(results: Sequence[ImageMaps], stems: Sequence[str], out: Path, *, title: str) -> list[Path]:
    """Write `STEM-LEVEL.png` for each image and map, and the contact sheet `attention.png`: all files or none.

    Call it within `maps_folder`. Returns the paths, the sheet last. Raises: OSError naming the file that cannot be
    written.
    """
    paths = []
    with replacing_all(out) as put:
        put(SHEET, sheet_png(results, title=title))
        for stem, result in zip(stems, results, strict=True):
            for level, content in result.overlay_pngs().items():
                put(overlay_name(stem, level), content)
                paths.append(out / overlay_name(stem, level))
    return [*paths, out / SHEET]


def _check_count(pictures: int) -> None:
    if pictures > MAX_PICTURES:
        raise ArgumentError(
            f"a sheet can have at most {MAX_PICTURES} pictures, got {pictures:,}",
            "draw them in several runs, each with its own `out`",
        )


def overlay_name(stem: str, level: str) -> str:
    """File name of one map of one image."""
    return f"{stem}-{level}.png"


def _check_free(out: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Raises: OutputExistsError as in `maps_folder`, for the files `names`."""
    check_folder(out, "a set of pictures")
    replaced = leftovers(out)
    for name in names:
        check_free(out / name, overwrite=overwrite, replaced=replaced)
