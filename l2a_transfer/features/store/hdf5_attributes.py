"""Datatypes, dataspaces and attributes of an HDF5 file. Only the layouts that libhdf5 writes for feature files pass.

Names follow the "HDF5 File Format Specification", version 3.0.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

from l2a_transfer.features.store.blocks import UNDEFINED, Blocks

FLOATS = {
    2: struct.pack("<HHBBBBI", 0, 16, 10, 5, 0, 10, 15),
    4: struct.pack("<HHBBBBI", 0, 32, 23, 8, 0, 23, 127),
    8: struct.pack("<HHBBBBI", 0, 64, 52, 11, 0, 52, 1023),
}
"""Size in bytes → the properties of an IEEE 754 number, as stored in a datatype message."""
INTEGER, FLOAT, STRING, VARIABLE = 0, 1, 3, 9
TEXT_REFERENCE = struct.Struct("<IQI")
"""length, address of the global heap, number of the object in it."""
FRACTAL_HEAP = struct.Struct("<4sBHHBI QQQQQQQQQQQQ HQQHHQHI")
"""The header of a fractal heap; `_attribute_heap` reads it."""
HEAP_BLOCK_HEAD = 22
"""signature, version, the heap's address, the block's offset in 5 bytes, checksum."""
HEAP_WIDTH, HEAP_START, HEAP_MOST, HEAP_BITS = 4, 1024, 65536, 40
"""libhdf5's doubling table for attributes: blocks per row, bytes of the first and largest block, bits of the size."""
TREE = struct.Struct("<4sBBIHHBBQHQI")
TREE_RECORD = struct.Struct("<BIBHBII")
"""version and kind of the object, its offset (5 bytes) and length, flags, order of creation, hash of the name."""


class Datatype(NamedTuple):
    """The class of a datatype and its size in bytes."""

    kind: int
    size: int


def read_datatype(blocks: Blocks, body: bytes) -> Datatype:
    """Read the datatype of numbers or strings. Raises: StoreError for other types and for nonstandard numbers."""
    first, bits, size = body[0], int.from_bytes(body[1:4], "little"), int.from_bytes(body[4:8], "little")
    version, kind, rest = first >> 4, first & 15, body[8:]
    ok = version in (1, 3) and size > 0
    if kind == INTEGER:
        ok = ok and size in (1, 2, 4, 8) and not bits & ~9 and rest == struct.pack("<HH", 0, 8 * size)
    elif kind == FLOAT:
        ok = ok and bits & ~1 == 0x20 | (8 * size - 1) << 8 and rest == FLOATS.get(size)
    elif kind == STRING:
        ok = ok and bits & 15 <= 2 and bits >> 4 <= 1 and not rest
    elif kind == VARIABLE:
        ok = ok and bits & 15 == 1 and bits >> 4 & 15 <= 2 and bits >> 8 <= 1 and size == TEXT_REFERENCE.size
        ok = ok and rest[0] & 15 in (INTEGER, STRING) and read_datatype(blocks, rest).size == 1
    else:
        ok = False
    if not ok:
        raise blocks.damaged(f"unsupported datatype of class {kind}, which must be a standard number or a string")
    return Datatype(kind, size)


def read_dataspace(blocks: Blocks, body: bytes) -> tuple[int, ...]:
    """The shape that a dataspace message declares. Raises: StoreError if it is resizable."""
    version, rank, flags, kind = body[:4]
    shape = struct.unpack_from(f"<{rank}Q", body, 4)
    most = body[4 + 8 * rank :]
    if version != 2 or kind != (1 if rank else 0) or rank > 32 or most != (body[4 : 4 + 8 * rank] if flags else b""):
        raise blocks.damaged("a dataspace is resizable or has an unexpected version")
    return shape


