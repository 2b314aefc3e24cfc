"""Is max_memory respected? The memory added by a fit compared with the limit, and its objective with that without one.

    python benchmarks/svm_streaming.py --out benchmarks/results/svm_streaming.json

Each case runs in a separate process: it starts PyTorch, fits a toy problem, opens or loads X, records its resident
memory, resets the kernel's peak (VmHWM) and fits. The growth of the peak is the memory of the fit, including allocator
and library buffers, not only what the plan counts. X is synthetic: float32, Gaussian classes. Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
from numpy.typing import NDArray
from provenance import provenance
from sklearn.exceptions import ConvergenceWarning

from l2a_transfer.svm.estimators import BatchedLinearSVC, LinearSVCPath
from l2a_transfer.svm.rows import LazyRows

MIB = 1 << 20
CASES: dict[str, dict[str, Any]] = {
    "no cap": {"rows": 60_000, "columns": 512, "classes": 3, "C": 1e-3, "lazy": False, "share": None},
    "file, cap X/4": {"rows": 60_000, "columns": 512, "classes": 3, "C": 1e-3, "lazy": True, "share": 0.25},
    "array, cap X/4": {"rows": 60_000, "columns": 512, "classes": 3, "C": 1e-3, "lazy": False, "share": 0.25},
    "array, cap 4 X, kept in memory": {
        "rows": 60_000,
        "columns": 512,
        "classes": 3,
        "C": 1e-3,
        "lazy": False,
        "share": 4.0,
    },
    "path, no cap": {"rows": 3000, "columns": 256, "classes": 20, "C": None, "lazy": False, "share": None},
    "path, batches": {"rows": 3000, "columns": 256, "classes": 20, "C": None, "lazy": False, "share": 12.0},
    "path, moments": {"rows": 3000, "columns": 256, "classes": 20, "C": None, "lazy": False, "share": 36.0},
    "path, threads": {"rows": 3000, "columns": 256, "classes": 20, "C": None, "lazy": False, "share": 46.0},
}


def make(case: dict[str, Any], file: Path) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(case["classes"], case["columns"])).astype(np.float32) * 0.1
    with h5py.File(file, "w") as opened:
        X = opened.create_dataset("features", (case["rows"], case["columns"]), "f4", chunks=(256, case["columns"]))
        y = np.arange(case["rows"]) % case["classes"]
        for start in range(0, case["rows"], 4096):
            own = y[start : start + 4096]
            X[start : start + 4096] = centres[own] + rng.normal(size=(len(own), case["columns"])).astype(np.float32)
        opened["labels"] = y


def status(key: str) -> int:
    """VmRSS or VmHWM in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def fit(case: dict[str, Any], X: Any, y: NDArray[Any], cap: int | None) -> tuple[float, int]:
    """Sum of objectives, and number of SVMs that did not converge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if case["C"] is None:
            path = LinearSVCPath((1e-3, 1e-1, 10.0), cv=5, device="cpu", max_memory=cap).fit(X, y)
            return float(path.best_estimator_.objective_.sum()), int(path.grid_.counts.unconverged.sum())
        one = BatchedLinearSVC(case["C"], device="cpu", max_memory=cap).fit(X, y)
        return float(one.objective_.sum()), int((one.duality_gap_ > one.tol * one.objective_).sum())


def measure(name: str, file: Path) -> dict[str, Any]:
    """Run one case in the child."""
    case = CASES[name]
    rng = np.random.default_rng(1)
    LinearSVCPath(cv=2, device="cpu").fit(rng.normal(size=(600, 256)), np.arange(600) % 3)
    with h5py.File(file) as opened:
        y = opened["labels"][:]
        X = LazyRows(opened["features"]) if case["lazy"] else opened["features"][:]
        size = 4 * case["rows"] * case["columns"]
        cap = None if case["share"] is None else int(size * case["share"])
        base = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        started = time.perf_counter()
        objective, unconverged = fit(case, X, y, cap)
        seconds, growth = time.perf_counter() - started, status("VmHWM") - base
    return {
        **case,
        "X_bytes": size,
        "max_memory": cap,
        "base_bytes": base,
        "growth_bytes": growth,
        "growth_over_cap": None if cap is None else growth / cap,
        "objective": objective,
        "unconverged": unconverged,
        "seconds": seconds,
    }


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--only", multiple=True, help="Cases; default: all.")
@click.option("--child", nargs=2, hidden=True, help="Case and file, of a process that measures.")
def main(out: Path, only: tuple[str, ...], child: tuple[str, str] | None) -> None:
    if child is not None:
        print(json.dumps(measure(child[0], Path(child[1]))))
        return
    results: dict[str, Any] = {}
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        for name in only or CASES:
            file = Path(folder) / "x.h5"
            make(CASES[name], file)
            command = [sys.executable, __file__, "--out", str(out), "--child", name, str(file)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            own = results[name] = json.loads(done.stdout)
            same = next((r for r in results.values() if r["share"] is None and r["rows"] == own["rows"]), own)
            own["objective_over_no_cap"] = own["objective"] / same["objective"]
            print(
                f"{name}: cap {(own['max_memory'] or 0) / MIB:.1f} MiB, grew by {own['growth_bytes'] / MIB:.1f} MiB, "
                f"objective {own['objective_over_no_cap']:.10f}, {own['seconds']:.1f} s",
                flush=True,
            )
    document = {
        "schema": "l2a-benchmark/1",
        "what": "growth of a process's peak resident memory during a fit, against max_memory",
        **provenance(f"python benchmarks/svm_streaming.py --out {out.as_posix()}"),
        "load_average_at_start": load,
        "cases": results,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
