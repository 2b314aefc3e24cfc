"""How fast shuffled epochs are read from Parquet, with a row group read for each picture, and with pictures read ahead.

A set of JPEG pictures is written in row groups, as `datasets` writes it. The variants take turns, each in a separate
process, and the time includes the start of the decoding processes and everything read before the first picture. "again
and again" is the variant without reading ahead; it gets fewer pictures, because it is slow.

    python benchmarks/parquet_shuffled.py --out benchmarks/results/parquet-shuffled.json
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
from PIL import Image
from provenance import provenance

WAYS = ("in order", "again and again", "read ahead", "read ahead, second epoch", "read ahead, a quarter fits")
SIDE, BATCH, SEED = 160, 64, 0


def write_set(path: Path, images: int, group: int) -> int:
    """Random pictures of blocks as JPEG; returns the total size of the pictures in bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(SEED)
    encoded = []
    for _ in range(images):
        content = io.BytesIO()
        blocks = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(content, "JPEG", quality=92)
        encoded.append({"bytes": content.getvalue(), "path": None})
    pictures = pa.array(encoded, pa.struct({"bytes": "binary", "path": "string"}))
    pq.write_table(pa.table({"image": pictures, "label": [k % 10 for k in range(images)]}), path, row_group_size=group)
    return sum(len(own["bytes"]) for own in encoded)


def tree_pss(pid: int) -> int:
    """Memory in bytes of a process and its children, with shared pages counted once (proportional set size)."""
    found = 0
    for own in [pid, *(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]:
        try:
            text = Path(f"/proc/{own}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended
        match = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
        found += int(match[1]) << 10 if match else 0
    return found


def measure(way: str, path: Path, pictures: int, size: int, workers: int, quarter: int) -> dict[str, Any]:
    """Images per second of one variant in this process, and the peak memory of it and its decoding processes."""
    from l2a_transfer.data import ahead, loader
    from l2a_transfer.data.readers import open_source
    from l2a_transfer.preprocess import Preprocess

    source = open_source(f"parquet:{path}")
    order = np.random.default_rng(SEED).permutation(len(source)) if way != "in order" else np.arange(len(source))
    rows = [order[k : k + BATCH] for k in range(0, min(pictures, len(source)), BATCH)]

    def epoch() -> int:
        return sum(len(b.images_u8) for b in loader.pixel_batches(source, Preprocess(size), rows, workers=workers))

    import torch  # noqa: F401  (what the decoding processes import)

    peak, done = [tree_pss(os.getpid())], threading.Event()
    before = peak[0]

    def watch() -> None:
        while not done.wait(0.1):
            peak.append(tree_pss(os.getpid()))

    def most(sharing: int) -> int:
        return quarter if "quarter" in way else 1 << 40

    nothing = patch.object(loader, "read_ahead", lambda source, batches, sharing: len(batches))
    with patch.object(ahead, "budget", most) if way != "again and again" else nothing:
        if "second" in way:
            epoch()
        watcher = threading.Thread(target=watch)
        watcher.start()
        began = time.perf_counter()
        count = epoch()
        seconds = time.perf_counter() - began
        done.set()
        watcher.join()
    return {"images_per_second": count / seconds, "peak_mib": (max(peak) - before) >> 20, "images": count}


@click.command()
@click.option("--images", type=click.IntRange(min=1), default=5_000, show_default=True)
@click.option("--group", type=click.IntRange(min=1), default=1_000, show_default=True, help="Rows of a row group.")
@click.option("--size", type=click.IntRange(min=4), default=32, show_default=True, help="Pixels of a side.")
@click.option("--workers", type=click.IntRange(min=0), default=2, show_default=True)
@click.option("--slow-images", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--child", nargs=3, hidden=True, help="WAY FILE QUARTER: measure, and print.")
def main(
    images: int,
    group: int,
    size: int,
    workers: int,
    slow_images: int,
    repeats: int,
    out: Path,
    child: tuple[str, str, str] | None,
) -> None:
    if child is not None:
        count = slow_images if child[0] == "again and again" else images
        print(json.dumps(measure(child[0], Path(child[1]), count, size, workers, int(child[2]))))
        return
    load = os.getloadavg()
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.parquet"
        encoded = write_set(path, images, group)
        for repeat in range(repeats):
            for way in WAYS if repeat % 2 == 0 else reversed(WAYS):
                command = [sys.executable, *sys.argv, "--child", way, str(path), str(encoded // 4)]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found[way].append(json.loads(said))
                print(way, found[way][-1], file=sys.stderr)
    document = {
        "schema": "l2a-benchmark/1",
        "what": "images a second out of a Parquet file in row groups, shuffled, and the memory that it takes",
        **provenance(shlex.join(["python", "benchmarks/parquet_shuffled.py", *sys.argv[1:]])),
        "load_average_at_start": load,
        "images": images,
        "rows_of_a_group": group,
        "encoded_mib": encoded / 2**20,
        "size": size,
        "workers": workers,
        "ways": {
            way: {
                "images_per_second": statistics.median(run["images_per_second"] for run in own),
                "peak_mib": statistics.median(run["peak_mib"] for run in own),
                "images": own[0]["images"],
                "all": [run["images_per_second"] for run in own],
            }
            for way, own in found.items()
        },
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    for way, own in document["ways"].items():
        print(f"{way}: {own['images_per_second']:.0f} images/s, {own['peak_mib']:.0f} MiB")


if __name__ == "__main__":
    main()
