"""Running training in folders, from the first step or a checkpoint to weights with a card; for one or several seeds."""

from __future__ import annotations

import json
import logging
import math
import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from l2a_transfer.devices import device_name
from l2a_transfer.documents import parse
from l2a_transfer.errors import ArgumentError, Interrupted, NotFiniteError, OutputExistsError, TrainingError
from l2a_transfer.files import remove_leftovers
from l2a_transfer.inputs import read_input
from l2a_transfer.models.weights import count_parameters, load_weights, save_weights, with_metrics
from l2a_transfer.training.accuracy import evaluate, measure
from l2a_transfer.training.arithmetic import MACHINE
from l2a_transfer.training.cards import training_card
from l2a_transfer.training.checkpoint import differences, write_run_file
from l2a_transfer.training.curve import learning_curve
from l2a_transfer.training.data import ResidentPixels, shown_metric
from l2a_transfer.training.divergence import signs
from l2a_transfer.training.interrupt import stop_requests
from l2a_transfer.training.run_folder import ELSEWHERE, RunFolder, check_path, locked_run_folder
from l2a_transfer.training.trainer import Trainer
from l2a_transfer.wording import counted

log = logging.getLogger(__name__)
MAX_SUMMARY_BYTES = 16 << 20
SMALLER_STEPS = "start again with a smaller `lr` and another `out`, or `overwrite=True`"
"""Remedy for a loss that is not finite. With the same options, the run would fail again."""
GO_ON = "run it again with `resume=True`, not `overwrite=True`, to continue"


@dataclass(frozen=True)
class TrainResult:
    """The path of the weights, and their accuracy on the test images, as in the card's metrics."""

    weights: Path
    metrics: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class SeedsResult:
    """A metric over training seeds: mean and sample standard deviation (None for one seed) of `values`.

    `name`: the name of the weights, such as vgg.cifar10-w025.
    """

    name: str
    metric: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def summary(self) -> str:
        """One line per seed, and one with mean, standard deviation and n."""
        metric = shown_metric(self.metric)
        lines = [f"seed {seed}: {metric} {value:.4f}" for seed, value in zip(self.seeds, self.values, strict=True)]
        spread = "" if self.std is None else f" ± {self.std:.4f} (standard deviation)"
        n = f"n = {len(self.values)} {'seed' if len(self.values) == 1 else 'seeds'}"
        return "\n".join([*lines, f"{metric} {self.mean:.4f}{spread}, {n}"])

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "l2a-seeds/1",
            "name": self.name,
            "metric": self.metric,
            "n": len(self.values),
            "mean": self.mean,
            "std": self.std,
            "runs": [{"seed": seed, "value": value} for seed, value in zip(self.seeds, self.values, strict=True)],
        }


def run_training(
    trainer: Trainer,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    eval_every: int = 0,
    progress: bool = True,
) -> TrainResult:
    """Run `trainer` to its last epoch, writing `checkpoint.pt`, `metrics.jsonl`, `curve.png` and `NAME.safetensors`
    into `out`. With several processes, only the first writes.

    The network is fitted on the training images. At the end it is evaluated on the test images with exactly the weights
    that are saved (float16, and float32 for tensors that exceed its range), in float32 arithmetic. With `eval_every` it
    is also evaluated during training, but nothing is chosen by that. Ctrl-C and SIGTERM save the position and raise
    Interrupted, a KeyboardInterrupt. Raises: OutputExistsError if `out` contains a run and neither `resume` nor
    `overwrite` is given; NotFiniteError if the loss is not finite; TrainingError if the checkpoint is damaged or of
    another run, `out` cannot be written, or the processes would not train the same.
    """
    folder = RunFolder.for_trainer(out, trainer)
    start = Path(os.path.expanduser(trainer.init_from or ""))
    if trainer.start and start.is_file() and folder.weights.exists() and start.samefile(folder.weights):
        raise TrainingError(f"{start}: this run starts from these weights and would overwrite them", ELSEWHERE)
    with folder.locked(writes=trainer.placement.process.is_main):
        done = folder.resume(trainer) if resume else None
        if not resume and not overwrite:
            folder.check_empty()
        _check_processes_agree(trainer, out, done=bool(done))
        if done:
            metric = trainer.data.test_metric
            return TrainResult(folder.weights, {metric: done.metrics[metric]}, done.training["seconds"])
        if trainer.placement.process.is_main:
            if not trainer.finished:  # otherwise only the evaluation is left
                _log_start(trainer, folder)
            if trainer.history:
                folder.save_metrics(trainer)
        with stop_requests(alone=trainer.placement.process.size == 1) as stop:
            _run(trainer, folder, eval_every=eval_every, progress=progress, stop=stop)
            metrics: dict[str, Any] = {}
            if trainer.placement.process.is_main:
                metrics = _measure(trainer, folder)  # last: weights with metrics mean that the run is complete
            if stop():
                raise Interrupted(f"stopped; the run in {out} is complete")
        return TrainResult(folder.weights, _shared_metrics(trainer, metrics), trainer.seconds)


