"""`l2a-transfer extract`: features of an image set, in one HDF5 file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.options import (
    PATH,
    SEED,
    NameChoice,
    Verb,
    device_option,
    option,
    option_group,
    preprocess_options,
    preprocess_values,
    reading_options,
    split_names,
    weights_option,
)
from l2a_transfer.cli.output import echo
from l2a_transfer.wording import counted

RUN = ("batch_size", "workers", "on_error", "attention", "compile", "partners", "engine", "resume", "overwrite")


@click.command("extract", cls=Verb)
@option_group(
    "Model",
    option(
        "--model",
        required=True,
        help="Bundled name, .safetensors or .onnx file, untrained:ARCH[@WIDTH], pixels, or the output folder of train "
        "--seeds. Other networks: torchvision:NAME, timm:NAME, hf:NAME, module:FILE.py:FUNCTION or onnx:FILE.",
    ),
    option("--levels", metavar="L,L,…", help="Levels, such as L2,L3. [default: all of the tap]"),
    option(
        "--tap",
        type=NameChoice("l2a_transfer.features.backends.interface:TAPS"),
        default="ga",
        show_default=True,
        help="ga: the attention outputs g_a. ga-bn-relu: g_a after batch norm and ReLU, the input of the classifier. "
        "local: the mean over positions of the local features L1, L2 and L3.",
    ),
    option("--attention/--no-attention", default=False, help="Also store the attention maps of each level."),
    option(
        "--partners",
        type=NameChoice("l2a_transfer.features.extraction.partners:RULES"),
        default="self",
        show_default=True,
        help="For networks of pairs. self: each image is its own partner. set: partners are drawn from the whole set.",
    ),
    option("--seed", metavar="N", type=SEED, default=0, show_default=True, help="Random seed of untrained weights."),
    option("--layer", metavar="NAME,…", help="Layers of another network. List them with 'l2a-transfer layers'."),
    option(
        "--pool",
        type=NameChoice("l2a_transfer.features.backends.pooling:POOLS"),
        help="How to pool the positions of a layer. [default: avg]",
    ),
    weights_option(),
)
@preprocess_options
@option_group(
    "Data",
    option("--data", required=True, help="Data set name, or imagefolder:PATH, npz:PATH, wds:PATH or parquet:PATH."),
    option("--data-dir", type=PATH, help="Folder that contains the data set."),
    option("--download/--no-download", default=False, help="Download the data set into --data-dir, and weights."),
    option("--split", help="Use only this split."),
    reading_options,
    option(
        "--domain-from",
        metavar="HOW",
        help="Where domains come from: folder (DOMAIN/CLASS/image), regex:PATTERN (first group, matched in the id) or "
        "file:FILE.",
    ),
    option(
        "--limit",
        metavar="N",
        type=click.IntRange(min=1),
        help="Use at most N images per split, balanced over the classes.",
    ),
    option(
        "--decode",
        type=NameChoice("l2a_transfer.preprocess:DECODINGS"),
        help="scaled: decode large JPEG files at a smaller scale, which changes features. [default: the model's own]",
    ),
    option(
        "--on-error",
        type=NameChoice("l2a_transfer.features.extraction.extract:ON_ERROR"),
        default="fail",
        show_default=True,
        help="What to do about an unreadable image: stop, or skip it and list it.",
    ),
)
@option_group(
    "Output",
    option("--out", type=PATH, required=True, metavar="FILE.h5", help="Feature file to write."),
    option("--resume/--no-resume", default=False, help="If --out is already complete, verify it and exit with 0."),
    option("--overwrite/--no-overwrite", default=False, help="Overwrite --out."),
)
@option_group(
    "Computation",
    option(
        "--backend",
        type=NameChoice("l2a_transfer.features.backends.registry:BACKENDS"),
        default="auto",
        show_default=True,
        help="Runtime of the network. auto: chosen from --model.",
    ),
    device_option(),
    option(
        "--precision",
        type=NameChoice("l2a_transfer.devices:PRECISIONS"),
        default="auto",
        show_default=True,
        help="Floating-point precision. auto: fp32.",
    ),
    option(
        "--batch-size", metavar="N", type=click.IntRange(min=1), default=64, show_default=True, help="Images per batch."
    ),
    option(
        "--compile/--no-compile",
        default=False,
        help="Compile the network with torch.compile, which can change the last bits of features.",
    ),
    option(
        "--threads",
        metavar="N",
        type=click.IntRange(1, 1024),
        help="CPU threads of the network. Their number can change the last bits of features.",
    ),
    option(
        "--workers",
        metavar="N",
        type=click.IntRange(min=0),
        help="Number of image-decoding processes. [default: chosen automatically]",
    ),
    option(
        "--engine",
        type=NameChoice("l2a_transfer.features.extraction.extract:ENGINES"),
        default="local",
        show_default=True,
        help="local: this machine. ray: a Ray cluster.",
    ),
    option("--ray-address", help="Address of a running Ray cluster. [default: start one on this machine]"),
    option("--actors", metavar="N", type=click.IntRange(min=1), help="Number of Ray actors. [default: as many as fit]"),
)
@click.pass_obj
def command(obj: dict[str, Any], /, **given: Any) -> None:
    """Extract the features of a data set to an HDF5 file.

    The file also contains labels, ids, splits and the model card. If --model is the output folder of train --seeds, one
    file is written per seed: features-seed-0.h5 and so on. svm-eval groups these.

    To continue an interrupted extraction, run the same command again.

    \b
    Example:
      l2a-transfer extract --model vgg-att2-concat-pc.cifar10-w025 --data caltech-mini --out features.h5
    """
    from l2a_transfer.features.extraction.seeds import seed_outputs, seed_weights

    if given["engine"] == "local" and (given["ray_address"] or given["actors"]):
        raise click.UsageError("--ray-address and --actors need --engine ray")
    if given["threads"]:
        import torch

        torch.set_num_threads(given["threads"])
    weights = seed_weights(given["model"])
    if not weights:
        _extract(obj, given)
        return
    outputs = seed_outputs(given["out"], weights, may_exist=given["resume"] or given["overwrite"])
    echo(f"{given['model']}: {counted(len(weights), 'training seed')}, one feature file each", err=True)
    for seed, path in weights.items():
        _extract(obj, given | {"model": str(path), "out": outputs[seed]})


def _extract(obj: dict[str, Any], given: dict[str, Any]) -> None:
    """Write one feature file, and print a line about it."""
    from l2a_transfer.data.readers import open_source
    from l2a_transfer.data.sources import describe, reading_of
    from l2a_transfer.features.backends.registry import open_backend
    from l2a_transfer.features.extraction.extract import extract
    from l2a_transfer.features.extraction.ray_engine import RayConfig

    options = {key: given[key] for key in ("device", "precision", "tap", "seed", "backend")}
    options |= {key: given[key] for key in ("decode", "pool", "weights", "download")}
    options |= {"layer": split_names(given["layer"]) or None, **preprocess_values(given)}
    levels = [level.strip() for level in given["levels"].split(",")] if given["levels"] else None
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
            domain_from=given["domain_from"],
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
    """The model argument for `open_backend`. For ONNX Runtime, PyTorch weights are exported to a temporary file."""
    from l2a_transfer.features.backends.registry import DEFAULT_BACKEND, backend_for

    if backend != "onnxruntime" or backend_for(model).name != DEFAULT_BACKEND:
        yield model
        return
    from l2a_transfer.export import export_onnx

    with tempfile.TemporaryDirectory(prefix="l2a-transfer-") as folder:
        yield str(export_onnx(model, Path(folder) / "model.onnx", seed=seed).path)
