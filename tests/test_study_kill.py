"""A study in processes of its own, killed and interrupted as it can happen to anybody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.study_files import STUDY, study_file

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def test_a_study_that_is_killed_ends_with_the_same_report(tmp_path: Path) -> None:
    out = tmp_path / "kill.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "study_kill.py"), "--kills", "2", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    assert (document["kills_total"], document["all_equal"]) == (2, True)


def begun(folder: Path) -> tuple[subprocess.Popen[str], list[Path]]:
    """A study whose first commands run, and their /proc folders."""
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "l2a_transfer",
            "study",
            str(study_file(folder)),
            "--out",
            str(folder / "out"),
            "--only",
            "train/*",
            "--jobs",
            "2",
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stderr is not None
    for _ in range(2):
        assert "starts" in child.stderr.readline()
    tasks = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    assert len(tasks) == 2
    return child, [Path(f"/proc/{pid}") for pid in tasks]


def wait_until_gone(processes: list[Path]) -> None:
    for _ in range(600):
        if not any(process.exists() for process in processes):
            return
        time.sleep(0.1)
    raise AssertionError("they are still there")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_a_kill_takes_the_commands_along(tmp_path: Path) -> None:
    child, commands = begun(tmp_path)
    child.kill()
    child.communicate(timeout=60)
    wait_until_gone(commands)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_commands_and_says_what_stays(number: signal.Signals, tmp_path: Path) -> None:
    child, commands = begun(tmp_path)
    child.send_signal(number)
    said = child.communicate(timeout=120)[1].splitlines()
    assert child.returncode == 130
    assert said[-1].startswith("Interrupted: ")
    assert said[-1].endswith(f"are done and are kept in {tmp_path / 'out'}; run it again to continue.")
    wait_until_gone(commands)


def test_what_runs_at_the_deadline_is_stopped_and_goes_on_another_time(tmp_path: Path) -> None:
    text = STUDY.replace("epochs = 1", "epochs = 100000") + "\n[guess]\ntrain = 0.1\n"
    path = study_file(tmp_path, text)
    command = [
        sys.executable,
        "-m",
        "l2a_transfer",
        "study",
        str(path),
        "--out",
        str(tmp_path / "out"),
        "--jobs",
        "2",
        "--only",
        "train/*/seed-0",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    while not list(tmp_path.glob("out/runs/*/seed-0/checkpoint.pt")):  # a busy machine may need more than one try
        done = subprocess.run(
            [*command, "--deadline", "30"], capture_output=True, text=True, timeout=300, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert "steps are not done; run the same command again to continue" in done.stderr
    plan = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=True, env=environment)
    assert "go on    train/" in plan.stdout
