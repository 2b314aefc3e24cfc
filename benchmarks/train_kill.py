"""Does training that is killed at random moments and resumed give the same weights, bit for bit?

A run is a separate process; `kill -9` hits it at a random moment between its first step and its end, and the same
command with --resume then completes it. Each process is forked from this one, which has imported everything but
computed nothing, because a short process spends most of its time starting, when nothing can be lost yet. Every tensor
of the checkpoint (weights, average, momentum) and of the weights file must equal that of the undisturbed run.

    python benchmarks/train_kill.py --data-dir data --out benchmarks/results/train-kill.json
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from provenance import provenance
from safetensors.torch import load_file

from l2a_transfer.cli.main import main as l2a_transfer_main
from l2a_transfer.data.readers import open_source
from l2a_transfer.data.sources import ImageSource

PRELOADED = ("torch.utils.data", "l2a_transfer.training.runs", "l2a_transfer.data.readers")
"""Modules that a child would import; they are loaded before the fork."""
BEFORE_STEP_ONE_S = 0.5
"""A kill earlier than this would hit the reading of the data, when nothing can be lost."""


@click.command()
@click.option("--model", default="vgg-att2-concat-pc", show_default=True)
@click.option("--width", default="0.03125", show_default=True)
@click.option("--data", default="cifar10", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the data set.")
@click.option("--epochs", default="4", show_default=True)
@click.option("--images", type=click.IntRange(min=20), default=2000, show_default=True, help="Trained on in an epoch.")
@click.option("--kills", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the moments.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(
    model: str, width: str, data: str, data_dir: Path, epochs: str, images: int, kills: int, seed: int, out: Path
) -> None:
    for module in PRELOADED:
        import_module(module)
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        # Few images, so that an epoch takes a second; with dropout and an average, because those have state too.
        few = save_few(open_source(data, data_dir=data_dir, limit=images), Path(name) / f"{data}.npz")
        train = ["-q", "train", "--model", model, "--width", width, "--data", f"npz:{few}", "--epochs", epochs]
        train += ["--dropout", "1", "--set", "average=0.1", "--device", "cpu"]
        whole = Path(name) / "whole"
        began = time.perf_counter()
        assert wait(start([*train, "--out", str(whole)])) == 0
        seconds = time.perf_counter() - began
        expected = digests(whole)
        attempts = 0
        while len(rows) < kills:
            attempts += 1
            folder = Path(name) / str(attempts)
            moment = rng.uniform(BEFORE_STEP_ONE_S, seconds)
            victim = start([*train, "--out", str(folder)])
            time.sleep(moment)
            os.kill(victim, signal.SIGKILL)
            status = wait(victim)
            if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
                assert status == 0
                continue  # it had finished before the moment came; another moment is drawn
            there = sorted(path.name for path in folder.glob("*")) if folder.exists() else []
            at = position(folder)
            assert wait(start([*train, "--out", str(folder), "--resume"])) == 0
            same = digests(folder)
            equal = {key: same[key] == expected[key] for key in expected}
            rows.append({"killed_after_s": round(moment, 3), "files_then": there, "checkpoint": at, "equal": equal})
            print(len(rows), rows[-1], file=sys.stderr)
    document = {
        "schema": "l2a-benchmark/1",
        "what": "training killed at random moments and resumed; are the tensors those of the undisturbed run?",
        **provenance(shlex.join(["python", "benchmarks/train_kill.py", *sys.argv[1:]])),
        "model": model,
        "width": float(width),
        "data": data,
        "images": images,
        "epochs": int(epochs),
        "undisturbed_s": round(seconds, 2),
        "attempts": attempts,
        "kills": rows,
        "kills_total": len(rows),
        "all_equal": all(all(row["equal"].values()) for row in rows),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out, len(rows), "kills, all equal:", document["all_equal"])


def save_few(source: ImageSource, path: Path) -> Path:
    """Save the pictures of a source, all of one size, as an array file."""
    arrays: dict[str, Any] = {"classes": np.array(source.classes)}
    for k, split in enumerate(source.splits):
        rows = np.flatnonzero(source.split == k)
        arrays[f"{split}_images"] = np.stack([np.asarray(source.image(int(row))) for row in rows])
        arrays[f"{split}_labels"] = source.labels[rows]
    np.savez(path, **arrays)
    return path


def start(arguments: list[str]) -> int:
    """The process id of a fork that runs this command line."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            l2a_transfer_main(arguments, standalone_mode=False)
            code = 0
        finally:
            os._exit(code)
    return child


def wait(child: int) -> int:
    return os.waitpid(child, 0)[1]


def position(folder: Path) -> dict[str, int] | None:
    """The position of the checkpoint that a kill has left."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    content = torch.load(path, weights_only=True)
    return {key: content[key] for key in ("epoch", "step")}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every tensor, by location: model, average and optimizer of the checkpoint, and the weights file."""
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    (weights,) = folder.glob("*.safetensors")
    parts = {key: flat(content[key]) for key in ("model", "average", "optimizer")} | {
        "weights": flat(load_file(weights))
    }
    found = {}
    for key, tensors in parts.items():
        assert tensors
        sha = hashlib.sha256()
        for name in sorted(tensors):
            sha.update(name.encode() + tensors[name].numpy().tobytes())
        found[key] = sha.hexdigest()
    return found


def flat(values: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor in nested dictionaries and lists, by its path."""
    if isinstance(values, torch.Tensor):
        return {name: values}
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return {path: tensor for key, value in pairs for path, tensor in flat(value, f"{name}/{key}").items()}


if __name__ == "__main__":
    main()
