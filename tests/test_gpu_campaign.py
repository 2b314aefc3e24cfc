"""The campaign for a GPU that is at hand for minutes, rehearsed on the CPU with the same commands."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import Card, count_parameters, load_weights, read_card, save_weights
from l2a_transfer.preprocess import Preprocess
from tests.test_training import cifar

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_runs

    return gpu_runs


def finished(runs: Any, place: Any, run: Any, *, commit: str | None = None) -> None:
    """Weights as a finished run leaves them."""
    model = build_model(ModelConfig(run.model, width=1 / 32), seed=run.seed).eval()
    metrics = {"test_accuracy": {"value": 0.5, "n": 2, "seeds": 1}}
    training = {"seed": run.seed, "commit": commit}
    card = Card("tiny", model.config, Preprocess(), (), count_parameters(model), training, metrics)
    place.folder(run).mkdir(parents=True)
    save_weights(model, card, place.folder(run) / "tiny.safetensors")


def unpacked(folder: Path, number: int) -> tarfile.TarFile:
    parts = sorted(folder.glob(f"weights-{number}.tar.*"))
    return tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts)))


def test_no_two_runs_of_the_plan_are_one(runs: Any) -> None:
    stems = [run.stem for run in runs.plan()]
    assert len(set(stems)) == len(stems)
    assert stems[0] == "vgg-att2-concat-pc.cifar10-w100.fast.seed-0"


@pytest.mark.slow
def test_a_run_is_not_begun_that_cannot_end_in_time(runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = runs.Place(tmp_path, cifar(tmp_path / "data"), "cpu")
    monkeypatch.setattr(runs, "_start", lambda *_, **__: pytest.fail("begun"))
    assert list(runs.train_all(runs.plan(), place, deadline=time.perf_counter() + 5)) == []


def test_a_run_that_is_half_done_has_less_before_it(runs: Any) -> None:
    run = runs.Run("vgg", 0.25, 0)
    assert run.guessed_seconds(14) == 0
    assert 0 < run.guessed_seconds(7) < run.guessed_seconds() < 4 * run.guessed_seconds(7)


def test_weights_are_handed_over_in_parts_and_the_rest_by_the_next_call(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = runs.Place(tmp_path / "work", tmp_path, "cpu")
    three = [runs.Run("vgg-att2-concat-pc", 0.25, seed) for seed in range(3)]
    for run, commit in zip(three, (None, "its own", None), strict=True):
        finished(runs, place, run, commit=commit)
    size = place.weights(three[0]).stat().st_size
    monkeypatch.setattr(runs, "PARTS", 2)
    monkeypatch.setattr(runs, "PART_BYTES", size + (1 << 19) + 2_000)  # room for two
    assert runs.pack(three, place, tmp_path, commit="abc") == [run.stem for run in three[:2]]
    assert runs.pack(three, place, tmp_path, commit="abc") == [three[2].stem]
    assert runs.pack(three, place, tmp_path, commit="abc") == []
    with unpacked(tmp_path, 1) as tar:
        tar.extractall(tmp_path / "back", filter="data")
    back = sorted((tmp_path / "back").iterdir())
    assert [path.name for path in back] == [f"{run.stem}.safetensors" for run in three[:2]]
    assert [read_card(path).training["commit"] for path in back] == ["abc", "its own"]
    same = zip(
        load_weights(back[1])[0].parameters(), load_weights(place.weights(three[1]))[0].parameters(), strict=True
    )
    assert all(a.equal(b) for a, b in same)


@pytest.mark.slow
def test_the_campaign_runs_whole_on_a_cpu(tmp_path: Path) -> None:
    ended = {"run": "vgg-att2-concat-uniform.cifar10-w003.fast.seed-0", "metrics": {"test_accuracy": {"value": 0.9}}}
    before = tmp_path / "before.json"
    before.write_text(json.dumps({"steps": {"runs": [ended, {"run": "vgg.cifar10-w003.fast.seed-0"}]}}))
    command = [
        sys.executable,
        BENCHMARKS / "gpu_campaign.py",
        "--device",
        "cpu",
        "--tiny",
        "--minutes",
        "20",
        "--only",
        "tests,peaks,extraction,svm,runs,weights",
        "--data-dir",
        cifar(tmp_path / "data"),
        "--work",
        tmp_path / "work",
        "--out",
        tmp_path / "out",
        "--done",
        before,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out" / "campaign.json").read_text())
    steps = found["steps"]
    assert all(row["within"] for row in steps["agreement"])
    assert [row["same"] for row in steps["same_bytes"]] == [True, True]
    for name in ("ceilings", "training_steps", "forwards", "extraction", "svm"):
        assert steps[name], name
    assert ended["run"] not in {row["run"] for row in steps["runs"]}
    assert [row["returncode"] for row in steps["runs"]] == [0] * len(steps["runs"])
    assert steps["runs"]
    assert sorted(steps["weights"]) == sorted(row["run"] for row in steps["runs"])
    with unpacked(tmp_path / "out", 1) as tar:
        assert len(tar.getnames()) == len(steps["runs"])


@pytest.mark.slow
def test_misuse_is_named(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "gpu_campaign.py", "--device", "cpu", "--tiny", "--out", tmp_path]
    for options, said in ((["--only", "runs,dance"], "'dance' is no step"), (["--only", "runs"], "needs --data-dir")):
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
