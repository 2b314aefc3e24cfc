"""`l2a-transfer extract`: features of an image set, in one HDF5 file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.data import reading_options
from l2a_transfer.cli.output import echo
from l2a_transfer.cli.paths import PATH
from l2a_transfer.wording import counted

RUN = ("batch_size", "workers", "on_error", "attention", "engine", "resume", "overwrite")


@click.command("extract")
@click.option("--model", required=True, help="Bundled name, .safetensors, .onnx, untrained:ARCH[@WIDTH] or pixels.")
@click.option("--data", required=True, help="Data set name, or imagefolder:, npz:, wds: or parquet:PATH.")
@click.option("--data-dir", type=PATH, help="Folder that holds the data set.")
@click.option("--download/--no-download", default=False, help="Fetch the data set into --data-dir.")
@click.option("--out", type=PATH, required=True, metavar="FILE.h5", help="Feature file.")
@click.option("--split", help="Only this split.")
@reading_options
@click.option("--limit", type=click.IntRange(min=1), help="At most N images a split, evenly over the classes.")
@click.option("--levels", help="Comma-separated levels, as L2,L3; all by default.")
@click.option("--tap", default="ga", show_default=True, help="ga, or ga-bn-relu: what the classifier sees.")
@click.option("--backend", default="auto", show_default=True, help="auto, torch or onnxruntime.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--precision", default="auto", show_default=True, help="auto (fp32), fp32, bf16 or fp16.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads of the network; they decide the last bits.")
@click.option("--workers", type=click.IntRange(min=0), help="Decoding processes; chosen by default.")
@click.option("--on-error", default="fail", show_default=True, help="A faulty image: fail, or skip and list it.")
@click.option("--attention/--no-attention", default=False, help="Store each level's attention maps too.")
@click.option("--engine", default="local", show_default=True, help="local, or ray: actors on a cluster.")
@click.option("--ray-address", help="Of a running Ray cluster; by default one is started on this machine.")
@click.option("--actors", type=click.IntRange(min=1), help="Ray actors; as many as fit by default.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of untrained weights.")
@click.option("--resume/--no-resume", default=False, help="Where --out is complete: verify it and exit 0.")
@click.option("--overwrite/--no-overwrite", default=False, help="Replace --out.")
@click.pass_obj
def command(obj: dict[str, Any], /, **given: Any) -> None:
    """Write the features of an image set to HDF5, together with labels, ids, splits and the model's card.

    An extraction that was interrupted goes on where it stopped when the same command is given again.

    \b
    Example:
      l2a-transfer extract --model vgg-att2-concat-pc.cifar10-w025 --data caltech-mini --out features.h5
    """
    from l2a_transfer.data.readers import open_source
    from l2a_transfer.data.sources import describe, reading_of
    from l2a_transfer.features.backends.registry import open_backend
    from l2a_transfer.features.extraction.extract import extract
    from l2a_transfer.features.extraction.ray_engine import RayConfig

    options = {key: given[key] for key in ("device", "precision", "tap", "seed", "backend")}
    levels = [level.strip() for level in given["levels"].split(",")] if given["levels"] else None
    if given["engine"] == "local" and (given["ray_address"] or given["actors"]):
        raise click.UsageError("--ray-address and --actors need --engine ray")
    if given["threads"]:
        import torch

        torch.set_num_threads(given["threads"])
    with _runnable(given["model"], given["backend"], given["seed"]) as model:
        backend = open_backend(model, levels=levels, **options)
        source = open_source(
            given["data"],
            data_dir=given["data_dir"],
            split=given["split"],
            limit=given["limit"],
            download=given["download"],
            split_from=given["split_from"],
            verify_source=given["verify_source"],
        )
        if obj["progress"]:
            where = f"{backend.name} on {backend.device}, {backend.precision}"
            echo(f"{where}, {counted(len(source), 'image')}", describe(source), err=True)
        run = {key: given[key] for key in RUN}
        ray = RayConfig(given["ray_address"], given["actors"])
        result = extract(source, backend, given["out"], ray=ray, progress=obj["progress"], **run)
    speed = f", {result.computed / result.seconds:.0f} images/s" if result.computed else ", verified"
    skipped = (
        f"; {counted(len(result.skipped), 'image')} skipped, listed in its attribute 'skipped'"
        if result.skipped
        else ""
    )
    passed_over = reading_of(source).passed_over
    beside = f"; passed over: {passed_over}" if passed_over.files else ""
    echo(f"{result.path}: {result.rows} × {result.dim}{speed}{skipped}{beside}")


@contextlib.contextmanager
def _runnable(model: str, backend: str, seed: int) -> Iterator[str]:
    """The model as `open_backend` takes it: for ONNX Runtime, weights are exported to a file for the time being."""
    if backend != "onnxruntime" or model.endswith(".onnx") or model == "pixels":
        yield model
        return
    from l2a_transfer.export import export_onnx

    with tempfile.TemporaryDirectory(prefix="l2a-transfer-") as folder:
        yield str(export_onnx(model, Path(folder) / "model.onnx", seed=seed).path)
