"""The best, median and worst pictures of one row, each with its map, the mask and the binarised map."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.data.masks import MaskSource, match
from l2a_transfer.explain.overlay import colors
from l2a_transfer.localization.compare import class_mean
from l2a_transfer.localization.lines import Line, maps_of_lines
from l2a_transfer.localization.localize import Localization
from l2a_transfer.localization.metrics import Map, Mask, enlarged, levels_of, scaled
from l2a_transfer.localization.pictures import pictured
from l2a_transfer.localization.tally import COLUMNS, THRESHOLDS

EACH = 3
"""Number of pictures of each kind."""
SIDE = 240
"""Smallest longer side in pixels of a picture on the sheet."""
LARGEST = 640
TRUE_COLOUR, CHOSEN_COLOUR = (255, 255, 255), (0, 229, 255)
OPACITY = 0.55


@dataclass(frozen=True)
class SheetPicture:
    """A picture of the sheet: "best", "median" or "worst", its name, its measure, and a PNG with both outlines."""

    rank: str
    name: str
    value: float
    png: bytes


@dataclass(frozen=True)
class Sheet:
    """The pictures of one row. `label`: name of the row; `measure`: what they are ordered by."""

    label: str
    measure: str
    pictures: tuple[SheetPicture, ...]


def sheet_of(found: Localization) -> Sheet:
    """The sheet of the row with the best class mean of the measure used for comparisons."""
    measure = found.results.config.measure or "jaccard"
    kept = np.flatnonzero(found.measured)
    labels = found.source.labels[found.selection.rows[kept]]
    own = [line for line in found.lines if line.opened is not None]
    line = max(own, key=lambda one: class_mean(one.tally.values[kept, COLUMNS[measure]], labels))
    values = line.tally.values[kept, COLUMNS[measure]]
    order = kept[np.argsort(-values, kind="stable")]
    pictures = [
        SheetPicture(rank, name, float(line.tally.values[place, COLUMNS[measure]]), png)
        for rank, places in _ranks(order)
        for place in places
        for name, png in _drawn(found, line, int(place))
    ]
    return Sheet(line.label, measure, tuple(pictures))


def _ranks(order: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Positions of the best, median and worst pictures, without duplicates."""
    n = min(EACH, max(1, len(order) // 3))
    middle = (len(order) - n) // 2
    yield "best", order[:n]
    if len(order) >= 2 * n:
        if middle >= n and middle + n <= len(order) - n:
            yield "median", order[middle : middle + n]
        yield "worst", order[len(order) - n :]


def _drawn(found: Localization, line: Line, place: int) -> Iterator[tuple[str, bytes]]:
    config = dataclasses.replace(found.results.config, skip_unmasked=True)
    picture = pictured(found.source, found.masks, found.selection, place, config)
    if picture is None:
        return
    ((_, maps),) = maps_of_lines([line], [picture], config, found.source.classes)
    counted = ~picture.annotation.ignored
    H, W = counted.shape
    unit = scaled(enlarged(maps[0], (W, H)), counted, signed=line.is_signed)
    chosen = levels_of(unit) >= THRESHOLDS[line.tally.chosen()[line.tally.fold.of[place]]]
    yield picture.name, picture_png(picture.image, unit, picture.annotation.foreground, chosen & counted)


def picture_png(image: Image.Image, unit: Map, truth: Mask, chosen: Mask) -> bytes:
    """The picture with its map, the outline of the object in white and of the chosen pixels in cyan, as PNG."""
    W, H = image.size
    scale = min(LARGEST / max(W, H), max(1.0, SIDE / max(W, H)))
    size = (max(1, round(W * scale)), max(1, round(H * scale)))
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    heat = enlarged(unit, size)
    opacity = OPACITY * heat[..., None]
    mixed = (1 - opacity) * pixels + opacity * colors(np.clip(heat, 0, 1)).astype(np.float32)
    drawn = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    for mask, colour in ((chosen, CHOSEN_COLOUR), (truth, TRUE_COLOUR)):
        edge = outline(np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)))
        drawn[_grown(edge) & ~edge] = 0
        drawn[edge] = colour
    stream = io.BytesIO()
    Image.fromarray(drawn).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def outlined(image: Image.Image, masks: MaskSource, name: str) -> Image.Image:
    """The picture called `name`, with a white line with black edges around its object."""
    key = match([name], masks)[name]
    edge = outline(masks.read(key, image.size, None).foreground)
    drawn = np.array(image)
    drawn[_grown(edge) & ~edge] = 0
    drawn[edge] = TRUE_COLOUR
    return Image.fromarray(drawn)


def outline(mask: Mask) -> Mask:
    """Pixels of the mask with one of their four neighbours outside of the mask or the picture."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    found: Mask = mask & ~inner
    return found


def _grown(mask: Mask) -> Mask:
    """The mask with the four neighbours of its pixels."""
    padded = np.pad(mask, 1)
    found: Mask = mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return found
