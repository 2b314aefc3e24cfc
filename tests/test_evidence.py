"""Evidence maps: the positions' shares and a constant are the logit, for every architecture and normalizer."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from l2a_transfer.errors import BackendError, UnknownNameError
from l2a_transfer.explain.compute import map_batch
from l2a_transfer.explain.methods.evidence import summed
from l2a_transfer.models.config import ARCHITECTURES, ModelConfig
from l2a_transfer.models.interface import Attended, Network
from l2a_transfer.models.normalizers import NORMALIZERS
from l2a_transfer.models.registry import build_model
from tests.conftest import with_partners

SIZE = (32, 48)
B = 4


def network(architecture: str, normalizer: str = "softmax", dtype: torch.dtype = torch.float64) -> Network:
    """A network in evaluation mode whose batch norms have statistics, as of training."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(architecture, width=1 / 16, normalizer=normalizer)).eval().to(dtype)
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
            with torch.no_grad():
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.normal_(1, 0.3)
                module.bias.normal_(std=0.3)
    return model


def scores(model: Network, found: Attended, targets: Tensor) -> dict[str, Tensor]:
    """What the maps must sum to: each level's own logit, or under "all" the logit."""
    if model.config.spec.head != "indep":
        return {"all": found.logits.gather(1, targets[:, None])[:, 0]}
    pairs = zip(model.classifiers, found.g_a_bn_relu.items(), strict=True)  # type: ignore[arg-type]
    return {level: classifier(seen).gather(1, targets[:, None])[:, 0] for classifier, (level, seen) in pairs}


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("architecture", "normalizer"),
    [
        pytest.param(*pair, marks=[] if "att2-concat" in pair[0] or pair[1] == "softmax" else [pytest.mark.slow])
        for pair in product(ARCHITECTURES, NORMALIZERS)
    ],
)
def test_the_positions_and_a_constant_are_the_logit(
    architecture: str, normalizer: str, dtype: torch.dtype, most: float
) -> None:
    model = network(architecture, normalizer, dtype)
    images, targets = torch.randn(B, 3, *SIZE, dtype=dtype), torch.tensor([0, 3, 9, 9])
    with torch.no_grad():
        found = model.attend(*with_partners(model, images))
        evidence = model.evidence(found, targets)
    sums = {level: values.sum(dim=(1, 2)) + evidence.constants[level] for level, values in evidence.maps.items()}
    if model.config.spec.head != "indep":
        sums = {"all": torch.stack(list(sums.values())).sum(dim=0)}
    with torch.no_grad():
        wanted = scores(model, found, targets)
    for level, expected in wanted.items():
        assert expected.abs().max() > 1e-4
        assert float((sums[level] - expected).abs().max()) < most * max(1.0, float(expected.abs().max()))


def test_of_uniform_weights_it_is_grad_cam_without_its_relu() -> None:
    model = network("vgg-att2-concat-uniform", dtype=torch.float32)
    images = torch.randn(B, 3, *SIZE)
    evidence = map_batch(model, images, method="evidence", targets=[1, 2, 3, 4], levels=["L3"]).maps["L3"]
    grad_cam = map_batch(model, images, method="grad-cam", targets=[1, 2, 3, 4], levels=["L3"]).maps["L3"]
    assert evidence.min() < 0
    torch.testing.assert_close(torch.tensor(evidence).relu(), torch.tensor(grad_cam), rtol=1e-4, atol=1e-6)


def test_of_a_plain_vgg_it_lies_where_channels_have_their_maximum() -> None:
    model = network("vgg", dtype=torch.float32)
    images = torch.randn(B, 3, 64, 64)
    with torch.no_grad():
        local = model.attend(images).local["L3"].flatten(2)  # (B, C, P)
        evidence = model.evidence(model.attend(images), torch.zeros(B, dtype=torch.int64)).maps["L3"].flatten(1)
    highest = torch.zeros_like(evidence, dtype=torch.bool).scatter(1, local.argmax(dim=2), True)
    assert (evidence[~highest] == 0).all()
    assert (evidence[highest] != 0).any()


def test_the_sum_of_levels_keeps_their_total() -> None:
    coarse, fine = torch.randn(2, 4, 6), torch.randn(2, 8, 12)
    together = summed([coarse, fine])
    assert together.shape == fine.shape
    torch.testing.assert_close(together.sum(dim=(1, 2)), coarse.sum(dim=(1, 2)) + fine.sum(dim=(1, 2)))
    model = network("vgg-att3-concat-pc", dtype=torch.float32)
    maps = map_batch(model, torch.randn(B, 3, *SIZE), method="evidence").maps
    assert list(maps) == ["L1", "L2", "L3", "all"]
    levels = sum(torch.tensor(maps[level]).sum(dim=(1, 2)) for level in ("L1", "L2", "L3"))
    torch.testing.assert_close(torch.tensor(maps["all"]).sum(dim=(1, 2)), levels, rtol=1e-4, atol=1e-5)


def test_what_has_no_evidence_says_so() -> None:
    with pytest.raises(BackendError, match="Sequential is not an attention network"):
        map_batch(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2), method="evidence"
        )
    with pytest.raises(UnknownNameError, match="level must be one of L3"):
        map_batch(network("vgg-pan", dtype=torch.float32), torch.zeros(1, 3, 32, 32), method="evidence", levels=["L2"])
