"""Mutated files of every kind end in a named error or in the right answer; `benchmarks/fuzz.py` does it at length."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def fuzz(tmp_path: Path, cases: int, kinds: str, seed: int) -> dict[str, Any]:
    out = tmp_path / "fuzz.json"
    # In a process of its own: a fork of one in which torch has started threads could hang.
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), "--cases", str(cases), "--kinds", kinds]
    child = subprocess.run(
        [*command, "--seed", str(seed), "--out", str(out)], capture_output=True, text=True, cwd=ROOT, timeout=900
    )
    assert child.returncode == 0, child.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def bad_cases(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"kind": kind, **case} for kind, result in found["kinds"].items() for case in result["bad_cases"]]


def test_a_few_mutations_of_each_format(tmp_path: Path) -> None:
    found = fuzz(tmp_path, 60, "hdf5,image,tar", seed=1)
    assert bad_cases(found) == []
    assert {kind: result["cases"] for kind, result in found["kinds"].items()} == {"hdf5": 15, "image": 21, "tar": 15}
    assert all(result["outcomes"]["refused"] > 0 for result in found["kinds"].values())
    assert set(found["kinds"]["hdf5"]["outcomes"]) <= {"refused", "right"}


@pytest.mark.slow
def test_many_mutations_of_all_formats(tmp_path: Path) -> None:
    found = fuzz(tmp_path, 200, "hdf5,hdf5-resealed,safetensors,onnx,image,tar,parquet", seed=2)
    assert found["cases"] == 200
    # libhdf5 itself can crash on a damaged file whose seal was renewed; the benchmark reports those apart.
    assert [case for case in bad_cases(found) if case["kind"] != "hdf5-resealed"] == []


def test_the_measured_run_is_complete_and_has_no_bad_case() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "fuzz.json").read_text())
    assert (found["cases"], found["bad"], found["extra_bad"]) == (2000, 0, 0)
    assert sum(found["kinds"][kind]["cases"] for kind in ("hdf5", "safetensors", "onnx", "image")) == 2000
