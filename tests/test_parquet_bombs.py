"""Parquet that unpacks to far more than it holds: what reading it takes is known from its pages, before it is taken."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from l2a_transfer.data import parquet as parquet_module
from l2a_transfer.data.parquet_pages import PageError, measure_pages
from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import DataError
from tests.hostile_parquet import noise, save_compressed_bomb, save_dictionary_bomb, save_prefix_bomb, varint
from tests.shard_files import grey, parquet, png

pytest.importorskip("pyarrow")
ROOT = Path(__file__).parents[1]
PEAK = """
import re, sys
from pathlib import Path
from l2a_transfer.data import parquet
from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import DataError
parquet.MAX_GROUP_BYTES = int(sys.argv[2]) << 20
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
import pyarrow.parquet, pyarrow.compute
before = peak()
try:
    source = open_source(f"parquet:{sys.argv[1]}")
    sizes = [source.image(row).size for row in (0, len(source) - 1)]
except DataError as error:
    print(error)
print(peak() - before)
"""


def peak_mib(path: Path, *, most: int = 2048) -> tuple[int, str]:
    """How much more memory reading the first and the last picture takes, at its highest, where a row group may take
    `most` MiB; and what was said."""
    command = [sys.executable, "-c", PEAK, str(path), str(most)]
    child = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=300)
    *said, peak = child.stdout.splitlines()
    return int(peak), "\n".join(said)


@pytest.mark.parametrize("in_struct", [True, False])
def test_a_picture_that_is_stored_once_is_in_memory_once(tmp_path: Path, in_struct: bool) -> None:
    path = save_dictionary_bomb(tmp_path / "a.parquet", rows=6000, side=400, in_struct=in_struct)
    assert path.stat().st_size < 1 << 20
    peak, said = peak_mib(path)  # written out, it is 2,700 MiB
    assert said == ""
    assert peak < 500


@pytest.mark.parametrize("forged", [True, False])
def test_a_page_that_unpacks_to_more_than_the_limit_is_refused_whatever_the_footer_says(
    tmp_path: Path, forged: bool
) -> None:
    path = save_compressed_bomb(tmp_path / "a.parquet", size=160 << 20, forged=forged)
    assert path.stat().st_size < 1 << 20
    peak, said = peak_mib(path, most=400)
    assert said == (
        f"{path}: reading a row group takes 480 MiB; at most 400 are allowed: write the file with a smaller "
        "row_group_size"
    )
    assert peak < 120


@pytest.mark.slow
def test_values_that_are_stored_as_prefixes_are_refused(tmp_path: Path) -> None:
    path = save_prefix_bomb(tmp_path / "a.parquet", rows=1000, size=1_000_000)
    assert path.stat().st_size < 2_000_000
    peak, said = peak_mib(path)
    assert "encoding, number 7, is not supported for pictures" in said
    assert peak < 200


def test_entries_of_a_dictionary_are_the_pictures_that_they_stand_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path / "a.parquet", [png(k % 3) for k in range(40)], [0] * 40, ["a"], group=15)
    pictures = [png(k % 3) for k in range(40)]
    expected = [k % 3 for k in range(40)]
    source = open_source(f"parquet:{path}")
    assert [grey(source.image(row)) for row in range(40)] == expected
    monkeypatch.setattr(parquet_module, "MAX_GROUP_BYTES", 2000)  # less than they take written out
    for most in (1 << 20, 100):
        monkeypatch.setattr(parquet_module, "MAX_WRITTEN_OUT_BYTES", most)
        source = open_source(f"parquet:{path}")
        values = parquet_module._read_pictures(source.shards[0], 0, *source.columns)  # type: ignore[attr-defined]
        assert ("dictionary" in str(values.type)) == (most == 100)
        assert [value.as_py() for value in values] == pictures[:15]
        assert [grey(source.image(row)) for row in range(40)] == expected


def test_pictures_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "a.parquet", [png(k) for k in range(40)], [0] * 40, ["a"], group=40)
    monkeypatch.setattr(parquet_module, "PART_BYTES", 3000)
    source = open_source(f"parquet:{path}")
    assert [grey(source.image(row)) for row in range(40)] == list(range(40))


def test_label_columns_are_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "a.parquet", [png(0)] * 100, list(range(100)))
    monkeypatch.setattr(parquet_module, "MAX_GROUP_BYTES", 500)
    with pytest.raises(DataError, match=r"a\.parquet: reading a row group takes 0 MiB"):
        open_source(f"parquet:{path}")


def i32(delta: int, value: int) -> bytes:
    return bytes([delta << 4 | 5]) + varint(value << 1 if value >= 0 else -value * 2 - 1)


def page(unpacked: int, packed: int, values: int, encoding: int = 0, *, kind: int = 0, before: bytes = b"") -> bytes:
    """A page's header as the compact protocol has it, and `packed` zeros."""
    inner = i32(1, values) + i32(1, encoding) + i32(1, 3) + i32(1, 3) + b"\0"
    number = {0: 5, 2: 7}[kind]
    return (
        before
        + i32(1, kind)
        + i32(1, unpacked)
        + i32(1, packed)
        + bytes([(number - 3) << 4 | 12])
        + inner
        + b"\0"
        + bytes(max(0, packed))
    )


