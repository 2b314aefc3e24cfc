"""Check the structure of a feature file before libhdf5 opens it. Only the writer's own layout passes.

libhdf5 crashes on some manipulated files with other layouts, and reads a stored chunk as many times as an index lists
it. Everything that libhdf5 reads of a feature file is checked here: superblock, object headers, links, attributes and
their heaps, and chunk indexes. Names follow the "HDF5 File Format Specification", version 3.0.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import StoreError
from l2a_transfer.features.store.blocks import UNDEFINED, Blocks
from l2a_transfer.features.store.hdf5_attributes import (
    VARIABLE,
    check_attribute,
    check_dense_attributes,
    read_dataspace,
    read_datatype,
)
from l2a_transfer.features.store.schema import AGAIN, DATASETS, MAPS, USER_BLOCK
from l2a_transfer.inputs import open_input

SUPERBLOCK = struct.Struct("<8sBBBB4QI")
"""signature, version, size of offsets, size of lengths, flags, base, extension, end of file, root, checksum."""
DATASPACE, LINK_INFO, DATATYPE = 1, 2, 3
FILL_VALUE, LINK, EXTERNAL, LAYOUT = 5, 6, 7, 8
GROUP_INFO, FILTERS, ATTRIBUTE, CONTINUATION = 10, 11, 12, 16
ATTRIBUTE_INFO = 21
OF_GROUPS = {LINK_INFO, GROUP_INFO, LINK, ATTRIBUTE_INFO, ATTRIBUTE}
OF_DATASETS = {DATASPACE, DATATYPE, FILL_VALUE, LAYOUT, FILTERS, ATTRIBUTE_INFO, ATTRIBUTE}
MAX_LINKS = 8
"""libhdf5 stores longer lists of links in another way, which the writer never needs."""
NOWHERE = struct.pack("<QQ", UNDEFINED, UNDEFINED)
FLETCHER32 = bytes((2, 1, 3, 0, 0, 0, 0, 0))
"""A version 2 filter pipeline with one filter, fletcher32, which no chunk may skip."""


def check_structure(path: Path, datasets: Sequence[str] = DATASETS) -> None:
    """Check the structure of a feature file without libhdf5.

    Every part that libhdf5 will read must have the layout that `write_features` writes, lie inside the file, and
    share no byte with another part. Each data set must store all the chunks that it declares.

    Parameters
    ----------
    path : Path
        A file whose seal was checked.
    datasets : sequence of str
        The names of the data sets that will be read.

    Raises
    ------
    StoreError
        If the structure is different.
    OSError
        If the file cannot be read.
    """
    with open_input(path) as file:
        size = file.seek(0, io.SEEK_END)
        blocks = Blocks(path, file, size - USER_BLOCK)
        try:
            _check_file(blocks, datasets)
        except (struct.error, IndexError, KeyError, ValueError, OverflowError) as error:
            raise blocks.damaged(str(error)) from error


def _check_file(blocks: Blocks, datasets: Sequence[str]) -> None:
    if blocks.peek(0, min(8, blocks.size)) != b"\x89HDF\r\n\x1a\n":
        raise StoreError(f"{blocks.path}: not an HDF5 file", AGAIN)
    found = SUPERBLOCK.unpack(blocks.take(0, SUPERBLOCK.size, b"\x89HDF"))
    _, version, offsets, lengths, flags, base, extension, end, root, _ = found
    if (version, offsets, lengths, flags) != (3, 8, 8, 0):
        raise blocks.damaged(
            f"its superblock has version {version}; expected version 3 with offsets and lengths of 8 bytes"
        )
    if base != USER_BLOCK or extension != UNDEFINED or end != blocks.size + USER_BLOCK:
        raise blocks.damaged("the sizes in its superblock do not match the file")
    links = _group(blocks, "", root)
    for name in datasets:
        if name in links:
            _check_dataset(blocks, name, links[name])
    if MAPS in links:
        for level, at in _group(blocks, MAPS, links[MAPS]).items():
            _check_dataset(blocks, f"{MAPS}/{level}", at)
    blocks.check_no_overlap()


def _messages(blocks: Blocks, at: int) -> list[tuple[int, bytes]]:
    """The messages of a version 2 object header: (type, content)."""
    flags = blocks.peek(at, 6)[5]
    size_at = 22 if flags & 0x20 else 6  # four time stamps of 4 bytes come first
    width = 1 << (flags & 3)
    size = int.from_bytes(blocks.peek(at + size_at, width), "little")
    content = blocks.take(at, size_at + width + size + 4, b"OHDR\x02")
    if flags & ~0x23:
        raise blocks.damaged(f"an object header has unexpected flags ({flags:#x})")
    parts, found = [content[size_at + width : -4]], []
    for part in parts:
        for kind, body in _split(blocks, part):
            if kind == CONTINUATION:
                where, length = struct.unpack("<QQ", body)
                parts.append(blocks.take(where, length, b"OCHK")[4:-4])
            else:
                found.append((kind, body))
    return found


def _split(blocks: Blocks, part: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(part):
        kind, size, flags = struct.unpack_from("<BHB", part, at)
        body = part[at + 4 : at + 4 + size]
        if len(body) != size or flags & ~5:  # 1: constant, 4: never shared
            raise blocks.damaged(f"a header message of type {kind} is truncated or shared")
        if kind:  # 0: unused
            yield kind, body
        at += 4 + size


def _unique_messages(
    blocks: Blocks, name: str, messages: list[tuple[int, bytes]], allowed: set[int]
) -> dict[int, bytes]:
    """The messages of an object by type. Only links and attributes may occur more than once; attributes are checked."""
    found: dict[int, bytes] = {}
    for kind, body in messages:
        if kind == EXTERNAL:
            raise StoreError(f"{blocks.path}: /{name} stores its values in other files, which is not allowed", AGAIN)
        if kind not in allowed or (kind in found and kind not in (LINK, ATTRIBUTE)):
            raise blocks.damaged(f"/{name} has an unexpected header message of type {kind}")
        if kind == ATTRIBUTE:
            check_attribute(blocks, body)
        found[kind] = body
    info = found.get(ATTRIBUTE_INFO, b"\0\0" + NOWHERE)
    version, flags, heap, tree = struct.unpack("<BBQQ", info)
    if (version, flags) != (0, 0) or (heap == UNDEFINED) != (tree == UNDEFINED):
        raise blocks.damaged(f"unexpected layout of the list of attributes of /{name}")
    if heap != UNDEFINED:
        check_dense_attributes(blocks, heap, tree)
    return found


def _group(blocks: Blocks, name: str, at: int) -> dict[str, int]:
    """The links of a group, name → address. Raises: StoreError if a link is not a hard link."""
    messages = _messages(blocks, at)
    if not any(kind == LINK_INFO for kind, _ in messages):
        raise StoreError(f"{blocks.path}: /{name} must be a group", AGAIN)
    single = _unique_messages(blocks, name, messages, OF_GROUPS)
    if single[LINK_INFO] != b"\0\0" + NOWHERE or single.get(GROUP_INFO, b"\0\0") != b"\0\0":
        raise blocks.damaged(f"/{name} has more than {MAX_LINKS} links, or an unexpected list of links")
    links: dict[str, int] = {}
    for kind, body in messages:
        if kind == LINK:
            link, where = _link(blocks, name, body)
            if link in links or not link or "/" in link or "\0" in link:
                raise blocks.damaged(f"the name of the link {link!r} in /{name} is duplicated or invalid")
            links[link] = where
    if len(links) > MAX_LINKS:
        raise blocks.damaged(f"/{name} has more than {MAX_LINKS} links")
    return links


def _link(blocks: Blocks, group: str, body: bytes) -> tuple[str, int]:
    version, flags = body[0], body[1]
    if version != 1 or flags & ~0x1F:
        raise blocks.damaged(f"a link in /{group} has an unexpected version ({version}) or unexpected flags")
    at = 2
    kind = body[at] if flags & 8 else 0
    at += (1 if flags & 8 else 0) + (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(body[at : at + width], "little")
    name = body[at + width : at + width + length].decode()
    if kind != 0:
        here = f"/{group}/{name}".replace("//", "/")
        raise StoreError(
            f"{blocks.path}: {here} is a soft or external link; a feature file must contain its data itself", AGAIN
        )
    (where,) = struct.unpack("<Q", body[at + width + length :])
    return name, where


def _check_dataset(blocks: Blocks, name: str, at: int) -> None:
    """Check a chunked data set with fletcher32. Each chunk must be stored exactly once."""
    messages = _messages(blocks, at)
    if not any(kind == LAYOUT for kind, _ in messages):
        raise StoreError(f"{blocks.path}: has no data set /{name}", AGAIN)
    found = _unique_messages(blocks, name, messages, OF_DATASETS)
    version, kind = found[LAYOUT][:2]
    if kind == 3:
        raise StoreError(f"{blocks.path}: /{name} stores its values in other files, which is not allowed", AGAIN)
    if (version, kind) != (4, 2):
        raise blocks.damaged(f"/{name} is not chunked, or has an unexpected layout version")
    if found.get(FILTERS) != FLETCHER32:
        raise StoreError(f"{blocks.path}: /{name} must have fletcher32 as its only filter", AGAIN)
    fill = found.get(FILL_VALUE, b"\x03\0")
    if len(fill) != 2 or fill[0] != 3 or fill[1] & 0x20:
        raise blocks.damaged(f"/{name} has a fill value")
    datatype = read_datatype(blocks, found[DATATYPE])
    if datatype.kind == VARIABLE:
        raise blocks.damaged(f"/{name} has variable-length strings")
    _check_chunks(blocks, name, found[LAYOUT], read_dataspace(blocks, found[DATASPACE]), datatype.size)


def _check_chunks(blocks: Blocks, name: str, layout: bytes, shape: tuple[int, ...], itemsize: int) -> None:
    _, _, flags, rank, width = layout[:5]
    dims = [int.from_bytes(layout[5 + k * width : 5 + (k + 1) * width], "little") for k in range(rank)]
    kind, rest = layout[5 + rank * width], layout[6 + rank * width :]
    *chunk, item = dims
    if len(chunk) != len(shape) or item != itemsize or not chunk or 0 in shape:
        raise blocks.damaged(f"the chunks of /{name} do not match its shape")
    if any(not 0 < own <= whole for own, whole in zip(chunk, shape, strict=True)):
        raise blocks.damaged(f"the chunks of /{name} do not match its shape")
    count = math.prod(-(-whole // own) for whole, own in zip(shape, chunk, strict=True))
    size = math.prod(dims) + 4  # 4 bytes of checksum
    if count * size > blocks.size:
        raise StoreError(
            f"{blocks.path}: /{name} declares the shape {shape}, but the file has {blocks.size} bytes", AGAIN
        )
    if kind == 1 and flags == 2:
        stored, mask, at = struct.unpack("<QIQ", rest)
        whole = count == 1 and (stored, mask) == (size, 0)
        places = np.array([at], dtype=np.uint64)
    elif kind == 3 and not flags:
        page_bits, at = struct.unpack("<BQ", rest)
        if at == UNDEFINED:
            raise _not_stored(blocks, name)
        places, whole = _fixed_array(blocks, at, page_bits, count, size)
    else:
        raise blocks.damaged(f"unexpected layout of the list of chunks of /{name}")
    if not whole or (places == UNDEFINED).any():
        raise _not_stored(blocks, name)
    blocks.claim_chunks(places, size)


def _not_stored(blocks: Blocks, name: str) -> StoreError:
    return StoreError(f"{blocks.path}: /{name} declares chunks that are not stored", AGAIN)


def _fixed_array(blocks: Blocks, at: int, page_bits: int, count: int, size: int) -> tuple[NDArray[np.uint64], bool]:
    """The addresses of `count` chunks, and whether each is complete: `size` bytes, no filter skipped."""
    width = min(8, 1 + (int(size - 4).bit_length() - 1 + 8) // 8)
    entry = np.dtype([("at", "<u8"), ("size", "u1", width), ("mask", "<u4")])
    head = blocks.take(at, 28, b"FAHD\0\x01")
    own_entry, own_bits, own_count, data = struct.unpack_from("<BBQQ", head, 6)
    if (own_entry, own_bits, own_count) != (entry.itemsize, page_bits, count) or not 1 <= page_bits <= 32:
        raise blocks.damaged("a list of chunks does not match its data set")
    page = 1 << page_bits
    begin = b"FADB\0\x01" + struct.pack("<Q", at)
    if count <= page:
        content = blocks.take(data, len(begin) + count * entry.itemsize + 4, begin)
        entries = np.frombuffer(content[len(begin) : -4], dtype=entry)
    else:
        pages = -(-count // page)
        bitmap = -(-pages // 8)
        prefix = len(begin) + bitmap + 4
        content = blocks.take(data, prefix + count * entry.itemsize + 4 * pages, begin)
        made = np.unpackbits(np.frombuffer(content, np.uint8, bitmap, len(begin)))[:pages]
        if not made.all():
            return np.array([UNDEFINED], dtype=np.uint64), False
        step = page * entry.itemsize + 4
        starts = [(k * page, prefix + k * step) for k in range(pages)]
        entries = np.concatenate(
            [np.frombuffer(content, entry, min(page, count - first), offset) for first, offset in starts]
        )
    sizes = np.zeros((count, 8), dtype=np.uint8)
    sizes[:, :width] = entries["size"]
    whole = bool((sizes.view("<u8") == size).all() and not entries["mask"].any())
    return entries["at"].copy(), whole
