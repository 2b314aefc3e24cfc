"""The training runs of the GPU campaign: most valuable first, in parallel, and none started that cannot finish in time.

Each run is one `l2a-transfer train` in a separate process, so that a failing run does not affect others. A step of a
narrow network waits for kernel launches, not for arithmetic, so several processes share the GPU. Their times do not
hold for a run alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from l2a_transfer.data.cifar import FOLDERS
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.weights import load_weights, read_card, save_weights
from l2a_transfer.training.flops import macs
from l2a_transfer.training.recipe import find_recipe

ROOT = Path(__file__).parents[1]
ATTENTION, UNIFORM, VGG = "vgg-att2-concat-pc", "vgg-att2-concat-uniform", "vgg"
OTHERS = ("vgg-pan", "vgg-att1-pc", "vgg-att3-concat-pc", "vgg-att2-indep-pc")
NORMALIZERS = ("sparsemax", "entmax15")
SMALLEST = 1 / 32
PART_BYTES = 15 << 20
"""Size of the files in which weights are handed over, four of them at a time."""
PARTS = 4
START_S = 10.0
"""Time of a run besides its steps: to start, read the data, and measure."""
LAUNCH_S, FLOPS_A_SECOND = 13e-3, 4e14
"""Kernel launch time of a step, and the arithmetic speed of a GPU (measured: H200, widths 0.25 and 1)."""


@dataclass(frozen=True)
class Run:
    """One training run with the recipe `fast`; `epochs` None: the recipe's default for the data set."""

    model: str
    width: float
    seed: int
    data: str = "cifar10"
    epochs: int | None = None
    normalizer: str = "softmax"

    @property
    def stem(self) -> str:
        """The name of its weights, distinct from other networks, data sets and seeds."""
        network = self.model if self.normalizer == "softmax" else f"{self.model}-{self.normalizer}"
        return f"{network}.{self.data}-w{round(self.width * 100):03d}.fast.seed-{self.seed}"

    def options(self) -> list[str]:
        epochs = [] if self.epochs is None else ["--epochs", str(self.epochs)]
        return [
            "--model",
            self.model,
            "--data",
            self.data,
            "--width",
            f"{self.width:g}",
            "--recipe",
            "fast",
            *epochs,
            "--normalizer",
            self.normalizer,
            "--seed",
            str(self.seed),
        ]

    def guessed_seconds(self, done: int = 0) -> float:
        """Time of the epochs after the first `done`, estimated from steps and arithmetic, for a run with the GPU to
        itself.

        Correct up to a factor, which is estimated from finished runs.
        """
        recipe = find_recipe("fast", self.data)
        recipe = dataclasses.replace(recipe, epochs=self.epochs or recipe.epochs)
        macs_left = sum(_macs(self.model, self.width, recipe.resolution(e)) for e in range(done, recipe.epochs))
        steps = 50_000 // recipe.batch_size
        return steps * ((recipe.epochs - done) * LAUNCH_S + 6 * recipe.batch_size * macs_left / FLOPS_A_SECOND)


@cache
def _macs(model: str, width: float, size: int) -> int:
    return macs(ModelConfig(model, width=width), size)


