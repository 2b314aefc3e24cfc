"""Does a study that is killed at random moments and restarted give the same report, byte for byte?

A small study (generated pictures, networks of width 1/32) is first run undisturbed. Then the same study runs in another
folder, and its process is killed by `kill -9` at random moments; the same command continues each time, and the last run
completes. Every file of the report must equal that of the undisturbed study. If a run ends before it is killed, the
remaining kills are applied to a study in a new folder.

    python benchmarks/study_kill.py --out benchmarks/results/study-kill.json
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from provenance import provenance

ROOT = Path(__file__).parents[1]
STUDY = """
name = "killed"
seeds = [0, 1]

[sources.patterns]
data = "npz:patterns.npz"

[targets.patterns]
data = "npz:patterns.npz"
protocols = ["fixed"]

[targets.others]
data = "npz:others.npz"
protocols = ["fixed"]

[protocols.fixed]
protocol = "official"
c_grid = [0.01]

[networks.attention]
architecture = "vgg-att2-concat-pc"
width = 0.03125
set = { epochs = 4, batch_size = 16 }

[networks.uniform]
architecture = "vgg-att2-concat-uniform"
width = 0.03125
set = { epochs = 4, batch_size = 16 }

[[comparisons]]
name = "A-U"
minuend = "attention"
subtrahend = "uniform"
support = "above 0"
refute = "below 1.0"
"""
EARLIEST_S = 2.0
"""A kill earlier than this hits Python's startup, when nothing can be lost."""


@click.command()
@click.option("--kills", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the moments.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(kills: int, jobs: int, seed: int, out: Path) -> None:
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "study.toml").write_text(STUDY)
        for k, data in enumerate(("patterns", "others")):
            pictures(folder / f"{data}.npz", seed=k)
        began = time.perf_counter()
        assert start(folder, "whole", jobs).wait() == 0
        seconds = time.perf_counter() - began
        expected = report(folder / "whole")
        attempts = 0
        while len(rows) < kills:
            attempts += 1
            lives = lived(folder, f"killed-{attempts}", jobs, kills - len(rows), rng, seconds)
            same = report(folder / f"killed-{attempts}") == expected
            rows += [{**life, "study": attempts, "same_report": same} for life in lives]
            print(f"study {attempts}: {len(lives)} kills, the same report: {same}", file=sys.stderr)
    document = {
        "schema": "l2a-benchmark/1",
        "what": "a study killed at random moments and started again; is its report that of the undisturbed study?",
        **provenance(shlex.join(["python", "benchmarks/study_kill.py", *sys.argv[1:]])),
        "undisturbed_s": round(seconds, 1),
        "report_files": sorted(expected),
        "kills": rows,
        "kills_total": len(rows),
        "all_equal": all(row["same_report"] for row in rows),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out, len(rows), "kills, all equal:", document["all_equal"])


def lived(folder: Path, name: str, jobs: int, kills: int, rng: random.Random, seconds: float) -> list[dict[str, Any]]:
    """The runs of one study that ended by a kill; the last run, which is not in the list, completes."""
    lives: list[dict[str, Any]] = []
    while len(lives) < kills:
        moment = rng.uniform(EARLIEST_S, max(EARLIEST_S + 1, seconds / (kills + 1)))
        child = start(folder, name, jobs)
        try:
            child.wait(moment)
            break
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
        lives.append({"killed_after_s": round(moment, 2), "steps_recorded": len(records(folder / name))})
    assert start(folder, name, jobs).wait() == 0
    return lives


def start(folder: Path, name: str, jobs: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "l2a_transfer", "-q", "study", "study.toml", "--out", name, "--jobs", str(jobs)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL)


def report(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "report").iterdir()}


def records(folder: Path) -> list[Path]:
    return list((folder / "records").rglob("*.json"))


def pictures(path: Path, *, seed: int, classes: int = 4) -> None:
    """Noisy patterns, one per class: 320 for training and 80 for testing."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 256, (classes, 32, 32, 3))
    arrays = {}
    for split, rows in (("train", 320), ("test", 80)):
        labels = np.arange(rows) % classes
        noisy = patterns[labels] + rng.normal(0, 200, (rows, 32, 32, 3))
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = np.clip(noisy, 0, 255).astype(np.uint8), labels
    np.savez(path, **arrays)


if __name__ == "__main__":
    main()
