"""The feature file: one HDF5 of one model × one data set, sealed by a checksum; `docs/format.md` writes it down.

Nothing in a file is believed before its seal holds, because libhdf5 hangs or crashes on some damaged files; and the
seal is not believed to mean good will, because anybody can renew it: what the file claims is checked as well.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from l2a_transfer.errors import StoreError

SCHEMA = "l2a-features/1"
MAGIC = b"L2AFEAT\n"
VERSION = 1
USER_BLOCK = 512
SEAL = struct.Struct("<8sIQ32s")
"""magic, version, length in bytes of what follows the user block, and its SHA-256; the rest of the block is zero."""
DTYPES = ("float32", "float16")
CHUNK_BYTES = 1 << 20
MAX_ID_BYTES = 4096
AGAIN = "extract it again (--overwrite)"
_TEXT = ("data", "tap", "precision", "backend")
_JSON: dict[str, type] = {
    "classes": list, "splits": list, "levels": list, "card": dict, "preprocess": dict, "fingerprint": dict,
}  # fmt: skip


@dataclass(frozen=True)
class FeatureMeta:
    """What the columns and rows of a feature file mean, and what made them.

    `levels`: (name, start, stop) of each attended feature among the columns, which they tile in order. `card`: the
    model's card as JSON; `card["name"]` is the model's name. `fingerprint`: everything that decided the bytes.
    """

    data: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    levels: tuple[tuple[str, int, int], ...]
    card: dict[str, Any]
    preprocess: dict[str, Any]
    tap: str
    precision: str
    backend: str
    fingerprint: dict[str, Any]


@dataclass(frozen=True)
class FeatureSet:
    """A feature file in memory: `features` (N, D) float32 or float16, finite; `labels` (N,) int32, −1 for none;
    `ids` N different names; `split` (N,) uint8, an index into `meta.splits`."""

    path: Path
    meta: FeatureMeta
    features: NDArray[Any]
    labels: NDArray[np.int32]
    ids: tuple[str, ...]
    split: NDArray[np.uint8]


def write_features(
    path: str | Path,
    meta: FeatureMeta,
    *,
    labels: ArrayLike,
    ids: Iterable[str],
    split: ArrayLike,
    blocks: Iterable[NDArray[Any]],
    dim: int,
    dtype: str = "float32",
) -> None:
    """Write a feature file; `path` is the old file, or none, until the new one is whole, sealed and on disk.

    `blocks` are (B, D) arrays in row order, taken one at a time, so that memory does not grow with N; the same
    content gives the same bytes. Raises: StoreError for rows, labels, ids or levels that do not fit together, for
    features that are not finite in `dtype`, and where the disk refuses; the partial file is removed.
    """
    path = Path(path)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    rows = _Rows(np.asarray(labels, dtype=np.int32), tuple(ids), np.asarray(split, dtype=np.uint8))
    _check_rows(path, meta, rows, dim)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "w+b", buffering=0) as raw:
            sink = _Sink(raw)
            with h5py.File(sink, "w", userblock_size=USER_BLOCK, libver=("v110", "v110")) as file:
                _write_meta(file, meta)
                _write_rows(path, file, rows)
                _write_blocks(path, file, _until_refused(blocks, sink), rows, dim, dtype)
        sink.raise_refusal()
        _seal(partial)
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
        raise


class _Sink(io.RawIOBase):
    """The file that libhdf5 writes to; what the disk refuses is kept, and raised by us.

    libhdf5 crashes at the end of a process in which a write failed, as on a full disk, so it is told that all is well.
    """

    def __init__(self, raw: io.FileIO) -> None:
        self.raw = raw
        self.refusal: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            written = 0
            while self.refusal is None and written < len(view):
                written += self.raw.write(view[written:])
        except OSError as error:
            self.refusal = error
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        found = self.raw.readinto(view)
        view[found:] = bytes(len(view) - found)  # what was never written, as in a sparse file
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.raw.seek(offset, whence)

    def truncate(self, size: int | None = None) -> int:
        try:
            return self.raw.tell() if self.refusal else self.raw.truncate(size)
        except OSError as error:
            self.refusal = error
            return self.raw.tell()

    def raise_refusal(self) -> None:
        if self.refusal is not None:
            raise self.refusal


def _until_refused(blocks: Iterable[NDArray[Any]], sink: _Sink) -> Iterator[NDArray[Any]]:
    for block in blocks:
        sink.raise_refusal()
        yield block


Stamp = tuple[int, int, int, int, bytes]


@dataclass(frozen=True)
class OpenedStore:
    """A feature file that is whole and whose claims were checked; the values of `features` (N, D) are still on disk.

    `stamp` says which file it was: device, inode, size, time of change, and the user block.
    """

    file: h5py.File
    stamp: Stamp
    meta: FeatureMeta
    labels: NDArray[np.int32]
    ids: tuple[str, ...]
    split: NDArray[np.uint8]
    features: h5py.Dataset


def open_store(path: Path, *, verified: Stamp | None = None) -> OpenedStore:
    """Open a feature file after its seal was checked; the caller closes `file`.

    `verified` is the stamp of a file whose seal this program has checked already, as a process that was forked for
    reading knows it: the seal of the very same file is not computed again, and another content is refused. Raises: as
    `read_features`, but for the values of the features.
    """
    stamp = _stamp(path)
    if stamp is None or stamp != verified:
        _check_seal(path)
    file = _open(path)
    try:
        if stamp is None or _stamp(path) != stamp or (verified and verified[-1] != stamp[-1]):
            raise StoreError(f"{path}: was replaced by another file while it was read; start again")
        meta, rows, features = _read_rows(path, file)
    except BaseException:
        file.close()
        raise
    return OpenedStore(file, stamp, meta, rows.labels, rows.ids, rows.split, features)


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
        with open(path, "rb") as file:
            block = file.read(USER_BLOCK)
    except OSError:
        return None  # the check of the seal says why
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, block)


def read_features(path: str | Path) -> FeatureSet:
    """A feature file's content, every byte of it verified first.

    Raises: StoreError naming the path and what is wrong: truncated, incomplete, changed, of another program or
    schema, linking outside itself, or with features that are not finite.
    """
    path = Path(path)
    store = open_store(path)
    with store.file:
        values = read_block(path, store.features, 0, len(store.ids))
    check_finite(path, values, store.ids)
    return FeatureSet(path, store.meta, values, store.labels, store.ids, store.split)


def read_meta(path: str | Path) -> tuple[FeatureMeta, int, int]:
    """(meta, N, D) of a feature file, verified as by `read_features` but for the values of the features."""
    store = open_store(Path(path))
    with store.file:
        return store.meta, len(store.labels), int(store.features.shape[1])


def read_block(path: Path, features: h5py.Dataset, start: int, stop: int) -> NDArray[Any]:
    """Rows start…stop − 1 of an opened file, (rows, D). Raises: StoreError where a chunk's checksum differs."""
    try:
        block: NDArray[Any] = features[start:stop]
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{path}: /features: rows {start}…{stop - 1} are damaged: {error}") from error
    return block


