"""How much faster is LinearSVCPath than GridSearchCV(StandardScaler → LinearSVC)? Same grid, folds, refit and machine.

    python benchmarks/svm_speed.py --work work --out benchmarks/results/svm_speed.json --problem caltech101

Feature files in --work come from `l2a-transfer extract --model MODEL --data DATA --data-dir data --out work/FILE.h5`:
caltech101-att and cifar10-att with the model vgg-att2-concat-pc, caltech101-uniform with vgg-att2-concat-uniform, and
caltech101-untrained with untrained:vgg-att2-concat-pc@0.5.

One call measures one problem and adds a run to the JSON: ours and the reference with the same --cs and --folds, search
and refit. If the reference takes too long on the whole grid, fewer C or folds are measured for both.
"""

from __future__ import annotations

import json
import os
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from joblib.externals.loky import get_reusable_executor
from provenance import provenance
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from svm_data import Problem, caltech, cifar10, svm_objectives

from l2a_transfer.svm.estimators import C_GRID, BatchedLinearSVC, LinearSVCPath

CONCATENATED = ("caltech101-att.h5", "caltech101-uniform.h5", "caltech101-untrained.h5")
PROBLEMS: dict[str, tuple[str, Callable[[Path], Problem]]] = {
    "caltech101": (
        "Caltech-101, 101 classes, 30 rows a class; vgg-att2-concat-pc.cifar10-w025, 256 columns",
        lambda work: caltech(work, "caltech101-att.h5"),
    ),
    "cifar10": (
        "CIFAR-10 test images, 10 classes, 10,000 rows; vgg-att2-concat-pc.cifar10-w025, 256 columns",
        lambda work: cifar10(work, rows=10_000, held_out=1000),
    ),
    "caltech101-1024": (
        "Caltech-101, 30 of its classes, 30 rows a class; the features of three networks side by side, 1024 columns: "
        "both cifar10-w025 and untrained vgg-att2-concat-pc at width 0.5",
        lambda work: caltech(work, *CONCATENATED, classes=30),
    ),
}


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of `run`, wall time in seconds, and CPU time of this process and its workers."""
    before, started = _cpu_seconds(), time.perf_counter()
    result = run()
    seconds = time.perf_counter() - started
    get_reusable_executor().shutdown(wait=True)  # a worker's time is counted when it has ended
    return result, seconds, _cpu_seconds() - before


def _cpu_seconds() -> float:
    own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def reference(X: Any, y: Any, cs: list[float], cv: Any) -> dict[str, Any]:
    """GridSearchCV over `cs`, two processes, scikit-learn's defaults; and its refit with the best C."""
    pipeline = make_pipeline(StandardScaler(), LinearSVC(dual=False))
    few = np.arange(len(y)) < 0
    for k in np.unique(y)[:2]:
        few[np.flatnonzero(y == k)[:10]] = True
    search = GridSearchCV(pipeline, {"linearsvc__C": [1.0, 2.0]}, cv=2, n_jobs=2)
    _, _, starting = timed(lambda: search.fit(X[few], y[few]))  # processor time of two workers that only start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = GridSearchCV(pipeline, {"linearsvc__C": cs}, cv=cv, n_jobs=2)
        _, seconds, cpu_seconds = timed(lambda: search.fit(X, y))
    scaler, svc = search.best_estimator_
    C = float(search.best_params_["linearsvc__C"])
    best = svm_objectives(scaler.transform(X.astype(np.float64)), y, svc.coef_, svc.intercept_, C)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds - starting,
        "refit_seconds": search.refit_time_,
        "best_C": C,
        "best_score": float(search.best_score_),
        "mean_test_score": search.cv_results_["mean_test_score"].tolist(),
        "refit_objective": float(best.sum()),
        "refit_n_iter": int(svc.n_iter_),
        "refit_unconverged": bool(svc.n_iter_ >= svc.max_iter),
    }


def ours(X: Any, y: Any, cs: list[float], cv: Any, repeats: int) -> dict[str, Any]:
    """LinearSVCPath over `cs`, `repeats` times."""
    runs = [timed(lambda: LinearSVCPath(cs, cv=cv, device="cpu").fit(X, y)) for _ in range(repeats)]
    found = runs[-1][0]
    return {
        "seconds": [seconds for _, seconds, _ in runs],
        "cpu_seconds": [cpu for _, _, cpu in runs],
        "refit_seconds": found.refit_time_,
        "best_C": found.best_params_["C"],
        "best_score": found.best_score_,
        "mean_test_score": found.cv_results_["mean_test_score"].tolist(),
        "refit_objective": float(found.best_estimator_.objective_.sum()),
        "unconverged": int(found.grid_.counts.unconverged.sum()),
    }


def our_objective(X: Any, y: Any, C: float) -> float:
    """The objective of the refit for a given C, in the same coordinates as the reference's."""
    z = StandardScaler().fit_transform(X.astype(np.float64))
    fitted = BatchedLinearSVC(C, device="cpu").fit(z, y)
    return float(svm_objectives(z, y, fitted.coef_, fitted.intercept_, C).sum())


def comparison(own: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Speedup from the median of ours, by wall time and by CPU time, and the objectives of the refit."""
    times = {kind: theirs[kind] / float(np.median(own[kind])) for kind in ("seconds", "cpu_seconds")}
    objective = {"reference": theirs["refit_objective"], "ours_at_the_same_C": theirs["our_objective"]}
    return {"times_faster": times, "refit_objective": objective}


@click.command()
@click.option("--work", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the feature files.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write or to add to.")
@click.option("--problem", type=click.Choice(list(PROBLEMS)), required=True)
@click.option("--cs", default=",".join(map(str, C_GRID)), show_default=True, help="Candidates, of both.")
@click.option("--folds", default=5, show_default=True, help="Of these five, the first so many, of both.")
@click.option("--repeats", default=3, show_default=True, help="Of ours.")
@click.option("--threads", default=os.cpu_count(), show_default=True, help="Of ours; the reference has 2 processes.")
def main(work: Path, out: Path, problem: str, cs: str, folds: int, repeats: int, threads: int) -> None:
    what, make = PROBLEMS[problem]
    torch.set_num_threads(threads)
    command = f"python benchmarks/svm_speed.py --work work --out {out.as_posix()} --problem {problem} --cs {cs}"
    command += f" --folds {folds} --repeats {repeats} --threads {threads}"
    run = {**provenance(command), "load_average_at_start": os.getloadavg()}
    X, y, _, _ = make(work)
    cv = list(StratifiedKFold(5, shuffle=True, random_state=0).split(X, y))[:folds]
    grid = [float(C) for C in cs.split(",")]
    run |= {"Cs": grid, "folds": folds, "threads_of_ours": threads, "ours": ours(X, y, grid, cv, repeats)}
    print(problem, X.shape, run["ours"], flush=True)
    run["reference"] = reference(X, y, grid, cv)
    run["reference"]["our_objective"] = our_objective(X, y, run["reference"]["best_C"])
    run["comparison"] = comparison(run["ours"], run["reference"])
    document = json.loads(out.read_text()) if out.exists() else {"schema": "l2a-benchmark/1", "problems": {}}
    document["what"] = "grid × folds × refit: LinearSVCPath against GridSearchCV(StandardScaler → LinearSVC, n_jobs=2)"
    entry = document["problems"].setdefault(problem, {"runs": []})
    entry |= {"what": what, "rows": len(X), "columns": X.shape[1], "classes": len(np.unique(y))}
    entry["runs"].append(run)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps({key: run[key] for key in ("reference", "comparison")}, indent=1))


if __name__ == "__main__":
    main()
