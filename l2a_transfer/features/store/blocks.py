"""Blocks of an HDF5 file, read by address, each byte for one purpose only: what is listed twice is refused."""

from __future__ import annotations

import struct
from bisect import bisect
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import StoreError
from l2a_transfer.features.store.schema import AGAIN, USER_BLOCK

UNDEFINED = (1 << 64) - 1
"""The address of what is not there."""
HEAP = struct.Struct("<4sB3xQ")
HEAP_OBJECT = struct.Struct("<HHIQ")
"""index, references, reserved, size; index 0 is free space, whose size counts this header too."""
MAX_HEAP_OBJECTS = 100_000


class Blocks:
    """The blocks of an open file; addresses count from the end of the user block, as HDF5's do.

    Every byte belongs to one block at most, so that what the file can make a reader read is no more than what it
    holds. Raises: StoreError where blocks overlap, or do not lie in the file.
    """

    def __init__(self, path: Path, file: IO[bytes], size: int) -> None:
        self.path, self._file, self.size = path, file, size
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._chunks: list[NDArray[np.int64]] = []
        self._heaps: dict[int, dict[int, int]] = {}
        self._heap_objects = 0

    def damaged(self, what: str) -> StoreError:
        return StoreError(f"{self.path}: damaged or made by another program: {what}", AGAIN)

    def peek(self, at: int, size: int) -> bytes:
        """Bytes at a place in the file, whether a block is claimed for them or not; nothing is claimed by it."""
        if at + size > self.size:
            raise self.damaged(f"a block at {at} does not lie in the file")
        self._file.seek(USER_BLOCK + at)
        content = self._file.read(size)
        if len(content) != size:
            raise self.damaged("it is shorter than it was")
        return content

    def claim(self, at: int, size: int) -> None:
        place = bisect(self._starts, at)
        if at + size > self.size:
            raise self.damaged(f"a block at {at} does not lie in the file")
        if (place and self._stops[place - 1] > at) or (place < len(self._starts) and self._starts[place] < at + size):
            raise self.damaged(f"the bytes at {at} are listed twice")
        self._starts.insert(place, at)
        self._stops.insert(place, at + size)

    def take(self, at: int, size: int, signature: bytes) -> bytes:
        """The content of a block, which begins with its signature."""
        self.claim(at, size)
        content = self.peek(at, size)
        if not content.startswith(signature):
            raise self.damaged(f"there is no {signature.decode('latin-1')} at {at}")
        return content

    def claim_chunks(self, at: NDArray[np.uint64], size: int) -> None:
        """Many blocks of one size; `check_no_overlap` sees whether any of their bytes is listed twice."""
        if int(at.max()) + size > self.size:
            raise self.damaged("a chunk does not lie in the file")
        starts = at.astype(np.int64)
        self._chunks.append(np.stack([starts, starts + size], axis=1))

    def check_no_overlap(self) -> None:
        blocks = np.stack([self._starts, self._stops], axis=1).astype(np.int64)
        spans = np.concatenate([blocks, *self._chunks])
        spans = spans[np.argsort(spans[:, 0], kind="stable")]
        again = np.flatnonzero(spans[1:, 0] < spans[:-1, 1])
        if len(again):
            raise self.damaged(f"the bytes at {spans[again[0] + 1, 0]} are listed twice")

    def claim_text(self, heap: int, index: int, length: int) -> None:
        """The object that a text of `length` bytes is kept in, by the heap's address and the object's number."""
        if heap not in self._heaps:
            self._heaps[heap] = self._read_heap(heap)
        if self._heaps[heap].pop(index, -1) != length:
            raise self.damaged("a text is not in its heap")

    def _read_heap(self, heap: int) -> dict[int, int]:
        """The objects of a global heap: number → size. They tile it (HDF5 File Format 3.0, III.E).

        libhdf5 2.0.0 does not return from a heap with free space of size 0.
        """
        signature, version, size = HEAP.unpack(self.peek(heap, HEAP.size))
        if signature != b"GCOL" or version != 1:
            raise self.damaged(f"there is no GCOL at {heap}")
        self.claim(heap, size)
        at, stop = heap + HEAP.size, heap + size
        found: dict[int, int] = {}
        while at + HEAP_OBJECT.size <= stop:
            index, _, _, length = HEAP_OBJECT.unpack(self.peek(at, HEAP_OBJECT.size))
            step = length if index == 0 else HEAP_OBJECT.size + -(-length // 8) * 8
            self._heap_objects += 1
            inside = step >= HEAP_OBJECT.size and at + step <= stop
            if not inside or index in found or self._heap_objects > MAX_HEAP_OBJECTS:
                raise self.damaged("a heap of texts does not fit together")
            if index:
                found[index] = length
            at += step
        return found
