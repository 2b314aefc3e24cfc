"""Columns of a Parquet file: numbers, text, and lists of numbers with the same length in every row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.npz_arrays import MAX_BYTES, MAX_TIMES, SMALL_BYTES
from l2a_transfer.data.parquet import footer_sha256, measure_column, opened_parquet
from l2a_transfer.data.shard_io import Shard, open_shard, size_and_stamp
from l2a_transfer.errors import DataError
from l2a_transfer.memory import require_memory
from l2a_transfer.registry import require_package

if TYPE_CHECKING:
    import pyarrow as pa


def parquet_columns(path: Path) -> tuple[tuple[str, ...], Callable[[str], NDArray[Any]]]:
    """The names of a file's columns, and a function that reads one: (N,) numbers or str objects, or (N, D) numbers.

    Raises: DataError naming the file and the column; MissingExtraError without pyarrow.
    """
    require_package(str(path), "pyarrow", "parquet")
    shard = Shard(str(path), path.name, *size_and_stamp(str(path)), "all")
    footer_sha256(shard)
    with opened_parquet(shard) as file:
        names = tuple(file.schema_arrow.names)
    return names, lambda name: _read(shard, name)


def _read(shard: Shard, name: str) -> NDArray[Any]:
    import pyarrow as pa

    most = min(MAX_BYTES, max(SMALL_BYTES, MAX_TIMES * shard.size))
    with opened_parquet(shard) as file, open_shard(shard.path, ahead=False) as raw:
        kind = file.schema_arrow.field(name).type
        size = sum(measure_column(shard, raw, file, g, name)[0] for g in range(file.metadata.num_row_groups))
        rows = file.metadata.num_rows
        # A page of repetitions can stand for any number of values, each of which takes eight bytes here.
        values = sum(
            file.metadata.row_group(g).column(k).num_values
            for g in range(file.metadata.num_row_groups)
            for k in range(file.metadata.num_columns)
            if file.metadata.row_group(g).column(k).path_in_schema.split(".")[0] == name
        )
        size = max(size, 8 * max(values, rows))
        if size > most:
            raise DataError(
                f"{shard.path}: {name!r} unpacks to {size >> 20:,} MiB; at most {most >> 20:,} are read: {MAX_TIMES} "
                "times the size of the file",
                "split the file",
            )
        require_memory(2 * size, f"{shard.path}: to have {name!r} in memory", "split the file")
        column = file.read(columns=[name], use_threads=False).column(name)
        if column.null_count:
            raise DataError(
                f"{shard.path}: {name!r} has no value in {column.null_count:,} rows", "fill them, or drop them"
            )
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        return _values(shard, name, column, kind)


def _values(shard: Shard, name: str, column: pa.ChunkedArray, kind: pa.DataType) -> NDArray[Any]:
    import pyarrow as pa

    is_a = pa.types
    if is_a.is_integer(kind) or is_a.is_floating(kind):
        found: NDArray[Any] = column.to_numpy()
        return found
    if is_a.is_boolean(kind):
        return np.asarray(column.to_pylist(), dtype=np.uint8)
    if is_a.is_string(kind) or is_a.is_large_string(kind) or is_a.is_string_view(kind):
        return np.array(column.to_pylist(), dtype=object)
    if not (is_a.is_list(kind) or is_a.is_large_list(kind) or is_a.is_fixed_size_list(kind)) or not (
        is_a.is_integer(kind.value_type) or is_a.is_floating(kind.value_type)
    ):
        raise DataError(f"{shard.path}: {name!r} must contain numbers, text or lists of numbers, got {kind}")
    parts, widths = [], set()
    for chunk in column.chunks:
        inside = chunk.flatten()
        if inside.null_count:
            raise DataError(f"{shard.path}: {name!r} has lists with missing values")
        lengths = np.unique(chunk.value_lengths().to_numpy(zero_copy_only=False)) if len(chunk) else np.array([])
        widths |= set(lengths.tolist())
        parts.append(inside.to_numpy(zero_copy_only=False))
    if len(widths) != 1:
        raise DataError(
            f"{shard.path}: the lists of {name!r} must have the same length, got {min(widths, default=0)} to "
            f"{max(widths, default=0)} numbers"
        )
    return np.concatenate(parts).reshape(-1, int(widths.pop()))