def check_attribute(blocks: Blocks, body: bytes) -> None:
    """Check an attribute message of version 3, and claim the heap objects of its strings."""
    version, flags, names, types, spaces, _ = struct.unpack_from("<BBHHHB", body)
    at = 9 + names
    datatype = read_datatype(blocks, body[at : at + types])
    shape = read_dataspace(blocks, body[at + types : at + types + spaces])
    values = body[at + types + spaces :]
    if version != 3 or flags or body[9:at].find(b"\0") != names - 1:
        raise blocks.damaged("an attribute has an unexpected version")
    if len(values) != math.prod(shape) * datatype.size:
        raise blocks.damaged("the size of an attribute's values does not match its shape and type")
    if datatype.kind == VARIABLE:
        for length, heap, index in TEXT_REFERENCE.iter_unpack(values):
            if length or heap:
                blocks.claim_text(heap, index, length)


def check_dense_attributes(blocks: Blocks, heap: int, tree: int) -> None:
    """Check attributes that are stored in a fractal heap and listed in the only leaf of a version 2 B-tree."""
    space = _attribute_heap(blocks, heap)
    _, version, kind, node, size, depth, _, _, root, count, total, _ = TREE.unpack(
        blocks.take(tree, TREE.size, b"BTHD")
    )
    if (version, kind, node, size, depth) != (0, 8, 512, TREE_RECORD.size, 0) or not 0 < count == total:
        raise blocks.damaged("unexpected layout of the list of attributes")
    leaf = blocks.take(root, node, b"BTLF\0\x08")
    records = leaf[6 : 6 + count * TREE_RECORD.size]
    if 6 + len(records) + 4 > node:
        raise blocks.damaged("unexpected layout of the list of attributes")
    seen: set[int] = set()
    for how, offset, high, length, flags, _, _ in TREE_RECORD.iter_unpack(records):
        start = next((k for k in space if k + HEAP_BLOCK_HEAD <= offset and offset + length <= k + len(space[k])), None)
        if how or high or flags or start is None or offset in seen:
            raise blocks.damaged("an attribute is missing from its heap")
        seen.add(offset)
        check_attribute(blocks, space[start][offset - start : offset - start + length])


def _attribute_heap(blocks: Blocks, at: int) -> dict[int, bytes]:
    """The direct blocks of a fractal heap in libhdf5's layout for attributes: offset in the heap → content."""
    values = FRACTAL_HEAP.unpack(blocks.take(at, FRACTAL_HEAP.size, b"FRHP"))
    version, id_length, filters, flags = values[1:5]
    huge, huge_objects, tiny_objects = values[7], values[15], values[17]
    width, start, most, bits, start_rows, root, rows = values[18:25]
    table = (width, start, most, bits, start_rows)
    if (version, id_length, filters, flags, huge) != (0, 8, 0, 2, UNDEFINED) or huge_objects or tiny_objects:
        raise blocks.damaged("unexpected layout of the heap of attributes")
    if table != (HEAP_WIDTH, HEAP_START, HEAP_MOST, HEAP_BITS, 1):
        raise blocks.damaged("unexpected layout of the heap of attributes")
    found: dict[int, bytes] = {}
    sizes = [HEAP_START << max(0, row - 1) for row in range(rows)]
    if rows and sizes[-1] > HEAP_MOST:
        raise blocks.damaged("the heap of attributes is larger than expected")

    def read(where: int, offset: int, size: int) -> None:
        head = b"FHDB\0" + struct.pack("<Q", at) + offset.to_bytes(5, "little")
        found[offset] = blocks.take(where, size, head)

    if not rows:
        read(root, 0, HEAP_START)
        return found
    children = rows * HEAP_WIDTH
    head = b"FHIB\0" + struct.pack("<Q", at) + bytes(5)
    index = blocks.take(root, len(head) + 8 * children + 4, head)
    offset = 0
    for k, (where,) in enumerate(struct.iter_unpack("<Q", index[len(head) : -4])):
        size = sizes[k // HEAP_WIDTH]
        if where != UNDEFINED:
            read(where, offset, size)
        offset += size
    return found
