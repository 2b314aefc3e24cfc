"""The engine under stress: locks, faulty images, damaged shards, full disks; what it keeps and what it says."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import BackendError, DataError, OutputExistsError, StoreError, UnknownNameError
from l2a_transfer.features.backends.interface import Computed, maps_wanted
from l2a_transfer.features.backends.onnx import OnnxBackend
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.features.backends.torch import TorchBackend
from l2a_transfer.features.extraction import extract as extract_module
from l2a_transfer.features.extraction import plan as plan_module
from l2a_transfer.features.extraction.compute import compute_shards
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.extraction.plan import differences, fingerprint
from l2a_transfer.features.extraction.shard_folder import RowShard, ShardFolder
from l2a_transfer.features.store.reader import read_features, read_maps, read_meta
from l2a_transfer.lock import output_lock
from l2a_transfer.models.loading import load_model
from tests.conftest import TINY, MemorySource, assert_fails, l2a, memory_source, save_picture

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "SHARD_ROWS", 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures: in/ant/0.jpg … 5.jpg and in/bee/0.jpg … 5.jpg."""
    for label in ("ant", "bee"):
        for k in range(6):
            save_picture(tmp_path / "in" / label / f"{k}.jpg", seed=10 * len(label) + k + ord(label[0]))
    return tmp_path / "in"


@pytest.fixture
def exported(exported_tiny: Path) -> Path:
    return exported_tiny


def run(folder: Path, out: Path, **options: object) -> extract_module.ExtractResult:
    source = open_source(f"imagefolder:{folder}")
    return extract(source, PixelsBackend(), out, batch_size=2, progress=False, **options)  # type: ignore[arg-type]


# The lock ------------------------------------------------------------------------------------------------------------

