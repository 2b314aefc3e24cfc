"""Parquet files that unpack to far more than they hold: dictionaries, compressed pages whose footer lies, prefixes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def noise(side: int) -> bytes:
    """A picture that does not compress: about three bytes a pixel."""
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG")
    return content.getvalue()


def write(path: Path, column: Any, **options: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": column}), path, row_group_size=len(column), **options)
    return path


def save_dictionary_bomb(path: Path, *, rows: int, side: int, in_struct: bool = True) -> Path:
    """One picture, stored once and meant by each of `rows` rows."""
    import pyarrow as pa

    entries: Any = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([noise(side)]))
    column = pa.StructArray.from_arrays([entries], ["bytes"]) if in_struct else entries
    path = write(path, column, dictionary_pagesize_limit=1 << 30, store_schema=False)
    return path


def save_compressed_bomb(path: Path, *, size: int, forged: bool = True) -> Path:
    """One value of `size` zeros in a compressed page; with `forged`, the footer says that it unpacks to a few bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    write(path, pa.array([bytes(size)]), compression="zstd", use_dictionary=False, write_statistics=False)
    if forged:
        group = pq.ParquetFile(path).metadata.row_group(0)
        content = path.read_bytes()
        footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        head, tail = content[:footer], content[footer:]
        for declared in {group.total_byte_size, group.column(0).total_uncompressed_size}:
            true = varint(2 * declared)
            assert true in tail
            tail = tail.replace(true, varint(2 * 9, length=len(true)))
        path.write_bytes(head + tail)
        assert pq.ParquetFile(path).metadata.row_group(0).total_byte_size == 9
    return path


def save_prefix_bomb(path: Path, *, rows: int, size: int) -> Path:
    """One value of `size` bytes in each row; all but the first are stored as the length of what they share with it."""
    import pyarrow as pa

    value = np.random.default_rng(0).bytes(size)
    return write(
        path,
        pa.array([value] * rows),
        use_dictionary=False,
        column_encoding={"image": "DELTA_BYTE_ARRAY"},
        compression="none",
        write_statistics=False,
    )


def varint(value: int, *, length: int = 0) -> bytes:
    """A number as Thrift's compact protocol has it, in `length` bytes where that is more than it needs."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    while len(out) < length:
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)
