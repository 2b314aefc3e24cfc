"""Pipes, sockets and devices in the place of any input are refused at once; in a folder they are faulty pictures."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import DataError, L2AError, StoreError, TrainingError
from l2a_transfer.evaluation.faithfulness_results import read_faithfulness
from l2a_transfer.evaluation.results_schema import earlier_files
from l2a_transfer.evaluation.robustness_results import read_robustness
from l2a_transfer.explain.checks.results import read_sanity
from l2a_transfer.explain.store import open_maps
from l2a_transfer.features.extraction.shard_folder import ShardFolder
from l2a_transfer.features.store.reader import read_meta
from l2a_transfer.inputs import NotAFileError, open_input, read_input
from l2a_transfer.localization.results import read_localization
from l2a_transfer.models.digest import file_sha256
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import save_weights
from l2a_transfer.training.checkpoint import read_checkpoint
from tests.conftest import TINY, assert_fails, l2a, save_picture

WAITED_S = 120
"""After which a test that waits for a pipe is given up."""


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    def waited(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it waits for a special file")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(WAITED_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


def bound_socket(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{folder}/{path.name}")  # the name of a socket has at most 107 letters
    os.close(folder)
    return path


def endless(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/zero")
    return path


KINDS = {"a pipe": pipe, "a socket": bound_socket, "a device": endless}
KIND = pytest.mark.parametrize("kind", KINDS)


@KIND
def test_it_is_not_opened(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path / "x")
    for read in (open_input, lambda path: read_input(path, 100)):
        with pytest.raises(NotAFileError, match=f"{kind}, where a file is expected"):
            read(path)


def test_a_file_that_becomes_a_pipe_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_text("x")
    before = os.open

    def replaced(name: Path, flags: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return before(name, flags)

    monkeypatch.setattr(os, "open", replaced)
    with pytest.raises(NotAFileError, match="a pipe"):
        open_input(path)


def test_a_file_without_a_size_is_empty_and_a_large_one_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "none").touch()
    assert read_input(tmp_path / "none", 10) == b""
    if Path("/proc/self/status").exists():
        assert read_input("/proc/self/status", 10) == b""
    (tmp_path / "large").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="11 bytes; at most 10 are read"):
        read_input(tmp_path / "large", 10)
    assert read_input(tmp_path / "large", 11) == b"x" * 11


COMMANDS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "w.safetensors": lambda path: ("extract", "--model", str(path), "--data", "digits", "--out", f"{path}.h5"),
    "m.onnx": lambda path: ("extract", "--model", str(path), "--data", "digits", "--out", f"{path}.h5"),
    "x.npz": lambda path: ("extract", "--model", "pixels", "--data", f"npz:{path}", "--out", f"{path}.h5"),
    "x.tar": lambda path: ("extract", "--model", "pixels", "--data", f"wds:{path}", "--out", f"{path}.h5"),
    "x.parquet": lambda path: ("extract", "--model", "pixels", "--data", f"parquet:{path}", "--out", f"{path}.h5"),
    "d/cifar-10-batches-py/data_batch_1": lambda path: (
        "extract",
        "--model",
        "pixels",
        "--data",
        "cifar10",
        "--data-dir",
        str(path.parents[1]),
        "--out",
        f"{path}.h5",
    ),
    "start.safetensors": lambda path: (
        "train",
        "--model",
        "vgg",
        "--data",
        "caltech-mini",
        "--init-from",
        str(path),
        "--out",
        f"{path}-run",
    ),
    "e.safetensors": lambda path: ("export", "--model", str(path), "--out", f"{path}.onnx"),
    "s.h5": lambda path: ("svm-eval", str(path), "--out", f"{path}-report"),
    "i.h5": lambda path: ("inspect", str(path)),
    "i.onnx": lambda path: ("inspect", str(path), "--verify"),
    "i.safetensors": lambda path: ("inspect", str(path), "--verify"),
    "i": lambda path: ("inspect", str(path)),
    "picture.jpg": lambda path: ("explain", "--model", TINY, str(path), "--out", f"{path}-why"),
    "boxes.csv": lambda path: localization(path, f"csv:{path}"),
    "coco.json": lambda path: localization(path, f"coco:{path}"),
    "labels/a.txt": lambda path: localization(another(path), f"yolo:{path.parent}"),
    "masks/a.png": lambda path: localization(another(path), f"png:{path.parent}"),
    "palettes/a.png": lambda path: localization(another(path), f"voc:{path.parent}"),
    "contours/a.mat": lambda path: localization(another(path), f"caltech:{path.parent}"),
    "ids.txt": lambda path: (*localization(path, f"csv:{boxes_beside(path)}"), "--validation", str(path)),
    "shown.jpg": lambda path: ("faithfulness", "--model", TINY, str(path), "--out", f"{path}-report"),
    "attacked/a/0.jpg": lambda path: robustness(path),
    "r.safetensors": lambda path: ("robustness", "--model", str(path), "--data", "digits", "--out", f"{path}-report"),
    "permuted.safetensors": lambda path: (
        *("sanity", "--model", TINY, str(save_picture(path.parent / "x.jpg")), "--labels", str(path)),
        *("--out", f"{path}-sanity"),
    ),
    "photo.jpg": lambda path: ("maps", "--model", TINY, str(path), "--out", f"{path}-maps"),
    "image.jpg": lambda path: ("sanity", "--model", TINY, str(path), "--out", f"{path}-sanity"),
}


def localization(path: Path, masks: str) -> tuple[str, ...]:
    for name in "ab":
        save_picture(path.parent / "pictures" / f"{name}.jpg")
    return (
        "localize",
        "--model",
        TINY,
        "--data",
        str(path.parent / "pictures"),
        "--masks",
        masks,
        "--out",
        f"{path}-r",
    )


def another(path: Path) -> Path:
    """The folder of a mask, with one for a second picture: a threshold is chosen on others."""
    path.with_stem("b").touch()
    return path.parent


def boxes_beside(path: Path) -> Path:
    (path.parent / "boxes.csv").write_text("a.jpg,1,1,9,9\nb.jpg,1,1,9,9\n")
    return path.parent / "boxes.csv"


def robustness(path: Path) -> tuple[str, ...]:
    network, card = load_model(TINY)
    weights, data = path.parents[2] / "named.safetensors", path.parents[1]
    save_weights(network, dataclasses.replace(card, classes=(path.parent.name, *"bcdefghij")), weights)
    return ("robustness", "--model", str(weights), "--data", f"imagefolder:{data}", "--out", f"{data}-report")


@KIND
@pytest.mark.parametrize("name", COMMANDS)
def test_every_verb_refuses_it_by_name(name: str, kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path / name)
    assert_fails(l2a(*COMMANDS[name](path)), 1, str(path), kind)


@KIND
def test_what_the_package_has_written_itself_is_looked_at_too(kind: str, tmp_path: Path) -> None:
    make = KINDS[kind]
    make(tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError, match=rf"checkpoint\.pt: cannot be read: {kind}"):
        read_checkpoint(tmp_path / "checkpoint.pt")
    with pytest.raises(StoreError, match=rf"f\.h5: cannot be read: {kind}"):
        read_meta(make(tmp_path / "f.h5"))
    rows = range(0, 4)
    shards = ShardFolder(tmp_path / "f.h5.shards", {"data": "abc"})
    make(shards.path(rows))
    assert shards.read(rows) is None
    make(shards.folder / "plan.json")
    with pytest.raises(StoreError, match=rf"plan\.json: cannot be read .*{kind}"):
        shards.belongs_to({"data": "abc"})


@KIND
@pytest.mark.parametrize("read", [open_maps, read_localization, read_sanity, read_faithfulness, read_robustness])
def test_what_can_be_read_again_is_looked_at_too(read: Callable[[Path], object], kind: str, tmp_path: Path) -> None:
    with pytest.raises(L2AError, match=rf"x: cannot be read: {kind}"):
        read(KINDS[kind](tmp_path / "x"))


SAID = dict.fromkeys(("a pipe", "a socket"), "is not a regular file") | {
    "a device": "is a link to another file",
    "damaged": "damaged",
}


@pytest.mark.parametrize("kind", SAID)
def test_the_checkpoint_of_permuted_labels(kind: str, tmp_path: Path) -> None:
    for k in range(4):
        save_picture(tmp_path / "pictures" / "abcdefghij"[k % 2] / f"{k}.jpg", k)
    out = tmp_path / "out"
    (out / "permuted-labels").mkdir(parents=True)
    {**KINDS, "damaged": lambda path: path.write_bytes(b"PK")}[kind](out / "permuted-labels" / "checkpoint.pt")
    data = f"imagefolder:{tmp_path / 'pictures'}"
    run = ("sanity", "--model", TINY, "--data", data, "--labels", "train", "--labels-data", data, "--epochs", "1")
    assert_fails(l2a(*run, "--device", "cpu", "--out", out), 1, "permuted-labels/checkpoint.pt: ", SAID[kind])
    assert os.path.lexists(out / "permuted-labels" / "checkpoint.pt")


def test_a_link_in_the_place_of_the_run_on_permuted_labels(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "permuted-labels").symlink_to(tmp_path / "elsewhere")
    run = ("sanity", "--model", TINY, save_picture(tmp_path / "x.jpg"), "--labels", "train", "--labels-data", "digits")
    assert_fails(l2a(*run, "--out", tmp_path / "out"), 1, "permuted-labels: not a folder")
    assert not any((tmp_path / "elsewhere").iterdir())


@KIND
def test_a_special_file_in_the_place_of_an_earlier_report_names_no_plots(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert earlier_files(KINDS[kind](tmp_path / "results.json")) == []
    assert f"results.json: cannot be read: {kind}" in caplog.text


@KIND
def test_in_a_folder_it_is_a_faulty_picture_that_can_be_skipped(kind: str, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for k, name in enumerate(("a/0.png", "a/1.png", "b/0.png", "b/1.png")):
        save_picture(photos / name, k)
    KINDS[kind](photos / "b" / "2.png")
    (photos / "a" / "2.png").symlink_to(photos / "nothing.png")
    out = tmp_path / "f.h5"
    run = ("extract", "--model", "pixels", "--data", f"imagefolder:{photos}", "--out", out)
    assert_fails(l2a(*run), 1, "a/2.png", "cannot be read")
    for more in ((), ("--verify-source",)):
        result = l2a(*run, "--on-error", "skip", "--overwrite", *more)
        assert result.exit_code == 0, result.output
        meta, rows, _ = read_meta(out)
        assert rows == 4
        skipped = dict(meta.skipped)
        assert sorted(skipped) == ["a/2.png", "b/2.png"]
        assert kind in skipped["b/2.png"]
        assert l2a(*run, "--on-error", "skip", "--resume", *more).exit_code == 0


def test_a_picture_that_was_replaced_by_a_pipe_is_another_fingerprint(tmp_path: Path) -> None:
    for k, name in enumerate(("a/0.png", "b/0.png")):
        save_picture(tmp_path / name, k)
    before = open_source(f"imagefolder:{tmp_path}").fingerprint()
    (tmp_path / "b/0.png").unlink()
    os.mkfifo(tmp_path / "b/0.png")
    assert open_source(f"imagefolder:{tmp_path}").fingerprint() != before


@KIND
def test_a_list_of_pictures_and_of_classes(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "stanford40"
    save_picture(root / "JPEGImages" / "run_001.jpg")
    KINDS[kind](root / "ImageSplits" / "train.txt")
    with pytest.raises(DataError, match=rf"train\.txt: {kind}"):
        open_source("stanford40", data_dir=tmp_path)
    shutil.rmtree(root)
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8))
    assert len(open_source(f"npz:{tmp_path / 'x.npz'}")) == 2


@KIND
def test_the_digest_of_weights(kind: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=kind):
        file_sha256(KINDS[kind](tmp_path / "w.safetensors"))


@KIND
def test_files_of_a_torchvision_set(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / "usps.bz2")
    with pytest.raises(DataError, match=kind):
        open_source("usps", data_dir=tmp_path)
    KINDS[kind](tmp_path / "dtd" / "dtd" / "labels" / "train1.txt")
    (tmp_path / "dtd" / "dtd" / "images").mkdir()
    with pytest.raises(DataError, match=rf"train1\.txt: {kind}"):
        open_source("dtd", data_dir=tmp_path)
