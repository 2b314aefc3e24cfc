"""Readers for files of torchvision's data sets that torchvision does not verify by a checksum.

torchvision, SciPy and libhdf5 would read such files without a limit on size. The formats are MNIST's idx, USPS's bz2,
the MATLAB files of Stanford Cars, and PatchCamelyon's HDF5.
"""

from __future__ import annotations

import bz2
import math
import os
import weakref
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.lists import MAX_LIST_BYTES, read_list
from l2a_transfer.inputs import open_input
from l2a_transfer.wording import counted

MAX_IDX_BYTES = 512 << 20
MAX_USPS_BYTES = 256 << 20
"""Limit on the unpacked size. The published training file has 17 MB."""
MAX_CHUNK_BYTES = 256 << 20
MAX_KEPT_CHUNK = 64 << 20
MAX_ROWS = 10_000_000
USPS_LINE = 1 << 16
PCAM_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The array in a file of MNIST's idx format: uint8, with `axes` axes.

    Raises: ValueError for another format or number of axes, a wrong length, or too many rows; same as `read_list`.
    """
    content = read_list(path, MAX_IDX_BYTES)
    if content[:4] != bytes((0, 0, 8, axes)) or len(content) < 4 + 4 * axes:
        raise ValueError(f"{path.name} is not an idx file of bytes with {axes} axes")
    shape = tuple(np.frombuffer(content, dtype=">u4", offset=4, count=axes).tolist())
    if math.prod(shape) != len(content) - 4 - 4 * axes:
        raise ValueError(f"the length of {path.name} does not match its header")
    if shape[0] > MAX_ROWS:
        raise ValueError(f"{path.name} has {counted(shape[0], 'row')}; at most {MAX_ROWS:,} are read")
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)


def read_usps(path: Path) -> tuple[NDArray[np.uint8], list[int]]:
    """Images, uint8 (N, 16, 16), and N labels from 0 of a USPS file.

    Each line of the file has a class from 1, and 256 values between −1 and 1. Raises: ValueError for other content, and
    for a file that unpacks to too much.
    """
    pictures, labels, total = [], [], 0
    with open_input(path) as packed, bz2.open(packed) as file:
        while line := file.readline(USPS_LINE):
            total += len(line)
            if total > MAX_USPS_BYTES:
                raise ValueError(f"{path.name} unpacks to more than {MAX_USPS_BYTES >> 20} MiB")
            label, *values = line.decode().split()
            grey = np.asarray([value.rpartition(":")[2] for value in values], dtype=np.float32).reshape(16, 16)
            if not np.abs(grey).max() <= 1:
                raise ValueError(f"{path.name} has values outside −1…1")
            pictures.append(((grey + 1) / 2 * 255).astype(np.uint8))
            labels.append(int(label) - 1)
    return np.stack(pictures), labels


class PcamFile:
    """The images of one split of PatchCamelyon. They are read one at a time; each process opens the file once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = 0
        self._images: h5py.Dataset | None = None

    def __reduce__(self) -> tuple[type[PcamFile], tuple[Path]]:
        return PcamFile, (self.path,)

    def rows(self) -> int:
        """The number of images N.

        Raises: ValueError for a data set that is not uint8 (N, H, W, 3), or whose chunks are too large.
        """
        with h5py.File(self.path) as file:
            return int(_plain_dataset(file, "x", 3).shape[0])

    def picture(self, row: int) -> NDArray[np.uint8]:
        """One image, uint8 (H, W, 3)."""
        if self._images is None or self._process != os.getpid():  # a forked file shares its position
            self._images = self._opened()
            self._process = os.getpid()
        return np.asarray(self._images[row])

    def _opened(self) -> h5py.Dataset:
        """The images, with a cache for the last unpacked chunk, which usually contains the next image."""
        with h5py.File(self.path) as file:
            chunk = math.prod(_plain_dataset(file, "x", 3).chunks or ())
        file = h5py.File(self.path, rdcc_nbytes=max(1 << 20, min(chunk, MAX_KEPT_CHUNK)))
        weakref.finalize(self, file.close)
        return _plain_dataset(file, "x", 3)


def read_pcam_labels(path: Path) -> NDArray[np.int64]:
    """The labels of one split of PatchCamelyon, int64 (N,). Raises: ValueError as `PcamFile.rows`."""
    with h5py.File(path) as file:
        return np.asarray(_plain_dataset(file, "y", 1)[:], dtype=np.int64).reshape(-1)


def _plain_dataset(file: h5py.File, key: str, channels: int) -> h5py.Dataset:
    """The data set `key`, after all checks that make it safe to read. Raises: ValueError."""
    if not isinstance(file.get(key, getlink=True), h5py.HardLink) or not isinstance(file[key], h5py.Dataset):
        raise ValueError(f"has no data set {key!r} in the file itself")
    found = file[key]
    created = found.id.get_create_plist()
    if created.get_external_count() or found.is_virtual:
        raise ValueError(f"{key!r} is stored in other files")
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[3] != channels or found.shape[0] > MAX_ROWS:
        raise ValueError(f"{key!r} must be bytes (N, H, W, {channels}), got {found.dtype} {found.shape}")
    at_once = max(math.prod(found.shape[1:]), math.prod(found.chunks or ()), found.size if key == "y" else 0)
    if at_once > MAX_CHUNK_BYTES:
        raise ValueError(f"{key!r} cannot be read a few rows at a time")
    if not {created.get_filter(k)[0] for k in range(created.get_nfilters())} <= PCAM_FILTERS:
        raise ValueError(f"{key!r} uses a filter that could run any code")
    return found


