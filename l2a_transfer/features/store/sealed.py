"""Open a feature file: check its seal, then its structure, then its description. The values stay on disk.

The seal is checked first, because libhdf5 hangs or crashes on some corrupt files. But anybody can compute a new seal,
so it does not make a file trustworthy. The structure is therefore checked before libhdf5 opens the file
(`structure.py`), and the description after libhdf5 has read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import StoreError
from l2a_transfer.features.store.container import FEATURES, check_seal, open_hdf5
from l2a_transfer.features.store.schema import (
    AGAIN,
    DATASETS,
    DOMAIN,
    DTYPES,
    EMPTY,
    JSON,
    MAPS,
    OPTIONAL_JSON,
    PARTNERS,
    SCHEMA,
    SEAL,
    TEXT,
    USER_BLOCK,
    FeatureMeta,
    RowTable,
    check_rows,
    document,
)
from l2a_transfer.features.store.structure import check_structure
from l2a_transfer.inputs import check_input, open_input
from l2a_transfer.wording import are, counted

Stamp = tuple[int, int, int, int, bytes]


@dataclass(frozen=True)
class OpenedStore:
    """A complete feature file whose description was checked. The values of `features` (N, D) and `maps`
    (level → (N, H, W) float16, often empty) are still on disk.

    `stamp` identifies the file: device, inode, size, modification time, and the user block.
    """

    file: h5py.File
    stamp: Stamp
    meta: FeatureMeta
    labels: NDArray[np.int32]
    ids: tuple[str, ...]
    split: NDArray[np.uint8]
    features: h5py.Dataset
    maps: dict[str, h5py.Dataset]
    partners: tuple[tuple[str, ...], ...] = ()
    domain: NDArray[np.uint8 | np.uint16] | None = None


def open_store(path: Path, *, verified: Stamp | None = None) -> OpenedStore:
    """Check the seal of a feature file, then open it. The caller closes `file`.

    Parameters
    ----------
    path : Path
        A feature file.
    verified : tuple, optional
        The stamp of a file whose seal was checked before, for example by the parent process. The seal of the same file
        is not checked again, and different content is an error.

    Returns
    -------
    OpenedStore
        The file and its checked description.

    Raises
    ------
    StoreError
        In the same cases as `read_features`, except for the values of the features.
    """
    stamp = _stamp(path)
    if stamp is None or stamp != verified:
        _check_seal(path)
    file = _open(path)
    try:
        if stamp is None or _stamp(path) != stamp or (verified and verified[-1] != stamp[-1]):
            raise _replaced(path)
        meta, rows, features, maps = _read_rows(path, file)
    except BaseException as error:
        file.close()
        if isinstance(error, StoreError) and not error.remedy:
            raise StoreError(error.problem, AGAIN) from error
        raise
    return OpenedStore(file, stamp, meta, rows.labels, rows.ids, rows.split, features, maps, rows.partners, rows.domain)


def check_same(path: Path, verified: Stamp) -> None:
    """Raises: StoreError if the content of the file is no longer that of the stamp."""
    if _stamp(path) == verified:
        return
    _check_seal(path)
    now = _stamp(path)
    if now is None or now[-1] != verified[-1]:
        raise _replaced(path)


def sha256_of(stamp: Stamp) -> str:
    """The SHA-256 in the seal, of everything after the user block, as hexadecimal digits."""
    digest: bytes = SEAL.unpack_from(stamp[-1])[3]
    return digest.hex()


def _replaced(path: Path) -> StoreError:
    return StoreError(
        f"{path}: was replaced by another file while it was read", "start again when no other process writes to it"
    )


def _stamp(path: Path) -> Stamp | None:
    try:
        found = check_input(path)
        with open_input(path) as file:
            block = file.read(USER_BLOCK)
    except OSError:
        return None  # checking the seal reports the reason
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, block)


def read_block(path: Path, found: h5py.Dataset, start: int, stop: int, name: str = "features") -> NDArray[Any]:
    """Rows start…stop − 1 of an opened file, (rows, D). Raises: StoreError if a chunk's checksum differs."""
    try:
        block: NDArray[Any] = found[start:stop]
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{path}: /{name}: rows {start}…{stop - 1} are corrupt: {error}") from error
    return block


