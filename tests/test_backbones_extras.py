"""Backbones of optional packages, timm and transformers: tiny networks that are made here, nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from l2a_transfer.errors import BackendError, UnknownNameError, WeightsError
from l2a_transfer.features.backends.interface import FeatureBackend
from l2a_transfer.features.backends.layers import list_layers
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.preprocess import Preprocess

HALF = (0.5, 0.5, 0.5)
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def images(backend: FeatureBackend) -> tuple[NDArray[np.uint8], torch.Tensor]:
    """Pixels, and the same normalised."""
    size = backend.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8)
    mean, std = (torch.tensor(v)[:, None, None] for v in (backend.preprocess.mean, backend.preprocess.std))
    return pixels, (torch.from_numpy(pixels).float() / 255 - mean) / std


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vit_tiny_patch16_224", "head:in"),
        ("test_byobnet", "head.fc:in"),
        ("deit_tiny_distilled_patch16_224", "output"),
    ],
)
def test_timms_default_is_its_own_feature_before_the_logits(name: str, layer: str) -> None:
    timm = pytest.importorskip("timm")
    backend = open_backend(f"untrained:timm:{name}", device="cpu", seed=2)
    torch.manual_seed(2)
    network = timm.create_model(name, **({"num_classes": 0} if layer == "output" else {})).eval()
    pixels, normalised = images(backend)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(normalised), pre_logits=True).numpy()
    np.testing.assert_allclose(backend.features(pixels), expected, atol=1e-5, rtol=1e-5)
    assert [name for name, _, _ in backend.levels] == [layer]
    assert backend.identity()["timm"] == timm.__version__


def test_timms_preprocess_is_that_of_its_data_config(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from PIL import Image

    backend = open_backend("untrained:timm:vit_tiny_patch16_224", device="cpu", layer=["blocks.0"], pool="cls")
    assert backend.preprocess == Preprocess(224, "crop", "bicubic", HALF, HALF, 248)
    network = timm.create_model("vit_tiny_patch16_224")
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (260, 300, 3), dtype=np.uint8))
    ours = (torch.from_numpy(backend.preprocess.pixels(image)).float() / 255 - 0.5) / 0.5
    np.testing.assert_allclose(ours.numpy(), theirs(image).numpy(), atol=1e-6)
    with pytest.raises(UnknownNameError, match="did you mean 'vit_tiny_patch16_224'"):
        open_backend("untrained:timm:vit_tiny_patch16_22")
    with pytest.raises(
        BackendError, match="downloads are off by default; use `download=True`, `weights` with your own checkpoint"
    ):
        open_backend("timm:vit_tiny_patch16_224")
    path = tmp_path / "seven.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=7).state_dict(), path)
    assert open_backend("timm:vit_tiny_patch16_224", device="cpu", weights=path).levels == (("head:in", 0, 192),)
    with pytest.raises(WeightsError, match=r"head\.weight is \(7, 192\) there and \(1000, 192\) here"):
        open_backend("timm:vit_tiny_patch16_224", device="cpu", weights=path, layer=["head"])
    assert list_layers("timm:vit_tiny_patch16_224")[0].name == "head:in"


@pytest.fixture
def saved(tmp_path: Path) -> dict[str, Any]:
    """Networks of transformers by name, each saved in a folder of that name."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(**TINY, intermediate_size=32)
    square = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    short = {"shortest_edge": 32}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    clip = transformers.CLIPConfig(vision_config={**TINY, "intermediate_size": 32}, text_config=text)
    made = {
        "vit": (transformers.ViTModel(config), square),
        "classifier": (transformers.ViTForImageClassification(config), square),
        "resnet": (
            transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
            transformers.ConvNextImageProcessor(size=short),
        ),
        "clip": (transformers.CLIPModel(clip), transformers.CLIPImageProcessor(size=short, crop_size=32)),
        "bert": (transformers.BertModel(transformers.BertConfig(**text)), None),
        "bare": (transformers.ViTModel(config), None),
    }
    for name, (network, processor) in made.items():
        network.eval().save_pretrained(tmp_path / name)
        if processor is not None:
            processor.save_pretrained(tmp_path / name)
    return {name: network for name, (network, _) in made.items()}


def test_transformers_give_their_pooled_output_or_the_class_token(
    saved: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    for name, expected, preprocess in (
        ("vit", lambda x: saved["vit"](x).pooler_output, ("stretch", "bilinear", 0)),
        ("classifier", lambda x: saved["classifier"].vit(x).last_hidden_state[:, 0], ("stretch", "bilinear", 0)),
        ("resnet", lambda x: saved["resnet"](x).pooler_output.flatten(1), ("crop", "bicubic", 36)),
        ("clip", lambda x: saved["clip"].vision_model(pixel_values=x).pooler_output, ("crop", "bicubic", 32)),
    ):
        backend = open_backend(f"hf:{tmp_path / name}", device="cpu")
        own = backend.preprocess
        assert (own.size, own.fit, own.filter, own.resize) == (32, *preprocess)
        pixels, normalised = images(backend)
        with torch.no_grad():
            np.testing.assert_allclose(backend.features(pixels), expected(normalised).numpy(), atol=1e-5)
        assert backend.card["name"] == f"hf:{name}"
        assert str(tmp_path) not in str(backend.card)
    assert "LOAD REPORT" not in capfd.readouterr().err
    backend = open_backend(f"untrained:hf:{tmp_path / 'vit'}", device="cpu", layer=["layers.0", "output"])
    assert backend.levels == (("layers.0", 0, 16), ("output", 16, 32))
    assert backend.card["config"]["pool"] == "cls"
    assert list_layers(f"hf:{tmp_path / 'vit'}")[0].shape == (16,)


@pytest.mark.usefixtures("saved")
def test_what_transformers_cannot_give_is_said(tmp_path: Path) -> None:
    for name, options, words in (
        ("bare", {}, "the preprocessing of this model is unknown; give `image_size` and `mean` and `std`"),
        ("bert", {}, "BertModel does not accept pictures"),
        ("none", {}, "the folder .* does not exist"),
    ):
        with pytest.raises(BackendError, match=words):
            open_backend(f"hf:{tmp_path / name}", device="cpu", **options)
    with pytest.raises(BackendError, match=r"cannot open it here: .*; use `download=True`, or give a folder"):
        open_backend("hf:nobody/has-this-model", device="cpu")
    given = {"image_size": 32, "mean": HALF, "std": HALF}
    assert open_backend(f"hf:{tmp_path / 'bare'}", device="cpu", **given).levels == (("output", 0, 16),)
    (tmp_path / "vit" / "model.safetensors").rename(tmp_path / "vit" / "pytorch_model.bin")
    with pytest.raises(BackendError, match="cannot open it here"):  # pickles are not read
        open_backend(f"hf:{tmp_path / 'vit'}", device="cpu")
