"""Parquet: columns that expand to a thousand times their size, schemas that no data set has, forged footers."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fuzzing.kinds import Kind, sha256
from fuzzing.mutate import NAMES, RAW, damaged_json, mutate, mutate_file, number, pick, special_file
from fuzzing.pictures import encoded, hostile_picture
from l2a_transfer.data.readers import open_source

ROWS = 12
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def features() -> dict[str, object]:
    own = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b", "c"]}}
    return {"info": {"features": own}}


def table(contents: list[bytes], labels: object = None, image: pa.DataType = IMAGE) -> pa.Table:
    rows = [{"bytes": content, "path": None} for content in contents] if pa.types.is_struct(image) else contents
    given = [row % 3 for row in range(len(contents))] if labels is None else labels
    found = pa.table(
        {"image": pa.array(rows, image), "label": given if isinstance(given, pa.Array) else pa.array(given, "int64")}
    )
    return found.replace_schema_metadata({"huggingface": json.dumps(features())})


def seeds(folder: Path) -> None:
    contents = [encoded(("JPEG", "PNG")[row % 2]) for row in range(ROWS)]
    for name, options in (
        ("snappy", {}),
        ("zstd", {"compression": "zstd", "write_page_checksum": True}),
        ("plain", {"compression": "none", "use_dictionary": False}),
        ("v2", {"data_page_version": "2.0", "compression": "gzip", "version": "2.4"}),
    ):
        pq.write_table(table(contents), folder / f"{name}.parquet", row_group_size=5, **options)


def answer(path: Path) -> str:
    source = open_source(f"parquet:{path}")
    pictures = [sha256(np.asarray(source.image(row))) for row in range(min(len(source), 20))]
    if len(source) > 20:
        pictures.append(sha256(np.asarray(source.image(len(source) - 1))))
    source.fingerprint()  # has times of change, and so is no part of the answer
    return sha256(source.ids[:20], source.labels, source.classes, *pictures)


def _bomb(path: Path, rng: Random) -> str:
    """Decompression bombs: one picture that a dictionary repeats, or packed zeros."""
    how = rng.choice(("dictionary", "dictionary", "zeros", "labels", "path", "runs"))
    size = rng.choice((1 << 20, 8 << 20))
    # zstd packs much in little time.
    compression = rng.choice(("zstd", "zstd", "gzip", "snappy", "brotli", "lz4"))
    total = 3 << 30 if compression == "zstd" and rng.random() < 0.2 else 64 << 20
    picture = encoded("PNG")
    if how == "dictionary":
        rows = rng.choice((300, 5000))
        values = pa.array([picture + bytes(size)], pa.binary())
        column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, "int32")), values)
        own = pa.table({"image": column, "label": pa.array([0] * rows)})
    elif how in ("zeros", "path"):
        size *= 8
        values = (
            {"bytes": picture + bytes(size), "path": ""} if how == "zeros" else {"bytes": picture, "path": "x" * size}
        )
        own = pa.table(
            {
                "image": pa.chunked_array([pa.array([values], IMAGE)] * (total // size)),
                "label": pa.array([0] * (total // size)),
            }
        )
    elif how == "labels":
        rows = rng.choice((1_000_000, 20_000_000))
        own = pa.table({"image": pa.nulls(rows, pa.binary()), "label": pa.array(np.zeros(rows, "int64"))})
    else:
        own = table([b""] * 200_000)
    rows_a_group = rng.choice((None, 100, 100_000_000))
    dictionary = ["image"] if how == "dictionary" else how == "labels"
    pq.write_table(
        own,
        path,
        use_dictionary=dictionary,
        row_group_size=rows_a_group if len(own) < 10_000 else None,
        compression=compression,
        dictionary_pagesize_limit=64 << 20,
    )
    return f"{how} {compression}"


def _schema(path: Path, rng: Random) -> str:
    """Columns of other types, duplicated, missing, nested, null, or with invalid label values."""
    contents = [encoded("PNG")] * 4
    numbers = rng.choice(
        (
            [0, 1, None, 2],
            [-1, 0, 1, 2],
            [-2, 0, 0, 0],
            [2**63 - 1, 0, 0, 0],
            [-(2**63), 0, 0, 0],
            [99_999, 0, 1, 2],
            [100_000] * 4,
            [None] * 4,
            pa.array([2**64 - 1, 0, 0, 0], "uint64"),
            pa.array([1.5] * 4),
            pa.array(["a"] * 4),
            pa.array([[0]] * 4),
            pa.array([True] * 4),
            pa.array([0, 1, 0, 1]).dictionary_encode(),
            pa.array(["a", "b"] * 2).dictionary_encode(),
            pa.nulls(4),
            pa.array([1] * 4, "time32[s]"),
            pa.array([1] * 4, "timestamp[ns]"),
            pa.array([1] * 4, "duration[us]"),
            pa.array([1, 2, 3, 4], "int8"),
            pa.array([1] * 4, pa.decimal128(38)),
        )
    )
    kind = rng.choice(
        (
            IMAGE,
            pa.binary(),
            pa.large_binary(),
            pa.string(),
            pa.binary(len(contents[0])),
            pa.struct({"bytes": pa.large_binary()}),
            pa.struct({"bytes": IMAGE}),
            pa.list_(pa.binary()),
            pa.struct({"bytes": pa.string()}),
            pa.struct({"path": pa.string()}),
            pa.map_(pa.string(), pa.binary()),
            pa.dictionary(pa.int8(), pa.binary()),
            pa.binary_view(),
            pa.struct({"bytes": pa.binary(len(contents[0]))}),
        )
    )
    try:
        own = table(contents, numbers, kind)
    except (pa.ArrowException, TypeError, ValueError):
        own = pa.table(
            {"image": pa.nulls(4, kind), "label": numbers if isinstance(numbers, pa.Array) else pa.array(numbers)}
        )
    how = rng.randrange(7)
    if how == 0:
        own = own.append_column(
            rng.choice(("image", "label", "labels", "img", *[n.encode(errors="replace").decode() for n in NAMES[:9]])),
            own.column(0),
        )
    elif how == 1:
        own = own.slice(0, 0)
    elif how == 2:
        own = own.select([rng.randrange(2)])
    elif how == 3:
        nested = own.column(0).combine_chunks()
        for _ in range(rng.choice((1, 60))):
            nested = pa.StructArray.from_arrays([nested], ["bytes"])
        own = own.set_column(0, "image", nested)
    elif how == 4:
        own = own.append_column("wide", pa.array([{f"c{k}": k for k in range(3000)}] * len(own)))
    try:
        pq.write_table(own, path)
    except (pa.ArrowException, TypeError, ValueError):
        pq.write_table(own.select([own.num_columns - 1]), path)
    return f"schema {how} {kind}"[:60]


def _metadata(path: Path, rng: Random) -> str:
    """Metadata in the schema about columns and classes."""
    own = table([encoded("PNG")] * 4)
    text = rng.choice((damaged_json(features(), rng), damaged_json(features(), rng), rng.choice(RAW)))
    if rng.random() < 0.3:
        described = features()
        described["info"]["features"]["label"]["names"] = rng.choice(
            ([], ["a"] * 3, list(NAMES), [1, 2, None], {"a": 1}, [["a"]], [str(k) for k in range(100_001)])
        )  # type: ignore[index]
        text = json.dumps(described)
    key = rng.choice((b"huggingface", b"huggingface", b"ARROW:schema", b"pandas"))
    pq.write_table(own.replace_schema_metadata({key: text.encode("utf-8", "surrogatepass")}), path)
    return "metadata"


def _footer(path: Path, rng: Random) -> str:
    """Change only the footer; its length stays correct."""
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - length : -8]
    if rng.random() < 0.7:
        changed = bytearray(footer)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(changed))
            # Thrift's compact numbers are of seven bits a byte.
            changed[at : at + 1] = rng.choice(
                (b"\xfe\xff\xff\xff\x0f", b"\xff" * 9 + b"\1", bytes([rng.randrange(256)]), b"", b"\0", number(rng))
            )
        footer = bytes(changed)
    else:
        footer = mutate(footer, rng)
    path.write_bytes(content[: -8 - length] + footer + len(footer).to_bytes(4, "little") + content[-4:])
    return "footer"


def _pages(path: Path, rng: Random) -> str:
    """Change only the pages."""
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[-8:-4], "little")
    for _ in range(rng.choice((1, 2, 8))):
        at = rng.randrange(4, len(content) - 8 - length)
        content[at] = rng.choice((content[at] ^ 1 << rng.randrange(8), 0, 0xFF, rng.randrange(256)))
    path.write_bytes(content)
    return "pages"


def _picture(path: Path, rng: Random) -> str:
    pq.write_table(table([hostile_picture(rng), encoded("PNG")]), path)
    return "picture"


damage = pick(
    (4, mutate_file),
    (6, _footer),
    (4, _pages),
    (2, _bomb),
    (6, _schema),
    (3, _metadata),
    (2, _picture),
    (1, special_file),
)
KIND = Kind(seeds, damage, answer, share=6)
