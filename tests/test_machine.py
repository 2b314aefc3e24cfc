"""Fingerprints name what a machine computes and decodes with, so that bits of two kinds are never mixed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from numpy.typing import NDArray

from l2a_transfer.data.sources import Subset, join_splits
from l2a_transfer.errors import BackendError, OutputExistsError, TrainingError
from l2a_transfer.features.backends.onnx import OnnxBackend
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.features.extraction import extract as extract_module
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.extraction.plan import comparable, differences, fingerprint
from l2a_transfer.features.extraction.ray_engine import Extractor
from l2a_transfer.features.machine import RECORDED, arithmetic, decoders, probe_pixels, torch_instructions
from l2a_transfer.features.store.reader import read_features
from l2a_transfer.training.arithmetic import MACHINE, step_sha256
from l2a_transfer.training.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from l2a_transfer.training.processes import Placement, ProcessRank
from l2a_transfer.training.runs import run_training
from l2a_transfer.training.trainer import Trainer
from tests.conftest import TINY, MemorySource
from tests.feature_files import save as save_features
from tests.test_training import CONFIG, ended, new_trainer, same, weights_of

pytestmark = pytest.mark.usefixtures("curves_drawn_once")

ROOT = Path(__file__).parents[1]
SAID = """
import hashlib, json, numpy as np, torch
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.training.arithmetic import step_sha256
torch.set_num_threads(1)
found = {}
for precision in ("fp32", "bf16"):
    backend = open_backend("untrained:vgg-att2-concat-add@0.0625", device="cpu", precision=precision)
    features = backend.features(np.random.default_rng(0).integers(0, 256, (16, 3, 32, 32), dtype=np.uint8))
    identity = backend.identity()
    machine = [identity["instructions"], identity["arithmetic"]]
    step = step_sha256(ModelConfig("vgg-att1-pc", width=0.0625), 16, precision, 1)
    found[precision] = [machine, hashlib.sha256(features.tobytes()).hexdigest(), step]
