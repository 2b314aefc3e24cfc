"""A family from outside the package: a loss of its own that samples, and two maps of one level."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import Interrupted, NotFiniteError, PluginError, TrainingError
from l2a_transfer.export import export_onnx
from l2a_transfer.features.backends.onnx import OnnxBackend
from l2a_transfer.features.backends.torch import TorchBackend
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.store.reader import read_maps
from l2a_transfer.models.compatibilities import COMPATIBILITIES
from l2a_transfer.models.config import (
    ARCHITECTURES,
    FAMILIES,
    Architecture,
    Family,
    MapSpec,
    ModelConfig,
    family,
    remove_family,
)
from l2a_transfer.models.interface import Attended, Network
from l2a_transfer.models.objectives import Objective, StepLoss
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import Card, count_parameters
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.training.checkpoint import read_checkpoint
from l2a_transfer.training.runs import run_training
from l2a_transfer.training.step import TrainingStep
from l2a_transfer.training.trainer import Trainer
from tests.test_training import CPU, RECIPE, colours

C = 8


class Glimpse(Network):
    """Looks at one position: drawn at random in training, the mean over all of them in evaluation."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.conv = nn.Conv2d(3, C, 4, stride=4)
        self.relu = nn.ReLU()
        self.score = nn.Conv2d(C, 1, 1)
        self.classifier = nn.Linear(C, config.num_classes)

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Local features (B, C, H/4, W/4) and the probability of each position (B, H/4, W/4)."""
        l = self.relu(self.conv(images))  # noqa: E741
        B, _, H, W = l.shape
        return l, torch.softmax(self.score(l).reshape(B, H * W), dim=1).reshape(B, H, W)

    def sample(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of one drawn position, and the logarithm of its probability (B,)."""
        l, p = self.look(images)  # noqa: E741
        chosen = torch.multinomial(p.flatten(1).float(), 1, generator=generator)  # (B, 1)
        feature = l.flatten(2).gather(2, chosen[:, None].expand(-1, C, 1)).squeeze(2)  # (B, C)
        return self.classifier(feature), p.flatten(1).gather(1, chosen).squeeze(1).log()

    def attend(self, images: Tensor) -> Attended:
        l, p = self.look(images)  # noqa: E741
        g_a = (l * p[:, None]).sum(dim=(2, 3))  # (B, C)
        gate = torch.sigmoid(l.mean(dim=1))  # (B, H/4, W/4)
        return Attended(self.classifier(g_a), {"L3": g_a}, {"L3": g_a}, {"L3": p, "L3.gate": gate})


class Reinforce:
    """The score-function gradient with the batch's mean reward as baseline (Williams 1992)."""

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, *, generator: torch.Generator, progress: Tensor
    ) -> StepLoss:
        logits, log_p = network.sample(images, generator)  # type: ignore[operator]
        losses = F.cross_entropy(logits.float(), labels, reduction="none")  # (B,)
        reward = -losses.detach()
        loss = (losses - (reward - reward.mean()) * log_p).mean()
        return StepLoss(loss, logits, {"reward": reward.mean()})


@pytest.fixture(autouse=True)
def glimpse() -> Iterator[None]:
    @family("glimpse")
    class GlimpseFamily(Family):
        architectures = (Architecture("glimpse-toy", levels=("L3",)),)

        def network(self, config: ModelConfig) -> nn.Module:
            return Glimpse(config)

        def objective(self, config: ModelConfig, *, label_smoothing: float) -> Objective:
            return Reinforce()

        def feature_levels(self, config: ModelConfig) -> dict[str, int]:
            return {"L3": C}

        def maps(self, config: ModelConfig) -> tuple[MapSpec, ...]:
            return MapSpec("L3", "L3", "distribution"), MapSpec("L3.gate", "L3", "gate")

        def min_size(self, config: ModelConfig) -> int:
            return 4

    yield
    remove_family("glimpse")


def trainer(**recipe: Any) -> Trainer:
    config = ModelConfig("glimpse-toy", num_classes=4, width=1 / 32)
    made = dataclasses.replace(RECIPE, **{"epochs": 2, "dropout": 0.0, **recipe})
    return Trainer(config, made, colours(32), seed=0, placement=CPU)


def weights_and_rows(out: Path) -> tuple[dict[str, Any], list[list[float]]]:
    (weights,) = out.glob("*.safetensors")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return (
        {key: value.numpy().tobytes() for key, value in load_file(weights).items()},
        [[row[key] for key in ("train_loss", "train_accuracy", "train_reward")] for row in rows],
    )


def test_sampling_in_training_is_repeated_and_resumed_to_the_bit(tmp_path: Path) -> None:
    for name in ("one", "other"):
        run_training(trainer(), tmp_path / name, progress=False)
    assert weights_and_rows(tmp_path / "one") == weights_and_rows(tmp_path / "other")

    cut = trainer()
    steps = iter([False, False, True])
    original = cut.run_epoch
    cut.run_epoch = lambda **options: original(**{**options, "stop": lambda: next(steps)})  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="after step 3 of 4"):
        run_training(cut, tmp_path / "cut", progress=False)
    run_training(trainer(), tmp_path / "cut", resume=True, progress=False)
    assert weights_and_rows(tmp_path / "cut") == weights_and_rows(tmp_path / "one")


