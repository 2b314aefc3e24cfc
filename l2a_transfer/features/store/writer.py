"""Write feature files: block by block into a partial file, which is then sealed, synced and renamed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from l2a_transfer.errors import StoreError
from l2a_transfer.features.store.container import FEATURES, Sink, new_file, seal, without_times
from l2a_transfer.features.store.schema import (
    CHUNK_BYTES,
    DOMAIN,
    DTYPES,
    JSON,
    MAPS,
    OPTIONAL_JSON,
    PARTNERS,
    SCHEMA,
    TEXT,
    FeatureMeta,
    RowTable,
    check_rows,
    document,
)
from l2a_transfer.files import replacing
from l2a_transfer.lock import output_lock
from l2a_transfer.wording import counted


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
    maps: Mapping[str, Iterable[NDArray[Any]]] | None = None,
    partners: Iterable[Sequence[str]] = (),
    domain: ArrayLike | None = None,
) -> None:
    """Write a feature file. The same content gives the same bytes.

    Until the new file is complete, sealed and on disk, `path` is the old file or does not exist.

    Parameters
    ----------
    path : str or Path
        The file. An existing feature file is overwritten.
    meta : FeatureMeta
        What the rows and columns mean.
    labels : array-like
        (N,) integers; −1 for images without a label.
    ids : iterable of str
        N different names.
    split : array-like
        (N,), indices into `meta.splits`.
    blocks : iterable of ndarray
        The features, (B, D) each, in the order of the rows. They are taken one at a time, so that memory does not grow
        with N.
    dim : int
        D, the number of columns.
    dtype : {"float32", "float16"}
        How features are stored.
    maps : mapping, optional
        Level → blocks (B, H, W) of its attention maps, stored as float16.
    partners : iterable of sequence of str, optional
        The k ids that each row was attended with.
    domain : array-like, optional
        (N,), indices into `meta.domains`. Give both or neither.

    Raises
    ------
    StoreError
        If rows, labels, ids, levels or maps are inconsistent, if values are not finite in `dtype`, or if writing to the
        disk fails. The partial file is removed.
    OutputExistsError
        If another process writes `path`, or if it is not a regular file.
    """
    path = Path(path)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    attended_with = tuple(map(tuple, partners))
    domains: Any = None if domain is None else np.asarray(domain, np.uint8 if len(meta.domains) <= 256 else np.uint16)
    rows = RowTable(
        np.asarray(labels, dtype=np.int32), tuple(ids), np.asarray(split, dtype=np.uint8), attended_with, domains
    )
    check_rows(path, meta, rows, dim)
    for key in (*JSON, *OPTIONAL_JSON):
        document(path, key, json.dumps(getattr(meta, key)))  # checks that the file can be read again
    try:
        with output_lock(path), replacing(path, buffering=0) as raw:
            sink = Sink(raw)
            # libhdf5 gets the open file instead of its name, which someone could replace by a link in the meantime.
            with new_file(sink) as file:
                _write_meta(file, meta)
                _write_rows(path, file, rows)
                _write_blocks(path, file, "features", _checked_blocks(blocks, sink), rows, (dim,), dtype)
                if maps:
                    h5py.h5g.create(file.id, MAPS.encode(), gcpl=without_times(h5py.h5p.GROUP_CREATE))
                for level, values in (maps or {}).items():
                    _write_blocks(path, file, f"{MAPS}/{level}", _checked_blocks(values, sink), rows, None, "float16")
            sink.raise_error()
            seal(raw, FEATURES)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def _checked_blocks(blocks: Iterable[NDArray[Any]], sink: Sink) -> Iterator[NDArray[Any]]:
    for block in blocks:
        sink.raise_error()
        yield block


def _write_meta(file: h5py.File, meta: FeatureMeta) -> None:
    file.attrs["schema"] = SCHEMA
    for key in TEXT:
        file.attrs[key] = getattr(meta, key)
    for key in JSON:
        file.attrs[key] = json.dumps(getattr(meta, key), sort_keys=True, ensure_ascii=False)
    for key in OPTIONAL_JSON:
        if getattr(meta, key):
            file.attrs[key] = json.dumps(getattr(meta, key), ensure_ascii=False)


def _write_rows(path: Path, file: h5py.File, rows: RowTable) -> None:
    tables = {"labels": rows.labels, "ids": fixed_length(rows.ids), "split": rows.split}
    if rows.partners:
        tables[PARTNERS] = fixed_length([name for row in rows.partners for name in row]).reshape(len(rows.ids), -1)
    if rows.domain is not None:
        tables[DOMAIN] = rows.domain
    for name, array in tables.items():
        step = max(1, CHUNK_BYTES // (array.itemsize * math.prod(array.shape[1:])))
        file.create_dataset(name, data=array, chunks=(min(len(array), step), *array.shape[1:]), fletcher32=True)


def fixed_length(names: Sequence[str]) -> NDArray[Any]:
    """Names as fixed-length UTF-8 strings."""
    encoded = [name.encode() for name in names]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded))))


def _write_blocks(
    path: Path,
    file: h5py.File,
    name: str,
    blocks: Iterable[NDArray[Any]],
    rows: RowTable,
    shape: tuple[int, ...] | None,
    dtype: str,
) -> None:
    """Write the data set `name` with the shape (N, *shape); without `shape`, the first block determines it."""
    N, at = len(rows.labels), 0
    found: h5py.Dataset | None = None
    for block in blocks:
        if found is None:
            shape = shape or block.shape[1:]
            step = max(1, min(N, CHUNK_BYTES // (math.prod(shape) * np.dtype(dtype).itemsize)))
            found = file.create_dataset(name, (N, *shape), dtype, chunks=(step, *shape), fletcher32=True)
        if block.shape[1:] != shape or at + len(block) > N:
            raise StoreError(
                f"{path}: a block of shape {block.shape} after {counted(at, 'row')} of /{name} does not match {N} × "
                f"{shape}"
            )
        with np.errstate(over="ignore"):
            values = block.astype(dtype, copy=False)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
        if len(bad):
            raise StoreError(f"{path}: the {name} of {rows.ids[at + int(bad[0])]!r} are not finite in {dtype}")
        found[at : at + len(block)] = values
        at += len(block)
    if at != N:
        raise StoreError(f"{path}: got {counted(at, 'row')} of {name}, expected {N}")
