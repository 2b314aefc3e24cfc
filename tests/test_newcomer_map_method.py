"""A map method from outside the package: one function, which `explain --method` and `compute_maps` then take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from l2a_transfer.errors import ArgumentError, PluginError, UnknownNameError
from l2a_transfer.explain.dispatch import compute_maps
from l2a_transfer.explain.overlay import colors, heat, overlay
from l2a_transfer.explain.registry import METHODS, register_map_method
from l2a_transfer.models.loading import load_model
from l2a_transfer.preprocess import normalize
from tests.conftest import TINY, assert_fails, l2a, save_picture
from tests.newcomers import import_file, install, run_with, shown_file

CODE = shown_file("A new map method")


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[None]:
    import_file(tmp_path, "toy_method", CODE)
    yield
    METHODS.remove("toy")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.usefixtures("toy")
def test_the_command_line_takes_its_name(tmp_path: Path) -> None:
    path, out = save_picture(tmp_path / "a.jpg"), tmp_path / "out"
    arguments = ("explain", "--model", TINY, "--out", out, "--side", "32", path)
    result = l2a(*arguments, "--method", "toy")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == ["000-a-toy-pixels.png", "explain.json", "sheet.png"]
    assert_fails(l2a(*arguments, "--method", "toy"), 1, "--overwrite")
    assert_fails(l2a(*arguments, "--method", "tou"), 2, "; got 'tou'")


@pytest.mark.usefixtures("toy")
def test_the_predicted_class_is_explained_and_the_network_stays_as_it_was(picture: Image.Image) -> None:
    network, card = load_model(TINY)
    network.train()
    found = compute_maps(network, card.preprocess, picture, "p", method="toy", side=64)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert found.kinds == {"pixels": "signed"}
    network.eval()
    images_u8 = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())[None]
    images = normalize(images_u8, *card.preprocess.statistics())
    # To first order, a step along the input changes the logit by the sum of the map.
    step = 1e-2
    with torch.no_grad():
        predicted = int(network(images).argmax())
        change = (network(images * (1 + step)) - network(images * (1 - step)))[0, predicted]
    assert found.maps["pixels"].sum() == pytest.approx(float(change) / (2 * step), rel=1e-2)
    for target in (predicted, (predicted + 1) % 10):
        other = compute_maps(network, card.preprocess, picture, "p", method="toy", side=64, target=target)
        assert np.array_equal(other.maps["pixels"], found.maps["pixels"]) == (target == predicted)
    with pytest.raises(ArgumentError, match="target must be between 0 and 9, got 10"):
        compute_maps(network, card.preprocess, picture, "p", method="toy", side=64, target=10)
    with pytest.raises(ArgumentError, match="attention does not"):
        compute_maps(network, card.preprocess, picture, "p", side=64, target=1)


def test_evidence_for_and_against_are_two_colours_of_one_strength() -> None:
    values = heat(np.array([[-2.0, 0.0, 1.0]], dtype=np.float32), (3, 1))
    np.testing.assert_array_equal(values, [[-1, 0, 0.5]])
    against, nothing, favour = overlay(np.full((1, 3, 3), 90, dtype=np.uint8), values, signed=True)[0].astype(int)
    assert tuple(against) == tuple(colors(np.array([[-1.0]], dtype=np.float32), signed=True)[0, 0])
    assert against[2] > against[0]  # blue
    assert tuple(nothing) == (90, 90, 90)
    assert favour[0] > favour[2]  # red


def test_a_map_that_was_not_declared_is_refused(picture: Image.Image) -> None:
    @register_map_method("toy", kind="signed", maps=("pixels",))
    def undeclared(model: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"other": images[:, 0]}

    network, card = load_model(TINY)
    try:
        with pytest.raises(PluginError, match="'toy' returned undeclared maps: other"):
            compute_maps(network, card.preprocess, picture, "p", method="toy", side=32)
    finally:
        METHODS.remove("toy")


def test_its_name_is_unknown_without_it(picture: Image.Image) -> None:
    network, card = load_model(TINY)
    with pytest.raises(UnknownNameError, match=r"method must be one of attention, evidence, .*; got 'toy'"):
        compute_maps(network, card.preprocess, picture, "p", method="toy")


@pytest.mark.slow
def test_an_installed_plugin_is_found_by_its_entry_point(tmp_path: Path) -> None:
    site = install(tmp_path / "site", "toy_method", CODE)
    path, out = save_picture(tmp_path / "a.jpg"), tmp_path / "out"
    done = run_with(site, "explain", "--method", "toy", "--model", TINY, "--out", out, "--side", "32", path)
    assert done.returncode == 0, done.stderr
    assert (out / "000-a-toy-pixels.png").is_file()
