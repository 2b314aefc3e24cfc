"""Maps as pictures: heat over the image, contact sheets, and the folder that they are written to."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from l2a_transfer.drawing import legible, plain_texts
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.explain.overlay import COLORMAP, SIGNED_COLORMAP, heat, overlay
from l2a_transfer.files import check_folder, check_free, leftovers, replacing_all, write_whole
from l2a_transfer.lock import folder_lock, output_lock
from l2a_transfer.models.config import LEVELS

SHEET = "attention.png"


def contact_sheet(results: Sequence[ImageMaps], out: Path, *, title: str) -> None:
    """Write the contact sheet of `sheet_png` to a file.

    Raises
    ------
    OutputExistsError
        Where another process writes `out`, or it is no regular file.
    OSError
        Where the disk refuses; the error names the file.
    """
    with output_lock(out):
        write_whole(out, sheet_png(results, title=title))


@plain_texts()
def sheet_png(results: Sequence[ImageMaps], *, title: str) -> bytes:
    """A contact sheet as PNG: a row for each picture, with the picture, its maps over it, a scale and the peaks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    levels = list(results[0].maps)
    pairs = 2 if len(results) > 6 else 1
    rows, columns = math.ceil(len(results) / pairs), 1 + len(levels)
    figure = Figure(figsize=(2.2 * columns * pairs + 0.9, 2.35 * rows + 0.7), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns * pairs, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, result in enumerate(results):
        row, first = i % rows, (i // rows) * columns
        H, W = result.image.shape[:2]
        axes[row, first].imshow(result.image)
        axes[row, first].set_title(_shortened(legible(result.name)), fontsize=9)
        for k, level in enumerate(levels):
            axis = axes[row, first + 1 + k]
            axis.imshow(overlay(result.image, heat(result.maps[level], (W, H)), signed=result.kinds[level] == "signed"))
            axis.set_title(f"{level}, peak {result.peak(level):.3g} × mean", fontsize=9)
    if "signed" in results[0].kinds.values():
        colored = ScalarMappable(Normalize(-1, 1), SIGNED_COLORMAP)
        text = "value / largest size of a value in the map"
    else:
        colored, text = ScalarMappable(cmap=COLORMAP), "attention weight / largest weight of the map"
    scale = figure.colorbar(colored, ax=axes, fraction=0.03, pad=0.01)
    scale.set_label(text, fontsize=9)
    figure.suptitle(legible(title), fontsize=11)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": "l2a-transfer"})
    return stream.getvalue()


def _shortened(name: str, most: int = 26) -> str:
    return name if len(name) <= most else "…" + name[-(most - 1) :]


@contextmanager
def maps_folder(
    out: Path, stems: Sequence[str], *, overwrite: bool, maps: Sequence[str] = tuple(LEVELS)
) -> Iterator[None]:
    """Lock the folder `out`, made where it is not there, while the maps of pictures called `stems` are drawn.

    `maps`: every name that a map can have.

    Raises: OutputExistsError where a file of that name is there and `overwrite` is not given (what an interrupted run
    left may be replaced), is no regular file, `out` is no folder, or another process writes into it.
    """
    names = [SHEET, *(overlay_name(stem, level) for stem in stems for level in maps)]
    _check_free(out, names, overwrite=overwrite)
    with folder_lock(out):
        _check_free(out, names, overwrite=overwrite)  # whoever held it until now may have finished in the meantime
        yield


def write_maps(results: Sequence[ImageMaps], stems: Sequence[str], out: Path, *, title: str) -> list[Path]:
    """`STEM-LEVEL.png` of each picture and level, and `attention.png`, the contact sheet; all of them or none.

    Returns their paths, the sheet last. For use within `maps_folder`. Raises: OSError, naming the file, where the disk
    refuses.
    """
    paths = []
    with replacing_all(out) as put:
        put(SHEET, sheet_png(results, title=title))
        for stem, result in zip(stems, results, strict=True):
            for level, content in result.overlay_pngs().items():
                put(overlay_name(stem, level), content)
                paths.append(out / overlay_name(stem, level))
    return [*paths, out / SHEET]


def overlay_name(stem: str, level: str) -> str:
    return f"{stem}-{level}.png"


def _check_free(out: Path, names: Sequence[str], *, overwrite: bool) -> None:
    check_folder(out, "a set of pictures")
    replaced = leftovers(out)
    for name in names:
        check_free(out / name, overwrite=overwrite, replaced=replaced)
