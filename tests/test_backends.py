"""The backends give the features of the formula, of each other, and the same bytes twice."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.data.decode import to_rgb
from l2a_transfer.devices import ieee_float32
from l2a_transfer.errors import ArgumentError, BackendError, DeviceError, UnknownNameError
from l2a_transfer.explain.dispatch import compute_maps
from l2a_transfer.features.backends.interface import level_columns
from l2a_transfer.features.backends.onnx import OnnxBackend, read_onnx, refers_to_other_files, with_sha256
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.features.backends.torch import TorchBackend
from l2a_transfer.models.config import FAMILIES
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.networks.plain import VGG
from l2a_transfer.preprocess import normalize
from tests.conftest import TINY


def pixels(batch: int = 5, side: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (batch, 3, side, side), dtype=np.uint8)


@pytest.fixture
def exported(exported_tiny: Path) -> Path:
    return exported_tiny


def test_one_level_as_a_string_is_refused_and_not_taken_letter_by_letter() -> None:
    for model in ("pixels", TINY):
        with pytest.raises(TypeError, match=r"levels must be a list of names, such as \['L2'\]; got str"):
            open_backend(model, device="cpu", levels="L2")


def test_pixels_are_the_bytes_over_255() -> None:
    batch = np.zeros((1, 3, 32, 32), dtype=np.uint8)
    batch[0, 2, 31, 31] = 51
    features = PixelsBackend().features(batch)
    assert features.shape == (1, 3072)
    assert features.dtype == np.float32
    assert features[0, -1] == np.float32(0.2)
    assert features[0, :-1].max() == 0


@pytest.mark.parametrize("model", [TINY, "exported", "pixels"])
@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (
            pixels() / np.float32(255),
            TypeError,
            r"got float32 \(5, 3, 32, 32\); convert values between 0 and 1 with np\.rint\(255 \* x\)",
        ),
        (pixels().astype(np.int64), TypeError, "got int64"),
        (torch.from_numpy(pixels()), TypeError, r"got Tensor; .*tensor\.numpy\(\)"),
        (list(pixels()), TypeError, "got list"),
        (pixels(side=33), ValueError, r"\(B, 3, 32, 32\); got \(5, 3, 33, 33\); .*preprocess\.pixels"),
        (pixels().transpose(0, 2, 3, 1), ValueError, r"got \(5, 32, 32, 3\); channels come first: x\.transpose"),
        (pixels()[0], ValueError, r"got \(3, 32, 32\); for a single image, use x\[None\]"),
        (pixels()[:, :1], ValueError, r"got \(5, 1, 32, 32\)"),
    ],
)
def test_pixels_of_another_kind_size_or_order_are_refused(
    exported: Path, model: str, images: NDArray[np.uint8], error: type[Exception], words: str
) -> None:
    backend = open_backend(str(exported) if model == "exported" else model, device="cpu")
    for compute in (backend.features, lambda batch: list(backend.stream([batch]))):
        with pytest.raises(error, match=words):
            compute(images)


def test_a_picture_that_is_not_rgb_is_refused() -> None:
    network, card = load_model(TINY)
    for mode in ("RGBA", "L", "P"):
        image = Image.new(mode, (40, 40))
        for compute in (card.preprocess.pixels, partial(compute_maps, network, card.preprocess, name="x")):
            with pytest.raises(ValueError, match=f"must have the mode RGB, got {mode}; .*to_rgb"):
                compute(image=image)
        assert card.preprocess.pixels(to_rgb(image, "x")).shape == (3, 32, 32)
    with pytest.raises(
        TypeError, match=r"Pillow image of mode RGB, got ndarray; convert uint8 .* with Image\.fromarray"
    ):
        card.preprocess.pixels(np.zeros((4, 4, 3), np.uint8))  # type: ignore[arg-type]


def test_the_documented_way_from_arrays_to_features(capsys: pytest.CaptureFixture[str]) -> None:
    document = (Path(__file__).parents[1] / "docs" / "extraction.md").read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", document, re.DOTALL) if "backend.features" in b)
    names: dict[str, Any] = {}
    exec(compile(block, "extraction.md", "exec"), names)
    assert names["features"].shape == (10, 256)
    assert "'L3': (10, " in capsys.readouterr().out


@pytest.mark.parametrize("model", [TINY, "exported", "pixels"])
def test_a_view_of_pixels_gives_the_features_of_its_copy(exported: Path, model: str) -> None:
    backend = open_backend(str(exported) if model == "exported" else model, device="cpu")
    channels_last = np.ascontiguousarray(pixels().transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(backend.features(channels_last.transpose(0, 3, 1, 2)), backend.features(pixels()))
    np.testing.assert_array_equal(backend.features(pixels()[:, ::-1]), backend.features(pixels()[:, ::-1].copy()))


def test_level_columns_tile_the_feature() -> None:
    widths = {"L1": 2, "L2": 3, "L3": 4}
    assert level_columns(widths, None) == (("L1", 0, 2), ("L2", 2, 5), ("L3", 5, 9))
    assert level_columns(widths, ["L3", "L1"]) == (("L1", 0, 2), ("L3", 2, 6))
    with pytest.raises(UnknownNameError, match="'L2'"):
        level_columns(widths, ["l2"])


def test_torch_backend_normalises_and_concatenates_g_a() -> None:
    network, card = load_model(TINY)
    found = TorchBackend(network, card, device="cpu").features(pixels())
    mean = np.asarray(card.preprocess.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(card.preprocess.std, dtype=np.float32)[:, None, None]
    with torch.inference_mode():
        attended = network.attend(torch.from_numpy((pixels() / np.float32(255) - mean) / std).float())
    assert found.shape == (5, 64)
    np.testing.assert_allclose(found[:, :32], attended.g_a["L2"].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[:, 32:], attended.g_a["L3"].numpy(), rtol=1e-4, atol=1e-5)


def test_the_same_batch_gives_the_same_bytes() -> None:
    backend = open_backend(TINY, device="cpu")
    assert backend.features(pixels()).tobytes() == backend.features(pixels()).tobytes()


def test_taps_differ_and_bn_relu_is_not_negative() -> None:
    ga = open_backend("untrained:vgg-att2-concat-dp@0.0625", device="cpu").features(pixels())
    seen = open_backend("untrained:vgg-att2-concat-dp@0.0625", device="cpu", tap="ga-bn-relu").features(pixels())
    assert seen.min() >= 0
    # A fresh batch norm divides by sqrt(1 + eps) alone.
    np.testing.assert_allclose(seen, np.maximum(ga, 0) / np.sqrt(np.float32(1.001)), rtol=1e-5, atol=1e-6)


def test_the_tap_local_is_the_mean_over_positions_of_the_local_features() -> None:
    network, card = load_model("untrained:vgg@0.0625")
    with torch.inference_mode():
        local = network.attend(normalize(torch.from_numpy(pixels()), *card.preprocess.statistics("cpu"))).local
    whole = open_backend("untrained:vgg@0.0625", device="cpu", tap="local")
    assert whole.levels == (("L1", 0, 16), ("L2", 16, 48), ("L3", 48, 80))
    found = whole.features(pixels())
    for level, start, stop in whole.levels:
        expected = local[level].mean(dim=(2, 3)).numpy()
        assert expected.std() > 0
        np.testing.assert_allclose(found[:, start:stop], expected, rtol=1e-4, atol=1e-5)
        one = open_backend("untrained:vgg@0.0625", device="cpu", tap="local", levels=[level])
        np.testing.assert_array_equal(one.features(pixels()), found[:, start:stop])


def test_the_pooled_last_map_of_gap_is_its_feature() -> None:
    ga, local = (
        open_backend("untrained:vgg-gap@0.0625", device="cpu", tap=tap, levels=levels).features(pixels())
        for tap, levels in (("ga", None), ("local", ["L3"]))
    )
    np.testing.assert_array_equal(local, ga)


@pytest.mark.parametrize("architecture", [family.architectures[0].name for family in FAMILIES.values()])
def test_every_family_of_the_package_has_local_features(architecture: str) -> None:
    backend = open_backend(f"untrained:{architecture}@0.03125", device="cpu", tap="local")
    images = pixels()
    if backend.partners:  # type: ignore[attr-defined]
        images = np.stack([images, images[::-1]], axis=1)
    assert backend.features(images).shape == (5, 8 + 16 + 16)


def test_a_network_without_local_features_refuses_their_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_backend("untrained:vgg@0.03125", device="cpu", tap="local", levels=["L2"])
    attend = VGG.attend
    monkeypatch.setattr(VGG, "attend", lambda self, images: dataclasses.replace(attend(self, images), local={}))
    with pytest.raises(ArgumentError, match=r"tap 'local': .* has no local features of level L2; use tap 'ga'"):
        backend.features(pixels())


def test_one_level_is_a_slice_of_all(exported: Path) -> None:
    for model in (TINY, str(exported)):
        whole = open_backend(model, device="cpu").features(pixels())
        one = open_backend(model, device="cpu", levels=["L3"])
        assert one.levels == (("L3", 0, 32),)
        np.testing.assert_array_equal(one.features(pixels()), whole[:, 32:])


def test_bf16_is_near_fp32() -> None:
    exact = open_backend(TINY, device="cpu").features(pixels())
    rough = open_backend(TINY, device="cpu", precision="bf16").features(pixels())
    assert not np.array_equal(exact, rough)
    assert np.linalg.norm(rough - exact) < 2e-2 * np.linalg.norm(exact)


def test_onnx_and_torch_agree(exported: Path) -> None:
    onnx_features = OnnxBackend(exported, device="cpu").features(pixels())
    torch_features = open_backend(TINY, device="cpu").features(pixels())
    assert np.linalg.norm(onnx_features - torch_features) < 1e-4 * np.linalg.norm(torch_features)


@pytest.mark.parametrize("kind", ["onnx", "torch", "pixels"])
@pytest.mark.parametrize("attention", [False, True])
def test_no_pictures_give_no_rows(kind: str, attention: bool, exported: Path) -> None:
    backend = {"onnx": str(exported), "torch": TINY, "pixels": "pixels"}[kind]
    opened = open_backend(backend, device="cpu")
    one, none = (next(opened.stream([pixels(n)], attention=attention)) for n in (1, 0))
    assert (none.features.shape, none.features.dtype) == ((0, one.features.shape[1]), np.float32)
    assert {k: (v.shape, v.dtype) for k, v in none.maps.items()} == {
        k: ((0, *v.shape[1:]), v.dtype) for k, v in one.maps.items()
    }
    assert opened.features(pixels(0)).shape == none.features.shape
    if isinstance(opened, OnnxBackend):
        assert opened.run_bound(pixels(0), ["features"])["features"].shape == none.features.shape


def test_tf32_is_off_inside_and_restored_after() -> None:
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    try:
        with pytest.raises(KeyError), ieee_float32():
            raise KeyError
        assert matmul.allow_tf32
        with ieee_float32():
            assert not matmul.allow_tf32
    finally:
        matmul.allow_tf32 = before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("model", [TINY, "pixels"])
def test_cuda_without_a_gpu_is_an_error(model: str) -> None:
    with pytest.raises(DeviceError, match="no CUDA GPU; use `device='cpu'`"):
        open_backend(model, device="cuda")


def test_names_that_do_not_exist() -> None:
    for option in ({"backend": "tourch"}, {"tap": "g-a"}, {"precision": "fp23"}, {"device": "gpu"}):
        with pytest.raises(UnknownNameError, match="must be one of"):
            open_backend(TINY, **option)


def test_an_onnx_file_has_one_tap_and_one_precision(exported: Path) -> None:
    for tap in ("ga-bn-relu", "local"):
        with pytest.raises(BackendError, match=f"only the tap 'ga', got '{tap}'"):
            open_backend(str(exported), tap=tap)
    with pytest.raises(BackendError, match="float32"):
        open_backend(str(exported), precision="bf16")
    with pytest.raises(
        BackendError,
        match=r"runs in onnxruntime; torch accepts .*; leave out `backend`, or use `backend='onnxruntime'`",
    ):
        open_backend(str(exported), backend="torch")
    with pytest.raises(
        BackendError, match=r"runs in torch; onnxruntime accepts FILE\.onnx, which 'l2a-transfer export'"
    ):
        open_backend(TINY, backend="onnxruntime")


def test_the_pixels_take_no_option_of_a_network() -> None:
    with pytest.raises(BackendError, match=r"^pixels: pixels has no such option; leave out `precision` and `tap`$"):
        open_backend("pixels", tap="ga-bn-relu", precision="bf16")
    with pytest.raises(BackendError, match=r"^pixels: runs in pixels; torch accepts a bundled name"):
        open_backend("pixels", backend="torch")
    assert open_backend("pixels", backend="pixels", precision="fp32").name == "pixels"


def foreign_model() -> onnx.ModelProto:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [out])
    return onnx.helper.make_model(graph)


def test_an_onnx_file_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(foreign_model().SerializeToString())
    with pytest.raises(BackendError, match=r"foreign\.onnx: an ONNX file of another program"):
        read_onnx(path)


def test_a_card_alone_does_not_make_it_ours(exported: Path, tmp_path: Path) -> None:
    _, card = read_onnx(exported)
    model = foreign_model()
    entry = model.metadata_props.add()
    entry.key, entry.value = "l2a-card", json.dumps(card.to_json())
    path = tmp_path / "foreign.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match="must have the input 'images'"):
        read_onnx(path)


def test_onnx_with_data_in_other_files(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    assert not refers_to_other_files(model)
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    path = tmp_path / "external.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match="stores data in other files"):
        OnnxBackend(path, device="cpu")


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "missing", "folder"])
def test_a_damaged_onnx_file(exported: Path, tmp_path: Path, damage: str) -> None:
    path, content = tmp_path / "damaged.onnx", exported.read_bytes()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "garbage": b"\xff" * 999, "cut": content[: len(content) // 2]}[damage])
    with pytest.raises(BackendError, match=r"damaged\.onnx"):
        OnnxBackend(path, device="cpu")


def test_a_graph_that_does_not_do_what_its_card_says(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    shape = next(o for o in model.graph.output if o.name == "features").type.tensor_type.shape
    producer = next(n for n in model.graph.node if "features" in n.output)
    producer.op_type = "NoSuchOperator"
    assert shape is not None
    path = tmp_path / "broken.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match="changed since it was exported"):
        OnnxBackend(path, device="cpu")
    path.write_bytes(with_sha256(model.SerializeToString()))
    with pytest.raises(BackendError, match=r"unexpected content for an exported file: .* operator 'NoSuchOperator'"):
        OnnxBackend(path, device="cpu")


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_cuda_agrees_with_the_cpu(precision: str, tolerance: float) -> None:
    expected = open_backend(TINY, device="cpu").features(pixels(16))
    backend = open_backend(TINY, device="cuda", precision=precision)
    found = backend.features(pixels(16))
    assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)
    assert found.tobytes() == backend.features(pixels(16)).tobytes()
