"""Co-attention across two images: its formula, pairs of one class in training, an image as its own partner else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from l2a_transfer.data.readers import open_source
from l2a_transfer.data.sources import ImageSource, join_splits
from l2a_transfer.errors import ArgumentError, Interrupted, TrainingError
from l2a_transfer.evaluation import tested
from l2a_transfer.explain.checks.pictures import Pictures
from l2a_transfer.explain.checks.sanity import check_sanity
from l2a_transfer.explain.compute import kept_bytes as kept_for_gradient
from l2a_transfer.explain.compute import map_batch
from l2a_transfer.explain.group import group_maps
from l2a_transfer.explain.maps import explain_images
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.extraction.partners import partner_rows
from l2a_transfer.features.store.reader import read_maps
from l2a_transfer.features.store.verify import verify_features
from l2a_transfer.features.store.views import open_features
from l2a_transfer.localization import networks as localization
from l2a_transfer.localization.results import LocalizationConfig
from l2a_transfer.models.alone import WithPartners
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Network
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.networks.co import CoAttention, CoAttentionVGG
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import Card, count_parameters, read_card
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.training import trainer as trainer_module
from l2a_transfer.training.accuracy import evaluate, measure
from l2a_transfer.training.data import TrainingData
from l2a_transfer.training.epochs import plan_for
from l2a_transfer.training.flops import macs
from l2a_transfer.training.groups import grouped_order
from l2a_transfer.training.recipe import RECIPES, TrainConfig
from l2a_transfer.training.runs import run_training
from l2a_transfer.training.step_memory import kept_bytes
from l2a_transfer.training.train import train
from l2a_transfer.training.trainer import Trainer
from tests.conftest import assert_fails, l2a, save_picture
from tests.test_training import CPU, RECIPE, colours, same, weights_of

pytestmark = pytest.mark.usefixtures("curves_drawn_once")

NAME = "vgg-att2-concat-pc-co"
CONFIG = ModelConfig(NAME, num_classes=4, width=1 / 32)


def network(dtype: torch.dtype = torch.float64, architecture: str = NAME) -> CoAttentionVGG:
    """In evaluation mode, with batch norms that have seen data, and a D and w that are not those of the start."""
    model = build_model(ModelConfig(architecture, num_classes=4, width=1 / 32), seed=0).train()
    assert isinstance(model, CoAttentionVGG)
    model.attend_group(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        model.co.D.normal_(generator=torch.Generator().manual_seed(1))
        model.co.w.normal_(generator=torch.Generator().manual_seed(2))
    return model.eval().to(dtype)


def pictures(rows: int, side: int = 32, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(rows, 3, side, side, dtype=dtype, generator=torch.Generator().manual_seed(3))


def new_trainer(
    data: TrainingData | None = None, *, config: ModelConfig = CONFIG, init_from: str | None = None, **recipe: Any
) -> Trainer:
    made = dataclasses.replace(RECIPE, **recipe)
    return Trainer(config, made, data or colours(32), seed=0, placement=CPU, init_from=init_from)


# The formula ---------------------------------------------------------------------------------------------------------


def test_co_attention_by_hand() -> None:
    """Two channels, two positions: V_a = [[1, 0], [0, 1]], V_b = [[2, 0], [0, 1]], D = diag(ln 2, ln 3)."""
    co = CoAttention(2).double()
    with torch.no_grad():
        co.D.copy_(torch.tensor([2.0, 3.0]).log())
        co.w.copy_(torch.tensor([1.0, -1.0]))
    a = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]], dtype=torch.float64)
    b = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]], dtype=torch.float64)
    # S = [[2 ln 2, 0], [0, ln 3]], rows are b's positions: its softmax over them is [[4/5, 1/4], [1/5, 3/4]].
    Z = np.array([[8 / 5, 2 / 4], [1 / 5, 3 / 4]])
    f = 1 / (1 + np.exp(Z[1] - Z[0]))
    shown, looks, gate = (found.detach().numpy()[0] for found in co(a, b))
    np.testing.assert_allclose(gate[0], f)
    np.testing.assert_allclose(shown[:, 0], f * Z)
    # The softmax over a's positions is [[4/5, 1/5], [1/4, 3/4]].
    np.testing.assert_allclose(looks[0], [(4 / 5 + 1 / 4) / 2, (1 / 5 + 3 / 4) / 2])


@pytest.mark.parametrize("architecture", [NAME, "vgg-att2-concat-uniform-co"])
def test_swapping_the_pair_swaps_what_is_found(architecture: str) -> None:
    model, (a, b) = network(architecture=architecture), pictures(2)[:, None]
    with torch.no_grad():
        there, back = model.attend_group(torch.cat([a, b])), model.attend_group(torch.cat([b, a]))
        alone = model.attend(a, b[None]), model.attend(b, a[None])
    for found in ("logits", "features"):
        own, other = getattr(there, found), getattr(back, found)
        torch.testing.assert_close(own.flip(0), other, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.cat([getattr(one, found) for one in alone]), own, rtol=1e-12, atol=1e-12)
        assert (own[0] - own[1]).abs().max() > 1e-6
    for name, values in there.maps.items():
        torch.testing.assert_close(values.flip(0), back.maps[name], rtol=1e-12, atol=1e-12)


def test_the_similarities_of_a_swapped_pair_are_the_transpose() -> None:
    """Every gate is ½ with w = 0, so `shown` of (a, b) shows where a looks in b, as `looks` of (b, a) does."""
    co = network().co
    with torch.no_grad():
        co.w.zero_()
        generator = torch.Generator().manual_seed(4)
        a, b = torch.randn(2, 3, len(co.D), 4, 5, dtype=torch.float64, generator=generator)
        shown, _, gate = co(a, b)  # shown is ½ Σ_j b_j softmax(S(a, b))_ji at each position i of a
        _, looks, _ = co(b, a)
    assert torch.equal(gate, torch.full_like(gate, 0.5))
    expected = 0.5 * (b * looks[:, None]).sum(dim=(2, 3))  # (B, C)
    torch.testing.assert_close(shown.mean(dim=(2, 3)), expected, rtol=1e-12, atol=1e-12)
    assert (looks - 1 / 20).abs().max() > 0.01


def test_a_partner_that_is_the_same_everywhere_is_looked_at_evenly() -> None:
    co = CoAttention(4).double()
    a, flat = torch.rand(2, 4, 3, 5, dtype=torch.float64), torch.rand(2, 4, 1, 1, dtype=torch.float64)
    shown, _, gate = co(a, flat.expand(2, 4, 3, 5))
    torch.testing.assert_close(shown, (flat * gate[:, None]).expand_as(shown))
    _, looks, _ = co(flat.expand(2, 4, 3, 5), a)
    torch.testing.assert_close(looks, torch.full_like(looks, 1 / 15))
    assert co(a, a.flip(0))[1].std() > 1e-4


def test_what_the_partner_shows_reaches_the_logits_and_nothing_else_of_it_does() -> None:
    model, images = network(), pictures(3)
    with torch.no_grad():
        one, other = (model.attend(images[:1], images[None, k : k + 1]) for k in (1, 2))
        assert (one.logits - other.logits).abs().max() > 1e-6
        for same_level in ("L2", "L3"):
            assert torch.equal(one.g_a[same_level], other.g_a[same_level])
        assert (one.g_a["co"] - other.g_a["co"]).abs().max() > 1e-6


def test_images_that_are_no_pairs() -> None:
    with pytest.raises(ArgumentError, match="images must be consecutive pairs; got 3 images"):
        network().attend_group(pictures(3))
    with pytest.raises(ArgumentError, match="images must be consecutive pairs"):
        network(torch.float32).attend_group(pictures(1, dtype=torch.float32))


def test_a_hard_selection_is_refused() -> None:
    with pytest.raises(ArgumentError, match=f"selection.*{NAME}"):
        ModelConfig(NAME, selection="hard")


def test_half_precision_is_computed_in_float32() -> None:
    co, (a, b) = CoAttention(4), torch.rand(2, 2, 4, 3, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = co(a, b)
    for half, whole in zip(found, co(a.float(), b.float()), strict=True):
        assert half.dtype == torch.float32
        assert torch.equal(half, whole)


# Groups of one class -------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    st.integers(2, 4),
    st.integers(0, 2**32),
)
def test_groups_are_different_images_of_one_class_and_no_image_is_left_out(
    more: list[int], size: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(more)), [size + n for n in more]).astype(np.int32)
    labels = np.random.default_rng(seed).permutation(labels)
    order = grouped_order(labels, size, torch.Generator().manual_seed(seed)).numpy()
    groups = order.reshape(-1, size)
    assert all(len(set(group)) == size and len(set(labels[group])) == 1 for group in groups.tolist())
    assert set(order.tolist()) == set(range(len(labels)))
    assert np.bincount(order).max() <= 2
    assert len(order) - len(labels) < size * len(more)  # no more than what fills up a group of each class
    again = grouped_order(labels, size, torch.Generator().manual_seed(seed)).numpy()
    np.testing.assert_array_equal(order, again)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_piece_of_every_batch_holds_whole_pairs(processes: int) -> None:
    data = colours(50)  # 13, 13, 12 and 12 of a class
    source = dataclasses.replace(data, train=data.train).train
    seen = []
    for epoch in range(2):
        plan = plan_for(CONFIG, source, RECIPE, seed=0, epoch=epoch)
        assert plan.rows.shape == (6, 8)
        for rank in range(processes):
            rows = plan.part(0, rank, processes).rows
            pairs = rows.reshape(len(rows), -1, 2)
            assert (source.labels[pairs[..., 0]] == source.labels[pairs[..., 1]]).all()
            assert (pairs[..., 0] != pairs[..., 1]).all()
        seen.append(plan.rows)
    assert (seen[0] != seen[1]).any()
    np.testing.assert_array_equal(seen[0], plan_for(CONFIG, source, RECIPE, seed=0, epoch=0).rows)


def of_labels(labels: list[int], test: int = 8) -> TrainingData:
    def images(n: int) -> NDArray[np.uint8]:
        return np.zeros((n, 16, 16, 3), np.uint8)

    parts = {"train": labels, "test": [labels[0]] * test}
    return TrainingData.from_source(
        join_splits("few", "rgby", {k: (images(len(own)), np.array(own, np.int32)) for k, own in parts.items()})
    )


def test_pairs_that_cannot_be_made_are_refused_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "build_model", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(TrainingError) as refused:
        new_trainer(of_labels([0] * 9 + [1] + [2] * 5 + [3]))
    assert str(refused.value).startswith(
        f"{NAME} is trained on groups of 2 images of one class, but few has 1 training image of 'g', and 1 other class "
        "too few as well; give each class at least 2 training images"
    )
    with pytest.raises(TrainingError, match="few has 1 training image of 'y'; give"):
        new_trainer(of_labels([0, 0, 1, 1, 2, 2, 1, 1, 2, 3]))
    with pytest.raises(TrainingError, match=r"batch_size 7 is not a multiple of 2: .* whole groups of 2 images"):
        new_trainer(batch_size=7)


def test_a_single_test_image_has_no_other_as_its_partner() -> None:
    run = new_trainer(of_labels([0, 1, 2, 3] * 4, test=1))
    assert list(measure(run.model, run.data, run.preprocess)) == ["test_accuracy"]


def test_one_image_a_class_from_the_command_line_leaves_nothing_behind(tmp_path: Path) -> None:
    for k in range(3):
        save_picture(tmp_path / "photos" / "ant" / f"{k}.jpg", seed=k)
    for k in range(2):
        save_picture(tmp_path / "photos" / "owl" / f"{k}.jpg", seed=9 + k)
    command = ["train", "--model", NAME, "--data", f"imagefolder:{tmp_path / 'photos'}", "--holdout", "2"]
    refused = l2a(*command, "--width", "0.03125", "--out", tmp_path / "run")
    assert_fails(refused, 1, "1 training image of 'owl'")
    assert not (tmp_path / "run").exists()


# Training, testing, extraction ---------------------------------------------------------------------------------------


def cut_after(trainer: Trainer, out: Path, steps: int) -> None:
    """A run that is stopped after so many steps, and saved."""
    left, original = iter([False] * (steps - 1) + [True]), trainer.run_epoch
    trainer.run_epoch = lambda **options: original(**{**options, "stop": lambda: next(left)})  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        run_training(trainer, out, progress=False)


@pytest.mark.slow
def test_from_training_to_the_svm(tmp_path: Path) -> None:
    result = run_training(new_trainer(), tmp_path / "whole", progress=False)
    cut_after(new_trainer(), tmp_path / "cut", 3)
    run_training(new_trainer(), tmp_path / "cut", resume=True, progress=False)
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut"))

    card = read_card(result.weights)
    assert card.training["partners"]["each"] == 1
    assert card.training["partners"]["train"].startswith("others of the same class")
    assert card.training["partners"]["test"] == "the image itself"
    drawn = "others of the test images, drawn without regard to class"
    assert card.training["partners"]["test_set_partners"] == drawn
    assert sorted(card.metrics) == ["test_accuracy", "test_accuracy_set_partners"]
    assert {one["n"] for one in card.metrics.values()} == {40}
    assert result.metrics == {"test_accuracy": card.metrics["test_accuracy"]}
    own, data = load_model(str(result.weights))[0], colours(32).test
    for name, partners in (
        ("test_accuracy", np.arange(40)[:, None]),
        ("test_accuracy_set_partners", partner_rows(data.ids, 1)),
    ):
        assert card.metrics[name]["value"] == evaluate(own, data, card.preprocess, partners=partners)

    features = tmp_path / "f.h5"
    source = open_source("digits", limit=60)
    extract(source, str(result.weights), tmp_path / "self.h5", progress=False)
    with open_features(tmp_path / "self.h5") as found:
        assert (found.partners, found.meta.partners) == ((), "self")
    extract(source, str(result.weights), features, attention=True, partners="set", progress=False)
    rows = partner_rows(source.ids, 1)
    with open_features(features) as found:
        assert found.partners == tuple((source.ids[row],) for (row,) in rows)
        assert found.features.shape == (60, 3 * 16)
        assert list(found.maps) == ["L2", "L3", "co", "co.gate"]
        np.testing.assert_allclose(read_maps(features)["co"].astype(np.float32).sum((1, 2)), 1, atol=1e-2)
    assert verify_features(features).partners_wrong == ()
    evaluated = l2a("svm-eval", features, "--out", tmp_path / "report", "--folds", "2")
    assert evaluated.exit_code == 0, (evaluated.output, evaluated.exception)

    save_picture(tmp_path / "a.jpg", seed=0)
    for command in ("explain", "maps"):
        done = l2a(command, "--model", result.weights, "--out", tmp_path / command, tmp_path / "a.jpg")
        assert done.exit_code == 0, (done.output, done.exception)


def test_training_steps_are_those_of_pairs_taken_by_hand() -> None:
    """One step of plain gradient descent: the mean cross-entropy of each image with its partner, and of it with her."""
    settings = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "dropout": 0.0, "label_smoothing": 0.0}
    run = new_trainer(**settings, flip=False, crop_pad=0, epochs=1, lr=0.5)
    rows = plan_for(run.config, run.data.train, run.recipe, seed=0, epoch=0).rows[0]
    mean, std = run.preprocess.statistics()
    pixels = np.stack([run.preprocess.pixels(run.data.train.image(row)) for row in rows])
    images = (torch.from_numpy(pixels).float() / 255 - mean) / std
    own = build_model(run.config, seed=0).train()
    pairs = images[[1, 0, 3, 2, 5, 4, 7, 6], None]
    # Both ways through one batch norm: the trunk sees each image twice, which leaves its statistics as they are.
    logits = own(images, pairs)
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(run.data.train.labels[rows]).long())
    run.model.train()
    found = run.objective.loss(
        run.model,
        images,
        torch.from_numpy(run.data.train.labels[rows]).long(),
        generator=torch.Generator(),
        progress=torch.zeros(()),
    )
    torch.testing.assert_close(found.loss, expected, rtol=1e-4, atol=1e-5)
    run.run_epoch(progress=False)
    assert run.losses[0].item() == pytest.approx(expected.item(), rel=1e-4)


class Told(Network):
    """Answers with what its partner's first pixel says."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor, partners: Tensor | None = None) -> Tensor:
        partners = self.check_partners(images, partners)
        assert partners is not None
        return torch.nn.functional.one_hot(partners[:, 0, 0, 0, 0].round().long(), 4).float()


