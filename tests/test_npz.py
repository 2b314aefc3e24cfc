"""An `.npz` is in memory once, and unpacks to no more than pictures of its size could."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2a_transfer import memory
from l2a_transfer.data import npz_arrays
from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import DataError, MemoryLimitError

ROOT = Path(__file__).parents[1]
IMAGES = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)
PEAK = """
import re, sys
from pathlib import Path
from l2a_transfer.data.readers import open_source
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
before = peak()
source = open_source(f"npz:{sys.argv[1]}")
print(peak() - before)
"""


def npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
    return content.getvalue()


def pack(path: Path, members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip file with these members, of which two may have one name."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def with_header(path: Path, dtype: str, shape: tuple[int, ...], content: bytes) -> Path:
    """An array whose header declares what its bytes are not."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return pack(path, [("images.npy", header.getvalue() + content)])


@pytest.mark.slow
def test_pictures_are_in_memory_once(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    half = np.zeros((100, 512, 1024, 3), np.uint8)  # 150 MiB
    np.savez_compressed(path, train_images=half, test_images=half)
    child = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True, cwd=ROOT, timeout=300
    )
    assert 290 < int(child.stdout) < 400


@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_splits_lie_one_after_the_other(tmp_path: Path, compress: Any, order: str) -> None:
    path = tmp_path / "a.npz"
    images = np.asarray(IMAGES, order=order)  # type: ignore[call-overload]
    compress(
        path, test_images=images[:1], train_images=images[1:], train_labels=np.asarray([[2], [0], [1]], order=order)
    )
    source = open_source(f"npz:{path}")
    assert source.splits == ("train", "test")
    assert source.ids == ("train/00000", "train/00001", "train/00002", "test/00000")
    assert source.labels.tolist() == [2, 0, 1, -1]
    found = np.stack([np.asarray(source.image(row)) for row in range(4)])
    np.testing.assert_array_equal(found, IMAGES[[1, 2, 3, 0]])


def test_what_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.zeros((64, 128, 128, 3), np.uint8))
    assert len(open_source(f"npz:{path}")) == 64  # little enough
    monkeypatch.setattr(npz_arrays, "SMALL_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"a\.npz: unpacks to 3 MiB; at most 1 are read: 100 times the size"):
        open_source(f"npz:{path}")
    np.savez(path, images=np.zeros((64, 128, 128, 3), np.uint8))
    assert len(open_source(f"npz:{path}")) == 64
    monkeypatch.setattr(npz_arrays, "MAX_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"a\.npz: unpacks to 3 MiB; at most 1 are read"):
        open_source(f"npz:{path}")


def test_names_and_labels_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=IMAGES, ids=np.array(["a", "b", "c", "d" * 400_000]))
    monkeypatch.setattr(npz_arrays, "SMALL_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"a\.npz: unpacks to 6 MiB"):
        open_source(f"npz:{path}")


@pytest.mark.parametrize(
    ("dtype", "shape", "words"),
    [
        ("|u1", (1 << 40, 5, 6, 3), "declares uint8 .* but has 90 bytes of data"),
        ("|u1", (1 << 62, 1 << 62, 4, 3), "declares uint8"),
        ("|u1", (0, 5, 6, 3), "declares uint8"),
        ("|V0", (1 << 60,), "not an .npz file of plain arrays"),
        ("|O", (90,), "not an .npz file of plain arrays"),
        ("|u1", (-90,), "declares uint8"),
    ],
)
def test_headers_that_do_not_fit_what_is_stored(tmp_path: Path, dtype: str, shape: tuple[int, ...], words: str) -> None:
    path = with_header(tmp_path / "a.npz", dtype, shape, bytes(90))
    with pytest.raises(DataError, match=rf"a\.npz: .*{words}"):
        open_source(f"npz:{path}")


def test_two_members_of_one_name(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = pack(tmp_path / "a.npz", [("images.npy", npy(IMAGES)), ("images.npy", npy(IMAGES[:1]))])
    with pytest.raises(DataError, match=r"a\.npz: has two members called 'images\.npy'"):
        open_source(f"npz:{path}")


def test_members_that_are_no_arrays_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = pack(tmp_path / "a.npz", [("images.npy", npy(IMAGES)), ("notes.txt", b"hello")])
    assert len(open_source(f"npz:{path}")) == 4
    assert "ignored arrays: notes.txt" in caplog.text


def test_members_are_counted_before_they_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / "a.npz", [("images.npy", npy(IMAGES)), *((str(k), b"") for k in range(20))])
    assert len(open_source(f"npz:{path}")) == 4
    monkeypatch.setattr(npz_arrays, "MAX_MEMBERS", 20)
    with pytest.raises(DataError, match=r"a\.npz: has 21 members; at most 20 are read"):
        open_source(f"npz:{path}")


def test_more_rows_than_memory_has_names_for_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.zeros((1 << 20, 1, 1), np.uint8))
    monkeypatch.setattr(memory, "usable_memory", lambda: 199 << 20)
    with pytest.raises(MemoryLimitError, match=r"a\.npz: to have 1,048,576 names in memory needs about 200 MiB"):
        open_source(f"npz:{path}")
    np.savez_compressed(path, images=IMAGES, ids=np.array(["a", "b", "c", "d" * (7 << 20)]))
    with pytest.raises(MemoryLimitError, match=r"a\.npz: to have 4 names in memory"):
        open_source(f"npz:{path}")


@pytest.mark.parametrize("key", ["classes", "ids", "split"])
@pytest.mark.parametrize("code", [0x7FFFFFFF, 0x110000, 0xFFFFFFFF])
@pytest.mark.parametrize("order", "<>")
def test_text_that_stands_for_no_character_is_refused(tmp_path: Path, key: str, code: int, order: str) -> None:
    text = np.array([97, 98, 0x10FFFF, code], dtype=f"{order}u4").view(f"{order}U1")
    np.savez(tmp_path / "a.npz", images=IMAGES, **{key: text})
    with pytest.raises(DataError, match=rf"a\.npz: '{key}' contains numbers that are not characters"):
        open_source(f"npz:{tmp_path / 'a.npz'}")


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.npz", [("images.npy", npy(IMAGES))], zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(IMAGES.tobytes()) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: not an \.npz file of plain arrays, or corrupt: .*CRC"):
        open_source(f"npz:{path}")


def test_an_encrypted_member_is_refused_by_name(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.npz", [("images.npy", npy(IMAGES))])
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: not an \.npz file of plain arrays, or corrupt"):
        open_source(f"npz:{path}")
