"""Read an image source from the arrays of an `.npz` file."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.names import (
    MAX_CLASSES,
    check_class_count,
    check_split_count,
    in_order,
    merged,
    split_named,
    text_of,
)
from l2a_transfer.data.npz_arrays import Npz, open_npz
from l2a_transfer.data.reading import Reading
from l2a_transfer.data.registry import register_format
from l2a_transfer.data.sources import ArraySource, ImageSource, numbered
from l2a_transfer.errors import DataError
from l2a_transfer.memory import require_memory
from l2a_transfer.wording import counted

log = logging.getLogger(__name__)
NAME_BYTES = 200
"""Memory per row while a set is opened: its label and its id as a string, in a list, a tuple and a set."""
LAST_CHARACTER = 0x10FFFF


@register_format("npz", takes="FILE", example="photos.npz", suffixes=(".npz",))
def read_npz(where: str) -> ImageSource:
    """Pictures, labels and splits as arrays of an `.npz` file.

    `images` uint8 (N, H, W) or (N, H, W, 3), and optionally `labels` (N,) or (N, 1) integers, `classes` (K,) names,
    `ids` (N,) and `split` (N,) names. Alternatively, as in MedMNIST, `train_images`, `train_labels`, `val_…`,
    `test_…`. Names may be text or UTF-8 bytes. Nothing is unpickled. Raises: DataError naming the file and the key.
    """
    path = Path(where)
    with open_npz(path) as file:
        return _read_npz(path, file)


def _read_npz(path: Path, file: Npz) -> ImageSource:
    headers = file.arrays
    given = _texts(path, file, "classes") if "classes" in headers else None
    prefixes = [key.removesuffix("images") for key in headers if key == "images" or key.endswith("_images")]
    split_of = {prefix: split_named(prefix[:-1]) or prefix[:-1] or "all" for prefix in prefixes}
    if not prefixes or ("" in prefixes and len(prefixes) > 1) or len(set(split_of.values())) < len(prefixes):
        raise DataError(
            f"{path}: needs 'images', or '<split>_images' for each split; it has {', '.join(headers) or 'none'}"
        )
    order = in_order(set(split_of.values()))
    prefixes.sort(key=lambda p: order.index(split_of[p]))
    parts = []
    _require_names(path, sum(sum(headers[f"{prefix}images"].shape[:1]) for prefix in prefixes))
    for prefix in prefixes:
        images = headers[f"{prefix}images"]
        if (
            images.dtype != np.uint8
            or not (len(images.shape) == 3 or (len(images.shape) == 4 and images.shape[3] == 3))
            or not images.bytes
        ):
            raise DataError(
                f"{path}: '{prefix}images' must be uint8 (N, H, W) or (N, H, W, 3), not empty; "
                f"got {images.dtype} {images.shape}"
            )
        rows = images.shape[0]
        found = headers.get(f"{prefix}labels")
        if found is not None and (math.prod(found.shape) != rows or found.dtype.kind not in "iu"):
            raise DataError(f"{path}: '{prefix}labels' must be {rows} integers, got {found.dtype} {found.shape}")
        own = np.full(rows, -1) if found is None else file.read(f"{prefix}labels").reshape(-1)
        parts.append(own.astype(np.int64))
    if len({headers[f"{prefix}images"].shape[1:] for prefix in prefixes}) > 1:
        raise DataError(f"{path}: the pictures of all splits must have the same shape")
    low, high = (int(f([f(labels) for labels in parts])) for f in (min, max))
    count = len(given) if given else high + 1
    if given:
        check_class_count(f"{path}: 'classes'", count)
    if low < -1 or high >= count or count > MAX_CLASSES:
        raise DataError(
            f"{path}: labels must be −1 or between 0 and {count - 1 if given else MAX_CLASSES - 1}; got {low}…{high}"
        )
    used = {"classes", *(f"{prefix}{part}" for prefix in prefixes for part in ("images", "labels"))}
    used |= {"ids", "split"} if "" in prefixes else set()
    if unused := [key for key in (*headers, *file.others) if key not in used]:
        log.warning("%s: ignored arrays: %s", path, ", ".join(unused))
    classes, labels = merged(given or [str(k) for k in range(count)], np.concatenate(parts))
    splits = tuple(split_of[prefix] for prefix in prefixes)
    lengths = [len(own) for own in parts]
    source = ArraySource(
        name=f"npz:{path.stem}",
        classes=classes,
        splits=splits,
        ids=tuple(name for split, rows in zip(splits, lengths, strict=True) for name in numbered(split, rows)),
        labels=labels.astype(np.int32),
        split=np.repeat(np.arange(len(splits)), lengths).astype(np.uint8),
        pictures=_pictures(file, [f"{prefix}images" for prefix in prefixes]),
    )
    from_names = ", ".join(f"{prefix}images → {split_of[prefix]}" for prefix in prefixes)
    reading = Reading("no array 'split': one split" if "" in prefixes else f"names of arrays, {from_names}")
    source = dataclasses.replace(source, reading=reading)
    return _named_rows(path, source, file) if "" in prefixes else source


def _require_names(path: Path, rows: int, size: int = 0) -> None:
    """Raises: MemoryLimitError if the names of this many rows, of `size` bytes each, do not fit into memory.

    A name is a Python object, which is far larger than a compressed picture of one pixel.
    """
    require_memory(
        rows * (NAME_BYTES + 2 * size), f"{path}: to have {counted(rows, 'name')} in memory", "split the file"
    )


def _pictures(file: Npz, names: list[str]) -> NDArray[np.uint8]:
    """The pictures of all splits in one array, read without a copy."""
    file.check_size(names)
    headers = [file.arrays[name] for name in names]
    pictures = np.empty((sum(header.shape[0] for header in headers), *headers[0].shape[1:]), dtype=np.uint8)
    at = 0
    for name, header in zip(names, headers, strict=True):
        file.read_into(name, pictures[at : at + header.shape[0]])
        at += header.shape[0]
    return pictures


def _named_rows(path: Path, source: ArraySource, file: Npz) -> ArraySource:
    """The source with the ids and splits in an `.npz`."""
    splits, split, ids, reading = source.splits, source.split, source.ids, source.reading
    if "split" in file.arrays:
        shape = file.arrays["split"].shape
        if shape != (len(source),):
            raise DataError(f"{path}: 'split' must have {counted(len(source), 'name')}, got {shape}")
        given = [name.strip() for name in _texts(path, file, "split")]
        own = [split_named(name) or name for name in given]
        splits = in_order(set(own))
        check_split_count(f"{path}: 'split'", splits)
        split = np.array([splits.index(name) for name in own], dtype=np.uint8)
        said = ", ".join(f"{name} → {split_named(name) or name}" for name in sorted(set(given))[:5])
        reading = Reading(f"the array 'split', {said}")
    if "ids" in file.arrays:
        ids = tuple(_texts(path, file, "ids"))
        if len(ids) != len(source) or len(set(ids)) != len(ids):
            raise DataError(f"{path}: 'ids' must be {len(source)} unique names")
    elif "split" in file.arrays:
        ids = tuple(numbered("row", len(source)))
    return dataclasses.replace(source, splits=splits, ids=ids, split=split, reading=reading)


def _texts(path: Path, file: Npz, key: str) -> list[str]:
    """The names in an array of text or bytes. Raises: DataError if they are not valid UTF-8 or Unicode."""
    header = file.arrays[key]
    _require_names(path, math.prod(header.shape), header.dtype.itemsize)
    values = file.read(key)
    if values.dtype.kind == "U":  # NumPy accepts invalid code points, which later cause Python errors
        codes = np.ascontiguousarray(values).reshape(-1).view(f"{values.dtype.byteorder}u4")
        if codes.size and codes.max() > LAST_CHARACTER:
            raise DataError(f"{path}: '{key}' contains numbers that are not characters", "save it again")
    try:
        return [text_of(name) for name in values.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: '{key}' must be text or bytes in UTF-8: {error}") from error
