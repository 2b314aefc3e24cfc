"""A checkpoint is read without torch's unpickler: the same values as by torch, and nothing that has no end."""

from __future__ import annotations

import io
import math
import re
import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from l2a_transfer.errors import DamagedCheckpointError, TrainingError
from l2a_transfer.saved import read_saved
from l2a_transfer.training.checkpoint import read_checkpoint, save_checkpoint, short
from tests.test_training import new_trainer

SECONDS = 4.0
"""Of processor time."""


def saved(content: Any) -> bytes:
    whole = io.BytesIO()
    torch.save(content, whole)
    return whole.getvalue()


def same_values(a: Any, b: Any) -> bool:
    """Equal in kinds, shapes, strides and every bit; an OrderedDict is a dictionary."""
    if isinstance(a, Tensor):
        return (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()) and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same_values(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same_values, a, b))
    return type(a) is type(b) and (a == b or a != a)


@pytest.mark.parametrize("average", [0.0, 0.2])
def test_a_checkpoint_has_the_values_that_torch_reads(average: float, tmp_path: Path) -> None:
    run = new_trainer(epochs=2, average=average)
    run.history.append(run.run_epoch(progress=False) or {})
    save_checkpoint(tmp_path / "checkpoint.pt", run.state())
    assert same_values(
        torch.load(tmp_path / "checkpoint.pt", weights_only=True), read_checkpoint(tmp_path / "checkpoint.pt")
    )


def test_every_kind_of_value_is_read_as_it_was() -> None:
    grid = torch.arange(24.0).reshape(4, 6)
    content = {
        "numbers": [0, 255, 256, 65536, -1, 2**31, -(2**40), 10**400, 0.1, -0.0, math.inf, True, False, None],
        "views": (grid, grid.T, grid[1:3, ::2], grid[:0], torch.zeros(1, 1).expand(3, 2), torch.tensor(7)),
        "kinds": [
            torch.ones(3, dtype=dtype)
            for dtype in (
                torch.bfloat16,
                torch.float16,
                torch.float64,
                torch.bool,
                torch.uint8,
                torch.int8,
                torch.int16,
                torch.int32,
            )
        ],
        "text": "ü\x00\u2028",
        5: {"tuples": ((1, (2, 3)), ()), "empty": {}},
    }
    found = read_saved(io.BytesIO(saved(content)))
    assert same_values(content, found)
    assert found["views"][0].untyped_storage().data_ptr() == found["views"][1].untyped_storage().data_ptr()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def put(place: int) -> bytes:
    return b"r" + struct.pack("<I", 1000 + place)


def get(place: int) -> bytes:
    return b"j" + struct.pack("<I", 1000 + place)


DOUBLED = b"]" + put(0) + b"".join(b"](" + get(k) + get(k) + b"e" + put(k + 1) for k in range(60))
"""A list of the one before twice, sixty levels of it."""
PICKLES = {
    "a key of 200,000 tuples": b"})" + b"\x85" * 200_000 + b"K\x01s",
    "keys that are tuples of the one before twice": b"}()"
    + put(0)
    + b"K\x01"
    + b"".join(get(k) + get(k) + b"\x86" + put(k + 1) + b"K\x01" for k in range(60))
    + b"u",
    "a list of the one before twice": b"}" + text("epoch") + DOUBLED + b"s",
    "tuples of the one before twice": b"}"
    + text("epoch")
    + b")"
    + put(0)
    + b"".join(get(k) + get(k) + b"\x86" + put(k + 1) for k in range(60))
    + b"s",
    "lists 100,000 deep": b"}" + text("epoch") + b"]" * 100_000 + b"a" * 99_999 + b"s",
    "a list in itself": b"}" + text("epoch") + b"]" + put(0) + get(0) + b"as",
    "one long text very often": b"}" + text("epoch") + text("x" * 100_000) + put(0) + b"](" + get(0) * 100_000 + b"es",
    "a far place of the memo": b"}r" + struct.pack("<I", 2**31),
    "a call": b"cos\nmkdir\n" + text("called") + b"\x85R",
    "a storage that is called": b"ctorch\nFloatStorage\nK\x01\x85R",
    "more numbers than its storage": b"}"
    + text("epoch")
    + b"("
    + text("storage")
    + b"ctorch\nFloatStorage\n"
    + text("0")
    + text("cpu")
    + b"J"
    + struct.pack("<i", 2**30)
    + b"tQs",
    "a storage as a value": b"}"
    + text("epoch")
    + b"("
    + text("storage")
    + b"ctorch\nFloatStorage\n"
    + text("0")
    + text("cpu")
    + b"K\x02tQs",
    "an end too soon": b"}" + text("epoch"),
    "two million numbers": b"](" + b"K\x01" * 2_000_001 + b"e",
}


