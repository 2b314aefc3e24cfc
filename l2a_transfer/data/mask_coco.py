"""Masks and boxes in COCO's format: one JSON file with polygons, run lengths and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.masks import Annotation, Canvas, NoObjectError, checked_boxes, class_number, register_masks
from l2a_transfer.data.polygons import paint_polygon, paint_runs
from l2a_transfer.documents import ANYTHING, NUMBER, either, integer, list_of, parse, table, text
from l2a_transfer.errors import DataError, unknown_name
from l2a_transfer.inputs import read_input
from l2a_transfer.memory import require_memory_to_parse

MAX_BYTES = 256 << 20
_RUNS = table({"size": list_of(integer(), length=2), "counts": either(text(), list_of(integer()))}, others=ANYTHING)
COCO = table(
    {
        "images": list_of(
            table({"id": integer(), "file_name": text(), "width": integer(1), "height": integer(1)}, others=ANYTHING)
        ),
        "annotations": list_of(
            table(
                {"image_id": integer(), "category_id": integer()},
                optional={
                    "bbox": list_of(NUMBER, length=4),
                    "segmentation": either(list_of(list_of(NUMBER)), _RUNS),
                    "iscrowd": integer(0, 1),
                },
                others=ANYTHING,
            )
        ),
    },
    optional={"categories": list_of(table({"id": integer(), "name": text()}, others=ANYTHING))},
    others=ANYTHING,
)


@dataclass(frozen=True)
class CocoMasks:
    """The objects of a COCO file, by picture name."""

    path: Path
    sizes: dict[str, tuple[int, int]]
    objects: dict[str, list[dict[str, Any]]]
    categories: dict[str, int]

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def keys(self) -> Sequence[str]:
        return tuple(self.sizes)

    def read(self, key: str, size: tuple[int, int], wanted: str | None) -> Annotation:
        """See `MaskSource.read`. Crowds are ignored."""
        where = f"{self.path}: {key}"
        if self.sizes[key] != size:
            W, H = self.sizes[key]
            raise DataError(f"{where}: annotated at {W} × {H} pixels, but the picture has {size[0]} × {size[1]}")
        objects = self.objects.get(key, [])
        if wanted is not None:
            category = self._category(wanted)
            objects = [own for own in objects if own["category_id"] == category]
        canvas, crowds = Canvas(size, where), Canvas(size, where)
        boxes, outlined = [], True
        for own in objects:
            box, is_outlined = _paint(crowds if own.get("iscrowd") else canvas, own, where)
            if not own.get("iscrowd"):
                outlined = outlined and is_outlined
                boxes += [box] if box is not None else []
        foreground = canvas.pixels
        if not foreground.any():
            raise NoObjectError(f"{where}: no object{'' if wanted is None else f' of class {wanted!r}'}")
        return Annotation(foreground, crowds.pixels & ~foreground, np.array(boxes).reshape(-1, 4), outlined)

    def _category(self, wanted: str) -> int:
        if wanted in self.categories:
            return self.categories[wanted]
        number = class_number(wanted)
        if number is not None and number in self.categories.values():
            return number
        raise unknown_name("mask_class", wanted, self.categories)


def _paint(canvas: Canvas, own: dict[str, Any], where: str) -> tuple[NDArray[np.float64] | None, bool]:
    """Paint one object and return its box, and whether it has an outline."""
    size, box = canvas.size, None
    if "bbox" in own:
        x, y, width, height = map(float, own["bbox"])
        box = checked_boxes(np.array([[x, y, x + width, y + height]]), size, where)[0]
    shape = own.get("segmentation") or None
    if shape is None:
        if box is None:
            raise DataError(f"{where}: an object without a box and a segmentation")
        canvas.paint_box(box.tolist())
        return box, False
    if isinstance(shape, dict):
        if tuple(shape["size"]) != size[::-1]:
            raise DataError(f"{where}: run lengths for {shape['size'][1]} × {shape['size'][0]} pixels")
        paint_runs(canvas, shape["counts"], where)
        return box, True
    for polygon in shape:
        if len(polygon) % 2:
            raise DataError(f"{where}: a polygon must have an even number of coordinates, got {len(polygon)}")
        paint_polygon(canvas, np.array(polygon, dtype=np.float64).reshape(-1, 2), where)
    return box, True


@register_masks("coco", takes="FILE")
def read_coco(path: Path) -> CocoMasks:
    """The objects of a COCO file. Raises: DataError if it is not a COCO file."""
    try:
        content = read_input(path, MAX_BYTES)
        require_memory_to_parse(content, path)
        document = parse(content)
        COCO.check(document, "the file")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}", "name another as `masks`") from error
    except ValueError as error:
        raise DataError(f"{path}: not a COCO file: {error}", "name another as `masks`") from error
    names: dict[int, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for image in document["images"]:
        if image["id"] in names or image["file_name"] in sizes:
            raise DataError(f"{path}: the image {image['file_name']!r} is listed twice")
        names[image["id"]] = image["file_name"]
        sizes[image["file_name"]] = (image["width"], image["height"])
    objects: dict[str, list[dict[str, Any]]] = {}
    for own in document["annotations"]:
        if own["image_id"] not in names:
            raise DataError(f"{path}: an object belongs to the image {own['image_id']}, which is not listed")
        objects.setdefault(names[own["image_id"]], []).append(own)
    categories = {own["name"]: own["id"] for own in document.get("categories", [])}
    return CocoMasks(path, sizes, objects, categories)
