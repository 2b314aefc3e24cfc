"""The SVM grid on problems of many shapes, beside scikit-learn's GridSearchCV and LIBLINEAR on the same candidates.

Made data: K classes whose means differ in all D columns, with noise whose spectrum falls as that of features does. All
search the same C on the same five stratified folds and fit once more with the best:

- ours: LinearSVCPath, alone and beside a process that keeps one core busy;
- gridsearch: GridSearchCV(StandardScaler → LinearSVC(dual=False), n_jobs=2);
- liblinear: the package liblinear-multicore, two threads, its solver of the primal (-s 2) on rows that are scaled
  once a fold, one fit for each C;
- search: its own search (-C, five folds), which starts each C from the last one's solution and doubles C from 2^-13 to
  2^10; beside ours on those 24 candidates.

A problem runs in a process of its own, which first solves a tiny problem, so that imports and the start of threads and
workers are in no time. One that takes longer than --limit is ended; its time is then null, and `times_faster` a lower
bound. Install liblinear-multicore for the last two.

    python benchmarks/svm_grid.py --out benchmarks/results/svm_grid.json
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from provenance import provenance
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from svm_data import svm_objectives

from l2a_transfer.svm.estimators import LinearSVCPath
from l2a_transfer.threads import waiting

PROBLEMS = (
    (500, 64, 2),
    (500, 64, 10),
    (500, 1024, 10),
    (2_000, 64, 100),
    (2_000, 2048, 10),
    (5_000, 256, 10),
    (5_000, 256, 100),
    (5_000, 1024, 50),
    (10_000, 2048, 2),
    (20_000, 256, 1_000),
    (50_000, 64, 10),
    (50_000, 256, 10),
    (50_000, 2048, 10),
)
"""Rows, columns, classes."""
CS = tuple(10.0**power for power in range(-5, 3))
DOUBLED = tuple(2.0**power for power in range(-13, 11))
"""The candidates of LIBLINEAR's own search where it begins at the first of them."""
FOLDS = 5
PEERS = {"gridsearch": "ours", "liblinear": "ours", "search": "ours, doubled C"}
"""What is compared with which of ours."""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write or to add to.")
@click.option("--problem", "problems", multiple=True, help="N,D,K; repeatable. [default: all]")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Of ours.")
@click.option("--limit", type=float, default=600.0, show_default=True, help="Seconds of one peer on one problem.")
@click.option("--child", hidden=True, help="Measure one thing in this process.")
def main(out: Path, problems: tuple[str, ...], repeats: int, limit: float, child: str | None) -> None:
    chosen = tuple(shape(text) for text in problems) or PROBLEMS
    if child is not None:
        print(json.dumps(MEASURED[child](*made(*chosen[0]))))
        return
    about = provenance(shlex.join(["python", *sys.argv]))
    document = json.loads(out.read_text()) if out.exists() else {"schema": "l2a-benchmark/1", "problems": {}}
    document |= {"what": "SVM grid: seconds of candidates × folds and a last fit, on made data, beside peers", **about}
    document |= {"Cs": CS, "doubled": DOUBLED, "folds": FOLDS, "limit": limit}
    for problem in chosen:
        found = {"ours": [measured("ours", problem, out, limit) for _ in range(repeats)]}
        found["ours, busy"] = [measured("ours", problem, out, limit, busy=True) for _ in range(repeats)]
        for name in ("ours, doubled C", *PEERS):
            found[name] = [measured(name, problem, out, limit)]
        document["problems"][",".join(map(str, problem))] = found | {"compared": compared(found, limit)}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n")
        print(problem, json.dumps(document["problems"][",".join(map(str, problem))]["compared"]), flush=True)


def compared(found: dict[str, list[dict[str, Any] | None]], limit: float) -> dict[str, Any]:
    """Ratios of seconds, and of the objectives of the last fit; both of the medians where there are several."""
    seconds = {name: [run["seconds"] if run else limit for run in runs] for name, runs in found.items()}
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    ratios: dict[str, Any] = {
        "seconds": round(middle["ours"], 4),
        "busy": round(middle["ours, busy"] / middle["ours"], 2),
    }
    for peer, own in PEERS.items():
        run = found[peer][0]
        ratios[peer] = {"times_faster": round(middle[peer] / middle[own], 2), "ended": run is not None}
        ours = found[own][0]
        if run and ours and run["C"] == ours["C"]:
            ratios[peer]["objective"] = ours["objective"] / run["objective"] - 1
    return ratios


def measured(
    name: str, problem: tuple[int, int, int], out: Path, limit: float, *, busy: bool = False
) -> dict[str, Any] | None:
    """One measurement in a process of its own; None where it did not end in time."""
    command = [sys.executable, __file__, "--out", str(out), "--problem", ",".join(map(str, problem)), "--child", name]
    environment = {**os.environ, **waiting()}  # as the command line sets it
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit + 60, env=environment)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if neighbour is not None:
            neighbour.kill()
            neighbour.wait()
    found: dict[str, Any] = json.loads(next(line for line in ran.stdout.splitlines() if line.startswith("{")))
    return found