HOLD = """
import os, sys, time
from pathlib import Path
from l2a_transfer.lock import output_lock
with output_lock(Path(sys.argv[1])):
    if os.fork() == 0:
        os.close(1)
        time.sleep(60)
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_kill_frees_the_output(tmp_path: Path, source: MemorySource) -> None:
    out = tmp_path / "f.h5"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    try:
        assert holder.stdout is not None
        pid = holder.stdout.readline().strip()
        with pytest.raises(OutputExistsError, match=rf"f\.h5: is being written by process {pid}; wait for it"):
            extract(source, PixelsBackend(), out, progress=False)
        holder.kill()
        holder.wait()
        # Its forked child lives on, as decoding workers do for a while, and must not keep the lock.
        extract(source, PixelsBackend(), out, progress=False)
    finally:
        os.killpg(holder.pid, signal.SIGKILL)  # the child that it forked
        holder.stdout.close()  # type: ignore[union-attr]
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]


def test_a_second_thread_is_refused(tmp_path: Path) -> None:
    said: list[str] = []

    def second() -> None:
        try:
            with output_lock(tmp_path / "f.h5"):
                said.append("entered")
        except OutputExistsError as error:
            said.append(str(error))

    with output_lock(tmp_path / "f.h5"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "another thread of this process" in said[0]
    second()
    assert said[1] == "entered"


def test_whoever_waited_for_the_lock_finds_the_finished_file(
    tmp_path: Path, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "f.h5"
    lock = extract_module.output_lock

    def finished_by_another(path: Path) -> object:
        monkeypatch.setattr(extract_module, "output_lock", lock)
        extract(source, PixelsBackend(), path, progress=False)
        return lock(path)

    monkeypatch.setattr(extract_module, "output_lock", finished_by_another)
    with pytest.raises(OutputExistsError, match="exists"):
        extract(source, PixelsBackend(), out, progress=False)


# Faulty images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_leaves_out_the_faulty_and_shifts_nothing(folder: Path, tmp_path: Path, workers: int) -> None:
    run(folder, tmp_path / "whole.h5")
    whole = read_features(tmp_path / "whole.h5")
    (folder / "ant" / "3.jpg").write_bytes(b"no picture")
    (folder / "bee" / "0.jpg").write_bytes(b"")
    result = run(folder, tmp_path / "f.h5", on_error="skip", workers=workers)
    found = read_features(tmp_path / "f.h5")
    keep = [k for k in range(12) if k not in (3, 6)]
    assert found.ids == tuple(whole.ids[k] for k in keep)
    np.testing.assert_array_equal(found.labels, whole.labels[keep])
    np.testing.assert_array_equal(found.features, whole.features[keep])
    assert found.meta.classes == ("ant", "bee")
    assert found.meta.skipped == result.skipped
    assert [name for name, _ in result.skipped] == ["ant/3.jpg", "bee/0.jpg"]
    assert result.skipped[0][1].startswith("not a picture")
    assert result.skipped[1][1].startswith("empty file, expected a picture")
    assert (result.rows, result.computed) == (10, 12)
    with h5py.File(tmp_path / "f.h5") as file:
        assert json.loads(file.attrs["skipped"]) == [list(pair) for pair in result.skipped]


def test_a_network_gives_the_others_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    source = open_source(f"imagefolder:{folder}")
    backend = open_backend(TINY, device="cpu")
    extract(source, backend, tmp_path / "whole.h5", batch_size=4, progress=False)
    (folder / "bee" / "1.jpg").unlink()
    extract(source_without_stat(source), backend, tmp_path / "f.h5", batch_size=4, on_error="skip", progress=False)
    whole, found = read_features(tmp_path / "whole.h5"), read_features(tmp_path / "f.h5")
    assert found.features.tobytes() == np.delete(whole.features, 7, axis=0).tobytes()
    assert found.meta.skipped[0][0] == "bee/1.jpg"


def source_without_stat(source: object) -> object:
    """The source as it was listed before a picture vanished."""
    kind = type(source)
    return type("Listed", (kind,), {"fingerprint": lambda self: "0" * 64})(**vars(source))


def test_nothing_skipped_gives_the_file_of_a_run_that_may_not_skip(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "a.h5")
    run(folder, tmp_path / "b.h5", on_error="skip")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_an_extraction_that_failed_goes_on_with_skip_and_back(folder: Path, tmp_path: Path) -> None:
    out, bad = tmp_path / "f.h5", folder / "bee" / "1.jpg"
    good = bad.read_bytes()
    bad.write_bytes(bytes(len(good)))
    with pytest.raises(DataError, match=r"bee/1\.jpg"):
        run(folder, out)
    assert run(folder, out, on_error="skip").computed == 8  # the first shard of four was there
    with pytest.raises(OutputExistsError, match=r"1 image could not be used, first 'bee/1\.jpg'.*`on_error='skip'`"):
        run(folder, out, resume=True)
    assert run(folder, out, resume=True, on_error="skip").rows == 11
    bad.write_bytes(good)
    assert run(folder, out, overwrite=True).rows == 12


def test_shards_with_skipped_rows_are_computed_again_where_nothing_may_be_skipped(folder: Path, tmp_path: Path) -> None:
    source, backend = open_source(f"imagefolder:{folder}"), PixelsBackend()
    identity = plan_module.fingerprint(source, backend, 2, attention=False)
    shards = ShardFolder(tmp_path / "f.h5.shards", identity)
    shards.open(overwrite=False)
    row = np.arange(4, dtype=np.int64)
    shards.write(range(4), RowShard(row[1:], np.zeros((3, 3072), np.float32), {}, {0: "unreadable"}))
    assert run(folder, tmp_path / "f.h5").computed == 12
    run(folder, tmp_path / "whole.h5")
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_no_image_at_all_is_an_error(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"x")
    with pytest.raises(DataError, match=r"no image could be used; first 'ant/0\.jpg': not a picture"):
        run(folder, tmp_path / "f.h5", on_error="skip")
    assert not (tmp_path / "f.h5").exists()


def test_an_image_removed_in_mid_run_names_itself_and_loses_nothing(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "whole.h5")
    gone, aside = folder / "bee" / "3.jpg", tmp_path / "3.jpg"

    class Removing(PixelsBackend):
        def features(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
            if gone.exists():
                gone.rename(aside)
            return super().features(images_u8)

    source = open_source(f"imagefolder:{folder}")
    with pytest.raises(DataError, match=r"bee/3\.jpg: cannot be read: No such file"):
        extract(source, Removing(), tmp_path / "f.h5", batch_size=2, workers=0, progress=False)
    with pytest.raises(OutputExistsError, match="data: other images, order, labels, file sizes or times of change"):
        run(folder, tmp_path / "f.h5")
    aside.rename(gone)
    assert run(folder, tmp_path / "f.h5").computed == 4
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_an_extraction_does_not_go_on_with_a_picture_that_changed_at_the_same_size(
    folder: Path, tmp_path: Path
) -> None:
    changed = folder / "ant" / "0.jpg"
    stat, content = changed.stat(), changed.read_bytes()

    class Killed(PixelsBackend):
        def stream(self, batches: Iterable[NDArray[np.uint8]], *, attention: bool = False) -> Iterator[Computed]:
            for number, computed in enumerate(super().stream(batches, attention=attention)):
                if number == 3:
                    raise KeyboardInterrupt
                yield computed

    for verify in (False, True):
        out = tmp_path / f"{verify}.h5"
        source = open_source(f"imagefolder:{folder}", verify_source=verify)
        with pytest.raises(KeyboardInterrupt):
            extract(source, Killed(), out, batch_size=2, workers=0, progress=False)
        changed.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns + (not verify)))
        again = open_source(f"imagefolder:{folder}", verify_source=verify)
        with pytest.raises(OutputExistsError, match=r"unfinished extraction with other options .*times of change"):
            extract(again, PixelsBackend(), out, batch_size=2, workers=0, progress=False)
        changed.write_bytes(content)
        os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns + (1 if verify else 0)))
        again = open_source(f"imagefolder:{folder}", verify_source=verify)
        assert 0 < extract(again, PixelsBackend(), out, batch_size=2, workers=0, progress=False).computed < len(again)


def test_verify_source_resumes_after_a_copy_with_other_times(folder: Path, tmp_path: Path) -> None:
    for options, code in (([], 1), (["--verify-source"], 0)):
        out = tmp_path / f"{code}.h5"
        arguments = ("extract", "--model", "pixels", "--data", f"imagefolder:{folder}", "--out", out, *options)
        assert l2a(*arguments).exit_code == 0
        os.utime(folder / "ant" / "0.jpg", (0, code))
        assert l2a(*arguments, "--resume").exit_code == code


@pytest.mark.parametrize("verified", [False, True])
def test_verify_source_on_one_of_two_runs_does_not_say_that_pictures_changed(
    folder: Path, tmp_path: Path, verified: bool
) -> None:
    def arguments(verify: bool, *more: str) -> tuple[Any, ...]:
        data = ("--data", f"imagefolder:{folder}", *(["--verify-source"] if verify else []))
        return ("extract", "--model", "pixels", "--out", tmp_path / "f.h5", *data, *more)

    by_time, by_content = "size and time of change", "content"
    there, here = (by_content, by_time) if verified else (by_time, by_content)
    remedy = "give --verify-source as there" if verified else "leave --verify-source out as there"
    assert l2a(*arguments(verified)).exit_code == 0
    assert read_meta(tmp_path / "f.h5")[0].fingerprint["stamps"] == there
    said = (f"(data: files compared by {there} there, by {here} here); {remedy}, or --overwrite replaces it",)
    result = l2a(*arguments(not verified, "--resume"))
    assert_fails(result, 1, *said)
    assert "other images" not in result.stderr
    assert l2a(*arguments(verified, "--resume")).exit_code == 0

    source = open_source(f"imagefolder:{folder}", verify_source=verified)
    again = open_source(f"imagefolder:{folder}", verify_source=not verified)
    shards = ShardFolder(tmp_path / "g.h5.shards", fingerprint(source, PixelsBackend(), 2, attention=False))
    shards.open(overwrite=False)
    shards.write(range(2), RowShard(np.arange(2), np.zeros((2, 3), dtype=np.float32)))
    with pytest.raises(OutputExistsError, match=f"compared by {there} there, by {here} here.*`verify_source.*` starts"):
        extract(again, PixelsBackend(), tmp_path / "g.h5", batch_size=2, progress=False)


@pytest.mark.parametrize("verify", [False, True])
def test_a_fingerprint_that_does_not_say_how_files_were_compared_is_taken(folder: Path, verify: bool) -> None:
    source = open_source(f"imagefolder:{folder}", verify_source=verify)
    here = fingerprint(source, PixelsBackend(), 2, attention=False)
    there = {key: value for key, value in here.items() if key != "stamps"}
    assert differences(there, here) == ""
    assert ShardFolder(folder, there).digest == ShardFolder(folder, here).digest
    assert "other images" in differences({**there, "data": "0" * 64}, here)


def test_the_command_counts_what_it_skips(folder: Path, tmp_path: Path) -> None:
    (folder / "ant" / "0.jpg").write_bytes(b"x")
    arguments = ("extract", "--model", "pixels", "--data", f"imagefolder:{folder}", "--out", tmp_path / "f.h5")
    assert_fails(l2a(*arguments), 1, "0.jpg", "not a picture")
    assert_fails(l2a(*arguments, "--on-error", "skp"), 2, "did you mean 'skip'")
    result = l2a(*arguments, "--on-error", "skip")
    assert result.exit_code == 0, result.output
    assert "11 × 3072" in result.stdout
    assert "1 image skipped, listed in its attribute 'skipped'" in result.stdout


# Maps ----------------------------------------------------------------------------------------------------------------


def test_attention_stores_the_maps_of_every_level(source: MemorySource, tmp_path: Path) -> None:
    network, card = load_model(TINY)
    backend = TorchBackend(network, card, device="cpu")
    extract(source, backend, tmp_path / "f.h5", batch_size=8, attention=True, progress=False)
    found = read_maps(tmp_path / "f.h5")
    assert {level: (values.shape, values.dtype) for level, values in found.items()} == {
        "L2": ((40, 16, 16), np.float16),
        "L3": ((40, 8, 8), np.float16),
    }
    np.testing.assert_allclose(found["L3"].astype(np.float64).sum(axis=(1, 2)), 1, atol=2e-3)
    pixels = torch.from_numpy(source.pictures[32:40].transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        images = (pixels / 255 - torch.tensor(card.preprocess.mean)[:, None, None]) / torch.tensor(card.preprocess.std)[
            :, None, None
        ]
        expected = network.attend(images).maps
    np.testing.assert_allclose(found["L2"][32:], expected["L2"].numpy(), rtol=2e-3, atol=1e-6)
    extract(source, backend, tmp_path / "g.h5", batch_size=8, progress=False)
    assert read_maps(tmp_path / "g.h5") == {}
    np.testing.assert_array_equal(read_features(tmp_path / "g.h5").features, read_features(tmp_path / "f.h5").features)


def test_uniform_maps_are_exact_and_a_level_can_be_chosen(source: MemorySource, tmp_path: Path) -> None:
    backend = open_backend("untrained:vgg-att2-concat-uniform@0.0625", device="cpu", levels=["L3"])
    extract(source, backend, tmp_path / "f.h5", attention=True, progress=False)
    found = read_maps(tmp_path / "f.h5")
    assert list(found) == ["L3"]
    assert (found["L3"] == np.float16(1 / 64)).all()


def test_which_maps_go_with_which_levels() -> None:
    assert maps_wanted(("L2", "L3"), {"L3": 4}, None) == ("L2", "L3")  # PAN: one feature, two maps
    assert maps_wanted(("L2", "L3"), {"L3": 4}, ["L3"]) == ("L2", "L3")
    assert maps_wanted(("L2", "L3"), {"L2": 4, "L3": 4}, ["L3"]) == ("L3",)
    assert maps_wanted((), {"gap": 4}, None) == ()


def test_maps_are_part_of_the_fingerprint(source: MemorySource, tmp_path: Path) -> None:
    backend = open_backend(TINY, device="cpu")
    extract(source, backend, tmp_path / "f.h5", progress=False)
    with pytest.raises(OutputExistsError, match=r"attention: None there, True here"):
        extract(source, backend, tmp_path / "f.h5", attention=True, resume=True, progress=False)


def test_a_network_without_attention_has_no_maps(source: MemorySource, tmp_path: Path) -> None:
    for model in ("pixels", "untrained:vgg-gap@0.0625"):
        with pytest.raises(BackendError, match="has no attention"):
            extract(source, open_backend(model, device="cpu"), tmp_path / "f.h5", attention=True, progress=False)
    assert not list(tmp_path.iterdir())


# Shards --------------------------------------------------------------------------------------------------------------


def stopped(source: MemorySource, out: Path) -> None:
    """All shards of an extraction whose merge was interrupted."""

    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract_module, "write_features", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(source, PixelsBackend(), out, batch_size=2, progress=False)


@pytest.mark.parametrize("damage", ["flip", "cut", "swap", "other plan", "no sums"])
def test_a_damaged_shard_is_named_and_only_its_rows_are_computed_again(
    source: MemorySource, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    extract(source, PixelsBackend(), tmp_path / "whole.h5", batch_size=2, progress=False)
    stopped(source, tmp_path / "f.h5")
    paths = sorted((tmp_path / "f.h5.shards").glob("rows-*"))
    assert len(paths) == 10
    content = bytearray(paths[3].read_bytes())
    if damage == "flip":
        content[-1] ^= 1
    elif damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "swap":
        content = bytearray(paths[4].read_bytes())
    elif damage == "other plan":
        at = content.index(b'plan\\": \\"') + len(b'plan\\": \\"')
        content[at] = ord("0") if content[at] != ord("0") else ord("1")
    else:
        content = content.replace(b"sha256", b"sha255", 1)
    paths[3].write_bytes(content)
    result = extract(source, PixelsBackend(), tmp_path / "f.h5", batch_size=2, progress=False)
    assert result.computed == 4
    assert str(paths[3]) in caplog.text
    assert "its rows are computed again" in caplog.text
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_shard_damaged_during_the_merge_is_named_and_leaves_no_file(
    source: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "f.h5"
    extract(source, PixelsBackend(), tmp_path / "whole.h5", batch_size=2, progress=False)
    write = extract_module.write_features

    def flipped_first(*arguments: object, blocks: Iterable[NDArray[np.float32]], **named: object) -> None:
        shard = sorted(Path(f"{out}.shards").glob("rows-*"))[5]
        content = bytearray(shard.read_bytes())
        content[-2] ^= 64
        shard.write_bytes(content)
        write(*arguments, blocks=blocks, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(extract_module, "write_features", flipped_first)
    with pytest.raises(StoreError, match=r"rows-000000020-000000024\.safetensors: changed or removed while"):
        extract(source, PixelsBackend(), out, batch_size=2, progress=False)
    monkeypatch.undo()
    monkeypatch.setattr(plan_module, "SHARD_ROWS", 4)
    assert not out.exists()
    assert extract(source, PixelsBackend(), out, batch_size=2, progress=False).computed == 4
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_shard_that_the_disk_does_not_give_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = ShardFolder(tmp_path / "s", {"a": 1})
    shards.open(overwrite=False)

    def lost(path: str, flags: int) -> int:
        raise AssertionError("nothing that was lost is renamed")

    def half_written(file: int) -> None:
        os.ftruncate(file, 40)

    monkeypatch.setattr(os, "fsync", half_written)
    monkeypatch.setattr(os, "replace", lost)
    with pytest.raises(StoreError, match="corrupt"):
        shards.write(range(2), RowShard(np.arange(2), np.ones((2, 3), np.float32)))
    assert shards.read(range(2)) is None
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["plan.json"]


def test_a_file_that_was_finished_just_before_the_kill_is_kept_and_tidied(
    source: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "f.h5"
    with monkeypatch.context() as patch:
        patch.setattr(ShardFolder, "remove", lambda self: None)
        extract(source, PixelsBackend(), out, progress=False)
    assert Path(f"{out}.shards").exists()
    assert extract(source, PixelsBackend(), out, resume=True, progress=False).computed == 0
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]


def test_overwrite_with_resume_goes_on_and_alone_starts_again(source: MemorySource, tmp_path: Path) -> None:
    out, other = tmp_path / "f.h5", memory_source(seed=1)
    extract(other, PixelsBackend(), out, batch_size=2, progress=False)
    before = out.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract_module, "write_features", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            extract(source, PixelsBackend(), out, batch_size=2, overwrite=True, progress=False)
    assert out.read_bytes() == before
    options = {"batch_size": 2, "overwrite": True, "progress": False}
    assert extract(source, PixelsBackend(), out, resume=True, **options).computed == 0  # type: ignore[arg-type]
    assert read_features(out).features[0, 0] == np.float32(source.pictures[0, 0, 0, 0] / 255)
    assert extract(source, PixelsBackend(), out, **options).computed == 40  # type: ignore[arg-type]


def test_the_same_range_twice_and_at_once_is_the_same_shard(source: MemorySource, tmp_path: Path) -> None:
    identity = plan_module.fingerprint(source, PixelsBackend(), 4, attention=False)
    shards = ShardFolder(tmp_path / "s", identity)
    shards.open(overwrite=False)

    def work() -> None:
        list(compute_shards(source, PixelsBackend(), shards, [range(8), range(8, 16)], batch_size=4, workers=0))

    work()
    first = {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()}
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()} == first
    assert len(first) == 3


# Disks ---------------------------------------------------------------------------------------------------------------

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from l2a_transfer.errors import L2AError
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.extraction import plan
from tests.conftest import memory_source
plan.SHARD_ROWS = 4
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    extract(memory_source(), PixelsBackend(), Path(sys.argv[1]), batch_size=2, progress=False)
except L2AError as error:
    print(error)
"""