print(json.dumps(found))
"""
OTHER_KINDS = (
    "ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2",
    "ONEDNN_MAX_CPU_ISA=SSE41",
    "MKL_ENABLE_INSTRUCTIONS=AVX2",
)


@cache
def said_by(settings: str) -> dict[str, Any]:
    """precision → instructions and arithmetic, features, and training step of a process with these variables."""
    more = dict(pair.split("=") for pair in settings.split())
    done = subprocess.run(
        [sys.executable, "-c", SAID],
        env=os.environ | more,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("settings", OTHER_KINDS)
def test_where_features_differ_the_fingerprint_does(settings: str) -> None:
    assert said_by("") == said_by("L2A_NOTHING=1")  # a process of the same kind says the same
    for precision, (machine, features, _) in said_by(settings).items():
        own_machine, own_features, _ = said_by("")[precision]
        assert features == own_features or machine != own_machine
    if settings.startswith("ATEN") and torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        for precision in ("fp32", "bf16"):
            (there, here) = (said_by(of)[precision] for of in (settings, ""))
            assert there[1] != here[1]
            assert there[2] != here[2]
            assert " DEFAULT" in there[0][0]
            assert there[0][0] != here[0][0]
            assert there[0][1] != here[0][1]


def test_instructions_are_those_that_run() -> None:
    assert torch.backends.cpu.get_cpu_capability() in torch_instructions("cpu", "fp32").split()
    assert torch_instructions("cpu", "bf16").startswith(torch_instructions("cpu", "fp32"))
    assert torch_instructions("cuda", "fp32") == ""


def test_the_probe_is_the_same_everywhere() -> None:
    pixels = probe_pixels(2, 4)
    assert (pixels.shape, pixels.dtype) == ((2, 3, 4, 4), np.uint8)
    assert pixels.ravel()[:4].tolist() == [(k * 2654435761 >> 16) & 255 for k in range(4)]
    assert len(np.unique(probe_pixels(8, 32))) == 256


@pytest.mark.parametrize(("size", "images"), [(32, 8), (64, 8), (80, 5), (128, 2), (512, 2)])
def test_the_probe_takes_no_more_memory_than_a_batch(size: int, images: int) -> None:
    seen = []

    def compute(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(pixels.shape)
        return np.zeros((len(pixels), 1), np.float32)

    assert arithmetic("cpu", size, compute) == hashlib.sha256(bytes(4 * images)).hexdigest()
    assert seen == [(images, 3, size, size)]
    assert arithmetic("cuda", size, compute) == ""


def test_every_backend_of_a_network_names_its_machine(exported_tiny: Path, source: MemorySource) -> None:
    onnx = OnnxBackend(exported_tiny, device="cpu")
    for backend in (open_backend(TINY, device="cpu"), onnx):
        found = fingerprint(source, backend, 4, attention=False)
        assert set(RECORDED) <= set(found)
        assert len(found["arithmetic"]) == 64
        assert found["gpu"] == ""
        assert found == fingerprint(source, backend, 4, attention=False)
    pixels = fingerprint(source, PixelsBackend(), 4, attention=False)  # a division, the same on every CPU
    assert set(RECORDED) & set(pixels) == {"pillow"}


def test_pillow_counts_where_it_makes_the_pixels(source: MemorySource, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.zeros((4, 32, 32, 3), np.uint8)
    arrays = join_splits("x", "ab", {"train": (pictures, np.arange(4, dtype=np.int32) % 2)})
    assert decoders(arrays, 32) == decoders(Subset(Subset(arrays, np.arange(3)), np.arange(2)), 32) == ""
    for decoded, size in ((arrays, 16), (source, 32), (Subset(source, np.arange(2)), 32)):
        assert decoders(decoded, size).startswith(f"{PIL.__version__}, ")
    before = [fingerprint(of, PixelsBackend(), 4, attention=False) for of in (source, arrays)]
    monkeypatch.setattr(PIL, "__version__", "11.0.0")
    after = [fingerprint(of, PixelsBackend(), 4, attention=False) for of in (source, arrays)]
    assert before[1] == after[1]
    assert differences(before[0], after[0]).startswith(f"Pillow and its decoders: '{PIL.features.version('pil')[:2]}")


def test_a_text_as_long_as_a_digest_is_not_cut_as_one() -> None:
    codecs = "11.1.0, " + "x" * 56
    assert differences({"pillow": codecs}, {"pillow": "12"}) == f"Pillow and its decoders: '{codecs}' there, '12' here"
    assert differences({"gpu": "0f" * 32}, {"gpu": ""}) == "GPU: 0f0f0f0f0f0f… there, '' here"


def test_an_actor_on_a_node_of_another_kind_refuses(source: MemorySource, tmp_path: Path) -> None:
    backend = open_backend(TINY, device="cpu")
    options = {"batch_size": 4, "attention": False, "partners": None, "on_error": "fail", "workers": 0}
    identity = fingerprint(source, backend, 4, attention=False)
    for key, value, words in (
        ("instructions", "x86_64 SSE", "instructions of the CPU: 'x86_64 SSE' there, "),
        (
            "arithmetic",
            "f" * 64,
            "arithmetic: the same computation gives different bits (another processor, or library settings",
        ),
        ("gpu", "NVIDIA A100, 8.0, cuDNN 1", "GPU: 'NVIDIA A100, 8.0, cuDNN 1' there, '' here"),
        ("pillow", "11.0.0", "Pillow and its decoders: '11.0.0' there, "),
    ):
        error = Extractor(source, backend, tmp_path / "s", {**identity, key: value}, **options).work(0, 8)
        assert isinstance(error, BackendError)
        assert "would compute other bytes than the driver" in str(error)
        assert words in str(error)
        assert str(error).endswith("; use identical nodes, and start the command on one of them")


def test_an_extraction_begun_on_another_machine_is_named_and_can_be_begun_again(
    source: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, out = open_backend(TINY, device="cpu"), tmp_path / "f.h5"

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(extract_module._Job, "merge", killed)
        with pytest.raises(KeyboardInterrupt):
            extract(source, backend, out, progress=False)
    plan = tmp_path / "f.h5.shards" / "plan.json"
    own = json.loads(plan.read_text())
    plan.write_text(json.dumps({**own, "instructions": "x86_64 SSE"}))
    with pytest.raises(
        OutputExistsError,
        match=r"extraction made on another machine, or with other options: instructions of the CPU: 'x86_64 SSE' there",
    ):
        extract(source, backend, out, progress=False)
    earlier = {key: value for key, value in own.items() if key not in RECORDED}
    plan.write_text(json.dumps(earlier))  # nobody knows on what machine it began
    with pytest.raises(
        OutputExistsError, match=r"arithmetic: .*: not recorded there, .* `overwrite=True` starts again"
    ):
        extract(source, backend, out, progress=False)
    assert extract(source, backend, out, overwrite=True, progress=False).computed == 40


def test_a_finished_feature_file_of_before_is_taken_as_it_is(
    source: MemorySource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, backend = tmp_path / "f.h5", open_backend(TINY, device="cpu")
    extract(source, backend, out, progress=False)
    found = read_features(out)
    earlier = {key: value for key, value in found.meta.fingerprint.items() if key not in RECORDED}
    out.unlink()
    save_features(out, dataclasses.replace(found, meta=dataclasses.replace(found.meta, fingerprint=earlier)))
    assert extract(source, backend, out, resume=True, progress=False).computed == 0
    assert (
        "written by a version that did not record instructions, gpu, arithmetic, pillow; this is not compared"
        in caplog.text
    )
    with pytest.raises(
        OutputExistsError, match=r"with other options \(batch_size: 64 there, 4 here\); `overwrite=True`"
    ):
        extract(source, backend, out, batch_size=4, resume=True, progress=False)


def test_a_finished_feature_file_of_another_machine_is_named(source: MemorySource, tmp_path: Path) -> None:
    out, backend = tmp_path / "f.h5", open_backend(TINY, device="cpu")
    extract(source, backend, out, progress=False)
    found = read_features(out)
    other = {**found.meta.fingerprint, "instructions": "x86_64 SSE"}
    out.unlink()
    save_features(out, dataclasses.replace(found, meta=dataclasses.replace(found.meta, fingerprint=other)))
    with pytest.raises(
        OutputExistsError, match=r"instructions of the CPU: 'x86_64 SSE' there, .*`overwrite=True` repl"
    ):
        extract(source, backend, out, resume=True, progress=False)


def test_fingerprints_of_onnx_files_of_before_can_be_compared() -> None:
    here = {"weights": "w", "graph": "g", "instructions": "i"}
    assert comparable({"weights": "g"}, here) == (here, ("instructions",))
    assert comparable({"weights": "h"}, here)[0] == {**here, "graph": "h"}
    assert comparable({**here, "instructions": "j"}, here) == ({**here, "instructions": "j"}, ())
    assert comparable({"weights": "w"}, {"weights": "w"}) == ({"weights": "w"}, ())


def begun(out: Path, **changes: str | None) -> tuple[Trainer, Path]:
    """A run of two epochs that has ended its first; its fingerprint changed, or without the keys that are None."""
    run, path = new_trainer(epochs=2), out / "checkpoint.pt"
    row = run.run_epoch(progress=False)
    assert row is not None
    run.history.append(row)
    state = run.state()
    theirs = {key: value for key, value in {**state["fingerprint"], **changes}.items() if value is not None}
    out.mkdir()
    save_checkpoint(path, {**state, "fingerprint": theirs})
    return run, path


@pytest.mark.slow
def test_a_checkpoint_of_before_the_machine_was_recorded_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended(tmp_path / "whole", epochs=2)
    begun(tmp_path / "out", **dict.fromkeys(MACHINE))
    run_training(new_trainer(epochs=2), tmp_path / "out", resume=True, progress=False)
    assert "did not record torch, instructions, gpu, arithmetic, pillow, so they could not be" in caplog.text
    assert same(weights_of(tmp_path / "out"), weights_of(tmp_path / "whole"))
    assert set(MACHINE) <= set(read_checkpoint(tmp_path / "out" / "checkpoint.pt")["fingerprint"])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("torch", "2.11.0", r"torch: 2\.11\.0 there, .* here"),
        ("instructions", "x86_64 SSE", r"instructions: x86_64 SSE there, .* here \(of the CPU\)"),
        (
            "arithmetic",
            "f" * 64,
            r"arithmetic: ffffffffffff there, .* \(results differ in their last bits: another processor",
        ),
        ("gpu", "NVIDIA A100", r"gpu: NVIDIA A100 there,  here"),
    ],
)
def test_a_checkpoint_of_another_machine_is_named(tmp_path: Path, key: str, value: str, words: str) -> None:
    begun(tmp_path / "out", **{key: value})
    with pytest.raises(TrainingError, match=rf"checkpoint\.pt: started on another machine \({words}.*`overwrite=True`"):
        run_training(new_trainer(epochs=2), tmp_path / "out", resume=True, progress=False)


def test_the_first_process_s_machine_is_the_group_s(tmp_path: Path) -> None:
    run, path = begun(tmp_path / "out")
    placement = Placement("cpu", "fp32", process=ProcessRank(1, 2, 1))
    second = Trainer(CONFIG, run.recipe, run.data, placement=placement).fingerprint()
    assert not set(MACHINE) & set(second)
    assert load_checkpoint(path, {**second, "processes": 1})["epoch"] == 1


def test_a_finished_run_is_one_on_every_machine(tmp_path: Path) -> None:
    whole = ended(tmp_path, epochs=1)
    path = tmp_path / "checkpoint.pt"
    content = read_checkpoint(path)
    content["fingerprint"]["torch"] = "2.11.0"
    save_checkpoint(path, content)
    before = whole.weights.read_bytes()
    assert run_training(new_trainer(epochs=1), tmp_path, resume=True, progress=False).metrics == whole.metrics
    assert whole.weights.read_bytes() == before


def test_a_training_step_is_a_function_of_the_network_and_the_machine() -> None:
    step_sha256.cache_clear()
    before = torch.get_rng_state()
    first = step_sha256(CONFIG, 16, "fp32", torch.get_num_threads())
    step_sha256.cache_clear()
    assert step_sha256(CONFIG, 16, "fp32", torch.get_num_threads()) == first
    assert step_sha256(dataclasses.replace(CONFIG, dropout=1.0), 16, "fp32", torch.get_num_threads()) == first
    assert len({first, step_sha256(CONFIG, 24, "fp32", 1), step_sha256(CONFIG, 16, "bf16", 1)}) == 3
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
def test_a_fingerprint_names_the_gpu(source: MemorySource) -> None:
    found = fingerprint(source, open_backend(TINY, device="cuda"), 4, attention=False)
    major, minor = torch.cuda.get_device_capability()
    assert found["gpu"].startswith(f"{torch.cuda.get_device_name()}, {major}.{minor}, cuDNN ")
    assert (found["instructions"], found["arithmetic"]) == ("", "")
    assert new_trainer(placement=Placement("cuda", "fp32")).fingerprint()["gpu"] == found["gpu"]
