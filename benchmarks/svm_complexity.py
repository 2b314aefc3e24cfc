"""How the time of the SVM grid grows with rows, columns, classes, candidates and folds, one at a time.

Around one problem of made data (4,000 rows, 256 columns, 10 classes, 5 folds, C = 0.001, 0.01, 0.1, 1), each size is
varied alone; of C, a grid of one value. Each point is the median of --repeats fits of LinearSVCPath in a process of its
own. The exponent is the slope of a straight line through the logarithms of the upper half of the points.

    python benchmarks/svm_complexity.py --out benchmarks/results/svm_complexity.json
    python scripts/draw_solver.py
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from provenance import provenance
from sklearn.model_selection import StratifiedKFold
from svm_grid import few, made

from l2a_transfer.svm.estimators import LinearSVCPath
from l2a_transfer.threads import waiting

BASE: dict[str, Any] = {"rows": 4_000, "columns": 256, "classes": 10, "folds": 5, "Cs": [1e-3, 1e-2, 1e-1, 1.0]}
VARIED: dict[str, tuple[Any, ...]] = {
    "rows": (500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000),
    "columns": (32, 64, 128, 256, 512, 1024, 2048),
    "classes": (2, 5, 10, 20, 50, 100, 200),
    "folds": (2, 3, 5, 10, 20),
    "C": tuple(10.0**power for power in range(-5, 3)),
}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--varied", default=",".join(VARIED), show_default=True, help="With commas between.")
@click.option("--child", hidden=True, help="JSON of one problem, to measure in this process.")
def main(out: Path, repeats: int, varied: str, child: str | None) -> None:
    if child is not None:
        print(json.dumps(fitted(**json.loads(child), repeats=repeats)))
        return
    series: dict[str, Any] = {}
    document = {
        "schema": "l2a-benchmark/1",
        "what": "seconds of the SVM grid (candidates × folds, and a last fit) by the size of the problem",
        **provenance(shlex.join(["python", *sys.argv])),
        "ran_on": f"cpu, {torch.get_num_threads()} threads",
        "base": BASE,
        "series": series,
    }
    for name in varied.split(","):
        points = [point(name, value, out, repeats) for value in VARIED[name]]
        series[name] = {"points": points, "exponent": None if name == "C" else exponent(points)}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n")
        print(name, series[name]["exponent"], [(own["value"], own["seconds"]) for own in points], flush=True)


def point(name: str, value: Any, out: Path, repeats: int) -> dict[str, Any]:
    problem = BASE | ({"Cs": [value]} if name == "C" else {name: value})
    command = [sys.executable, __file__, "--out", str(out), "--repeats", str(repeats), "--child", json.dumps(problem)]
    environment = {**os.environ, **waiting()}  # as the command line sets it
    ran = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seconds = json.loads(ran.stdout)
    return {"value": value, "seconds": round(statistics.median(seconds), 4), "all": seconds}


def fitted(rows: int, columns: int, classes: int, folds: int, Cs: list[float], repeats: int) -> list[float]:
    X, y = made(rows, columns, classes)
    cv = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(X, y))
    LinearSVCPath([1.0], cv=2, device="cpu").fit(*few(X, y))  # starts threads
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        LinearSVCPath(Cs, cv=cv, device="cpu").fit(X, y)
        seconds.append(round(time.perf_counter() - began, 4))
    return seconds


def exponent(points: list[dict[str, Any]]) -> float:
    upper = points[len(points) // 2 :]
    x, t = (np.log([own[key] for own in upper]) for key in ("value", "seconds"))
    return round(float(np.polyfit(x, t, 1)[0]), 2)


if __name__ == "__main__":
    main()
