"""The comparison of two trees, in short: it runs, and it says what differs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPARED = """
import json, sys
sys.path.insert(0, sys.argv[1])
from bench import compared
slower = compared([[(1.1, 1.0), (2.2, 2.0)], [(1.12, 1.0), (1.08, 1.0)], [(1.1, 1.0), (1.11, 1.0)]])
same = compared([[(1.2, 1.0), (1.2, 1.0)], [(0.9, 1.0), (0.9, 1.0)], [(1.2, 1.0), (1.1, 1.0)]])
faster = compared([[(0.5, 1.0), (1.0, 2.0)], [(0.51, 1.0), (0.5, 1.0)], [(0.5, 1.0), (0.49, 1.0)]])
print(json.dumps([slower, same, faster]))
"""


def run(*command: str) -> str:
    child = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert child.returncode == 0, child.stderr
    return child.stdout


@pytest.mark.slow
def test_ratios_have_intervals_over_passes() -> None:
    slower, same, faster = json.loads(run("-c", COMPARED, str(ROOT / "benchmarks")))
    assert (slower["verdict"], same["verdict"], faster["verdict"]) == ("slower", "no difference", "faster")
    assert slower["ratio"] == pytest.approx(1.1, abs=0.005)
    assert slower["interval"][0] < 1.1 < slower["interval"][1]


@pytest.mark.slow
def test_a_tree_is_compared_with_its_own_commit(tmp_path: Path) -> None:
    inside = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, cwd=ROOT, check=False)
    if inside.returncode:
        pytest.skip("not a git checkout")
    out = tmp_path / "bench.json"
    cases = [word for case in ("forward", "listing", "--help") for word in ("--case", case)]
    said = run(
        "benchmarks/bench.py",
        "--against",
        "HEAD",
        "--tiny",
        "--seconds",
        "0",
        "--least-passes",
        "2",
        *cases,
        "--out",
        str(out),
    )
    found = json.loads(out.read_text())
    assert list(found["cases"]) == ["forward", "listing", "--help"]
    for case, own in found["cases"].items():
        assert "error" not in own, (case, own)
        assert own["n"] == 2
        assert own["verdict"] in said
    left = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert "l2a-bench-" not in left
