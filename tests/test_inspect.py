"""`inspect` says what a file holds, by its content, and refuses what it does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from l2a_transfer.models.weights import PRETRAINED
from tests.conftest import TINY, assert_fails, l2a

FEATURES = Path(__file__).parent / "data" / "features-v1.h5"
WEIGHTS = PRETRAINED / "vgg-att2-concat-pc.cifar10-w025.safetensors"


def test_features_as_json() -> None:
    result = l2a("inspect", FEATURES, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["kind"], found["rows"], found["dim"], found["dtype"]) == ("features", 4, 3, "float32")
    assert found["rows_per_split"] == {"train": 2, "test": 2}
    assert found["unlabelled"] == 1
    assert found["classes"] == ["ant", "bée"]
    assert found["levels"] == [["L2", 0, 2], ["L3", 2, 3]]
    assert found["fingerprint"] == {"data": "abc", "batch_size": 64}


def test_weights_as_text_and_json() -> None:
    text = l2a("inspect", WEIGHTS).stdout
    assert ["card.config.architecture", "vgg-att2-concat-pc"] in [line.split() for line in text.splitlines()]
    found = json.loads(l2a("inspect", WEIGHTS, "--json").stdout)
    assert found["kind"] == "weights"
    assert found["card"]["metrics"]["test_accuracy"]["n"] == 10000


def test_onnx(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert l2a("export", "--model", TINY, "--out", path).exit_code == 0
    found = json.loads(l2a("inspect", path, "--json").stdout)
    assert (found["kind"], found["card"]["name"]) == ("onnx", TINY)


@pytest.mark.parametrize("name", ["a.h5", "a.onnx", "a.safetensors", "a.txt"])
def test_files_of_others(tmp_path: Path, name: str) -> None:
    assert_fails(l2a("inspect", tmp_path / name), 1, str(tmp_path / name))
    (tmp_path / name).write_bytes(b"something else entirely, and long enough to be read as a header")
    assert_fails(l2a("inspect", tmp_path / name), 1, str(tmp_path / name))
