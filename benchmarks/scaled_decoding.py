"""Time saved by decoding JPEG at a smaller scale, and the resulting change of features.

`--data` names a data set with pictures much larger than the network's input. Without it, pictures are random crops of
the two photographs in scikit-learn, of 300 to 500 by 240 to 400 pixels: as large as pictures of a data set, but less
varied. Decoding and resizing are timed in this process, both variants in turns.

    python benchmarks/scaled_decoding.py --out benchmarks/results/scaled-decoding.json
"""

from __future__ import annotations

import io
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from provenance import provenance

import l2a_transfer
from l2a_transfer.data.loader import pixel_batches
from l2a_transfer.preprocess import Preprocess

MODEL = "vgg-att2-concat-pc.cifar10-w025"
WAYS = ("exact", "scaled")


def write_crops(root: Path, images: int) -> None:
    """Write `images` JPEG files, in a folder for each photograph."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    photographs = load_sample_images().images
    for k in range(images):
        whole = photographs[k % len(photographs)]
        H, W = int(random.integers(240, 401)), int(random.integers(300, 501))
        top, left = int(random.integers(0, whole.shape[0] - H + 1)), int(random.integers(0, whole.shape[1] - W + 1))
        content = io.BytesIO()
        Image.fromarray(whole[top : top + H, left : left + W]).save(content, "JPEG", quality=90)
        path = root / str(k % len(photographs)) / f"{k:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.getvalue())


def spread(values: Any) -> dict[str, float]:
    low, middle, high = np.percentile(values, [5, 50, 95])
    return {"median": float(middle), "percentile_5": float(low), "percentile_95": float(high)}


@click.command()
@click.option("--data", help="A data set; crops of scikit-learn's photographs by default.")
@click.option("--images", type=click.IntRange(min=2), default=1_000, show_default=True)
@click.option("--size", type=click.IntRange(min=4), default=32, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(data: str | None, images: int, size: int, repeats: int, out: Path) -> None:
    load = os.getloadavg()
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    pixels: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            write_crops(Path(folder), images)
        source = l2a_transfer.open_source(data or f"imagefolder:{folder}")
        chosen = np.sort(np.random.default_rng(0).permutation(len(source))[:images])
        for repeat in range(repeats):
            for way in WAYS if repeat % 2 == 0 else reversed(WAYS):
                preprocess = Preprocess(size, decode=way)
                began = time.perf_counter()
                (batch,) = pixel_batches(source, preprocess, [chosen])
                times[way].append(1e3 * (time.perf_counter() - began) / len(chosen))
                pixels[way] = batch.images_u8
    backend = l2a_transfer.open_backend(MODEL, device="cpu", image_size=size)
    features = {way: backend.features(own) for way, own in pixels.items()}
    apart = np.linalg.norm(features["scaled"] - features["exact"], axis=1) / np.linalg.norm(features["exact"], axis=1)
    faster = [a / b for a, b in zip(times["exact"], times["scaled"], strict=True)]
    document = {
        "schema": "l2a-benchmark/1",
        "what": "decoding and resizing JPEG pictures exactly and at a smaller scale, and the features of both",
        **provenance(shlex.join(["python", "benchmarks/scaled_decoding.py", *sys.argv[1:]])),
        "load_average_at_start": load,
        "data": data or "random crops of scikit-learn's two sample photographs",
        "images": len(chosen),
        "size": size,
        "model": MODEL,
        "ms_per_image": {way: {"median": statistics.median(own), "all": own} for way, own in times.items()},
        "times_faster": {"median": statistics.median(faster), "min": min(faster), "max": max(faster)},
        "mean_pixel_difference": float(np.abs(pixels["exact"].astype(int) - pixels["scaled"]).mean()),
        "relative_feature_difference": spread(apart),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(document["times_faster"], document["mean_pixel_difference"], document["relative_feature_difference"])


if __name__ == "__main__":
    main()
