"""Encoded pictures of row groups that are read before they are asked for."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from l2a_transfer.data import ahead, loader
from l2a_transfer.data import parquet as parquet_module
from l2a_transfer.data.ahead import HeldPictures, budget, in_order, plan_ahead, read_ahead
from l2a_transfer.data.loader import choose_workers, pixel_batches
from l2a_transfer.data.permuted import PermutedLabels
from l2a_transfer.data.readers import open_source
from l2a_transfer.data.sources import ImageSource, Subset
from l2a_transfer.errors import DataError, SourceError
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.training import data as data_module
from l2a_transfer.training.data import ResidentPixels, StreamedPixels, open_pixels
from tests.conftest import memory_source
from tests.shard_files import grey, parquet, png

pytest.importorskip("pyarrow")
ROWS = 24
ORDER = np.random.default_rng(0).permutation(ROWS)
BATCHES = list(ORDER.reshape(6, 4))


def picture(row: int) -> bytes:
    """A picture of one grey, with bytes behind it that cannot be packed."""
    return png(row) + np.random.default_rng(row).bytes(3000)


EACH = len(picture(0))


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    """Two files of three row groups of four pictures."""
    for k in range(2):
        pictures: list[bytes | None] = [picture(row) for row in range(12 * k, 12 * k + 12)]
        parquet(tmp_path / "sets" / f"train-{k}.parquet", pictures, [0, 1] * 6, ["a", "b"], group=4)
    return open_source(f"parquet:{tmp_path / 'sets'}")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The row groups that are read: (file, group)."""
    found: list[tuple[str, int]] = []
    read = parquet_module._read_pictures

    def noted(shard: Any, group: int, *columns: Any) -> Any:
        found.append((Path(shard.path).name, group))
        return read(shard, group, *columns)

    monkeypatch.setattr(parquet_module, "_read_pictures", noted)
    return found


