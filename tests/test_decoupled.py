"""Decoupled spatial attention: what its maps sum to, that without them it is `vgg-gap`, and its way to an SVM."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from l2a_transfer.errors import BackendError, Interrupted
from l2a_transfer.evaluation.evaluate import evaluate
from l2a_transfer.explain.compute import map_batch
from l2a_transfer.explain.maps import explain_images
from l2a_transfer.export import export_onnx, relative_error
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.store.reader import read_features
from l2a_transfer.models.config import MapSpec, ModelConfig
from l2a_transfer.models.networks.decoupled import DecoupledVGG, normalized
from l2a_transfer.models.registry import build_model
from l2a_transfer.training.runs import run_training
from l2a_transfer.training.trainer import Trainer
from tests.conftest import memory_source
from tests.test_evidence import network
from tests.test_training import CPU, RECIPE, colours

pytestmark = pytest.mark.usefixtures("curves_drawn_once")


def images(rows: int = 3, *size: int) -> Tensor:
    return torch.randn(rows, 3, *(size or (48, 64)), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def decoupled(dtype: torch.dtype = torch.float64, spread: float = 1.0) -> DecoupledVGG:
    """A network whose expansive maps differ clearly between positions and classes."""
    model = network("vgg-dsna", dtype=dtype)
    assert isinstance(model, DecoupledVGG)
    with torch.no_grad():
        model.expansive.weight.normal_(std=spread)
    return model


def class_maps(model: DecoupledVGG, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Local features, the expansive and the discriminative maps, each by the formula and one position at a time."""
    local = model.attend(images).local["L3"]
    expansive, discriminative = (
        torch.stack(
            [local[:, :, i, j] @ layer.weight[:, :, 0, 0].T + layer.bias for i in range(3) for j in range(4)], dim=2
        )
        for layer in (model.expansive, model.classifier)
    )  # (B, K, P)
    positive = (1 + expansive.exp()).log() + 0.1
    return local.flatten(2), positive / positive.sum(dim=2, keepdim=True), discriminative


def test_a_hand_made_map_of_weights() -> None:
    found = normalized(torch.tensor([[[0.0, math.log(math.e - 1)]]], dtype=torch.float64))
    log2 = math.log(2)
    expected = [(log2 + 0.1) / (log2 + 1.2), 1.1 / (log2 + 1.2)]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-14)
    assert normalized(torch.full((1, 2, 2), -1e4)).flatten().tolist() == [0.25] * 4  # 0.1 each, and no division by 0


@torch.no_grad()
def test_the_logits_are_the_sum_over_positions_of_both_maps() -> None:
    model, x = decoupled(), images()
    local, expansive, discriminative = class_maps(model, x)
    found = model.attend(x)
    torch.testing.assert_close(expansive.sum(dim=2), torch.ones(3, 10, dtype=torch.float64), rtol=0, atol=1e-14)
    assert expansive.std(dim=2).mean() > 0.02
    torch.testing.assert_close(found.logits, (expansive * discriminative).sum(dim=2), rtol=1e-12, atol=1e-12)
    mean = expansive.mean(dim=1)  # (B, P)
    torch.testing.assert_close(found.maps["L3"].flatten(1), mean, rtol=1e-12, atol=1e-14)
    by_class = torch.einsum("bkp,bcp->bkc", expansive, local)
    torch.testing.assert_close(found.g_a["L3"], by_class.mean(dim=1), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_evidence_is_the_product_of_the_maps_of_a_class_without_a_constant() -> None:
    model, x, targets = decoupled(), images(), torch.tensor([0, 4, 9])
    _, expansive, discriminative = class_maps(model, x)
    found = model.attend(x)
    evidence = model.evidence(found, targets)
    own = (expansive * discriminative)[torch.arange(3), targets]
    torch.testing.assert_close(evidence.maps["L3"].flatten(1), own, rtol=1e-12, atol=1e-14)
    assert torch.equal(evidence.constants["L3"], torch.zeros(3, dtype=torch.float64))
    logits = found.logits[torch.arange(3), targets]
    torch.testing.assert_close(evidence.maps["L3"].sum(dim=(1, 2)), logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (50, 70)])
@torch.no_grad()
def test_with_a_constant_expansive_map_it_is_average_pooling(size: tuple[int, int]) -> None:
    model, plain = decoupled(), network("vgg-gap")
    plain.trunk.load_state_dict(model.trunk.state_dict())  # type: ignore[union-attr]
    plain.classifier.weight.copy_(model.classifier.weight[:, :, 0, 0])  # type: ignore[union-attr, operator]
    plain.classifier.bias.copy_(model.classifier.bias)  # type: ignore[union-attr, operator]
    model.expansive.weight.zero_()  # one number for all positions of a class, another for each class
    model.expansive.bias.copy_(torch.linspace(-3, 3, 10))  # type: ignore[union-attr]
    x = images(3, *size)
    found, expected = model.attend(x), plain.attend(x)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.g_a["L3"], expected.g_a["gap"], rtol=1e-12, atol=1e-12)
    assert float(found.maps["L3"].std(unbiased=False)) < 1e-15
    if size != (16, 16):  # where there is one position, its weight is 1 in any case
        model.expansive.weight.normal_()
        assert not torch.allclose(model(x), expected.logits, rtol=1e-3)


def test_it_starts_with_the_trunk_and_the_classifier_of_average_pooling() -> None:
    own, plain = (build_model(ModelConfig(name, width=1 / 16), seed=3).state_dict() for name in ("vgg-dsna", "vgg-gap"))
    assert own.keys() - plain.keys() == {"expansive.weight", "expansive.bias"}
    for key, value in plain.items():
        assert torch.equal(own[key].reshape(value.shape), value), key


