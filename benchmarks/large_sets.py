"""Large sets: do time and memory for listing, extracting and verifying grow in proportion to the number of rows?

Three cases, each with three numbers of rows in a separate process: an image folder is listed and fingerprinted; images
of 32 × 32 pixels in an `.npz` file go through a thin network into a feature file; a feature file of 64 columns is read
and every byte is verified. Peak memory is that of the process and its workers, sampled (see memory.py). Growth is the
slope between the first two sizes and between the last two; equal slopes mean proportional growth.

    python benchmarks/large_sets.py --out benchmarks/results/large-sets.json
"""

from __future__ import annotations

import io
import itertools
import json
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from memory import peak
from PIL import Image
from provenance import provenance

from l2a_transfer import write_features

ROWS = {
    "list": (50_000, 100_000, 200_000),
    "extract": (75_000, 150_000, 300_000),
    "verify": (500_000, 1_000_000, 2_000_000),
}
CLASSES, FEATURES = 100, 64
MODEL = "untrained:vgg-gap@0.03125"
LIST = (
    "import sys, l2a_transfer; source = l2a_transfer.open_source(sys.argv[1]); print(len(source), source.fingerprint())"
)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--case", "names", multiple=True, type=click.Choice(list(ROWS)), help="Only these.")
@click.option(
    "--scale", type=float, default=1.0, show_default=True, help="Of the numbers of rows; smaller for a trial."
)
def main(out: Path, names: tuple[str, ...], scale: float) -> None:
    cases = {}
    for name in names or ROWS:
        samples = []
        for rows in ROWS[name]:
            with tempfile.TemporaryDirectory() as folder:
                command = COMMANDS[name](Path(folder), round(rows * scale))
                samples.append({"rows": round(rows * scale), **peak(command)})
            print(name, samples[-1], file=sys.stderr)
        cases[name] = {"samples": samples, **{key: slopes(samples, key) for key in ("seconds", "peak_own_mib")}}
    document = {
        "schema": "l2a-benchmark/1",
        "what": "seconds and peak memory of listing and fingerprinting an image folder, of extracting images of 32 x "
        f"32 pixels with {MODEL}, and of verifying a feature file of {FEATURES} columns, at three numbers of rows each",
        **provenance(shlex.join(["python", "benchmarks/large_sets.py", *sys.argv[1:]])),
        "cases": cases,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out)


def slopes(samples: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Cost of 1,000 more rows, between the first two sizes and between the last two."""
    found = [
        1000 * (after[key] - before[key]) / (after["rows"] - before["rows"])
        for before, after in itertools.pairwise(samples)
    ]
    return {"per_1000_rows_first": round(found[0], 5), "per_1000_rows_last": round(found[-1], 5)}


def listing(folder: Path, rows: int) -> list[str]:
    """List a folder of that many small JPEG files."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 120, 30)).save(stream, "JPEG")
    for label in range(CLASSES):
        (folder / "images" / f"class-{label:03d}").mkdir(parents=True)
    for number in range(rows):
        (folder / "images" / f"class-{number % CLASSES:03d}" / f"{number:07d}.jpg").write_bytes(stream.getvalue())
    return [sys.executable, "-c", LIST, f"imagefolder:{folder / 'images'}"]


def extraction(folder: Path, rows: int) -> list[str]:
    """Extract features of that many images in memory."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(rows) % CLASSES)
    command = [sys.executable, "-m", "l2a_transfer", "-q", "extract", "--model", MODEL, "--device", "cpu"]
    return [*command, "--data", f"npz:{folder / 'images.npz'}", "--batch-size", "512", "--out", f"{folder}/f.h5"]


def verification(folder: Path, rows: int) -> list[str]:
    """Verify a feature file with that many rows."""
    features = np.random.default_rng(0).standard_normal((rows, FEATURES), dtype=np.float32)
    write_features(features, np.arange(rows) % CLASSES, folder / "f.h5")
    return [sys.executable, "-m", "l2a_transfer", "-q", "inspect", "--verify", str(folder / "f.h5")]


COMMANDS: dict[str, Callable[[Path, int], list[str]]] = {
    "list": listing,
    "extract": extraction,
    "verify": verification,
}

if __name__ == "__main__":
    main()