def test_every_step_draws_from_its_own_seed() -> None:
    run = trainer()
    step = TrainingStep(run.model, run.objective, torch.Generator())
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 4
    losses = []
    for seed in (0, 0, 1):
        step.generator.manual_seed(seed)
        losses.append(step(images, labels, torch.zeros(()))[0].item())
    assert losses[0] == losses[1] != losses[2]

    seeds = []
    original = run._generator.manual_seed
    run._generator = type("Spy", (), {"manual_seed": lambda _, seed: (seeds.append(seed), original(seed))})()
    run._step = TrainingStep(run.model, run.objective, torch.Generator())
    run.run_epoch(progress=False)
    run.run_epoch(progress=False)
    assert len(set(seeds)) == len(seeds) == run.steps


@pytest.mark.parametrize(
    "metrics", [{"reward": "good"}, {"reward": torch.zeros(2)}, {1: torch.zeros((), dtype=torch.float64)}, [1]]
)
def test_a_checkpoint_with_metrics_that_no_run_has_is_refused(tmp_path: Path, metrics: Any) -> None:
    run_training(trainer(), tmp_path, progress=False)
    content = read_checkpoint(tmp_path / "checkpoint.pt")
    assert content["metrics"]["reward"].dtype == torch.float64
    with pytest.raises(TrainingError, match="not a state of this run"):
        trainer().restore({**content, "metrics": metrics})


def test_a_metric_that_is_not_finite_stops_the_run() -> None:
    class Endless(Reinforce):
        def loss(self, *arguments: Any, **options: Any) -> StepLoss:
            found = super().loss(*arguments, **options)
            return dataclasses.replace(found, metrics={"reward": found.loss.detach() * float("inf")})

    run = trainer()
    run.objective = Endless()
    with pytest.raises(NotFiniteError, match="the metric 'reward' is not finite"):
        run.run_epoch(progress=False)
    with pytest.raises(ValueError, match="'loss', which is always logged"):
        StepLoss(torch.zeros(()), torch.zeros(1, 2), {"loss": torch.zeros(())})


@pytest.mark.slow
def test_two_maps_of_a_level_reach_the_file_and_onnx(tmp_path: Path) -> None:
    config = ModelConfig("glimpse-toy", num_classes=4, width=1 / 32)
    assert config.map_levels == ("L3", "L3.gate")
    model = build_model(config, seed=0).eval()
    card = Card("toy", config, Preprocess(size=16), (), count_parameters(model), {"untrained": True, "seed": 0})
    backend = TorchBackend(model, card, device="cpu", levels=["L3"])
    assert backend.map_levels == ("L3", "L3.gate")
    extract(open_source("caltech-mini"), backend, tmp_path / "toy.h5", attention=True, progress=False)
    maps = read_maps(tmp_path / "toy.h5")
    assert {name: values.shape[1:] for name, values in maps.items()} == {"L3": (4, 4), "L3.gate": (4, 4)}
    np.testing.assert_allclose(maps["L3"].astype(np.float32).sum((1, 2)), 1, atol=1e-2)
    assert maps["L3.gate"].astype(np.float32).sum((1, 2)).min() > 4
    result = export_onnx((model, card), tmp_path / "toy.onnx")
    assert result.outputs == ("features", "map_L3", "map_L3.gate")
    assert OnnxBackend(tmp_path / "toy.onnx", device="cpu").map_levels == ("L3", "L3.gate")


def test_a_name_is_declared_once_and_taken_back() -> None:
    with pytest.raises(PluginError, match="'glimpse-toy' is declared twice"):
        family("another")(type(FAMILIES["glimpse"]))
    assert "another" not in FAMILIES
    remove_family("glimpse")
    try:
        assert "glimpse-toy" not in ARCHITECTURES
        assert "glimpse" not in FAMILIES
    finally:
        family("glimpse")(GlimpseAgain)


class GlimpseAgain(Family):
    architectures = (Architecture("glimpse-toy"),)

    def network(self, config: ModelConfig) -> nn.Module:
        return nn.Identity()


def test_a_family_that_builds_no_network_is_refused() -> None:
    @family("nothing")
    class Nothing(GlimpseAgain):
        architectures = (Architecture("nothing-toy"),)

    try:
        with pytest.raises(PluginError, match="the family 'nothing' must build a Network; got Identity"):
            build_model(ModelConfig("nothing-toy"))
    finally:
        remove_family("nothing")


def test_the_family_and_the_compatibility_of_the_guide() -> None:
    guide = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
    sections = {part.split("\n")[0]: part for part in guide.split("\n## ")}
    for title in ("A new compatibility", "A new family"):
        (code,) = re.findall(r"```python\n(.*?)```", sections[title], flags=re.DOTALL)
        exec(compile(code, title, "exec"), {})
    try:
        config = ModelConfig("vgg-att2-concat-cosine", width=1 / 32)
        assert (config.g_is_inert, config.builds_global_branch) == (False, True)
        found = build_model(config, seed=0).eval().attend(torch.randn(2, 3, 32, 32))
        assert config.map_levels == tuple(found.maps) == ("L2", "L3")
    finally:
        remove_family("cosine-attention")
        COMPATIBILITIES.remove("cosine")
