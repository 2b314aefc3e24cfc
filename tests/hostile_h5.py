"""Feature files as somebody who means harm would make them: with another layout, chunks that are listed twice, and
fields that were changed, seal and checksums renewed."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from l2a_transfer.features.store import hdf5_attributes
from l2a_transfer.features.store import structure as hdf5_structure
from l2a_transfer.features.store.blocks import Blocks
from l2a_transfer.features.store.reader import SEAL, USER_BLOCK
from l2a_transfer.features.store.writer import write_features
from tests.feature_files import feature_set, labels_of, meta_of

WRITTEN = ("v110", "v110")
"""The bounds that the writer gives libhdf5."""
CHUNK_ROWS = 64


def resealed(content: bytes) -> bytes:
    """A file with length and hash renewed, so that only what is in it can be refused."""
    body = content[USER_BLOCK:]
    return SEAL.pack(b"L2AFEAT\n", 1, len(body), hashlib.sha256(body).digest()).ljust(USER_BLOCK, b"\0") + body


def save_feature_file(path: Path, *, rows: int = 24, dim: int = 6, maps: bool = True) -> Path:
    """A whole feature file of the writer's."""
    found = feature_set(labels_of(3, rows // 3), np.ones((rows // 3 * 3, dim), np.float32))
    write_features(
        path,
        found.meta,
        labels=found.labels,
        ids=found.ids,
        split=found.split,
        blocks=[found.features],
        dim=dim,
        maps={"L3": [np.full((len(found.ids), 2, 2), 0.25, np.float16)]} if maps else None,
    )
    return path


def save_in_layout(path: Path, libver: object, *, rows: int = 24, dim: int = 6, **options: object) -> Path:
    """The same content, as h5py writes it with other bounds: `earliest` has a superblock of version 0, headers of
    version 1 and B-trees of version 1; `latest` is what the installed libhdf5 thinks best."""
    source = save_feature_file(path.with_suffix(".source"), rows=rows, dim=dim)
    with h5py.File(source) as read, h5py.File(path, "w", userblock_size=USER_BLOCK, libver=libver, **options) as file:
        for key, value in read.attrs.items():
            file.attrs[key] = value
        for name in ("labels", "ids", "split", "features", "maps/L3"):
            data = read[name]
            file.create_dataset(name, data=data[:], dtype=data.dtype, chunks=(5, *data.shape[1:]), fletcher32=True)
    source.unlink()
    path.write_bytes(resealed(path.read_bytes()))
    return path


def attributes(dim: int) -> dict[str, str]:
    meta = meta_of(model="toy", data="toy", classes=("a", "b", "c"), splits=("train", "test"), dim=dim)
    texts = {key: getattr(meta, key) for key in ("data", "tap", "precision", "backend")}
    kinds = ("classes", "splits", "levels", "card", "preprocess", "fingerprint")
    return {"schema": "l2a-features/1", **texts, **{key: json.dumps(getattr(meta, key)) for key in kinds}}


def save_one_chunk_many_times(path: Path, chunks: int, libver: object, *, of: str = "features") -> Path:
    """A file whose data set `of` lists one stored chunk so many times: reading it takes `chunks` times as much memory
    as the file has bytes of it."""
    rows, dim = chunks * CHUNK_ROWS, 256
    old = libver == "earliest"
    width = 4096 if of == "ids" else 8
    own_rows = rows if of == "features" else 3
    with h5py.File(path, "w", userblock_size=USER_BLOCK, libver=libver) as file:
        for key, value in attributes(dim).items():
            file.attrs[key] = value
        plain = {"fletcher32": not old}
        file.create_dataset("labels", data=np.zeros(own_rows, "i4"), chunks=(own_rows,), **plain)
        file.create_dataset("split", data=np.zeros(own_rows, "u1"), chunks=(own_rows,), **plain)
        names = h5py.string_dtype("utf-8", width)
        if of == "features":
            ids = np.array([b"%08d" % row for row in range(rows)], dtype=names)
            file.create_dataset("ids", data=ids, chunks=(rows,), **plain)
            many = file.create_dataset("features", (rows, dim), "f4", chunks=(CHUNK_ROWS, dim), **plain)
            many[:CHUNK_ROWS] = 1
        else:
            file.create_dataset("features", data=np.zeros((3, dim), "f4"), chunks=(3, dim), **plain)
            many = file.create_dataset("ids", (rows,), names, chunks=(CHUNK_ROWS,), **plain)
            many[:CHUNK_ROWS] = b"a"
        rest = (0,) * (many.ndim - 1)
        for start in range(CHUNK_ROWS, rows, CHUNK_ROWS):
            many.id.write_direct_chunk((start, *rest), b"x")
        file.flush()
        first = many.id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    if old:
        relist_tree(content, first.byte_offset - USER_BLOCK, first.size, axes=len(rest) + 1, chunks=chunks)
    else:
        relist_array(content, first.byte_offset - USER_BLOCK, first.size, chunks=chunks)
    path.write_bytes(resealed(bytes(content)))
    return path


def relist_tree(content: bytearray, first: int, size: int, *, axes: int, chunks: int) -> None:
    """All records of one byte in B-trees of version 1 → the first chunk."""
    at, key, changed = -1, 8 + 8 * (axes + 1), 0
    while (at := content.find(b"TREE\x01\0", at + 1)) >= 0:
        (used,) = struct.unpack_from("<H", content, at + 6)
        for k in range(used):
            record = at + 24 + k * (key + 8)
            if struct.unpack_from("<I", content, record)[0] == 1:
                struct.pack_into("<I", content, record, size)
                struct.pack_into("<Q", content, record + key, first)
                changed += 1
    assert changed == chunks - 1


def relist_array(content: bytearray, first: int, size: int, *, chunks: int) -> None:
    """The fixed array with so many entries, all of one stored size → the first chunk; its checksum is renewed."""
    assert chunks <= 1024  # more are kept in pages
    at = -1
    while (at := content.find(b"FAHD\0\x01", at + 1)) >= 0:
        entry, _, count, data = struct.unpack_from("<BBQQ", content, at + 6)
        start = USER_BLOCK + data
        sizes = {bytes(content[start + 22 + k * entry : start + 10 + (k + 1) * entry]) for k in range(count)}
        if count != chunks or not sizes & {size.to_bytes(entry - 12, "little")}:
            continue
        for k in range(chunks):
            struct.pack_into("<Q", content, start + 14 + k * entry, first)
            content[start + 22 + k * entry : start + 10 + (k + 1) * entry] = size.to_bytes(entry - 12, "little")
        end = start + 14 + chunks * entry
        struct.pack_into("<I", content, end, lookup3(bytes(content[start:end])))
        return
    raise AssertionError(f"no array of {chunks} chunks")


def lookup3(data: bytes) -> int:
    """Bob Jenkins's hash `lookup3`, which HDF5 guards its metadata with."""
    mask = 0xFFFFFFFF

    def turned(value: int, by: int) -> int:
        return (value << by | value >> (32 - by)) & mask

    a = b = c = (0xDEADBEEF + len(data)) & mask
    at = 0
    while len(data) - at > 12:
        x, y, z = struct.unpack_from("<III", data, at)
        a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
        a = (a - c) & mask ^ turned(c, 4)
        c = (c + b) & mask
        b = (b - a) & mask ^ turned(a, 6)
        a = (a + c) & mask
        c = (c - b) & mask ^ turned(b, 8)
        b = (b + a) & mask
        a = (a - c) & mask ^ turned(c, 16)
        c = (c + b) & mask
        b = (b - a) & mask ^ turned(a, 19)
        a = (a + c) & mask
        c = (c - b) & mask ^ turned(b, 4)
        b = (b + a) & mask
        at += 12
    if at == len(data):
        return c
    x, y, z = struct.unpack("<III", data[at:].ljust(12, b"\0"))
    a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
    c = ((c ^ b) - turned(b, 14)) & mask
    a = ((a ^ c) - turned(c, 11)) & mask
    b = ((b ^ a) - turned(a, 25)) & mask
    c = ((c ^ b) - turned(b, 16)) & mask
    a = ((a ^ c) - turned(c, 4)) & mask
    b = ((b ^ a) - turned(a, 14)) & mask
    return ((c ^ b) - turned(b, 24)) & mask


def blocks_of(path: Path) -> list[tuple[int, int]]:
    """Where the metadata of a whole file lie, (place in the file, size) of each block that ends with a checksum or has
    one within, as `check_structure` meets them."""
    met: list[tuple[int, int]] = []
    take = Blocks.take

    def noted(self: Blocks, at: int, size: int, signature: bytes) -> bytes:
        content = take(self, at, size, signature)
        if content.startswith(b"BTLF"):  # whose checksum follows its records, of which the head before it says how many
            (records,) = struct.unpack_from("<H", path.read_bytes(), met[-1][0] + 24)
            size = 6 + records * hdf5_attributes.TREE_RECORD.size + 4
        met.append((USER_BLOCK + at, size))
        return content

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Blocks, "take", noted)
        hdf5_structure.check_structure(path)
    return met


def with_checksum(content: bytearray, at: int, size: int) -> None:
    """Renew the checksum of one block of metadata, in place."""
    # A direct block of a fractal heap has it in its head, computed with zeros in its place.
    place = at + 18 if content[at : at + 4] == b"FHDB" else at + size - 4
    struct.pack_into("<I", content, place, 0)
    whole = content[at : at + size] if place == at + 18 else content[at:place]
    struct.pack_into("<I", content, place, lookup3(bytes(whole)))


def mutated_metadata(content: bytes, blocks: list[tuple[int, int]], rng: random.Random) -> bytes:
    """One to three fields of the metadata changed, the checksums and the seal renewed."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, size = rng.choice(blocks)
        place = at + rng.randrange(size)
        changes: list[Callable[[], bytes]] = [
            lambda: bytes([data[place] ^ 1 << rng.randrange(8)]),  # noqa: B023 - called at once
            lambda: bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF))]),
            lambda: rng.choice((0, 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1, len(data), at)).to_bytes(8, "little"),  # noqa: B023
            lambda: bytes(data[(other := rng.randrange(USER_BLOCK, len(data) - 8)) : other + 8]),
        ]
        new = rng.choice(changes)()[: at + size - place]
        data[place : place + len(new)] = new
        with_checksum(data, at, size)
    return resealed(bytes(data))
