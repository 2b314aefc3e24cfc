"""Feature files: all layouts that libhdf5 writes, with links, types and sizes that no feature file has."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random

import h5py
import numpy as np

from fuzzing.kinds import Kind, sha256
from fuzzing.mutate import NAMES, mutate, mutate_file, pick, special_file
from l2a_transfer.features.store.reader import read_features, read_maps
from l2a_transfer.features.store.schema import SEAL, USER_BLOCK, FeatureMeta
from l2a_transfer.features.store.verify import verify_features
from l2a_transfer.features.store.views import open_features
from l2a_transfer.features.store.writer import write_features

ROWS, DIM = 24, 6
DATASETS = ("features", "labels", "ids", "split", "maps/L3")


def write_whole(path: Path, rows: int = ROWS, dim: int = DIM, *, maps: bool = True, **changes: object) -> None:
    """A feature file of two classes and two splits, with or without maps."""
    rng = np.random.default_rng(0)
    given = {
        "data": "toy",
        "classes": ("ant", "bée"),
        "splits": ("train", "test"),
        "levels": (("L2", 0, dim - 2), ("L3", dim - 2, dim)),
        "card": {"name": "toy"},
        "preprocess": {"size": 32},
        "tap": "ga",
        "precision": "fp32",
        "backend": "torch",
        "fingerprint": {"data": "abc"},
    }
    labels = np.arange(rows) % 2
    write_features(
        path,
        FeatureMeta(**{**given, **changes}),
        labels=labels,
        ids=[f"a/{k}.jpg" for k in range(rows)],
        split=np.arange(rows) // 2 % 2,
        blocks=[(rng.normal(size=(rows, dim)) + labels[:, None]).astype(np.float32)],
        dim=dim,
        maps={"L3": [rng.random((rows, 2, 2)).astype(np.float16)]} if maps else None,
    )


def seeds(folder: Path) -> None:
    """Files as written by this package."""
    write_whole(folder / "plain.h5", 120, 24, maps=False)
    write_whole(folder / "maps.h5", 120, 24)


LAYOUTS: dict[str, dict[str, object]] = {
    "chunked": {"chunks": 5, "fletcher32": True},
    "contiguous": {},
    "one-chunk": {"chunks": ROWS},
    "gzip": {"chunks": 5, "compression": "gzip", "shuffle": True},
    "lzf": {"chunks": 5, "compression": "lzf"},
    "resizable": {"chunks": 5, "maxshape": True},
    "scaleoffset": {"chunks": 5, "scaleoffset": 0},
}
VERSIONS = ("earliest", "v108", "v110", "v112", "v114", "latest")


def resealed_seeds(folder: Path) -> None:
    """Files as written by this package, and the same content in other layouts and versions, as written by other
    programs."""
    write_whole(folder / "own.h5")
    for k in range(24):
        write_whole(folder / f"own-{k:02d}.h5", ROWS, DIM + k, maps=k % 2 == 0)
    for k, version in enumerate(VERSIONS):
        for name, options in LAYOUTS.items():
            copy(
                folder / "own.h5",
                folder / f"{version}-{name}.foreign.h5",
                version,
                dict(options),
                track_order=k % 2 == 1,
            )
    for name, options in (
        ("paged", {"fs_strategy": "page", "userblock_size": 4096}),
        ("larger-user-block", {"userblock_size": 1024}),
    ):
        copy(folder / "own.h5", folder / f"{name}.foreign.h5", "v110", {"chunks": 5}, **options)


def copy(whole: Path, to: Path, version: str, options: dict[str, object], **file_options: object) -> None:
    chunk = options.pop("chunks", 0)
    with (
        h5py.File(whole) as source,
        h5py.File(to, "w", **{"userblock_size": USER_BLOCK, "libver": (version, "latest"), **file_options}) as file,
    ):  # type: ignore[arg-type]
        for key, value in source.attrs.items():
            file.attrs[key] = value
        for name in DATASETS:
            own = source[name][:]
            given = dict(options)
            if chunk:
                given["chunks"] = (chunk, *own.shape[1:])
            if given.pop("maxshape", None):
                given["maxshape"] = (None, *own.shape[1:])
            if own.dtype.kind in "fS":
                given.pop("scaleoffset", None)
            file.create_dataset(name, data=own, dtype=source[name].dtype, **given)
    reseal(to)


def answer(path: Path) -> str:
    found = read_features(path)
    with open_features(path) as file:
        blocks = [*file.blocks(50), *(block for level in file.maps for block in file.map_blocks(level, 50))]
    maps = read_maps(path)
    return sha256(found.meta, found.features, found.labels, found.ids, found.split, *maps.values(), *blocks)


def answer_verified(path: Path) -> str:
    verify_features(path)
    return answer(path)


def sealed(body: bytes) -> bytes:
    """A feature file with this body and a valid seal, as a hostile program would write it."""
    return SEAL.pack(b"L2AFEAT\n", 1, len(body), hashlib.sha256(body).digest()).ljust(USER_BLOCK, b"\0") + body


def reseal(path: Path) -> None:
    path.write_bytes(sealed(path.read_bytes()[USER_BLOCK:]))


def _bytes(path: Path, rng: Random) -> str:
    path.write_bytes(sealed(mutate(path.read_bytes(), rng)[USER_BLOCK:]))
    return "bytes"


def structure(path: Path, rng: Random) -> str:
    """Change single bytes, numbers and addresses, which make up most of a small file."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(USER_BLOCK, len(data) - 8)
        how = rng.random()
        if how < 0.35:
            data[at] ^= 1 << rng.randrange(8)
        elif how < 0.6:
            data[at] = rng.choice((0, 1, 0xFF, 0x7F, 0x80))
        elif how < 0.8:
            value = rng.choice(
                (0, 1, 2**64 - 1, 2**63, 2**32, len(data), len(data) - USER_BLOCK, at - USER_BLOCK, 2**31)
            )
            data[at : at + 8] = value.to_bytes(8, "little")
        else:
            other = rng.randrange(USER_BLOCK, len(data) - 8)
            data[at : at + 8] = data[other : other + 8]
    path.write_bytes(
        sealed(_with_checksums(bytes(data[USER_BLOCK:])) if rng.random() < 0.5 else bytes(data[USER_BLOCK:]))
    )
    return "structure"


