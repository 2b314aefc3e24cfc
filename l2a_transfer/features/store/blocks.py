"""Read the blocks of an HDF5 file by address. A byte that belongs to two blocks is an error."""

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
"""The address that stands for "not stored"."""
HEAP = struct.Struct("<4sB3xQ")
HEAP_OBJECT = struct.Struct("<HHIQ")
"""index, references, reserved, size; index 0 is free space, whose size includes this header."""
MAX_HEAP_OBJECTS = 100_000


class Blocks:
    """The blocks of an open file. Addresses are relative to the end of the user block, as in HDF5.

    Every byte belongs to at most one block, so a file cannot make a reader read more bytes than it contains. Raises:
    StoreError if blocks overlap or lie outside the file.
    """

    def __init__(self, path: Path, file: IO[bytes], size: int) -> None:
        self.path, self._file, self.size = path, file, size
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._chunks: list[NDArray[np.int64]] = []
        self._heaps: dict[int, dict[int, int]] = {}
        self._heap_objects = 0

    def damaged(self, what: str) -> StoreError:
        return StoreError(f"{self.path}: corrupt or written by another program: {what}", AGAIN)

    def peek(self, at: int, size: int) -> bytes:
        """Return `size` bytes at address `at` without claiming them."""
        if at + size > self.size:
            raise self.damaged(f"the block at {at} lies outside the file")
        self._file.seek(USER_BLOCK + at)
        content = self._file.read(size)
        if len(content) != size:
            raise self.damaged("it became shorter while it was read")
        return content

    def claim(self, at: int, size: int) -> None:
        place = bisect(self._starts, at)
        if at + size > self.size:
            raise self.damaged(f"the block at {at} lies outside the file")
        if (place and self._stops[place - 1] > at) or (place < len(self._starts) and self._starts[place] < at + size):
            raise self.damaged(f"the bytes at {at} belong to two blocks")
        self._starts.insert(place, at)
        self._stops.insert(place, at + size)

    def take(self, at: int, size: int, signature: bytes) -> bytes:
        """Claim a block and return its content, which must begin with `signature`."""
        self.claim(at, size)
        content = self.peek(at, size)
        if not content.startswith(signature):
            raise self.damaged(f"expected the signature {signature.decode('latin-1')} at {at}")
        return content

    def claim_chunks(self, at: NDArray[np.uint64], size: int) -> None:
        """Claim many blocks of one size. Overlaps are found later, by `check_no_overlap`."""
        if int(at.max()) + size > self.size:
            raise self.damaged("a chunk lies outside the file")
        starts = at.astype(np.int64)
        self._chunks.append(np.stack([starts, starts + size], axis=1))

    def check_no_overlap(self) -> None:
        blocks = np.stack([self._starts, self._stops], axis=1).astype(np.int64)
        spans = np.concatenate([blocks, *self._chunks])
        spans = spans[np.argsort(spans[:, 0], kind="stable")]
        again = np.flatnonzero(spans[1:, 0] < spans[:-1, 1])
        if len(again):
            raise self.damaged(f"the bytes at {spans[again[0] + 1, 0]} belong to two blocks")

    def claim_text(self, heap: int, index: int, length: int) -> None:
        """Claim the heap object that stores a string of `length` bytes: object `index` of the heap at this address."""
        if heap not in self._heaps:
            self._heaps[heap] = self._read_heap(heap)
        if self._heaps[heap].pop(index, -1) != length:
            raise self.damaged("a string is missing from its heap")

    def _read_heap(self, heap: int) -> dict[int, int]:
        """The objects of a global heap, number → size, which fill it without gaps (HDF5 File Format 3.0, III.E).

        libhdf5 2.0.0 loops forever on a heap with free space of size 0.
        """
        signature, version, size = HEAP.unpack(self.peek(heap, HEAP.size))
        if signature != b"GCOL" or version != 1:
            raise self.damaged(f"expected the signature GCOL at {heap}")
        self.claim(heap, size)
        at, stop = heap + HEAP.size, heap + size
        found: dict[int, int] = {}
        while at + HEAP_OBJECT.size <= stop:
            index, _, _, length = HEAP_OBJECT.unpack(self.peek(at, HEAP_OBJECT.size))
            step = length if index == 0 else HEAP_OBJECT.size + -(-length // 8) * 8
            self._heap_objects += 1
            inside = step >= HEAP_OBJECT.size and at + step <= stop
            if not inside or index in found or self._heap_objects > MAX_HEAP_OBJECTS:
                raise self.damaged("a heap of strings is inconsistent")
            if index:
                found[index] = length
            at += step
        return found
