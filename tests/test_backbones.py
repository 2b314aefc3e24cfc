"""Networks of others as backbones: their layers are those of a hook by hand, and what cannot be is said clearly."""

from __future__ import annotations

import json
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from l2a_transfer.errors import ArgumentError, BackendError, MissingExtraError, UnknownNameError, WeightsError
from l2a_transfer.features.backends.layers import list_layers
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.features.store.reader import read_features
from l2a_transfer.models.loading import load_model
from l2a_transfer.preprocess import Preprocess
from tests.conftest import assert_fails, l2a, save_picture

RESNET = "untrained:torchvision:resnet18"
SMALL = {"device": "cpu", "image_size": 64}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODULE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(16, classes)
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        x = self.pool(self.relu(self.conv(x)))
        return self.fc(x.view(len(x), -1))

def net():
    return Net()

def five():
    return Net(5)

class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

class Varying(Net):
    def forward(self, x):
        return x.flatten(1)[:, : 5 + int(x.std() > 0.1)]

class Text(Net):
    def forward(self, x):
        self.fc(x.new_zeros(len(x), 16))
        return "no tensor"

def fails():
    raise KeyError("no such thing")

def number():
    return 3
"""
GIVEN: dict[str, Any] = {"device": "cpu", "image_size": 16, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def pixels(batch: int = 5, side: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (batch, 3, side, side), dtype=np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MODULE)
    return path


def test_layers_of_resnet18_equal_those_of_hooks_by_hand() -> None:
    layers = ["layer2", "layer4.1.bn2", "fc:in", "output"]
    backend = open_backend(RESNET, layer=layers, seed=3, **SMALL)
    torch.manual_seed(3)
    network, found = torchvision.models.resnet18().eval(), {}
    for name in layers[:2]:
        network.get_submodule(name).register_forward_hook(
            # A copy: the ReLU that follows writes into the same memory.
            lambda module, args, out, name=name: found.__setitem__(name, out.clone().mean(dim=(2, 3)))
        )
    network.fc.register_forward_pre_hook(lambda module, args: found.__setitem__("fc:in", args[0].clone()))
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    with torch.no_grad():
        found["output"] = network((torch.from_numpy(pixels()).float() / 255 - mean) / std)
    expected = torch.cat([found[name] for name in layers], dim=1).numpy()
    np.testing.assert_allclose(backend.features(pixels()), expected, atol=1e-5, rtol=1e-5)
    assert backend.levels == (
        ("layer2", 0, 128),
        ("layer4.1.bn2", 128, 640),
        ("fc:in", 640, 1152),
        ("output", 1152, 2152),
    )
    assert backend.features(pixels()[:0]).shape == (0, 2152)
    (streamed,) = backend.stream([pixels()])
    np.testing.assert_array_equal(streamed.features, backend.features(pixels()))


def test_the_default_layer_is_what_the_classifier_takes() -> None:
    backend = open_backend("untrained:torchvision:mobilenet_v3_small", **SMALL)
    assert backend.levels == (("classifier.3:in", 0, 1024),)
    assert backend.card["config"] == {
        "architecture": "torchvision:mobilenet_v3_small",
        "layers": ["classifier.3:in"],
        "pool": "avg",
    }
    assert backend.card["training"] == {"untrained": True, "seed": 0}


def test_random_weights_follow_from_the_seed_and_leave_the_global_state_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (open_backend(RESNET, seed=seed, **SMALL) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.identity() == same.identity()
    assert one.identity()["weights"] == one.card["weights_sha256"] != other.card["weights_sha256"]
    copied = pickle.loads(pickle.dumps(one))  # noqa: S301
    np.testing.assert_array_equal(copied.features(pixels()), one.features(pixels()))


@pytest.mark.parametrize("size", [(300, 200), (40, 90), (64, 64), (73, 100)])
def test_pictures_are_taken_as_torchvision_takes_them(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    backend = open_backend(RESNET, **SMALL)
    assert backend.preprocess == Preprocess(64, "crop", "bilinear", MEAN, STD, 73)
    theirs = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(73), torchvision.transforms.CenterCrop(64), torchvision.transforms.PILToTensor()]
    )
    np.testing.assert_array_equal(backend.preprocess.pixels(image), theirs(image).numpy())


def test_the_preprocess_is_the_models_own_and_recorded() -> None:
    own = Preprocess(224, "crop", "bilinear", MEAN, STD, 256)
    from l2a_transfer.features.backends.torchvision import build

    assert build(RESNET, "random").preprocess == own
    assert Preprocess.from_json(own.to_json()) == own
    assert own.changed(112).resize == 128
    assert own.changed(fit="stretch").resize == 0
    with pytest.raises(ArgumentError, match="resize must be 0, or with fit 'crop'"):
        Preprocess(64, resize=70)
    assert "resize" not in Preprocess().to_json()  # files of earlier versions, and their fingerprints, stay the same
    assert open_backend(RESNET, **SMALL).card["preprocess"]["resize"] == 73


def test_an_extraction_names_layers_as_levels_and_fingerprints_them(tmp_path: Path) -> None:
    for name, number in (("cat", 1), ("cat", 2), ("dog", 3), ("dog", 4)):
        save_picture(tmp_path / "photos" / name / f"{number}.jpg", seed=number)
    out = tmp_path / "f.h5"
    arguments = ("extract", "--model", RESNET, "--data", f"imagefolder:{tmp_path / 'photos'}", "--out", out)
    options = ("--image-size", "64", "--layer", "layer1,layer3", "--pool", "max", "--device", "cpu")
    result = l2a(*arguments, *options)
    assert result.exit_code == 0, result.output
    found = read_features(out)
    assert found.features.shape == (4, 320)
    assert found.meta.levels == (("layer1", 0, 64), ("layer3", 64, 320))
    assert (found.meta.backend, found.meta.preprocess["resize"]) == ("torchvision", 73)
    assert found.meta.fingerprint["weights"] == found.meta.card["weights_sha256"]
    assert l2a(*arguments, *options, "--resume").exit_code == 0
    result = l2a(*arguments, *options[:4], "--device", "cpu", "--resume")
    assert_fails(result, 1, "pool: 'max' there, 'avg' here")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layer": ["layr4"]}, UnknownNameError, "got 'layr4'; did you mean 'layer4'"),
        ({"layer": ["layer1", "layer1"]}, ArgumentError, "layer must be different names"),
        ({"layer": "layer1"}, TypeError, "layer must be a list of names"),
        ({"pool": "mean"}, UnknownNameError, "pool must be one of avg, max, cls, flatten, none"),
        ({"layer": ["layer1"], "pool": "cls"}, BackendError, "without a class token; use `pool='avg'`"),
        (
            {"layer": ["conv1"], "pool": "none"},
            BackendError,
            "65,536 numbers per image; pool 'none' accepts at most",
        ),
        ({"image_size": 2}, ArgumentError, "image_size must be between 4 and 4096 pixels, got 2"),
        ({"mean": [0.5]}, ArgumentError, "mean must be three numbers"),
        ({"fit": "squeeze"}, UnknownNameError, "fit must be one of stretch, crop"),
        ({"levels": ["layer1"]}, BackendError, "no such option; leave out `levels`"),
        ({"weights": "x.pth"}, ArgumentError, "weights must not be given"),
    ],
)
def test_an_option_that_cannot_be_is_named(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        open_backend(RESNET, **{**SMALL, **options})


def test_a_model_that_does_not_exist_or_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UnknownNameError, match="did you mean 'resnet18'"):
        open_backend("torchvision:resnet81")
    with pytest.raises(UnknownNameError, match="one of IMAGENET1K_V1, DEFAULT; got 'V1'"):
        open_backend("torchvision:resnet18@V1")
    with pytest.raises(
        BackendError, match=r"not on this machine .*use `download=True`, `weights` with your own checkpoint"
    ):
        open_backend("torchvision:resnet18")
    assert not list(tmp_path.iterdir())


def test_published_weights_that_are_here_already_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(5)
    network = torchvision.models.mobilenet_v3_small().eval()
    url = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.url
    path = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    backend = open_backend("torchvision:mobilenet_v3_small", layer=["output"], **SMALL)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    with torch.no_grad():
        expected = network((torch.from_numpy(pixels()).float() / 255 - mean) / std).numpy()
    np.testing.assert_allclose(backend.features(pixels()), expected, atol=1e-5, rtol=1e-5)
    assert backend.card["name"] == "torchvision:mobilenet_v3_small@IMAGENET1K_V1"
    assert backend.card["training"] == {"weights": "IMAGENET1K_V1", "url": url}


def write(path: Path, state: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "wrapped.pt"])
def test_a_checkpoint_is_what_runs(file: Path, tmp_path: Path, name: str) -> None:
    model = f"module:{file}:net"
    torch.manual_seed(9)
    names: dict[str, Any] = {}
    exec(MODULE, names)
    network = names["net"]().eval()
    state: Any = network.state_dict()
    if name == "wrapped.pt":
        state = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    backend = open_backend(model, weights=write(tmp_path / name, state), **GIVEN)
    images = pixels(3, 16)
    with torch.no_grad():
        expected = network((torch.from_numpy(images).float() / 255 - 0.5) / 0.25).numpy()
    np.testing.assert_allclose(backend.features(images), expected, atol=1e-5)
    assert backend.card["name"] == f"module:mine.py:net@{name}"
    assert backend.card["weights_sha256"] != open_backend(model, **GIVEN).card["weights_sha256"]


def test_a_classifier_of_other_classes_is_left_out_where_it_is_not_needed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = torchvision.models.resnet18(num_classes=7).state_dict()
    path = write(tmp_path / "seven.pth", state)
    model = "torchvision:resnet18"
    with caplog.at_level(logging.INFO):
        backend = open_backend(model, weights=path, **SMALL)
    assert "ignored 2 tensors of the classifier: fc.weight, fc.bias" in caplog.text
    headless = write(
        tmp_path / "none.safetensors", {key: value for key, value in state.items() if not key.startswith("fc.")}
    )
    same = open_backend(model, weights=headless, seed=8, **SMALL)
    assert same.card["weights_sha256"] == backend.card["weights_sha256"]
    np.testing.assert_array_equal(same.features(pixels()), backend.features(pixels()))
    with pytest.raises(WeightsError, match=r"fc\.weight is \(7, 512\) there and \(1000, 512\) here"):
        open_backend(model, weights=path, layer=["output"], **SMALL)


def test_a_checkpoint_that_does_not_fit_names_what_does_not(file: Path, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(MODULE, names)
    state = names["net"]().state_dict()
    state["other.weight"] = state.pop("conv.weight")
    model = f"module:{file}:net"
    with pytest.raises(WeightsError, match=r"missing conv\.weight; unexpected other\.weight; use the model that"):
        open_backend(model, weights=write(tmp_path / "a.pth", state), **GIVEN)
    broken = names["net"]().state_dict()
    broken["conv.bias"][0] = float("nan")
    with pytest.raises(WeightsError, match=r"conv\.bias has values that are not finite"):
        open_backend(model, weights=write(tmp_path / "nan.pth", broken), **GIVEN)
    for name, content, words in (
        ("a.txt", b"", "`weights` accepts .safetensors, .pth"),
        ("none.pth", None, "cannot be read: No such file"),
        ("cut.pth", b"PK\x03\x04 and no more", "not a file of torch.save, or corrupt"),
        ("cut.safetensors", b"\x08", "not a safetensors file, or corrupt"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=words):
            open_backend(model, weights=tmp_path / name, **GIVEN)


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_with_code_is_refused_and_the_code_is_not_run(file: Path, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    torch.save({"state_dict": {"conv.weight": Attack(sign)}}, tmp_path / "attack.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Attack(sign)))
    for name in ("attack.pth", "bare.pth"):
        with pytest.raises(
            WeightsError, match="contains more than tensors; anything that would run code is not loaded"
        ):
            open_backend(f"module:{file}:net", weights=tmp_path / name, **GIVEN)
    assert not sign.exists()
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(WeightsError, match="does not contain the state of a network"):
        open_backend(f"module:{file}:net", weights=tmp_path / "epoch.pth", **GIVEN)


def test_a_function_of_the_users_is_run_and_its_network_stays_as_it_is(file: Path) -> None:
    model = f"module:{file}:net"
    backend = open_backend(model, layer=["conv", "fc:in", "output"], **GIVEN)
    assert backend.levels == (("conv", 0, 4), ("fc:in", 4, 20), ("output", 20, 23))
    found = backend.features(pixels(4, 16))
    assert found[:, :4].min() < 0  # before the ReLU, which writes in place
    assert backend.card["training"] == {}
    assert backend.identity()["code"] == backend.card["code_sha256"]
    fresh = open_backend(f"untrained:{model}", seed=0, **GIVEN)
    assert fresh.card["training"] == {"untrained": True, "seed": 0}
    np.testing.assert_array_equal(fresh.features(pixels(4, 16)), backend.features(pixels(4, 16))[:, 20:])


def test_a_network_of_the_users_may_say_its_preprocess(file: Path) -> None:
    file.write_text(
        MODULE
        + "\nfrom l2a_transfer.preprocess import Preprocess\nSHARED = Net()\nSHARED.preprocess = Preprocess(24)\n"
        "def shared():\n    return SHARED.train()\n"
    )
    assert open_backend(f"module:{file}:shared", device="cpu").preprocess == Preprocess(24)


@pytest.mark.parametrize(
    ("function", "options", "error", "words"),
    [
        ("fiv", {}, UnknownNameError, "got 'fiv'; did you mean 'five'"),
        ("fails", {}, BackendError, "its function fails raised KeyError: 'no such thing'"),
        ("number", {}, BackendError, "must return a torch.nn.Module, got int"),
        ("Pair", {}, BackendError, "layer 'output' must return a tensor with one row per image, got a tuple"),
        ("Text", {}, BackendError, "must return a tensor with one row per image, got a str"),
        ("net", {"layer": ["spare"]}, BackendError, "layer 'spare' is not called as a module"),
        ("Varying", {}, BackendError, "numbers for some images and . for others of the same size"),
        (
            "net",
            {"image_size": None},
            BackendError,
            "the preprocessing of this model is unknown; give `image_size`",
        ),
        ("net", {"mean": None, "std": None}, BackendError, r"give `mean` and `std` \(and `fit`\)"),
        ("net", {"seed": 1, "layer": ["fc"], "image_size": 4}, None, ""),
    ],
)
def test_what_goes_wrong_in_a_users_file_is_said(
    file: Path, function: str, options: dict[str, Any], error: type[Exception] | None, words: str
) -> None:
    if error is None:
        assert open_backend(f"module:{file}:{function}", **{**GIVEN, **options}).levels == (("fc", 0, 3),)
        return
    with pytest.raises(error, match=words):
        open_backend(f"module:{file}:{function}", **{**GIVEN, **options})


def test_a_file_that_raises_ends_the_command_with_1_and_nothing_is_written(tmp_path: Path) -> None:
    path, out = tmp_path / "bad.py", tmp_path / "f.h5"
    save_picture(tmp_path / "photos" / "a" / "1.jpg")
    line = ("extract", "--data", f"imagefolder:{tmp_path / 'photos'}", "--out", out, "--model")
    for code, words in (
        ("raise RuntimeError('a\\nb')", "bad.py: the file raised RuntimeError: a"),
        ("raise SystemExit(0)", "bad.py: the file raised SystemExit: 0"),
        ("def f(:", "bad.py: the file raised SyntaxError"),
    ):
        path.write_text(code)
        assert_fails(l2a(*line, f"module:{path}:f"), 1, words)
    path.write_text("from torch import nn\ndef f():\n    return nn.Sequential(nn.Conv2d(1, 2, 3))\n")
    options = ("--image-size", "16", "--mean", "0,0,0", "--std", "1,1,1")
    assert_fails(
        l2a(*line, f"module:{path}:f", *options), 1, "its own code failed on pictures of 16 × 16 pixels: Runtime"
    )
    assert_fails(l2a(*line, f"module:{path}:f"), 1, "give --image-size and --mean and --std (and --fit)")
    assert_fails(l2a(*line, f"module:{path}:f", "--mean", "grey"), 2, "--mean must be numbers separated by commas")
    assert_fails(l2a(*line, f"module:{tmp_path / 'no.py'}:f"), 1, "no.py: cannot be read: No such file")
    assert_fails(l2a(*line, "module:f"), 1, "must be module:FILE.py:FUNCTION")
    assert not out.exists()


def test_pools_are_those_of_hand_made_values() -> None:
    from l2a_transfer.features.backends.pooling import pooled

    maps = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2).float()
    assert pooled(maps, 2, "avg", "x").tolist() == [[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]]
    assert pooled(maps, 2, "max", "x").tolist() == [[3, 7, 11], [15, 19, 23]]
    assert pooled(maps.permute(0, 2, 3, 1), 2, "max", "x").tolist() == [[3, 7, 11], [15, 19, 23]]  # channels last
    assert pooled(maps, 2, "flatten", "x").tolist() == [list(range(12)), list(range(12, 24))]
    tokens = maps.reshape(2, 3, 4)
    assert pooled(tokens, 2, "cls", "x").tolist() == [[0, 1, 2, 3], [12, 13, 14, 15]]
    assert pooled((tokens, None), 2, "avg", "x").tolist() == [[4, 5, 6, 7], [16, 17, 18, 19]]
    assert pooled(maps[:, :, 0, 0].int(), 2, "avg", "x").tolist() == [[0, 4, 8], [12, 16, 20]]
    with pytest.raises(
        BackendError, match="2 × 3 × 4 numbers per image, where positions and channels cannot be distinguished"
    ):
        pooled(torch.zeros(2, 2, 3, 4), 2, "avg", "x")
    with pytest.raises(
        BackendError, match=r"must return a tensor with one row per image, got a tensor of shape \(3, 2\)"
    ):
        pooled(torch.zeros(3, 2), 2, "avg", "x")


def test_layers_lists_names_shapes_and_parameters(file: Path) -> None:
    result = l2a("layers", "--model", "torchvision:resnet18", "--image-size", "64", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    by_name = {row["name"]: row for row in rows}
    assert rows[0] == {"name": "fc:in", "kind": "Linear", "shape": [512], "parameters": 513000, "is_default": True}
    assert by_name["output"]["parameters"] == 11689512
    assert by_name["layer1.0.conv1"] == {
        "name": "layer1.0.conv1",
        "kind": "Conv2d",
        "shape": [64, 16, 16],
        "parameters": 36864,
        "is_default": False,
    }
    text = l2a("layers", "--model", f"module:{file}:Pair").stdout
    assert "output (default)" in text
    assert any(line.split() == ["spare", "Linear", "no", "tensor", "6"] for line in text.splitlines()), text
    assert [layer.name for layer in list_layers("untrained:vgg-att2-concat-pc@0.0625")] == ["L2", "L3"]
    assert_fails(l2a("layers", "--model", "torchvision:resnet81"), 2, "did you mean 'resnet18'")
    assert_fails(l2a("layers", "--model", f"module:{file}:fails"), 1, "its function fails raised KeyError")


def test_a_backend_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2a_transfer.registry.find_spec", lambda name: None)
    for model, extra in (("timm:vit_tiny_patch16_224", "timm"), ("untrained:hf:folder", "hf")):
        for call in (open_backend, list_layers):
            with pytest.raises(MissingExtraError, match=rf"pip install 'l2a-transfer\[{extra}\]'"):
                call(model)


def test_image_size_and_fit_are_chosen_for_our_own_networks_too(file: Path) -> None:
    model = "untrained:vgg-att2-concat-pc@0.0625"
    backend = open_backend(model, device="cpu", image_size=48, fit="crop")
    assert (backend.preprocess.size, backend.preprocess.fit) == (48, "crop")
    assert backend.card["preprocess"]["size"] == 48
    maps = next(iter(backend.stream([pixels(2, 48)], attention=True))).maps
    assert {level: values.shape for level, values in maps.items()} == {"L2": (2, 24, 24), "L3": (2, 12, 12)}
    plain = open_backend(model, device="cpu")
    assert plain.preprocess == Preprocess()
    assert backend.card["preprocess"] != plain.card["preprocess"]
    assert open_backend("pixels", image_size=8).levels == (("pixels", 0, 192),)
    with pytest.raises(ArgumentError, match=r"image_size must be at least 16 for untrained:vgg-gap@0\.0625; got 8"):
        open_backend("untrained:vgg-gap@0.0625", device="cpu", image_size=8)
    with pytest.raises(
        BackendError, match="prefix: torchvision:resnet18, timm:resnet18 or hf:resnet18; otherwise leave"
    ):
        open_backend("resnet18", weights="mine.pth")
    with pytest.raises(UnknownNameError, match=r"networks of other libraries have a prefix: torchvision:resnet18"):
        open_backend("resnet18")
    with pytest.raises(BackendError, match="torch has no such option; leave out `layer` and `mean`"):
        open_backend(model, layer=["L2"], mean=[0, 0, 0])
    with pytest.raises(TypeError, match="model must be"):
        open_backend(3)  # type: ignore[arg-type]


def test_a_module_in_memory_is_copied_and_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.9), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(1, 3, 16, 16))
    network.train()
    backend = open_backend(network, layer=["0", "3"], **GIVEN)
    found = backend.features(pixels(3, 16))
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    with torch.no_grad():
        expected = network.eval()((torch.from_numpy(pixels(3, 16)).float() / 255 - 0.5) / 0.25).numpy()
        network[0].weight.zero_()
    np.testing.assert_allclose(found[:, 4:], expected, atol=1e-5)
    np.testing.assert_array_equal(backend.features(pixels(3, 16)), found)
    copied = pickle.loads(pickle.dumps(backend))  # noqa: S301
    np.testing.assert_array_equal(copied.features(pixels(3, 16)), found)
    assert (backend.name, backend.card["name"]) == ("module", "memory:Sequential")
    with pytest.raises(BackendError, match="memory:Sequential: the preprocessing of this model is unknown"):
        open_backend(network)
    with pytest.raises(BackendError, match="Sequential: module has no such option; leave out `levels`"):
        open_backend(network, levels=["0"])


def test_where_only_our_own_networks_serve_that_is_said() -> None:
    for name in ("torchvision:resnet18", RESNET, "module:a/b.py:f"):
        with pytest.raises(
            UnknownNameError, match=r"is a network of another package .*; use one of this package's networks here"
        ):
            load_model(name)


def test_sizes_of_an_exported_file_are_fixed(exported_tiny: Path) -> None:
    with pytest.raises(BackendError, match="onnxruntime has no such option; leave out `image_size`"):
        open_backend(exported_tiny, image_size=48)


def test_the_documented_way_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = (Path(__file__).parents[1] / "docs" / "backbones.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block, "backbones.md", "exec"), names)
    assert names["backend"].levels == (("layer3", 0, 256), ("layer4", 256, 768))
    assert names["result"].rows == 80  # 40 of each split


class Odd(nn.Module):
    """What it gives for an image is another one's in one way or another."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.norm, self.fc = way, nn.BatchNorm2d(3), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.way == "training":
            self.train()
        elif self.way == "random":
            x = x + torch.randn_like(x)
        elif self.way == "batch":
            x = x - x.mean(dim=0, keepdim=True)
        elif self.way == "squeezed":
            return self.fc(self.norm(x).mean(dim=(2, 3))).squeeze()
        logits: torch.Tensor = self.fc(self.norm(x).mean(dim=(2, 3)))
        return logits


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("training", "returns different numbers for the same image in another batch .* and calls to train"),
        ("random", "returns different numbers for the same image in another batch or at another time"),
        ("batch", "returns different numbers for the same image in another batch or at another time"),
        ("squeezed", r"must return a tensor with one row per image, got a tensor of shape \(4,\)"),
    ],
)
def test_features_that_depend_on_more_than_the_image_are_refused(way: str, said: str) -> None:
    with pytest.raises(BackendError, match=said):
        open_backend(Odd(way), **GIVEN)


