"""Decoded batches on their way to this process: in shared memory, or through pipes where that is small."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from l2a_transfer.data import loader
from l2a_transfer.data.loader import PixelBatch, SharedBatch, pixel_batches
from l2a_transfer.errors import BackendError, DataError
from l2a_transfer.preprocess import Preprocess
from tests.conftest import MemorySource, memory_source

ROWS = [range(0, 7), range(7, 14), range(14, 16)]
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much shared memory is free")


class Faulty(MemorySource):
    def image(self, row: int) -> Any:
        if row == 8:
            raise DataError("row 8 is faulty")
        return super().image(row)


def faulty() -> Faulty:
    whole = memory_source(16)
    return Faulty(whole.pictures, whole.labels, whole.classes)


def shared_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096))


def batches(workers: int) -> list[PixelBatch]:
    return list(pixel_batches(faulty(), Preprocess(24), ROWS, workers=workers, on_error="skip"))


@linux
@pytest.mark.parametrize("free", [1 << 30, 1 << 16])
def test_batches_are_the_same_whatever_way_they_take(
    free: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = batches(0)
    shared_memory(monkeypatch, free)
    with caplog.at_level(logging.INFO):
        found = batches(2)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.images_u8, other.images_u8)
        assert one.faulty == other.faulty
    assert found[1].faulty == {1: "row 8 is faulty"}
    assert ("go through pipes" in caplog.text) == (free < 1 << 20)
    with pytest.raises(DataError, match="row 8 is faulty"):
        list(pixel_batches(faulty(), Preprocess(24), ROWS, workers=2))


def test_a_worker_gives_the_handle_of_shared_memory_and_not_the_bytes() -> None:
    dataset = loader._Batches(faulty(), Preprocess(24), ROWS, "skip", shared=True)
    batch = dataset[1]
    assert isinstance(batch, SharedBatch)
    assert batch.images_u8.is_shared()
    here = loader._here(batch)
    assert here.images_u8.__array_interface__["data"][0] == batch.images_u8.data_ptr()
    np.testing.assert_array_equal(here.images_u8, batches(0)[1].images_u8)


@linux
def test_how_much_must_be_free_grows_with_what_workers_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    shared_memory(monkeypatch, 64 << 20)
    assert loader._shared_memory_suffices(12 << 20)
    assert not loader._shared_memory_suffices(13 << 20)
    monkeypatch.undo()
    monkeypatch.setattr(loader, "SHARED_MEMORY", "/nowhere")
    assert not loader._shared_memory_suffices(1)


ROUNDS = 3


def torchs_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith("torch_")}


def open_handles() -> int:
    return len(os.listdir("/proc/self/fd"))


@linux
@pytest.mark.parametrize("taken", [1, 3])
def test_nothing_is_left_in_shared_memory_and_no_handle_stays_open(taken: int) -> None:
    batches(2)  # what is opened once stays open
    memory, handles = torchs_memory(), open_handles()
    for _ in range(ROUNDS):
        running = pixel_batches(faulty(), Preprocess(24), ROWS, workers=2, on_error="skip")
        for _ in range(taken):
            next(running)
        running.close()
    deadline = time.monotonic() + 10  # a queue's thread closes its pipe a moment later, and other tests use memory too
    while (left := torchs_memory() - memory) or open_handles() >= handles + ROUNDS:
        assert time.monotonic() < deadline, (left, handles, open_handles())
        time.sleep(0.01)


@linux
def test_the_message_names_what_batches_take_and_what_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared_memory(monkeypatch, 64 << 20)
    with caplog.at_level(logging.INFO):
        assert not loader._shared_memory_suffices(8 * 64 * 3 * 224**2)  # 8 workers, batches of 64
    assert "may take 294 MiB together, and /dev/shm has 64 MiB free" in caplog.text


def test_too_few_open_files_are_said_with_what_to_do() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, hard))
    try:
        with pytest.raises(BackendError, match="more open files than the limit of this process; use fewer `workers`"):
            list(pixel_batches(memory_source(16), Preprocess(24), ROWS, workers=2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_batches_in_shared_memory_leave_nothing_in_the_memory_of_the_process() -> None:
    """Each took as much of its own first, and a worker had grown by seven batches of 224 pixels after ten."""
    source = memory_source(4, side=224)
    batches = loader._Batches(source, Preprocess(224), [np.arange(4).repeat(8)] * 12, "fail", shared=True)

    def own() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Anonymous")).split()[1]) << 10

    batch = batches[0]
    assert isinstance(batch, SharedBatch)
    assert batch.images_u8.is_shared()
    before = own()
    for k in range(1, len(batches)):
        batch = batches[k]  # the one before goes
    assert own() - before < batch.images_u8.nbytes
    np.testing.assert_array_equal(batch.images_u8[0], batch.images_u8[1])
    assert int(batch.images_u8.sum()) > 0