def _run(trainer: Trainer, folder: RunFolder, *, eval_every: int, progress: bool, stop: Callable[[], bool]) -> None:
    """Train to the last epoch, saving after each. Raises: like `run_training`."""
    saved = (trainer.epoch, trainer.step) if trainer.epoch or trainer.step else None
    dropped, warned = False, set[str]()
    while not trainer.finished:
        try:
            row = trainer.run_epoch(progress=progress, stop=stop)
        except NotFiniteError as error:
            there = (
                f"{folder.checkpoint} has the state after epoch {saved[0]}, step {saved[1]}"
                if saved
                else "no epoch was finished"
            )
            raise NotFiniteError(f"{error}; {there}", SMALLER_STEPS) from None
        if trainer.placement.process.is_main:
            trainer.history += [row] if row is not None else []
            try:
                if row is not None and eval_every and trainer.epoch % eval_every == 0:
                    data, preprocess, workers = trainer.data, trainer.preprocess, trainer.placement.workers
                    pixels = data.test_pixels(preprocess, workers=workers)
                    accuracy = evaluate(trainer.result, data.test, preprocess, workers=workers, pixels=pixels)
                    row[shown_metric(data.test_metric)] = accuracy
            finally:  # an unreadable test image must not lose the epoch
                folder.save(trainer)
                if not dropped:  # results that exist now are from the run that is being replaced
                    folder.remove_results()
                    dropped = True
            if row is not None:
                _log_epoch(trainer, row)
                for kind, sign in signs(trainer, row).items():
                    if kind not in warned:  # warn once, because the sign usually persists
                        log.warning("%s", sign)
                    warned.add(kind)
        saved = (trainer.epoch, trainer.step)
        if row is None:
            raise Interrupted(
                f"stopped in epoch {trainer.epoch + 1}, after step {trainer.step} of {trainer.steps_per_epoch}; saved "
                f"in {folder.checkpoint}",
                GO_ON,
            )
        if stop():
            raise Interrupted(f"stopped after epoch {trainer.epoch}; saved in {folder.checkpoint}", GO_ON)


def _check_processes_agree(trainer: Trainer, out: Path, *, done: bool) -> None:
    """Wait for the other processes. Raises: TrainingError if one has another fingerprint or another position."""
    if trainer.placement.process.size == 1:
        return
    place = "the end" if done else f"epoch {trainer.epoch}, step {trainer.step}"
    said: list[Any] = [None] * trainer.placement.process.size
    own = {key: value for key, value in trainer.fingerprint().items() if key not in MACHINE}
    dist.all_gather_object(said, {**own, "threads": 0, "position": place})
    for rank, other in enumerate(said):
        if apart := differences(other, said[0]):
            raise TrainingError(
                f"{out}: process {rank} (there) and process 0 (here) do not train the same: {apart}; all processes "
                "need the same options and data, and a shared folder"
            )


def _log_start(trainer: Trainer, folder: RunFolder) -> None:
    """Log what runs where, including the values chosen by `auto`."""
    placement, processes = trainer.placement, trainer.placement.process.size
    if trainer.epoch or trainer.step:
        log.info(
            "resumed after epoch %d of %d, step %d, from %s",
            trainer.epoch,
            trainer.recipe.epochs,
            trainer.step,
            folder.checkpoint,
        )
    pixels = "in memory" if isinstance(trainer.pixels, ResidentPixels) else "streamed"
    log.info(
        "%s: %s parameters; %s%s, precision %s%s%s; %s, %s",
        folder.name,
        f"{count_parameters(trainer.model):,}",
        device_name(trainer.device),
        f" × {processes}" if processes > 1 else "",
        trainer.precision,
        " (auto)" if placement.precision == "auto" else "",
        ", compiled" if placement.compile else "",
        counted(len(trainer.pixels), "image"),
        pixels,
    )
    if trainer.start:
        kept = ", ".join(trainer.start.kept_random) or "none"
        log.info("initialised from %s; tensors not found there, which stay random: %s", trainer.start.name, kept)


def _log_epoch(trainer: Trainer, row: dict[str, Any]) -> None:
    measured = shown_metric(trainer.data.test_metric)
    log.info(
        "epoch %d/%d  train_loss %.3f  train_accuracy %.3f%s  lr %.3g  images_per_second %.0f  mfu %.2f  %s left",
        trainer.epoch,
        trainer.recipe.epochs,
        row["train_loss"],
        row["train_accuracy"],
        f"  {measured} {row[measured]:.3f}" if measured in row else "",
        row["lr"],
        row["images_per_second"],
        row["mfu"],
        _duration(trainer.seconds_left()),
    )


