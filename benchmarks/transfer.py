"""Do attended features generalize to data the network has never seen? The README's table of real data, by commands.

Runs `l2a-transfer extract` for every model and data set, then one `l2a-transfer svm-eval` over all of them, times it as
a whole process, and keeps rows and comparisons with their provenance. Finished feature files are kept in --work and
reused.

    python benchmarks/transfer.py --data-dir data --work work --out benchmarks/results/transfer.json
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from provenance import provenance

MODELS = {
    "attention": "vgg-att2-concat-pc.cifar10-w025",
    "uniform": "vgg-att2-concat-uniform.cifar10-w025",
    "untrained": "untrained:vgg-att2-concat-pc@0.25",
    "pixels": "pixels",
}
DATA = ("caltech101", "stanford40", "svhn1083")
KEPT = (
    "model",
    "data",
    "file",
    "tap",
    "levels",
    "precision",
    "backend",
    "solver",
    "protocol",
    "draws",
    "n_classes",
    "n_train",
    "n_test",
    "dim",
    "components",
    "C",
    "interval",
    "accuracy",
    "accuracy_ci95",
    "accuracy_draws",
    "mean_class_accuracy",
    "mean_class_accuracy_ci95",
    "mean_class_accuracy_draws",
    "macro_f1",
    "top5",
    "fits",
    "unconverged",
    "seconds",
    "notes",
)


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the data sets.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Feature files and the evaluation.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(data_dir: Path, work: Path, out: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    files = []
    for data in DATA:
        for name, model in MODELS.items():
            file = work / f"{data}-{name}.h5"
            run(["extract", "--model", model, "--data", data, "--data-dir", data_dir, "--out", file, "--resume"])
            files.append(file)
    document = {
        "schema": "l2a-benchmark/1",
        "what": "linear SVM on frozen features of data that the network has never seen; seconds of svm-eval, process "
        "start and report included",
        **provenance("python benchmarks/transfer.py --data-dir data --work work --out " + out.as_posix()),
        **evaluated(files, work / "report"),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out)


def evaluated(files: list[Path], report: Path, options: tuple[str, ...] = ()) -> dict[str, Any]:
    """`svm-eval` of the files: its command, its duration as a process, its rows and comparisons."""
    started = time.perf_counter()
    run(["svm-eval", *files, *options, "--out", report, "--overwrite"])
    seconds = time.perf_counter() - started
    results = json.loads((report / "results.json").read_text())
    return {
        "svm_eval": shlex.join(
            ["l2a-transfer", "svm-eval", *(file.name for file in files), *options, "--out", report.name]
        ),
        "svm_eval_seconds": round(seconds, 1),
        "rows": [{key: row[key] for key in KEPT} for row in results["rows"]],
        "comparisons": results["comparisons"],
    }


def run(arguments: list[Any]) -> None:
    """Run `l2a-transfer ARGUMENTS` in a separate process. Raises: CalledProcessError if it fails."""
    command = [sys.executable, "-m", "l2a_transfer", *map(str, arguments)]
    print("l2a-transfer", *arguments[:4], file=sys.stderr)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
