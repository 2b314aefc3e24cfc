"""The PCA of `pixels`: CPU time of a fold, and the share of the exact components' variance that it misses.

The pixels of Caltech-101, 30 images per class, standardised; a fold is four fifths of these rows, drawn at random. It
compares subspace iteration, with and without a start from the components of all rows, with scikit-learn's PCA and its
automatic solver. One thread, in turns.

    l2a-transfer extract --model pixels --data caltech101 --data-dir data --out pixels.h5
    python benchmarks/components.py --features pixels.h5 --out benchmarks/results/components.json
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from provenance import provenance
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from l2a_transfer import read_features
from l2a_transfer.svm.components import LeadingComponents

IMAGES, KEPT, FOLD = 30, 256, 0.8


@click.command()
@click.option("--features", type=click.Path(path_type=Path, exists=True), required=True, help="A file of pixels.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(features: Path, rounds: int, out: Path) -> None:
    file, rng = read_features(features), np.random.default_rng(0)
    classes = [np.flatnonzero(file.labels == label) for label in np.unique(file.labels)]
    rows = file.features[np.concatenate([rng.permutation(own)[:IMAGES] for own in classes])].astype(np.float64)
    rows -= rows.mean(axis=0)
    rows /= rows.std(axis=0)
    fold = rows[rng.permutation(len(rows))[: round(FOLD * len(rows))]]
    with threadpool_limits(1):
        exact = float(PCA(KEPT, svd_solver="covariance_eigh").fit(fold).explained_variance_.sum())
        start = LeadingComponents(KEPT).fit(rows).directions_
        ways: dict[str, Callable[[], Any]] = {
            "scikit-learn": lambda: PCA(KEPT, random_state=0),
            "without a start": lambda: LeadingComponents(KEPT),
            "from the components of all rows": lambda: LeadingComponents(KEPT, start=start),
        }
        found: dict[str, Any] = {name: {"all_seconds": []} for name in ways}
        for _ in range(rounds):
            for name, make in ways.items():
                began = time.process_time()
                fitted = make().fit(fold)
                found[name]["all_seconds"].append(round(time.process_time() - began, 3))
                held = float(((fold - fold.mean(axis=0)) @ fitted.components_.T).var(axis=0, ddof=1).sum())
                found[name]["missing_variance"] = 1 - held / exact
    for name, own in found.items():
        own["seconds"] = statistics.median(own["all_seconds"])
        print(name, own["seconds"], own["missing_variance"])
    document = {
        "schema": "l2a-benchmark/1",
        "what": "seconds of processor time, on one thread, of the PCA of a fold of pixels, and the share of the exact "
        "components' variance that is missing",
        **provenance(shlex.join(["python", "benchmarks/components.py", *sys.argv[1:]])),
        "rows": len(fold),
        "columns": fold.shape[1],
        "components": KEPT,
        "ways": found,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
