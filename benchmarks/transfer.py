"""Do attended features generalize to data the network has never seen? The README's table of real data, from commands.

Runs `l2a-transfer extract` for every model and data set, then one `l2a-transfer svm-eval` a data set, and keeps the
rows with their provenance. Finished feature files and evaluations are kept in --work and are not made again.

    python benchmarks/transfer.py --data-dir data --work work --out benchmarks/results/transfer.json
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
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
# A set without an official split is drawn three times; the others have one split.
PROTOCOLS = {
    "caltech101": ["--protocol", "caltech-30", "--draws", "3"],
    "stanford40": ["--protocol", "official"],
    "svhn1083": ["--protocol", "official"],
}


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the data sets.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Feature files and evaluations.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(data_dir: Path, work: Path, out: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    commands = []
    for data, protocol in PROTOCOLS.items():
        files = [work / f"{data}-{name}.h5" for name in MODELS]
        for file, model in zip(files, MODELS.values(), strict=True):
            run(["extract", "--model", model, "--data", data, "--data-dir", data_dir, "--out", file, "--resume"])
        evaluation = ["svm-eval", *files, "--out", work / data, *protocol]
        if not (work / data / "results.json").exists():
            run([*evaluation, "--jobs", os.cpu_count()])
        rows += json.loads((work / data / "results.json").read_text())["rows"]
        commands.append(["svm-eval", *(f.name for f in files), "--out", data, *protocol])
    document = {
        "schema": "l2a-benchmark/1",
        "what": "linear SVM on frozen features of data that the network has never seen",
        **provenance("python benchmarks/transfer.py --data-dir data --work work --out " + out.as_posix()),
        "svm_eval": [shlex.join(["l2a-transfer", *command]) for command in commands],
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out)


def run(arguments: list[Any]) -> None:
    """`l2a-transfer ARGUMENTS` in a process of its own. Raises: CalledProcessError where it fails."""
    command = [sys.executable, "-m", "l2a_transfer", *map(str, arguments)]
    print("l2a-transfer", *arguments[:4], file=sys.stderr)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
