"""Map methods against captum, closed forms and hand-made cases; and that no network is changed by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2a_transfer.errors import ArgumentError, BackendError, UnknownNameError
from l2a_transfer.explain.compute import map_batch
from l2a_transfer.explain.registry import METHODS
from tests.test_evidence import network

SIZE = (32, 40)
TARGETS = torch.tensor([1, 2, 3, 9])
LONG = [pytest.param(name, marks=pytest.mark.slow) for name in ("vgg-att3-indep-dp", "vgg-pan", "vgg-dsna")]
OWN = ("vgg", "vgg-gap", "vgg-att2-concat-pc", *LONG)


class Residual(nn.Module):
    """A backbone with what trips hooks and guided gradients: ReLUs in place, a residual, `F.relu`, one ReLU twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.unused = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        y = self.body(x)
        y += x
        logits: Tensor = self.fc(F.relu(y, inplace=True).mean(dim=(2, 3)))
        return logits


@pytest.fixture(params=[*OWN, "residual"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    name = request.param
    return Residual().eval() if name == "residual" else network(name, dtype=torch.float32)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(len(TARGETS), 3, *SIZE, generator=torch.Generator().manual_seed(1))


def one_map(model: nn.Module, images: Tensor, method: str, name: str = "pixels", **options: object) -> Tensor:
    levels = () if name == "pixels" else (name,)
    found = map_batch(model, images, method=method, targets=TARGETS, levels=levels, options=options)
    return torch.from_numpy(found.maps[name])


@pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients:UserWarning")
def test_methods_give_what_captum_gives(model: nn.Module, images: Tensor) -> None:
    from captum.attr import GuidedBackprop, IntegratedGradients, LayerGradCam, Occlusion, Saliency

    saliency = Saliency(model).attribute(images, target=TARGETS).amax(dim=1)
    torch.testing.assert_close(one_map(model, images, "saliency"), saliency, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        one_map(model, images, "smoothgrad", samples=1, noise=0.0), saliency, rtol=1e-5, atol=1e-6
    )
    guided = GuidedBackprop(model).attribute(images, target=TARGETS).abs().amax(dim=1)
    if isinstance(model, Residual):  # captum, which looks for modules, does not see the functions
        assert not torch.allclose(one_map(model, images, "guided-backprop"), guided, rtol=1e-2, atol=1e-5)
    else:
        torch.testing.assert_close(one_map(model, images, "guided-backprop"), guided, rtol=1e-5, atol=1e-6)
    # Windows of 8 every 3 pixels: the last ones end at the edge.
    window, strides = (3, 8, 8), (3, 3, 3)
    occlusion = Occlusion(model).attribute(images, window, strides, target=TARGETS, perturbations_per_eval=16)[:, 0]
    found = one_map(model, images, "occlusion", window=8, stride=3)
    torch.testing.assert_close(found, occlusion.float(), rtol=1e-4, atol=1e-5)
    integrated = IntegratedGradients(model).attribute(images, target=TARGETS, n_steps=20).sum(dim=1)
    found = one_map(model, images, "integrated-gradients", steps=20)
    torch.testing.assert_close(found, integrated.float(), rtol=1e-4, atol=1e-5)
    layer, level = (model.body, "body") if isinstance(model, Residual) else (model.trunk[4], "L3")  # type: ignore[index]
    if not isinstance(model, Residual):  # captum's hook is disturbed by the sum in place
        grad_cam = LayerGradCam(model, layer).attribute(images, target=TARGETS, relu_attributions=True)[:, 0]
        torch.testing.assert_close(one_map(model, images, "grad-cam", level), grad_cam.detach(), rtol=1e-4, atol=1e-5)


def test_guided_gradients_see_functions_in_place_and_modules_alike(images: Tensor) -> None:
    class Modules(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.bn(self.stem(x)))
            logits: Tensor = self.fc(nn.ReLU()(self.body(x) + x).mean(dim=(2, 3)))
            return logits

    expected = one_map(Modules().eval(), images, "guided-backprop")
    torch.testing.assert_close(one_map(Residual().eval(), images, "guided-backprop"), expected)
    assert not torch.allclose(expected, one_map(Residual().eval(), images, "saliency"), rtol=1e-2)


def test_grad_cam_of_a_layer_that_is_changed_in_place(images: Tensor) -> None:
    model = Residual().eval()
    kept = model.relu(model.bn(model.stem(images))).detach().requires_grad_()
    body = model.body(kept)
    logits = model.fc((body + kept).relu().mean(dim=(2, 3)))
    (gradient,) = torch.autograd.grad(logits.gather(1, TARGETS[:, None]).sum(), body)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * body).sum(dim=1).relu().detach()
    torch.testing.assert_close(one_map(model, images, "grad-cam", "body"), expected, rtol=1e-5, atol=1e-7)


def test_of_average_pooling_grad_cam_is_cam_and_cam_is_evidence(images: Tensor) -> None:
    for model, level in ((network("vgg-gap", dtype=torch.float32), "L3"), (Residual().eval(), "body")):
        # Of the residual the layer before the last ReLU is not what is averaged.
        if level == "body":
            with pytest.raises(BackendError, match="no class activation map at body"):
                one_map(model, images, "cam", level)
            continue
        cam, grad_cam = one_map(model, images, "cam", level), one_map(model, images, "grad-cam", level)
        positions = cam[0].numel()
        torch.testing.assert_close(grad_cam * positions, cam.relu(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one_map(model, images, "evidence", level) * positions, cam, rtol=1e-4, atol=1e-6)


class Linear(nn.Module):
    """Logits that are linear in the pixels, so that every method has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.weights = nn.Parameter(torch.randn(10, 3, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.weights)


def test_of_a_linear_model_maps_are_known_in_closed_form() -> None:
    model, images = Linear().eval(), torch.randn(4, 3, 6, 6)
    weights = model.weights.detach()[TARGETS]
    share = (weights * images).sum(dim=1)  # (B, H, W)
    windows = share.unfold(1, 2, 2).unfold(2, 2, 2).sum(dim=(3, 4))  # (B, 3, 3)
    expected = windows.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    torch.testing.assert_close(one_map(model, images, "occlusion", window=2, stride=2), expected)
    torch.testing.assert_close(one_map(model, images, "integrated-gradients", steps=3), share)
    torch.testing.assert_close(one_map(model, images, "saliency"), weights.abs().amax(dim=1))
    torch.testing.assert_close(one_map(model, images, "smoothgrad", samples=3), weights.abs().amax(dim=1))


def test_activation_and_controls_by_hand() -> None:
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(27, 2)).eval()
    image = torch.zeros(1, 3, 3, 3)
    image[0, :, 1, 1] = torch.tensor([1.0, -2.0, 3.0])
    found = map_batch(model, image, method="activation", levels=["0"], options={"power": 3}).maps["0"][0]
    np.testing.assert_allclose(found, [[0, 0, 0], [0, 1 + 8 + 27, 0], [0, 0, 0]])
    centre = map_batch(model, image, method="centre").maps["pixels"][0]
    assert centre.argmax() == 4
    np.testing.assert_allclose(centre, centre[::-1, ::-1])
    edges = map_batch(model, torch.arange(3.0).expand(1, 3, 3, 3), method="sobel").maps["pixels"][0]
    np.testing.assert_allclose(edges, [[4, 8, 4]] * 3)  # a ramp; at the repeated edge half of it


@pytest.mark.parametrize("method", ["random", "smoothgrad"])
def test_noise_follows_from_the_image_and_the_seed(method: str, images: Tensor) -> None:
    model = network("vgg", dtype=torch.float32)
    small = {"samples": 2} if method == "smoothgrad" else {}
    together = map_batch(model, images, method=method, options=small).maps["pixels"]
    alone = map_batch(model, images[2:3], method=method, options=small).maps["pixels"]
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-4, atol=1e-6)
    assert not np.allclose(together[0], together[1], rtol=1e-2)
    other = map_batch(model, images, method=method, options={**small, "seed": 1}).maps["pixels"]
    assert not np.allclose(other, together, rtol=1e-2)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_network_stays_as_it_was(method: str, images: Tensor) -> None:
    model = network("vgg-gap" if method == "cam" else "vgg-att2-concat-pc", dtype=torch.float32)
    model.trunk[0].requires_grad_(False)
    called = []
    model.register_forward_hook(lambda module, args, output: called.append(1))

    def state() -> object:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
        return hooks, [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]

    options = {"smoothgrad": {"samples": 2}, "integrated-gradients": {"steps": 2}, "occlusion": {"stride": 8}}
    before, logits = state(), model(images)
    given = images.clone()
    found = map_batch(model, images, method=method, options=options.get(method))
    assert state() == before
    assert torch.equal(images, given)
    assert not images.requires_grad
    assert torch.equal(model(images), logits)
    assert all(p.grad is None for p in model.parameters())
    for maps in found.maps.values():
        assert maps.dtype == np.float32
        assert maps.shape[0] == len(images)
    model.train()
    again = map_batch(model, images, method=method, options=options.get(method))  # dropout must not act
    assert model.training
    for name, maps in found.maps.items():
        np.testing.assert_allclose(again.maps[name], maps, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["grad-cam", "guided-grad-cam", "saliency", "evidence", "occlusion", "cam"])
def test_a_map_without_evidence_is_zeros(method: str) -> None:
    model = network("vgg-gap", dtype=torch.float32)
    with torch.no_grad():
        model.classifier.weight.zero_()  # type: ignore[union-attr]
    found = map_batch(model, torch.randn(2, 3, 32, 32), method=method)
    assert all((maps == 0).all() for maps in found.maps.values())


def test_a_batch_that_does_not_fit_is_split(images: Tensor) -> None:
    class Small(nn.Module):
        def __init__(self, most: int) -> None:
            super().__init__()
            self.model, self.most = network("vgg", dtype=torch.float32), most

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > self.most:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate")
            logits: Tensor = self.model(x)
            return logits

    expected = one_map(network("vgg", dtype=torch.float32), images, "saliency")
    torch.testing.assert_close(one_map(Small(1).eval(), images, "saliency"), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(BackendError, match="one image of 40 × 32 pixels do not fit into memory"):
        one_map(Small(0).eval(), images, "saliency")


def test_what_cannot_be_asked_for(images: Tensor) -> None:
    model = network("vgg-att2-concat-pc", dtype=torch.float32)
    with pytest.raises(UnknownNameError, match="'grad-cam'"):
        map_batch(model, images, method="gradcam")
    with pytest.raises(ArgumentError, match="target must be between 0 and 9, got 10"):
        map_batch(model, images, method="saliency", targets=[0, 1, 2, 10])
    with pytest.raises(ArgumentError, match="one entry per image, 4; got 1"):
        map_batch(model, images, method="saliency", targets=[0])
    with pytest.raises(ArgumentError, match="attention does not"):
        map_batch(model, images, targets=TARGETS)
    with pytest.raises(ArgumentError, match="saliency has one map of the input"):
        map_batch(model, images, method="saliency", levels=["L3"])
    with pytest.raises(UnknownNameError, match="level must be one of L1, L2, L3; got 'L4'"):
        map_batch(model, images, method="grad-cam", levels=["L4"])
    with pytest.raises(UnknownNameError, match="option of occlusion must be one of window, stride, baseline"):
        map_batch(model, images, method="occlusion", options={"windows": 3})
    with pytest.raises(ArgumentError, match=r"occlusion\.window must be of type int, like its default 8; got '3\.5'"):
        map_batch(model, images, method="occlusion", options={"window": "3.5"})
    with pytest.raises(
        ArgumentError, match=r"occlusion\.window must be between 1 and the shorter side, 32 pixels; got 33"
    ):
        map_batch(model, images, method="occlusion", options={"window": 33})
    with pytest.raises(ArgumentError, match=r"occlusion\.stride must be between 1 and the window, 8; got 9"):
        map_batch(model, images, method="occlusion", options={"stride": 9})
    with pytest.raises(BackendError, match="no class activation map at L2"):
        map_batch(model, images, method="cam")
    with pytest.raises(BackendError, match="does not use its layer 'unused'"):
        map_batch(Residual().eval(), images, method="grad-cam", levels=["unused"])
    with pytest.raises(BackendError, match="the layer 'fc' of Residual has no maps"):
        map_batch(Residual().eval(), images, method="grad-cam", levels=["fc"])
    with pytest.raises(UnknownNameError, match="layer must be one of stem, bn, relu, body, unused, fc; got 'bodi'"):
        map_batch(Residual().eval(), images, method="grad-cam", levels=["bodi"])


def test_a_network_in_float64_explains_a_batch_whose_memory_is_estimated() -> None:
    exact = network("vgg-att2-concat-pc", dtype=torch.float64)
    many = torch.randn(8, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = map_batch(exact, many, method="saliency", targets=[0] * 8)
    alone = map_batch(exact, many[:1], method="saliency", targets=[0])
    np.testing.assert_allclose(found.maps["pixels"][:1], alone.maps["pixels"], rtol=1e-5, atol=1e-12)
