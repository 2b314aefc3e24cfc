"""Does the kind of attention change how features generalize? Every trained member, seed 0.

Runs `l2a-transfer extract` for every member of `attention_family.py` with kept weights on each data set, then one
`svm-eval` over all files. Finished feature files are kept in --work and reused.

    python benchmarks/attention_transfer.py --data-dir data --work work --out benchmarks/results/attention-transfer.json
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import click
from attention_family import CONTROL, FAMILY, TRAINED_WIDTH
from provenance import provenance
from transfer import evaluated, run

from l2a_transfer.models.weights import read_card


@click.command()
@click.option("--data", default="caltech101,stanford40", show_default=True, help="With commas between.")
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the data sets.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Feature files and the evaluation.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(data: str, data_dir: Path, work: Path, out: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    weights = {member.name: path for member in FAMILY if (path := member.weights()) is not None}
    files = {}
    for name in data.split(","):
        for attention, path in weights.items():
            own = work / f"{name}-{path.stem}.h5"
            files[own.name] = attention
            run(["extract", "--model", path, "--data", name, "--data-dir", data_dir, "--out", own, "--resume"])
    reference = ("--reference", read_card(weights[CONTROL]).name)
    found = evaluated([work / name for name in files], work / "report", reference)
    document = {
        "schema": "l2a-benchmark/1",
        "what": f"linear SVM on the features of each attention of the family that was trained: width {TRAINED_WIDTH}, "
        "CIFAR-10, recipe fast, seed 0; compared with the uniform control",
        **provenance(shlex.join(["python", *sys.argv])),
        "test_accuracy": {name: read_card(path).metrics["test_accuracy"] for name, path in weights.items()},
        **found,
        "rows": [{"attention": files[row["file"]], **row} for row in found["rows"]],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
