"""Maps that are computed of parts of the images, against those of whole images."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from l2a_transfer.explain.compute import map_batch
from l2a_transfer.explain.methods import occlusion as occlusion_file
from l2a_transfer.explain.regions import Unchanged
from l2a_transfer.models.interface import Attended, Network
from l2a_transfer.models.networks.soft import AttentionVGG
from tests.test_evidence import network

WITH_STEPS = ("vgg", "vgg-gap", "vgg-dsna", "vgg-att2-concat-pc", "vgg-att1-dp", "vgg-att3-indep-dp")
CO = "vgg-att2-concat-pc-co"
"""Each image is its own partner. Its level `co` is computed from the features that the steps lead to."""


def images_of(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", WITH_STEPS)
@pytest.mark.parametrize("size", [(32, 40), (37, 35)])
def test_a_change_reaches_what_the_whole_image_shows(name: str, size: tuple[int, int]) -> None:
    model, images = network(name), images_of(*size)
    H, W = size
    with torch.no_grad():
        unchanged = Unchanged(model, images, ("L1", "L2", "L3"))
        before = {level: features.clone() for level, features in unchanged.local.items()}
        for level, features in model.attend(images).local.items():
            torch.testing.assert_close(unchanged.local[level], features)
        # The corners, the middle, the last row and column, the whole image.
        for top, left, h, w in ((0, 0, 5, 6), (H - 3, W - 2, 3, 2), (13, 14, 8, 8), (H - 1, 9, 1, 3), (0, 0, H, W)):
            changed = images.clone()
            changed[:, :, top : top + h, left : left + w] = 3.0
            found = unchanged.changed(changed[:, :, top : top + h, left : left + w], top, left)
            expected = model.attend(changed).local
            assert list(found) == list(expected)
            for level, features in found.items():
                torch.testing.assert_close(features, expected[level])
        for level, features in unchanged.local.items():
            assert torch.equal(features, before[level])


@pytest.mark.parametrize("name", [*WITH_STEPS, CO])
def test_a_network_attends_from_local_features_as_from_the_images(name: str) -> None:
    model, images = network(name), images_of(32, 32)
    with torch.no_grad():
        expected = model.attend(images)
        found = model.attend_from(expected.local)
    assert torch.equal(found.logits, expected.logits)
    assert list(found.maps) == list(expected.maps)


def calls(model: nn.Module) -> list[int]:
    """The images of each call of the network, from now on."""
    seen: list[int] = []
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    return seen


def occlusion(model: nn.Module, images: Tensor) -> Tensor:
    return torch.from_numpy(
        map_batch(model, images, method="occlusion", targets=[1, 2], options={"stride": 8}).maps["pixels"]
    )


def whole(model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The map by whole covered images."""
    with monkeypatch.context() as patched:
        patched.setattr(occlusion_file, "_of_regions", lambda *arguments: None)
        return occlusion(model, images)


@pytest.mark.parametrize("name", [*WITH_STEPS, CO, "vgg-pan"])
def test_occlusion_by_regions_is_that_of_whole_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = network(name), images_of(37, 35)
    expected, seen = whole(model, images, monkeypatch), calls(model)
    torch.testing.assert_close(occlusion(model, images), expected, rtol=1e-5, atol=1e-7)
    if name == "vgg-pan":  # its gate looks at the whole image
        assert sum(seen) == 2 + 2 * 5 * 5
    else:
        assert seen == [1]


class Louder(AttentionVGG):
    """It attends in another way than the steps that it inherits say."""

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        return super().attend(images * images.abs().mean(dim=(1, 2, 3), keepdim=True), partners)


class Bent(AttentionVGG):
    """Its logits are no longer those of the heads."""

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        found = super().attend(images, partners)
        return dataclasses.replace(found, logits=found.logits**3)


def test_a_network_that_does_more_than_its_steps_is_computed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    images, subclass, hooked = images_of(32, 32), network("vgg-att2-concat-pc"), network("vgg-att2-concat-pc")
    subclass.__class__ = Louder
    hooked.trunk[0][0][0].register_forward_hook(lambda module, args, output: output * 2)  # type: ignore[index]
    for model in (subclass, hooked):
        assert isinstance(model, Network)
        torch.testing.assert_close(occlusion(model, images), whole(model, images, monkeypatch))


@pytest.mark.parametrize("name", [*WITH_STEPS, CO])
def test_grad_cam_of_the_last_level_needs_no_graph_of_the_convolutions(name: str) -> None:
    model, images = network(name), images_of(32, 32)
    inputs = images.clone().requires_grad_()
    found = model.attend(inputs)
    (gradient,) = torch.autograd.grad(found.logits[[0, 1], [1, 2]].sum(), found.local["L3"])
    expected = torch.einsum("bchw,bc->bhw", found.local["L3"], gradient.mean(dim=(2, 3))).relu().detach()
    graphs: list[bool] = []
    model.trunk[0].register_forward_hook(  # type: ignore[index]
        lambda module, args, output: graphs.append(output.requires_grad)
    )
    maps = map_batch(model, images, method="grad-cam", targets=[1, 2], levels=["L3"]).maps["L3"]
    torch.testing.assert_close(torch.from_numpy(maps), expected.float(), rtol=1e-5, atol=1e-9)
    assert graphs == [False]


def test_grad_cam_of_a_network_that_does_more_than_its_steps() -> None:
    model, images = network("vgg-att2-concat-pc"), images_of(32, 32)
    model.__class__ = Bent
    found = model.attend(images.clone().requires_grad_())
    (gradient,) = torch.autograd.grad(found.logits[[0, 1], [1, 2]].sum(), found.local["L3"])
    expected = torch.einsum("bchw,bc->bhw", found.local["L3"], gradient.mean(dim=(2, 3))).relu().detach()
    maps = map_batch(model, images, method="grad-cam", targets=[1, 2], levels=["L3"]).maps["L3"]
    torch.testing.assert_close(torch.from_numpy(maps), expected.float(), rtol=1e-5, atol=1e-9)
    assert expected.any()
