"""Whole training runs: stopping and going on, averages, seeds, other weights to start from, several processes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from l2a_transfer import devices
from l2a_transfer.data.readers import open_source
from l2a_transfer.devices import fast_bf16, training_precision
from l2a_transfer.errors import TrainingError
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import read_card
from l2a_transfer.training import runs as runs_module
from l2a_transfer.training.checkpoint import load_checkpoint
from l2a_transfer.training.curve import learning_curve
from l2a_transfer.training.data import TrainingData
from l2a_transfer.training.epochs import augmented_batches, plan_for
from l2a_transfer.training.flops import macs, matrix_peak
from l2a_transfer.training.initialization import start_from
from l2a_transfer.training.loss_monitor import LossMonitor
from l2a_transfer.training.processes import COLLECTIVE_TIMEOUT, Placement, ProcessRank, process_group
from l2a_transfer.training.recipe import TrainConfig
from l2a_transfer.training.run_folder import RunFolder
from l2a_transfer.training.runs import SeedsResult, run_training, train_seeds
from l2a_transfer.training.trainer import Trainer
from tests.conftest import assert_fails, l2a, save_picture
from tests.test_training import COMMAND, CONFIG, CPU, cifar, colours, ended, new_trainer, next_steps, same, weights_of

pytestmark = pytest.mark.usefixtures("curves_drawn_once")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_inside_the_epoch_and_the_rest_is_the_same_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: signal.Signals
) -> None:
    run_training(new_trainer(average=0.2), tmp_path / "whole", progress=False)
    run, out = new_trainer(average=0.2), tmp_path / "cut"
    step = run._train_step

    def then_a_signal(*arguments: Any) -> None:
        step(*arguments)
        if (run.epoch, run.step) == (1, 3):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(run, "_train_step", then_a_signal)
    before = signal.getsignal(number)
    said = "stopped in epoch 2, after step 3 of 4; saved in .*; run it again with `resume=True`, not `overwrite=True`"
    with pytest.raises(KeyboardInterrupt, match=said):
        run_training(run, out, progress=False)
    assert signal.getsignal(number) is before
    assert "stopped" not in caplog.text  # or whoever shows the error would say it twice
    content = load_checkpoint(out / "checkpoint.pt", run.fingerprint())
    assert (content["epoch"], content["step"]) == (1, 3)
    run_training(new_trainer(average=0.2), out, resume=True, progress=False)
    assert same(weights_of(tmp_path / "whole"), weights_of(out))
    whole, cut = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "cut")
    )
    for one, other in zip(whole, cut, strict=True):
        for key in ("epoch", "lr", "train_loss", "train_accuracy"):
            assert one[key] == other[key]


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("batch_size", [8, 32])  # four steps an epoch, and one
def test_a_signal_in_the_last_step_of_an_epoch_stops_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, epochs: int
) -> None:
    def new() -> Trainer:
        return new_trainer(batch_size=batch_size, epochs=epochs)

    run_training(new(), tmp_path / "whole", progress=False)
    run, out = new(), tmp_path / "cut"
    step = run._train_step

    def then_a_signal(*arguments: Any) -> None:
        step(*arguments)
        if run.step == run.steps_per_epoch:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(run, "_train_step", then_a_signal)
    with pytest.raises(KeyboardInterrupt, match="stopped after epoch 1; saved in"):
        run_training(run, out, progress=False)
    assert not list(out.glob("*.safetensors"))
    run_training(new(), out, resume=True, progress=False)
    assert same(weights_of(tmp_path / "whole"), weights_of(out))


def test_a_signal_while_one_seed_is_measured_keeps_the_next_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(*arguments)

    measure = runs_module._measure
    monkeypatch.setattr(runs_module, "_measure", measured)
    with pytest.raises(KeyboardInterrupt, match=f"stopped; the run in {tmp_path / 'seed-0'} is complete"):
        train_seeds(lambda seed: new_trainer(seed=seed, epochs=1), tmp_path, [0, 1], progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["seed-0"]


def test_a_signal_after_a_loss_that_is_not_finite_saves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_trainer()
    step = run._train_step

    def then_a_signal(*arguments: Any) -> None:
        step(*arguments)
        if (run.epoch, run.step) == (1, 3):
            run.losses[1] = float("inf")
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(run, "_train_step", then_a_signal)
    with pytest.raises(TrainingError, match="not finite at step 5 of 12"):
        run_training(run, tmp_path, progress=False)
    content = load_checkpoint(tmp_path / "checkpoint.pt", run.fingerprint())
    assert (content["epoch"], content["step"]) == (1, 0)


def test_a_finished_run_is_taken_as_it_is(tmp_path: Path) -> None:
    result = ended(tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = run_training(new_trainer(epochs=1), tmp_path, resume=True, progress=False)
    assert again.metrics == result.metrics
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    tensors = weights_of(tmp_path)
    result.weights.unlink()
    assert run_training(new_trainer(epochs=1), tmp_path, resume=True, progress=False).metrics == result.metrics
    assert same(weights_of(tmp_path), tensors)


def test_the_average_is_the_exponential_mean_of_the_weights() -> None:
    run = new_trainer(average=0.5, epochs=1)  # 4 steps: a time constant of 2
    seen: list[torch.Tensor] = []
    step = run._train_step

    def keeping(*arguments: Any) -> None:
        step(*arguments)
        seen.append(run.model.classifiers[0].bias.detach().clone())  # type: ignore[index, union-attr]

    run._train_step = keeping  # type: ignore[method-assign]
    run.run_epoch(progress=False)
    expected = seen[0]
    for value in seen[1:]:
        expected = expected * np.exp(-0.5) + value * (1 - np.exp(-0.5))
    found = run.result.classifiers[0].bias  # type: ignore[index, union-attr]
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(found, run.model.classifiers[0].bias)  # type: ignore[index, union-attr]


@pytest.mark.slow
def test_measuring_on_the_way_changes_nothing_but_the_log(tmp_path: Path) -> None:
    ended(
        tmp_path / "plain",
    )
    run_training(new_trainer(), tmp_path / "measured", eval_every=2, progress=False)
    assert same(weights_of(tmp_path / "plain"), weights_of(tmp_path / "measured"))
    rows = [json.loads(line) for line in (tmp_path / "measured" / "metrics.jsonl").read_text().splitlines()]
    assert ["test_accuracy" in row for row in rows] == [False, True, False]
    with Image.open(tmp_path / "measured" / "curve.png") as picture:
        assert picture.size == (960, 432)


def test_the_log_and_metrics_jsonl_have_the_names_of_the_field(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "l2a_transfer")
    data = colours(32).holdout(8)
    run_training(new_trainer(data=data, epochs=1), tmp_path, eval_every=1, progress=False)
    (row,) = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert list(row) == [
        *("epoch", "resolution", "lr", "train_loss", "train_accuracy", "images_per_second", "mfu", "seconds"),
        "val_accuracy",
    ]
    (line,) = (record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch 1/1"))
    shown = dict(part.split(" ") for part in line.split("  ")[1:-1])  # without what is left
    assert list(shown) == ["train_loss", "train_accuracy", "val_accuracy", "lr", "images_per_second", "mfu"]
    assert all(
        float(value) == pytest.approx(row[key], rel=0.01, abs=0.51 if "per" in key else 0.006)
        for key, value in shown.items()
    )
    card = read_card(next(tmp_path.glob("*.safetensors")))
    assert list(card.metrics) == ["holdout-8-stratified_accuracy"]  # cards keep the split's name
    assert card.metrics["holdout-8-stratified_accuracy"]["value"] == row["val_accuracy"]


@pytest.mark.slow
def test_a_checkpoint_with_the_names_of_before_goes_on_under_the_new_ones(tmp_path: Path) -> None:
    data = colours(32).holdout(8)

    def new() -> Trainer:
        return new_trainer(data=data)

    stopped = new()
    row = stopped.run_epoch(progress=False)
    assert row is not None
    of_before = {"peak_share" if key == "mfu" else key: value for key, value in row.items()}
    stopped.history = [{**of_before, "holdout-8_accuracy": 0.25}]
    RunFolder.for_trainer(tmp_path, stopped).save(stopped)
    assert "peak_share" in (tmp_path / "metrics.jsonl").read_text()
    run_training(new(), tmp_path, resume=True, progress=False)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[0] == {**row, "val_accuracy": 0.25}
    assert ["mfu" in one for one in rows] == [True] * len(rows)
    assert not any(key.startswith(("peak", "holdout")) for one in rows for key in one)
    # The curve of a file that an earlier version wrote.
    assert learning_curve([{**of_before, "holdout-8_accuracy": 0.25}], "old").startswith(b"\x89PNG")


def test_seeds_are_trained_once_each_and_summed_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def new(seed: int) -> Trainer:
        return new_trainer(seed=seed, epochs=1)

    one = train_seeds(new, tmp_path, [0, 1], progress=False)
    first = (tmp_path / "seed-0" / "checkpoint.pt").stat().st_mtime_ns
    caplog.set_level("INFO", "l2a_transfer")
    three = train_seeds(new, tmp_path, [0, 1, 2], progress=False)
    assert (tmp_path / "seed-0" / "checkpoint.pt").stat().st_mtime_ns == first
    assert caplog.text.count("(already finished)") == 2
    assert three.values[:2] == one.values
    document = json.loads((tmp_path / "seeds.json").read_text())
    assert (document["n"], [run["seed"] for run in document["runs"]]) == (3, [0, 1, 2])
    with pytest.raises(TrainingError, match=r"made by another run \(recipe: "):
        train_seeds(lambda seed: new_trainer(seed=seed, epochs=2), tmp_path, [0], progress=False)
    with pytest.raises(ValueError, match="seeds must be distinct, such as"):
        train_seeds(new, tmp_path, [1, 1], progress=False)


def test_mean_and_spread_of_seeds_by_hand() -> None:
    found = SeedsResult("vgg.x-w003", "test_accuracy", (0, 1, 4), (0.9, 0.92, 0.94))
    assert (found.mean, found.std) == (pytest.approx(0.92), pytest.approx(0.02))
    assert found.summary().splitlines()[-1] == "test_accuracy 0.9200 ± 0.0200 (standard deviation), n = 3 seeds"
    held = SeedsResult("vgg.x-w003", "holdout-8-stratified_accuracy", (7,), (0.9,))
    assert held.summary().splitlines() == ["seed 7: val_accuracy 0.9000", "val_accuracy 0.9000, n = 1 seed"]
    assert held.to_json()["metric"] == "holdout-8-stratified_accuracy"
    one = SeedsResult("vgg.x-w003", "test_accuracy", (7,), (0.9,))
    assert one.to_json()["std"] is None
    assert one.summary().splitlines()[-1] == "test_accuracy 0.9000, n = 1 seed"


def test_starting_from_weights_of_another_class_count_and_size(tmp_path: Path) -> None:
    result = ended(tmp_path / "first", epochs=1)
    config = dataclasses.replace(CONFIG, num_classes=7, global_branch="always")
    model = build_model(config, seed=5)
    random = {key: value.clone() for key, value in model.state_dict().items()}
    start = start_from(model, str(result.weights))
    kept = [key for key in start.kept_random if not key.startswith("global_branch.")]
    assert kept == ["classifiers.0.weight", "classifiers.0.bias"]
    theirs = weights_of(tmp_path / "first")
    for key, value in model.state_dict().items():
        if key in start.kept_random:
            assert torch.equal(value, random[key])
        elif not key.endswith("num_batches_tracked"):
            assert torch.equal(value, theirs[key].float())
    with pytest.raises(
        TrainingError, match=r"do not fit: trunk\.0\.0\.0\.weight is \(2, 3, 3, 3\) there and \(4, 3, 3"
    ):
        start_from(build_model(dataclasses.replace(CONFIG, width=1 / 16)), str(result.weights))


def test_the_log_says_what_auto_chose(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "l2a_transfer")
    run = new_trainer(epochs=1, placement=Placement(device="cpu"))
    run_training(run, tmp_path, progress=False)
    assert f"precision {run.precision} (auto); 32 images, in memory" in caplog.text
    assert "epoch 1/1  train_loss" in caplog.text


def test_a_finetuned_card_says_what_it_started_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "l2a_transfer")
    first = ended(tmp_path / "first", epochs=1).weights
    run = new_trainer(epochs=1, init_from=str(first), resolutions=((0.0, 24),))
    card = read_card(run_training(run, tmp_path / "second", progress=False).weights)
    assert card.training["init_from"]["name"] == "vgg-att2-concat-pc.colours-w003"
    assert card.training["init_from"]["not_loaded"] == []
    assert (
        "initialised from vgg-att2-concat-pc.colours-w003; tensors not found there, which stay random: none"
        in caplog.text
    )
    assert card.preprocess.size == 24
    with pytest.raises(TrainingError, match=r"made by another run \(init_from: "):
        run_training(new_trainer(epochs=1, resolutions=((0.0, 24),)), tmp_path / "second", resume=True, progress=False)


@pytest.mark.slow
def test_training_on_a_folder_of_pictures_from_the_command_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, rows in (("train", 12), ("test", 4)):
        for k, name in enumerate(("red", "blue")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for row in range(rows):
                pixels = rng.integers(0, 80, (20, 30, 3), dtype=np.uint8)
                pixels[..., 2 * k] += 120
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{row}.png")
    photos = f"imagefolder:{tmp_path / 'photos'}"
    command = (
        "train",
        "--model",
        "vgg-att1-pc",
        "--width",
        "0.03125",
        "--data",
        photos,
        "--image-size",
        "16",
        "--batch-size",
        "6",
        "--epochs",
        "2",
        "--fit",
        "crop",
    )
    result = l2a(*command, "--out", tmp_path / "run", "--pixels", "stream", "--workers", "0")
    assert result.exit_code == 0, (result.output, result.exception)
    card = read_card(tmp_path / "run" / "vgg-att1-pc.photos-w003.safetensors")
    assert (card.classes, card.preprocess.fit, card.preprocess.size) == (("blue", "red"), "crop", 16)
    assert [row[1] for row in card.training["recipe"]["resolutions"]] == [8, 12, 16]
    memory = l2a(*command, "--out", tmp_path / "memory", "--pixels", "memory")
    assert memory.exit_code == 0, (memory.output, memory.exception)
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "memory"))


def test_the_command_with_seeds_and_bad_options(tmp_path: Path) -> None:
    arguments = (*COMMAND, "--data-dir", cifar(tmp_path), "--epochs", "1", "--device", "cpu")
    result = l2a(*arguments, "--out", tmp_path / "runs", "--seeds", "0,1")
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.stdout.splitlines()[-1].endswith("n = 2 seeds")
    assert next_steps(result.stderr) == [
        ["l2a-transfer", "extract", "--model", str(tmp_path / "runs"), "--data", "caltech-mini"]
        + ["--out", "features.h5"],
        ["l2a-transfer", "svm-eval", "features-seed-0.h5", "features-seed-1.h5", "--out", "report"],
    ]
    for options, code, words in (
        (["--seeds", "0,x"], 2, "--seeds must be integers"),
        (["--set", "epochs=2"], 2, "epochs is set twice"),
        (["--set", "cutout=1", "--set", "cutout=2"], 2, "cutout is set twice"),
        (["--image-size", "64", "--set", "resolutions=0:16"], 2, "--image-size sets resolutions"),
        (["--init-from", "pixels"], 2, "'pixels' is not a network"),
        (["--seeds", ""], 2, "--seeds must be integers"),
        (["--seeds", "0,-1"], 2, "seeds must be between 0 and 4294967295"),
        (["--init-from", ""], 2, "unknown model ''"),
        (["--data-dir", ""], 2, "an empty name"),
        (["--epochs", "1" + 400 * "0"], 2, "epochs must be at least 1, and at most a million"),
        (["--image-size", "1" + 400 * "0"], 2, "the image size must be between 8 and 512"),
        (["--set", "lrr=1"], 2, "did you mean 'lr'"),
        (["--pixels", "disk"], 2, "pixels must be one of auto, memory, stream"),
        (["--sync-batch-norm"], 1, "synchronised batch norm works only between GPUs"),
        (["--init-from", "untrained:vgg@0.0625"], 1, "its convolutions do not fit"),
        (["--image-size", "3"], 2, "the image size must be between 8 and 512 pixels for this recipe; got 3"),
        (["--set", "resolutions=0:16,0:32"], 2, "pairs of a rising fraction"),
        (["--resume", "--overwrite"], 2, "--resume and --overwrite cannot be used together"),
        (["--seed", "0", "--seeds", "1,2"], 2, "--seed and --seeds cannot be used together"),
        (["--data", "digits"], 1, "has no test split, only all; use --holdout N"),
        (["--data", "cifar10", "--data-dir", "nowhere"], 1, "no such folder"),
    ):
        assert_fails(l2a(*arguments, "--out", tmp_path / "never", *options), code, words)
        assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_a_batch_that_sixty_photos_do_not_fill_is_made_smaller_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(60):
        save_picture(tmp_path / "photos" / f"class {number % 20}" / f"{number}.jpg", seed=number)
    command = (
        "train",
        "--model",
        "vgg-att1-pc",
        "--width",
        "0.03125",
        "--data",
        f"imagefolder:{tmp_path / 'photos'}",
        "--recipe",
        "finetune",
        "--epochs",
        "1",
        "--image-size",
        "16",
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
        "--overwrite",
    )
    weights = tmp_path / "run" / "vgg-att1-pc.photos-w003.safetensors"

    def trained(*options: str) -> dict[str, Any]:
        caplog.clear()
        result = l2a(*command, *options)
        assert result.exit_code == 0, (result.output, result.exception)
        return read_card(weights).training

    card = trained("--holdout", "4")
    assert (card["n"], card["recipe"]["batch_size"], card["recipe"]["lr"]) == (56, 16, 0.005)
    assert card["lr"] == "0.005 = 0.02 × 16/64, scaled with the batch size"
    said = "batch size 16 instead of 64, because there are only 56 training images; set another with --batch-size"
    assert said in caplog.text
    assert "learning rate 0.005 = 0.02 × 16/64, scaled with the batch size; a value of --lr" in caplog.text
    card = trained("--holdout", "40", "--lr", "0.03")
    assert (card["recipe"]["batch_size"], card["recipe"]["lr"], "lr" in card) == (8, 0.03, False)
    card = trained("--holdout", "4", "--batch-size", "8")
    assert (card["recipe"]["batch_size"], card["recipe"]["lr"]) == (8, 0.0025)
    assert "instead of" not in caplog.text
    card = trained("--holdout", "4", "--set", "batch_size=8", "--set", "lr=0.02")
    assert (card["recipe"]["batch_size"], card["recipe"]["lr"], "lr" in card) == (8, 0.02, False)
    assert "scaled with the batch size" not in caplog.text
    assert_fails(
        l2a(*command, "--holdout", "4", "--batch-size", "57"),
        1,
        "larger than the 56 training images; use a smaller --batch-size",
    )


@pytest.mark.slow
def test_a_run_on_the_holdout_of_before_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*COMMAND, "--data-dir", cifar(tmp_path), "--epochs", "2", "--device", "cpu", "--holdout", "20")
    of_before = lambda source, given: TrainingData.from_source(source, holdout=given["holdout"], stratified=False)  # noqa: E731
    monkeypatch.setattr("l2a_transfer.cli.train._hold_out", of_before)
    for out in ("begun", "whole"):
        assert l2a(*arguments, "--out", tmp_path / out).exit_code == 0
    monkeypatch.undo()
    name = "vgg-att2-concat-uniform.cifar10-w003.safetensors"
    (tmp_path / "begun" / name).unlink()  # as a run has it that was killed before its end
    again = l2a(*arguments, "--out", tmp_path / "begun", "--resume")
    assert again.exit_code == 0, (again.output, again.exception)
    assert "n = 20, holdout-20)" in again.stdout
    assert same(weights_of(tmp_path / "begun"), weights_of(tmp_path / "whole"))
    (tmp_path / "whole" / "checkpoint.pt").unlink()  # the weights alone are that run too
    assert "n = 20, holdout-20)" in l2a(*arguments, "--out", tmp_path / "whole", "--resume").stdout
    new = l2a(*arguments, "--out", tmp_path / "whole", "--overwrite")
    assert re.search(r"^val_accuracy 0\.\d{4} \(n = 20, holdout-20-stratified\), ", new.stdout, re.MULTILINE)
    card = read_card(tmp_path / "whole" / name)
    assert card.training["split"] == "train without holdout-20-stratified"


@pytest.mark.slow
def test_a_run_begun_at_the_rate_of_another_batch_goes_on_at_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = (*COMMAND, "--data-dir", cifar(tmp_path), "--epochs", "2", "--device", "cpu", "--out", tmp_path / "run")
    weights = tmp_path / "run" / "vgg-att2-concat-uniform.cifar10-w003.safetensors"
    assert l2a(*arguments, "--lr", "0.2").exit_code == 0  # as every batch size had it before
    content = weights.read_bytes()
    weights.unlink()
    assert l2a(*arguments, "--resume").exit_code == 0
    assert "did not scale the learning rate with the batch size; it continues at 0.2" in caplog.text
    assert weights.read_bytes() == content
    assert l2a(*arguments, "--overwrite").exit_code == 0
    assert read_card(weights).training["recipe"]["lr"] == 0.2 * 8 / 128


def test_multiplications_by_hand() -> None:
    config = ModelConfig("vgg-att1-pc", num_classes=10, width=1 / 64)  # 1, 2, 4, 8 and 8 channels
    rows = 3 * 1 + 1 * 1 + 1 * 2 + 2 * 2 + 2 * 4 + 4 * 4 + 4 * 4  # conv1 to conv7, at full size
    half, quarter = 4 * 8 + 8 * 8 + 8 * 8, 3 * 8 * 8
    convolutions = 9 * (rows * 16 * 16 + half * 8 * 8 + quarter * 4 * 4)
    attention = 8 * 4 * 4  # the weighted sum; the scores, a matrix times a vector, are not counted
    assert macs(config, 16) == convolutions + attention + 8 * 10


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_matrix_peak_is_that_of_the_fastest_product(
    monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype
) -> None:
    """Four products of 8 × 8 matrices, 2 · 8³ = 1,024 operations each, that take 9, 4, 0.5 and 3 seconds."""
    clock = iter([0.0, 9.0, 10.0, 14.0, 20.0, 20.5, 30.0, 33.0])
    module = sys.modules[matrix_peak.__module__]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    products: list[tuple[torch.dtype, torch.Size]] = []
    multiply = torch.mm

    def counted(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        products.append((a.dtype, a.shape))
        return multiply(a, b, out=out)

    monkeypatch.setattr(torch, "mm", counted)
    assert matrix_peak(torch.device("cpu"), precision, side=8, repeats=3) == 1024 / 0.5
    assert products == [(dtype, torch.Size([8, 8]))] * 4


def test_what_torchrun_says() -> None:
    assert ProcessRank.from_environment({}) == ProcessRank()
    assert ProcessRank.from_environment({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == ProcessRank(3, 4, 1)
    on_two = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert ProcessRank.from_environment(on_two).on_machine == 2
    assert (ProcessRank().on_machine, ProcessRank(3, 4, 1).on_machine) == (1, 4)
    for environment in (
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "x", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3"},
    ):
        with pytest.raises(TrainingError, match="WORLD_SIZE"):
            ProcessRank.from_environment(environment)
    with pytest.raises(TrainingError, match="batch_size 8 cannot be shared by 3 processes"):
        new_trainer(placement=Placement(device="cpu", process=ProcessRank(0, 3)))


def test_the_others_are_waited_for_as_long_as_the_first_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    joined: dict[str, Any] = {}
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *_, **options: joined.update(options))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    with process_group(ProcessRank(0, 2), torch.device("cpu")):
        assert joined["store"].timeout == joined["timeout"] == COLLECTIVE_TIMEOUT


def test_processes_that_do_not_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for port, words in (
        ("x", "MASTER_PORT=x: invalid literal"),
        ("99999", "MASTER_PORT=99999: port must have"),
        (None, "MASTER_PORT=: .*MASTER_PORT expected, but not set"),
    ):
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        if port is None:
            monkeypatch.delenv("MASTER_PORT")
        else:
            monkeypatch.setenv("MASTER_PORT", port)
        with (
            pytest.raises(TrainingError, match=f"process 1 of 2 cannot find the others at .*{words}"),
            process_group(ProcessRank(1, 2), torch.device("cpu")),
        ):
            pass


def test_processes_that_would_not_train_the_same_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gathered(said: list[Any], own: dict[str, Any]) -> None:
        said[:] = [own, {**own, **theirs}]

    monkeypatch.setattr("torch.distributed.all_gather_object", gathered)
    run = new_trainer(epochs=1, placement=dataclasses.replace(CPU, process=ProcessRank(1, 2)))
    theirs: dict[str, Any] = {}
    for other, words in (
        ({"position": "epoch 2, step 0"}, "position: epoch 2, step 0 there, epoch 0, step 0 here"),
        ({"data": "0"}, "data: 0 there, "),
        ({"precision": "bf16"}, "precision: bf16 there, fp32 here"),
    ):
        theirs = other
        with pytest.raises(TrainingError, match=rf"process 1 \(there\) and process 0 \(here\) do not train .*{words}"):
            run_training(run, tmp_path, progress=False)
    theirs = {}
    monkeypatch.setattr(run, "run_epoch", lambda **_: sys.exit(9))
    with pytest.raises(SystemExit):
        run_training(run, tmp_path, progress=False)


def test_options_are_looked_at_before_other_processes_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("l2a_transfer.training.processes.rendezvous", lambda *_, **__: pytest.fail("it waits"))
    for options, words in ((["--epochs", "0"], "epochs must be"), (["--model", "vggg"], "did you mean 'vgg'")):
        assert_fails(l2a(*COMMAND, "--out", tmp_path / "run", *options), 2, words)


@pytest.mark.slow
def test_training_in_bf16(tmp_path: Path) -> None:
    run = new_trainer(placement=Placement(device="cpu", precision="bf16"))
    run_training(run, tmp_path, progress=False)
    whole = new_trainer()
    whole.run_epoch(progress=False)
    there, here = run.history[0]["train_loss"], whole.losses.mean().item()
    assert there == pytest.approx(here, rel=0.05)
    assert there != here
    assert all(value.dtype == torch.float32 for value in run.model.parameters())
    (weights,) = tmp_path.glob("*.safetensors")
    assert read_card(weights).training["precision"] == "bf16"


@pytest.mark.slow
def test_compiled_training_takes_the_same_steps(tmp_path: Path) -> None:
    data = cifar(tmp_path, rows=16)
    losses = []
    for name, options in (("plain", []), ("compiled", ["--compile"])):
        command = [*COMMAND, "--data-dir", str(data), "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / name)]
        command += ["--precision", "fp32"]
        subprocess.run([sys.executable, "-m", "l2a_transfer", "-q", *command, *options], check=True, timeout=400)
        losses.append(torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["losses"])
    torch.testing.assert_close(losses[1][0], losses[0][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses[1][:3], losses[0][:3], rtol=1e-3, atol=0)  # sums in another order go apart later


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_never_makes_the_host_wait(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_trainer(average=0.2, placement=Placement(device="cuda", precision=precision))
    run.run_epoch(progress=False)  # what is allocated and chosen once may wait
    step, check = run._train_step, run._check_state

    def watched(*arguments: Any) -> None:
        torch.cuda.set_sync_debug_mode("error")
        step(*arguments)

    def unwatched() -> None:
        torch.cuda.set_sync_debug_mode("default")
        check()

    monkeypatch.setattr(run, "_train_step", watched)
    monkeypatch.setattr(run, "_check_state", unwatched)
    try:
        run.run_epoch(progress=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_losses_are_seen_one_look_late_on_a_gpu() -> None:
    losses = torch.arange(4.0, device="cuda")
    watch = LossMonitor(losses)
    assert len(watch.read(2)) == 0
    torch.cuda.synchronize()
    assert watch.read(4).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("amx", "avx512", "vendor", "expected"),
    [
        (True, False, "GenuineIntel", "bf16"),
        (False, True, "GenuineIntel", "fp32"),
        (False, True, "AuthenticAMD", "bf16"),
        (False, False, "AuthenticAMD", "fp32"),
    ],
)
def test_precision_auto_on_a_cpu_is_bf16_where_it_is_faster(
    amx: bool, avx512: bool, vendor: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert fast_bf16(torch.device("cpu"), tmp_path) == (expected == "bf16")
    monkeypatch.setattr(devices, "fast_bf16", lambda device: expected == "bf16")
    assert training_precision("auto", torch.device("cpu")) == expected
    assert training_precision("fp32", torch.device("cpu")) == "fp32"


TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "l2a_transfer",
]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["vgg-att2-concat-uniform", "vgg-att2-concat-uniform-co"])
def test_two_processes_take_the_steps_of_one_that_normalises_each_half_by_itself(
    tmp_path: Path, architecture: str
) -> None:
    data = cifar(tmp_path, rows=5)  # 25 images: 3 steps of 8
    options = [*COMMAND[1:], "--data-dir", str(data), "--epochs", "1", "--device", "cpu", "--set", "label_smoothing=0"]
    options += ["--global-branch", "always", "--precision", "fp32"]  # parameters that get no gradient
    options += ["--model", architecture]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*TORCHRUN, "-q", "train", *options, "--out", str(tmp_path / "run")], check=True, timeout=200, env=environment
    )
    two = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    recipe = TrainConfig.from_json(json.loads(two["fingerprint"]["recipe"]))
    source = TrainingData.from_source(open_source("cifar10", data_dir=data))
    config = ModelConfig(architecture, width=1 / 32, global_branch="always")
    trainer = Trainer(config, recipe, source, placement=CPU)
    plan = plan_for(trainer.config, source.train, trainer.recipe, seed=0, epoch=0)
    size = trainer.recipe.resolution(0)
    halves = [
        list(
            augmented_batches(
                trainer.pixels,
                plan.part(0, rank, 2),
                trainer.recipe,
                trainer.preprocess,
                size=size,
                device=torch.device("cpu"),
            )
        )
        for rank in range(2)
    ]
    model = trainer.model.train()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the two processes: sums in another order differ in the last bits
    try:
        for step in range(3):
            for group in trainer.optimizer.param_groups:
                group["lr"] = trainer.recipe.learning_rate(step, 3)
            trainer.optimizer.zero_grad()
            for images, labels in (half[step] for half in halves):
                (F.cross_entropy(model.attend_group(images).logits, labels) / 2).backward()
            trainer.optimizer.step()
    finally:
        torch.set_num_threads(threads)
    parameters = dict(model.named_parameters())
    assert parameters
    for name, value in parameters.items():
        torch.testing.assert_close(two["model"][name], value.detach(), rtol=1e-6, atol=1e-6)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 1


@pytest.mark.slow
def test_two_processes_go_on_come_to_the_end_and_train_seeds(tmp_path: Path) -> None:
    data = cifar(tmp_path, rows=5)
    command = [
        *TORCHRUN,
        "train",
        *COMMAND[1:],
        "--data-dir",
        str(data),
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "run"),
    ]
    # Ranks must not finalize Python, because gloo's threads may then abort them: here, finalizing always aborts.
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os\nif 'RANK' in os.environ:\n    atexit.register(os.abort)\n"
    )
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *options], timeout=200, env=environment, capture_output=True, text=True)

    first = run("--epochs", "1")
    assert first.returncode == 0, first.stderr
    again = run("--epochs", "1", "--resume")
    assert again.stdout == first.stdout
    another = run("--epochs", "2", "--resume")
    assert another.returncode != 0
    assert "made by another run (recipe: epochs 1 there, 2 here)" in another.stderr
    seeds = run("--epochs", "1", "--seeds", "0,1")
    assert seeds.returncode == 0, seeds.stderr
    assert seeds.stdout.splitlines()[-1].endswith("n = 2 seeds")


@pytest.mark.slow
def test_a_process_that_dies_ends_them_all(tmp_path: Path) -> None:
    data = cifar(tmp_path, rows=400)
    command = [*TORCHRUN, "-q", *COMMAND, "--data-dir", str(data), "--epochs", "500", "--out", str(tmp_path / "run")]
    said = tmp_path / "said"
    with open(said, "w") as file:
        child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoint.pt").exists():
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.1)
        workers = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        os.kill(int(workers[-1]), signal.SIGKILL)
        assert child.wait(timeout=120) != 0
    finally:
        child.kill()
        child.wait()
    assert "exitcode" in said.read_text()
    assert not list((tmp_path / "run").glob("*.safetensors"))
    torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
