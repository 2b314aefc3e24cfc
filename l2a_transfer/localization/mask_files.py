"""Binarised maps as PNG files, for weakly supervised segmentation."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.data.masks import without_ending
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.files import check_folder, check_free, leftovers, replacing_all
from l2a_transfer.localization.lines import Line, maps_of_lines
from l2a_transfer.localization.localize import Localization
from l2a_transfer.localization.metrics import LEVELS, Map, enlarged, levels_of, scaled
from l2a_transfer.localization.networks import PREDICTED, predicted
from l2a_transfer.localization.pictures import Pictured, batches
from l2a_transfer.localization.tally import THRESHOLDS
from l2a_transfer.lock import folder_lock
from l2a_transfer.text import csv_cell

LIST = "masks.csv"
"""Written last, so that the folder is complete if this file exists."""
COLUMNS = ("row", "picture", "file", "index", "class", "threshold")
MOST, DEEPEST = 120, 8
"""Longest part of a path in bytes, and most parts, that every file system supports."""


@contextmanager
def masks_folder(out: Path, *, overwrite: bool) -> Iterator[None]:
    """Hold the lock of the folder `out` while masks are written.

    Raises: OutputExistsError if it contains masks and `overwrite` is false, is not a folder, or another process writes
    into it.
    """
    _check(out, overwrite=overwrite)
    with folder_lock(out):
        _check(out, overwrite=overwrite)
        yield


def _check(out: Path, *, overwrite: bool) -> None:
    check_folder(out, "a set of masks")
    check_free(out / LIST, overwrite=overwrite, what="the masks", replaced=leftovers(out))


@contextmanager
def writing_masks(found: Localization, out: Path) -> Iterator[Path]:
    """Write the binarised map of each row except controls, as one PNG per picture, at the picture's size.

    A pixel is 0 for the background, and 1 + the index of the class in the network's classes for the object; files have
    16 bits if 8 are too few. The class is the one that the map explains, or the predicted one. The threshold of a
    picture was chosen on other pictures. Call it within `masks_folder`. All files appear when the block ends, or none
    after an error.

    Yields
    ------
    Path
        The list of all files, `masks.csv`.
    """
    config = found.results.config
    own = [line for line in found.lines if line.opened is not None]
    labels = [line.label for line in own]
    folders = dict(zip(labels, _names([label.replace("/", "_") for label in labels]), strict=True))
    names = _names([found.source.ids[row] for row in found.selection.rows])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    with replacing_all(out) as put:
        for pictures in batches(found.source, found.masks, found.selection.again(), config, 1):
            for line, maps in maps_of_lines(own, pictures, config, found.source.classes):
                classes = _classes(line, pictures, found)
                for picture, values, index in zip(pictures, maps, classes.tolist(), strict=True):
                    level = int(THRESHOLDS[line.tally.chosen()[line.tally.fold.of[picture.place]]])
                    file = f"{folders[line.label]}/{names[picture.place]}.png"
                    put(file, mask_png(_levels(line, picture, values) >= level, index + 1))
                    assert line.opened is not None
                    known = line.opened.card.classes
                    row = (line.label, picture.name, file, index + 1, known[index] if known else "", level / LEVELS)
                    writer.writerow([csv_cell(cell) for cell in row])
        put(LIST, text.getvalue().encode("utf-8", "backslashreplace"), moved_last=True)
        yield out / LIST
        (out / LIST).unlink(missing_ok=True)  # remove the list of an earlier run before masks are moved


def _levels(line: Line, picture: Pictured, values: Map) -> NDArray[np.int64]:
    """A map (h, w) at the size of its picture, as levels (H, W)."""
    W, H = picture.image.size
    unit = scaled(enlarged(values, (W, H)), np.ones((H, W), dtype=np.bool_), signed=line.is_signed)
    return levels_of(unit)


def mask_png(chosen: NDArray[np.bool_], index: int) -> bytes:
    """A grey PNG with `index` where the mask is, and 0 elsewhere."""
    stream = io.BytesIO()
    values = np.where(chosen, index, 0)
    Image.fromarray(values.astype(np.uint8 if index < 256 else np.uint16)).save(stream, format="PNG")
    return stream.getvalue()


def _classes(line: Line, pictures: list[Pictured], found: Localization) -> NDArray[np.int64]:
    """The network's class for each picture: the one that the map explains, or the predicted one."""
    config, opened = found.results.config, line.opened
    assert opened is not None
    about = METHODS[line.name.method].class_specific
    if config.target != PREDICTED and about:
        return np.array(opened.targets(pictures, config, found.source.classes), dtype=np.int64)
    return predicted(opened.network, opened.pixels(pictures, config.side))


def _names(names: list[str]) -> list[str]:
    """Distinct file names without a suffix that stay in their folder and that every file system supports."""
    found: list[str] = []
    taken: dict[str, int] = {}
    for name in names:
        parts = [_part(part) for part in without_ending(name).split("/")]
        *folders, last = [part for part in parts if part.strip("._")][-DEEPEST:] or ["picture"]
        own = "/".join([*(f"{part}_" if part.lower().endswith(".png") else part for part in folders), last])
        unique, k = own, taken.get(own.casefold(), 1)
        while unique.casefold() in taken:
            k += 1
            unique = f"{own}+{k}"
        taken[own.casefold()] = k
        taken.setdefault(unique.casefold(), 1)
        found.append(unique)
    return found


def _part(text: str) -> str:
    return re.sub(r"[^\w.@+-]+", "_", text).encode("utf-8", "replace")[-MOST:].decode("utf-8", "ignore")
