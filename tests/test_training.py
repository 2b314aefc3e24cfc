"""Training: the recipe's numbers, a run that learns, exact resume, and runs that must not start."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import shlex
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
from safetensors.torch import load_file

from l2a_transfer.data.augment import cutout, flip, reflect_crop, resize
from l2a_transfer.data.cifar import read_cifar
from l2a_transfer.data.sources import join_splits
from l2a_transfer.errors import DataError, DeviceError, MemoryLimitError, TrainingError, UnknownNameError
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.objectives import StepLoss
from l2a_transfer.models.weights import read_card
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.training import run_folder as folder_module
from l2a_transfer.training.accuracy import evaluate
from l2a_transfer.training.checkpoint import load_checkpoint
from l2a_transfer.training.data import Pixels, ResidentPixels, StreamedPixels, TrainingData, open_pixels, read_pixels
from l2a_transfer.training.epochs import EpochPlan, augmented_batches, plan_epoch, stream_seed
from l2a_transfer.training.processes import Placement
from l2a_transfer.training.recipe import RECIPES, TrainConfig, find_recipe, scaled_rate
from l2a_transfer.training.runs import TrainResult, run_training
from l2a_transfer.training.trainer import Trainer
from tests.conftest import assert_fails, l2a

pytestmark = pytest.mark.usefixtures("curves_drawn_once")

RECIPE = TrainConfig("short", epochs=3, batch_size=8, lr=0.1, dropout=1.0, resolutions=((0.0, 16),))
CONFIG = ModelConfig("vgg-att2-concat-pc", num_classes=4, width=1 / 32)


def colours(rows: int, seed: int = 0) -> TrainingData:
    """Four classes that colour tells apart, with noise."""
    rng = np.random.default_rng(seed)

    def images(n: int) -> tuple[Any, Any]:
        labels = (np.arange(n) % 4).astype(np.int32)
        base = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]])[labels]
        noisy = base[:, None, None] + rng.normal(0, 40, (n, 16, 16, 3))
        return noisy.clip(0, 255).astype(np.uint8), labels

    return TrainingData.from_source(join_splits("colours", "rgby", {"train": images(rows), "test": images(40)}))


CPU = Placement(device="cpu", precision="fp32")


def new_trainer(
    data: TrainingData | None = None,
    *,
    seed: int = 0,
    placement: Placement = CPU,
    init_from: str | None = None,
    **recipe: Any,
) -> Trainer:
    made = dataclasses.replace(RECIPE, **recipe)
    return Trainer(CONFIG, made, data or colours(32), seed=seed, placement=placement, init_from=init_from)


ENDED: dict[object, tuple[TrainResult, dict[str, bytes]]] = {}


def ended(out: Path, **recipe: Any) -> TrainResult:
    """A run of `new_trainer(**recipe)` that has ended, in `out`: trained once for each recipe, then copied."""
    key = tuple(sorted(recipe.items()))
    if key not in ENDED:
        result = run_training(new_trainer(**recipe), out, progress=False)
        ENDED[key] = result, {path.name: path.read_bytes() for path in out.iterdir()}
        return result
    result, files = ENDED[key]
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    return dataclasses.replace(result, weights=out / result.weights.name)


def test_the_one_cycle_rate() -> None:
    recipe = TrainConfig(lr=0.2, warmup=0.2)
    rates = [recipe.learning_rate(step, 100) for step in (0, 10, 20, 60, 99)]
    assert rates == pytest.approx([0.02, 0.11, 0.2, 0.1, 0.0025])


def test_the_fast_recipe_grows_its_pictures() -> None:
    sizes = [RECIPES["fast"].resolution(epoch) for epoch in range(14)]
    assert sizes == [16] * 4 + [24] * 4 + [32] * 6
    for epochs, expected in ((1, [32]), (2, [16, 32]), (3, [16, 24, 32])):
        few = dataclasses.replace(RECIPES["fast"], epochs=epochs)
        assert [few.resolution(epoch) for epoch in range(epochs)] == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("lr", -0.1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("warmup", 1.0),
        ("label_smoothing", 1.0),
        ("crop_pad", 16),
        ("dropout", 1.5),
        ("cutout", 17),
        ("average", 2.0),
        ("nesterov", True),
        ("step_epochs", 0),
        ("step_factor", 0.0),
        ("resolutions", ()),
        ("resolutions", ((0.5, 32),)),
        ("resolutions", ((0.0, 2),)),
    ],
)
def test_a_recipe_names_the_field_that_is_wrong(field: str, value: Any) -> None:
    others = {"momentum": 0.0} if field == "nesterov" else {}
    with pytest.raises(ValueError, match=f"^{field} must be "):
        dataclasses.replace(RECIPE, **{field: value}, **others)


def test_the_step_schedule_halves_every_25_epochs() -> None:
    recipe = RECIPES["paper"]
    rates = [recipe.learning_rate(epoch * 10, 3000) for epoch in (0, 24, 25, 49, 50, 299)]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.1 / 2**11])
    assert (recipe.epochs, recipe.momentum, recipe.nesterov, recipe.weight_decay) == (300, 0.9, False, 5e-4)
    assert (recipe.flip, recipe.crop_pad, recipe.cutout, recipe.dropout, recipe.average) == (True, 0, 0, 1.0, 0.0)


def test_a_recipe_knows_its_epochs_for_a_data_set() -> None:
    assert [find_recipe("fast", data).epochs for data in ("cifar10", "cifar100", "imagefolder:x")] == [14, 24, 14]


def test_settings_of_a_recipe() -> None:
    recipe = RECIPE.with_settings(["lr=0.3", "flip=false", "epochs=5", "resolutions=0:8,0.5:24", "schedule=step"])
    assert (recipe.lr, recipe.flip, recipe.epochs, recipe.schedule) == (0.3, False, 5, "step")
    assert recipe.resolutions == ((0.0, 8), (0.5, 24))
    assert RECIPE.with_settings([]) == RECIPE
    kept = json.loads(json.dumps(recipe.to_json()))
    assert TrainConfig.from_json(kept) == recipe
    del kept["average"]  # a card of before there was averaging
    assert TrainConfig.from_json(kept) == recipe
    for setting, words in (
        ("lr", r"FIELD=VALUE, such as lr=0\.1; got 'lr'"),
        ("lrr=1", "did you mean 'lr'"),
        ("lr=fast", "lr must be a number; got 'fast'"),
        ("flip=yes", "flip must be true or false; got 'yes'"),
        ("epochs=1.5", r"epochs must be an integer; got '1\.5'"),
        ("resolutions=32", "resolutions must be pairs like 0:16,0.5:32; got '32'"),
        ("schedule=cosine", "schedule must be one of one-cycle, step"),
    ):
        with pytest.raises(ValueError, match=words):
            RECIPE.with_settings([setting])


def test_a_recipe_at_another_size_keeps_its_proportions() -> None:
    recipe = dataclasses.replace(RECIPES["fast"], cutout=8).at_size(80)
    assert recipe.resolutions == ((0.0, 40), (0.286, 60), (0.572, 80))
    assert (recipe.crop_pad, recipe.cutout) == (5, 20)


def test_a_recipe_at_another_batch_size_scales_its_rate() -> None:
    fast = RECIPES["fast"]
    assert (fast.at_batch(4).lr, fast.at_batch(512).lr) == (0.00625, 0.8)
    assert fast.at_batch(128) is fast  # the recipe's own batch: the same run as ever, to the bit
    assert RECIPES["finetune"].at_batch(16).lr == 0.005
    assert dataclasses.replace(fast.at_batch(4), batch_size=128, lr=0.2) == fast  # nothing else changes
    assert scaled_rate(fast.at_batch(32)) == "0.2 × 32/128"
    for recipe in (fast, dataclasses.replace(fast, batch_size=32), dataclasses.replace(fast.at_batch(32), name="own")):
        assert scaled_rate(recipe) is None


@pytest.mark.parametrize(
    ("images", "processes", "batch"),
    [
        (64, 1, 64),
        (63, 1, 16),
        (56, 1, 16),
        (32, 1, 16),
        (31, 1, 8),
        (5, 1, 2),
        (3, 1, 2),
        (2, 1, 2),
        (56, 2, 16),
        (56, 3, 15),
        (9, 3, 6),
    ],
)
def test_few_images_make_a_batch_that_they_fill(images: int, processes: int, batch: int) -> None:
    found = RECIPES["finetune"].fitting(images, processes=processes)
    assert (found.batch_size, found.lr) == (batch, 0.02 * batch / 64)
    assert RECIPES["finetune"].fitting(images, processes=processes, scale=False).lr == 0.02


def test_too_few_images_for_any_batch() -> None:
    for images, processes in ((1, 1), (5, 3)):
        with pytest.raises(TrainingError, match=f"batch of {processes} process(es)? needs .* there (is|are) {images}"):
            RECIPES["finetune"].fitting(images, processes=processes)


def test_an_unknown_recipe() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'fast'"):
        find_recipe("fasst")


def test_flip_mirrors_the_images_it_is_told_to() -> None:
    images = torch.arange(4.0).expand(3, 1, 2, 4)
    flipped = flip(images, torch.tensor([True, False, True]))
    assert flipped[:, 0, 0].tolist() == [[3, 2, 1, 0], [0, 1, 2, 3], [3, 2, 1, 0]]


def test_crop_shifts_and_reflects() -> None:
    images = torch.arange(5).expand(5, 1, 5, 5)  # each row is 0 1 2 3 4
    shift = torch.tensor([[0, -2], [0, -1], [0, 0], [0, 1], [0, 2]])
    rows = reflect_crop(images, shift)[:, 0, 0].tolist()
    assert rows == [[2, 1, 0, 1, 2], [1, 0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 3], [2, 3, 4, 3, 2]]
    down = reflect_crop(images.transpose(2, 3), shift.flip(1))[:, 0, :, 0].tolist()
    assert down == rows


def test_cutout_fills_a_square_and_stops_at_the_border() -> None:
    images = torch.full((2, 3, 4, 4), 9, dtype=torch.uint8)
    cut = cutout(images, torch.tensor([[1, 2], [0, 0]]), 2, torch.tensor([1.0, 2.0, 3.0]))
    assert cut[0, 1].tolist() == [[9, 2, 2, 9], [9, 2, 2, 9], [9, 9, 9, 9], [9, 9, 9, 9]]
    assert cut[1, 2].tolist() == [[3, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9]]
    assert cut.dtype == torch.uint8


def test_resize_keeps_the_mean() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert resize(images, 16).mean().item() == pytest.approx(images.mean().item(), abs=2e-3)
    assert resize(images, 32) is images


def epoch(pixels: Pixels, plan: EpochPlan, recipe: TrainConfig = RECIPE) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(augmented_batches(pixels, plan, recipe, Preprocess(size=16), size=16, device=torch.device("cpu")))


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    data = colours(32)
    pixels = open_pixels(data.train, Preprocess(size=16), torch.device("cpu"))
    recipe = dataclasses.replace(RECIPE, cutout=4)

    def batches(seed: int, number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return epoch(pixels, plan_epoch(32, recipe, seed=seed, epoch=number), recipe)

    one, again = batches(0, 1), batches(0, 1)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, again, strict=True))
    for other in (batches(0, 2), batches(1, 1)):
        assert not torch.equal(one[0][0], other[0][0])
    assert sorted(torch.cat([y for _, y in one]).tolist()) == sorted(data.train.labels.tolist())
    assert [len(y) for _, y in one] == [8, 8, 8, 8]


def test_the_draws_of_an_epoch_spread_over_their_ranges() -> None:
    plan = plan_epoch(4000, dataclasses.replace(RECIPE, crop_pad=2), seed=3, epoch=0)
    assert sorted(plan.rows.ravel().tolist()) == list(range(4000))
    assert set(plan.shifts.unique().tolist()) == {-2, -1, 0, 1, 2}
    assert 1800 < plan.mirrored.sum().item() < 2200
    assert set(plan.centres.unique().tolist()) == set(range(16))


def test_a_part_of_an_epoch_is_what_the_whole_has_there() -> None:
    pixels = open_pixels(colours(32).train, Preprocess(size=16), torch.device("cpu"))
    plan = plan_epoch(32, RECIPE, seed=0, epoch=0)
    whole = epoch(pixels, plan)
    first, second = (epoch(pixels, plan.part(2, rank, 2)) for rank in range(2))
    for (images, labels), a, b in zip(whole[2:], first, second, strict=True):
        assert torch.equal(images, torch.cat([a[0], b[0]]))
        assert torch.equal(labels, torch.cat([a[1], b[1]]))


def test_seeds_for_different_purposes_have_nothing_in_common() -> None:
    seeds = [stream_seed(what, a, b) for what in ("epoch", "dropout") for a in range(10) for b in range(10)]
    assert len(set(seeds)) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_are_those_of_memory(workers: int) -> None:
    data, plan = colours(32), plan_epoch(32, RECIPE, seed=0, epoch=0)
    made: list[Pixels] = [
        kind(data.train, Preprocess(size=16), torch.device("cpu"), workers=workers)
        for kind in (ResidentPixels, StreamedPixels)
    ]
    one, other = (epoch(pixels, plan) for pixels in made)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True))


def test_pixels_are_streamed_where_memory_cannot_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    data, device = colours(32), torch.device("cpu")
    needed = 32 * 3 * 16 * 16
    for free, kind in ((2 * needed, ResidentPixels), (2 * needed - 2, StreamedPixels)):
        monkeypatch.setattr("l2a_transfer.training.data.free_memory", lambda device, free=free: free)
        assert isinstance(open_pixels(data.train, Preprocess(size=16), device), kind)
    monkeypatch.setattr("l2a_transfer.memory.usable_memory", lambda: needed - 1)
    with pytest.raises(MemoryLimitError, match=r"32 images of 16 × 16 pixels in memory needs about 1 MiB.*stream"):
        open_pixels(data.train, Preprocess(size=16), device, place="memory")
    with pytest.raises(UnknownNameError, match="did you mean 'memory'"):
        open_pixels(data.train, Preprocess(size=16), device, place="memry")


def test_pixels_of_another_size_are_resized_as_everywhere() -> None:
    source = colours(8).train
    expected = np.stack([Preprocess(size=24).pixels(source.image(row)) for row in range(8)])
    np.testing.assert_array_equal(read_pixels(source, Preprocess(size=24)), expected)
    plain = np.stack([np.asarray(source.image(row)).transpose(2, 0, 1) for row in range(8)])
    np.testing.assert_array_equal(read_pixels(source, Preprocess(size=16)), plain)


def test_it_learns_and_the_card_says_what_ran(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=8, lr=0.05, dropout=0.0)
    run = Trainer(dataclasses.replace(CONFIG, width=1 / 16), recipe, colours(128), placement=CPU)
    result = run_training(run, tmp_path / "run", progress=False)
    accuracy = result.metrics["test_accuracy"]
    assert accuracy["value"] >= 0.9
    assert (accuracy["n"], accuracy["seeds"]) == (40, 1)
    assert result.weights.name == "vgg-att2-concat-pc.colours-w006.safetensors"
    card = read_card(result.weights)
    assert card.metrics == result.metrics
    assert card.classes == ("r", "g", "b", "y")
    assert card.training["recipe"]["epochs"] == 8
    assert (card.training["n"], card.training["seed"], card.training["precision"]) == (128, 0, "fp32")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("moment", ["in an epoch", "while saving"])
def test_an_interrupted_run_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    run_training(new_trainer(), tmp_path / "whole", progress=False)
    calls = 0
    last = 7 if moment == "in an epoch" else 3

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == last:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    owner: Any = Trainer if moment == "in an epoch" else folder_module
    name = "_train_step" if moment == "in an epoch" else "save_checkpoint"
    original = getattr(owner, name)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_training(new_trainer(), tmp_path / "cut", progress=False)
    assert not list((tmp_path / "cut").glob("*.safetensors"))
    run_training(new_trainer(), tmp_path / "cut", resume=True, progress=False)
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut"))
    rows = [json.loads(line)["epoch"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2, 3]


def test_seeds_differ(tmp_path: Path) -> None:
    for seed in (0, 1):
        run_training(new_trainer(seed=seed, epochs=1), tmp_path / str(seed), progress=False)
    assert not same(weights_of(tmp_path / "0"), weights_of(tmp_path / "1"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_training_leaves_the_global_random_state_alone(tmp_path: Path, workers: int) -> None:
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    placement = dataclasses.replace(CPU, pixels="stream", workers=workers)
    run_training(new_trainer(epochs=1, placement=placement), tmp_path / "run", progress=False)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_loss_that_is_not_finite_stops_with_step_and_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_trainer(epochs=2)
    losses, objective = iter(range(100)), run.objective

    def explodes(*arguments: Any, **options: Any) -> StepLoss:
        found = objective.loss(*arguments, **options)
        return dataclasses.replace(found, loss=found.loss * (float("nan") if next(losses) >= 5 else 1.0))

    monkeypatch.setattr(run, "objective", SimpleNamespace(loss=explodes))
    with pytest.raises(
        TrainingError,
        match=r"loss is not finite at step 5 of 8 \(epoch 2\), at a learning rate of 0\.\d+; "
        r".*checkpoint\.pt has the state after epoch 1, step 0; start again with a smaller `lr` and another `out`",
    ):
        run_training(run, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "checkpoint.pt").exists()


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_trainer(epochs=2)
    step = run._train_step

    def explodes(*arguments: Any) -> None:
        step(*arguments)
        if run.epoch == 1 and run.step == run.steps_per_epoch:  # no loss comes after it
            next(run.model.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(run, "_train_step", explodes)
    with pytest.raises(
        TrainingError, match=r"weights are not finite after step 7 of 8 .* has the state after epoch 1, step 0"
    ):
        run_training(run, tmp_path, progress=False)
    assert load_checkpoint(tmp_path / "checkpoint.pt", run.fingerprint())["epoch"] == 1
    assert not list(tmp_path.glob("*.safetensors"))


def test_runs_that_must_not_start() -> None:
    with pytest.raises(
        TrainingError, match=r"batch_size 64 is larger than the 32 training images; use a smaller `batch_size`"
    ):
        new_trainer(batch_size=64)
    with pytest.raises(TrainingError, match="the model has 3 classes, but colours has 4"):
        Trainer(ModelConfig("vgg-att1-pc", num_classes=3, width=1 / 32), RECIPE, colours(32))
    with pytest.raises(TrainingError, match="vgg needs images of at least 16 pixels, but the recipe has 8"):
        Trainer(
            ModelConfig("vgg", num_classes=4, width=1 / 32),
            dataclasses.replace(RECIPE, resolutions=((0.0, 8),)),
            colours(32),
        )
    pictures, labels = np.zeros((4, 16, 16, 3), np.uint8), np.arange(4, dtype=np.int32)
    unseen = join_splits("colours", "rgby", {"train": (pictures, labels % 3), "test": (pictures, labels)})
    with pytest.raises(TrainingError, match="classes in test without a training image: y"):
        TrainingData.from_source(unseen)
    with pytest.raises(TrainingError, match="x: needs at least two classes, has 1"):
        TrainingData.from_source(
            join_splits("x", "r", {"train": (pictures, labels * 0), "test": (pictures, labels * 0)})
        )
    with pytest.raises(TrainingError, match="train/00002 has no label"):
        TrainingData.from_source(
            join_splits("x", "rg", {"train": (pictures, np.array([0, 1, -1, 1])), "test": (pictures, labels % 2)})
        )
    alone = join_splits("alone", "rgby", {"all": (pictures, labels)})
    with pytest.raises(TrainingError, match=r"alone: has no test split, only all; use `holdout=N` to test on N"):
        TrainingData.from_source(alone)
    with pytest.raises(TrainingError, match=r"has no split called train; its splits are val, test"):
        TrainingData.from_source(join_splits("x", "rgby", {"val": (pictures, labels), "test": (pictures, labels)}))
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="'cuda' was requested"):
            new_trainer(placement=Placement(device="cuda"))


def test_the_holdout_takes_training_images_only_and_always_the_same() -> None:
    data = colours(32)
    held = data.holdout(8)
    assert (len(held.train), len(held.test), held.test_name) == (24, 8, "holdout-8-stratified")
    assert set(held.train.ids) | set(held.test.ids) == set(data.train.ids)
    assert not set(held.train.ids) & set(held.test.ids)
    assert held.test.ids == data.holdout(8).test.ids
    with pytest.raises(TrainingError, match="between 1 and 28 images, so that each class keeps one"):
        data.holdout(29)


def of_classes(*counts: int) -> TrainingData:
    """As many training images of each class, all of them black."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    pictures = np.zeros((len(labels), 16, 16, 3), np.uint8)
    part = join_splits("black", [f"c{i}" for i in range(len(counts))], {"train": (pictures, labels)})
    return TrainingData("black", part.classes, part, part)


