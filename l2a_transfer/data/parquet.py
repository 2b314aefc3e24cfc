"""Parquet files with image bytes, as written by Hugging Face. One row group at a time is in memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.data.ahead import Ahead
from l2a_transfer.data.decode import MAX_FILE_BYTES, decode_bytes
from l2a_transfer.data.names import MAX_CLASSES, check_class_count, class_name, hive_value, merged
from l2a_transfer.data.parquet_pages import measure_pages
from l2a_transfer.data.parquet_schema import Columns, find_columns
from l2a_transfer.data.registry import FORMAT_OPTIONS, register_format
from l2a_transfer.data.shard_io import Shard, ShardReader, check_unchanged, fingerprint_of, open_shard
from l2a_transfer.data.shards import find_shards, name_of, splits_of
from l2a_transfer.data.sources import SourceBase
from l2a_transfer.errors import DataError, SourceError
from l2a_transfer.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_GROUP_BYTES = 2 << 30
MAX_FOOTER_BYTES = 64 << 20
MAX_WRITTEN_OUT_BYTES = 256 << 20
PART_BYTES = 64 << 20
STREAM_BYTES = 1 << 20
"""Bytes of a compressed column that are in memory at once."""
MAGIC = b"PAR1"


class _Held:
    """The pictures of the row group that this process read last, and those that were read ahead."""

    def __init__(self, ahead: Ahead | None = None) -> None:
        self.key: tuple[int, int] = (-1, -1)
        self.pictures: Any = None
        self.ahead = ahead or Ahead()

    def __reduce__(self) -> tuple[type[_Held], tuple[Ahead]]:
        return _Held, (self.ahead,)


@dataclass(frozen=True, eq=False)
class ParquetSource(SourceBase):
    """Pictures in Parquet files. An id is FILE/ROW.

    `group` (N, 3): the file, row group and row in that group of each picture. `footers`: SHA-256 of each file's footer,
    which contains the sizes and positions of all its columns.
    """

    shards: tuple[Shard, ...]
    columns: tuple[str, bool]
    group: NDArray[np.int32]
    footers: tuple[str, ...]
    group_bytes: tuple[tuple[int, ...], ...]
    held: _Held = field(default_factory=_Held)

    def image(self, row: int) -> Image.Image:
        file, group, place = (int(k) for k in self.group[row])
        shard = self.shards[file]
        name = f"{shard.path}: row {self.ids[row].rpartition('/')[2]}"
        if (ready := self.held.ahead.get(row)) is not None:
            return decode_bytes(ready, name)
        if self.held.key != (file, group):
            self.held.pictures = None  # freed first, so that only one is in memory
            self.held.pictures = _read_pictures(shard, group, *self.columns)
            self.held.key = (file, group)
        if place >= len(self.held.pictures):
            raise DataError(f"{name}: missing; the file was changed after it was opened; start again")
        content = self.held.pictures[place].as_py()
        if content is None:
            raise DataError(f"{name}: has no image bytes; paths to other files are not followed")
        if len(content) > MAX_FILE_BYTES:
            raise DataError(f"{name}: {len(content) >> 20} MiB; at most {MAX_FILE_BYTES >> 20} are decoded")
        return decode_bytes(content, name)

    def read_ahead(self, batches: Sequence[NDArray[np.int64]], *, sharing: int = 1) -> int:
        """See `ahead.read_ahead`. If an order returns to row groups, each is read once for many batches."""
        firsts = np.cumsum([0, *map(len, self.group_bytes)], dtype=np.int64)
        group = firsts[self.group[:, 0]] + self.group[:, 1].astype(np.int64)  # (N,)
        self.held.key, self.held.pictures = (-1, -1), None
        sizes = np.concatenate([np.array(own, dtype=np.int64) for own in self.group_bytes])
        return self.held.ahead.prepare(self.name, batches, group, sizes, self._encoded, sharing=sharing)

    def _encoded(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
        """(row, bytes) of the pictures of a row group that `image` would decode; `image` reports the other ones.

        Raises: SourceError if the file was changed.
        """
        file, number = (int(k) for k in self.group[rows[0], :2])
        try:
            pictures = _read_pictures(self.shards[file], number, *self.columns)
        except SourceError:
            raise
        except DataError:
            return
        for row, place in zip(rows.tolist(), self.group[rows, 2].tolist(), strict=True):
            content = pictures[place].as_py() if place < len(pictures) else None
            if content is not None and len(content) <= MAX_FILE_BYTES:
                yield row, content

    def fingerprint(self) -> str:
        files = fingerprint_of(self.shards, by_content=self.by_content)
        return self._digest(files, json.dumps(self.footers).encode())


@register_format(
    "parquet",
    takes="PATH",
    example="folder",
    suffixes=(".parquet",),
    options=FORMAT_OPTIONS,
    package="pyarrow",
    extra="parquet",
)
def read_parquet(where: str, *, split_from: str = "auto", by_content: bool = False) -> ParquetSource:
    """The pictures of Parquet files, as written by Hugging Face, in the order of the files and their rows.

    `where` is described in `find_shards`. `PATH#COLUMN` selects one of several label columns, as in
    `cifar100#fine_label`. The image column is a struct with `bytes`, or binary. The label column has integers; class
    names are in the schema's `huggingface` metadata, otherwise the numbers are the names; null and −1 mean no label. If
    there is no label column, a Hive partition is the label, as in `label=cat/0.parquet`. Raises: DataError naming file
    and column; MissingExtraError without pyarrow.
    """
    path, wanted = _split_column(where)
    found = find_shards(path, ".parquet", split_from)
    shards = found.shards
    ids: list[str] = []
    groups, labels, footers, partitions, sizes = [], [], [], list[str | None](), []
    first: Columns | None = None
    for k, shard in enumerate(shards):
        footers.append(footer_sha256(shard))
        with opened_parquet(shard) as file:
            columns = find_columns(shard, file.schema_arrow, wanted)
            if first is not None and columns != first:
                raise DataError(
                    f"{shard.path}: its image or label column or its classes differ from those of {shards[0].path}"
                )
            first = columns
            own = _group_rows(shard, file)
            rows = sum(own)
            sizes.append(_declared_bytes(file, columns.image))
            labels.append(_read_labels(shard, file, columns.label, rows))
            partitions.append(hive_value(shard.path, columns.partition) if columns.partition else None)
        ids += [f"{shard.name}/{row:05d}" for row in range(rows)]
        groups += [np.stack([np.full(n, k), np.full(n, g), np.arange(n)], axis=1) for g, n in enumerate(own)]
    if not ids or first is None:
        raise DataError(f"{where}: no rows in it")
    classes = first.classes
    if first.partition:
        classes, numbers = _numbered(partitions)
        labels = [np.full(len(own), number) for own, number in zip(labels, numbers, strict=True)]
    joined = np.concatenate(labels)
    low, high = int(joined.min()), int(joined.max())
    count = len(classes) if classes is not None else high + 1
    if classes is not None:
        check_class_count(where, count)
    if low < -1 or high >= count or count > MAX_CLASSES:
        raise DataError(f"{where}: labels must be −1 or between 0 and {min(count, MAX_CLASSES) - 1}; got {low}…{high}")
    names, joined = merged(classes if classes is not None else [str(k) for k in range(count)], joined)
    splits = splits_of(shards)
    group = np.concatenate(groups).astype(np.int32)
    return ParquetSource(
        name=f"parquet:{name_of(path)}{f'#{wanted}' if wanted else ''}",
        classes=names,
        splits=splits,
        ids=tuple(ids),
        labels=joined.astype(np.int32),
        split=np.array([splits.index(shard.split) for shard in shards], dtype=np.uint8)[group[:, 0]],
        by_content=by_content,
        reading=found.reading,
        shards=shards,
        columns=(first.image, first.in_struct),
        group=group,
        footers=tuple(footers),
        group_bytes=tuple(sizes),
    )


def _numbered(partitions: list[str | None]) -> tuple[tuple[str, ...] | None, list[int]]:
    """The classes and each file's label from a Hive partition: sorted names, or numbers, which are kept."""
    given = ["" if value is None else class_name(value) for value in partitions]
    if all(value.isdecimal() and len(value) < 10 for value in given if value):
        return None, [int(value) if value else -1 for value in given]
    classes = tuple(sorted({value for value in given if value}))
    place = {name: k for k, name in enumerate(classes)}
    return classes, [place[value] if value else -1 for value in given]