def plan() -> list[Run]:
    """Most valuable first: two seeds at the paper's width, three at smaller ones, both data sets, then more of each."""
    whole, half, quarter = 1.0, 0.5, 0.25
    three = (ATTENTION, UNIFORM, VGG)
    wide = [(ATTENTION, 0, "cifar10"), (UNIFORM, 0, "cifar10"), (ATTENTION, 0, "cifar100"), (ATTENTION, 1, "cifar10")]
    wide += [(ATTENTION, 1, "cifar100"), (UNIFORM, 0, "cifar100"), (VGG, 0, "cifar10"), (VGG, 0, "cifar100")]
    wide += [(UNIFORM, 1, "cifar10"), (VGG, 1, "cifar10"), (UNIFORM, 1, "cifar100"), (VGG, 1, "cifar100")]
    runs = [Run(model, whole, seed, data, epochs=30) for model, seed, data in wide]
    runs += [Run(UNIFORM, quarter, 1), Run(UNIFORM, quarter, 2), Run(VGG, quarter, 2)]
    runs += [Run(model, quarter, 0, "cifar100") for model in three]
    runs += [Run(model, half, 0) for model in three]
    runs += [Run(model, quarter, seed, "cifar100") for seed in (1, 2) for model in three]
    runs += [Run(model, half, seed) for seed in (1, 2) for model in three]
    runs += [Run(f"vgg-att2-concat-{c}", quarter, seed) for c in ("dp", "add") for seed in (1, 2)]
    runs += [Run(model, quarter, seed) for model in ("vgg-gap", "vgg-att1-uniform") for seed in (0, 1, 2)]
    runs += [Run(ATTENTION, quarter, seed, normalizer=name) for name in NORMALIZERS for seed in (0, 1, 2)]
    runs += [Run(model, quarter, 0) for model in OTHERS]
    runs += [Run(model, quarter, seed) for seed in (3, 4) for model in three]
    runs += [Run(model, whole, 2, epochs=30) for model in three]
    return runs


@dataclass
class Going:
    """A run's process, its start time, and how many others were running then."""

    run: Run
    command: list[str]
    process: subprocess.Popen[bytes]
    beside: int
    epochs_before: int
    began: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class Place:
    """Where runs are stored and computed: one folder per run in `work`, CIFAR in `data_dir`, `jobs` at a time."""

    work: Path
    data_dir: Path
    device: str
    jobs: int = 5
    tiny: bool = False

    def folder(self, run: Run) -> Path:
        return self.work / run.stem

    def weights(self, run: Run) -> Path | None:
        """The weights of a finished run; they are measured last."""
        found = next(iter(self.folder(run).glob("*.safetensors")), None)
        return found if found is not None and read_card(found).metrics else None

    def epochs(self, run: Run) -> int:
        """How many epochs of a run are finished."""
        metrics = self.folder(run) / "metrics.jsonl"
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    def has_data(self, run: Run) -> bool:
        return (self.data_dir / FOLDERS[run.data]).is_dir()


def tiny(runs: list[Run]) -> list[Run]:
    """The first few runs for a rehearsal: the smallest width, one epoch."""
    return [dataclasses.replace(run, width=SMALLEST, epochs=1) for run in runs[:4]]


def train_all(runs: list[Run], place: Place, *, deadline: float) -> Iterator[dict[str, Any]]:
    """Train them in order until `deadline` (of time.perf_counter); yields a row when each ends.

    Finished runs are not repeated. A run is started if, judged by earlier runs, it should finish in time and does not
    delay an earlier one beyond the deadline. A run still active at the deadline is asked to stop, and its checkpoint is
    kept. Runs without data are skipped.
    """
    waiting = [run for run in runs if place.has_data(run) and place.weights(run) is None]
    going: list[Going] = []
    pace = Pace()
    while waiting or going:
        for one in [one for one in going if one.process.poll() is not None]:
            going.remove(one)
            yield _row(one, place)
            pace.learn(one, place)
        left = deadline - time.perf_counter()
        late = any(pace.seconds(one.run, place) > left for one in going)
        while waiting and len(going) < place.jobs and (place.tiny or not late):
            fits = [run for run in waiting if place.tiny or START_S + pace.seconds(run, place) < left]
            if not fits:
                waiting = []
                break
            waiting.remove(fits[0])
            going.append(_start(fits[0], place, beside=len(going)))
        if left < 0:
            waiting = []
            _stop(going)
        time.sleep(0.1)