# MATLAB's level 5 format is a sequence of elements, each with a type and a length. An array is an element that consists
# of elements.
COMPRESSED, MATRIX = 15, 14
CELL, STRUCT, CHAR = 1, 2, 4
NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
MAX_DEPTH = 4
"""How deep arrays may be nested. A list of structures of text has three levels."""
MAX_SIDES = 4
"""The most axes that an array may have. Lists have two.

The product of the sides of millions of axes would take hours, during which Python handles no signal.
"""


def read_mat(path: Path) -> dict[str, Any]:
    """Name → value of each variable in a MATLAB file of level 5.

    A structure array becomes a list of dictionaries, and a cell array a list. Text becomes str, and numbers become an
    array (N,).

    Raises: ValueError for other kinds of content, or if the file is truncated, nested too deeply, or unpacks to too
    many bytes.
    """
    content = read_list(path)
    if len(content) < 128 or content[124:128] != b"\x00\x01IM":
        raise ValueError(f"{path.name} is not a MATLAB file of level 5")
    found: dict[str, Any] = {}
    at, left = 128, MAX_LIST_BYTES
    while at < len(content):
        kind, data, at = _element(content, at)
        if kind == COMPRESSED:
            data = zlib.decompressobj().decompress(data, left + 1)
            left -= len(data)
            if left < 0:
                raise ValueError(f"{path.name} unpacks to more than {MAX_LIST_BYTES >> 20} MiB")
            kind, data, _ = _element(data, 0)
        if kind == MATRIX:
            name, value = _matrix(data, 0)
            found[name] = value
    return found


def _element(content: bytes, at: int) -> tuple[int, bytes, int]:
    """Type and bytes of the element at `at`, and the position of the next one. Raises: ValueError if truncated."""
    if at + 8 > len(content):
        raise ValueError("truncated")
    kind, size = (int.from_bytes(content[at + k : at + k + 4], "little") for k in (0, 4))
    start = at + 8
    if kind >> 16:  # at most four bytes, in the place of the length
        kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        if size > 4:
            raise ValueError("a small element of more than four bytes")
    if start + size > len(content):
        raise ValueError("truncated")
    end = start + size if kind == COMPRESSED else at + 8 if start == at + 4 else start + -(-size // 8) * 8
    return kind, content[start : start + size], end


def _matrix(content: bytes, depth: int) -> tuple[str, Any]:
    """The name and the value of an array. Raises: ValueError as `read_mat`."""
    if not content:
        return "", np.empty(0)
    if depth == MAX_DEPTH:
        raise ValueError(f"arrays are nested more than {MAX_DEPTH} levels deep")
    _, flags, at = _element(content, 0)
    _, sides, at = _element(content, at)
    _, name, at = _element(content, at)
    kind = flags[0] if flags else 0
    if len(sides) > 4 * MAX_SIDES:
        raise ValueError(f"has an array with {counted(len(sides) // 4, 'axis', 'axes')}; at most {MAX_SIDES} are read")
    count = math.prod(np.frombuffer(sides[: len(sides) // 4 * 4], dtype="<i4").tolist())
    if kind in (CELL, STRUCT) and not 0 <= count <= len(content) // 8:
        raise ValueError(f"declares {count:,} values, but is shorter")
    return name.decode("latin-1"), _value(kind, content, at, count, depth)


def _value(kind: int, content: bytes, at: int, count: int, depth: int) -> Any:
    """The value of an array of MATLAB's class `kind` with `count` values, which begin at `at`."""
    if kind == STRUCT:
        _, width, at = _element(content, at)
        _, joined, at = _element(content, at)
        step = int.from_bytes(width, "little")
        if not 0 < step <= 64:
            raise ValueError("a structure without names")
        names = [joined[k : k + step].split(b"\0")[0].decode("latin-1") for k in range(0, len(joined), step)]
        if not names or count * len(names) > len(content) // 8:
            raise ValueError(f"declares {count:,} structures, but is shorter")
        values, _ = _matrices(content, at, count * len(names), depth)
        return [dict(zip(names, values[k : k + len(names)], strict=True)) for k in range(0, len(values), len(names))]
    if kind == CELL:
        return _matrices(content, at, count, depth)[0]
    stored, data, _ = _element(content, at)
    if kind == CHAR and stored in TEXTS:
        return data.decode(TEXTS[stored])
    if 6 <= kind <= 15 and stored in NUMBERS:
        return np.frombuffer(data, dtype=NUMBERS[stored])
    raise ValueError(f"has an array of the unsupported class {kind}")


def _matrices(content: bytes, at: int, count: int, depth: int) -> tuple[list[Any], int]:
    """The values of `count` arrays that begin at `at`, and the position after them."""
    values = []
    for _ in range(count):
        kind, data, at = _element(content, at)
        if kind != MATRIX:
            raise ValueError("has a value that is not an array")
        values.append(_matrix(data, depth + 1)[1])
    return values, at


def read_cars(annotations: Path, names: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """The images of Stanford Cars as (file name, class from 0), and the class names. Raises: ValueError."""
    listed = read_mat(annotations).get("annotations")
    classes = read_mat(names).get("class_names")
    if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
        raise ValueError(f"{annotations.name} has no structure 'annotations'")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{names.name} has no cells 'class_names' of text")
    rows = []
    for row in listed:
        file, number = row.get("fname"), row.get("class")
        if not isinstance(file, str) or not isinstance(number, np.ndarray) or number.size != 1:
            raise ValueError(f"{annotations.name} has an annotation without 'fname' or 'class'")
        rows.append((file, int(number[0]) - 1))
    return rows, classes