def _split_column(where: str) -> tuple[str, str]:
    """PATH and COLUMN of `PATH#COLUMN`. A `#` followed by more of a path belongs to the path."""
    path, mark, column = where.rpartition("#")
    if not mark or not column or set(column) & set("/*?[{") or column.endswith(".parquet") or os.path.exists(where):
        return where, ""
    return path, column


def footer_sha256(shard: Shard) -> str:
    """The SHA-256 of a file's footer, after checking what surrounds it: magic, length, magic."""
    reader = ShardReader()
    if shard.size < 12:
        raise DataError(f"{shard.path}: not a Parquet file: {shard.size} bytes")
    tail = reader.read(shard, shard.size - 8, 8)
    length = int.from_bytes(tail[:4], "little")
    if (
        reader.read(shard, 0, 4) != MAGIC
        or tail[4:] != MAGIC
        or not 0 < length <= min(shard.size - 12, MAX_FOOTER_BYTES)
    ):
        raise DataError(f"{shard.path}: not a Parquet file, truncated, or its footer is larger than 64 MiB")
    return hashlib.sha256(reader.read(shard, shard.size - 8 - length, length)).hexdigest()


@contextmanager
def opened_parquet(shard: Shard, *, read_dictionary: list[str] | None = None) -> Iterator[pq.ParquetFile]:
    """Open a file in pyarrow. Raises: DataError for every error of pyarrow while it is open."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        options = {
            "page_checksum_verification": True,
            "pre_buffer": False,
            "buffer_size": STREAM_BYTES,
            "thrift_string_size_limit": MAX_FOOTER_BYTES,
            "thrift_container_size_limit": 1_000_000,
            "read_dictionary": read_dictionary,
        }
        with open_shard(shard.path) as raw, pq.ParquetFile(raw, **options) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise DataError(f"{shard.path}: not a Parquet file, or corrupt: {error}; write it again") from error
    except MemoryError as error:
        raise DataError(f"{shard.path}: needs more memory than is available") from error


def _group_rows(shard: Shard, file: pq.ParquetFile) -> list[int]:
    """The number of rows of each row group. Raises: DataError if the file is too small for them."""
    rows = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
    # A few bytes can declare any number of rows, but a picture has at least one byte.
    if min(rows, default=0) < 0 or sum(rows) > shard.size:
        raise DataError(f"{shard.path}: corrupt: declares {counted(sum(rows), 'row')} in {shard.size:,} bytes")
    return rows


def _declared_bytes(file: pq.ParquetFile, column: str) -> tuple[int, ...]:
    """The uncompressed size of the pictures of each row group, according to the footer."""
    found = []
    for g in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(g)
        columns = (group.column(k) for k in range(group.num_columns))
        own = [c.total_uncompressed_size for c in columns if f"{c.path_in_schema}.".startswith(f"{column}.")]
        found.append(max(0, sum(own)))
    return tuple(found)


def _read_labels(shard: Shard, file: pq.ParquetFile, column: str | None, rows: int) -> NDArray[np.int64]:
    if column is None:
        return np.full(rows, -1, dtype=np.int64)
    parts = []
    with open_shard(shard.path, ahead=False) as raw:
        for g in range(file.metadata.num_row_groups):
            measure_column(shard, raw, file, g, column)
            values = file.read_row_group(g, columns=[column], use_threads=False).column(0)
            parts.append(values.cast("int64").fill_null(-1).to_numpy())
    labels: NDArray[np.int64] = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
    if len(labels) != rows:
        raise DataError(
            f"{shard.path}: corrupt: {column!r} has {counted(len(labels), 'value')} for {counted(rows, 'row')}"
        )
    return labels


def _read_pictures(shard: Shard, group: int, column: str, in_struct: bool) -> pa.ChunkedArray:
    """The encoded pictures of a row group. A picture that the file stores once for many rows is in memory once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    check_unchanged(shard)
    name = f"{column}.bytes" if in_struct else column
    with opened_parquet(shard) as file, open_shard(shard.path, ahead=False) as raw:
        if file.schema_arrow.get_field_index(column) < 0 or group >= file.metadata.num_row_groups:
            raise DataError(f"{shard.path}: was changed after it was opened; start again")
        size, as_dictionary = measure_column(shard, raw, file, group, name)
        if not as_dictionary:
            # In parts, because pyarrow needs twice the memory of the data that it reads at once.
            rows = max(1, PART_BYTES * file.metadata.row_group(group).num_rows // max(1, size))
            parts = file.iter_batches(rows, row_groups=[group], columns=[name], use_threads=False)
            pictures = [pc.struct_field(part.column(0), "bytes") if in_struct else part.column(0) for part in parts]
            return pa.chunked_array(pictures, None if pictures else pa.binary())
    with opened_parquet(shard, read_dictionary=[name]) as file:
        values = file.read_row_group(group, columns=[name], use_threads=False).column(0)
        return _written_out(pc.struct_field(values, "bytes") if in_struct else values)


def _written_out(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace dictionary indices by their values if these are small, because access is then faster."""
    import pyarrow as pa
    import pyarrow.compute as pc

    size = sum(pc.sum(pc.binary_length(own.dictionary).take(own.indices)).as_py() or 0 for own in values.chunks)
    if size > MAX_WRITTEN_OUT_BYTES:
        return values
    return pa.chunked_array([own.dictionary_decode() for own in values.chunks], values.type.value_type)


def measure_column(shard: Shard, raw: IO[bytes], file: pq.ParquetFile, group: int, name: str) -> tuple[int, bool]:
    """An upper limit for the memory of a column's values in a row group, and whether to read it as a dictionary.

    While it is read, a page is in memory twice: uncompressed, and as values. Raises: DataError if a row group would
    take more than MAX_GROUP_BYTES; if its pages alone would not, only if most of these bytes are not in the file.
    """
    found = file.metadata.row_group(group)
    size, stored, taken, repeated = 0, 0, 0, 0
    for k in range(found.num_columns):
        column = found.column(k)
        if column.path_in_schema != name and not column.path_in_schema.startswith(f"{name}."):
            continue
        start = column.data_page_offset
        if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < start:
            start = column.dictionary_page_offset
        texts = column.physical_type == "BYTE_ARRAY"
        fixed = file.schema.column(k).length if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else 0
        length = min(column.total_compressed_size, shard.size - start)
        pages = measure_pages(raw, start, length, column.num_values, texts=texts)
        size += max(pages.bytes, fixed * column.num_values)
        stored += pages.stored
        taken += 2 * pages.largest
        repeated += pages.repeated if texts else 0
    if size > MAX_GROUP_BYTES or (size + taken > MAX_GROUP_BYTES and size > 2 * stored):
        raise DataError(
            f"{shard.path}: reading a row group takes {(size + taken) >> 20} MiB; at most "
            f"{MAX_GROUP_BYTES >> 20} are allowed: write the file with a smaller row_group_size"
        )
    return size + repeated, size + taken + repeated > MAX_GROUP_BYTES and repeated > 0