def _with_checksums(body: bytes) -> bytes:
    """The body with renewed checksums of its superblock and object headers; without them, nothing else would be
    read."""
    data = bytearray(body)
    if data[8:9] in (b"\2", b"\3"):
        data[44:48] = _lookup3(bytes(data[:44])).to_bytes(4, "little")
    at = data.find(b"OHDR")
    while at >= 0:
        flags = data[at + 5] if at + 5 < len(data) else 0
        head = at + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        stop = head + width + int.from_bytes(data[head : head + width], "little")
        if stop + 4 <= len(data):
            data[stop : stop + 4] = _lookup3(bytes(data[at:stop])).to_bytes(4, "little")
        at = data.find(b"OHDR", at + 1)
    return bytes(data)


MIX = ((4, 6, 8), (16, 19, 4))
FINAL = (14, 11, 25, 16, 4, 14, 24)
WORD = 0xFFFFFFFF


def _rotated(value: int, by: int) -> int:
    return ((value << by) | (value >> (32 - by))) & WORD


def _lookup3(data: bytes) -> int:
    """Bob Jenkins' hashlittle of 2006, HDF5's checksum for metadata."""
    state = [(0xDEADBEEF + len(data)) & WORD] * 3
    at = 0
    while at < len(data):
        part = data[at : at + 12].ljust(12, b"\0")
        state = [(own + word) & WORD for own, word in zip(state, struct.unpack("<III", part), strict=True)]
        at += 12
        if at >= len(data):
            break
        for rotations in MIX:
            for x, by in enumerate(rotations):
                y, z = (x + 2) % 3, (x + 1) % 3
                state[x] = ((state[x] - state[y]) & WORD) ^ _rotated(state[y], by)
                state[y] = (state[y] + state[z]) & WORD
    if data:
        for k, by in enumerate(FINAL):
            x, y = (k + 2) % 3, (k + 1) % 3
            state[x] = ((state[x] ^ state[y]) - _rotated(state[y], by)) & WORD
    return state[2]


