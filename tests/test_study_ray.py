"""Commands of a study as Ray tasks: what a task does, what is said of one that Ray lost, and that results are equal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from l2a_transfer.study.ray_launcher import _Task, run_command
from tests.conftest import assert_fails, l2a
from tests.study_files import study_file

ROOT = Path(__file__).parents[1]


class LostError(Exception):
    """Stands for ray.exceptions.RayError."""


class FakeRay:
    """One call, which ends when `ends` is set, with a value or an error."""

    exceptions = SimpleNamespace(RayError=LostError)

    def __init__(self) -> None:
        self.ends: int | LostError | None = None
        self.cancelled: list[object] = []

    def wait(self, calls: list[object], *, timeout: float) -> tuple[list[object], list[object]]:
        return ([], calls) if self.ends is None else (calls, [])

    def get(self, call: object) -> int:
        if isinstance(self.ends, LostError):
            raise self.ends
        assert self.ends is not None
        return self.ends

    def cancel(self, call: object) -> None:
        self.cancelled.append(call)


def test_a_task_ends_as_its_command_or_is_lost(tmp_path: Path) -> None:
    ray: Any = FakeRay()
    task = _Task(ray, "call", tmp_path / "step.log")
    assert task.poll() is None
    task.ask_to_stop()
    assert ray.cancelled == ["call"]
    ray.ends = 130
    task.end()
    assert task.poll() == 130
    ray.ends = LostError("the node died\nand more")
    lost = _Task(ray, "call", tmp_path / "lost.log")
    assert (lost.poll(), lost.poll()) == (1, 1)
    assert (tmp_path / "lost.log").read_text() == "Error: the Ray task was lost: the node died\n"


def test_a_task_runs_its_command_with_a_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "step.log"
    environment = {"PYTHONPATH": str(ROOT)}
    assert run_command(["inspect", "none.h5"], str(tmp_path), str(log), environment) == 1
    assert "Error: none.h5" in log.read_text()
    assert run_command(["inspect", "--help"], str(tmp_path), str(log), environment) == 0


def test_engines_are_named_by_name(tmp_path: Path) -> None:
    study = [str(study_file(tmp_path)), "--out", str(tmp_path / "out")]
    assert_fails(l2a("study", *study, "--ray-address", "x"), 2, "--ray-address needs --engine ray")
    assert_fails(l2a("study", *study, "--engine", "rya"), 2, "did you mean 'ray'")


@pytest.mark.slow
def test_a_study_on_ray_has_the_report_of_one_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "l2a_transfer", "-q", "study", str(study_file(tmp_path)), "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for engine in ("local", "ray"):
        out = ["--out", str(tmp_path / engine), "--engine", engine]
        done = subprocess.run(
            [*command, *out], capture_output=True, text=True, timeout=900, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
    local, ray = (
        {path.name: path.read_bytes() for path in (tmp_path / engine / "report").iterdir()}
        for engine in ("local", "ray")
    )
    assert local == ray
