r"""How long `svm-eval` takes as a whole, compared with another revision: start, fits, statistics and report included.

Two cases: 40,000 training and 10,000 test rows of made data with 1,024 columns and 100 classes, with 500 MB of memory
(`--max-memory 500M`); and Caltech-101 with three networks and pixels, ten draws each. Both trees evaluate the same
feature files in turns, each time in a new process. A command that takes longer than --limit is ended; its time is then
null, and `times_faster` a lower bound. Accuracies of both trees are kept, to compare them.

    python benchmarks/svm_eval.py --case draws --against 87c5dfb~1 --data-dir data --work work \
        --out benchmarks/results/svm-eval-draws.json
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from bench import checked_out, git
from provenance import provenance
from svm_grid import made
from transfer import MODELS, run

from l2a_transfer import write_features

ROOT = Path(__file__).resolve().parents[1]
WHOSE = "this tree", "the other"
ROWS, COLUMNS, CLASSES, TEST = 50_000, 1024, 100, 10_000


@click.command()
@click.option("--case", type=click.Choice(["rows", "draws"]), required=True)
@click.option("--against", default=None, help="A git revision. Without it, only this tree is measured.")
@click.option("--rounds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--limit", type=float, default=1800.0, show_default=True, help="Seconds of one command.")
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), help="Holds Caltech-101, for `draws`.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Feature files and reports.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(
    case: str, against: str | None, rounds: int, limit: float, data_dir: Path | None, work: Path, out: Path
) -> None:
    work.mkdir(parents=True, exist_ok=True)
    files, options = made_rows(work) if case == "rows" else draws(work, data_dir)
    command = ["svm-eval", *files, *options]
    document: dict[str, Any] = {
        "schema": "l2a-benchmark/1",
        "what": "seconds and peak resident MiB of svm-eval as a process, report included",
        **provenance(shlex.join(["python", *sys.argv])),
        "case": case,
        "svm_eval": shlex.join(["l2a-transfer", "svm-eval", *(file.name for file in files), *options]),
        "limit": limit,
    }
    with tempfile.TemporaryDirectory() as folder:
        if against is None:
            document |= {"samples": [{"tree": WHOSE[0], **timed(ROOT, command, work, limit)} for _ in range(rounds)]}
        else:
            with checked_out(against, Path(folder)) as other:
                document |= {"against": git("rev-parse", against), **compared(other, command, work, limit, rounds)}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out)


def made_rows(work: Path) -> tuple[list[Path], list[str]]:
    file = work / "rows.h5"
    if not file.exists():
        X, y = made(ROWS, COLUMNS, CLASSES)
        split = np.where(np.arange(ROWS) < ROWS - TEST, "train", "test")
        write_features(X, y, file, split=split, name="made")
    return [file], ["--max-memory", "500M"]


def draws(work: Path, data_dir: Path | None) -> tuple[list[Path], list[str]]:
    if data_dir is None:
        raise click.UsageError("--case draws needs --data-dir")
    files = []
    for name, model in MODELS.items():
        files.append(work / f"caltech101-{name}.h5")
        extract = ["extract", "--model", model, "--data", "caltech101", "--data-dir", data_dir, "--resume"]
        run([*extract, "--out", files[-1]])
    return files, ["--draws", "10"]


def compared(other: Path, command: list[Any], work: Path, limit: float, rounds: int) -> dict[str, Any]:
    """Samples of both trees in turns, and how many times faster this tree is (ratio of the medians)."""
    roots = dict(zip(WHOSE, (ROOT, other), strict=True))
    samples = []
    for _ in range(rounds):
        for whose, root in roots.items():
            samples.append({"tree": whose, **timed(root, command, work, limit)})
            print({key: samples[-1][key] for key in ("tree", "seconds", "peak_mib")}, file=sys.stderr)
    mine, theirs = ([s["seconds"] or limit for s in samples if s["tree"] == whose] for whose in WHOSE)
    return {"samples": samples, "times_faster": round(statistics.median(theirs) / statistics.median(mine), 2)}


def timed(root: Path, command: list[Any], work: Path, limit: float) -> dict[str, Any]:
    """One command by the package in a folder: seconds, peak resident MiB of its process, and accuracy of each row."""
    report = work / "report"
    words = [sys.executable, "-m", "l2a_transfer", "-q", *command, "--out", report, "--overwrite"]
    began = time.perf_counter()
    process = subprocess.Popen(
        [os.path.abspath(word) if isinstance(word, Path) else word for word in words],
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=root,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while time.perf_counter() - began < limit:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            seconds = time.perf_counter() - began
            break
        time.sleep(0.05)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        *_, usage = os.wait4(process.pid, 0)
        return {"seconds": None, "peak_mib": round(usage.ru_maxrss / 1024), "accuracies": None}
    if status:
        raise click.ClickException(f"svm-eval of {root.name} ended with {os.waitstatus_to_exitcode(status)}")
    rows = json.loads((report / "results.json").read_text())["rows"]
    accuracies = {row["model"]: row["accuracy"] for row in rows}
    return {"seconds": round(seconds, 1), "peak_mib": round(usage.ru_maxrss / 1024), "accuracies": accuracies}


if __name__ == "__main__":
    main()
