"""The forward pass of each form of a network, as a share of the matrix peak measured in the same run.

Forms take turns within a round: as trained, with batch norms folded into the convolutions (as in `extract`), and the
folded form compiled by torch's inductor with frozen weights, which needs a C++ compiler.

    python benchmarks/forward_forms.py --out benchmarks/results/forward-forms.json
"""

from __future__ import annotations

import json
import shlex
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch
from provenance import provenance

from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.copies import evaluation_copy
from l2a_transfer.models.inference import fold_batch_norms
from l2a_transfer.models.registry import build_model
from l2a_transfer.training.flops import macs, matrix_peak

ARCHITECTURE, SIZE = "vgg-att2-concat-pc", 32


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--widths", default="0.25,1", show_default=True)
@click.option("--images", type=click.IntRange(min=1), default=64, show_default=True, help="Of a batch.")
@click.option("--seconds", type=float, default=4.0, show_default=True, help="Of each form in a round.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--compiled/--no-compiled", default=True, show_default=True)
def main(out: Path, widths: str, images: int, seconds: float, rounds: int, compiled: bool) -> None:
    document = {
        "schema": "l2a-benchmark/1",
        "what": "images a second of the forward pass in evaluation mode, float32, and its share of the matrix peak: "
        "2 operations for each multiplication, over the best product of two matrices, measured in every round",
        **provenance(shlex.join(["python", *sys.argv])),
        "architecture": ARCHITECTURE,
        "size": SIZE,
        "images": images,
        "rounds": rounds,
        "widths": [measured(float(w), images, seconds, rounds, compiled) for w in widths.split(",")],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


@torch.inference_mode()
def measured(width: float, images: int, seconds: float, rounds: int, compiled: bool) -> dict[str, Any]:
    config = ModelConfig(ARCHITECTURE, width=width)
    model = build_model(config, seed=0).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    forms: dict[str, Any] = {"as trained": model, "folded": fold_batch_norms(evaluation_copy(model))}
    began = time.perf_counter()
    pixels = torch.randn(images, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    if compiled and shutil.which("g++"):
        forms["folded, compiled"] = torch.compile(fold_batch_norms(evaluation_copy(model)), options={"freezing": True})
        forms["folded, compiled"](pixels)
    compile_seconds = time.perf_counter() - began
    expected = model(pixels)
    operations, rates, peaks = 2 * macs(config, SIZE), {name: [] for name in forms}, []  # type: ignore[var-annotated]
    for _ in range(rounds):
        peaks.append(matrix_peak(torch.device("cpu"), "fp32"))
        for name, form in forms.items():
            form(pixels)
            began, done = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                form(pixels)
                done += images
            rates[name].append(done / (time.perf_counter() - began))
    peak = statistics.median(peaks)
    rows = [
        {
            "form": name,
            "images_per_second": round(statistics.median(values), 1),
            "of_peak": round(statistics.median(values) * operations / peak, 3),
            "over_as_trained": round(
                statistics.median(own / first for own, first in zip(values, rates["as trained"], strict=True)), 3
            ),
            "relative_error": float((forms[name](pixels) - expected).norm() / expected.norm()),
            "all": [round(value, 1) for value in values],
        }
        for name, values in rates.items()
    ]
    for row in rows:
        print(width, row["form"], row["images_per_second"], row["of_peak"], row["over_as_trained"])
    return {
        "width": width,
        "matrix_peak_gflops": round(peak / 1e9, 1),
        "compile_seconds": round(compile_seconds, 1),
        "forms": rows,
    }


if __name__ == "__main__":
    main()
