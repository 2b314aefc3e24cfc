"""Hostile files of every kind end in a named error or in a right answer; `benchmarks/fuzz.py` does it at length."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
KINDS = (
    "hdf5",
    "hdf5-resealed",
    "maps-file",
    "maps-file-resealed",
    "safetensors",
    "safetensors-resealed",
    "onnx",
    "onnx-resealed",
    "pictures",
    "masks",
    "cifar",
    "torchvision",
    "folders",
    "npz",
    "tar",
    "parquet",
    "cards",
    "reports",
    "documents",
)
LIGHT = "hdf5,maps-file,pictures,masks,cifar,folders,npz,tar,parquet,safetensors-resealed"
"""Kinds whose whole files are made in a moment."""


def run(*arguments: object, timeout: int = 900) -> subprocess.CompletedProcess[str]:
    # In a process of its own: a fork of one in which torch has started threads could hang.
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=timeout)


def bad_cases(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"kind": kind, **case} for kind, result in found["kinds"].items() for case in result["bad_cases"]]


@pytest.mark.slow
def test_a_few_hostile_files_of_each_light_kind(tmp_path: Path) -> None:
    cases = 110
    out = tmp_path / "fuzz.json"
    done = run("--cases", cases, "--kinds", LIGHT, "--seed", 1, "--out", out)
    found = json.loads(out.read_text())
    assert (bad_cases(found), done.returncode) == ([], 0), done.stderr
    assert set(found["kinds"]) == set(LIGHT.split(","))
    assert found["cases"] == sum(result["cases"] for result in found["kinds"].values()) == cases
    assert all(result["outcomes"]["refused"] > 0 for result in found["kinds"].values())
    assert set(found["kinds"]["hdf5"]["outcomes"]) <= {"refused", "right"}


@pytest.mark.slow
def test_a_case_can_be_repeated_and_its_file_kept(tmp_path: Path) -> None:
    repeats = [run("--repeat", "tar:5:4", "--keep", tmp_path / str(k)) for k in range(2)]
    first, second = ({**json.loads(done.stdout), "seconds": 0, "bytes": 0} for done in repeats)
    assert first == second
    assert {"seed_file", "kind", "damage"} <= set(first)
    kept = [tmp_path / str(k) / "tar-5-4" / first["seed_file"] / "train-000.tar" for k in range(2)]
    assert kept[0].read_bytes() == kept[1].read_bytes() != b""


TASKS = {
    "right": ("done", "'right'"),
    "loops": ("hang", "any(iter(int, 1))"),
    "waits": ("hang", "time.sleep(600)"),
    "grows": ("memory", "[bytearray(b'1' * (1 << 20)) for _ in range(200)] and time.sleep(600)"),
    "crashes": ("crash", "os.kill(os.getpid(), 11)"),
    "exits": ("crash", "os._exit(3)"),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_child_that_does_not_end_well_is_told_apart(name: str) -> None:
    why, expression = TASKS[name]
    program = (
        "import os, sys, time; sys.path.insert(0, 'benchmarks'); from fuzzing import child; "
        f"child.CPU_S, child.WALL_S, child.MEMORY_BYTES = 1, {1 if name == 'waits' else 90}, 64 << 20; "
        f"print(child.in_child(lambda: str({expression})).why)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == why, done.stderr


@pytest.mark.slow
def test_hostile_files_of_all_kinds(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    done = run("--cases", 600, "--kinds", ",".join(KINDS), "--seed", 2, "--out", out, timeout=3600)
    found = json.loads(out.read_text())
    assert (bad_cases(found), done.returncode) == ([], 0), done.stderr
    assert set(found["kinds"]) == set(KINDS)


def test_the_documents_say_what_the_measured_run_was() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "fuzz.json").read_text())
    extraction = (ROOT / "docs" / "extraction.md").read_text(encoding="utf-8")
    assert f"{found['cases']:,} hostile files of {len(found['kinds'])} kinds" in extraction
    assert ("none crashes, hangs or is misread" in extraction) == (found["bad"] == 0)
    security = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert [kind for kind in (*found["kinds"], *KINDS) if f"`{kind}`" not in security] == []
