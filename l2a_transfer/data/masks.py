"""Masks and boxes of pictures: open what `masks` names, such as `png:PATH`, and match masks with pictures.

A format is one file that registers its reader; no other code refers to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.decode import OTHER_PICTURES, SUFFIXES
from l2a_transfer.data.lists import read_list
from l2a_transfer.errors import ArgumentError, DataError
from l2a_transfer.registry import Registry

LABEL = "label"
"""A value of `mask_class`: the class of the picture's label."""
BEYOND = 1.0
"""How many pixels a box or polygon may extend beyond its picture, because of rounding; it is cropped."""
MAX_SHAPES = 10_000
"""Limit of boxes, polygons and run lengths per picture; an aerial picture of a city has thousands."""
MAX_PAINTED = 2_000_000_000
"""Limit of painted pixels per picture, summed over its objects; painting them takes up to ten seconds."""
ENDINGS = frozenset((*SUFFIXES, *OTHER_PICTURES, ".txt", ".mat"))


@dataclass(frozen=True)
class Annotation:
    """Where the object is in one picture.

    Parameters
    ----------
    foreground : ndarray of bool, shape (H, W)
        The pixels of the object.
    ignored : ndarray of bool, shape (H, W)
        Pixels that count neither as object nor as background. They do not overlap the foreground.
    boxes : ndarray of float64, shape (n, 4)
        x1, y1, x2, y2 in pixels from the upper left corner of the picture, x2 and y2 excluded; empty if no boxes
        are known.
    outlined : bool, default=True
        False if `foreground` is only the inside of `boxes`.
    """

    foreground: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    boxes: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4)))
    outlined: bool = True


class NoObjectError(DataError):
    """A picture has no object in its masks: no mask, or a mask without foreground."""


class MaskSource(Protocol):
    """Masks or boxes of pictures.

    Attributes
    ----------
    name : str
        The name in errors and reports.
    keys : sequence of str
        The annotated pictures, as POSIX paths.
    """

    @property
    def name(self) -> str: ...
    @property
    def keys(self) -> Sequence[str]: ...

    def read(self, key: str, size: tuple[int, int], wanted: str | None) -> Annotation:
        """The object in the picture that `key` names.

        Parameters
        ----------
        key : str
            One of `keys`.
        size : tuple of int
            Width and height of the picture in pixels.
        wanted : str or None
            The name or number of the class of objects; None for all.

        Raises
        ------
        NoObjectError
            If there is no such object in the picture.
        DataError
            If a file cannot be read or does not match the picture. The message contains its path.
        """


MaskReader = TypeVar("MaskReader", bound=Callable[[Path], MaskSource])


@dataclass(frozen=True)
class MaskFormat:
    """A format of masks. `masks` names it as `PREFIX:PATH`, or as `PREFIX` if it takes no path.

    Parameters
    ----------
    prefix : str
        The part before the colon.
    read : callable
        ``read(path)`` returns the mask source.
    takes : {"FOLDER", "FILE", ""}
        The part after the colon; "" for masks that ship with the package.
    """

    prefix: str
    read: Callable[[Path], MaskSource]
    takes: str

    @property
    def usage(self) -> str:
        """For example `png:FOLDER`."""
        return f"{self.prefix}:{self.takes}" if self.takes else self.prefix


MASKS: Registry[MaskFormat] = Registry(
    "mask format",
    "l2a_transfer.data.mask_pictures",
    "l2a_transfer.data.mask_coco",
    "l2a_transfer.data.mask_text",
    "l2a_transfer.data.mask_contours",
    "l2a_transfer.data.mask_bundled",
)


def register_masks(prefix: str, *, takes: str) -> Callable[[MaskReader], MaskReader]:
    """Register the decorated function as the reader of a mask format; for the parameters, see `MaskFormat`."""

    def register(read: MaskReader) -> MaskReader:
        MASKS.add(prefix, MaskFormat(prefix, read, takes), home=read.__module__)
        return read

    return register


def open_masks(masks: str) -> MaskSource:
    """Open masks or boxes on disk.

    Parameters
    ----------
    masks : str
        ``"png:FOLDER"``, ``"voc:FOLDER"``, ``"coco:FILE"``, ``"yolo:FOLDER"``, ``"csv:FILE"``,
        ``"caltech:FOLDER"``, or ``"airplanes-mini"``, which ships with the package.

    Returns
    -------
    MaskSource

    Raises
    ------
    ArgumentError
        For a format that does not exist.
    DataError
        If a path does not exist, or if a file is corrupt.
    """
    prefix, colon, where = masks.partition(":")
    spec = MASKS.get(prefix)
    if spec is None or bool(colon and where) != bool(spec.takes) or (colon and not spec.takes):
        usages = ", ".join(spec.usage for spec in MASKS.values())
        raise ArgumentError(f"masks must be one of {usages}; got {masks!r}")
    path = Path(os.path.expanduser(where))
    if not spec.takes:
        return spec.read(path)
    is_right = path.is_dir() if spec.takes == "FOLDER" else path.exists() and not path.is_dir()
    if not is_right:
        is_what = "no such file or folder" if not path.exists() else "a folder" if path.is_dir() else "not a folder"
        raise DataError(f"{path}: {is_what}, but {prefix}: needs a {spec.takes.lower()}", "name another as `masks`")
    return spec.read(path)


