"""HDF5's global heaps, where an attribute's text lies: checked, because libhdf5 goes round in a bad one for ever."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from l2a_transfer.errors import StoreError
from l2a_transfer.features.schema import AGAIN
from l2a_transfer.inputs import open_input

SIGNATURE = b"GCOL\x01\0\0\0"
HEADER = struct.Struct("<8sQ")
OBJECT = struct.Struct("<HHIQ")
"""index, references, reserved, size; index 0 is free space, whose size counts this header too."""
MAX_OBJECTS = 100_000


def check_heaps(path: Path) -> None:
    """Every global heap of a file is tiled by its objects ("HDF5 File Format Specification" 3.0, III.E).

    libhdf5 2.0.0 does not return from a heap with free space of size 0. Raises: StoreError.
    """
    with open_input(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        heap, objects = content.find(SIGNATURE), 0
        while heap >= 0:
            objects += _check_heap(path, content, heap, MAX_OBJECTS - objects)
            heap = content.find(SIGNATURE, heap + 1)


def _check_heap(path: Path, content: mmap.mmap, heap: int, most: int) -> int:
    """The number of objects in the heap at an offset. Raises: StoreError."""
    if heap + HEADER.size > len(content):
        raise _damaged(path)
    _, size = HEADER.unpack_from(content, heap)
    at, stop, objects = heap + HEADER.size, heap + size, 0
    if stop > len(content):
        raise _damaged(path)
    while at + OBJECT.size <= stop:
        index, _, _, length = OBJECT.unpack_from(content, at)
        step = length if index == 0 else OBJECT.size + -(-length // 8) * 8
        objects += 1
        if step < OBJECT.size or at + step > stop or objects > most:
            raise _damaged(path)
        at += step
    return objects


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path}: damaged: a heap of texts does not fit together", AGAIN)
