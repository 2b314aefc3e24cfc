"""Our networks where people look for models: folders and repositories of the Hugging Face Hub, and timm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import l2a_transfer
from l2a_transfer.errors import ArgumentError, WeightsError
from tests.conftest import TINY

BUNDLED = "vgg-att2-concat-pc.cifar10-w025"
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def hidden(module: str, code: str) -> str:
    """What a process without `module` says to `code`."""
    start = f"import sys; sys.modules[{module!r}] = None\n"
    ran = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, timeout=300)
    return ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [("timm", "l2a_transfer.timm", "timm"), ("huggingface_hub", "l2a_transfer.models.hub", "hub")],
)
def test_without_the_package_the_extra_is_named(package: str, module: str, extra: str) -> None:
    assert f"pip install 'l2a-transfer[{extra}]'" in hidden(package, f"import {module}")


def test_a_folder_holds_weights_card_and_readme(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    from l2a_transfer.models.hub import HubModel

    HubModel(BUNDLED).save_pretrained(tmp_path / "att2")
    assert sorted(one.name for one in (tmp_path / "att2").iterdir() if one.suffix != ".lock") == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    network, card = l2a_transfer.load_model(BUNDLED)
    again = HubModel.from_pretrained(tmp_path / "att2")
    assert again.card == card
    assert torch.equal(again.network(IMAGES), network(IMAGES))
    assert l2a_transfer.load_model(tmp_path / "att2" / "model.safetensors")[1] == card
    assert json.loads((tmp_path / "att2" / "config.json").read_text())["name"] == BUNDLED
    text = (tmp_path / "att2" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlicense: mit\nlibrary_name: l2a-transfer\n")
    assert f" | {card.metrics['test_accuracy']['value']:.4f} | 10000 |" in text
    assert "It was trained on cifar10, 10 classes." in text


def test_a_random_network_says_so_and_is_saved_again(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    from l2a_transfer.models.hub import HubModel

    HubModel(TINY).save_pretrained(tmp_path / "a")
    again = HubModel.from_pretrained(tmp_path / "a")
    again.save_pretrained(tmp_path / "b")
    assert "It was not trained: its weights are random." in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    names = ("model.safetensors", "config.json")
    assert all((tmp_path / "a" / one).read_bytes() == (tmp_path / "b" / one).read_bytes() for one in names)


def test_what_is_pushed_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    from l2a_transfer.models.hub import HubModel

    sent: dict[str, bytes] = {}

    def upload(self: object, *, repo_id: str, folder_path: str | Path, **_: object) -> str:
        sent.update({f"{repo_id}/{one.name}": one.read_bytes() for one in Path(folder_path).iterdir()})
        return "sent"

    class Created:
        repo_id = "me/att2"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *_, **__: Created())
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    HubModel(TINY).push_to_hub("me/att2")
    assert {"me/att2/README.md", "me/att2/config.json", "me/att2/model.safetensors"} <= set(sent)


def test_folders_that_are_none_of_ours(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    from l2a_transfer.models.hub import HubModel

    with pytest.raises(WeightsError, match=r"contains no model\.safetensors; use a folder that save_pretrained wrote"):
        HubModel.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="not an l2a-transfer weights file"):
        HubModel.from_pretrained(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_timm_makes_our_networks() -> None:
    timm = pytest.importorskip("timm")
    import l2a_transfer.timm

    assert "l2a_vgg_att2_concat_pc" in timm.list_models("l2a_*")
    assert len(timm.list_models("l2a_*")) == len(l2a_transfer.list_models(pretrained=False))
    pairs = timm.create_model("l2a_vgg_att2_concat_pc_co", pretrained=False, width=0.0625).eval()
    assert torch.equal(pairs(IMAGES), pairs(IMAGES, IMAGES[:, None]))
    network, card = l2a_transfer.load_model(BUNDLED)
    made = timm.create_model("l2a_vgg_att2_concat_pc.cifar10_w025", pretrained=True).eval()
    assert torch.equal(made(IMAGES), network(IMAGES))
    features = timm.create_model("l2a_vgg_att2_concat_pc.cifar10_w025", pretrained=True, num_classes=0).eval()
    assert torch.equal(features(IMAGES), network.attend(IMAGES).features)
    assert features.num_features == 256
    data = timm.data.resolve_data_config({}, model=made)
    assert (data["input_size"], data["mean"], data["std"]) == ((3, 32, 32), card.preprocess.mean, card.preprocess.std)
    thin = timm.create_model("l2a_vgg_att1_pc", num_classes=7, width=0.0625)
    assert thin.num_classes == thin.config.num_classes == 7


@pytest.mark.filterwarnings("ignore")
def test_what_timm_asks_for_and_we_have_not() -> None:
    timm = pytest.importorskip("timm")
    import l2a_transfer.timm  # noqa: F401

    with pytest.raises(ArgumentError, match="in_chans must be 3, got 1"):
        timm.create_model("l2a_vgg_att1_pc", in_chans=1, width=0.0625)
    with pytest.raises(TypeError, match="unexpected keyword argument 'widht'; did you mean 'width'"):
        timm.create_model("l2a_vgg_att1_pc", widht=1)
    with pytest.raises(ArgumentError):
        timm.create_model("l2a_vgg_att1_pc", pretrained=True)