def measured(content: bytes, values: int, *, texts: bool = True) -> tuple[int, int, int, int]:
    found = measure_pages(io.BytesIO(b"PAR1" + content), 4, len(content), values, texts=texts)
    return found.stored, found.bytes, found.largest, found.repeated


def test_what_pages_declare() -> None:
    assert measured(page(100, 40, 7) + page(60, 70, 3), 10) == (110, 170, 100, 0)
    assert measured(page(100, 40, 7) + page(60, 70, 3), 7) == (40, 100, 100, 0)  # as far as the decoder goes
    assert measured(page(50, 20, 2, kind=2) + page(9, 9, 1000, 8), 1000) == (29, 59, 50, 50_000)


@pytest.mark.parametrize(
    ("content", "values", "words"),
    [
        (page(10, 10, 5), 6, "truncated"),
        (page(10, 10, 5)[:-1], 5, "lies outside its column"),
        (page(10, -1, 5), 5, "lies outside its column"),
        (page(-10, 10, 5), 5, "lies outside its column"),
        (page(10, 10, 5, 7), 5, "encoding, number 7"),
        (page(10, 10, 3, kind=2), 5, "more entries than fit into its bytes"),
        (b"", 5, "truncated"),
        (b"\x15" + b"\x80" * 12, 5, "too long"),
        (b"\x1c" * 20, 5, "nested too deep"),
        (b"\x1d", 5, "field of the unknown type 13"),
        (i32(1, 0) + b"\0", 5, "incomplete"),
    ],
)
def test_pages_that_are_refused(content: bytes, values: int, words: str) -> None:
    with pytest.raises(PageError, match=words):
        measured(content, values)


def test_a_size_that_the_decoder_reads_otherwise_is_read_as_the_decoder_reads_it() -> None:
    # Of a field that comes twice the last counts, but one of another type is passed over.
    again = bytes([0x04]) + varint(2 * 2) + varint(3 << 1)  # field 2 once more, as a number of 16 bits
    whole = page(1000, 10, 5)
    cut = whole.index(bytes([0x15]) + varint(10 << 1))
    content = whole[:cut] + again + bytes([0x15]) + varint(10 << 1) + whole[cut + 2 :]
    assert measured(content, 5) == (10, 1000, 1000, 0)
    # A number of more than 32 bits is cut.
    big = whole.replace(varint(1000 << 1), varint((1 << 32) + (1000 << 1)))
    assert measured(big, 5) == (10, 1000, 1000, 0)


def test_honest_files_of_every_kind_are_measured(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = [noise(8 + k % 5) for k in range(60)]
    for compression in ("none", "snappy", "zstd", "gzip"):
        for version in ("1.0", "2.0"):
            for checks in (True, False):
                pq.write_table(
                    pa.table({"image": pa.array(pictures), "label": pa.array(range(60))}),
                    tmp_path / "a.parquet",
                    compression=compression,
                    data_page_version=version,
                    row_group_size=25,
                    data_page_size=2000,
                    write_page_checksum=checks,
                    dictionary_pagesize_limit=1500,
                    write_batch_size=4,
                )
                source = open_source(f"parquet:{tmp_path / 'a.parquet'}")
                sides = [source.image(row).size[0] for row in range(60)]
                assert sides == [8 + k % 5 for k in range(60)]
                assert np.array_equal(source.labels, np.arange(60))
