"""Cost of each attention: a training step of a quarter-width network relative to uniform weights, measured in turns.

A step is forward, loss and backward on a batch at the recipe's full size, without the optimizer, which is the same for
all. A step of `co` uses each image once, with another image of the batch as its partner.

    python benchmarks/attention_cost.py --out benchmarks/results/attention-cost.json
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from attention_family import FAMILY, Member
from provenance import provenance

from l2a_transfer.models.registry import build_model
from l2a_transfer.training.requirements import objective_of

WIDTH, BATCH, SIZE, CONTROL = 0.25, 128, 32, "uniform"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Of a step of each.")
@click.option("--images", type=click.IntRange(min=2), default=BATCH, show_default=True, help="Fewer for a trial.")
def main(out: Path, rounds: int, images: int) -> None:
    runs = {member.name: step(member, images) for member in FAMILY}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    ratios = {
        name: [own / control for own, control in zip(values, times[CONTROL], strict=True)]
        for name, values in times.items()
    }
    document = {
        "schema": "l2a-benchmark/1",
        "what": "seconds of a training step without the optimizer, and the median over rounds of its ratio to the step "
        "with uniform weights in the same round",
        **provenance(shlex.join(["python", *sys.argv])),
        "width": WIDTH,
        "images": images,
        "size": SIZE,
        "rounds": rounds,
        "rows": [
            {
                "attention": name,
                "seconds": round(statistics.median(values), 4),
                "over_uniform": round(statistics.median(ratios[name]), 3),
                "all_over_uniform": [round(value, 3) for value in ratios[name]],
            }
            for name, values in times.items()
        ],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    for row in document["rows"]:
        print(f"{row['attention']:18} {row['seconds']:.3f} s, {row['over_uniform']:.2f}")


def step(member: Member, images: int) -> Callable[[], None]:
    """A step, after one warm-up call."""
    config, recipe = member.config(WIDTH), member.recipe()
    model = build_model(config, seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = torch.randn(images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    labels, objective = torch.arange(images) // 2 % 10, objective_of(config, recipe)

    def run() -> None:
        model.zero_grad()
        generator, progress = torch.Generator().manual_seed(0), torch.zeros(())
        objective.loss(model, pixels, labels, generator=generator, progress=progress).loss.backward()

    run()
    return run


if __name__ == "__main__":
    main()
