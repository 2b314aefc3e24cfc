"""The same features by PyTorch, PyTorch compiled, ONNX Runtime and OpenVINO: images a second on one device.

Each runtime computes the features of the same batches of uint8 pixels, in float32, in turns: PyTorch as `extract` runs
it without and with `--compile`, the exported ONNX file in ONNX Runtime, and the same file in OpenVINO where that is
installed (CPU only). Features are compared with PyTorch's. With --images, the command `extract` then writes the
features of that many images in memory to a file, in turns with each runtime that it offers, starting and compiling
included.

    python benchmarks/runtimes.py --out benchmarks/results/runtimes.json
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from provenance import provenance

from l2a_transfer.compiling import can_compile
from l2a_transfer.export import export_onnx
from l2a_transfer.features.backends.registry import open_backend

ARCHITECTURE = "vgg-att2-concat-pc"
Compute = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--widths", default="0.25,1.0", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--seconds", type=float, default=5.0, show_default=True, help="Of each runtime in a round.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--images", type=click.IntRange(min=0), default=0, show_default=True, help="Of a whole extraction.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def main(out: Path, widths: str, batch_size: int, seconds: float, rounds: int, images: int, device: str) -> None:
    document: dict[str, Any] = {
        "schema": "l2a-benchmark/1",
        "what": "images a second from uint8 pixels to features in float32, by runtime; median of rounds in turns",
        **provenance(shlex.join(["python", *sys.argv])),
        "ran_on": device if device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "openvino": _version("openvino"),
        "batch_size": batch_size,
        "rounds": rounds,
        "images": images,
        "rows": [],
        "extraction": [],
    }
    for width in map(float, widths.split(",")):
        document["rows"] += measured(width, batch_size, seconds, rounds, device)
        if images:
            document["extraction"] += extracted(width, images, rounds, device)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n")
    for row in document["rows"]:
        print(f"{row['width']:5} {row['runtime']:20} {row['images_per_second']:9.1f} {row['over_torch']:6.2f}")
    for row in document["extraction"]:
        print(f"{row['width']:5} {row['runtime']:20} {row['images_per_second']:9.1f} extracted")


def measured(width: float, batch_size: int, seconds: float, rounds: int, device: str) -> list[dict[str, Any]]:
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, 3, 32, 32), dtype=np.uint8)
    model = f"untrained:{ARCHITECTURE}@{width}"
    with tempfile.TemporaryDirectory() as folder:
        exported = export_onnx(model, Path(folder) / "model.onnx").path
        runtimes = dict(opened(model, exported, batch_size, device))
        expected = runtimes["torch"](pixels)
        errors = {name: relative(run(pixels), expected) for name, run in runtimes.items()}  # the first call compiles
        speeds: dict[str, list[float]] = {name: [] for name in runtimes}
        for _ in range(rounds):
            for name, run in runtimes.items():
                speeds[name].append(speed(run, pixels, seconds))
    ratios = {
        name: [own / torchs for own, torchs in zip(values, speeds["torch"], strict=True)]
        for name, values in speeds.items()
    }
    return [
        {
            "width": width,
            "runtime": name,
            "images_per_second": round(statistics.median(values), 1),
            "over_torch": round(statistics.median(ratios[name]), 3),
            "relative_error": errors[name],
            "all": [round(value, 1) for value in values],
        }
        for name, values in speeds.items()
    ]


def extracted(width: float, images: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """Images a second of whole `extract` commands."""
    model = f"untrained:{ARCHITECTURE}@{width}"
    speeds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exported = export_onnx(model, folder / "model.onnx").path
        pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
        np.savez(folder / "images.npz", images=pixels, labels=np.arange(images) % 10)
        options = {"torch": [model], "torch, compiled": [model, "--compile"], "onnxruntime": [str(exported)]}
        if device == "cpu" and not can_compile():
            del options["torch, compiled"]
        for _ in range(rounds):
            for runtime, (own, *more) in options.items():
                command = [sys.executable, "-m", "l2a_transfer", "-q", "extract", "--model", own, *more]
                command += ["--data", f"npz:{folder / 'images.npz'}", "--device", device, "--overwrite"]
                began = time.perf_counter()
                subprocess.run([*command, "--out", str(folder / "f.h5")], check=True)
                speeds.setdefault(runtime, []).append(images / (time.perf_counter() - began))
    return [
        {
            "width": width,
            "runtime": runtime,
            "images_per_second": round(statistics.median(values), 1),
            "all": [round(value, 1) for value in values],
        }
        for runtime, values in speeds.items()
    ]


def opened(model: str, exported: Path, batch_size: int, device: str) -> list[tuple[str, Compute]]:
    network: Any = open_backend(model, device=device)
    found: list[tuple[str, Compute]] = [("torch", network.features)]
    if device == "cuda" or can_compile():
        found.append(("torch, compiled", network.compiled(batch_size).features))
    found.append(("onnxruntime", open_backend(exported, device=device).features))
    if device == "cpu" and importlib.util.find_spec("openvino"):
        found.append(("openvino", with_openvino(exported)))
    return found


def with_openvino(exported: Path) -> Compute:
    """OpenVINO in float32, tuned for throughput with one request: as many threads as there are cores."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(exported), "CPU", options)
    names = [port.get_any_name() for port in compiled.outputs]
    features = names.index("features")
    return lambda pixels: np.array(compiled(pixels)[features])


def relative(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def speed(run: Compute, pixels: NDArray[np.uint8], seconds: float) -> float:
    began, images = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        run(pixels)
        images += len(pixels)
    return images / (time.perf_counter() - began)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