@dataclass
class Pace:
    """How much longer runs take than alone on the GPU for which LAUNCH_S and FLOPS_A_SECOND were measured."""

    ratio: float = 1.0

    def seconds(self, run: Run, place: Place) -> float:
        """Remaining time of a run; its current epoch counts as not started."""
        return self.ratio * run.guessed_seconds(place.epochs(run))

    def learn(self, one: Going, place: Place) -> None:
        """Update from a successfully finished run."""
        if one.process.returncode == 0 and (whole := one.run.guessed_seconds(one.epochs_before)) > 0:
            self.ratio = max(0.1, (time.perf_counter() - one.began - START_S) / whole)


def _start(run: Run, place: Place, *, beside: int) -> Going:
    folder = place.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "l2a_transfer",
        "train",
        *run.options(),
        "--data-dir",
        str(place.data_dir),
        "--device",
        place.device,
        "--out",
        str(folder),
        "--resume",
    ]
    if place.tiny:
        command += ["--batch-size", "16"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2"}
    with open(place.work / f"{run.stem}.log", "ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    return Going(run, command, process, beside, place.epochs(run))


def _stop(going: list[Going]) -> None:
    for one in going:
        one.process.send_signal(signal.SIGTERM)
    for one in going:
        try:
            one.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()


def _row(one: Going, place: Place) -> dict[str, Any]:
    """The result of a run: its command, times, and the card's accuracy, or the end of its output."""
    row: dict[str, Any] = {
        "run": one.run.stem,
        "command": shlex.join(["python", *one.command[1:]]),
        "returncode": one.process.returncode,
        "wall_s": time.perf_counter() - one.began,
        "others_when_begun": one.beside,
    }
    weights = place.weights(one.run)
    if one.process.returncode or weights is None:
        said = (place.work / f"{one.run.stem}.log").read_text(errors="replace")
        return {**row, "said": said[-1500:]}
    card = read_card(weights)
    kept = ("recipe", "seed", "device", "precision", "seconds", "versions")
    epochs = [json.loads(line) for line in (place.folder(one.run) / "metrics.jsonl").read_text().splitlines()]
    return {
        **row,
        "metrics": card.metrics,
        "parameters": card.parameters,
        "training": {key: card.training[key] for key in kept},
        "epochs": epochs,
    }


def pack(runs: list[Run], place: Place, out: Path, *, commit: str | None) -> list[str]:
    """Hand over finished weights, in the plan's order, as far as they fit: `weights-N.tar.K` in `out`.

    `cat weights-N.tar.* | tar x` restores the files, each named after its run. `packed.json` in the work folder lists
    what was handed over, so that the next call continues. If a run did not know its commit, its card gets `commit`.
    Returns the names of the runs.
    """
    record = place.work / "packed.json"
    done: list[str] = json.loads(record.read_text()) if record.exists() else []
    finished = [(run.stem, weights) for run in runs if (weights := place.weights(run)) and run.stem not in done]
    room, chosen = PARTS * PART_BYTES - (1 << 20), []
    for stem, weights in finished:
        _stamp(weights, commit)
        if weights.stat().st_size <= room:
            room -= weights.stat().st_size + 1024
            chosen.append((stem, weights))
    if not chosen:
        return []
    number = 1 + sum(name.startswith("-- ") for name in done)
    whole = place.work / f"weights-{number}.tar"
    with tarfile.open(whole, "w") as tar:
        for stem, weights in chosen:
            tar.add(weights, arcname=f"{stem}.safetensors")
    content = whole.read_bytes()
    for k in range(0, len(content), PART_BYTES):
        (out / f"{whole.name}.{k // PART_BYTES}").write_bytes(content[k : k + PART_BYTES])
    whole.unlink()
    names = [stem for stem, _ in chosen]
    record.write_text(json.dumps([*done, f"-- {whole.name}", *names]))
    return names


def _stamp(weights: Path, commit: str | None) -> None:
    card = read_card(weights)
    if commit is None or card.training.get("commit"):
        return
    network, card = load_weights(weights)
    save_weights(network, dataclasses.replace(card, training={**card.training, "commit": commit}), weights)
