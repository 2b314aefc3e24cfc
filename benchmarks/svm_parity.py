"""Is BatchedLinearSVC's solution that of LinearSVC? Objectives and held-out predictions, for each problem and C.

    python benchmarks/svm_parity.py --work work --out benchmarks/results/svm_parity.json --problem digits

Ours runs at its default tolerance; the reference is LinearSVC(dual=False, tol=1e-8, max_iter=100,000 for small and
`max_iter` for large problems), on the same standardised float64 rows. One call adds or replaces one problem. Both
objectives are computed in float64 from `coef_` and `intercept_`. If the reference reached its iteration limit
(`n_iter_` is the maximum over classes), it is not a solution; our objective must then not be above its own. Held-out
rows with different predictions are listed with the margin between the two classes in both models: a tie is a margin
below 1e-4 in either.

Feature files in --work: see svm_speed.py.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from provenance import provenance
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from svm_data import Problem, caltech, cifar10, svm_objectives

from l2a_transfer.svm.estimators import BatchedLinearSVC

TIE = 1e-4


def bundled(load: Callable[..., Any]) -> Problem:
    X, y = load(return_X_y=True)
    a, b, c, d = train_test_split(X, y, test_size=0.4, stratify=y, random_state=0)
    return a, c, b, d


def two_classes(work: Path) -> Problem:
    """Cat against dog, 300 rows for fitting."""
    X, y, others, truth = cifar10(work, rows=2000, held_out=4000)
    own, other = np.isin(y, (3, 5)), np.isin(truth, (3, 5))
    return X[own][:300], y[own][:300], others[other], truth[other]


def few_rows(work: Path) -> Problem:
    X, y, others, truth = cifar10(work, rows=150, held_out=2000)
    return X, y, others, truth


C_ALL = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
PROBLEMS: dict[str, tuple[str, Callable[[Path], Problem], tuple[float, ...], int]] = {
    "cancer": ("breast cancer, 2 classes, n > d", lambda _: bundled(load_breast_cancer), C_ALL, 100_000),
    "wine": ("wine, 3 classes, n > d", lambda _: bundled(load_wine), C_ALL, 100_000),
    "digits": ("digits, 10 classes, n > d", lambda _: bundled(load_digits), C_ALL, 20_000),
    "cat-dog": ("CIFAR-10 features, cat against dog, 2 classes, n > d", two_classes, C_ALL, 100_000),
    "few-rows": ("CIFAR-10 features, 10 classes, 150 rows, n < d", few_rows, C_ALL, 20_000),
    "caltech101-low-shot": (
        "Caltech-101 features, 101 classes, 2 rows a class, n < d",
        lambda work: caltech(work, "caltech101-att.h5", per_class=2),
        C_ALL[:4],
        2000,
    ),
    "caltech101": (
        "Caltech-101 features, 101 classes, 30 rows a class, n > d",
        lambda work: caltech(work, "caltech101-att.h5"),
        (1e-4, 1e-3, 1e-2),
        1000,
    ),
}


def compare(rows: Problem, C: float, max_iter: int) -> dict[str, Any]:
    X, y, others, _ = rows
    started = time.perf_counter()
    ours = BatchedLinearSVC(C, device="cpu").fit(X, y)
    middle = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = LinearSVC(C=C, dual=False, tol=1e-8, max_iter=max_iter).fit(X, y)
    ended = time.perf_counter()
    own = svm_objectives(X, y, ours.coef_, ours.intercept_, C)
    best = svm_objectives(X, y, theirs.coef_, theirs.intercept_, C)
    relative = (own - best) / best
    return {
        "C": C,
        "objective_ours_minus_reference_over_reference": {
            "least": float(relative.min()),
            "most": float(relative.max()),
        },
        "reference_unconverged": bool(theirs.n_iter_ >= max_iter),
        "reference_n_iter": int(theirs.n_iter_),
        "ours_largest_gap_over_objective": float((ours.duality_gap_ / ours.objective_).max()),
        "ours_unconverged": int((ours.duality_gap_ > ours.tol * ours.objective_).sum()),
        "seconds": {"ours": middle - started, "reference": ended - middle},
        **differences(ours, theirs, others),
    }


def differences(ours: Any, theirs: Any, others: NDArray[Any]) -> dict[str, Any]:
    """Held-out rows with different predictions, and how many of them are ties."""
    rows = np.flatnonzero(ours.predict(others) != theirs.predict(others))
    margins = []
    for model in (ours, theirs):
        scores = model.decision_function(others[rows]) if len(rows) else np.empty((0, 2))
        margins.append(2 * np.abs(scores) if scores.ndim == 1 else np.diff(np.sort(scores, axis=1)[:, -2:])[:, 0])
    smaller = np.minimum(*margins)
    return {
        "held_out": len(others),
        "differ": len(rows),
        "of_these_ties": int((smaller < TIE).sum()),
        "margins_where_they_differ": [[float(a), float(b)] for a, b in zip(*margins, strict=True)],
    }


def verdict(record: dict[str, Any]) -> bool:
    """At most 1e-6 apart if the reference converged, otherwise at most 1e-6 above it; predictions differ only for
    ties."""
    apart = record["objective_ours_minus_reference_over_reference"]
    if record["reference_unconverged"]:
        return bool(apart["most"] <= 1e-6)
    same = record["differ"] == record["of_these_ties"]
    return bool(same and apart["least"] >= -1e-6 and apart["most"] <= 1e-6)


@click.command()
@click.option("--work", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the feature files.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write or to add to.")
@click.option("--problem", type=click.Choice(list(PROBLEMS)), required=True)
def main(work: Path, out: Path, problem: str) -> None:
    what, make, grid, max_iter = PROBLEMS[problem]
    X, y, others, truth = make(work)
    scaler = StandardScaler().fit(X.astype(np.float64))
    rows = (scaler.transform(X.astype(np.float64)), y, scaler.transform(others.astype(np.float64)), truth)
    command = f"python benchmarks/svm_parity.py --work work --out {out.as_posix()} --problem {problem}"
    entry = {
        "what": what,
        **provenance(command),
        "load_average_at_start": os.getloadavg(),
        "rows": len(X),
        "columns": X.shape[1],
        "classes": len(np.unique(y)),
        "reference_max_iter": max_iter,
        "records": [],
    }
    for C in grid:
        record = compare(rows, C, max_iter)
        record["passes"] = verdict(record)
        entry["records"].append(record)
        print(problem, json.dumps({k: v for k, v in record.items() if k != "margins_where_they_differ"}), flush=True)
    document = json.loads(out.read_text()) if out.exists() else {"schema": "l2a-benchmark/1", "problems": {}}
    document["what"] = "BatchedLinearSVC at its default tol against LinearSVC(dual=False, tol=1e-8)"
    document["problems"][problem] = entry
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
