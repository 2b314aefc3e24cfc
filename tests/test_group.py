"""Group maps: a network whose features are set by hand, leave-one-out by brute force, and the control beside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from l2a_transfer.errors import ArgumentError, BackendError, DataError, UnknownNameError
from l2a_transfer.explain.group import GroupMaps, control_classes, group_maps
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Attended, Network
from tests.test_evidence import network


class Set(Network):
    """Its local features at L3 are the first two channels of the image, and its attention is all on one position."""

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        local = images[:, :2]  # (B, 2, H, W)
        where = images[:, 2].flatten(1).argmax(dim=1)
        g_a = local.flatten(2).gather(2, where[:, None, None].expand(-1, 2, 1))[:, :, 0]
        level = {"L3": g_a}
        return Attended(g_a, level, level, {"L3": images[:, 2]}, {"L3": local})


def batches_of(images: Tensor, labels: list[int], size: int) -> Callable[[], list[tuple[Tensor, list[int]]]]:
    return lambda: [(images[k : k + size], labels[k : k + size]) for k in range(0, len(images), size)]


def collected(found: list[GroupMaps], level: str) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([one.maps[level] for one in found]), np.concatenate([one.controls[level] for one in found])


def picture(left: tuple[float, float], right: tuple[float, float]) -> Tensor:
    """Two positions with these features; attention is on the left one."""
    return torch.tensor([[[left[0], right[0]]], [[left[1], right[1]]], [[1.0, 0.0]]])


def test_by_hand() -> None:
    """With l = (1, 0) and (0, 1), û(mean l) is (1, 1)/√2, so the direction is (1 − 1/√2, −1/√2)."""
    right, up = (1.0, 0.0), (0.0, 1.0)
    images = torch.stack([picture(right, up), picture(right, up), picture(up, right), picture(up, right)])
    network = Set(ModelConfig("vgg-att1-pc")).eval()
    found = list(group_maps(network, batches_of(images, [0, 0, 1, 1], 4)))
    maps, controls = collected(found, "L3")
    a, b = 1 - 0.5**0.5, -(0.5**0.5)
    length = (a * a + b * b) ** 0.5
    expected = np.array([[[a, b]]] * 2 + [[[a, b]]] * 2) / length
    np.testing.assert_allclose(maps, expected, rtol=1e-6)
    np.testing.assert_allclose(controls, expected[:, :, ::-1], rtol=1e-6)
    assert found[0].control_labels.tolist() == [1, 1, 0, 0]


def test_an_image_has_no_part_in_its_own_template() -> None:
    right, up = (1.0, 0.0), (0.0, 1.0)
    images = torch.stack([picture(right, up), picture(up, right), picture(right, up), picture(right, up)])
    network = Set(ModelConfig("vgg-att1-pc")).eval()
    maps, _ = collected(list(group_maps(network, batches_of(images, [0, 0, 1, 1], 3))), "L3")
    assert maps[0, 0, 0] < 0 < maps[0, 0, 1]  # the only other image looks up
    assert maps[1, 0, 0] < 0 < maps[1, 0, 1]
    assert maps[2, 0, 0] > 0 > maps[2, 0, 1]


@pytest.mark.parametrize("size", [1, 3, 7])
def test_streaming_is_leave_one_out_exactly(size: int) -> None:
    model = network("vgg-att2-concat-pc", dtype=torch.float32)
    images = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = [2, 0, 2, 5, 0, 2, 5]
    found = list(group_maps(model, batches_of(images, labels, size), seed=1))
    assert np.concatenate([one.labels for one in found]).tolist() == labels
    control = np.concatenate([one.control_labels for one in found]).tolist()
    with torch.no_grad():
        attended = model.attend(images)
    for level in ("L2", "L3"):
        local = attended.local[level].double().flatten(2).numpy()  # (N, C, P)
        g_a = attended.g_a[level].double().numpy()
        unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
        maps, controls = collected(found, level)
        assert maps.shape == attended.local[level][:, 0].shape
        for n in range(7):
            for got, own in ((maps, labels[n]), (controls, control[n])):
                others = [m for m in range(7) if m != n and labels[m] == own]
                template = np.mean([unit(g_a[m]) - unit(local[m].mean(axis=1)) for m in others], axis=0)
                expected = [unit(template) @ unit(local[n][:, i]) for i in range(local.shape[2])]
                np.testing.assert_allclose(got[n].ravel(), expected, rtol=1e-4, atol=1e-5)


def test_uniform_attention_has_zeros_and_not_rounding() -> None:
    model = network("vgg-att2-concat-uniform", dtype=torch.float32)
    images = torch.randn(4, 3, 32, 32)
    for one in group_maps(model, batches_of(images, [0, 0, 1, 1], 4)):
        assert all((values == 0).all() for values in (*one.maps.values(), *one.controls.values()))


def test_control_classes_are_drawn_and_never_the_own() -> None:
    drawn = [control_classes(range(10), seed=seed) for seed in range(20)]
    for found in drawn:
        assert all(own != other for own, other in found.items())
        assert sorted(found.values()) == list(range(10))
    assert len({tuple(found.values()) for found in drawn}) > 10
    assert control_classes(range(10), seed=3) == control_classes(range(9, -1, -1), seed=3)


def test_levels_mode_and_what_cannot_be_asked_for() -> None:
    model, images = network("vgg-att2-concat-pc", dtype=torch.float32), torch.randn(4, 3, 32, 32)
    batches = batches_of(images, [0, 0, 1, 1], 4)
    (expected,) = group_maps(model, batches)
    model.train()
    (some,) = group_maps(model, batches, levels=["L3"])
    assert model.training
    assert list(some.maps) == list(some.controls) == ["L3"]
    np.testing.assert_allclose(some.maps["L3"], expected.maps["L3"], rtol=1e-4, atol=1e-6)
    with pytest.raises(UnknownNameError, match="level must be one of L2, L3; got 'L4'"):
        list(group_maps(model, batches, levels=["L4"]))
    with pytest.raises(BackendError, match="vgg has no attention, so it has no group maps"):
        list(group_maps(network("vgg", dtype=torch.float32), batches))
    with pytest.raises(BackendError, match="Sequential is not an attention network"):
        list(group_maps(torch.nn.Sequential(torch.nn.Flatten()), batches))
    with pytest.raises(DataError, match="class 1 has one image"):
        list(group_maps(model, batches_of(images[:3], [0, 0, 1], 3)))
    with pytest.raises(DataError, match="the images of another class"):
        list(group_maps(model, batches_of(images, [0, 0, 0, 0], 4)))
    with pytest.raises(DataError, match="there are none"):
        list(group_maps(model, lambda: []))
    once = iter(batches())
    with pytest.raises(ArgumentError, match="must return the same images on every call"):
        list(group_maps(model, lambda: once))
