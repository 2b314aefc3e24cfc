"""Share of the device's matrix peak used by a training step: images per second of whole epochs, with augmentation.

The peak is the best of ten products of two square matrices (4096 wide on a CPU, 8192 on a GPU), in the step's own
precision, in the same run. A step's work is 6 operations for each multiplication of the forward pass.

    python benchmarks/train_step.py --out benchmarks/results/train-step.json
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from provenance import provenance

from l2a_transfer.data.sources import join_splits
from l2a_transfer.devices import choose_device, device_name, training_precision
from l2a_transfer.models.config import DEFAULT_WIDTH, ModelConfig
from l2a_transfer.training.data import TrainingData
from l2a_transfer.training.flops import macs, matrix_peak
from l2a_transfer.training.processes import Placement
from l2a_transfer.training.recipe import TrainConfig
from l2a_transfer.training.trainer import Trainer


@click.command()
@click.option("--model", default="vgg-att2-concat-pc", show_default=True)
@click.option("--width", type=float, default=DEFAULT_WIDTH, show_default=True)
@click.option("--size", type=int, default=32, show_default=True, help="Side of the images.")
@click.option("--batch-size", type=int, multiple=True, default=(128,), show_default=True)
@click.option("--steps", type=int, default=4, show_default=True, help="Of one epoch, which is one sample.")
@click.option("--epochs", type=int, default=5, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", default="auto", show_default=True)
@click.option("--compile/--no-compile", "compiled", default=None, help="By default both, one after the other.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(
    model: str,
    width: float,
    size: int,
    batch_size: tuple[int, ...],
    steps: int,
    epochs: int,
    device: str,
    precision: str,
    compiled: bool | None,
    out: Path,
) -> None:
    place = choose_device(device)
    precision = training_precision(precision, place)
    side = 8192 if place.type == "cuda" else 4096
    peak = matrix_peak(place, precision, side=side, repeats=10)
    print(f"{peak:.3g} operations a second", file=sys.stderr)
    config = ModelConfig(model, width=width, dropout=0.0)
    operations = 6 * macs(config, size)
    rows: list[dict[str, Any]] = []
    for B in batch_size:
        for fused in (False, True) if compiled is None else (compiled,):
            rates = speeds(config, size, B, steps, epochs, Placement(device, precision, compile=fused))
            median = statistics.median(rates)
            share = median * operations / peak
            rows.append({"batch_size": B, "compile": fused, "images_per_s": rates, "median": median, "share": share})
            print(rows[-1], file=sys.stderr)
    document = {
        "schema": "l2a-benchmark/1",
        "what": "training steps: images a second, and their share of the matrix peak of the same run",
        **provenance(shlex.join(["python", "benchmarks/train_step.py", *sys.argv[1:]])),
        "ran_on": device_name(place),
        "cpu_has_amx": torch.cpu._is_amx_tile_supported(),
        "model": model,
        "width": width,
        "size": size,
        "precision": precision,
        "steps_a_sample": steps,
        "macs_an_image": operations // 6,
        "matrix_side": side,
        "matrix_flops": peak,
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out, max(row["share"] for row in rows))


def speeds(config: ModelConfig, size: int, B: int, steps: int, epochs: int, placement: Placement) -> list[float]:
    """Images per second of `epochs` epochs, after one more that warms up and compiles."""
    trainer = trainer_on_noise(config, size, B, steps, epochs + 1, placement)
    rows = [trainer.run_epoch(progress=False) for _ in range(epochs + 1)]
    return [row["images_per_second"] for row in rows[1:] if row is not None]


def trainer_on_noise(config: ModelConfig, size: int, B: int, steps: int, epochs: int, placement: Placement) -> Trainer:
    """A trainer of random pictures, each epoch of `steps` batches of B."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (B * steps, size, size, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, B * steps)
    labels[:10] = range(10)
    source = join_splits("noise", "0123456789", {"train": (pictures, labels), "test": (pictures[:10], labels[:10])})
    recipe = TrainConfig(epochs=epochs, batch_size=B, lr=1e-3, resolutions=((0.0, size),))
    return Trainer(config, recipe, TrainingData.from_source(source), placement=placement)


if __name__ == "__main__":
    main()
