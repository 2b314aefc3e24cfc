"""Columns of text files: `.csv` and `.tsv` with or without a header, `.txt` with one value or one row per line."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import DataError
from l2a_transfer.inputs import open_input
from l2a_transfer.memory import require_memory
from l2a_transfer.wording import counted

DELIMITERS = {".csv": ",", ".tsv": "\t"}
MAX_COLUMNS = 200_000
NUMBER_BYTES, TEXT_BYTES = 8, 66
"""Memory of a cell, which has at least two bytes in the file."""


def text_columns(path: Path) -> dict[str, NDArray[Any]]:
    """Name → (N,) float64, or str objects. Columns without names are called `0`, `1`, …; a single one is ``""``.

    The first line of a `.csv` or `.tsv` is a header if it contains anything but numbers; a `.txt` has no header.
    Raises: DataError naming the file and the line.
    """
    try:
        with open_input(path) as raw:
            size = raw.seek(0, 2)
            raw.seek(0)
            with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
                lines = _rows(path, file)
                return _columns(path, lines, size, names=path.suffix.lower() in DELIMITERS)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: must be text in UTF-8: {error}") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a valid table: {error}") from error


def _rows(path: Path, file: io.TextIOWrapper) -> Iterator[list[str]]:
    """The cells of each line that is not empty."""
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is not None:
        yield from filter(None, csv.reader(file, delimiter=delimiter, strict=True))
        return
    for line in file:
        cells = line.split()
        if cells:
            # A line is a row of numbers or a single value, because a name may contain spaces.
            yield cells if len(cells) > 1 and all(map(_is_number, cells)) else [line.strip()]


def _columns(path: Path, rows: Iterator[list[str]], size: int, *, names: bool) -> dict[str, NDArray[Any]]:
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: is empty")
    headings = [str(k) for k in range(len(first))] if len(first) > 1 else [""]
    start = 1
    if names and not all(map(_is_number, first)):
        headings = [cell.strip() for cell in first]
        first, start = next(rows, None), 2
        if first is None:
            raise DataError(f"{path}: has a header but no rows")
    if len(headings) > MAX_COLUMNS:
        raise DataError(f"{path}: has {len(headings):,} columns; at most {MAX_COLUMNS:,} are read")
    if len(set(headings)) < len(headings):
        twice = next(name for k, name in enumerate(headings) if name in headings[:k])
        raise DataError(f"{path}: two columns are called {twice!r}", "rename one")
    texts = sum(not _is_number(cell) for cell in first)
    cell_bytes = NUMBER_BYTES + (TEXT_BYTES - NUMBER_BYTES) * texts / len(first)
    require_memory(int(size / 2 * cell_bytes), f"{path}: to have it in memory", "save it as .npy")
    columns: list[Any] = [array("d") if _is_number(cell) else [] for cell in first]
    for number, cells in enumerate(_chained(first, rows), start):
        if len(cells) != len(headings):
            raise DataError(f"{path}: row {number} has {counted(len(cells), 'cell')}, expected {len(headings)}")
        for column, cell, name in zip(columns, cells, headings, strict=True):
            if isinstance(column, list):
                column.append(cell.strip())
            elif _is_number(cell):
                column.append(float(cell))
            else:
                where = f" of column {name!r}" if name else ""
                raise DataError(f"{path}: row {number}{where} is {cell[:60]!r}, but earlier rows contain numbers")
    return {
        name: np.array(column, dtype=object) if isinstance(column, list) else np.frombuffer(column, dtype=np.float64)
        for name, column in zip(headings, columns, strict=True)
    }


def _chained(first: list[str], rows: Iterator[list[str]]) -> Iterator[list[str]]:
    yield first
    yield from rows


def _is_number(cell: str) -> bool:
    """True if float() accepts the cell, except for Python's underscores in numbers."""
    if "_" in cell:
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True
