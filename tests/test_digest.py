"""One digest names a network, wherever it goes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from l2a_transfer.errors import BackendError, TrainingError, WeightsError
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.results import EvalConfig
from l2a_transfer.features.backends.onnx import OnnxBackend, with_sha256
from l2a_transfer.features.store.schema import weights_sha256
from l2a_transfer.models.digest import file_sha256, network_sha256
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import CARD_KEY, PRETRAINED, load_weights, read_card, save_weights
from l2a_transfer.report.write import write_report
from l2a_transfer.training.checkpoint import read_checkpoint, save_checkpoint
from l2a_transfer.training.initialization import start_from
from l2a_transfer.training.runs import run_training
from tests.conftest import TINY, l2a
from tests.feature_files import meta_of
from tests.test_training import ended, new_trainer

pytestmark = pytest.mark.usefixtures("curves_drawn_once")

BUNDLED = "vgg-att2-concat-pc.cifar10-w025"
KNOWN = "3d9e784b58941215ea9f6900a88eeb32a5cf0439466755d56383dd91275d48e1"
"""Of the bundled weights, as feature files have it in their fingerprint since there are any."""
EARLIER = "60586284cfb553e93ab86828c7c2487e117ea4950c6402b1cfe028b0ab0e4bb9"
"""Of the same weights, in `init_from` of cards and checkpoints of before."""


def inspected(path: Path) -> dict[str, Any]:
    result = l2a("inspect", path, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_feature_files_of_before_name_the_same_weights() -> None:
    assert network_sha256(load_model(BUNDLED)[0]) == KNOWN
    assert file_sha256(PRETRAINED / f"{BUNDLED}.safetensors") == KNOWN


@pytest.mark.slow
def test_one_digest_from_training_to_the_report(tmp_path: Path) -> None:
    weights = ended(tmp_path / "run", epochs=1).weights
    digest = inspected(weights)["weights_sha256"]
    assert digest == network_sha256(load_weights(weights)[0])
    assert l2a("export", "--model", weights, "--out", tmp_path / "m.onnx").exit_code == 0
    assert inspected(tmp_path / "m.onnx")["weights_sha256"] == digest
    files = []
    for name, model in (("torch", weights), ("onnx", tmp_path / "m.onnx")):
        files.append(tmp_path / f"{name}.h5")
        of = ("--data", "digits", "--limit", "60", "--device", "cpu")
        run = l2a("extract", "--model", model, *of, "--out", files[-1])
        assert run.exit_code == 0, run.output
        found = inspected(files[-1])
        assert (found["weights_sha256"], found["fingerprint"]["weights"]) == (digest, digest)
    card = read_card(
        run_training(new_trainer(epochs=1, init_from=str(weights)), tmp_path / "two", progress=False).weights
    )
    assert card.training["init_from"]["sha256"] == digest
    assert inspected(next((tmp_path / "two").glob("*.safetensors")))["weights_sha256"] != digest
    results = evaluate_files(files, EvalConfig(c_grid=(1.0,), decades=0))
    assert {card["weights_sha256"] for card in results.cards.values()} == {digest}
    write_report(results, tmp_path / "report")
    for name in ("report.html", "results.json", "report.md"):
        text = "".join(path.read_text() for path in (tmp_path / "report").glob(name))
        assert digest in text, name


def test_a_digest_is_of_names_types_shapes_numbers_and_config() -> None:
    network, _ = load_model(TINY)
    found = {network_sha256(network)}
    network.trunk[0][0][1].num_batches_tracked.fill_(7)  # type: ignore[index]
    assert network_sha256(network) in found  # nothing reads it
    state = network.state_dict()
    state["attention.L2.u"][0] += 1
    found.add(network_sha256(network))
    network.config = dataclasses.replace(network.config, dropout=0.5)
    found.add(network_sha256(network))
    network.attention["L2"].u.data = network.attention["L2"].u.data[None]  # type: ignore[index, union-attr]
    found.add(network_sha256(network))
    network.double()
    found.add(network_sha256(network))
    assert len(found) == 5


def test_files_of_other_precisions_have_the_digest_of_what_is_loaded(tmp_path: Path) -> None:
    network, card = load_model(TINY)
    save_weights(network, card, tmp_path / "w.safetensors")
    tensors = load_file(tmp_path / "w.safetensors")
    metadata = {CARD_KEY: json.dumps(card.to_json())}
    digests = set()
    for k, kind in enumerate((torch.float16, torch.bfloat16, torch.float32)):
        path = tmp_path / f"{k}.safetensors"
        save_file({key: value.to(kind) for key, value in tensors.items()}, path, metadata=metadata)
        assert file_sha256(path) == network_sha256(load_weights(path)[0])
        digests.add(file_sha256(path))
    assert len(digests) == 2  # the float16 numbers are the same in float32, and bfloat16 rounds them
    save_file({key: value.to(torch.int8) for key, value in tensors.items()}, path, metadata=metadata)
    with pytest.raises(WeightsError, match=r"2\.safetensors: tensor .* has dtype I8, expected a floating-point one"):
        file_sha256(path)


def test_an_onnx_file_of_before_loads_and_says_that_it_has_no_digest(exported_tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(exported_tiny.read_bytes())
    digest = OnnxBackend(path, device="cpu").identity()["weights"]
    assert digest == network_sha256(load_model(TINY)[0])
    model = onnx.load(path)
    *kept, entry, _ = model.metadata_props
    assert (entry.key, json.loads(entry.value)) == ("l2a-weights-sha256", digest)
    for value, expected in ((None, ""), ('"x"', None), ("1", None)):
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        if value is not None:
            model.metadata_props.append(onnx.StringStringEntryProto(key=entry.key, value=value))
        path.write_bytes(with_sha256(model.SerializeToString()))
        if expected is None:
            with pytest.raises(BackendError, match="l2a-weights-sha256 is not a SHA-256"):
                OnnxBackend(path, device="cpu")
        else:
            assert OnnxBackend(path, device="cpu").identity()["weights"] == expected
            assert inspected(path)["weights_sha256"] is None


def test_the_digest_of_a_feature_file() -> None:
    meta = meta_of(model="m", data="d", classes=("a",), splits=("all",), dim=1)
    assert weights_sha256(meta) is None
    for backend, fingerprint, expected in (
        ("torch", {"weights": KNOWN}, KNOWN),
        ("pixels", {"weights": ""}, None),
        ("onnxruntime", {"weights": KNOWN, "graph": EARLIER}, KNOWN),
        ("onnxruntime", {"weights": EARLIER}, None),  # of the file, as versions before had it
        ("torch", {"weights": 3}, None),
    ):
        assert weights_sha256(dataclasses.replace(meta, backend=backend, fingerprint=fingerprint)) == expected


@pytest.mark.slow
def test_a_run_that_began_from_weights_by_their_digest_of_before_goes_on(tmp_path: Path) -> None:
    first = ended(tmp_path / "first", epochs=1).weights
    run = new_trainer(epochs=2, init_from=str(first))
    whole = run_training(run, tmp_path / "out", progress=False)
    content = read_checkpoint(tmp_path / "out" / "checkpoint.pt")
    assert content["fingerprint"]["init_from"] == file_sha256(first)
    assert run.start is not None
    content["fingerprint"]["init_from"] = run.start.earlier_sha256
    save_checkpoint(tmp_path / "out" / "checkpoint.pt", content)
    network, card = load_weights(whole.weights)
    card.training["init_from"]["sha256"] = run.start.earlier_sha256
    save_weights(network, card, whole.weights)
    for _ in range(2):  # with its checkpoint and without
        again = run_training(new_trainer(epochs=2, init_from=str(first)), tmp_path / "out", resume=True, progress=False)
        assert again.metrics == whole.metrics
        (tmp_path / "out" / "checkpoint.pt").unlink(missing_ok=True)
    with pytest.raises(TrainingError, match="init_from: "):
        run_training(new_trainer(epochs=2), tmp_path / "out", resume=True, progress=False)


def test_the_digest_of_before_is_known() -> None:
    network, _ = load_model(BUNDLED)
    start = start_from(build_model(network.config), BUNDLED)
    assert (start.sha256, start.earlier_sha256) == (KNOWN, EARLIER)
    assert start.kept_random == ()
