"""The inference form: one convolution in place of a convolution and a batch norm, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from l2a_transfer.features.backends.torch import TorchBackend
from l2a_transfer.models.config import ARCHITECTURES
from l2a_transfer.models.inference import fold_batch_norms
from l2a_transfer.models.loading import as_network
from tests.conftest import with_partners
from tests.test_evidence import network


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_maps_and_logits_are_those_of_the_network(architecture: str) -> None:
    model = network(architecture, dtype=torch.float32)
    folded = fold_batch_norms(copy.deepcopy(model))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    given = with_partners(model, torch.randn(3, 3, 32, 32))
    with torch.inference_mode():
        expected, found = model.attend(*given), folded.attend(*given)
    for name, values in {"logits": expected.logits, **expected.g_a, **expected.maps}.items():
        own = {"logits": found.logits, **found.g_a, **found.maps}[name]
        assert float((own - values).norm() / values.norm()) < 1e-5, name
    assert any(not torch.equal(found.g_a[level], values) for level, values in expected.g_a.items())


def test_the_weights_are_rounded_once() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    norm = layers[1]
    with torch.no_grad():
        for values, low, high in ((norm.running_mean, -2, 2), (norm.running_var, 0.1, 9), (norm.weight, -2, 2)):
            values.uniform_(low, high)
    weight, factor = layers[0].weight.double(), norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    expected = (weight * factor[:, None, None, None]).float(), (norm.bias - norm.running_mean.double() * factor).float()
    folded = fold_batch_norms(layers.eval())
    torch.testing.assert_close(folded[0].weight, expected[0], rtol=1e-7, atol=0)
    torch.testing.assert_close(folded[0].bias, expected[1], rtol=1e-7, atol=0)
    assert folded[0].weight.dtype == torch.float32
    assert isinstance(folded[1], nn.Identity)


def test_what_cannot_be_folded_stays() -> None:
    hooked = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    hooked[0].register_forward_hook(lambda *_: None)
    apart = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    of_batch = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    double = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval().double()
    for layers in (hooked, apart, of_batch, double):
        before = [type(layer) for layer in layers]
        assert [type(layer) for layer in fold_batch_norms(layers)] == before
    with pytest.raises(ValueError, match="no inference form"):
        fold_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))


def test_a_backend_computes_with_it_and_leaves_the_caller_s_network_alone() -> None:
    model, card = as_network(network("vgg-att1-pc", dtype=torch.float32))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backend = TorchBackend(model, card)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backend._model.modules())
    assert {name: torch.equal(value, before[name]) for name, value in model.state_dict().items()} == dict.fromkeys(
        before, True
    )
    assert backend.identity()["form"] == "folded"
