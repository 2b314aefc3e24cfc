"""Speed of an extraction relative to the network alone: JPEG files → complete HDF5, against the bare forward pass.

Both run in one process on the same images. The bare forward has all batches in memory as normalised float32 in
channels_last; the extraction lists, reads, decodes, resizes, normalises, computes, writes shards, merges, hashes and
syncs. A round is half of the bare forward pass, the extraction, and the other half, so that drift of the machine
affects both.

    python benchmarks/throughput.py --data-dir data --width 0.25 --out benchmarks/results/throughput-w025.json
"""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from provenance import provenance

from l2a_transfer.data.loader import pixel_batches
from l2a_transfer.data.readers import open_source
from l2a_transfer.features.backends.torch import TorchBackend
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.extraction.plan import batches_of
from l2a_transfer.features.store.reader import read_meta
from l2a_transfer.models.config import DEFAULT_WIDTH
from l2a_transfer.models.loading import load_model


@click.command()
@click.option("--data", default="caltech101", show_default=True, help="A data set of JPEG files.")
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the data set.")
@click.option("--limit", type=click.IntRange(min=1), default=5000, show_default=True, help="Images.")
@click.option("--width", type=float, default=DEFAULT_WIDTH, show_default=True, help="Of vgg-att2-concat-pc.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--workers", type=int, help="Decoding processes; the extraction's own choice by default.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(
    data: str, data_dir: Path, limit: int, width: float, batch_size: int, workers: int | None, rounds: int, out: Path
) -> None:
    model = f"untrained:vgg-att2-concat-pc@{width}"
    source = open_source(data, data_dir=data_dir, limit=limit)
    network, card = load_model(model)
    backend = TorchBackend(network, card, device="cpu")
    batches = batches_of(range(len(source)), batch_size)
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.preprocess.mean, card.preprocess.std))
    images = [
        ((torch.from_numpy(batch.images_u8) / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        for batch in pixel_batches(source, card.preprocess, batches)
    ]

    def bare(part: list[torch.Tensor]) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            for batch in part:
                network.attend(batch)
        return time.perf_counter() - started

    half = len(images) // 2
    bare(images[:4])
    samples: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            first = bare(images[:half])
            started = time.perf_counter()
            result = extract(
                source, backend, Path(folder) / f"{number}.h5", batch_size=batch_size, workers=workers, progress=False
            )
            extraction = time.perf_counter() - started
            _, rows, _ = read_meta(result.path)
            assert rows == len(source)
            forward = first + bare(images[half:])
            samples.append({"bare_forward_s": forward, "extraction_s": extraction, "ratio": forward / extraction})
            print(samples[-1], file=sys.stderr)
        start = [sys.executable, "-m", "l2a_transfer", "-q", "extract", "--model", model, "--data", "caltech-mini"]
        began = time.perf_counter()
        subprocess.run([*start, "--limit", "1", "--out", f"{folder}/one.h5"], check=True, stdout=subprocess.DEVNULL)
        process_start = time.perf_counter() - began
    command = ["python", "benchmarks/throughput.py", *sys.argv[1:]]
    document = {
        "schema": "l2a-benchmark/1",
        "what": "extraction from JPEG files to a complete HDF5 over the bare forward of the same network and batches",
        **provenance(shlex.join(command)),
        "model": model,
        "data": data,
        "n": len(source),
        "batch_size": batch_size,
        "precision": "fp32",
        "threads": torch.get_num_threads(),
        "workers": workers,
        "process_start_s": process_start,
        "rounds": samples,
        "ratio_median": statistics.median(sample["ratio"] for sample in samples),
        "images_per_s_median": len(source) / statistics.median(sample["extraction_s"] for sample in samples),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out, document["ratio_median"])


if __name__ == "__main__":
    main()
