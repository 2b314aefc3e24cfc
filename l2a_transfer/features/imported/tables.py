"""Read files of arrays written by other programs as named columns, without running anything in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.names import text_of
from l2a_transfer.data.npz_arrays import open_npz, read_npy
from l2a_transfer.errors import DataError, did_you_mean
from l2a_transfer.features.imported.parquet_columns import parquet_columns
from l2a_transfer.features.imported.text_columns import text_columns
from l2a_transfer.inputs import open_input
from l2a_transfer.memory import require_memory
from l2a_transfer.text import few

ONLY = ""
"""The column name in a file with a single array."""
LAST_CHARACTER = 0x10FFFF


@dataclass(frozen=True)
class Table:
    """The columns of one file. `read` returns one of `names`: (N,) numbers or text, or (N, D, …) numbers."""

    path: Path
    names: tuple[str, ...]
    read: Callable[[str], NDArray[Any]]

    def column(self, name: str) -> NDArray[Any]:
        """One column. Raises: DataError for an unknown name, suggesting the nearest."""
        if name not in self.names:
            there = "one array without a name" if self.names == (ONLY,) else f"the columns {few(self.names, 12)}"
            raise DataError(f"{self.path}: has no column {name!r}, but {there}{did_you_mean(name, self.names)}")
        return self.read(name)


def open_table(path: Path) -> Table:
    """Open the columns of a file according to its suffix.

    Raises: DataError for another suffix or an invalid file; MissingExtraError for .parquet without pyarrow.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise DataError(
            f"{path}: features and labels are read from {', '.join(READERS)}; got {path.suffix or 'no suffix'!r}",
            INSTEAD.get(suffix, "save it as .npy"),
        )
    return READERS[suffix](path)


def _npy(path: Path) -> Table:
    array = read_npy(path)
    return Table(path, (ONLY,), lambda _: as_values(array, path))


def _npz(path: Path) -> Table:
    def read(name: str) -> NDArray[Any]:
        with open_npz(path) as file:
            size = file.arrays[name].bytes
            require_memory(size, f"{path}: to have {name!r} in memory", "split the file")
            return as_values(file.read(name), path, name)

    with open_npz(path) as file:
        return Table(path, tuple(file.arrays), read)


def _text(path: Path) -> Table:
    columns = text_columns(path)
    return Table(path, tuple(columns), lambda name: columns[name])


def _parquet(path: Path) -> Table:
    columns, read = parquet_columns(path)
    return Table(path, columns, read)


def _saved(path: Path) -> Table:
    """A file of torch.save: a tensor, or tensors and lists by name."""
    from l2a_transfer.saved import FAULTS, read_saved

    try:
        with open_input(path) as file:
            found = read_saved(file)
        columns = found if isinstance(found, dict) else {ONLY: found}
        arrays = {str(name): _of_saved(value) for name, value in columns.items()}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except FAULTS as error:
        raise DataError(
            f"{path}: not a file of torch.save with plain tensors, or corrupt: {error}",
            "save a tensor or a dictionary of tensors; nothing else is unpickled",
        ) from error
    return Table(path, tuple(arrays), lambda name: as_values(arrays[name], path, name))


def _of_saved(value: Any) -> NDArray[Any]:
    """A tensor or a flat list as an array. Raises: ValueError."""
    import torch

    if isinstance(value, torch.Tensor):
        size = value.nelement() * value.element_size()  # an expanded tensor may repeat one number any number of times
        require_memory(size, "to have a tensor of it in memory", "save fewer rows at a time")
        found: NDArray[Any] = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        return found
    if isinstance(value, (list, tuple)) and (
        all(type(one) is str for one in value) or all(type(one) in (int, float) for one in value)
    ):
        return np.array(value)
    raise ValueError(f"{type(value).__name__} is neither a tensor nor a list of numbers or of text")


def as_values(array: NDArray[Any], path: Path, name: str = ONLY) -> NDArray[Any]:
    """An array of numbers unchanged, or of text or bytes as str. Raises: DataError for other types."""
    which = f"{path}: {name!r}" if name else str(path)
    if array.dtype.kind in "iuf":
        return array
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind not in "US":
        raise DataError(f"{which}: must be numbers or text, got {array.dtype} {array.shape}")
    if array.dtype.kind == "U":  # NumPy accepts invalid code points, which later cause Python errors
        codes = np.ascontiguousarray(array).reshape(-1).view(f"{array.dtype.byteorder}u4")
        if codes.size and codes.max() > LAST_CHARACTER:
            raise DataError(f"{which}: contains numbers that are not characters", "save it again")
    try:
        return np.array([text_of(one) for one in array.ravel().tolist()], dtype=object).reshape(array.shape)
    except UnicodeDecodeError as error:
        raise DataError(f"{which}: must be text or bytes in UTF-8: {error}") from error


READERS: dict[str, Callable[[Path], Table]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _text,
    ".tsv": _text,
    ".txt": _text,
    ".parquet": _parquet,
    ".pt": _saved,
    ".pth": _saved,
}
_THINGSVISION = "save it as .npy; thingsvision does with file_format='npy'"
INSTEAD = {".mat": _THINGSVISION, ".hdf5": _THINGSVISION, ".h5": _THINGSVISION, ".pkl": "save it as .npy"}