def held_of(data: TrainingData) -> list[int]:
    return np.bincount(data.test.labels, minlength=len(data.classes)).tolist()


@pytest.mark.parametrize(
    ("counts", "n", "held"),
    [
        ((8, 8, 8, 8), 8, [2, 2, 2, 2]),
        ((10, 20, 30), 6, [1, 2, 3]),
        ((3, 30), 11, [1, 10]),
        ((1, 9), 5, [0, 5]),  # half of one image rounds to none, because that class has no other
        ((1, 1, 4), 3, [0, 0, 3]),
        ((2, 2, 2), 3, [1, 1, 1]),
        ((90, 10), 1, [1, 0]),
    ],
)
def test_each_class_gives_its_share_of_the_holdout(counts: tuple[int, ...], n: int, held: list[int]) -> None:
    assert held_of(of_classes(*counts).holdout(n)) == held


def test_half_of_three_images_a_class_can_be_held_out() -> None:
    held = of_classes(*[3] * 30).holdout(45)
    assert sorted(held_of(held)) == [1] * 15 + [2] * 15
    assert np.bincount(held.train.labels).min() == 1
    assert held_of(held)[:15] != [2] * 15  # chance says which classes give two, not their order
    few = of_classes(*[3] * 30).holdout(4)
    assert sum(held_of(few)) == 4
    assert max(held_of(few)) == 1
    with pytest.raises(TrainingError, match="no class has more than one image"):
        of_classes(1, 1).holdout(1)