def made(rows: int, columns: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows (N, D) and labels (N,); at least 2 rows a fold of each class."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(rows) % classes)
    spectrum = np.arange(1, columns + 1) ** -0.5
    means = rng.normal(size=(classes, columns)) * spectrum
    mixing = np.linalg.qr(rng.normal(size=(columns, columns)))[0]
    X = (means[y] + 1.5 * rng.normal(size=(rows, columns)) * spectrum) @ mixing
    return np.maximum(X, 0).astype(np.float32), y


def folds(X: NDArray[Any], y: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(X, y))


def objective(X: NDArray[Any], y: NDArray[Any], coef: NDArray[Any], intercept: NDArray[Any], C: float) -> float:
    """Summed over classes, on scaled rows."""
    return float(svm_objectives(StandardScaler().fit_transform(X.astype(np.float64)), y, coef, intercept, C).sum())


def ours(X: NDArray[Any], y: NDArray[Any], Cs: tuple[float, ...] = CS) -> dict[str, Any]:
    cv = folds(X, y)
    LinearSVCPath([1.0], cv=2, device="cpu").fit(*few(X, y))  # imports torch and starts its threads
    began = time.perf_counter()
    found = LinearSVCPath(list(Cs), cv=cv, device="cpu").fit(X, y)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "C": found.best_params_["C"],
        "score": found.best_score_,
        "objective": float(found.best_estimator_.objective_.sum()),
        "unconverged": int(found.grid_.counts.unconverged.sum()),
    }


def doubled(X: NDArray[Any], y: NDArray[Any]) -> dict[str, Any]:
    return ours(X, y, DOUBLED)


def gridsearch(X: NDArray[Any], y: NDArray[Any]) -> dict[str, Any]:
    cv, pipeline = folds(X, y), make_pipeline(StandardScaler(), LinearSVC(dual=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        GridSearchCV(pipeline, {"linearsvc__C": [1.0]}, cv=2, n_jobs=2).fit(*few(X, y))  # workers start
        began = time.perf_counter()
        search = GridSearchCV(pipeline, {"linearsvc__C": list(CS)}, cv=cv, n_jobs=2).fit(X, y)
        seconds = time.perf_counter() - began
    C, svc = float(search.best_params_["linearsvc__C"]), search.best_estimator_[1]
    return {
        "seconds": seconds,
        "C": C,
        "score": float(search.best_score_),
        "objective": objective(X, y, svc.coef_, svc.intercept_, C),
    }


def few(X: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Four rows of each of two classes."""
    rows = np.concatenate([np.flatnonzero(y == k)[:4] for k in (0, 1)])
    return X[rows], y[rows]


def liblinear(X: NDArray[Any], y: NDArray[Any]) -> dict[str, Any]:
    from liblinear.liblinearutil import parameter, problem, train

    began = time.perf_counter()
    right = np.zeros(len(CS))
    for train_rows, test_rows in folds(X, y):
        scaler = StandardScaler().fit(X[train_rows].astype(np.float64))
        z, held_out = (scaler.transform(X[rows].astype(np.float64)) for rows in (train_rows, test_rows))
        rows = problem(y[train_rows], z, 1)
        for i, C in enumerate(CS):
            coef, intercept, labels = weights_of(train(rows, parameter(f"-s 2 -c {C!r} -e 0.0001 -B 1 -m 2 -q")))
            right[i] += (labels[np.argmax(held_out @ coef.T + intercept, axis=1)] == y[test_rows]).mean()
    C = CS[int(right.argmax())]
    z = StandardScaler().fit_transform(X.astype(np.float64))
    model = train(problem(y, z, 1), parameter(f"-s 2 -c {C!r} -e 0.0001 -B 1 -m 2 -q"))
    seconds = time.perf_counter() - began
    coef, intercept, labels = weights_of(model)
    order = np.argsort(labels)
    coef, intercept = (coef[1:], intercept[1:]) if len(labels) == 2 else (coef[order], intercept[order])
    return {
        "seconds": seconds,
        "C": C,
        "score": float(right.max() / FOLDS),
        "objective": objective(X, y, coef, intercept, C),
    }


def weights_of(model: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Coefficients (K, D), intercepts (K,) and labels (K,) of a model; of two classes, a row for each, sorted."""
    labels = np.array(model.get_labels())
    count = 1 if len(labels) == 2 else len(labels)
    flat = np.ctypeslib.as_array(model.w, shape=((model.nr_feature + 1) * count,)).reshape(-1, count).T
    if count == 1:  # LIBLINEAR's only row speaks for its first label
        flat = np.vstack([flat, -flat]) if labels[0] < labels[1] else np.vstack([-flat, flat])
        labels = np.sort(labels)
    return flat[:, :-1].copy(), flat[:, -1].copy(), labels.astype(int)


def search(X: NDArray[Any], y: NDArray[Any]) -> dict[str, Any]:
    """LIBLINEAR's own; rows are scaled once, since it makes its folds itself."""
    from liblinear.liblinearutil import parameter, problem, train

    began = time.perf_counter()
    rows = problem(y, StandardScaler().fit_transform(X.astype(np.float64)), 1)
    C, _, score = train(rows, parameter(f"-s 2 -C -c {DOUBLED[0]!r} -v {FOLDS} -e 0.0001 -B 1 -m 2 -q"))
    model = train(rows, parameter(f"-s 2 -c {C!r} -e 0.0001 -B 1 -m 2 -q"))
    seconds = time.perf_counter() - began
    coef, intercept, labels = weights_of(model)
    order = np.argsort(labels)
    coef, intercept = (coef[1:], intercept[1:]) if len(labels) == 2 else (coef[order], intercept[order])
    return {"seconds": seconds, "C": C, "score": score, "objective": objective(X, y, coef, intercept, C)}


MEASURED: dict[str, Callable[[NDArray[Any], NDArray[Any]], dict[str, Any]]] = {
    "ours": ours,
    "ours, doubled C": doubled,
    "gridsearch": gridsearch,
    "liblinear": liblinear,
    "search": search,
}


def shape(text: str) -> tuple[int, int, int]:
    rows, columns, classes = (int(part) for part in text.split(","))
    return rows, columns, classes


if __name__ == "__main__":
    main()