@pytest.mark.parametrize(("limit", "where"), [(30_000, r"rows-0000000"), (100_000, "f.h5: cannot be written")])
def test_a_full_disk_is_named_and_loses_nothing(source: MemorySource, tmp_path: Path, limit: int, where: str) -> None:
    extract(source, PixelsBackend(), tmp_path / "whole.h5", batch_size=2, progress=False)
    out = tmp_path / "f.h5"
    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(out), str(limit)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=120,
    )
    assert where in child.stdout
    assert "File too large" in child.stdout
    assert not out.exists()
    assert not list(tmp_path.rglob("*.partial"))
    result = extract(source, PixelsBackend(), out, batch_size=2, progress=False)
    assert result.computed == (40 if limit == 30_000 else 0)
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


READ_ONLY = """
import os, sys
from pathlib import Path
from l2a_transfer.errors import L2AError
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.extraction.extract import extract
from tests.conftest import memory_source
extract(memory_source(), PixelsBackend(), Path(sys.argv[1]).parents[1] / "warm.h5", overwrite=True, progress=False)
if os.geteuid() == 0:
    os.setuid(65534)  # root may write everywhere
for options in ({}, {"resume": True}):
    try:
        extract(memory_source(), PixelsBackend(), Path(sys.argv[1]), progress=False, **options)
        print("done")
    except L2AError as error:
        print(error)
"""