def test_the_holdout_of_before_can_still_be_drawn() -> None:
    held = colours(32).holdout(8, stratified=False)
    order = np.random.default_rng(20180217).permutation(32)
    assert held.test_name == "holdout-8"
    assert held.test.ids == tuple(f"train/{row:05d}" for row in sorted(order[:8]))


def test_accuracy_by_hand() -> None:
    class Bright(torch.nn.Module):
        """Class 0 for a bright red channel, class 1 for a dark one."""

        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            red = images[:, 0].mean(dim=(1, 2))
            return torch.stack([red, -red], dim=1)

    pictures = np.zeros((5, 16, 16, 3), np.uint8)
    pictures[[1, 3], ..., 0] = 255
    labels = np.array([1, 0, 1, 2, 0], np.int32)  # bright is class 0, dark class 1: rows 0, 1 and 2 are right
    source = join_splits("x", "rgby", {"test": (pictures, labels)})
    preprocess = Preprocess(size=16, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    for batch_size in (2, 5, 250):
        assert evaluate(Bright(), source, preprocess, batch_size=batch_size) == 3 / 5


def test_evaluate_gives_the_mode_back() -> None:
    run = new_trainer()
    for mode in (True, False):
        run.model.train(mode)
        evaluate(run.model, run.data.test, run.preprocess, batch_size=7)
        assert run.model.training is mode


def cifar(root: Path, rows: int = 16) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels = rng.integers(0, 256, (rows, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": [i % 10 for i in range(rows)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"c%d" % i for i in range(10)]}))
    return root


class Hostile:
    """Unpickled by a careless reader, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_calls_something_is_refused_unread(tmp_path: Path) -> None:
    path = cifar(tmp_path) / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(pickle.dumps({b"data": Hostile(tmp_path / "owned")}))
    with pytest.raises(DataError, match=r"data_batch_3: .* which no CIFAR file needs"):
        read_cifar("cifar10", tmp_path, "train")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a CIFAR file, or corrupt"),
        (pickle.dumps([1]), "expected a dictionary of lists and arrays"),
        (pickle.dumps({b"labels": [1]}), "'data' must be uint8 rows of 3,072"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}), "one label for each of its 2"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}), "between 0 and 9"),
    ],
)
def test_damaged_cifar_files(tmp_path: Path, content: bytes, words: str) -> None:
    path = cifar(tmp_path) / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_cifar("cifar10", tmp_path, "test")


def test_a_pickle_of_an_old_python_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pickle.dump({b"data": np.ones((2, 3072), np.uint8), b"labels": [3, 4]}, buffer, protocol=2)
    (cifar(tmp_path) / "cifar-10-batches-py" / "test_batch").write_bytes(buffer.getvalue())
    images, labels, _ = read_cifar("cifar10", tmp_path, "test")
    assert (images.shape, labels.tolist()) == ((2, 3, 32, 32), [3, 4])


COMMAND = (
    "train",
    "--model",
    "vgg-att2-concat-uniform",
    "--data",
    "cifar10",
    "--width",
    "0.03125",
    "--batch-size",
    "8",
)


def next_steps(stderr: str) -> list[list[str]]:
    """The commands that `train` prints at its end."""
    return [shlex.split(line) for line in stderr.split("\nNext:\n")[1].splitlines()]


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = (*COMMAND, "--data-dir", cifar(tmp_path), "--out", out, "--epochs", "1")
    result = l2a(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    weights = out / "vgg-att2-concat-uniform.cifar10-w003.safetensors"
    assert result.stdout.splitlines()[-1] == str(weights)
    assert next_steps(result.stderr) == [
        ["l2a-transfer", "extract", "--model", str(weights), "--data", "caltech-mini", "--out", "features.h5"],
        ["l2a-transfer", "svm-eval", "features.h5", "--out", "report"],
    ]
    assert "(n = 16)" in result.stdout
    assert_fails(l2a(*arguments), 1, str(out), "--resume")
    quiet = l2a("--quiet", *arguments, "--resume")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    card = read_card(weights)
    assert (card.config.width, card.training["n"]) == (0.03125, 80)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--epochs", "0"], 2, "epochs must be at least 1"),
        (["--lr", "-1"], 2, "lr must be above 0"),
        (["--batch-size", "500"], 1, "batch_size 500 is larger than the 80 training images"),
        (["--recipe", "fsat"], 2, "did you mean 'fast'"),
        (["--holdout", "80"], 1, "holdout must be between 1 and 70"),
        (["--model", "vgg-att2-conct-pc"], 2, "did you mean 'vgg-att2-concat-pc'"),
        (["--normalizer", "softmx"], 2, "did you mean 'softmax'"),
        (["--data", "cifar01"], 2, "did you mean 'cifar10'"),
        (["--data-dir", "nowhere"], 1, "nowhere/cifar-10-batches-py: no such folder"),
    ],
)
def test_commands_that_must_not_start(tmp_path: Path, options: list[str], code: int, words: str) -> None:
    result = l2a(*COMMAND, "--data-dir", cifar(tmp_path), "--out", tmp_path / "run", *options)
    assert_fails(result, code, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    data = cifar(tmp_path, rows=200)
    command = [sys.executable, "-m", "l2a_transfer", "-q", *COMMAND, "--data-dir", str(data), "--epochs", "4"]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, timeout=300)
    cut = tmp_path / "cut"
    for kill in range(3):
        child = subprocess.Popen([*command, "--out", str(cut), *(["--resume"] if kill else [])])
        deadline = time.monotonic() + 120
        epochs = len((cut / "metrics.jsonl").read_text().splitlines()) if kill else 0
        while child.poll() is None and time.monotonic() < deadline:
            path = cut / "metrics.jsonl"
            if path.exists() and len(path.read_text().splitlines()) > epochs:
                break
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
    subprocess.run([*command, "--out", str(cut), "--resume"], check=True, timeout=300)
    assert same(weights_of(tmp_path / "whole"), weights_of(cut))
