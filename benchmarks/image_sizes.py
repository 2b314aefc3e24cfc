"""Effect of the input size on attended features: one network at 32, 48, 64 and 96 pixels, on Caltech-101.

Runs `l2a-transfer extract --image-size N` for each size, then one `svm-eval` over all files, so that sizes are compared
on the same images. Finished feature files are kept in --work and reused.

    python benchmarks/image_sizes.py --data-dir data --work work --out benchmarks/results/image-sizes.json
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

import click
from provenance import provenance
from transfer import evaluated, run

from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import PRETRAINED, read_card

MODEL = "vgg-att2-concat-pc.cifar10-w025"
SIZES = (32, 48, 64, 96)


@click.command()
@click.option("--data", default="caltech101", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the data set.")
@click.option("--model", default=MODEL, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Feature files and the evaluation.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(data: str, data_dir: Path, model: str, work: Path, out: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    files, seconds = [], {}
    for size in SIZES:
        files.append(work / f"{data}-{size}.h5")
        started, there = time.perf_counter(), files[-1].exists()
        where = ["--data", data, "--data-dir", data_dir, "--image-size", size]
        run(["extract", "--model", model, *where, "--out", files[-1], "--resume"])
        if not there:
            seconds[str(size)] = round(time.perf_counter() - started, 1)
    found = evaluated(files, work / "report")
    document = {
        "schema": "l2a-benchmark/1",
        "what": "linear SVM on attended features of one network at several input sizes; the network was trained on "
        "pictures of 32 × 32 pixels",
        **provenance(shlex.join(["python", "benchmarks/image_sizes.py", *sys.argv[1:]])),
        "extract_seconds": seconds,
        "maps": {str(size): map_sizes(model, size) for size in SIZES},
        **found,
        "rows": [{"image_size": size, **row} for size, row in zip(SIZES, found["rows"], strict=True)],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    for row in document["rows"]:
        low, high = (100 * value for value in row["mean_class_accuracy_ci95"])
        print(f"{row['image_size']} px: {100 * row['mean_class_accuracy']:.1f} ({low:.1f} to {high:.1f})")


def map_sizes(model: str, size: int) -> dict[str, list[int]]:
    """Level → the size of its attention map."""
    import torch

    network = build_model(read_card(PRETRAINED / f"{model}.safetensors").config).eval()
    with torch.no_grad():
        return {
            level: list(maps.shape[1:]) for level, maps in network.attend(torch.zeros(1, 3, size, size)).maps.items()
        }


if __name__ == "__main__":
    main()