def test_a_read_only_folder_is_named(source: MemorySource) -> None:
    import tempfile

    # Not pytest's folder, which other users may not enter.
    with tempfile.TemporaryDirectory() as name:
        locked = Path(name) / "locked"
        locked.mkdir()
        extract(source, PixelsBackend(), locked / "done.h5", progress=False)
        for path, mode in ((locked, 0o555), (Path(name), 0o755)):
            path.chmod(mode)
        try:
            said = [
                subprocess.run(
                    [sys.executable, "-c", READ_ONLY, str(locked / file)],
                    capture_output=True,
                    text=True,
                    check=True,
                    cwd=ROOT,
                    timeout=120,
                ).stdout.splitlines()
                for file in ("new.h5", "done.h5")
            ]
        finally:
            locked.chmod(0o755)
        assert said[0] == [f"{locked}/new.h5.lock: cannot be written: Permission denied"] * 2
        assert said[1][0].endswith("exists; `resume=True` verifies it, `overwrite=True` replaces it")
        assert said[1][1] == "done"  # verifying writes nothing


KILLED = """
import os, signal, sys
from pathlib import Path
from l2a_transfer.features.extraction import plan
from l2a_transfer.features.store import writer
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.extraction.extract import extract
from tests.conftest import memory_source
plan.SHARD_ROWS = 4
seal = writer.seal
def killed(path, magic):
    if sys.argv[2] == "sealed":
        seal(path, magic)
    os.kill(os.getpid(), signal.SIGKILL)
writer.seal = killed
extract(memory_source(), PixelsBackend(), Path(sys.argv[1]), batch_size=2, progress=False)
"""


