"""Compatibility and normalizer on numbers worked out by hand."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor

from l2a_transfer.errors import MissingExtraError, UnknownNameError
from l2a_transfer.models.attention import Attention
from l2a_transfer.models.compatibilities import COMPATIBILITIES, additive, dot_product, parametrised
from l2a_transfer.models.normalizers import NORMALIZERS, find_normalizer

# One image, two positions, two channels.
LOCAL = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])
U = torch.tensor([0.5, -1.0])
G = torch.tensor([[2.0, 1.0]])


def test_pc_is_the_inner_product_of_u_with_the_sum() -> None:
    # <u, l1 + g> = 0.5·3 − 1·3 = −1.5 and <u, l2 + g> = 0.5·5 − 1·0 = 2.5; without g: −1.5 and 2.5 (<u, g> = 0)
    assert parametrised(LOCAL, U, G).tolist() == [[-1.5, 2.5]]
    assert parametrised(LOCAL, U, None).tolist() == [[-1.5, 2.5]]
    other = torch.tensor([[4.0, 0.0]])  # <u, g> = 2 is added everywhere
    assert parametrised(LOCAL, U, other).tolist() == [[0.5, 4.5]]


def test_dp_is_the_inner_product_with_g() -> None:
    assert dot_product(LOCAL, None, G).tolist() == [[4.0, 5.0]]


def test_add_is_the_inner_product_of_u_with_tanh() -> None:
    expected = [0.5 * math.tanh(3) - math.tanh(3), 0.5 * math.tanh(5) - math.tanh(0)]
    assert additive(LOCAL, U, G)[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "scores", "expected"),
    [
        ("softmax", [0.0, math.log(3)], [0.25, 0.75]),
        ("sparsemax", [0.0, 0.5], [0.25, 0.75]),  # threshold −0.25
        ("sparsemax", [0.0, 2.0, -1.0], [0.0, 1.0, 0.0]),
        ("entmax15", [0.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]),
        # entmax with α = 1.5: p = ((z − τ)+/2)²; z = (0, 2·(√0.8 − √0.2)) gives p = (0.2, 0.8)
        ("entmax15", [0.0, 2 * (math.sqrt(0.8) - math.sqrt(0.2))], [0.2, 0.8]),
        ("entmax15", [0.0, 10.0], [0.0, 1.0]),
        ("sigmoid", [0.0, math.log(3)], [0.5, 0.75]),
        ("sigmoid-sum", [0.0, math.log(3)], [0.4, 0.6]),
        ("sigmoid-sum", [-30.0, -30.0 + math.log(3)], [0.25, 0.75]),  # as softmax, where every sigmoid is nearly 0
        ("tvmax:0.1", [0.0, 0.5], [0.35, 0.65]),  # both ends move λ towards each other: sparsemax of (0.1, 0.4)
        ("tvmax:0.1", [0.0, 0.1, 0.0], [1 / 3, 1 / 3, 1 / 3]),  # one region
        ("tvmax:0", [0.0, 0.5], [0.25, 0.75]),
    ],
)
def test_normalizers(name: str, scores: list[float], expected: list[float]) -> None:
    weights = find_normalizer(name).function(torch.tensor([[scores]]))  # (1, 1, W)
    assert weights[0, 0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_normalizers_do_what_they_declare(name: str) -> None:
    scores = torch.randn(3, 5, 10, generator=torch.Generator().manual_seed(0))
    found = find_normalizer(name)
    weights = found.function(scores)
    assert weights.shape == scores.shape
    assert 0 <= weights.min() < weights.max() <= 1
    for row in range(3):  # images are independent of each other
        torch.testing.assert_close(found.function(scores[row : row + 1])[0], weights[row])
    sums = weights.sum((1, 2))
    assert torch.allclose(sums, torch.ones(3), atol=1e-5) == found.sums_to_1
    assert torch.allclose(found.function(scores + 2.5), weights, rtol=1e-5, atol=1e-6) == found.shift_invariant


@pytest.mark.parametrize("name", COMPATIBILITIES)
def test_compatibilities_do_what_they_declare(name: str) -> None:
    found = COMPATIBILITIES[name]
    generator = torch.Generator().manual_seed(0)
    local, g, other = (torch.randn(2, *shape, generator=generator) for shape in ((6, 4), (4,), (4,)))
    attention = Attention(4, name, "softmax")
    assert (attention.u is not None) == found.learns_u
    if found.scores is None:
        assert found.role_of_g == "unused"
        return
    change = attention.scores(local, other) - attention.scores(local, g)  # (B, P)
    varies = change.std(dim=1).max().item() > 1e-5
    acts = change.abs().max().item() > 1e-5
    assert {"acts": (True, True), "shifts": (True, False), "unused": (False, False)}[found.role_of_g] == (acts, varies)


def test_an_unregistered_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="compatibility must be one of pc, dp, add, uniform; got 'dpp'"):
        Attention(2, "dpp", "softmax")
    with pytest.raises(UnknownNameError, match="did you mean 'softmax'"):
        Attention(2, "dp", "sofmax")


def test_a_normalizer_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "entmax", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'l2a-transfer\[entmax\]'"):
        Attention(2, "pc", "sparsemax")


def as_map(local: Tensor) -> Tensor:
    """(B, P, C) → (B, C, 1, P)."""
    return local.permute(0, 2, 1)[:, :, None, :]


def test_the_attended_feature_is_the_weighted_sum() -> None:
    attention = Attention(2, "pc", "softmax")
    assert attention.u is not None
    with torch.no_grad():
        attention.u.copy_(torch.tensor([math.log(3) / 2, 0.0]))  # scores log(3)/2 · (1, 3): odds 3 to 1
    g_a, weights = attention(as_map(LOCAL), None)
    assert weights.shape == (1, 1, 2)
    assert weights[0, 0].tolist() == pytest.approx([0.25, 0.75])
    assert g_a[0].tolist() == pytest.approx([0.25 * 1 + 0.75 * 3, 0.25 * 2 - 0.75 * 1])


def test_uniform_is_the_mean() -> None:
    g_a, weights = Attention(2, "uniform", "softmax")(as_map(LOCAL), None)
    assert weights[0, 0].tolist() == [0.5, 0.5]
    assert g_a[0].tolist() == [2.0, 0.5]
    assert list(Attention(2, "uniform", "softmax").parameters()) == []


def test_dp_and_add_use_g() -> None:
    for compatibility in ("dp", "add"):
        attention = Attention(2, compatibility, "softmax")
        one, other = (attention(as_map(LOCAL), g)[1] for g in (G, torch.tensor([[-3.0, 0.5]])))
        assert not torch.allclose(one, other)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_scores_and_weights_stay_float32_under_autocast(name: str) -> None:
    attention = Attention(8, "pc", name)
    local = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        g_a, weights = attention(local.requires_grad_(), None)
        g_a.square().sum().backward()
    assert (g_a.dtype, weights.dtype) == (torch.float32, torch.float32)
    plain = attention(local.float(), None)
    assert torch.equal(g_a, plain[0])
    assert torch.equal(weights, plain[1])
    for gradient in (local.grad, attention.u.grad):  # type: ignore[union-attr]
        assert gradient.isfinite().all()  # type: ignore[union-attr]
        assert gradient.abs().max() > 0  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [name for name, own in COMPATIBILITIES.items() if own.scores])
def test_parameters_in_half_precision_give_the_scores_of_float32(name: str) -> None:
    attention = Attention(4, name, "softmax").bfloat16()
    local, g = (torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)) for shape in ((4, 3, 3), (4,)))
    found = attention.scored(local.bfloat16(), g.bfloat16()).scores
    assert found.dtype == torch.float32
    assert torch.equal(found, attention.float().scored(local.bfloat16(), g.bfloat16()).scores)
