"""Maps of networks of others: of the very pixels and weights that `extract` uses, and clear words where none are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import l2a_transfer
from l2a_transfer.errors import BackendError, UnknownNameError, WeightsError
from l2a_transfer.explain.compute import map_batch
from l2a_transfer.explain.subject import open_subject
from l2a_transfer.models.loading import load_model
from l2a_transfer.preprocess import Preprocess, normalize
from tests.conftest import TINY, assert_fails, l2a, save_picture

RESNET = "untrained:torchvision:resnet18"
MODULE = """
from torch import nn
from l2a_transfer.preprocess import Preprocess

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(6, 4)
        self.preprocess = Preprocess(24)

    def forward(self, x):
        assert x.shape[2:] == (24, 24), "24 pixels, please"
        return self.fc(self.relu(self.conv(x)).mean(dim=(2, 3)))

def small():
    return Small()

class Maps(Small):
    def forward(self, x):
        return self.conv(x)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MODULE)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return save_picture(tmp_path / "photo.png")


def small() -> nn.Module:
    names: dict[str, type[nn.Module]] = {}
    exec(MODULE, names)
    torch.manual_seed(3)
    return names["Small"]()


def test_maps_are_of_the_pixels_that_extract_uses_and_of_the_class_that_is_named(picture: Path) -> None:
    network = small().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    methods = ["grad-cam", "saliency", "occlusion"]
    found = l2a_transfer.explain_images(network, picture, method=methods, target=2)
    preprocess = Preprocess(24)
    with Image.open(picture) as image:
        pixels = preprocess.pixels(image.convert("RGB"))
    images = normalize(torch.from_numpy(pixels)[None], *preprocess.statistics("cpu"))
    for maps in found:
        expected = map_batch(small().eval(), images, method=maps.method, targets=[2])
        assert list(maps.maps) == list(expected.maps) == (["relu"] if maps.method == "grad-cam" else ["pixels"])
        np.testing.assert_allclose(maps.maps[next(iter(maps.maps))], next(iter(expected.maps.values()))[0], atol=1e-6)
        np.testing.assert_array_equal(maps.image, pixels.transpose(1, 2, 0))
        assert (maps.target, maps.class_name) == (2, None)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_the_command_explains_layers_by_name_and_says_what_it_explained(tmp_path: Path, picture: Path) -> None:
    out = tmp_path / "out"
    run = ("explain", "--model", RESNET, "--image-size", "64", "--method", "grad-cam,saliency", "--out", out, picture)
    result = l2a(*run, "--levels", "layer3,layer4", "--store", tmp_path / "maps.h5")
    assert result.exit_code == 0, result.output
    document = json.loads((out / "explain.json").read_text())
    assert (document["model"], document["as_extracted"], document["side"]) == (RESNET, True, None)
    assert document["weights"] == open_subject(RESNET, image_size=64).weights_sha256
    ((cam, saliency),) = (image["methods"] for image in document["images"])
    assert [own["map"] for own in cam["maps"]] == ["layer3", "layer4"]
    assert [own["map"] for own in saliency["maps"]] == ["pixels"]
    assert l2a("inspect", tmp_path / "maps.h5", "--verify").exit_code == 0


def test_a_side_keeps_the_aspect_where_the_network_takes_it(picture: Path) -> None:
    (found,) = l2a_transfer.explain_images(RESNET, Image.new("RGB", (120, 60)), method="saliency", side=40)
    assert found.maps["pixels"].shape == (40, 80)


def test_published_weights_name_their_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, picture: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT
    path = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), path)
    model = "torchvision:mobilenet_v3_small"
    (found,) = l2a_transfer.explain_images(model, picture, method="saliency", target="tabby", image_size=64)
    assert found.target == weights.meta["categories"].index("tabby")
    assert found.class_name == "tabby"
    with pytest.raises(UnknownNameError, match="did you mean 'tabby'"):
        l2a_transfer.explain_images(model, picture, method="saliency", target="taby", image_size=64)


def test_the_input_of_a_transformer_s_attention_is_no_map() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.queries, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Identity(), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens: torch.Tensor = self.conv(x).flatten(2).transpose(1, 2)  # (B, T, C)
            logits: torch.Tensor = self.fc(self.queries(tokens[:, None]).mean(dim=(1, 2)))
            return logits

    images = torch.randn(2, 3, 32, 32)
    assert list(map_batch(Heads().eval(), images, method="grad-cam").maps) == ["conv"]
    with pytest.raises(BackendError, match=r"layer 'queries' of Heads has no maps .*\(2, 1, 64, 8\)"):
        map_batch(Heads().eval(), images, method="grad-cam", levels=["queries"])


