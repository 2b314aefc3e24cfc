"""Cost of a busy neighbour process: the forward pass, a training step, the SVM grid and an extraction, alone and beside
a process that keeps a core busy, for different spin times of waiting threads.

Each measurement has its own process and environment, because an OpenMP runtime reads its environment only once.
Policies take turns within a round, alone and beside, so that drift of the machine affects all of them.

    python benchmarks/busy.py --work work --out benchmarks/results/busy.json
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from provenance import provenance

from l2a_transfer.threads import DECIDED, WAITING

POLICIES: dict[str, dict[str, str]] = {
    "as the runtime does by itself": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"{count} turns": {"GOMP_SPINCOUNT": str(count)} for count in (100, 1000, 10_000, 100_000)},
}
CASES = ("forward", "step", "svm", "extract")
UNITS = {"forward": "images a second", "step": "images a second", "svm": "seconds", "extract": "images a second"}
SECONDS = 6.0
"""Duration of the forward pass and of the training step, after a warm-up."""


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Feature files of the extraction.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--cases", default=",".join(CASES), show_default=True)
@click.option("--policies", default="", help="Names with commas between, for a trial.")
@click.option("--child", hidden=True, help="Measure one case in this process.")
def main(work: Path, out: Path, rounds: int, cases: str, policies: str, child: str | None) -> None:
    if child is not None:
        print(json.dumps(MEASURED[child](work)))
        return
    work.mkdir(parents=True, exist_ok=True)
    chosen = {name: POLICIES[name] for name in policies.split(",")} if policies else POLICIES
    found: dict[tuple[str, str, bool], list[float]] = defaultdict(list)
    for _ in range(rounds):
        for case in cases.split(","):
            for name, policy in chosen.items():
                for beside in (False, True):
                    found[case, name, beside].append(measured(case, policy, beside, work, out))
                    print(case, name, "beside" if beside else "alone", found[case, name, beside][-1], file=sys.stderr)
    document = {
        "schema": "l2a-benchmark/1",
        "what": "alone and beside one process that keeps a core busy, by how long waiting threads spin; medians",
        **provenance(shlex.join(["python", *sys.argv])),
        "rounds": rounds,
        "ours": WAITING,
        "rows": [
            {
                "case": case,
                "policy": name,
                "environment": policy,
                "unit": UNITS[case],
                "alone": round(alone := statistics.median(found[case, name, False]), 3),
                "beside": round(beside := statistics.median(found[case, name, True]), 3),
                "share_beside": round(alone / beside if UNITS[case] == "seconds" else beside / alone, 3),
                "all_alone": [round(value, 3) for value in found[case, name, False]],
                "all_beside": [round(value, 3) for value in found[case, name, True]],
            }
            for case in cases.split(",")
            for name, policy in chosen.items()
        ],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out)


def measured(case: str, policy: dict[str, str], beside: bool, work: Path, out: Path) -> float:
    """Run one case in a new process, if requested beside a busy one."""
    environment = {name: value for name, value in os.environ.items() if name not in DECIDED}
    command = [sys.executable, __file__, "--work", str(work), "--out", str(out), "--child", case]
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
    try:
        made = subprocess.run(command, env={**environment, **policy}, capture_output=True, text=True, check=True)
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()
    return float(json.loads(made.stdout.splitlines()[-1]))


def rate(run: Callable[[], int]) -> float:
    """Images per second over `SECONDS`, after three calls."""
    for _ in range(3):
        run()
    began, images = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        images += run()
    return images / (time.perf_counter() - began)


def forward(work: Path) -> float:
    import torch

    from l2a_transfer.models.loading import create_model

    model = create_model("vgg-att2-concat-pc", width=0.25, seed=0).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = torch.randn(64, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return rate(lambda: len(model(pixels)))


def step(work: Path) -> float:
    import torch

    from l2a_transfer.models.loading import create_model

    model = create_model("vgg-att2-concat-pc", width=0.25, seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    pixels = torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(128) % 10

    def run() -> int:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return len(labels)

    return rate(run)


def svm(work: Path) -> float:
    """The default grid on 5,000 rows of 256 columns in 10 classes."""
    import numpy as np

    from l2a_transfer.svm.estimators import LinearSVCPath

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 5000)
    rows = (rng.normal(size=(10, 256))[labels] + 4 * rng.normal(size=(5000, 256))).astype(np.float32)
    LinearSVCPath([1e-3], cv=2).fit(rows[:200], labels[:200])
    began = time.perf_counter()
    LinearSVCPath().fit(rows, labels)
    return time.perf_counter() - began


def extract(work: Path) -> float:
    from l2a_transfer.data.readers import open_source
    from l2a_transfer.features.extraction.extract import extract as extracted

    source = open_source("caltech-mini")
    began = time.perf_counter()
    extracted(source, "vgg-att2-concat-pc.cifar10-w025", work / "features.h5", overwrite=True, progress=False)
    return len(source) / (time.perf_counter() - began)


MEASURED: dict[str, Callable[[Path], Any]] = {"forward": forward, "step": step, "svm": svm, "extract": extract}


if __name__ == "__main__":
    main()