def match(ids: Sequence[str], masks: MaskSource) -> dict[str, str]:
    """Picture → key of its mask, for the pictures that have one.

    Names are compared without file extensions, and one must end with the other: `train/bird/1.jpg` matches the masks
    `train/bird/1.png`, `bird/1.png` and `1.png`, and `1.jpg` matches `bird/1.png`. The longest match is used.

    Raises
    ------
    DataError
        If two masks, or two pictures, match equally well.
    """
    whole: dict[str, list[str]] = {}
    by_tail: dict[str, list[str]] = {}
    for key in masks.keys:
        stem, *shorter = _tails(key)
        whole.setdefault(stem, []).append(key)
        for tail in shorter:
            by_tail.setdefault(tail, []).append(key)
    found: dict[str, str] = {}
    for name in ids:
        stem, *shorter = _tails(name)
        candidates = (whole.get(stem), by_tail.get(stem), *(whole.get(tail) for tail in shorter))
        own = next(filter(None, candidates), None)
        if own is None:
            continue
        if len(own) > 1:
            raise DataError(
                f"{masks.name}: {name} may have the mask {own[0]} or {own[1]}",
                "put the masks into the same folders as the pictures",
            )
        found[name] = own[0]
    _check_each_once(found, masks)
    return found


def _check_each_once(found: dict[str, str], masks: MaskSource) -> None:
    taken: dict[str, str] = {}
    for name, key in found.items():
        if key in taken:
            raise DataError(
                f"{masks.name}: {key} may be the mask of {taken[key]} or of {name}",
                "put the masks into the same folders as the pictures",
            )
        taken[key] = name


def without_ending(name: str) -> str:
    """A path without the extension of a picture or an annotation: `bird/1.jpg` → `bird/1`."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending.lower()}" in ENDINGS and "/" not in ending else name


def _tails(name: str) -> list[str]:
    """`a/b/1.jpg` → `a/b/1`, `b/1`, `1`."""
    parts = without_ending(name).split("/")
    return ["/".join(parts[k:]) for k in range(len(parts))]


def files_below(root: Path, endings: Iterable[str]) -> list[str]:
    """Files below `root` with one of these extensions, as sorted POSIX paths relative to it.

    Raises: DataError if there are none.
    """
    wanted = tuple(endings)
    found = []
    for folder, below, names in os.walk(root, followlinks=False):
        below[:] = sorted(name for name in below if not name.startswith("."))
        here = Path(folder).relative_to(root).as_posix()
        for name in names:
            if name.lower().endswith(wanted) and not name.startswith("."):
                found.append(name if here == "." else f"{here}/{name}")
    if not found:
        raise DataError(f"{root}: no {' or '.join(wanted)} in it", "name another folder as `masks`")
    return sorted(found)


def checked_boxes(boxes: NDArray[np.float64], size: tuple[int, int], where: str) -> NDArray[np.float64]:
    """Boxes (n, 4) cropped to the picture. Raises: DataError for a box outside it or without an area."""
    W, H = size
    for x1, y1, x2, y2 in boxes.tolist():
        shown = f"the box ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if not (x1 < x2 and y1 < y2):
            raise DataError(f"{where}: {shown} has no area; boxes are x1, y1, x2, y2")
        if min(x1, y1) < -BEYOND or x2 > W + BEYOND or y2 > H + BEYOND:
            raise DataError(f"{where}: {shown} lies outside the picture of {W} × {H} pixels")
    limits = np.array([W, H, W, H], dtype=np.float64)
    return np.clip(boxes, 0.0, limits)


class Canvas:
    """The pixels of one picture's objects, which are painted one by one.

    Parameters
    ----------
    size : tuple of int
        Width and height of the picture.
    name : str
        The name of the picture's mask in errors.

    Attributes
    ----------
    pixels : ndarray of bool, shape (H, W)
        True for pixels of an object.
    """

    def __init__(self, size: tuple[int, int], name: str) -> None:
        self.size, self.name = size, name
        self.pixels: NDArray[np.bool_] = np.zeros(size[::-1], dtype=np.bool_)
        self._shapes = self._painted = 0

    def spend(self, pixels: int) -> None:
        """Count one more shape, which takes as long to paint as this many pixels.

        Raises: DataError if the shapes of the picture would take too long to paint.
        """
        self._shapes += 1
        self._painted += pixels
        if self._shapes > MAX_SHAPES:
            raise DataError(f"{self.name}: more than {MAX_SHAPES:,} objects in one picture")
        if self._painted > MAX_PAINTED:
            raise DataError(f"{self.name}: objects with more than {MAX_PAINTED:,} pixels in total in one picture")

    def paint_box(self, box: Sequence[float]) -> None:
        """Paint the pixels whose centres lie in a box, or the middle pixel if there are none.

        Raises: DataError, same as `spend`.
        """
        (left, right), (top, bottom) = _span(box[0], box[2], self.size[0]), _span(box[1], box[3], self.size[1])
        self.spend((right - left) * (bottom - top))
        self.pixels[top:bottom, left:right] = True


def _span(low: float, high: float, most: int) -> tuple[int, int]:
    first, end = int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))
    if first >= end:
        first = min(int((low + high) / 2), most - 1)
        end = first + 1
    return first, end


def class_number(wanted: str) -> int | None:
    """The class number in `wanted`; None if it is a name."""
    return int(wanted) if re.fullmatch(r"[0-9]{1,9}", wanted) else None


def of_boxes(boxes: NDArray[np.float64], size: tuple[int, int], where: str) -> Annotation:
    """The annotation of a picture that has only boxes."""
    own, canvas = checked_boxes(boxes, size, where), Canvas(size, where)
    for box in own.tolist():
        canvas.paint_box(box)
    return Annotation(canvas.pixels, np.zeros_like(canvas.pixels), own, outlined=False)


def read_names(path: Path) -> list[str]:
    """The ids of pictures in a text file, one per line; empty lines are skipped.

    Raises: DataError if the file cannot be read or is not UTF-8.
    """
    try:
        text = read_list(path).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}", "name another list") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason}", "save it as UTF-8") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
