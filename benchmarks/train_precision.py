"""Training steps in float32 and in bfloat16: images a second, in turns, and their share of the matrix peaks.

An epoch in one precision follows an epoch in the other, so that a machine that drifts slows both. The peaks are of the
same run, each in its own precision (`train_step.py`).

    python benchmarks/train_precision.py --out benchmarks/results/train-precision.json
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import click
from provenance import provenance
from train_step import trainer_on_noise

from l2a_transfer.devices import choose_device, device_name, fast_bf16
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.training.flops import macs, matrix_peak
from l2a_transfer.training.processes import Placement

MODEL, SIZE = "vgg-att2-concat-pc", 32
PRECISIONS = ("fp32", "bf16")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--widths", default="0.25,0.5,1", show_default=True)
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--steps", type=int, default=2, show_default=True, help="Of an epoch, which is one sample.")
@click.option("--epochs", type=int, default=5, show_default=True, help="Of each precision, after one to warm up.")
@click.option("--device", default="auto", show_default=True)
def main(out: Path, widths: str, batch_size: int, steps: int, epochs: int, device: str) -> None:
    place = choose_device(device)
    side = 8192 if place.type == "cuda" else 4096
    peaks = {precision: matrix_peak(place, precision, side=side, repeats=5) for precision in PRECISIONS}
    rows: list[dict[str, Any]] = []
    for width in map(float, widths.split(",")):
        config = ModelConfig(MODEL, width=width, dropout=0.0)
        trainers = {
            precision: trainer_on_noise(config, SIZE, batch_size, steps, epochs + 1, Placement(device, precision))
            for precision in PRECISIONS
        }
        rates: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        for _ in range(epochs + 1):
            for precision, trainer in trainers.items():
                found = trainer.run_epoch(progress=False)
                assert found is not None
                rates[precision].append(found["images_per_second"])
        ratios = [bf16 / fp32 for fp32, bf16 in zip(rates["fp32"][1:], rates["bf16"][1:], strict=True)]
        for precision in PRECISIONS:
            median = statistics.median(rates[precision][1:])
            rows.append(
                {
                    "width": width,
                    "precision": precision,
                    "images_per_second": round(median, 1),
                    "share": round(6 * macs(config, SIZE) * median / peaks[precision], 3),
                    "over_fp32": round(statistics.median(ratios), 2) if precision == "bf16" else 1.0,
                    "all": [round(value, 1) for value in rates[precision][1:]],
                }
            )
            print(rows[-1], file=sys.stderr)
    document = {
        "schema": "l2a-benchmark/1",
        "what": "training steps in float32 and bfloat16 in turns: images a second, and their share of the matrix peak "
        "of the same precision and run",
        **provenance(shlex.join(["python", "benchmarks/train_precision.py", *sys.argv[1:]])),
        "ran_on": device_name(place),
        "auto_is_bf16": fast_bf16(place),
        "model": MODEL,
        "batch_size": batch_size,
        "matrix_flops": peaks,
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