def _duration(seconds: float) -> str:
    return f"about {math.ceil(seconds / 60)} min" if seconds > 90 else f"{seconds:.0f} s"


def _measure(trainer: Trainer, folder: RunFolder) -> dict[str, Any]:
    """Save the weights, draw the curve, evaluate the saved weights, and save them again with the metrics."""
    data = trainer.data
    card = training_card(trainer, folder.name)
    save_weights(trainer.result, card, folder.weights)  # first, so that no later error loses them
    write_run_file(folder.curve, learning_curve(trainer.history, folder.name))
    shipped, _ = load_weights(folder.weights)
    shipped.to(trainer.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    sampling, workers = trainer.recipe.sampling, trainer.placement.workers
    metrics = measure(shipped, data, trainer.preprocess, sampling=sampling, workers=workers)
    save_weights(shipped, with_metrics(card, metrics), folder.weights)
    return {data.test_metric: metrics[data.test_metric]}


def _shared_metrics(trainer: Trainer, metrics: dict[str, Any]) -> dict[str, Any]:
    """Send the metrics of the first process to all processes."""
    said = [metrics]
    if trainer.placement.process.size > 1:
        dist.broadcast_object_list(said)
    return said[0]


def train_seeds(
    new_trainer: Callable[[int], Trainer],
    out: Path,
    seeds: Sequence[int],
    *,
    resume: bool = False,
    overwrite: bool = False,
    eval_every: int = 0,
    progress: bool = True,
) -> SeedsResult:
    """Train one run per seed in `out/seed-N`, reusing those that are complete. Writes `seeds.json`.

    All folders are checked before the first run begins. Raises: like `run_training`; ValueError for no seeds or a
    repeated one; OutputExistsError if `seeds.json` is of other weights and `overwrite` is not given.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ArgumentError(f"seeds must be distinct, such as 0,1,2; got {','.join(map(str, seeds)) or 'none'}")
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise ArgumentError(f"seeds must be between 0 and {2**32 - 1}; got {','.join(map(str, seeds))}")
    summary = out / "seeds.json"
    check_path(summary)
    with ExitStack() as stack:
        if not dist.is_initialized() or dist.get_rank() == 0:
            for folder in (out, *(out / f"seed-{seed}" for seed in seeds)):
                stack.enter_context(locked_run_folder(folder))
            remove_leftovers(summary)
        return _train_seeds(
            new_trainer, summary, seeds, resume=resume, overwrite=overwrite, eval_every=eval_every, progress=progress
        )


def _train_seeds(
    new_trainer: Callable[[int], Trainer],
    summary: Path,
    seeds: Sequence[int],
    *,
    resume: bool,
    overwrite: bool,
    eval_every: int,
    progress: bool,
) -> SeedsResult:
    values: list[float] = []
    name = metric = ""
    for seed in seeds if not overwrite else ():
        trainer = new_trainer(seed)
        folder = RunFolder.for_trainer(summary.parent / f"seed-{seed}", trainer)
        folder.check(trainer, resume=resume or folder.measured())
        if seed == seeds[0]:
            _check_summary(summary, folder.name)
    for seed in seeds:
        trainer = new_trainer(seed)
        metric = trainer.data.test_metric
        folder = RunFolder.for_trainer(summary.parent / f"seed-{seed}", trainer)
        name = folder.name
        done = not overwrite and folder.measured()
        result = run_training(
            trainer, folder.path, resume=resume or done, overwrite=overwrite, eval_every=eval_every, progress=progress
        )
        values.append(result.metrics[metric]["value"])
        if trainer.placement.process.is_main:
            log.info(
                "seed %d: %s %.4f%s", seed, shown_metric(metric), values[-1], " (already finished)" if done else ""
            )
    found = SeedsResult(name, metric, tuple(seeds), tuple(values))
    if trainer.placement.process.is_main:
        write_run_file(summary, (json.dumps(found.to_json(), indent=1) + "\n").encode())
    return found


def _check_summary(path: Path, name: str) -> None:
    """Raises: OutputExistsError if `path` exists and is not the summary of runs with these weights."""
    try:
        found = parse(read_input(path, MAX_SUMMARY_BYTES))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        found = None
    theirs = found.get("name") if isinstance(found, dict) else None
    if theirs != name:
        raise OutputExistsError(f"{path}: already exists and is not of {name}", f"remove it, or {ELSEWHERE}")
