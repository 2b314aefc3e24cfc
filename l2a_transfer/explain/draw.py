"""Maps as pictures: heat over the image, contact sheets, and the folder that they are written to."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.drawing import legible, plain_texts
from l2a_transfer.explain.interface import AttentionMaps
from l2a_transfer.files import check_folder, check_free, leftovers, replacing_all, write_whole
from l2a_transfer.lock import folder_lock, output_lock
from l2a_transfer.models.config import LEVELS

COLORMAP, SIGNED_COLORMAP = "inferno", "coolwarm"
SHEET = "attention.png"


def heat(weights: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Weights (h, w) → float32 (H, W) between 0 and 1 for `size` = (W, H); the hottest position is exactly 1.

    Signed values become numbers between −1 and 1, the largest of which has the size 1.

    0 is no attention and not the coldest position, so that nearly uniform attention looks nearly uniform.
    Enlarged without interpolation: every pixel shows the weight of the position that it belongs to.
    """
    hottest = max(float(np.abs(weights).max()), float(np.finfo(np.float32).tiny))
    scaled = weights / hottest
    picture = Image.fromarray(scaled.astype(np.float32)).resize(size, Image.Resampling.NEAREST)
    return np.asarray(picture, dtype=np.float32)


def colors(values: NDArray[np.float32], *, signed: bool = False) -> NDArray[np.uint8]:
    """Heat between 0 and 1, (H, W) → uint8 (H, W, 3); 1 gets the colormap's top colour. Signed: between −1 and 1."""
    from matplotlib import colormaps

    rgba = (
        colormaps[SIGNED_COLORMAP](0.5 + values / 2, bytes=True) if signed else colormaps[COLORMAP](values, bytes=True)
    )
    return np.asarray(rgba[..., :3], dtype=np.uint8)


def overlay(image: NDArray[np.uint8], values: NDArray[np.float32], *, signed: bool = False) -> NDArray[np.uint8]:
    """Heat (H, W) in colour over a greyed picture (H, W, 3): where there is none, the picture; at 1 the top colour."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # (H, W)
    opacity = np.abs(values)[..., None]
    mixed = (1 - opacity) * grey[..., None] + opacity * colors(values, signed=signed).astype(np.float32)
    return np.asarray(np.clip(np.rint(mixed), 0, 255), dtype=np.uint8)


def contact_sheet(results: Sequence[AttentionMaps], out: Path, *, title: str) -> None:
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
def sheet_png(results: Sequence[AttentionMaps], *, title: str) -> bytes:
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
            axis.imshow(overlay(result.image, heat(result.maps[level], (W, H)), signed=result.signed))
            axis.set_title(f"{level}, peak {result.peak(level):.3g} × mean", fontsize=9)
    if results[0].signed:
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


def overlay_pngs(result: AttentionMaps) -> dict[str, bytes]:
    """Name of a map → a PNG of it over the picture, of the size that the network took."""
    H, W = result.image.shape[:2]
    found = {}
    for level, weights in result.maps.items():
        stream = io.BytesIO()
        drawn = overlay(result.image, heat(weights, (W, H)), signed=result.signed)
        Image.fromarray(drawn).save(stream, format="png")
        found[level] = stream.getvalue()
    return found


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


def write_maps(results: Sequence[AttentionMaps], stems: Sequence[str], out: Path, *, title: str) -> list[Path]:
    """`STEM-LEVEL.png` of each picture and level, and `attention.png`, the contact sheet; all of them or none.

    Returns their paths, the sheet last. For use within `maps_folder`. Raises: OSError, naming the file, where the disk
    refuses.
    """
    paths = []
    with replacing_all(out) as put:
        put(SHEET, sheet_png(results, title=title))
        for stem, result in zip(stems, results, strict=True):
            for level, content in overlay_pngs(result).items():
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
