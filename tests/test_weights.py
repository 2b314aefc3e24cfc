"""Weights on disk: what goes in comes out, the card is true, and a file that does not fit is refused by name."""

from __future__ import annotations

import errno
import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from l2a_transfer.errors import UnknownNameError, WeightsError
from l2a_transfer.models.config import ARCHITECTURES, ModelConfig
from l2a_transfer.models.interface import Network
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import (
    CARD_KEY,
    PRETRAINED,
    Card,
    count_parameters,
    load_weights,
    pretrained_names,
    read_card,
    save_weights,
)
from l2a_transfer.preprocess import Preprocess
from tests.conftest import TINY, assert_fails, l2a, with_partners

CONFIG = ModelConfig("vgg-att2-concat-pc", num_classes=3, width=1 / 32, dropout=0.0)


def card_of(model: Network) -> Card:
    return Card(
        "small",
        model.config,
        Preprocess(size=24, fit="crop"),
        ("a", "b", "c"),
        count_parameters(model),
        {"data": "toy", "seed": 3},
        {"test_accuracy": {"value": 0.5, "n": 10, "seeds": 1}},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = build_model(CONFIG, seed=0)
    save_weights(model, card_of(model), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_comes_back(name: str, tmp_path: Path) -> None:
    model = build_model(ModelConfig(name, num_classes=3, width=1 / 32), seed=1).eval()
    save_weights(model, card_of(model), tmp_path / "w.safetensors")
    loaded, card = load_weights(tmp_path / "w.safetensors")
    assert card == card_of(model)
    assert not loaded.training
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            assert loaded.state_dict()[key].dtype == torch.float32
            assert torch.equal(loaded.state_dict()[key], value.half().float()), key
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.isfinite(loaded(*with_partners(loaded, images))).all()


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> Path:
    """The file after `change(tensors, card)`."""
    tensors, card = load_file(path), read_card(path).to_json()
    change(tensors, card)
    save_file(tensors, path, metadata={CARD_KEY: json.dumps(card)})
    return path


def drop(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
    del tensors["attention.L2.u"]


def add(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
    tensors["global_branch.linear.weight"] = torch.zeros(16, 16)


def poison(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
    tensors["attention.L3.u"][2] = torch.nan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop, r"missing attention\.L2\.u"),
        (add, r"extra global_branch\.linear\.weight"),
        (poison, r"tensor attention\.L3\.u has values that are not finite"),
        (lambda t, _: t.update({"attention.L2.u": torch.zeros(17)}), r"L2\.u has shape \(17,\), expected \(16,\)"),
        (lambda t, _: t.update({"attention.L2.u": torch.zeros(16, dtype=torch.int8)}), "dtype torch.int8"),
        (lambda _, card: card["config"].update(width=8.0), "has shape"),
        (lambda _, card: card["config"].update(architecture="vgg-att9"), "architecture must be one of"),
        (lambda _, card: card["config"].update(width=1e9), "width must be between"),
        (lambda _, card: card["preprocess"].update(size=10**9), "size must be between"),
        (lambda _, card: card.update(schema="other/2"), "schema must be 'l2a-weights/1', got 'other/2'"),
        (lambda _, card: card.pop("config"), "card has no 'config'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(saved: Path, change: Any, words: str) -> None:
    with pytest.raises(WeightsError, match=rf"w\.safetensors: .*{words}"):
        load_weights(rewritten(saved, change))


def test_the_command_line_says_the_same_and_writes_nothing(saved: Path, tmp_path: Path) -> None:
    rewritten(saved, drop)
    out = tmp_path / "f.h5"
    result = l2a("extract", "--model", saved, "--data", "digits", "--out", out)
    assert_fails(result, 1, str(saved), "missing attention.L2.u")
    assert not out.exists()
    assert not (tmp_path / "f.h5.shards").exists()


@pytest.mark.parametrize("keep", [0, 4, 100, 2000, -1])
def test_a_truncated_file_is_refused(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"w\.safetensors: "):
        load_weights(saved)


def test_files_of_other_programs(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(tmp_path / "none.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="weights of another program"):
        load_weights(tmp_path / "other.safetensors")
    torch.save({"x": torch.zeros(2)}, tmp_path / "pickle.safetensors")
    with pytest.raises(WeightsError, match="not an l2a-transfer weights file"):
        load_weights(tmp_path / "pickle.safetensors")


def test_bundled_weights() -> None:
    names = pretrained_names()
    assert names == [
        f"vgg-att2-concat-{kind}.cifar10-{width}" for kind in ("pc", "uniform") for width in ("w025", "w050")
    ]
    assert sum(path.stat().st_size for path in PRETRAINED.iterdir()) < 20_000_000
    with pytest.raises(
        UnknownNameError,
        match=r"^'vgg-att2-concat-pc' is an architecture; its weights are vgg-att2-concat-pc\.cifar10-w025, "
        r"vgg-att2-concat-pc\.cifar10-w050; use one of them, or 'untrained:vgg-att2-concat-pc'",
    ):
        load_model("vgg-att2-concat-pc")
    for name in names:
        network, card = load_model(name)
        assert card.name == name
        assert card.metrics["test_accuracy"]["value"] >= 0.90
        assert card.metrics["test_accuracy"]["n"] == 10_000
        assert card.parameters == count_parameters(network)
        assert {v.dtype for v in load_file(PRETRAINED / f"{name}.safetensors").values()} == {torch.float16}


def test_untrained_weights_are_a_function_of_the_seed() -> None:
    one, card = load_model(TINY, seed=5)
    same, _ = load_model(TINY, seed=5)
    other, _ = load_model(TINY, seed=6)
    assert card.training == {"untrained": True, "seed": 5}
    key = "trunk.4.2.0.weight"
    assert torch.equal(one.state_dict()[key], same.state_dict()[key])
    assert not torch.equal(one.state_dict()[key], other.state_dict()[key])


def test_an_untrained_control_has_the_width_of_the_network_that_it_controls() -> None:
    train = importlib.import_module("l2a_transfer.cli.train").command
    option = next(parameter for parameter in train.params if parameter.name == "width")
    assert (option.default, ModelConfig("vgg").width) == (0.25, 0.25)
    network, card = load_model("untrained:vgg-att2-concat-pc", seed=3)
    named, same = load_model("untrained:vgg-att2-concat-pc@0.250", seed=3)
    _, bundled = load_model("vgg-att2-concat-pc.cifar10-w025")
    assert network.config.width == bundled.config.width
    assert card == same  # its name says the width, however it was asked for
    assert card.name == "untrained:vgg-att2-concat-pc@0.25"
    assert torch.equal(network.state_dict()["trunk.0.0.0.weight"], named.state_dict()["trunk.0.0.0.weight"])
    names = {load_model(f"untrained:vgg@{width}")[1].name for width in ("1", "1.0", "0.0625", "0.06250001")}
    assert names == {"untrained:vgg@1", "untrained:vgg@0.0625", "untrained:vgg@0.06250001"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vgg-att2-concat-dp", "untrained:vgg-att2-concat-dp"),
        ("vgg-att2-concat-pc.cifar10-w25", "did you mean 'vgg-att2-concat-pc.cifar10-w025'"),
        ("pixel", "did you mean 'pixels'"),
        ("untrained:vgg-att2-concat-p", "did you mean 'vgg-att2-concat-pc'"),
        ("untrained:vgg@wide", "wide"),
        ("untrained:vgg@100", "width must be between"),
    ],
)
def test_unknown_names_give_the_nearest(name: str, words: str) -> None:
    with pytest.raises(UnknownNameError, match=words):
        load_model(name)


def test_every_changed_byte_of_a_file_is_found(tmp_path: Path) -> None:
    network, card = load_model(TINY)
    path = tmp_path / "w.safetensors"
    save_weights(network, card, path)
    content = bytearray(path.read_bytes())
    assert content.count(b"l2a-sha256") == 1
    rng = np.random.default_rng(0)
    for place in [*range(8), *rng.integers(8, len(content), 60).tolist(), len(content) - 1]:
        content[place] ^= 1 << (place % 8)
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"w\.safetensors: "):
            read_card(path)
        content[place] ^= 1 << (place % 8)
    path.write_bytes(content)
    assert read_card(path) == card


def test_a_digest_whose_name_was_damaged_is_missed(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes().replace(b"l2a-sha256", b"l2a-sha2%6"))
    with pytest.raises(WeightsError, match=r"the header has the unexpected key 'l2a-sha2%6'"):
        read_card(saved)


def test_a_full_disk_leaves_the_file_of_before_and_no_other(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    network, card = load_model(TINY)
    with pytest.raises(WeightsError, match=r"cannot be written: No space left on device; free some space"):
        save_weights(network, card, saved)
    assert saved.read_bytes() == before
    assert not saved.with_name(saved.name + ".partial").exists()


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    network, card = load_model(TINY)
    for name in "abcdefgh":
        save_weights(network, card, tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in "abcdefgh"}) == 1


def test_files_of_before_the_sha256_was_written_still_load(tmp_path: Path) -> None:
    network, card = load_model(TINY)
    save_weights(network, card, tmp_path / "w.safetensors")
    tensors = load_file(tmp_path / "w.safetensors")
    save_file(tensors, tmp_path / "old.safetensors", metadata={CARD_KEY: json.dumps(card.to_json())})
    assert load_weights(tmp_path / "old.safetensors")[1] == card


def test_the_bundled_weights_carry_their_sha256() -> None:
    for name in pretrained_names():
        assert b'"l2a-sha256"' in (PRETRAINED / f"{name}.safetensors").read_bytes()