def _attribute(file: h5py.File, rng: Random) -> None:
    """An attribute of another type, or with unexpected text."""
    key = rng.choice(sorted(file.attrs))
    odd: tuple[Callable[[], object], ...] = (
        lambda: 5,
        lambda: np.arange(9.0),
        lambda: h5py.Empty("f4"),
        lambda: file["labels"].ref,
        lambda: b"\xff\xfe",
        lambda: file["labels"].regionref[:2],
        lambda: np.array([(1, 2.0)], dtype="i4,f8"),
        lambda: np.bytes_(b"a" * 60_000),
        lambda: np.array(["a", "b"], dtype=object),
        lambda: np.array([b"{}"] * 3),
        lambda: np.void(b"abc"),
        lambda: True,
        lambda: json.dumps([name.replace("\0", "") for name in NAMES], ensure_ascii=True),
        lambda: "[" * 50_000,
        lambda: "GCOL\x01" * 20,
        lambda: "a" * (8 << 20),
        lambda: "",
    )
    del file.attrs[key]
    if rng.random() < 0.9:
        file.attrs[key] = rng.choice(odd)()
    if rng.random() < 0.1:
        for k in range(500):
            file.attrs[f"more {k}"] = "GCOL\x01\0\0\0".replace("\0", "x") * 9


def _dataset(file: h5py.File, rng: Random) -> None:
    """A dataset of another type, shape or storage, or a link in its place."""
    name = rng.choice([name for name in DATASETS if name in file])
    own = file[name][:]
    del file[name]
    shape = rng.choice(
        (own.shape, (0, *own.shape[1:]), own.shape + (1,), (), (1 << 40, *own.shape[1:]), (2**31, 2**31), (ROWS,))
    )
    kinds = (
        own.dtype,
        "f8",
        ">f4",
        ">i4",
        "i8",
        "u2",
        "?",
        "c8",
        "S8",
        "S4097",
        "V8",
        "i4,f4",
        "(3,)f4",
        h5py.ref_dtype,
        h5py.string_dtype(),
        h5py.vlen_dtype("f4"),
        h5py.enum_dtype({"A": 0, "B": 1}, "i4"),
        h5py.opaque_dtype("M8[s]"),
        "f2",
    )
    how = rng.randrange(9)
    if how == 0:
        file[name] = rng.choice(
            (h5py.SoftLink("/labels"), h5py.SoftLink(f"/{name}"), h5py.ExternalLink("/dev/zero", "/x"))
        )
    elif how == 1:
        layout = h5py.VirtualLayout(own.shape, own.dtype)
        layout[...] = h5py.VirtualSource(rng.choice((".", "other.h5", "/dev/zero")), "labels", own.shape)
        file.create_virtual_dataset(name, layout)
    elif how == 2:
        file.create_dataset(
            name, own.shape, own.dtype, external=[(rng.choice(("/etc/passwd", "/dev/zero")), 0, own.nbytes)]
        )
    elif how == 3:
        file.create_dataset(name, shape, rng.choice(kinds))
    elif how == 4:
        chunks = tuple(min(n, 1 << 12) or 1 for n in shape) if shape else None
        file.create_dataset(name, shape, own.dtype, chunks=chunks, fillvalue=None if own.dtype.kind == "S" else 1)
    elif how == 5:
        file.create_group(name)
    elif how == 6:
        file[name] = own.dtype
    elif how == 7:
        values = own.copy().reshape(-1)
        special = {
            "f": [np.nan, np.inf, -np.inf, 6e4, 1e-45],
            "i": [-2, 2**31 - 1, -(2**31), 2],
            "u": [255, 2],
            "S": [b"", b"\xff", b"a/1.jpg"],
        }
        values[rng.randrange(len(values))] = rng.choice(special[own.dtype.kind])
        file.create_dataset(
            name, data=values.reshape(own.shape), chunks=(5, *own.shape[1:]), fletcher32=rng.random() < 0.5
        )
    else:
        names = np.array([rng.choice(NAMES).encode("utf-8", "surrogatepass")[:4096] or b"x" for _ in range(ROWS)])
        file.create_dataset(name, data=names, chunks=(5,))


def _groups(file: h5py.File, rng: Random) -> None:
    """More groups and names than a feature file has, and cycles."""
    how = rng.randrange(6)
    if how == 0:
        file["maps/again"] = file["maps"]
    elif how == 1:
        file["again"] = file["/"]
    elif how == 2:
        for k in range(rng.choice((10, 2000))):
            file[f"maps/L{k + 4}"] = file["maps/L3"]
    elif how == 3:
        name = rng.choice(NAMES).replace("\0", "") or "x"
        file.create_dataset(f"maps/{name.encode(errors='replace').decode()}", data=np.zeros((ROWS, 2, 2), "f2"))
    elif how == 4:
        group = file
        for _ in range(1500):
            group = group.create_group("g")
    else:
        shape = (ROWS, 1 << rng.choice((8, 16, 20)), 1 << rng.choice((1, 12)))
        file.create_dataset("maps/L9", shape, "f2", chunks=(1, *(min(n, 256) for n in shape[1:])))