def numbered(labels: list[int], shown: list[int]) -> ImageSource:
    """Images of one colour, the number `shown` in 255ths."""
    images = np.array(shown, np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    return join_splits("n", "rgby", {"test": (images, np.array(labels, np.int32))})


def test_partners_from_the_set_are_drawn_by_name_and_not_by_label() -> None:
    as_it_is = Preprocess(size=4, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    shown = [0, 1, 2, 3, 2, 1, 0]
    ids = numbered(shown, shown).ids
    partners = partner_rows(ids, 1)
    rows, model = partners[:, 0], Told()
    labels = [shown[row] for row in rows]
    assert evaluate(model, numbered(labels, shown), as_it_is, batch_size=3, partners=partners) == 1
    right = np.mean([shown[row] == own for row, own in zip(rows, shown, strict=True)])
    assert evaluate(model, numbered(shown, shown), as_it_is, partners=partners) == right < 1
    assert evaluate(model, numbered(shown, shown), as_it_is) == 1  # each image is its own partner
    source = numbered(shown, shown)
    assert measure(model, TrainingData("n", tuple("rgby"), source, source), as_it_is) == {
        "test_accuracy": {"value": 1.0, "n": 7, "seeds": 1},
        "test_accuracy_set_partners": {"value": right, "n": 7, "seeds": 1},
    }


def test_measuring_on_the_way_uses_the_same_partners(tmp_path: Path) -> None:
    run = new_trainer(epochs=1)
    run_training(run, tmp_path, eval_every=1, progress=False)
    (row,) = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert row["test_accuracy"] == evaluate(run.model, run.data.test, run.preprocess)
    assert row["train_accuracy"] <= 1


def test_the_work_of_an_image_is_that_of_the_network_without_a_partner_and_the_products() -> None:
    C, P = 16, 16  # at 16 pixels L3 has 4 × 4 positions
    alone = macs(ModelConfig("vgg-att2-concat-pc", width=1 / 32), 16)
    assert macs(ModelConfig(NAME, width=1 / 32), 16) == alone + 2 * P * P * C + C * 10


# A frozen trunk ------------------------------------------------------------------------------------------------------


def test_a_recipe_that_freezes_nothing_is_written_as_before_there_was_freezing() -> None:
    assert "freeze" not in RECIPES["fast"].to_json()
    frozen = RECIPE.with_settings(["freeze=trunk"])
    assert frozen.to_json()["freeze"] == "trunk"
    assert TrainConfig.from_json(json.loads(json.dumps(frozen.to_json()))) == frozen
    assert TrainConfig.from_json(RECIPE.to_json()).freeze == ""
    with pytest.raises(ArgumentError, match="freeze must be 'trunk', or empty to freeze nothing; got 'head'"):
        RECIPE.with_settings(["freeze=head"])


@pytest.mark.slow
def test_a_frozen_trunk_stays_as_it_was_and_the_rest_learns(tmp_path: Path) -> None:
    base = run_training(
        new_trainer(config=ModelConfig("vgg-att2-concat-pc", num_classes=4, width=1 / 32)),
        tmp_path / "base",
        progress=False,
    )
    start, _ = load_model(str(base.weights))
    options: dict[str, Any] = {"freeze": "trunk", "init_from": str(base.weights), "average": 0.2}
    result = run_training(new_trainer(**options), tmp_path / "whole", progress=False)
    cut_after(new_trainer(**options), tmp_path / "cut", 6)
    run_training(new_trainer(**options), tmp_path / "cut", resume=True, progress=False)
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut"))

    found, card = load_model(str(result.weights))
    before, after = start.state_dict(), found.state_dict()
    trunk = [key for key in before if key.startswith("trunk.") and not key.endswith("num_batches_tracked")]
    assert any(key.endswith("running_var") for key in trunk)
    for key in trunk:
        assert torch.equal(before[key], after[key]), key
    fresh = new_trainer(**options).model.state_dict()
    for key in ("co.D", "co.w", "attention.L3.u", "classifiers.0.weight", "heads.co.bn.running_mean"):
        assert (fresh[key] - after[key]).abs().max() > 1e-4, key
    assert torch.equal(fresh["attention.L3.u"], before["attention.L3.u"])
    assert card.training["recipe"]["freeze"] == "trunk"
    assert sorted(card.training["init_from"]["not_loaded"]) == [
        "classifiers.0.weight", "co.D", "co.w", "heads.co.bn.bias", "heads.co.bn.running_mean",
        "heads.co.bn.running_var", "heads.co.bn.weight",
    ]  # fmt: skip


def test_a_live_trunk_learns(tmp_path: Path) -> None:
    run = new_trainer(epochs=1, init_from=f"untrained:vgg-att2-concat-pc@{1 / 32}")
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    run.run_epoch(progress=False)
    after = run.model.state_dict()
    assert (before["trunk.0.0.0.weight"] - after["trunk.0.0.0.weight"]).abs().max() > 1e-5
    assert (before["trunk.0.0.1.running_mean"] - after["trunk.0.0.1.running_mean"]).abs().max() > 1e-5


def test_what_freezing_asks_for_and_saves() -> None:
    with pytest.raises(
        TrainingError, match=r"freezes the trunk, which would stay random without weights to start from"
    ):
        new_trainer(freeze="trunk")
    frozen = new_trainer(freeze="trunk", init_from=f"untrained:vgg-att2-concat-pc@{1 / 32}")
    frozen.model.train()
    assert not any(module.training for module in frozen.model.trunk.modules())  # type: ignore[union-attr]
    assert frozen.model.training
    for images in (2, 4):
        assert kept_bytes(CONFIG, images, 32, "fp32", freeze="trunk") < kept_bytes(CONFIG, images, 32, "fp32") / 4


# Maps ----------------------------------------------------------------------------------------------------------------


def test_maps_of_an_image_beside_a_partner_that_is_given() -> None:
    model, (image, partner) = network(torch.float32), pictures(2, dtype=torch.float32)
    beside = WithPartners(model, partner[None])
    assert not beside.training
    found = model.attend(image[None], partner[None, None])
    maps = map_batch(beside, image[None].repeat(3, 1, 1, 1), method="attention").maps
    for name, values in found.maps.items():
        np.testing.assert_allclose(maps[name], values.detach().expand(3, -1, -1), rtol=1e-4, atol=1e-6)
    evidence = map_batch(beside, image[None], method="evidence", targets=[2])
    exact = model.evidence(found, torch.tensor([2]))
    assert list(evidence.maps) == ["L2", "L3", "co", "all"]
    total = sum(evidence.maps[level].sum() + exact.constants[level].item() for level in ("L2", "L3", "co"))
    assert total == pytest.approx(found.logits[0, 2].item(), abs=1e-5)
    assert map_batch(beside, image[None], method="grad-cam", targets=[2]).maps["L3"].shape == (1, 8, 8)


def test_partners_that_cannot_be_fixed() -> None:
    alone = build_model(ModelConfig("vgg-gap", width=1 / 32))
    for wrong, said in (
        ((network(), pictures(2)), r"partners must be \(1, 3, H, W\) for .*; got \(2, 3, 32, 32\)"),
        ((alone, pictures(1)), "vgg-gap attends each image alone"),
    ):
        with pytest.raises(ArgumentError, match=said):
            WithPartners(*wrong)


def test_fixed_partners_are_not_measured_at_another_size() -> None:
    model, images = network(torch.float32), torch.zeros(3, 3, 64, 64)
    assert kept_for_gradient(model, images) > 0
    assert kept_for_gradient(WithPartners(model, images[:1]), images) == 0


def test_train_by_name(tmp_path: Path) -> None:
    source = open_source("digits", limit=120)
    result = train(NAME, source, tmp_path, holdout=20, epochs=1, width=1 / 32, image_size=16, device="cpu")
    assert result.metrics["holdout-20-stratified_accuracy"]["n"] == 20


def test_an_image_without_a_partner_is_its_own() -> None:
    model, images = network(), pictures(3)
    with torch.no_grad():
        alone, itself = model.attend(images), model.attend(images, images[:, None])
        assert torch.equal(model(images), alone.logits)
        pairs = model.attend_group(images.repeat_interleave(2, dim=0))
    for found in (itself.logits, pairs.logits[::2]):
        torch.testing.assert_close(alone.logits, found, rtol=1e-12, atol=1e-12)
    assert {*alone.maps} == {"L2", "L3", "co", "co.gate"}
    for name, values in alone.maps.items():
        torch.testing.assert_close(values, itself.maps[name], rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        (one,) = model.attend(images[1:2]).features
    torch.testing.assert_close(one, alone.features[1], rtol=1e-12, atol=1e-12)


def test_evidence_of_one_image_is_complete() -> None:
    model, images = network(torch.float32), pictures(2, dtype=torch.float32)
    found = map_batch(model, images, method="evidence", targets=[2, 0])
    assert list(found.maps) == ["L2", "L3", "co", "all"]
    with torch.no_grad():
        own = model.attend(images)
    constants = model.evidence(own, torch.tensor([2, 0])).constants
    total = sum(found.maps[level].sum((1, 2)) + constants[level].detach().numpy() for level in ("L2", "L3", "co"))
    np.testing.assert_allclose(total, own.logits[[0, 1], [2, 0]], atol=1e-5)
    (maps,) = explain_images((model, card_of(model)), Image.new("RGB", (32, 32)), method="evidence", side=32)
    assert maps.completeness is not None
    assert maps.completeness < 1e-5


def card_of(model: Network) -> Card:
    return Card("co", model.config, Preprocess(), tuple("rgby"), count_parameters(model), {"untrained": True})


def test_localization_checks_and_group_maps_take_one_image() -> None:
    name = f"untrained:{NAME}@{1 / 32}"
    (opened,) = localization.open_networks([name], LocalizationConfig(), ("a",), device="cpu")
    (tested_network,) = tested.open_networks([name], device=torch.device("cpu"))
    assert opened.sha256 == tested_network.sha256
    model = network(torch.float32)
    maps = list(group_maps(model, lambda: [(pictures(4, dtype=torch.float32), [0, 0, 1, 1])]))
    assert maps
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    found = check_sanity(
        model, card_of(model), Pictures("noise", ("a", "b"), noise), methods=["attention"], seeds=1, orders=["cascade"]
    )
    changed = {row.map: row.unchanged for row in found.rows if (row.method, row.part) == ("attention", "co")}
    assert changed == {"L2": True, "L3": True, "co": False, "co.gate": False}