def check_finite(path: Path, values: NDArray[Any], ids: Sequence[str]) -> None:
    """Raises: StoreError naming the first image whose features, a row of `values` (N, D), are not finite."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise StoreError(
            f"{path}: /features: {len(bad)} of {len(values)} rows are not finite, the first of "
            f"{ids[bad[0]]!r}; {AGAIN} with --precision fp32"
        )


def is_feature_file(path: Path) -> bool:
    """True where the file starts as a feature file does; says nothing about the rest of it. Raises: OSError."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@dataclass(frozen=True)
class _Rows:
    labels: NDArray[np.int32]
    ids: tuple[str, ...]
    split: NDArray[np.uint8]


def _check_rows(path: Path, meta: FeatureMeta, rows: _Rows, dim: int) -> None:
    """What holds in every feature file, whether it is about to be written or has just been read."""
    N = len(rows.labels)
    for name, array in (("/labels", rows.labels), ("/split", rows.split)):
        if array.shape != (N,):
            raise StoreError(f"{path}: {name} must have the shape ({N},), got {array.shape}")
    if len(rows.ids) != N:
        raise StoreError(f"{path}: /ids must have {N} names, got {len(rows.ids)}")
    if N == 0 or dim == 0:
        raise StoreError(f"{path}: /features must have rows and columns, got {N} × {dim}")
    if len(set(rows.ids)) != N:
        seen: set[str] = set()
        twice = next(name for name in rows.ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise StoreError(f"{path}: /ids must differ; {twice!r} is there more than once")
    if any(not name or "\0" in name or not _is_utf8(name) for name in rows.ids):
        raise StoreError(f"{path}: /ids must be UTF-8 text, not empty and without NUL")
    if rows.labels.min() < -1 or rows.labels.max() >= len(meta.classes):
        raise StoreError(f"{path}: /labels must be −1 or an index of one of {len(meta.classes)} classes")
    if rows.split.max() >= len(meta.splits):
        raise StoreError(f"{path}: /split must be an index of one of {len(meta.splits)} splits")
    at = 0
    for name, start, stop in meta.levels:
        if start != at or stop <= start:
            raise StoreError(f"{path}: levels must tile the columns in order; {name!r} is {start}:{stop} after {at}")
        at = stop
    if at != dim:
        raise StoreError(f"{path}: levels cover {at} columns, /features has {dim}")
    if not isinstance(meta.card.get("name"), str):
        raise StoreError(f"{path}: the card has no name")


def _is_utf8(name: str) -> bool:
    # What a file name in another encoding becomes in Python (surrogates) cannot be written as UTF-8.
    return not any("\ud800" <= c <= "\udfff" for c in name)


def _write_meta(file: h5py.File, meta: FeatureMeta) -> None:
    file.attrs["schema"] = SCHEMA
    for key in _TEXT:
        file.attrs[key] = getattr(meta, key)
    for key in _JSON:
        file.attrs[key] = json.dumps(getattr(meta, key), sort_keys=True, ensure_ascii=False)


def _write_rows(path: Path, file: h5py.File, rows: _Rows) -> None:
    encoded = [name.encode() for name in rows.ids]
    longest = max(map(len, encoded))
    if longest > MAX_ID_BYTES:
        raise StoreError(f"{path}: an id has {longest} bytes; at most {MAX_ID_BYTES} are allowed")
    names = np.array(encoded, dtype=h5py.string_dtype("utf-8", longest))
    for name, array in (("labels", rows.labels), ("ids", names), ("split", rows.split)):
        step = max(1, CHUNK_BYTES // array.dtype.itemsize)
        file.create_dataset(name, data=array, chunks=(min(len(array), step),), fletcher32=True)


def _write_blocks(
    path: Path, file: h5py.File, blocks: Iterable[NDArray[Any]], rows: _Rows, dim: int, dtype: str
) -> None:
    N = len(rows.labels)
    step = max(1, min(N, CHUNK_BYTES // (dim * np.dtype(dtype).itemsize)))
    features = file.create_dataset("features", (N, dim), dtype, chunks=(step, dim), fletcher32=True)
    at = 0
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != dim or at + len(block) > N:
            raise StoreError(f"{path}: a block of shape {block.shape} after {at} rows does not fit into ({N}, {dim})")
        with np.errstate(over="ignore"):
            values = block.astype(dtype, copy=False)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise StoreError(f"{path}: the features of {rows.ids[at + int(bad[0])]!r} are not finite in {dtype}")
        features[at : at + len(block)] = values
        at += len(block)
    if at != N:
        raise StoreError(f"{path}: {at} rows of features came, expected {N}")


def _digest(path: Path) -> tuple[int, bytes]:
    """Length and SHA-256 of what follows the user block."""
    sha, length = hashlib.sha256(), 0
    with open(path, "rb") as file:
        file.seek(USER_BLOCK)
        while chunk := file.read(CHUNK_BYTES):
            sha.update(chunk)
            length += len(chunk)
    return length, sha.digest()


def _seal(path: Path) -> None:
    """Write the user block, after everything else is on disk: only a complete file ever has one."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
        file.write(SEAL.pack(MAGIC, VERSION, *_digest(path)).ljust(USER_BLOCK, b"\0"))
        file.flush()
        os.fsync(file.fileno())


def _check_seal(path: Path) -> None:
    """The file is whole and unchanged. Raises: StoreError; libhdf5 has not seen a byte."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            block = file.read(USER_BLOCK)
        if block[: len(MAGIC)] != MAGIC:
            if size >= USER_BLOCK and not any(block):
                raise StoreError(f"{path}: incomplete: it was never finished; {AGAIN}")
            raise StoreError(f"{path}: not a feature file of l2a-transfer; 'l2a-transfer extract' writes them")
        if len(block) < USER_BLOCK:
            raise StoreError(f"{path}: truncated within its first {USER_BLOCK} bytes; {AGAIN}")
        _, version, length, digest = SEAL.unpack_from(block)
        if version != VERSION:
            raise StoreError(f"{path}: version {version} of the format; this program reads version {VERSION}")
        if any(block[SEAL.size :]):
            raise StoreError(f"{path}: changed since it was written: its user block has other bytes; {AGAIN}")
        if size - USER_BLOCK != length:
            what = "truncated" if size - USER_BLOCK < length else "longer than it was written"
            raise StoreError(f"{path}: {what}: {size} bytes, expected {USER_BLOCK + length}; {AGAIN}")
        if _digest(path) != (length, digest):
            raise StoreError(f"{path}: changed since it was written: its SHA-256 differs; {AGAIN}")
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file; 'l2a-transfer extract' writes it") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"{path}: not an HDF5 file: {error}") from error


def _read_rows(path: Path, file: h5py.File) -> tuple[FeatureMeta, _Rows, h5py.Dataset]:
    """Everything but the values of the features, checked. Raises: StoreError."""
    try:
        meta = _read_meta(path, file)
        for name in file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise StoreError(f"{path}: /{name} is a link; a feature file must not point anywhere")
        features = _dataset(path, file, "features", 2, "f")
        labels = _dataset(path, file, "labels", 1, "i")
        split = _dataset(path, file, "split", 1, "u")
        names = _dataset(path, file, "ids", 1, "S")
        if features.dtype.name not in DTYPES or labels.dtype != np.int32 or split.dtype != np.uint8:
            found = f"{features.dtype}, {labels.dtype}, {split.dtype}"
            raise StoreError(
                f"{path}: /features, /labels, /split must be float32 or float16, int32, uint8; got {found}"
            )
        ids = tuple(name.decode() for name in names[:].tolist())
        rows = _Rows(labels[:], ids, split[:])
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: damaged or made by another program: {error}") from error
    if len(features) != len(rows.labels):
        raise StoreError(f"{path}: /features has {len(features)} rows, /labels {len(rows.labels)}")
    _check_rows(path, meta, rows, features.shape[1])
    return meta, rows, features


def _dataset(path: Path, file: h5py.File, name: str, ndim: int, kind: str) -> h5py.Dataset:
    """A data set whose bytes are all in this file. Raises: StoreError."""
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise StoreError(f"{path}: has no data set /{name}")
    created = found.id.get_create_plist()
    if created.get_external_count() or found.is_virtual:
        raise StoreError(f"{path}: /{name} keeps its values in other files, which is refused")
    filters = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    if set(filters) - {h5py.h5z.FILTER_FLETCHER32}:
        raise StoreError(f"{path}: /{name} must have no filter but fletcher32")
    if found.ndim != ndim or found.dtype.kind != kind:
        raise StoreError(f"{path}: /{name} must have {ndim} axes and kind {kind!r}, got {found.shape} {found.dtype}")
    # A few bytes can declare any shape; without this, reading would ask for that much memory.
    if found.id.get_storage_size() < found.size * found.dtype.itemsize:
        raise StoreError(f"{path}: /{name} declares {found.shape} but stores {found.id.get_storage_size()} bytes")
    return found


def _read_meta(path: Path, file: h5py.File) -> FeatureMeta:
    schema = file.attrs.get("schema")
    if schema != SCHEMA:
        raise StoreError(f"{path}: its schema must be {SCHEMA!r}, got {schema!r}")
    values: dict[str, Any] = {}
    for key in (*_TEXT, *_JSON):
        text = file.attrs.get(key)
        if not isinstance(text, str):
            raise StoreError(f"{path}: the attribute {key!r} must be text, got {type(text).__name__}")
        values[key] = text
    for key, kind in _JSON.items():
        try:
            values[key] = json.loads(values[key])
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{path}: the attribute {key!r} is not JSON: {error}") from error
        if not isinstance(values[key], kind):
            raise StoreError(f"{path}: the attribute {key!r} must be a JSON {kind.__name__}")
    for key in ("classes", "splits"):
        if not all(isinstance(name, str) for name in values[key]):
            raise StoreError(f"{path}: the attribute {key!r} must be a list of names")
        values[key] = tuple(values[key])
    try:
        values["levels"] = tuple((str(name), int(start), int(stop)) for name, start, stop in values["levels"])
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path}: the attribute 'levels' must list (name, start, stop): {error}") from error
    return FeatureMeta(**values)
