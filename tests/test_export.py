"""An exported file stands alone: uint8 in, the same features out, and nothing of the exporting machine inside."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from l2a_transfer import export
from l2a_transfer.errors import BackendError
from l2a_transfer.export import export_onnx, relative_error
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.models.digest import network_sha256
from l2a_transfer.models.loading import create_model, load_model
from tests.conftest import TINY, assert_fails, l2a

ARCHITECTURES = [
    "vgg-pan",
    "vgg-dsna",
    "vgg-att2-concat-pc-co",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "vgg",
            "vgg-att2-concat-uniform",
            "vgg-gap",
            "vgg-att1-pc",
            "vgg-att3-concat-dp",
            "vgg-att3-indep-add",
            "vgg-att2-concat-uniform-co",
        )
    ),
]


def test_relative_error_is_the_worst_row() -> None:
    expected = np.array([[3.0, 4.0], [0.0, 10.0]])
    found = np.array([[3.0, 4.5], [0.0, 10.0]])
    assert relative_error(found, expected) == pytest.approx(0.1)
    assert relative_error(expected, expected) == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bare_onnxruntime_gives_the_features_at_any_batch(architecture: str, tmp_path: Path) -> None:
    name = f"untrained:{architecture}@0.0625"
    network, card = load_model(name)
    result = export_onnx((network, card), tmp_path / "tiny.onnx")
    assert result.max_relative_error < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.onnx"]

    session = ort.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"images": pixels}), strict=True))
    backend = open_backend(name, device="cpu")
    assert relative_error(outputs.pop("features"), backend.features(pixels)) < 1e-4
    for level, weights in outputs.items():
        assert weights.shape[0] == 3
        if (architecture, level) != ("vgg-pan", "map_L2") and level != "map_co.gate":  # sigmoids do not sum to 1
            np.testing.assert_allclose(weights.sum(axis=(1, 2)), 1, rtol=1e-5)


def test_the_file_carries_card_and_preprocess_and_no_trace_of_the_machine(exported_tiny: Path) -> None:
    network, card = load_model(TINY)
    path = exported_tiny
    model = onnx.load(path)
    *entries, last = model.metadata_props
    metadata = {entry.key: json.loads(entry.value) for entry in entries}
    assert last.key == "l2a-sha256"
    assert hashlib.sha256(path.read_bytes()[:-80]).hexdigest() == last.value
    assert metadata.pop("l2a-weights-sha256") == network_sha256(network)
    assert metadata == {"l2a-card": card.to_json(), "l2a-preprocess": card.preprocess.to_json()}
    assert str(Path(export.__file__).parent).encode() not in path.read_bytes()
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.mark.slow
def test_two_exports_have_the_same_bytes(exported_tiny: Path, tmp_path: Path) -> None:
    network, card = load_model(TINY)
    assert export_onnx((network, card), tmp_path / "again.onnx").path.read_bytes() == exported_tiny.read_bytes()


@pytest.mark.slow
def test_a_file_that_differs_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, card = load_model(TINY)
    earlier = tmp_path / "tiny.onnx"
    earlier.write_bytes(b"earlier")
    monkeypatch.setattr(export.ExportedExtractor, "forward", _half_features)
    with pytest.raises(BackendError, match="the relative difference of ONNX Runtime from PyTorch is"):
        export_onnx((network, card), earlier, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.onnx"]
    assert earlier.read_bytes() == b"earlier"


def _half_features(self, images):  # type: ignore[no-untyped-def]
    attended = self.model.attend((images.float() / 255 - self.mean) / self.std)
    return (attended.features * 0.999, *attended.maps.values())


@pytest.mark.slow
def test_the_command_prints_what_it_checked(tmp_path: Path) -> None:
    out = tmp_path / "sub" / "tiny.onnx"
    result = l2a("export", "--model", TINY, "--out", out)
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout
    assert "outputs features, map_L2, map_L3" in result.stdout
    before = out.read_bytes()
    assert_fails(l2a("export", "--model", TINY, "--out", out), 1, str(out), "exists", "--overwrite")
    assert out.read_bytes() == before


def test_bad_names(tmp_path: Path) -> None:
    assert_fails(l2a("export", "--model", TINY, "--out", tmp_path / "tiny.h5"), 2, ".onnx")
    assert_fails(l2a("export", "--model", "vgg-att2-concat-cp", "--out", tmp_path / "a.onnx"), 2, "vgg-att2-concat-pc")


def test_a_normalizer_that_onnx_has_no_operators_for_is_refused_by_name(tmp_path: Path) -> None:
    out = tmp_path / "x.onnx"
    network = create_model("vgg-att1-pc", width=1 / 32, normalizer="tvmax:0.2", seed=0)
    with pytest.raises(BackendError, match=r"its normalizer tvmax:0.2 is computed iteratively.*; run it in PyTorch"):
        export_onnx(network, out)
    assert list(tmp_path.iterdir()) == []
    uniform = create_model("vgg-att1-uniform", width=1 / 32, normalizer="tvmax:0.2", seed=0)  # it has no scores
    assert export_onnx(uniform, out).max_relative_error < 1e-4
