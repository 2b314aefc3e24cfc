"""Boxes and polygons as text: a CSV file of boxes, or one YOLO file per picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.lists import read_list
from l2a_transfer.data.masks import (
    Annotation,
    Canvas,
    NoObjectError,
    checked_boxes,
    files_below,
    of_boxes,
    register_masks,
)
from l2a_transfer.data.polygons import paint_polygon
from l2a_transfer.errors import DataError

MAX_CSV_BYTES = 64 << 20
LARGEST = 1e9
"""Largest allowed coordinate."""
YOLO_BOX, YOLO_POLYGON = 5, 7
"""Numbers per line: a class and a box, or a class and at least three corners."""


@dataclass(frozen=True)
class CsvBoxes:
    """Boxes of a CSV file: picture → list of (line, box, class)."""

    path: Path
    rows: dict[str, list[tuple[int, tuple[float, ...], str]]]

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def keys(self) -> Sequence[str]:
        return tuple(self.rows)

    def read(self, key: str, size: tuple[int, int], wanted: str | None) -> Annotation:
        """See `MaskSource.read`."""
        own = [row for row in self.rows[key] if wanted in (None, row[2])]
        if not own:
            raise NoObjectError(f"{self.path}: {key}: no box of class {wanted!r}")
        boxes = np.array([box for _, box, _ in own])
        return of_boxes(boxes, size, f"{self.path}: line {own[0][0]}: {key}")


@register_masks("csv", takes="FILE")
def read_csv(path: Path) -> CsvBoxes:
    """Read boxes as name,x1,y1,x2,y2[,class], with or without a header. Raises: DataError naming the line."""
    rows: dict[str, list[tuple[int, tuple[float, ...], str]]] = {}
    reader = csv.reader(io.StringIO(_text(path, MAX_CSV_BYTES), newline=""), strict=True)
    try:
        for fields in reader:
            line = reader.line_num
            if not fields or (line == 1 and fields[1:2] and not _is_number(fields[1])):
                continue
            if len(fields) not in (5, 6) or not fields[0].strip():
                raise DataError(f"{path}: line {line} is not name,x1,y1,x2,y2[,class]")
            box = _numbers(fields[1:5], f"{path}: line {line}")
            rows.setdefault(fields[0].strip(), []).append((line, box, fields[5].strip() if fields[5:] else ""))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from error
    if not rows:
        raise DataError(f"{path}: no boxes in it", "name another as `masks`")
    return CsvBoxes(path, rows)


@dataclass(frozen=True)
class YoloMasks:
    """Boxes and polygons of YOLO files, as fractions of the picture's width and height."""

    root: Path
    keys: Sequence[str]

    @property
    def name(self) -> str:
        return str(self.root)

    def read(self, key: str, size: tuple[int, int], wanted: str | None) -> Annotation:
        """See `MaskSource.read`; `wanted` is the number of a class."""
        path = self.root / key
        canvas = Canvas(size, str(path))
        boxes, outlined = [], True
        for number, line in enumerate(_text(path).splitlines(), 1):
            fields, where = line.split(), f"{path}: line {number}"
            if not fields or (wanted is not None and fields[0] != wanted):
                continue
            values = _numbers(fields, where)
            if len(values) == YOLO_BOX:
                boxes.append(checked_boxes(_yolo_box(values[1:], size)[None], size, where)[0])
                canvas.paint_box(boxes[-1].tolist())
                outlined = False
            elif len(values) >= YOLO_POLYGON and len(values) % 2:
                corners = np.array(values[1:]).reshape(-1, 2) * np.array(size)
                paint_polygon(canvas, corners, where)
                boxes.append(np.clip(np.concatenate([corners.min(axis=0), corners.max(axis=0)]), 0, size * 2))
            else:
                raise DataError(f"{where} is neither a class and a box nor a class and a polygon")
        if not boxes or not canvas.pixels.any():
            raise NoObjectError(f"{path}: no object{'' if wanted is None else f' of class {wanted!r}'}")
        return Annotation(canvas.pixels, np.zeros_like(canvas.pixels), np.array(boxes), outlined)


def _yolo_box(values: tuple[float, ...], size: tuple[int, int]) -> NDArray[np.float64]:
    x, y, width, height = values
    W, H = size
    return np.array([(x - width / 2) * W, (y - height / 2) * H, (x + width / 2) * W, (y + height / 2) * H])


@register_masks("yolo", takes="FOLDER")
def read_yolo(path: Path) -> YoloMasks:
    """A folder of YOLO files, one per picture."""
    return YoloMasks(path, files_below(path, (".txt",)))


def _text(path: Path, most: int = 16 << 20) -> str:
    """Raises: DataError if the file cannot be read or is not UTF-8."""
    try:
        return read_list(path, most).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}", "name another as `masks`") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason}", "save it as UTF-8") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(fields: Sequence[str], where: str) -> tuple[float, ...]:
    """Raises: DataError if a field is not a number, or is too large."""
    values = []
    for text in fields:
        if not _is_number(text) or not abs(float(text)) < LARGEST:  # also rejects NaN
            raise DataError(f"{where}: {text[:40]!r} is not a number")
        values.append(float(text))
    return tuple(values)
