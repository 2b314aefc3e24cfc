"""The folder of a run: whose files are there, who may write them, and what a checkpoint must hold."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import DataError, OutputExistsError, TrainingError, WeightsError
from l2a_transfer.features.backends.torch import TorchBackend
from l2a_transfer.lock import IN_FOLDER, folder_lock
from l2a_transfer.models.weights import load_weights, read_card, save_weights, with_metrics
from l2a_transfer.training import checkpoint
from l2a_transfer.training import runs as runs_module
from l2a_transfer.training.accuracy import evaluate
from l2a_transfer.training.cards import training_card, weights_name
from l2a_transfer.training.checkpoint import differences, load_checkpoint, save_checkpoint
from l2a_transfer.training.divergence import guessing_loss, signs
from l2a_transfer.training.interrupt import stop_requests
from l2a_transfer.training.run_folder import RunFolder
from l2a_transfer.training.runs import run_training, train_seeds
from l2a_transfer.training.trainer import Trainer
from tests.conftest import assert_fails, l2a, save_picture
from tests.test_training import CONFIG, CPU, RECIPE, Hostile, colours, ended, new_trainer, same, weights_of

pytestmark = pytest.mark.usefixtures("curves_drawn_once")


def test_a_run_that_exists_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended(out, epochs=1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(
        OutputExistsError, match=r"checkpoint\.pt: a run already exists; `resume=True` .* `overwrite=True`"
    ):
        run_training(new_trainer(epochs=1), out, progress=False)
    with pytest.raises(TrainingError, match=r"made by another run \(recipe: "):
        run_training(new_trainer(epochs=2), out, resume=True, progress=False)
    with pytest.raises(TrainingError, match=r"made by another run \(data: "):
        run_training(new_trainer(colours(32, seed=9), epochs=1), out, resume=True, progress=False)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.slow
def test_overwrite_keeps_the_old_run_until_the_new_one_has_something_to_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    for moment in ("run_epoch", "state"):
        run = new_trainer(epochs=2)
        monkeypatch.setattr(run, moment, lambda **_: sys.exit(9))
        with pytest.raises(SystemExit):
            run_training(run, tmp_path, overwrite=True, progress=False)
        assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run = new_trainer(epochs=2)
    step = run._train_step

    def ends_in_the_second_epoch(*arguments: Any) -> None:
        if run.epoch == 1:
            sys.exit(9)
        step(*arguments)

    monkeypatch.setattr(run, "_train_step", ends_in_the_second_epoch)
    with pytest.raises(SystemExit):
        run_training(run, tmp_path, overwrite=True, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "metrics.jsonl"}
    run_training(new_trainer(epochs=2), tmp_path, resume=True, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == set(before)


def test_weights_without_their_checkpoint_are_left_alone(tmp_path: Path) -> None:
    trainer = new_trainer(epochs=1)
    weights = tmp_path / f"{weights_name(trainer.config, trainer.data.name)}.safetensors"
    weights.write_bytes(b"an earlier run")
    with pytest.raises(OutputExistsError, match=r"\.safetensors: a run already exists; `overwrite=True` replaces it"):
        run_training(trainer, tmp_path, progress=False)
    assert [(path, path.read_bytes()) for path in tmp_path.iterdir()] == [(weights, b"an earlier run")]


@pytest.mark.parametrize("damage", ["cut", "empty", "another file", "hostile", "one bit", "method"])
def test_a_damaged_checkpoint_is_named_and_nothing_is_lost(tmp_path: Path, damage: str) -> None:
    out = tmp_path / "run"
    ended(out, epochs=1)
    path = out / "checkpoint.pt"
    content = path.read_bytes()
    if damage == "hostile":
        torch.save({"schema": "l2a-checkpoint/1", "fingerprint": Hostile(tmp_path / "owned")}, path)
    else:
        at = content.index(load_checkpoint(path, new_trainer(epochs=1).fingerprint())["losses"].numpy().tobytes())
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        method = content.index(b"PK\x01\x02") + 10  # of the first member: stored becomes deflated
        damaged = {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "another file": b"hello" * 100,
            "one bit": flipped,
            "method": content[:method] + b"\x08" + content[method + 1 :],
        }
        path.write_bytes(damaged[damage])
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: damaged or not a checkpoint: .*remove it, and"):
        run_training(new_trainer(epochs=1), out, resume=True, progress=False)
    assert before == {p.name: p.read_bytes() for p in out.iterdir()}
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_that_cannot_be_saved_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"epoch": 1})
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        TrainingError, match=r"checkpoint\.pt: could not be saved: No space left.* free some space.*`resume=True`"
    ):
        save_checkpoint(path, {"epoch": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_another_error_of_writing_is_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(TrainingError, match=r"could not be saved: Input/output error.*; fix that"):
        save_checkpoint(tmp_path / "checkpoint.pt", {"epoch": 2})


def test_two_trains_never_share_a_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(f"""
            import sys, pathlib
            from l2a_transfer.lock import folder_lock
            with folder_lock(pathlib.Path({str(tmp_path)!r})):
                print("held", flush=True)
                sys.stdin.read()
        """),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        weights = RunFolder.for_trainer(tmp_path, new_trainer()).weights
        partial = weights.with_name(weights.name + ".0123456789ab.partial")
        partial.write_bytes(b"what the other process saves just now")
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputExistsError, match=f"is being written by process {holder.pid}"):
                run_training(new_trainer(epochs=1), tmp_path, progress=False, **options)
        assert {path.name for path in tmp_path.iterdir()} == {IN_FOLDER, partial.name}
    finally:
        holder.kill()
        holder.communicate()
    run_training(new_trainer(epochs=1), tmp_path, progress=False)  # a lock whose process is gone holds nobody up
    assert not (tmp_path / IN_FOLDER).exists()
    assert not partial.exists()  # whoever has the lock knows that nobody writes it any more


def test_the_lock_is_held_while_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_trainer(epochs=1)
    step = run._train_step

    def second(*arguments: Any) -> None:
        with ThreadPoolExecutor(1) as other, pytest.raises(OutputExistsError, match="is being written"):
            other.submit(folder_lock(tmp_path).__enter__).result()
        step(*arguments)

    monkeypatch.setattr(run, "_train_step", second)
    run_training(run, tmp_path, progress=False)


def test_weights_of_another_run_are_not_taken_for_the_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = ended(tmp_path / "own", epochs=1)
    other = ended(tmp_path / "other", epochs=1, seed=1)
    tensors = {key: value.clone() for key, value in weights_of(tmp_path / "own").items()}
    own.weights.write_bytes(other.weights.read_bytes())
    again = run_training(new_trainer(epochs=1), tmp_path / "own", resume=True, progress=False)
    assert "made by another run (seed: 1 there, 0 here); overwriting it" in caplog.text
    assert again.metrics == own.metrics
    assert same(weights_of(tmp_path / "own"), tensors)
    assert read_card(own.weights).training["seed"] == 0


def test_weights_alone_are_a_finished_run(tmp_path: Path) -> None:
    """Checkpoints are the larger part of a run, and may be removed at its end."""
    result = ended(tmp_path, epochs=1)
    content = result.weights.read_bytes()
    for name in ("checkpoint.pt", "metrics.jsonl", "curve.png"):
        (tmp_path / name).unlink()
    assert run_training(new_trainer(epochs=1), tmp_path, resume=True, progress=False).metrics == result.metrics
    with pytest.raises(TrainingError, match=r"safetensors: made by another run \(recipe: epochs 1 there, 2 here\)"):
        run_training(new_trainer(epochs=2), tmp_path, resume=True, progress=False)
    with pytest.raises(OutputExistsError, match="a run already exists"):
        run_training(new_trainer(epochs=1), tmp_path, progress=False)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(result.weights.name, content)]


def test_weights_of_another_name_without_a_checkpoint_are_another_run(tmp_path: Path) -> None:
    result = ended(tmp_path, epochs=1)
    (tmp_path / "checkpoint.pt").unlink()
    result.weights.rename(tmp_path / "vgg.colours-w003.safetensors")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TrainingError, match=r"vgg\.colours-w003\.safetensors: made by another run"):
        run_training(new_trainer(epochs=1), tmp_path, resume=True, progress=False)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_weights_that_nobody_measured_are_not_trained_over(tmp_path: Path) -> None:
    result = ended(tmp_path, epochs=1)
    network, card = load_weights(result.weights)
    save_weights(network, with_metrics(card, {}), result.weights)
    content = result.weights.read_bytes()
    (tmp_path / "checkpoint.pt").rename(tmp_path / "aside")
    with pytest.raises(TrainingError, match=r"safetensors: has no metrics, and there is no checkpoint to resume from"):
        run_training(new_trainer(epochs=1), tmp_path, resume=True, progress=False)
    assert result.weights.read_bytes() == content
    (tmp_path / "aside").rename(tmp_path / "checkpoint.pt")
    assert run_training(new_trainer(epochs=1), tmp_path, resume=True, progress=False).metrics == result.metrics


def test_a_card_of_before_a_field_was_added_is_still_this_run_s(tmp_path: Path) -> None:
    result = ended(tmp_path, epochs=1)
    network, card = load_weights(result.weights)
    old = dict(
        card.training, recipe={k: v for k, v in card.training["recipe"].items() if k not in ("average", "cutout")}
    )
    for key in ("processes", "sync_batch_norm", "compile"):
        del old[key]
    save_weights(network, dataclasses.replace(card, training=old), result.weights)
    (tmp_path / "checkpoint.pt").unlink()
    assert run_training(new_trainer(epochs=1), tmp_path, resume=True, progress=False).metrics == result.metrics


@pytest.mark.slow
def test_results_of_the_old_run_go_even_where_the_first_save_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ended(tmp_path, epochs=3, seed=1).weights.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_metrics", lambda *_: sys.exit(9))  # after the checkpoint
        with pytest.raises(SystemExit):
            run_training(new_trainer(epochs=3), tmp_path, overwrite=True, progress=False)
    run = new_trainer(epochs=3)
    monkeypatch.setattr(run, "_end_epoch", lambda *_: sys.exit(9) if run.epoch == 2 else end(*_))
    end = Trainer._end_epoch.__get__(run)
    with pytest.raises(SystemExit):
        run_training(run, tmp_path, resume=True, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "metrics.jsonl"}
    assert run_training(new_trainer(epochs=3), tmp_path, resume=True, progress=False).weights.read_bytes() != old


def test_weights_that_are_damaged_and_alone_are_left_alone(tmp_path: Path) -> None:
    weights = RunFolder.for_trainer(tmp_path, new_trainer()).weights
    weights.write_bytes(b"something")
    with pytest.raises(TrainingError, match=r"not an l2a-transfer weights file.*`overwrite=True` replaces it"):
        run_training(new_trainer(), tmp_path, resume=True, progress=False)
    assert weights.read_bytes() == b"something"


def test_weights_measured_on_other_images_are_measured_again(tmp_path: Path) -> None:
    result = ended(tmp_path, epochs=1)
    network, card = load_weights(result.weights)
    save_weights(
        network, with_metrics(card, {"holdout-8_accuracy": {"value": 1.0, "n": 8, "seeds": 1}}), result.weights
    )
    again = run_training(new_trainer(epochs=1), tmp_path, resume=True, progress=False)
    assert again.metrics == result.metrics == read_card(result.weights).metrics


def test_finished_seeds_need_no_checkpoint_and_damaged_ones_harm_no_other(tmp_path: Path) -> None:
    def new(seed: int) -> Any:
        return new_trainer(seed=seed, epochs=1)

    first = train_seeds(new, tmp_path, [0, 1], progress=False)
    (tmp_path / "seed-0" / "checkpoint.pt").unlink()
    (tmp_path / "seed-1" / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match=r"seed-1/checkpoint\.pt: damaged.*remove it, and `resume=True` starts"):
        train_seeds(new, tmp_path, [0, 1], progress=False)
    (tmp_path / "seed-1" / "checkpoint.pt").unlink()
    assert train_seeds(new, tmp_path, [0, 1], progress=False) == first
    for seeds, words in (
        ([], "got none"),
        ([-1], "between 0 and 4294967295"),
        ([0, 2**32], "between 0 and 4294967295"),
    ):
        with pytest.raises(ValueError, match=words):
            train_seeds(new, tmp_path, seeds, progress=False)


def test_what_stands_in_the_way_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_trainer(epochs=1)
    monkeypatch.setattr(run, "run_epoch", lambda **_: pytest.fail("it trains"))
    name = RunFolder.for_trainer(tmp_path, run).weights.name

    def make(kind: Callable[[Path], None], at: str) -> Path:
        folder = tmp_path / f"{kind.__name__}-{at}"
        folder.mkdir()
        kind(folder / at)
        return folder

    def link(path: Path) -> None:
        path.symlink_to("nowhere")

    for kind, at, words in (
        (os.mkdir, "curve.png", "curve.png: is not a regular file"),
        (os.mkdir, "metrics.jsonl", "metrics.jsonl: is not a regular file"),
        (os.mkdir, name, "is not a regular file"),
        (os.mkfifo, "checkpoint.pt", "checkpoint.pt: is not a regular file"),
        (link, "checkpoint.pt", "checkpoint.pt: is a link to a missing file"),
    ):
        folder = make(kind, at)
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(TrainingError, match=words):
                run_training(run, folder, progress=False, **options)
        assert [path.name for path in folder.iterdir()] == [at]
    (tmp_path / "file").touch()
    for out, words in (
        (tmp_path / "file", "cannot be (used|written)"),
        (tmp_path / "file" / "run", "cannot be (used|written)"),
        (tmp_path / ("x" * 300), "File name too long"),
        (Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9")), "not UTF-8"),
    ):
        with pytest.raises(TrainingError, match=words):
            run_training(run, out, progress=False)
    (tmp_path / "seeds.json").mkdir()
    with pytest.raises(TrainingError, match=r"seeds\.json: is not a regular file"):
        train_seeds(lambda _: run, tmp_path, [0], progress=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.jsonl").write_text("of something else")
    with pytest.raises(OutputExistsError, match=r"metrics\.jsonl: a run already exists"):
        run_training(run, tmp_path / "other", progress=False)


def test_resume_where_nothing_is_begins_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "l2a_transfer")
    run_training(new_trainer(epochs=1), tmp_path / "run", resume=True, progress=False)
    assert f"{tmp_path / 'run'}: no checkpoint to resume from; starting a new run" in caplog.text


def test_a_run_may_be_kept_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_training(new_trainer(epochs=1), Path(), progress=False)
    assert (tmp_path / "checkpoint.pt").exists()


def dropped(content: dict[str, Any], *keys: Any) -> None:
    for key in keys[:-1]:
        content = content[key]
    del content[keys[-1]]


def put(value: Any, *keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: dropped(content, "model"), "'model' is missing"),
        (lambda content: dropped(content, "history", 0, "lr"), "'lr' is missing"),
        (lambda content: dropped(content, "optimizer", "state", 0, "momentum_buffer"), "'momentum_buffer' is missing"),
        (lambda content: dropped(content, "model", "classifiers.0.bias"), r"model: classifiers\.0\.bias is missing"),
        (put(3, "epoch"), "epoch 3, step 0 is not within 2 epochs of 4 steps"),
        (put(-1, "step"), "epoch 1, step -1 is not within"),
        (put(4, "step"), "epoch 1, step 4 is not within"),
        (put("1" * 5000, "epoch"), "epoch and step must be integers; got 1111.*… and 0; remove it"),
        (put(True, "step"), "epoch and step must be integers"),
        (put(float("nan"), "seconds"), "nan seconds are not a valid time"),
        (put("long", "seconds"), "not a state of this run"),
        (put([], "history"), "its history is not that of 1 epochs"),
        (put(torch.zeros(2), "history", 0, "train_loss"), "an epoch that is not a row of numbers"),
        (put(torch.zeros(3), "losses"), r"sums: losses is not a torch\.float32 tensor of shape \(4,\)"),
        (put(7, "correct"), "not a state of this run"),
        (
            put(torch.zeros(2, 2), "optimizer", "state", 0, "momentum_buffer"),
            "momentum: 0 is not a torch.float32 tensor",
        ),
        (put([1], "optimizer"), "not a state of this run"),
        (put(None, "average"), "not a state of this run"),
        (put("many", "average", "updates"), "its average has many updates, 4 steps on"),
        (put(torch.zeros(5), "model", "classifiers.0.bias"), r"model: classifiers\.0\.bias is not a torch\.float32"),
        (put({}, "optimizer", "state"), "momentum: 0 is missing"),
        (lambda content: dropped(content, "optimizer", "state", 3), "momentum: 3 is missing"),
        (put({"momentum_buffer": torch.zeros(1)}, "optimizer", "state", 9999), "momentum: 9999 is unknown"),
        (put("bar", "optimizer", "state", 9999), "not a state of this run"),
        (
            put(torch.zeros(4).to_sparse(), "model", "classifiers.0.bias"),
            "it contains more than tensors and plain values",
        ),
        (put(torch.zeros(4, dtype=torch.int64), "model", "classifiers.0.bias"), r"model: classifiers\.0\.bias is no"),
        (put(torch.full((4,), float("nan")), "model", "classifiers.0.bias"), r"classifiers\.0\.bias is not finite"),
        (put(torch.tensor(float("inf")), "correct"), "sums: correct is not finite"),
        (put(0, "average", "updates"), "its average has 0 updates, 4 steps on"),
        (put(10**400, "seconds"), "1000.*… seconds are not a valid time"),
        (put(10**400, "history", 0, "test_accuracy"), "an epoch that is not a row of numbers"),
        (put(float("nan"), "history", 0, "train_loss"), "an epoch that is not a row of numbers"),
        (put(np.float64(1), "seconds"), "it contains more than tensors and plain values"),
        (put(10**4000, "seconds"), "it contains more than tensors and plain values|seconds are not a valid time"),
        (put({"model": torch.zeros(2)}, "fingerprint"), "it has no fingerprint"),
        (put([], "fingerprint"), "it has no fingerprint"),
        (put("l2a-checkpoint/2", "schema"), "it has no schema l2a-checkpoint/1"),
    ],
)
def test_a_checkpoint_of_wrong_content_is_damaged(tmp_path: Path, change: Callable[..., None], words: str) -> None:
    run = new_trainer(epochs=2, average=0.2)
    run.history.append(run.run_epoch(progress=False) or {})
    content = run.state() | {"schema": "l2a-checkpoint/1"}
    change(content)
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError, match=rf"(?s)checkpoint\.pt: damaged or not a checkpoint: .*{words}"):
        run_training(new_trainer(epochs=2, average=0.2), tmp_path, resume=True, progress=False)


def test_momentum_that_shares_its_memory_is_copied(tmp_path: Path) -> None:
    """The fused step takes every buffer for a dense one."""
    run = new_trainer(epochs=2)
    run.history.append(run.run_epoch(progress=False) or {})
    content = run.state()
    for state in content["optimizer"]["state"].values():
        shape = state["momentum_buffer"].shape
        state["momentum_buffer"] = torch.zeros((1,) * len(shape)).expand(shape)
    save_checkpoint(tmp_path / "checkpoint.pt", content)
    again = new_trainer(epochs=2)
    again.restore(load_checkpoint(tmp_path / "checkpoint.pt", again.fingerprint()))
    for parameter, state in again.optimizer.state.items():
        assert state["momentum_buffer"].stride() == parameter.stride()
        assert state["momentum_buffer"].untyped_storage().nbytes() == 4 * parameter.numel()


@pytest.mark.parametrize(
    "architecture", ["vgg-att3-concat-uniform", "vgg-att2-concat-add", "vgg-pan", "vgg-dsna", "vgg-gap", "vgg"]
)
def test_every_network_can_be_resumed(architecture: str) -> None:
    config = dataclasses.replace(
        CONFIG, architecture=architecture, global_branch="auto" if architecture in ("vgg", "vgg-gap") else "always"
    )
    recipe = dataclasses.replace(RECIPE, epochs=2, average=0.2, resolutions=((0.0, 32),))
    run = Trainer(config, recipe, colours(32), placement=CPU)
    run.history.append(run.run_epoch(progress=False) or {})
    again = Trainer(config, recipe, colours(32), placement=CPU)
    again.restore(run.state())
    assert same(again.model.state_dict(), run.model.state_dict())
    for trainer in (run, again):
        trainer.history.append(trainer.run_epoch(progress=False) or {})
    assert same(again.model.state_dict(), run.model.state_dict())


def test_a_partial_file_that_is_a_link_or_a_pipe_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    for make in (lambda path: path.symlink_to(tmp_path / "victim"), os.mkfifo):
        make(tmp_path / "checkpoint.pt.partial")
        save_checkpoint(tmp_path / "checkpoint.pt", {"epoch": 1})
        assert not (tmp_path / "checkpoint.pt").is_symlink()
        assert (tmp_path / "victim").read_text() == "precious"
        (tmp_path / "checkpoint.pt.partial").unlink()


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / IN_FOLDER)
    with pytest.raises(
        TrainingError, match=r"\.l2a-transfer\.lock: is .*, not a lock; remove it, or choose another `out`"
    ):
        run_training(new_trainer(epochs=1), tmp_path, progress=False)
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"w\.safetensors: .*a pipe, where a file is expected"):
        read_card(tmp_path / "w.safetensors")
    for k, name in enumerate(("a/0.png", "a/1.png", "b/0.png")):
        save_picture(tmp_path / "photos" / name, k)
    os.mkfifo(tmp_path / "photos" / "b" / "1.png")
    source = open_source(f"imagefolder:{tmp_path / 'photos'}")
    assert source.fingerprint() == source.fingerprint()
    with pytest.raises(DataError, match=r"b/1\.png: cannot be read: a pipe, where a file is expected"):
        source.image(3)


def test_a_decoding_process_that_dies_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.\n and more")

    from l2a_transfer.training import train  # noqa: F401 - or it would be imported now, and keep what is patched

    monkeypatch.setattr("l2a_transfer.data.readers.open_source", dies)
    result = l2a("train", "--model", "vgg", "--data", "digits", "--out", tmp_path / "run")
    assert_fails(
        result, 1, "a decoding process ended: DataLoader worker (pid 7) is killed by signal: Killed.; use fewer"
    )


def test_weights_to_start_from_are_not_written_over(tmp_path: Path) -> None:
    first = ended(tmp_path, epochs=1).weights
    content = first.read_bytes()
    run = new_trainer(epochs=1, init_from=str(first))
    with pytest.raises(
        TrainingError, match=r"this run starts from these weights .* overwrite them; choose another `out`"
    ):
        run_training(run, tmp_path, overwrite=True, progress=False)
    assert first.read_bytes() == content


def spoil(run: Trainer, value: float) -> None:
    """Put `value` into a running variance, after each epoch: as momentum and statistics of a diverging run do."""
    train_epoch = run.run_epoch

    def epoch(**options: Any) -> dict[str, Any] | None:
        row = train_epoch(**options)
        run.model.trunk[0][0][1].running_var[0] = value  # type: ignore[index]
        return row

    run.run_epoch = epoch  # type: ignore[method-assign]


HUGE = "trunk.0.0.1.running_var"


def test_weights_beyond_float16_are_saved_measured_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = new_trainer(epochs=2)
    spoil(run, 518_123.0)
    result = run_training(run, tmp_path, progress=False)
    assert caplog.text.count(f"{HUGE} has a value of 5.18e+05, and the maximum of float16 is 65,504") == 1
    assert "a smaller learning rate (0.1 in this run" in caplog.text
    tensors = load_file(result.weights)
    assert {key for key, value in tensors.items() if value.dtype != torch.float16} == {HUGE}
    assert tensors[HUGE].dtype == torch.float32
    assert tensors[HUGE][0] == 518_123.0
    network, card = load_weights(result.weights)
    assert card.training["float32"] == [HUGE]
    assert card.metrics["test_accuracy"]["value"] == evaluate(network, run.data.test, run.preprocess)
    assert run_training(new_trainer(epochs=2), tmp_path, resume=True, progress=False).metrics == card.metrics
    assert TorchBackend(network, card, device="cpu").features(np.zeros((2, 3, 16, 16), np.uint8)).shape == (2, 32)
    later = new_trainer(epochs=1, init_from=str(result.weights))
    assert later.model.state_dict()[HUGE][0] == 518_123.0


def test_a_run_that_ended_without_its_weights_gets_them(tmp_path: Path) -> None:
    run = new_trainer(epochs=1)
    spoil(run, 1e5)
    path = run_training(run, tmp_path, progress=False).weights
    whole = path.read_bytes()
    path.unlink()  # as an earlier version left it, which wrote no such weights: the checkpoint of the last epoch
    assert run_training(new_trainer(epochs=1), tmp_path, resume=True, progress=False).weights.read_bytes() == whole


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    run = new_trainer(epochs=1)
    run.model.trunk[0][0][1].running_var[0] = torch.inf  # type: ignore[index]
    with pytest.raises(WeightsError, match=rf"nothing was written, because tensor {HUGE} has values that are not"):
        save_weights(run.model, training_card(run, "huge"), tmp_path / "huge.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_curve_or_a_test_image_that_fails_does_not_cost_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise DataError("dog.jpg: damaged")

    monkeypatch.setattr(runs_module, "evaluate", fails)
    with pytest.raises(DataError):
        run_training(new_trainer(epochs=2), tmp_path / "a", eval_every=1, progress=False)
    content = load_checkpoint(tmp_path / "a" / "checkpoint.pt", new_trainer(epochs=2).fingerprint())
    assert (content["epoch"], len(content["history"])) == (1, 1)
    monkeypatch.undo()
    monkeypatch.setattr(runs_module, "learning_curve", fails)
    with pytest.raises(DataError):
        run_training(new_trainer(epochs=1), tmp_path / "b", progress=False)
    assert load_weights(tmp_path / "b" / "vgg-att2-concat-pc.colours-w003.safetensors")[1].metrics == {}


def test_the_loss_of_guessing_by_hand() -> None:
    even = np.array([0, 1, 2, 3] * 5, np.int32)
    assert guessing_loss(even, 4, 0.0) == pytest.approx(math.log(4))
    assert guessing_loss(even, 4, 0.1) == pytest.approx(math.log(4))
    skew = np.array([0] * 9 + [1], np.int32)
    assert guessing_loss(skew, 2, 0.0) == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    assert guessing_loss(skew, 2, 0.5) == pytest.approx(-0.7 * math.log(0.7) - 0.3 * math.log(0.3))
    assert guessing_loss(skew, 3, 0.0) == guessing_loss(skew, 2, 0.0)  # a class without an image


@pytest.mark.parametrize(
    ("loss", "epoch", "epochs", "said"),
    [
        (1.39, 2, 9, True),
        (1.37, 2, 9, False),
        (1.39, 1, 9, False),
        (1.39, 2, 2, True),
        (7.0, 8, 9, True),
    ],
)
def test_a_loss_of_guessing_for_an_epoch_is_said(loss: float, epoch: int, epochs: int, said: bool) -> None:
    run = new_trainer(colours(400), epochs=epochs)  # 50 steps an epoch, four classes: ln 4 = 1.386
    run.epoch = epoch
    found = signs(run, {"train_loss": loss})
    assert set(found) == ({"guessing"} if said else set())
    if said:
        assert f"the mean loss of the epoch is {loss:.3f}" in found["guessing"]
        assert "gives 1.386" in found["guessing"]
        assert "smaller learning rate (0.1 in this run" in found["guessing"]


@pytest.mark.parametrize(("images", "steps"), [(16, "2 steps"), (48, "6 steps"), (792, "99 steps")])
def test_a_short_run_is_not_said_to_have_diverged(images: int, steps: str) -> None:
    run = new_trainer(colours(images), epochs=1)  # batches of 8
    run.epoch = 1
    said = signs(run, {"train_loss": 1.5})["guessing"]
    assert said.endswith(f": no better than guessing after {steps}; train for more epochs")
    assert "diverged" not in said
    assert signs(run, {"train_loss": 1.3}) == {}


def test_weights_beyond_float16_are_promised_for_the_end_of_the_run_only() -> None:
    run = new_trainer(colours(400), epochs=3)
    with torch.no_grad():
        next(iter(run.result.parameters()))[(0,) * 4] = 1e6
    said = signs(run, {"train_loss": 0.1})["range"]
    assert "has a value of 1e+06, and the maximum of float16 is 65,504: a sign of divergence" in said
    assert said.endswith("; if the run completes, such tensors are saved as float32")


@pytest.mark.slow
def test_a_run_with_too_high_a_rate_says_so_while_it_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_training(new_trainer(colours(400), epochs=3, lr=2.0), tmp_path, progress=False)
    assert caplog.text.count("the network has diverged or learns nothing") == 1
    assert "and the maximum of float16 is 65,504: a sign of divergence" in caplog.text
    caplog.clear()
    run_training(new_trainer(colours(400), epochs=3), tmp_path / "good", progress=False)
    assert "diverged" not in caplog.text


def test_all_seeds_are_looked_at_before_the_first_is_trained(tmp_path: Path) -> None:
    run_training(new_trainer(epochs=1, lr=0.05, seed=1), tmp_path / "seed-1", progress=False)
    with pytest.raises(TrainingError, match=r"seed-1/checkpoint\.pt: made by another run \(recipe: lr 0\.05 there"):
        train_seeds(lambda seed: new_trainer(epochs=1, seed=seed), tmp_path, [0, 1], progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["seed-1"]


def test_a_summary_of_other_weights_is_left_alone(tmp_path: Path) -> None:
    for content in (b"[]", b"no json", b'{"name": "vgg.cifar10-w025"}'):
        (tmp_path / "seeds.json").write_bytes(content)
        with pytest.raises(
            OutputExistsError, match=r"seeds\.json: already exists and is not of vgg-att2-concat-pc\.col"
        ):
            train_seeds(lambda seed: new_trainer(epochs=1, seed=seed), tmp_path, [0], progress=False)
        assert (tmp_path / "seeds.json").read_bytes() == content
    found = train_seeds(lambda seed: new_trainer(epochs=1, seed=seed), tmp_path, [0], overwrite=True, progress=False)
    assert json.loads((tmp_path / "seeds.json").read_text())["name"] == found.name == "vgg-att2-concat-pc.colours-w003"


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.metrics.update(test_accuracy=3),
        lambda card: card.metrics["test_accuracy"].update(value="x"),
        lambda card: card.metrics["test_accuracy"].update(value=float("nan")),
        lambda card: card.metrics["test_accuracy"].update(n=3),
        lambda card: card.training.update(seconds=None),
    ],
)
def test_a_card_with_odd_figures_is_not_measured(tmp_path: Path, change: Callable[[Any], None]) -> None:
    result = ended(tmp_path, epochs=1)
    network, card = load_weights(result.weights)
    change(card)
    save_weights(network, card, result.weights)
    again = run_training(new_trainer(epochs=1), tmp_path, resume=True, progress=False)
    assert again.metrics == result.metrics == read_card(result.weights).metrics


def test_what_the_optimizer_is_told_is_the_recipe_s(tmp_path: Path) -> None:
    ended(tmp_path / "whole", epochs=2)
    run = new_trainer(epochs=2)
    run.history.append(run.run_epoch(progress=False) or {})
    content = run.state()
    content["optimizer"]["param_groups"][0]["weight_decay"] = 0.5
    (tmp_path / "cut").mkdir()
    save_checkpoint(tmp_path / "cut" / "checkpoint.pt", content)
    run_training(new_trainer(epochs=2), tmp_path / "cut", resume=True, progress=False)
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut"))


def test_fingerprints_that_differ_are_told_field_by_field() -> None:
    one = {"recipe": '{"lr": 0.1, "epochs": 3}', "seed": 0, "threads": 1, "data": "a" * 64, "model": "m" * 200}
    other = {"recipe": '{"lr": 0.2, "epochs": 3}', "seed": 0, "threads": 2, "data": "b", "model": ""}
    assert differences(one, one) == ""
    assert differences(one, other) == (
        f"data: {'a' * 12} there, b here (the data set, its folder, the held-out images, or how files are compared); "
        f"model: {'m' * 100}… there,  here; recipe: lr 0.1 there, 0.2 here; "
        "threads: 1 there, 2 here (set by OMP_NUM_THREADS)"
    )
    assert differences({"recipe": "[" * 100_000}, {"recipe": "{}"}).startswith("recipe: [[")


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests(alone=True) as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_bytes_of_a_checkpoint_that_cannot_be_saved_are_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error kept a view of a buffer that was collected before it, of which Python 3.13 says that it is an error."""
    views: list[memoryview] = []

    def full(path: Path, content: memoryview, *, kept: bool) -> None:
        views.append(content)
        raise TrainingError(f"{path}: could not be saved")

    monkeypatch.setattr(checkpoint, "write_run_file", full)
    with pytest.raises(TrainingError):
        save_checkpoint(tmp_path / "checkpoint.pt", {"epoch": 1})
    with pytest.raises(ValueError, match="released"):
        views[0].tobytes()