def check_finite(path: Path, values: NDArray[Any], ids: Sequence[str]) -> None:
    """Raises: StoreError naming the first image whose features, a row of `values` (N, D), are not finite."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise StoreError(
            f"{path}: /features: {len(bad)} of {counted(len(values), 'row')} {are(len(bad))} not finite, the first is "
            f"{ids[bad[0]]!r}",
            f"{AGAIN} with `precision='fp32'`",
        )


def is_feature_file(path: Path) -> bool:
    """True if the file starts like a feature file; the rest is not checked. Raises: OSError."""
    with open_input(path) as file:
        return file.read(len(FEATURES.magic)) == FEATURES.magic


def _check_seal(path: Path) -> None:
    """Check that the file is complete and unchanged, without libhdf5. Raises: StoreError."""
    check_seal(path, FEATURES)


def _open(path: Path) -> h5py.File:
    try:
        check_structure(path)
        return open_hdf5(path)
    except OSError as error:
        raise StoreError(f"{path}: not an HDF5 file: {error}") from error


def _read_rows(path: Path, file: h5py.File) -> tuple[FeatureMeta, RowTable, h5py.Dataset, dict[str, h5py.Dataset]]:
    """Read and check everything except the values of the features and maps. Raises: StoreError."""
    try:
        meta = _read_meta(path, file)
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
        rows = RowTable(labels[:], ids, split[:], _read_partners(path, file), _read_domain(path, file))
        maps = _read_maps(path, file)
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: corrupt or written by another program: {error}") from error
    if len(features) != len(rows.labels):
        raise StoreError(f"{path}: /features has {counted(len(features), 'row')}, but /labels has {len(rows.labels)}")
    for level, found in maps.items():
        if found.dtype != np.float16 or len(found) != len(rows.labels):
            raise StoreError(
                f"{path}: /maps/{level} must be float16 with {counted(len(rows.labels), 'row')}, got {found}"
            )
    check_rows(path, meta, rows, features.shape[1])
    return meta, rows, features, maps


def _read_partners(path: Path, file: h5py.File) -> tuple[tuple[str, ...], ...]:
    if PARTNERS not in file:
        return ()
    found = _dataset(path, file, PARTNERS, 2, "S")[:].tolist()
    return tuple(tuple(name.decode() for name in row) for row in found)


def _read_domain(path: Path, file: h5py.File) -> NDArray[np.uint8 | np.uint16] | None:
    if DOMAIN not in file:
        return None
    found = _dataset(path, file, DOMAIN, 1, "u")
    if found.dtype not in (np.uint8, np.uint16):
        raise StoreError(f"{path}: /domain must be uint8 or uint16, got {found.dtype}")
    rows: NDArray[np.uint8 | np.uint16] = found[:]
    return rows


def _read_maps(path: Path, file: h5py.File) -> dict[str, h5py.Dataset]:
    group = file.get(MAPS)
    if group is None:
        return {}
    return {level: _dataset(path, file, f"{MAPS}/{level}", 3, "f") for level in group}


def _dataset(path: Path, file: h5py.File, name: str, ndim: int, kind: str) -> h5py.Dataset:
    """A data set, which must have the given number of axes and kind. Raises: StoreError."""
    assert name in DATASETS or name.startswith(f"{MAPS}/"), f"the structure of /{name} is not checked"
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise StoreError(f"{path}: has no data set /{name}")
    if found.ndim != ndim or found.dtype.kind != kind:
        raise StoreError(f"{path}: /{name} must have {ndim} axes and kind {kind!r}, got {found.shape} {found.dtype}")
    return found


def _decoded(value: Any) -> Any:
    """An attribute's value as str; h5py returns fixed-length strings, which other programs write, as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _read_meta(path: Path, file: h5py.File) -> FeatureMeta:
    schema = _decoded(file.attrs.get("schema"))
    if schema != SCHEMA:
        raise StoreError(f"{path}: its schema must be {SCHEMA!r}, got {schema!r}")
    values: dict[str, Any] = {}
    for key in (*TEXT, *JSON, *OPTIONAL_JSON):
        text = _decoded(file.attrs.get(key, EMPTY.get(key)))
        if not isinstance(text, str):
            raise StoreError(f"{path}: the attribute {key!r} must be text, got {type(text).__name__}")
        values[key] = text
    for key in (*JSON, *OPTIONAL_JSON):
        values[key] = document(path, key, values[key])
    for key in ("classes", "splits", "domains"):
        values[key] = tuple(values[key])
    for key in ("levels", "skipped"):
        values[key] = tuple(map(tuple, values[key]))
    return FeatureMeta(**values)