def allow(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(ahead, "budget", lambda sharing: most)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that are held, each time that pictures are read ahead."""
    found = []
    fill = HeldPictures.fill

    def noted(self: HeldPictures, pictures: Any, most: int) -> bool:
        complete = fill(self, pictures, most)
        found.append(self.nbytes)
        return complete

    monkeypatch.setattr(HeldPictures, "fill", noted)
    return found


def greys(source: ImageSource, batches: list[Any], workers: int = 0) -> list[int]:
    found = pixel_batches(source, Preprocess(4), batches, workers=workers)
    return [int(picture.max()) for batch in found for picture in batch.images_u8]


def test_a_shuffled_epoch_reads_each_row_group_once_and_the_next_epoch_none(
    source: ImageSource, reads: list[tuple[str, int]]
) -> None:
    assert greys(source, BATCHES) == ORDER.tolist()
    assert reads == [(f"train-{k}.parquet", g) for k in range(2) for g in range(3)]
    assert greys(source, BATCHES[::-1]) == ORDER.reshape(6, 4)[::-1].reshape(-1).tolist()
    assert len(reads) == 6


@pytest.mark.parametrize("order", [range(ROWS), range(ROWS - 1, -1, -1)])
def test_an_order_that_follows_the_groups_holds_nothing(source: ImageSource, order: range) -> None:
    assert read_ahead(source, [np.array(order)]) == 1
    assert source.held.ahead.held is None  # type: ignore[attr-defined]


def test_subsets_and_permuted_labels_are_read_ahead_too(source: ImageSource, reads: list[tuple[str, int]]) -> None:
    subset = Subset(PermutedLabels.of(source, 0), np.arange(ROWS)[::-1][:16])
    order = np.random.default_rng(1).permutation(16)
    assert greys(subset, [order]) == (ROWS - 1 - order).tolist()
    assert sorted(reads) == [("train-0.parquet", 2), *(("train-1.parquet", g) for g in range(3))]


def test_what_is_held_stays_within_the_budget(
    source: ImageSource,
    reads: list[tuple[str, int]],
    held: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    allow(monkeypatch, 13 * EACH)
    with caplog.at_level(logging.INFO):
        assert greys(source, BATCHES) == ORDER.tolist()
    assert len(held) == 2
    assert 8 * EACH < max(held) <= 13 * EACH
    assert len(reads) <= 6 * 2 + 8  # the last batches come to no row group more than twice
    assert caplog.text.count("there is no room for more") == 1


def test_without_room_pictures_are_the_same(source: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 0)
    assert greys(source, BATCHES) == ORDER.tolist()


def test_pictures_that_are_larger_than_the_footer_says_are_planned_anew(
    tmp_path: Path, reads: list[tuple[str, int]], held: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of one picture the file keeps one copy, which its footer counts once.
    parquet(tmp_path / "a.parquet", [picture(9)] * ROWS, [0, 1] * 12, ["a", "b"], group=12)
    source = open_source(f"parquet:{tmp_path / 'a.parquet'}")
    allow(monkeypatch, 13 * EACH)
    assert greys(source, BATCHES) == [9] * ROWS
    assert max(held) <= 13 * EACH
    assert len(held) in (2, 3)
    assert len(reads) <= 2 * len(held) + 4


def test_forked_and_other_processes_share_what_is_held(source: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_ahead(source, BATCHES) == len(BATCHES)
    monkeypatch.setattr(parquet_module, "_read_pictures", None)  # nothing is read again
    assert greys(source, BATCHES, workers=2) == ORDER.tolist()
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert greys(again, BATCHES) == ORDER.tolist()


@pytest.mark.slow
def test_processes_that_are_not_forked_map_the_same_memory(source: ImageSource) -> None:
    assert read_ahead(source, BATCHES) == len(BATCHES)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        held, row = source.held.ahead, int(ORDER[0])  # type: ignore[attr-defined]
        assert pool.apply(held.get, (row,)) == picture(row)


def test_a_link_to_another_file_holds_nothing(source: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    read_ahead(source, BATCHES)
    content = pickle.dumps(source)
    monkeypatch.setattr("os.readlink", lambda path: "/etc/hostname")
    assert pickle.loads(content).held.ahead.held is None  # noqa: S301


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    whole = parquet(path, [picture(k) for k in range(ROWS)], [0, 1] * 12, ["a", "b"], group=4).read_bytes()
    at = whole.index(picture(0)[:33]) - 20
    path.write_bytes(whole[:at] + bytes(60) + whole[at + 60 :])
    source = open_source(f"parquet:{path}")
    with pytest.raises(DataError, match=r"a\.parquet: not a Parquet file, or corrupt"):
        greys(source, BATCHES)
    found = list(pixel_batches(source, Preprocess(4), BATCHES, on_error="skip"))
    faulty = {int(BATCHES[k][at]) for k, batch in enumerate(found) for at in batch.faulty}
    assert faulty == {0, 1, 2, 3}


def test_a_file_that_was_replaced_is_refused_even_where_faulty_pictures_are_skipped(source: ImageSource) -> None:
    path = Path(source.shards[0].path)  # type: ignore[attr-defined]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(SourceError, match="its size has changed since the set was opened"):
        list(pixel_batches(source, Preprocess(4), BATCHES, on_error="skip"))


def test_reading_in_order_in_between_leaves_what_is_held(source: ImageSource, reads: list[tuple[str, int]]) -> None:
    train, test = Subset(source, np.arange(16)), Subset(source, np.arange(16, ROWS))
    order = [np.random.default_rng(1).permutation(16)]
    for _ in range(2):
        assert greys(train, order) == order[0].tolist()
        assert greys(test, [range(8)]) == list(range(16, ROWS))
    assert len(reads) == 4 + 2 * 2


@pytest.mark.parametrize("reason", [OSError("not in this container"), None])
def test_without_files_in_memory_a_temporary_file_holds_them(
    source: ImageSource, reason: OSError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: str) -> int:
        assert reason is not None
        raise reason

    if reason is None:
        monkeypatch.delattr("os.memfd_create", raising=False)
    else:
        monkeypatch.setattr("os.memfd_create", refused, raising=False)
    assert read_ahead(source, BATCHES) == len(BATCHES)
    monkeypatch.setattr(parquet_module, "_read_pictures", None)  # nothing is read again
    assert greys(source, BATCHES, workers=1) == ORDER.tolist()


def test_a_picture_that_is_missing_is_named_when_it_is_its_turn(tmp_path: Path) -> None:
    pictures: list[bytes | None] = [None if k == 5 else png(k) for k in range(ROWS)]
    source = open_source(f"parquet:{parquet(tmp_path / 'a.parquet', pictures, [0, 1] * 12, ['a', 'b'], group=4)}")
    with pytest.raises(DataError, match=r"a\.parquet: row 00005: has no image bytes"):
        greys(source, BATCHES)
    found = list(pixel_batches(source, Preprocess(4), BATCHES, on_error="skip"))
    assert sum(len(batch.faulty) for batch in found) == 1
    assert grey(source.image(6)) == 6


def test_sources_of_single_files_are_left_alone() -> None:
    assert read_ahead(memory_source(16), [np.arange(4), np.arange(4, 8)]) == 2
    assert read_ahead(memory_source(16), []) == 0


def test_a_plan_takes_whole_groups_where_they_fit_and_the_next_batches_else() -> None:
    batches = [np.array([0, 4]), np.array([1, 5]), np.array([2, 6])]
    group, each = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2]), np.full(10, 10.0)
    whole = plan_ahead(batches, group, each, 80)
    assert whole is not None
    assert (whole.count, whole.rows.tolist(), whole.all_groups) == (3, list(range(8)), True)
    part = plan_ahead(batches, group, each, 79)
    assert part is not None
    assert (part.count, part.rows.tolist(), part.all_groups) == (3, [0, 1, 2, 4, 5, 6], False)
    part = plan_ahead(batches, group, each, 59)
    assert part is not None
    assert (part.count, part.rows.tolist()) == (2, [0, 1, 4, 5])
    assert plan_ahead(batches, group, each, 19) is None
    assert not in_order(batches, group)
    assert in_order([np.array([0, 1, 4, 5, 2, 6])], group)


def test_processes_of_one_machine_divide_memory_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "usable_memory", lambda: 16 << 30)
    assert (budget(1), budget(4)) == (4 << 30, 1 << 30)
    monkeypatch.setattr(loader, "usable_memory", lambda: 16 << 30)
    monkeypatch.setattr(loader, "usable_cores", lambda: 8)
    assert [choose_workers(10_000, None, sharing=n) for n in (1, 2, 3, 8, 16)] == [8, 4, 3, 1, 1]
    monkeypatch.setattr(loader, "usable_memory", lambda: 3 * loader.WORKER_BYTES[True] * 2)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: "fork")
    assert [choose_workers(10_000, None, sharing=n) for n in (1, 2, 4)] == [3, 1, 0]


def test_streamed_epochs_have_the_batches_of_pixels_in_memory(
    source: ImageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [np.random.default_rng(epoch).permutation(ROWS).reshape(6, 4) for epoch in range(2)]
    memory = open_pixels(source, Preprocess(4), torch.device("cpu"), place="memory", workers=0)
    allow(monkeypatch, 13 * EACH)
    streamed = open_pixels(source, Preprocess(4), torch.device("cpu"), place="stream", workers=0, sharing=2)
    assert isinstance(streamed, StreamedPixels)
    for epoch in rows:
        for one, other in zip(memory.batches(list(epoch[2:])), streamed.batches(list(epoch[2:])), strict=True):
            assert torch.equal(one[0], other[0])  # also from the middle of an epoch, where a run is resumed
            assert torch.equal(one[1], other[1])


def test_memory_and_cores_are_divided_where_pixels_are_opened(
    source: ImageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 2 * ROWS * 3 * 4 * 4  # of which half may be taken
    for sharing, usable in ((1, needed), (2, 2 * needed), (4, 4 * needed)):
        monkeypatch.setattr(data_module, "usable_memory", lambda usable=usable: usable)
        kinds = [
            type(open_pixels(source, Preprocess(4), torch.device("cpu"), workers=0, sharing=n))
            for n in (sharing, sharing + 1)
        ]
        assert kinds == [ResidentPixels, StreamedPixels]