def test_features_of_bfloat16_and_features_that_are_zero_are_not_refused() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = torchvision.models.squeezenet1_1().bfloat16()

        def forward(self, x: torch.Tensor) -> object:
            return self.network(x.bfloat16())

    assert open_backend(Half(), **{**GIVEN, "image_size": 32}).levels == (("output", 0, 1000),)
    zero = Odd("")
    nn.init.zeros_(zero.fc.weight)
    nn.init.zeros_(zero.fc.bias)
    assert not open_backend(zero, **GIVEN).features(pixels(side=16)).any()


def test_networks_that_cannot_be_copied_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        MODULE
        + """
import threading
import warnings
def lock():
    found = Net()
    found.lock = threading.Lock()
    return found

def lazy():
    return nn.LazyConv2d(4, 3)

def weight_norm():
    warnings.simplefilter("ignore")
    return nn.utils.weight_norm(nn.Conv2d(3, 4, 3))

class Closed(Net):
    @property
    def preprocess(self):
        raise KeyError("not yet")
"""
    )
    for function, said in (
        ("lock", "Net cannot be copied: TypeError: .*lock.*; take out of it what Python cannot copy"),
        ("lazy", "LazyConv2d has lazy layers, whose weights do not exist yet; run it on an image first"),
        ("weight_norm", "Conv2d cannot be copied: RuntimeError: .*; .* that of parametrizations"),
        ("Closed", "the preprocess of the network that its function Closed returns raised KeyError: 'not yet'"),
    ):
        with pytest.raises(BackendError, match=said):
            open_backend(f"module:{path}:{function}", **GIVEN)
