"""ONNX files of any program as backbones: outputs and values inside of the graph, with the preprocess that is given."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from l2a_transfer.errors import ArgumentError, BackendError, UnknownNameError
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.preprocess import Preprocess
from tests.conftest import assert_fails, l2a, save_picture

GIVEN: dict[str, Any] = {"device": "cpu", "image_size": 16, "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.5, 1)}
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
MATRIX = RNG.normal(size=(4, 2)).astype(np.float32)


def graph(
    sides: tuple[Any, ...] = ("N", 3, "H", "H"), kind: int = TensorProto.FLOAT, outside: bool = False
) -> onnx.ModelProto:
    """Pixels → convolution "maps" → mean over positions "mean" → "logits"."""
    constants = [numpy_helper.from_array(KERNEL, "kernel"), numpy_helper.from_array(MATRIX, "matrix")]
    if outside:
        constants[0].ClearField("raw_data")
        constants[0].data_location = TensorProto.EXTERNAL
        constants[0].external_data.add(key="location", value="/etc/passwd")
    nodes = [
        helper.make_node("Cast", ["pixels"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["numbers", "kernel"], ["maps"], strides=[2, 2]),
        helper.make_node("ReduceMean", ["maps", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "matrix"], ["logits"]),
    ]
    constants.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    inputs = [helper.make_tensor_value_info("pixels", kind, sides)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (sides[0], 2))]
    made = helper.make_graph(nodes, "net", inputs, outputs, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def write(path: Path, model: onnx.ModelProto) -> str:
    path.write_bytes(model.SerializeToString())
    return f"onnx:{path}"


def pixels(batch: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (batch, 3, 16, 16), dtype=np.uint8)


def by_hand(images_u8: NDArray[np.uint8], mean: Any = GIVEN["mean"], std: Any = GIVEN["std"]) -> tuple[Any, Any]:
    unit = images_u8 / np.float32(255)
    normalised = (unit - np.float32(mean)[:, None, None]) / np.float32(std)[:, None, None]
    maps = functional.conv2d(torch.from_numpy(normalised), torch.from_numpy(KERNEL), stride=2)
    return maps.mean(dim=(2, 3)).numpy(), maps.mean(dim=(2, 3)).numpy() @ MATRIX


@pytest.mark.parametrize("sides", [("N", 3, "H", "H"), (1, 3, 16, 16)])
def test_outputs_and_values_inside_are_those_of_the_formula(tmp_path: Path, sides: tuple[Any, ...]) -> None:
    model = write(tmp_path / "net.onnx", graph(sides))
    backend = open_backend(model, layer=["maps", "logits"], **GIVEN)
    assert backend.levels == (("maps", 0, 4), ("logits", 4, 6))
    assert backend.preprocess == Preprocess(16, mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 1.0))
    found = backend.features(pixels())
    np.testing.assert_allclose(found, np.concatenate(by_hand(pixels()), axis=1), atol=1e-5)
    assert backend.features(pixels()[:0]).shape == (0, 6)
    copied = pickle.loads(pickle.dumps(backend))  # noqa: S301
    np.testing.assert_array_equal(copied.features(pixels()), found)
    assert open_backend(model, **GIVEN).levels == (("logits", 0, 2),)


def test_uint8_goes_in_as_it_is(tmp_path: Path) -> None:
    model = write(tmp_path / "net.onnx", graph(("N", 3, 16, 16), TensorProto.UINT8))
    backend = open_backend(model, layer=["mean"], device="cpu")
    expected = by_hand(pixels(), (0, 0, 0), (1 / 255,) * 3)[0]
    np.testing.assert_allclose(backend.features(pixels()), expected, rtol=1e-4, atol=1e-2)
    with pytest.raises(ArgumentError, match="mean and std must be left out"):
        open_backend(model, **GIVEN)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layer": ["map"]}, UnknownNameError, "got 'map'; did you mean 'maps'"),
        ({"mean": None}, BackendError, r"the preprocessing of this model is unknown; give `mean` \(and `fit`\)"),
        ({"image_size": None}, BackendError, "give `image_size`"),
        ({"mean": [1]}, ArgumentError, "mean must be three numbers, one for each channel"),
        ({"weights": "x.pth"}, BackendError, "onnx has no such option; leave out `weights`"),
        ({"precision": "bf16"}, BackendError, "onnx has no such option; leave out `precision`"),
    ],
)
def test_an_option_that_cannot_be_is_named(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        open_backend(write(tmp_path / "net.onnx", graph()), **{**GIVEN, **options})


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    for name, content, words in (
        ("text.onnx", b"not a graph", "not an ONNX file, or corrupt"),
        ("empty.onnx", b"", "not an ONNX file, or corrupt"),
        ("outside.onnx", graph(outside=True).SerializeToString(), "stores data in other files, which is not allowed"),
        (
            "grey.onnx",
            graph(("N", 1, 16, 16)).SerializeToString(),
            r"must have pictures .*has pixels \[0, 1, 16, 16\]",
        ),
        (
            "side.onnx",
            graph(("N", 3, 32, 32)).SerializeToString(),
            "image_size must be 32, the side of the file's input",
        ),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises((BackendError, ArgumentError), match=words):
            open_backend(f"onnx:{tmp_path / name}", **GIVEN)
    with pytest.raises(BackendError, match="cannot be read: No such file"):
        open_backend(f"onnx:{tmp_path / 'none.onnx'}", **GIVEN)


def test_the_command_line_takes_it(tmp_path: Path) -> None:
    model = write(tmp_path / "net.onnx", graph(("N", 3, 16, 16)))
    for number in range(4):
        save_picture(tmp_path / "photos" / "a" / f"{number}.jpg", seed=number)
    out = tmp_path / "f.h5"
    line = ("extract", "--model", model, "--data", f"imagefolder:{tmp_path / 'photos'}", "--out", out)
    assert_fails(l2a(*line), 1, "give --mean and --std (and --fit)")
    assert not out.exists()
    result = l2a(*line, "--mean", "0.5,0.5,0.5", "--std", "1,1,1", "--layer", "maps", "--device", "cpu")
    assert result.exit_code == 0, result.output
    rows = json.loads(l2a("layers", "--model", model, "--json").stdout)
    assert rows[0] == {"name": "logits", "kind": "MatMul", "shape": [2], "parameters": 0, "is_default": True}
    assert {"name": "maps", "kind": "Conv", "shape": [4, 7, 7], "parameters": 0, "is_default": False} in rows


def test_a_graph_that_reads_the_whole_batch_is_refused(tmp_path: Path) -> None:
    made = graph()
    made.graph.node[2].output[0] = "own"
    added = [
        helper.make_node("ReduceMean", ["own", "first"], ["common"], keepdims=1),
        helper.make_node("Sub", ["own", "common"], ["mean"]),
    ]
    nodes = [*made.graph.node[:3], *added, made.graph.node[3]]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    made.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
    with pytest.raises(
        BackendError, match="the layer 'logits' returns different numbers for the same image in another batch"
    ):
        open_backend(write(tmp_path / "net.onnx", made), **GIVEN)