def with_pickle(path: Path, content: bytes) -> Path:
    """A checkpoint of two numbers with another pickle."""
    with zipfile.ZipFile(io.BytesIO(saved(torch.zeros(2)))) as there, zipfile.ZipFile(path, "w") as out:
        for info in there.infolist():
            out.writestr(info.filename, content if info.filename.endswith("data.pkl") else there.read(info))
    return path


def assert_damaged(path: Path) -> None:
    began = time.process_time()
    with pytest.raises(DamagedCheckpointError, match=re.escape(f"{path}: damaged or not a checkpoint: ")) as caught:
        read_checkpoint(path)
    assert time.process_time() - began < SECONDS
    assert len(str(caught.value)) < len(str(path)) + 600


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_without_an_end_is_damaged_at_once(name: str, tmp_path: Path) -> None:
    assert_damaged(with_pickle(tmp_path / "checkpoint.pt", b"\x80\x02" + PICKLES[name] + b"."))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (3,), (1,)), (1, (2,), (1,)), (3, (0,), (1,)), (0, (2, 2), (1, 1)), (0, (2,), (2**31 - 1,)), (0, (2,), ())],
)
def test_a_tensor_shows_no_byte_beside_its_own(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...], tmp_path: Path
) -> None:
    def numbers(*values: int) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x02tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"J" + struct.pack("<i", offset) + numbers(*shape)
    tensor += numbers(*strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    assert_damaged(with_pickle(tmp_path / "checkpoint.pt", b"\x80\x02}" + text("epoch") + tensor + b"s."))


def packed(entries: int, *, method: int = 8, size: int = 1 << 26) -> bytes:
    """A zip whose directory lists one packed entry many times."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    content, crc = b"", 0
    for _ in range(size >> 20):
        content += packer.compress(bytes(1 << 20))
        crc = zlib.crc32(bytes(1 << 20), crc)
    content += packer.flush()
    name = b"archive/data.pkl"
    sizes = (crc, len(content), size, len(name), 0)
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, method, 0, 0x21, *sizes) + name
    one = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, method, 0, 0x21, *sizes, 0, 0, 0, 0, 0) + name
    start = len(local) + len(content)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, entries, entries, len(one) * entries, start, 0)
    return local + content + one * entries + end


@pytest.mark.slow
def test_a_zip_that_unpacks_without_an_end_is_damaged_at_once(tmp_path: Path) -> None:
    for k, content in enumerate((packed(60_000), packed(1), packed(60_000, method=0), packed(65_000)[:-1])):
        (tmp_path / f"{k}.pt").write_bytes(content)
        assert_damaged(tmp_path / f"{k}.pt")


def test_entries_that_lie_in_each_other_or_have_one_name_are_damaged(tmp_path: Path) -> None:
    whole = saved({"schema": "l2a-checkpoint/1", "a": torch.zeros(40)})
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        names = [info.filename.encode() for info in archive.infolist()]
        start = archive.start_dir
    (data,) = [name for name in names if name.endswith(b"data/0")]
    head, directory = whole[:start], whole[start:]
    at = directory.index(data) - zipfile.sizeCentralDir
    for change, value in ((42, 0), (24, 1 << 30), (10, 8), (8, 1)):  # where it begins, its size, packed, locked
        kind = "<I" if change in (42, 24) else "<H"
        changed = bytearray(directory)
        struct.pack_into(kind, changed, at + change, value)
        if change == 24:
            struct.pack_into(kind, changed, at + 20, value)
        (tmp_path / f"{change}.pt").write_bytes(head + changed)
        assert_damaged(tmp_path / f"{change}.pt")
    with zipfile.ZipFile(tmp_path / "two.pt", "w") as out:
        out.writestr("archive/data.pkl", b"\x80\x02}.")
        with pytest.warns(UserWarning, match="Duplicate name"):
            out.writestr("archive/data.pkl", b"\x80\x02}.")
    assert_damaged(tmp_path / "two.pt")


def test_every_byte_that_is_changed_is_found_or_means_nothing(tmp_path: Path) -> None:
    content = {"schema": "l2a-checkpoint/1", "fingerprint": {"seed": 0}, "weights": torch.arange(3.0)}
    whole, path = saved(content), tmp_path / "checkpoint.pt"
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            assert same_values(content, read_checkpoint(path)), at
        except DamagedCheckpointError:
            continue


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").mkdir()
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: cannot be read: Is a directory") as caught:
        read_checkpoint(tmp_path / "checkpoint.pt")
    assert not isinstance(caught.value, DamagedCheckpointError)


def test_a_value_is_cut_before_it_is_written_out() -> None:
    doubled: list[Any] = []
    for _ in range(60):
        doubled = [doubled, doubled]
    began = time.process_time()
    assert len(short(doubled)) <= 101
    assert len(short(["x" * 100_000] * 100_000)) <= 101
    assert short("x" * 10_000_000) == "x" * 100 + "…"
    assert short("f" * 64) == "f" * 12
    assert time.process_time() - began < SECONDS