def test_what_cannot_be_explained_is_said_and_nothing_is_written(tmp_path: Path, file: Path, picture: Path) -> None:
    out = tmp_path / "out"
    own = ("explain", "--out", out, picture, "--model")
    assert_fails(l2a(*own, "pixels"), 1, "runs in pixels, but maps need a network that runs in PyTorch")
    assert_fails(l2a(*own, f"onnx:{tmp_path / 'a.onnx'}"), 1, "runs in onnx, but maps need")
    assert_fails(l2a(*own, RESNET), 1, "ResNet is not an attention network", "grad-cam")
    assert_fails(l2a(*own, TINY, "--image-size", "32"), 1, "its preprocessing and weights are fixed", "--image-size")
    small = f"module:{file}:small"
    assert_fails(l2a(*own, small, "--method", "saliency", "--side", "32"), 1, "24 pixels, please", "another --side")
    layer = l2a(*own, small, "--method", "grad-cam", "--levels", "cnv")
    assert_fails(layer, 2, "layer must be one of conv, relu, fc", "did you mean 'conv'")
    assert_fails(
        l2a(*own, f"module:{file}:Maps", "--method", "saliency"), 1, "must return logits (B, K)", "(1, 6, 12, 12)"
    )
    assert not out.exists()


def test_weights_without_a_classifier_are_refused_rather_than_explained_by_a_random_one(
    tmp_path: Path, picture: Path
) -> None:
    state = {k: v for k, v in torchvision.models.resnet18().state_dict().items() if not k.startswith("fc.")}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"fc\.weight"):
        l2a_transfer.explain_images(
            "torchvision:resnet18", picture, method="saliency", weights=tmp_path / "a.pth", image_size=64
        )


def test_a_model_of_transformers_has_no_classifier_here(tmp_path: Path, picture: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16
    )
    config.save_pretrained(tmp_path)
    with pytest.raises(BackendError, match="without its classifier"):
        open_subject(f"untrained:hf:{tmp_path}", image_size=32, mean=[0.5] * 3, std=[0.5] * 3)


class Writing(nn.Module):
    """Writes into its input, as a network that normalises by itself may."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)
        self.preprocess = Preprocess(24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.mul_(0.5)
        logits: torch.Tensor = self.fc(self.conv(x).relu().mean(dim=(2, 3)))
        return logits


class NotWriting(Writing):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.clone())


def test_a_network_that_writes_into_its_input_is_explained_for_the_images_that_were_asked_of(picture: Path) -> None:
    """Each method was of images that the one before had changed, and gradients were a fault."""
    methods = ["saliency", "grad-cam", "occlusion", "integrated-gradients"]
    expected = l2a_transfer.explain_images(NotWriting(), picture, method=methods, target=2)
    for one, other in zip(
        l2a_transfer.explain_images(Writing(), picture, method=methods, target=2), expected, strict=True
    ):
        assert one.probability == pytest.approx(other.probability)
        for name, values in other.maps.items():
            np.testing.assert_allclose(one.maps[name], values, atol=1e-6)
    network, images = Writing().eval(), torch.randn(2, 3, 24, 24)
    before = images.clone()
    map_batch(network, images, method="grad-cam", targets=[0, 1])
    assert torch.equal(images, before)
    assert not network._forward_pre_hooks


def test_networks_without_weights_or_gradients(picture: Path) -> None:
    class Means(nn.Module):
        preprocess = Preprocess(24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(2, 3))

    class Closed(NotWriting):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return super().forward(x)

    (found,) = l2a_transfer.explain_images(Means(), picture, method="saliency", target=1)
    np.testing.assert_allclose(found.maps["pixels"], 1 / 24**2, rtol=1e-5)
    for method in ("saliency", "grad-cam"):
        with pytest.raises(BackendError, match=f"Closed: {method} failed: .*; it needs .* use occlusion"):
            l2a_transfer.explain_images(Closed(), picture, method=method, target=1)
    assert l2a_transfer.explain_images(Closed(), picture, method="occlusion", target=1)[0].maps


def test_weights_and_attention_of_a_layer_are_no_maps() -> None:
    """The map was the weights (out, in, k, k) of a layer with parametrizations, and (T, T) of attention."""

    class Attending(NotWriting):
        def __init__(self) -> None:
            super().__init__()
            self.softmax = nn.Softmax(dim=-1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.conv(x)[:, :, ::4, ::4].flatten(2).transpose(1, 2)[:, :20]  # (B, T, C)
            weights = self.softmax((tokens @ tokens.transpose(1, 2))[:, None])  # (B, 1, T, T)
            logits: torch.Tensor = self.fc((weights[:, 0] @ tokens).mean(dim=1))
            return logits

    images = torch.randn(2, 3, 24, 24)
    assert list(map_batch(Attending().eval(), images, method="grad-cam").maps) == ["conv"]
    with pytest.raises(BackendError, match=r"layer 'softmax' of Attending has no maps .*\(2, 1, 20, 20\)"):
        map_batch(Attending().eval(), images, method="grad-cam", levels=["softmax"])
    network = NotWriting()
    nn.utils.parametrizations.weight_norm(network.conv)
    (name,) = map_batch(network.eval(), images, method="grad-cam").maps
    assert name == "conv"


def test_a_network_of_the_caller_is_not_moved() -> None:
    network, _ = load_model(TINY)
    assert open_subject(network).network is network
    elsewhere = open_subject(network, device="cpu")
    assert elsewhere.network is not network
    assert elsewhere.weights_sha256 == open_subject(network).weights_sha256
