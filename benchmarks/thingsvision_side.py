"""The same images and network with thingsvision, in a separate environment, and with l2a-transfer.

Folder of JPEG files → HDF5 on disk, both on the CPU with one batch size, taking turns. Images per second exclude the
start of processes; memory is measured as in memory.py.

    python3.10 -m venv tv && tv/bin/pip install thingsvision "numpy<2"
    python benchmarks/thingsvision_side.py --python tv/bin/python --images data/caltech101 --out side.json

With `--model torchvision:resnet18`, both read the same file of random weights, and their features are compared.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import torch
import torchvision.models as zoo
from memory import link, peak
from provenance import provenance
from safetensors.torch import save_file

ROOT = Path(__file__).parents[1]
OURS = """
import json, sys, time
from l2a_transfer.data.readers import open_source
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.features.extraction.extract import extract
backend = open_backend(sys.argv[1], device="cpu", weights=sys.argv[5] or None)
began = time.perf_counter()
result = extract(open_source(f"imagefolder:{sys.argv[2]}"), backend, sys.argv[3] + "/f.h5",
                 batch_size=int(sys.argv[4]), progress=False)
print(json.dumps({"rows": result.rows, "dim": result.dim, "extract_s": time.perf_counter() - began}))
"""


def random_weights(model: str, path: Path) -> str:
    """Write a file with the random weights of a torchvision network; returns its name."""
    torch.manual_seed(0)
    save_file(zoo.get_model(model.removeprefix("torchvision:"), weights=None).state_dict(), path)
    return str(path)


def difference(theirs: Path, own: Path) -> float:
    """The largest difference between two features of an image, relative to its largest feature, for the worst image."""
    (path,) = theirs.glob("*.hdf5")
    with h5py.File(path) as file:
        (key,) = file
        expected = file[key][:]
    with h5py.File(own) as file:
        found = file["features"][:].astype(np.float64)
    return float((np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)).max())


@click.command()
@click.option("--python", type=click.Path(path_type=Path, exists=True), required=True, help="Of thingsvision's venv.")
@click.option("--images", type=click.Path(path_type=Path, exists=True), required=True, help="A folder of JPEG files.")
@click.option("--rows", type=int, nargs=2, default=(2000, 8000), show_default=True)
@click.option("--model", default="vgg-att2-concat-pc.cifar10-w025", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(python: Path, images: Path, rows: tuple[int, int], model: str, batch_size: int, out: Path) -> None:
    os.environ["PYTHONPATH"] = str(ROOT)
    differences: dict[int, float] = {}
    files = sorted(images.rglob("*.jpg"))
    samples: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = random_weights(model, folder / "weights.safetensors") if ":" in model else ""
        for count in rows:
            link(files, folder / str(count), count)
            tools = {
                "thingsvision": [str(python.absolute()), str(ROOT / "benchmarks" / "thingsvision_child.py")],
                "l2a-transfer": [sys.executable, "-c", OURS],
            }
            for tool, start in tools.items():
                into = folder / f"{tool}-{count}"
                into.mkdir()
                said = folder / "said"
                command = [*start, model, str(folder / str(count)), str(into), str(batch_size), weights, "hdf5"]
                found = peak(command, said)
                inside = json.loads(said.read_text().splitlines()[-1])
                assert inside["rows"] == count
                speed = count / inside["extract_s"]
                samples.append({"tool": tool, **inside, "images_per_s": round(speed, 1), **found})
                print(samples[-1], file=sys.stderr)
            differences[count] = difference(folder / f"thingsvision-{count}", folder / f"l2a-transfer-{count}" / "f.h5")
            print(f"{count} images: features apart by {differences[count]:.1e} of the largest", file=sys.stderr)
    document = {
        "schema": "l2a-benchmark/1",
        "what": "thingsvision and l2a-transfer on the same images and network: images a second and peak memory",
        **provenance(shlex.join(["python", "benchmarks/thingsvision_side.py", *sys.argv[1:]])),
        "model": model,
        "batch_size": batch_size,
        "largest_relative_difference": {str(count): value for count, value in differences.items()},
        "samples": samples,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