@pytest.mark.parametrize("when", ["before the seal", "sealed"])
def test_a_kill_at_the_end_of_the_merge_costs_the_merge_alone(source: MemorySource, tmp_path: Path, when: str) -> None:
    extract(source, PixelsBackend(), tmp_path / "whole.h5", batch_size=2, progress=False)
    out = tmp_path / "f.h5"
    child = subprocess.run([sys.executable, "-c", KILLED, str(out), when], cwd=ROOT, timeout=120, check=False)
    assert child.returncode == -signal.SIGKILL
    assert not out.exists()
    assert extract(source, PixelsBackend(), out, batch_size=2, progress=False).computed == 0
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.h5", "whole.h5"]


WORKING = """
import os, sys, time
from pathlib import Path
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.extraction.extract import extract
from tests.conftest import memory_source
class Slow(PixelsBackend):
    def features(self, images_u8):
        task = f"/proc/self/task/{os.getpid()}/children"
        print(*Path(task).read_text().split(), flush=True)
        time.sleep(60)
extract(memory_source(4000), Slow(), Path(sys.argv[1]), workers=2, progress=False)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_a_kill_takes_the_decoding_workers_along(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WORKING, str(tmp_path / "f.h5")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with child:
        assert child.stdout is not None
        workers = [Path(f"/proc/{pid}") for pid in child.stdout.readline().split()]
        assert len(workers) == 2
        assert all(worker.exists() for worker in workers)
        time.sleep(1)  # until the pipe to the parent is full
        child.kill()
    for _ in range(200):
        if not any(worker.exists() for worker in workers):
            return
        time.sleep(0.1)
    raise AssertionError("the workers are still there")


# Backends ------------------------------------------------------------------------------------------------------------


def test_backends_can_be_pickled_and_stay_the_same(exported: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    originals = [
        PixelsBackend(),
        open_backend(TINY, device="cpu", levels=["L3"], tap="ga-bn-relu"),
        OnnxBackend(exported, device="cpu", levels=["L3"]),
    ]
    for backend in originals:
        again = pickle.loads(pickle.dumps(backend))  # noqa: S301 - our own bytes
        assert again.identity() == backend.identity()
        assert (again.levels, again.tap, again.card) == (backend.levels, backend.tap, backend.card)
        assert again.features(pixels).tobytes() == backend.features(pixels).tobytes()


def test_onnx_gives_maps_and_io_binding_the_same_bytes(exported: Path) -> None:
    network, card = load_model(TINY)
    backend = OnnxBackend(exported, device="cpu")
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (B, 3, 32, 32), dtype=np.uint8) for B in (4, 4, 1)]
    found = list(backend.stream(batches, attention=True))
    expected = list(TorchBackend(network, card, device="cpu").stream(batches, attention=True))
    for a, b in zip(found, expected, strict=True):
        assert list(a.maps) == ["L2", "L3"]
        np.testing.assert_allclose(a.features, b.features, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(a.maps["L2"], b.maps["L2"], rtol=2e-3, atol=1e-6)
    bound = backend.run_bound(batches[0], ["features", "map_L3"])
    plain = backend.run(batches[0])
    assert bound["features"].tobytes() == plain["features"].tobytes()
    assert bound["map_L3"].tobytes() == plain["map_L3"].tobytes()


def test_a_provider_that_does_not_run_is_never_replaced(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    started = ort.InferenceSession

    def on_the_cpu(content: bytes, options: object, *, providers: list[tuple], enable_fallback: int) -> object:
        assert enable_fallback == 0
        # float32 without TF32, and the same algorithm in every process
        assert providers == [("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})]
        return started(content, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", on_the_cpu)
    monkeypatch.setattr("l2a_transfer.features.backends.onnx.choose_onnx_device", lambda name: "cuda")
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    with pytest.raises(BackendError, match=r"could not start CUDAExecutionProvider and uses \['CPUExecution"):
        OnnxBackend(exported, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_overlapped_transfers_give_the_bytes_of_plain_calls(precision: str) -> None:
    backend = open_backend(TINY, device="cuda", precision=precision)
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (16, 3, 32, 32), dtype=np.uint8) for _ in range(7)]
    found = [computed.features.tobytes() for computed in backend.stream(batches)]
    assert found == [backend.features(batch).tobytes() for batch in batches]


def test_unknown_on_error(source: MemorySource, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="on_error must be one of fail, skip"):
        extract(source, PixelsBackend(), tmp_path / "f.h5", on_error="ignore", progress=False)
