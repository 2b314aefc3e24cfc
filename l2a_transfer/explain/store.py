"""The file of maps: one HDF5 file with the maps of many pictures by several methods, sealed like feature files.

Pictures differ in size, and so do their maps: `values` contains all of them, picture by picture, and `shapes` gives
their sizes. The layout is documented in docs/format.md.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.names import MUST_BE, first_fault
from l2a_transfer.documents import ANYTHING, Kind, list_of, parse, table, text
from l2a_transfer.errors import StoreError, unknown_name
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.features.store.container import SealedKind, Sink, check_seal, new_file, open_hdf5, seal
from l2a_transfer.features.store.schema import CHUNK_BYTES, FINGERPRINT, SEAL, USER_BLOCK
from l2a_transfer.features.store.structure import check_structure
from l2a_transfer.features.store.writer import fixed_length
from l2a_transfer.files import replacing
from l2a_transfer.inputs import open_input
from l2a_transfer.lock import output_lock
from l2a_transfer.models.card_schema import CARD_OF_FEATURES, OBJECT

SCHEMA = "l2a-maps/1"
AGAIN = "write it again with 'l2a-transfer explain'"
KIND = SealedKind(b"L2AMAPS\n", 1, "a file of maps", "explain", AGAIN)
DATASETS = {"values": ("f4", 1), "shapes": ("i4", 3), "ids": ("S", 1), "targets": ("i4", 1), "predicted": ("i4", 1)}
PROBABILITIES = {"probabilities": ("f4", 2)}
"""Name → type and number of axes of each dataset."""
NO_CLASS = -1
JSON: dict[str, Kind] = {
    "classes": list_of(text()),
    "maps": list_of(table({"method": text(), "name": text(), "kind": text(), "options": table(others=ANYTHING)})),
    "card": CARD_OF_FEATURES,
    "preprocess": OBJECT,
    "fingerprint": FINGERPRINT,
}
KINDS = ("signed", "non-negative", "distribution")


@dataclass(frozen=True)
class MapColumn:
    """One map that every picture has: `name` of `method`, with a kind of `MapKind`, made with `options`."""

    method: str
    name: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MapsMeta:
    """The origin of a file of maps: the data set's name, the model's classes, card and preprocess, and the settings."""

    data: str
    classes: tuple[str, ...]
    card: dict[str, Any]
    preprocess: dict[str, Any]
    fingerprint: dict[str, Any]


@contextmanager
def writing_maps(
    path: Path, meta: MapsMeta, options: Callable[[str], dict[str, Any]]
) -> Iterator[Callable[[Sequence[ImageMaps]], None]]:
    """Write a file of maps in a with block, which receives a function that adds the maps of one picture.

    Until the block ends, values are in a temporary file next to `path`, so memory does not grow with the number of
    pictures. The new file then replaces `path`; after an error, `path` is unchanged.

    Parameters
    ----------
    path : Path
        The file; an existing one is replaced.
    meta : MapsMeta
        Origin of the maps.
    options : callable
        Method → all its options.

    Raises
    ------
    StoreError
        For pictures with the same name or with other maps than the first picture, or if writing fails.
    OutputExistsError
        If another process writes `path`, or it is not a regular file.
    """
    rows = _Rows(path, options)
    try:
        with output_lock(path, argument="store"), tempfile.TemporaryFile(dir=path.parent) as spool:

            def add(found: Sequence[ImageMaps]) -> None:
                rows.add(found)
                for maps in found:
                    for values in maps.maps.values():
                        spool.write(np.ascontiguousarray(values, dtype="<f4").data)

            yield add
            if not rows.ids:
                raise StoreError(f"{path}: no maps were added")
            spool.seek(0)
            with replacing(path, buffering=0) as raw:
                sink = Sink(raw)
                with new_file(sink) as file:
                    _write(file, meta, rows)
                    _copy_values(file, rows, spool, sink)
                sink.raise_error()
                seal(raw, KIND)
    except OSError as error:
        if error.filename not in (None, str(path)):
            raise  # from another file written in the block
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


class _Rows:
    """The collected facts about the pictures so far."""

    def __init__(self, path: Path, options: Callable[[str], dict[str, Any]]) -> None:
        self.path, self._options = path, options
        self.columns: tuple[MapColumn, ...] = ()
        self.ids: dict[str, None] = {}
        self.shapes: list[list[tuple[int, int]]] = []
        self.targets: list[int] = []
        self.predicted: list[int] = []
        self.probabilities: list[tuple[float, float]] = []

    def add(self, found: Sequence[ImageMaps]) -> None:
        name = found[0].name
        columns = tuple(
            MapColumn(maps.method, level, maps.kinds[level], self._options(maps.method))
            for maps in found
            for level in maps.maps
        )
        if self.ids and columns != self.columns:
            raise StoreError(f"{self.path}: {name!r} has different maps than the previous pictures")
        if name in self.ids:
            raise StoreError(f"{self.path}: two pictures have the name {name!r}")
        self.columns = columns
        self.ids[name] = None
        self.shapes.append([values.shape for maps in found for values in maps.maps.values()])
        of_class = next((maps for maps in found if maps.target is not None), found[0])
        probability = float("nan") if of_class.probability is None else of_class.probability
        self.targets.append(NO_CLASS if of_class.target is None else of_class.target)
        self.predicted.append(NO_CLASS if of_class.predicted is None else of_class.predicted)
        own = of_class.predicted_probability
        self.probabilities.append((probability, float("nan") if own is None else own))


def _write(file: h5py.File, meta: MapsMeta, rows: _Rows) -> None:
    file.attrs["schema"] = SCHEMA
    file.attrs["data"] = meta.data
    documents = {**asdict(meta), "maps": [asdict(column) for column in rows.columns]}
    for key in JSON:
        file.attrs[key] = json.dumps(documents[key], sort_keys=True, ensure_ascii=False)
    tables = {
        "shapes": np.array(rows.shapes, dtype="<i4"),
        "ids": fixed_length(tuple(rows.ids)),
        "targets": np.array(rows.targets, dtype="<i4"),
        "predicted": np.array(rows.predicted, dtype="<i4"),
        "probabilities": np.array(rows.probabilities, dtype="<f4"),
    }
    for name, array in tables.items():
        step = max(1, CHUNK_BYTES // array[:1].nbytes)
        file.create_dataset(name, data=array, chunks=(min(len(array), step), *array.shape[1:]), fletcher32=True)


def _copy_values(file: h5py.File, rows: _Rows, spool: IO[bytes], sink: Sink) -> None:
    total = sum(h * w for own in rows.shapes for h, w in own)
    step = min(total, CHUNK_BYTES // 4)
    values = file.create_dataset("values", (total,), "<f4", chunks=(step,), fletcher32=True)
    for start in range(0, total, step):
        sink.raise_error()
        block = np.frombuffer(spool.read(4 * step), dtype="<f4")
        values[start : start + len(block)] = block


def is_maps_file(path: Path) -> bool:
    """Whether the file starts like a file of maps; the rest is not checked. Raises: OSError."""
    with open_input(path) as file:
        return file.read(len(KIND.magic)) == KIND.magic


class MapsFile:
    """An open file of maps, a context manager. The whole file is verified when it is opened.

    Parameters
    ----------
    path : str or Path
        A file written by `l2a-transfer explain --store`.

    Attributes
    ----------
    meta : MapsMeta
        Origin of the maps.
    columns : tuple of MapColumn
        The maps that every picture has.
    ids : tuple of str
        N distinct names of pictures.
    targets, predicted : ndarray
        (N,), int32: the explained class, −1 for none, and the predicted one.
    probabilities : ndarray
        (N, 2), float32, of these two classes; NaN if there is no class.
    sha256 : str
        The digest in its seal, of everything after the user block.

    Raises
    ------
    StoreError
        For a file that is truncated, modified, from another program, of another schema, or that links to other files.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_seal(self.path, KIND)
        with open_input(self.path) as opened:
            self.sha256: str = SEAL.unpack_from(opened.read(USER_BLOCK))[3].hex()
        try:
            check_structure(self.path, tuple(DATASETS | PROBABILITIES))
            self._file = open_hdf5(self.path)
        except StoreError as error:
            raise StoreError(error.problem, AGAIN) from error
        except OSError as error:
            raise StoreError(f"{self.path}: not an HDF5 file: {error}") from error
        try:
            self._read()
        except BaseException as error:
            self._file.close()
            if isinstance(error, (KeyError, RuntimeError, TypeError, ValueError, OSError)):
                raise StoreError(f"{self.path}: damaged or written by another program: {error}", AGAIN) from error
            raise

    def _read(self) -> None:
        schema = self._file.attrs.get("schema")
        if schema != SCHEMA:
            raise ValueError(f"its schema must be {SCHEMA!r}, got {schema!r}")
        documents = {}
        for key, kind in JSON.items():
            documents[key] = parse(str(self._file.attrs[key]))
            kind.check(documents[key], key)
        found = {name: self._dataset(name, *expected) for name, expected in (DATASETS | PROBABILITIES).items()}
        self.columns = tuple(MapColumn(**column) for column in documents.pop("maps"))
        self.meta = MapsMeta(str(self._file.attrs["data"]), tuple(documents.pop("classes")), **documents)
        self.ids = tuple(name.decode() for name in found["ids"][:].tolist())
        self.shapes: NDArray[np.int32] = found["shapes"][:]
        self.targets: NDArray[np.int32] = found["targets"][:]
        self.predicted: NDArray[np.int32] = found["predicted"][:]
        self.probabilities: NDArray[np.float32] = found["probabilities"][:]
        self._values = found["values"]
        N = len(self.ids)
        if self.shapes.shape != (N, len(self.columns), 2) or not self.columns or self.shapes.min() < 1:
            raise ValueError(f"/shapes of {self.shapes.shape} do not fit {N} pictures × {len(self.columns)} maps")
        sizes = self.shapes.astype(np.int64).prod(axis=2)
        if sizes.max() > len(self._values):  # before summing, which could overflow
            raise ValueError("/shapes do not match the size of /values")
        self._ends = sizes.cumsum().reshape(sizes.shape)
        if int(self._ends[-1, -1]) != len(self._values):
            raise ValueError("/shapes do not match the size of /values")
        if not len(self.targets) == len(self.predicted) == N or self.probabilities.shape != (N, 2):
            raise ValueError(f"/targets, /predicted and /probabilities must have {N} rows")
        if len(set(self.ids)) < N or (fault := first_fault(self.ids)):
            raise ValueError(f"/ids must differ, and each {MUST_BE}" if len(set(self.ids)) < N else f"/ids: {fault}")
        K = len(self.meta.classes)
        for name, classes in (("targets", self.targets), ("predicted", self.predicted)):
            if classes.min() < NO_CLASS or (K and classes.max() >= K):
                raise ValueError(f"/{name} must be between {NO_CLASS} and {K - 1}")
        if len({(column.method, column.name) for column in self.columns}) < len(self.columns):
            raise ValueError("two maps have the same name")
        if wrong := [column.kind for column in self.columns if column.kind not in KINDS]:
            raise ValueError(f"the kind of a map must be one of {', '.join(KINDS)}, got {wrong[0]!r}")

    def _dataset(self, name: str, dtype: str, ndim: int) -> h5py.Dataset:
        found = self._file[name]
        right = found.dtype.kind == "S" if dtype == "S" else found.dtype == np.dtype(f"<{dtype}")
        if found.ndim != ndim or not right:
            raise ValueError(f"/{name} must have {ndim} axes of {dtype}, got {found.shape} {found.dtype}")
        return found

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, row: int, method: str, name: str) -> NDArray[np.float32]:
        """One map of one picture, (h, w). Raises: UnknownNameError for an unknown map, StoreError for values that do
        not fit its kind."""
        keys = [f"{column.method}/{column.name}" for column in self.columns]
        if f"{method}/{name}" not in keys:
            raise unknown_name("map", f"{method}/{name}", keys)
        own = keys.index(f"{method}/{name}")
        h, w = self.shapes[row, own].tolist()
        end = int(self._ends[row, own])
        try:
            values: NDArray[np.float32] = self._values[end - h * w : end].reshape(h, w)
        except (OSError, RuntimeError) as error:
            raise StoreError(f"{self.path}: /values of {self.ids[row]!r} are damaged: {error}", AGAIN) from error
        if not np.isfinite(values).all() or (self.columns[own].kind != "signed" and values.min() < 0):
            raise StoreError(f"{self.path}: {keys[own]} of {self.ids[row]!r} is not {self.columns[own].kind}", AGAIN)
        return values

    def verify(self) -> int:
        """Read every value, and return their number. Raises: StoreError as in `read`."""
        for row in range(len(self)):
            for column in self.columns:
                self.read(row, column.method, column.name)
        return len(self._values)

    def describe(self) -> dict[str, Any]:
        """The output of `inspect`."""
        return {
            "kind": "maps",
            "bytes": self.path.stat().st_size,
            "sha256": self.sha256,
            "images": len(self),
            "maps": {f"{column.method}/{column.name}": column.kind for column in self.columns},
            "data": self.meta.data,
            "classes": list(self.meta.classes),
            "preprocess": self.meta.preprocess,
            "card": self.meta.card,
            "fingerprint": self.meta.fingerprint,
        }

    def __enter__(self) -> MapsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def open_maps(path: str | Path) -> MapsFile:
    """Open a file of maps for reading, after verifying the whole file. Raises: StoreError, as `MapsFile`.

    Examples
    --------
    >>> open_maps("maps.h5")
    Traceback (most recent call last):
    ...
    l2a_transfer.errors.StoreError: maps.h5: no such file; create it with 'l2a-transfer explain'
    """
    return MapsFile(path)
