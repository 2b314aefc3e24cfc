"""`inspect` says what a file holds, by its content, and refuses what it does not know."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from l2a_transfer.errors import BackendError
from l2a_transfer.features.store import views
from l2a_transfer.features.store.verify import verify_features, verify_onnx
from l2a_transfer.features.store.writer import write_features
from l2a_transfer.models.weights import PRETRAINED
from tests.conftest import TINY, assert_fails, l2a
from tests.feature_files import blobs, feature_set, labels_of
from tests.feature_files import save as save_set
from tests.test_store import FEATURES as TOY
from tests.test_store import MAPS, META, reseal, save, with_maps

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


def test_onnx(exported_tiny: Path) -> None:
    found = json.loads(l2a("inspect", exported_tiny, "--json").stdout)
    assert (found["kind"], found["card"]["name"]) == ("onnx", TINY)
    assert found["inputs"] == {"images": {"type": "uint8", "shape": ["N", 3, 32, 32]}}
    session = ort.InferenceSession(exported_tiny, providers=["CPUExecutionProvider"])
    assert {name: one["shape"] for name, one in found["outputs"].items()} == {
        one.name: one.shape for one in session.get_outputs()
    }
    assert "outputs.features.shape" in l2a("inspect", exported_tiny).stdout


def inspected(path: Path, *options: str, code: int = 0) -> dict[str, Any]:
    result = l2a("inspect", path, "--json", *options)
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_sha256_is_that_of_the_bytes_after_the_user_block() -> None:
    found = inspected(FEATURES)
    assert found["sha256"] == hashlib.sha256(FEATURES.read_bytes()[512:]).hexdigest()
    assert found["bytes"] == FEATURES.stat().st_size
    assert "verify" not in found


def test_verify_finds_what_a_seal_does_not(tmp_path: Path) -> None:
    # Columns 1 and 3 hold one value but for a NaN; row c is a copy of a up to the sign of a zero, e of b.
    features = np.array(
        [[1, 7, 0, -2], [2, 7, 5, -2], [1, 7, -0.0, -2], [3, 7, 4, np.nan], [2, 7, 5, -2], [np.inf, 7, 1, -2]],
        dtype=np.float32,
    )
    meta = dataclasses.replace(META, levels=(("L3", 0, 4),))
    path, whole = tmp_path / "f.h5", np.nan_to_num(features, posinf=9)
    write_features(path, meta, labels=[0] * 6, ids="abcdef", split=[0, 0, 1, 1, 0, 0], blocks=[whole], dim=4)
    found = inspected(path, "--verify")["verify"]
    assert (found["checksums"], found["rows_not_finite"], found["constant_columns"]) == ("ok", 0, 1)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file["features"][:] = features
    reseal(path)
    found = inspected(path, "--verify", code=1)["verify"]
    assert found == {
        "sha256": hashlib.sha256(path.read_bytes()[512:]).hexdigest(),
        "checksums": "ok",
        "rows_not_finite": 2,
        "first_not_finite": ["d", "f"],
        "constant_columns": 2,
        "first_constant": [1, 3],
        "duplicate_rows": 2,
        "duplicates_across_splits": 1,
        "maps_outside_0_1": {},
        "first_duplicates": [["c", "a"], ["e", "b"]],
    }
    assert_fails(l2a("inspect", path, "--verify"), 1, str(path), "not finite")
    assert_fails(l2a("inspect", path), 1, str(path), "2 of 6 rows are not finite, the first is 'd'")


def test_verify_agrees_with_a_whole_that_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = labels_of(3, 40)
    features = blobs(labels)
    features[:, 2] = 5
    features[[50, 119]] = features[7]
    path = save_set(tmp_path / "f.h5", feature_set(labels, features))
    whole = verify_features(path)
    assert whole.constant == (2,)
    assert [pair[1] for pair in whole.copies] == ["img/00007.jpg"] * 2
    monkeypatch.setattr(views, "BLOCK_BYTES", 6 * 4 * 7)
    assert verify_features(path) == whole


def test_verify_names_a_damaged_chunk_and_a_changed_file(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5")
    content = path.read_bytes()
    path.write_bytes(content.replace(TOY.tobytes(), TOY[::-1].tobytes()))
    assert_fails(l2a("inspect", path), 1, "SHA-256 does not match")
    reseal(path)
    assert_fails(l2a("inspect", path, "--verify"), 1, "/features: rows 0…3 are corrupt")


def test_maps_and_skipped_images_are_shown_and_maps_verified(tmp_path: Path) -> None:
    path = with_maps(tmp_path / "f.h5", dataclasses.replace(META, skipped=(("e.jpg", "damaged"),)))
    found = inspected(path, "--verify")
    assert found["maps"] == {level: list(values.shape) for level, values in MAPS.items()}
    assert found["skipped"] == [["e.jpg", "damaged"]]
    assert found["verify"]["maps_outside_0_1"] == dict.fromkeys(MAPS, 0)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file["maps/L2"][1:3] = [np.full(MAPS["L2"].shape[1:], 2), np.full(MAPS["L2"].shape[1:], np.nan)]
    reseal(path)
    found = inspected(path, "--verify", code=1)
    assert found["verify"]["maps_outside_0_1"] == {**dict.fromkeys(MAPS, 0), "L2": 2}
    assert_fails(l2a("inspect", path, "--verify"), 1, str(path), "/maps/L2")


def test_one_row_has_no_constant_columns(tmp_path: Path) -> None:
    meta = dataclasses.replace(META, levels=(("L3", 0, 3),))
    write_features(tmp_path / "f.h5", meta, labels=[0], ids=["a"], split=[0], blocks=[TOY[:1]], dim=3)
    assert verify_features(tmp_path / "f.h5").constant == ()


def test_verify_reads_the_tensors_of_weights_and_onnx(exported_tiny: Path) -> None:
    assert inspected(WEIGHTS, "--verify")["verify"] == {"tensors": "ok"}
    assert inspected(exported_tiny, "--verify")["verify"] == {"tensors": "ok"}


def test_verify_onnx_names_the_tensor(tmp_path: Path) -> None:
    def file_with(tensor: onnx.TensorProto) -> bytes:
        graph = onnx.helper.make_graph([], "g", [], [], initializer=[tensor])
        return onnx.helper.make_model(graph).SerializeToString()

    poisoned = onnx.numpy_helper.from_array(np.array([1, np.nan], np.float32), "w")
    with pytest.raises(BackendError, match=r"m\.onnx: the tensor 'w' has values that are not finite"):
        verify_onnx(Path("m.onnx"), file_with(poisoned))
    short = onnx.TensorProto(name="v", data_type=1, dims=[3], raw_data=b"\0" * 8)
    with pytest.raises(BackendError, match=r"the tensor 'v' is corrupt"):
        verify_onnx(Path("m.onnx"), file_with(short))


def test_names_in_a_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5")
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file.attrs["classes"] = json.dumps(["a\x1b[2J", "\x9bb"])
    reseal(path)
    text = l2a("inspect", path)
    assert text.exit_code == 0
    assert "a\\x1b[2J, \\x9bb" in text.stdout
    assert inspected(path)["classes"] == ["a\x1b[2J", "\x9bb"]


@pytest.mark.parametrize("name", ["a.h5", "a.onnx", "a.safetensors", "a.txt"])
def test_files_of_others(tmp_path: Path, name: str) -> None:
    assert_fails(l2a("inspect", tmp_path / name), 1, str(tmp_path / name))
    (tmp_path / name).write_bytes(b"something else entirely, and long enough to be read as a header")
    assert_fails(l2a("inspect", tmp_path / name), 1, str(tmp_path / name))


def told(path: Path) -> dict[str, str]:
    """What `inspect` prints for people, by key."""
    lines = l2a("inspect", path).stdout.splitlines()
    assert all("  " in line for line in lines)
    keys, values = zip(*(re.split(" {2,}", line, maxsplit=1) for line in lines), strict=True)
    starts = {line.index(value, len(key)) for line, key, value in zip(lines, keys, values, strict=True)}
    assert len(starts) == 1  # values are aligned
    return dict(zip(keys, values, strict=True))


def test_text_is_for_people_and_json_as_it_was(tmp_path: Path) -> None:
    meta = dataclasses.replace(META, fingerprint={"gpu": "", "data": "abc"}, skipped=(("e.jpg", "damaged"),))
    path = save(tmp_path / "f.h5", meta)
    found = told(path)
    assert found["levels"] == "L2 (columns 0 to 1), L3 (columns 2 to 2)"
    assert found["fingerprint.gpu"] == found["source"] == found["maps"] == "none"
    assert found["skipped"] == "e.jpg: damaged"
    assert found["tap"] == "ga"
    document = json.loads(l2a("inspect", path, "--json").stdout)
    assert (document["levels"], document["fingerprint"]["gpu"]) == ([["L2", 0, 2], ["L3", 2, 3]], "")
    weights = told(WEIGHTS)
    assert weights["card.training.recipe.flip"] == "yes"
    assert weights["card.training.recipe.resolutions"] == "0.0: 16, 0.286: 24, 0.572: 32"
    for value in {**found, **weights}.values():
        assert value not in ("", "None", "True", "False")
        assert "['" not in value


def test_pixels_have_no_tap(tmp_path: Path) -> None:
    meta = dataclasses.replace(META, backend="pixels", fingerprint={"tap": "ga", "data": "abc"})
    path = save(tmp_path / "f.h5", meta)
    found = told(path)
    assert found["tap"] == "none"
    assert "fingerprint.tap" not in found
    assert json.loads(l2a("inspect", path, "--json").stdout)["tap"] == "ga"
