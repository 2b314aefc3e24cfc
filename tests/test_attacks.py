"""FGSM and PGD: in closed form on a linear model, within ε and between 0 and 1, and no network is changed by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from l2a_transfer.errors import ArgumentError, BackendError, UnknownNameError
from l2a_transfer.explain.checks.attacks import AttackConfig, attack, gradient, margin
from l2a_transfer.explain.checks.robustness import settings, under_attack
from l2a_transfer.preprocess import Preprocess
from tests.test_evidence import network

PLAIN = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
METHODS = ("fgsm", "pgd", "noise")


class TwoClasses(nn.Module):
    """Logits 0 and w · x + b: the gradient of the margin of class 1 is −w, and FGSM is exact."""

    def __init__(self, weights: Tensor, bias: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.weights, self.bias, self.scale = nn.Parameter(weights), bias, scale

    def forward(self, x: Tensor) -> Tensor:
        score = self.scale * (torch.einsum("bchw,chw->b", x, self.weights) + self.bias)
        return torch.stack([torch.zeros_like(score), score], dim=1)


@pytest.fixture
def linear() -> TwoClasses:
    return TwoClasses(torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))).eval()


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def test_of_a_linear_model_both_attacks_are_known_in_closed_form(linear: TwoClasses, pixels: Tensor) -> None:
    labels = torch.tensor([1, 1, 1, 0, 0])
    away = torch.where(labels == 1, -1.0, 1.0)[:, None, None, None] * linear.weights.detach().sign()
    expected = (pixels + 8 / 255 * away).clamp(0, 1)
    fgsm = attack(linear, pixels, labels, epsilon=8, preprocess=PLAIN)
    torch.testing.assert_close(fgsm, expected)
    # Ten steps of ε / 4 reach the edge from anywhere within ε.
    torch.testing.assert_close(attack(linear, pixels, labels, epsilon=8, method="pgd", preprocess=PLAIN), expected)
    short = attack(
        linear, pixels, labels, epsilon=8, method="pgd", preprocess=PLAIN, config=AttackConfig(steps=1, step=1e-3)
    )
    assert not torch.allclose(short, expected, atol=1e-3)


def test_the_mean_and_standard_deviation_are_those_of_the_network(linear: TwoClasses, pixels: Tensor) -> None:
    """An image is right until ε is its distance from the boundary, in pixels before they are normalised."""
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
    preprocess = Preprocess(mean=mean, std=std)
    m, s = (torch.tensor(values)[:, None, None] for values in (mean, std))
    image = torch.full((1, 3, 4, 4), 0.5)
    slope = (linear.weights.detach() / s).abs().sum()
    linear.bias = float(3 / 255 * slope - ((image[0] - m) / s * linear.weights.detach()).sum())  # 3/255 away
    found = under_attack(
        linear, [(image, torch.tensor([1]))], epsilons=[2.9, 3.1], attacks=["fgsm", "pgd"], preprocess=preprocess
    )
    got = {setting: bool(right[0]) for setting, right in found.right.items()}
    assert got["clean", 0] is True
    assert (got["fgsm", 2.9], got["fgsm", 3.1]) == (True, False)
    assert (got["pgd", 2.9], got["pgd", 3.1]) == (True, False)


def test_a_network_that_is_sure_is_attacked_all_the_same(linear: TwoClasses, pixels: Tensor) -> None:
    """In float32 the gradient of the cross entropy itself is 0 here, so that its sign would change nothing."""
    labels = torch.tensor([1, 1, 1, 1, 1])
    sure = TwoClasses(linear.weights.detach(), bias=20.0, scale=50.0).eval()
    given = pixels.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(sure(given), labels, reduction="sum")
    assert (torch.autograd.grad(loss, given)[0] == 0).all()
    expected = (pixels - 8 / 255 * linear.weights.detach().sign()).clamp(0, 1)
    torch.testing.assert_close(attack(sure, pixels, labels, epsilon=8, preprocess=PLAIN), expected)


def test_the_direction_is_that_of_the_cross_entropy() -> None:
    model = network("vgg-att2-concat-pc", dtype=torch.float64)
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    labels = torch.tensor([0, 4, 9])
    given = images.clone().requires_grad_()
    mean, std = (x.double() for x in Preprocess().statistics())
    loss = torch.nn.functional.cross_entropy(model((given - mean) / std), labels, reduction="sum")
    (wanted,) = torch.autograd.grad(loss, given)
    found = gradient(model, images, labels, preprocess=Preprocess())
    assert (found.sign() == wanted.sign()).double().mean() > 0.9999
    ratios = (found / wanted).flatten(1)  # one positive number an image
    torch.testing.assert_close(ratios, ratios.median(dim=1, keepdim=True).values.expand_as(ratios), rtol=1e-3, atol=0)
    logits = torch.tensor([[1.0, 2.0, 4.0]])
    torch.testing.assert_close(
        torch.nn.functional.softplus(margin(logits, torch.tensor([1]))),
        torch.nn.functional.cross_entropy(logits, torch.tensor([1]), reduction="none"),
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epsilon", [0, 0.5, 4, 255])
def test_nothing_moves_further_than_epsilon_or_leaves_0_to_1(method: str, epsilon: float) -> None:
    model = network("vgg-att2-concat-pc", dtype=torch.float32)
    images = torch.rand(3, 3, 32, 32)
    images[0], images[1] = 0, 1
    found = attack(model, images, torch.tensor([0, 1, 2]), epsilon=epsilon, method=method)
    assert float((found - images).abs().max()) <= epsilon / 255 + 1e-6
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert torch.equal(found, images) == (epsilon == 0)


@pytest.mark.parametrize("method", ["pgd", "noise"])
def test_what_is_drawn_follows_from_the_image_and_the_seed(method: str) -> None:
    model = network("vgg", dtype=torch.float32)
    images, labels = torch.rand(3, 3, 32, 32), torch.tensor([0, 1, 2])

    def found(rows: slice, seed: int = 0) -> Tensor:
        one = AttackConfig(steps=1, step=1e-6, seed=seed)
        return attack(model, images[rows], labels[rows], epsilon=4, method=method, config=one)

    together = found(slice(None))
    torch.testing.assert_close(found(slice(1, 2)), together[1:2])
    assert not torch.allclose(found(slice(None), seed=1), together, atol=1e-3)
    assert not torch.allclose(together[0] - images[0], together[1] - images[1], atol=1e-3)
    state = torch.get_rng_state()
    found(slice(None))
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_moves_each_value_by_epsilon() -> None:
    model = network("vgg", dtype=torch.float32)
    found = attack(model, torch.full((2, 3, 32, 32), 0.5), torch.tensor([0, 1]), epsilon=4, method="noise")
    torch.testing.assert_close((found - 0.5).abs(), torch.full_like(found, 4 / 255))
    assert 0.4 < float((found > 0.5).float().mean()) < 0.6


def test_the_network_is_attacked_in_evaluation_mode_and_stays_as_it_was() -> None:
    model = network("vgg-att2-concat-pc", dtype=torch.float32)
    images, labels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), torch.tensor([0, 1, 2, 3])
    expected = under_attack(model, [(images, labels)], epsilons=[1])
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = under_attack(model, [(images[:1], labels[:1]), (images[1:], labels[1:])], epsilons=[1])
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for setting, right in expected.right.items():
        np.testing.assert_array_equal(found.right[setting], right)


def test_an_image_without_a_gradient_is_counted(pixels: Tensor) -> None:
    class Half(nn.Module):
        """Sees the images only whose first value is above one half."""

        def forward(self, x: Tensor) -> Tensor:
            score = x.flatten(1).sum(dim=1) * (x[:, 0, 0, 0] > 0.5).float()
            return torch.stack([score, -score], dim=1)

    pixels[:, 0, 0, 0] = torch.tensor([0.1, 0.9, 0.2, 0.9, 0.9])
    labels = torch.zeros(5, dtype=torch.int64)
    found = under_attack(Half().eval(), [(pixels, labels)], epsilons=[1], preprocess=PLAIN)
    assert found.flat.tolist() == [True, False, True, False, False]


def test_a_batch_that_does_not_fit_is_split(linear: TwoClasses, pixels: Tensor) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = linear

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 2:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate")
            logits: Tensor = self.model(x)
            return logits

    labels = torch.tensor([0, 1, 0, 1, 0])
    expected = under_attack(linear, [(pixels, labels)], epsilons=[1, 30], preprocess=PLAIN)
    found = under_attack(Small().eval(), [(pixels, labels)], epsilons=[1, 30], preprocess=PLAIN)
    for setting, right in expected.right.items():
        np.testing.assert_array_equal(found.right[setting], right)


def test_what_cannot_be_asked_for(linear: TwoClasses, pixels: Tensor) -> None:
    labels = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(UnknownNameError, match="method must be one of fgsm, pgd, noise; got 'fsgm'"):
        attack(linear, pixels, labels, epsilon=1, method="fsgm")
    with pytest.raises(ArgumentError, match="epsilon must be between 0 and 255, in units of 1/255; got 256"):
        attack(linear, pixels, labels, epsilon=256)
    with pytest.raises(ArgumentError, match="labels must have one entry per image, 5"):
        attack(linear, pixels, labels[:4], epsilon=1)
    with pytest.raises(ArgumentError, match="labels must be between 0 and 1, got 0 to 2"):
        attack(linear, pixels, torch.tensor([0, 1, 2, 0, 0]), epsilon=1)
    with pytest.raises(BackendError, match=r"logits of at least two classes \(B, K\), got \(5, 1\)"):
        attack(nn.Sequential(nn.Flatten(), nn.Linear(48, 1)).eval(), pixels, labels, epsilon=1)
    linear.weights.data.fill_(float("nan"))
    with pytest.raises(BackendError, match="gradient is not finite"):
        attack(linear, pixels, labels, epsilon=1)
    for wrong in ([], [1, 1], [0], [256]):
        with pytest.raises(ArgumentError, match="epsilon must be different numbers above 0"):
            settings(wrong)
    with pytest.raises(UnknownNameError, match="attack must be one of fgsm, pgd; got 'noise'"):
        settings([1], ["noise"])
    with pytest.raises(ArgumentError, match="one or more different names of fgsm, pgd"):
        settings([1], [])
    with pytest.raises(ArgumentError, match="steps must be between 1 and 10,000, got 0"):
        AttackConfig(steps=0)
    with pytest.raises(ArgumentError, match="step must be above 0"):
        AttackConfig(step=0)
