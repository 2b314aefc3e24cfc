"""How fast decoded batches reach the main process: in shared memory, and through a pipe.

Decoding is free here: each worker copies an existing picture. So this measures the transfer from a worker to the main
process, including the copy into the batch. Both ways take turns in one process.

    python benchmarks/data_path.py --out benchmarks/results/data-path.json
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
from provenance import provenance

from l2a_transfer.data.loader import pixel_batches
from l2a_transfer.preprocess import Preprocess


class Ready(Preprocess):
    """Returns pixels that already exist."""

    def pixels(self, image: Any) -> Any:
        return image


class Pictures:
    """The same pixels many times, (3, size, size)."""

    name = "ready"

    def __init__(self, count: int, size: int) -> None:
        self.ids = range(count)
        self.one = np.random.default_rng(0).integers(0, 256, (3, size, size), dtype=np.uint8)

    def image(self, row: int) -> Any:
        return self.one


def speed(pictures: Pictures, preprocess: Preprocess, batch_size: int, workers: int, *, shared: bool) -> float:
    """MiB per second, from the first to the last batch that arrives, so that the start of workers does not count."""
    count = len(pictures.ids)
    rows = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    source: Any = pictures
    with patch("l2a_transfer.data.loader._shared_memory_suffices", lambda together: shared):
        batches = pixel_batches(source, preprocess, rows, workers=workers)
        next(batches)
        began = time.perf_counter()
        taken = sum(int(batch.images_u8.nbytes) for batch in batches)
    return taken / 2**20 / (time.perf_counter() - began)


@click.command()
@click.option("--images", type=click.IntRange(min=1), default=12_800, show_default=True)
@click.option("--size", type=click.IntRange(min=1), default=224, show_default=True, help="Pixels of a side.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=7, show_default=True, help="Pairs.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(images: int, size: int, batch_size: int, workers: int, repeats: int, out: Path) -> None:
    load, pictures, preprocess = os.getloadavg(), Pictures(images, size), Ready(size)
    found: dict[str, list[float]] = {"shared memory": [], "pipe": []}
    for repeat in range(repeats):
        for way in found if repeat % 2 == 0 else reversed(found):
            found[way].append(speed(pictures, preprocess, batch_size, workers, shared=way == "shared memory"))
            print(f"{way}: {found[way][-1]:.0f} MiB/s", file=sys.stderr)
    times = [a / b for a, b in zip(found["shared memory"], found["pipe"], strict=True)]
    document = {
        "schema": "l2a-benchmark/1",
        "what": "MiB a second of decoded batches from worker processes, in shared memory and through a pipe, in turns",
        **provenance(shlex.join(["python", "benchmarks/data_path.py", *sys.argv[1:]])),
        "load_average_at_start": load,
        "images": images,
        "size": size,
        "batch_size": batch_size,
        "workers": workers,
        "mib_per_s": {
            way: {"median": statistics.median(own), "min": min(own), "max": max(own), "all": own}
            for way, own in found.items()
        },
        "times_faster": {"median": statistics.median(times), "min": min(times), "max": max(times)},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{out}: {document['times_faster']}")


if __name__ == "__main__":
    main()