def test_with_one_position_the_weights_are_1_and_learn_nothing() -> None:
    model = decoupled()
    for size, learns in ((24, False), (32, True)):
        model.zero_grad()
        found = model.attend(images(4, size, size))
        assert torch.equal(found.maps["L3"], torch.ones(4, 1, 1, dtype=torch.float64)) is not learns
        torch.nn.functional.cross_entropy(found.logits, torch.arange(4)).backward()  # type: ignore[no-untyped-call]
        gradients = [layer.weight.grad for layer in (model.expansive, model.classifier)]
        assert [gradient is not None and float(gradient.abs().max()) > 1e-9 for gradient in gradients] == [learns, True]


def test_dropout_hides_features_and_scores_of_the_expansive_map_only() -> None:
    """In training, at half of the config's rate; D and the local features stay as they are."""
    model = build_model(ModelConfig("vgg-dsna", num_classes=3, width=1 / 32, dropout=0.6), seed=0)
    assert isinstance(model, DecoupledVGG)
    local = {"L3": torch.rand(500, 16, 2, 2) + 0.5}
    given: dict[str, list[Tensor]] = {"dropout": [], "expansive": [], "classifier": []}
    for name in given:
        model.get_submodule(name).register_forward_hook(
            lambda _, into, out, name=name: given[name].extend((into[0], out))
        )
    model.train().attend_from(local)
    (first, hidden, second, scores), (took, gave) = given["dropout"], given["expansive"]
    assert first is local["L3"]
    assert took is hidden
    assert second is gave
    for kept in (hidden, scores):
        assert float((kept == 0).float().mean()) == pytest.approx(0.3, abs=0.05)
    assert given["classifier"][0] is local["L3"]
    model.eval()
    assert torch.equal(model.attend_from(local).logits, model.attend_from(local).logits)


@pytest.mark.parametrize("factor", [1.0, 1e4, -1e4])
def test_bf16_autocast_gives_finite_numbers_and_maps_in_float32(factor: float) -> None:
    model, x = decoupled(torch.float32), images(4, 32, 32).float()
    with torch.no_grad():
        model.expansive.weight.mul_(factor)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.attend(x)
        loss = torch.nn.functional.cross_entropy(found.logits, torch.arange(4))
    loss.backward()  # type: ignore[no-untyped-call]
    assert found.logits.dtype == found.maps["L3"].dtype == found.features.dtype == torch.float32
    torch.testing.assert_close(found.maps["L3"].sum(dim=(1, 2)), torch.ones(4), rtol=1e-6, atol=0)
    assert found.maps["L3"].min() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert torch.isfinite(found.logits).all()
    if factor == 1.0:
        with torch.no_grad():
            assert relative_error(found.logits.detach().numpy(), model(x).numpy()) < 2e-2


@pytest.mark.parametrize("normalizer", ["sigmoid", "tvmax:0.1"])
def test_a_normalizer_and_the_global_branch_change_nothing(normalizer: str) -> None:
    plain = ModelConfig("vgg-dsna", width=1 / 32)
    other = ModelConfig("vgg-dsna", width=1 / 32, normalizer=normalizer, global_branch="always")
    assert plain.maps == other.maps == (MapSpec("L3", "L3", "distribution"),)
    assert not other.builds_global_branch
    one, same = (build_model(config, seed=0).eval() for config in (plain, other))
    assert list(one.state_dict()) == list(same.state_dict())
    x = images(2, 32, 32).float()
    assert torch.equal(one(x), same(x))


def test_cam_is_refused_and_says_what_to_use() -> None:
    model = network("vgg-dsna", dtype=torch.float32)
    with pytest.raises(BackendError, match="vgg-dsna has no linear layer, so no class activation map") as caught:
        map_batch(model, torch.zeros(1, 3, 32, 32), method="cam")
    assert "grad-cam" in str(caught.value)


@pytest.mark.slow
def test_it_is_trained_resumed_extracted_exported_explained_and_evaluated(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=2, dropout=1.0, resolutions=((0.0, 32),))

    def trainer() -> Trainer:
        return Trainer(ModelConfig("vgg-dsna", num_classes=4, width=1 / 32), recipe, colours(32), placement=CPU)

    whole = run_training(trainer(), tmp_path / "whole", progress=False)
    cut = trainer()
    steps = iter([False, False, False, False, False, True])
    original = cut.run_epoch
    cut.run_epoch = lambda **options: original(**{**options, "stop": lambda: next(steps)})  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        run_training(cut, tmp_path / "cut", progress=False)
    resumed = run_training(trainer(), tmp_path / "cut", resume=True, progress=False)
    one, other = load_file(whole.weights), load_file(resumed.weights)
    assert {name: value.numpy().tobytes() for name, value in one.items()} == {
        name: value.numpy().tobytes() for name, value in other.items()
    }
    assert "expansive.weight" in one
    rows = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["train_loss"]) for row in rows)

    source = memory_source()
    made = extract(source, whole.weights, tmp_path / "f.h5", attention=True, progress=False)
    features = read_features(made.path)
    assert features.features.shape == (40, 16)
    exported = export_onnx(whole.weights, tmp_path / "n.onnx")
    assert exported.outputs == ("features", "map_L3")
    pixels = np.ascontiguousarray(source.pictures.transpose(0, 3, 1, 2))
    of_file = open_backend(str(exported.path)).features(pixels)
    assert relative_error(of_file, features.features) < 1e-4

    (maps,) = explain_images(whole.weights, source.image(0), method="evidence", side=32)
    assert maps.maps["L3"].shape == (2, 2)
    assert maps.completeness is not None
    assert maps.completeness < 1e-5
    (row,) = evaluate(made.path, c_grid=[1e-2]).rows
    assert row.dim == 16