def _edit(path: Path, rng: Random) -> str:
    ways = [rng.choice((_attribute, _dataset, _groups)) for _ in range(rng.choice((1, 1, 2)))]
    with h5py.File(path, "r+") as file:
        for way in ways:
            try:
                way(file, rng)
            except (ValueError, OSError, RuntimeError, TypeError, KeyError):
                continue  # this file's version or an earlier change does not allow it
    reseal(path)
    return " ".join(way.__name__.strip("_") for way in ways)


def _listed_again(path: Path, rng: Random) -> str:
    """One stored chunk that an index lists for every chunk of a dataset, of up to 4 GiB."""
    name, rows = rng.choice((("features", 3 << 20), ("ids", 3 << 18), ("maps", 1 << 20), ("features", 1 << 16)))
    width = {"ids": 4096, "features": 1024, "maps": 4096}[name]
    step = (1 << 20) // width
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
    attributes["levels"] = json.dumps([["L3", 0, 256 if name == "features" else 4]])
    shapes = {"features": ((256,), "f4"), "ids": ((), "S4096"), "maps": ((32, 64), "f2")}
    target = "maps/L3" if name == "maps" else name
    with h5py.File(path, "w", userblock_size=USER_BLOCK, libver="earliest") as file:
        for key, value in attributes.items():
            file.attrs[key] = value
        shape, kind = shapes[name]
        dataset = file.create_dataset(target, (rows, *shape), kind, chunks=(step, *shape))
        origin = (0,) * len(shape)
        dataset.id.write_direct_chunk((0, *origin), b"a" * (1 << 20))
        for at in range(step, rows, step):
            dataset.id.write_direct_chunk((at, *origin), b"x")
        file.flush()
        first = dataset.id.get_chunk_info(0).byte_offset - USER_BLOCK
        others = ROWS if name == "ids" else rows
        if name != "features":
            file.create_dataset("features", data=np.zeros((others, 4), "f4"), chunks=(others, 4))
        file.create_dataset("labels", data=np.zeros(others, "i4"), chunks=(others,))
        file.create_dataset("split", data=(np.arange(others) % 2).astype("u1"), chunks=(others,))
        if name != "ids":
            file.create_dataset("ids", data=np.char.mod(b"%08d", np.arange(others)), chunks=(min(others, 1 << 17),))
    path.write_bytes(sealed(_same_chunk(path.read_bytes()[USER_BLOCK:], len(shape) + 1, first)))
    return f"one chunk for all of {target}"


def _same_chunk(body: bytes, axes: int, first: int) -> bytes:
    """Redirect every chunk in a version 1 chunk B-tree to the one at `first`, of 1 MiB."""
    data, at, key = bytearray(body), body.find(b"TREE"), 8 + 8 * (axes + 1)
    while at >= 0:
        if data[at + 4] == 1 and data[at + 5] == 0:
            for record in range(int.from_bytes(data[at + 6 : at + 8], "little")):
                place = at + 24 + record * (key + 8)
                if int.from_bytes(data[place : place + 4], "little") == 1:
                    data[place : place + 4] = (1 << 20).to_bytes(4, "little")
                    data[place + key : place + key + 8] = first.to_bytes(8, "little")
        at = data.find(b"TREE", at + 1)
    return bytes(data)


def larger(path: Path, rng: Random) -> str:
    """Replace every length stored as one number by another."""
    body = path.read_bytes()[USER_BLOCK:]
    value = rng.choice((ROWS, ROWS * 4, ROWS * 24, DIM, 5, len(body)))
    form = rng.choice(("<Q", "<I"))
    other = rng.choice((0, 1, 1 << 16, 1 << 30, 1 << 33, 1 << 40, 1 << 62)) & ((1 << 8 * struct.calcsize(form)) - 1)
    body = body.replace(struct.pack(form, value), struct.pack(form, other))
    path.write_bytes(sealed(_with_checksums(body)))
    return f"{value} is {other}"


resealed_damage = pick((3, _bytes), (8, structure), (8, _edit), (2, larger), (1, _listed_again))
KINDS = {
    "hdf5": Kind(seeds, pick((12, mutate_file), (1, special_file)), answer, sealed=True, share=5),
    "hdf5-resealed": Kind(resealed_seeds, resealed_damage, answer_verified, share=8),
}
