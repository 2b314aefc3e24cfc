"""Runs as folders: one run from its first step or its checkpoint to weights with a card, and one run a seed."""

from __future__ import annotations

import json
import logging
import math
import signal
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from l2a_transfer.errors import NotFiniteError, OutputExistsError, TrainingError, WeightsError
from l2a_transfer.models.weights import count_parameters, load_weights, read_card, save_weights, with_metrics
from l2a_transfer.training.cards import training_card, weights_name
from l2a_transfer.training.checkpoint import load_checkpoint, save_checkpoint, write_whole
from l2a_transfer.training.curve import learning_curve
from l2a_transfer.training.data import ResidentPixels
from l2a_transfer.training.device import device_name
from l2a_transfer.training.measure import evaluate
from l2a_transfer.training.trainer import Trainer

log = logging.getLogger(__name__)
REPLACE = "--overwrite replaces it, or choose another --out"
GO_ON = "; the same command with --resume goes on"


@dataclass(frozen=True)
class TrainResult:
    """Where the weights are and what they reach; `metrics` as in the card."""

    weights: Path
    metrics: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class SeedsResult:
    """One metric over training seeds: mean and sample standard deviation (None for one seed) of `values`."""

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
        """One line a seed, and one with mean, standard deviation and n."""
        lines = [f"seed {seed}: {self.metric} {value:.4f}" for seed, value in zip(self.seeds, self.values, strict=True)]
        spread = "" if self.std is None else f" ± {self.std:.4f} (standard deviation)"
        return "\n".join([*lines, f"{self.metric} {self.mean:.4f}{spread}, n = {len(self.values)} seeds"])

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "l2a-seeds/1", "metric": self.metric, "n": len(self.values), "mean": self.mean, "std": self.std,
            "runs": [{"seed": seed, "value": value} for seed, value in zip(self.seeds, self.values, strict=True)],
        }  # fmt: skip


def train(
    trainer: Trainer,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    eval_every: int = 0,
    progress: bool = True,
) -> TrainResult:
    """Run `trainer` to its last epoch, writing `checkpoint.pt`, `metrics.jsonl`, `curve.png` and `NAME.safetensors`
    into `out`; of several processes the first alone writes.

    Fitted on the training images; measured at the end, on the test images, with the float16 numbers that ship, in
    float32 arithmetic. With `eval_every` it is also measured during training, which chooses nothing. Ctrl-C and
    SIGTERM save the position and raise KeyboardInterrupt. Raises: OutputExistsError where `out` holds another run and
    neither `resume` nor `overwrite` is given; NotFiniteError where the loss is not finite; TrainingError where the
    checkpoint is another run's, or the processes do not stand at the same step.
    """
    name = weights_name(trainer.config, trainer.data.name)
    first = trainer.where.ranks.first
    checkpoint, metrics_file, weights = out / "checkpoint.pt", out / "metrics.jsonl", out / f"{name}.safetensors"
    resumed = resume and checkpoint.exists()
    if resumed:
        trainer.restore(load_checkpoint(checkpoint, trainer.fingerprint()))
    elif not overwrite:
        for path, todo in ((checkpoint, "--resume goes on with it, --overwrite replaces it"), (weights, REPLACE)):
            if path.exists():
                raise OutputExistsError(f"{path}: a run is there already; {todo}")
    _at_one_step(trainer, out)
    if resumed and trainer.finished and (found := _finished(weights)):
        return found
    saved = (trainer.epoch, trainer.step) if trainer.epoch or trainer.step else None
    if first:
        if resumed:
            log.info(
                "resumed after epoch %d of %d, step %d, from %s",
                trainer.epoch, trainer.recipe.epochs, trainer.step, checkpoint,
            )  # fmt: skip
        _introduce(trainer, name)
        out.mkdir(parents=True, exist_ok=True)
        if not trainer.seconds:
            for path in (checkpoint, weights):
                path.unlink(missing_ok=True)  # of the run that is replaced
        # The checkpoint holds these rows too: a kill between the two files loses none.
        write_whole(metrics_file, _lines(trainer.history))
    with _asked_to_stop(alone=trainer.where.ranks.size == 1) as stop:
        while not trainer.finished:
            try:
                row = trainer.run_epoch(progress=progress, stop=stop)
            except NotFiniteError as error:
                raise NotFiniteError(f"{error}; {_last_good(checkpoint, saved)}") from None
            if row is None:
                save_checkpoint(checkpoint, trainer.state())
                log.warning(
                    "stopped in epoch %d, after step %d of %d; saved in %s%s",
                    trainer.epoch + 1, trainer.step, trainer.steps_per_epoch, checkpoint, GO_ON,
                )  # fmt: skip
                raise KeyboardInterrupt
            if first:
                if eval_every and trainer.epoch % eval_every == 0:
                    row[f"{trainer.data.test_name}_accuracy"] = evaluate(
                        trainer.result, trainer.data.test, trainer.preprocess, workers=trainer.where.workers
                    )
                trainer.history.append(row)
                save_checkpoint(checkpoint, trainer.state())
                write_whole(metrics_file, _lines(trainer.history))
                _tell(trainer, row)
            saved = (trainer.epoch, 0)
            if stop():
                log.warning("stopped after epoch %d; saved in %s%s", trainer.epoch, checkpoint, GO_ON)
                raise KeyboardInterrupt
        metrics: dict[str, Any] = {}
        if first:
            write_whole(out / "curve.png", learning_curve(trainer.history, name))
            metrics = _measure(trainer, name, weights)  # last: measured weights say that the run is complete
        if stop():
            log.warning("stopped; the run in %s is complete", out)
            raise KeyboardInterrupt
    _together(trainer)
    return TrainResult(weights, metrics, trainer.seconds)


def _at_one_step(trainer: Trainer, out: Path) -> None:
    """Wait for the other processes. Raises: TrainingError where one of them has found another checkpoint, or none."""
    if trainer.where.ranks.size == 1:
        return
    positions: list[Any] = [None] * trainer.where.ranks.size
    dist.all_gather_object(positions, (trainer.epoch, trainer.step))
    if len(set(positions)) > 1:
        told = ", ".join(
            f"process {rank} at epoch {epoch}, step {step}" for rank, (epoch, step) in enumerate(positions)
        )
        raise TrainingError(f"{out}: the processes go on from different checkpoints ({told}); it must be one folder "
                            "that all of them see")  # fmt: skip


def _last_good(checkpoint: Path, saved: tuple[int, int] | None) -> str:
    """What is left of a run whose loss is not finite; with the same options it would come to the same end."""
    there = f"{checkpoint} is as after epoch {saved[0]}, step {saved[1]}" if saved else "no epoch was finished"
    return f"{there}. Start again with a smaller --lr and another --out, or --overwrite"


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _introduce(trainer: Trainer, name: str) -> None:
    """What runs where, and what `auto` has chosen."""
    where, ranks = trainer.where, trainer.where.ranks.size
    pixels = "in memory" if isinstance(trainer.pixels, ResidentPixels) else "streamed"
    log.info(
        "%s: %s parameters; %s%s, precision %s%s%s; %d images, %s",
        name, f"{count_parameters(trainer.model):,}", device_name(trainer.device),
        f" × {ranks}" if ranks > 1 else "", trainer.precision, " (auto)" if where.precision == "auto" else "",
        ", compiled" if where.compile else "", len(trainer.pixels), pixels,
    )  # fmt: skip
    if trainer.start:
        kept = ", ".join(trainer.start.kept_random) or "nothing"
        log.info("started from %s; not in it, and random: %s", trainer.start.name, kept)


def _tell(trainer: Trainer, row: dict[str, Any]) -> None:
    log.info(
        "epoch %d/%d  loss %.3f  accuracy %.3f  %.0f images/s, %.2f of the matrix peak  %s left",
        trainer.epoch, trainer.recipe.epochs, row["train_loss"], row["train_accuracy"],
        row["images_per_second"], row["peak_share"], _rounded(trainer.seconds_left()),
    )  # fmt: skip


def _rounded(seconds: float) -> str:
    return f"about {math.ceil(seconds / 60)} min" if seconds > 90 else f"{seconds:.0f} s"


def _measure(trainer: Trainer, name: str, weights: Path) -> dict[str, Any]:
    """Save the weights, measure what was saved, and save them again with what was measured."""
    data = trainer.data
    card = training_card(trainer, name)
    save_weights(trainer.result, card, weights)
    shipped, _ = load_weights(weights)
    shipped.to(trainer.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    accuracy = evaluate(shipped, data.test, trainer.preprocess, workers=trainer.where.workers)
    metrics = {f"{data.test_name}_accuracy": {"value": accuracy, "n": len(data.test), "seeds": 1}}
    save_weights(shipped, with_metrics(card, metrics), weights)
    return metrics


def _finished(weights: Path) -> TrainResult | None:
    """The result of a run that has come to its end: its weights are there, whole and measured."""
    try:
        card = read_card(weights)
    except WeightsError:
        return None
    return TrainResult(weights, card.metrics, float(card.training["seconds"])) if card.metrics else None


def _together(trainer: Trainer) -> None:
    """Wait for the other processes."""
    if trainer.where.ranks.size > 1:
        dist.barrier()


@contextmanager
def _asked_to_stop(*, alone: bool) -> Iterator[Callable[[], bool]]:
    """While the body runs, the first SIGINT or SIGTERM is only remembered; a second one ends the process as usual.

    Not where several processes run, which would stop at different steps: there the last epoch's checkpoint stands.
    """
    if not alone or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, frame: object) -> None:
        asked.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for number in before:
            signal.signal(number, remember)
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    """One run a seed, each in `out/seed-N`; finished ones of the same run are taken as they are. Writes `seeds.json`.

    Raises: as `train`, and ValueError for no seed or one given twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different numbers, as 0,1,2; got {','.join(map(str, seeds)) or 'none'}")
    values: list[float] = []
    metric = ""
    for seed in seeds:
        trainer = new_trainer(seed)
        folder = out / f"seed-{seed}"
        done = not overwrite and _finished(folder / f"{weights_name(trainer.config, trainer.data.name)}.safetensors")
        result = train(
            trainer, folder, resume=resume or bool(done), overwrite=overwrite, eval_every=eval_every, progress=progress
        )
        ((metric, value),) = result.metrics.items() or read_card(result.weights).metrics.items()
        values.append(value["value"])
        if trainer.where.ranks.first:
            log.info("seed %d: %s %.4f%s", seed, metric, values[-1], " (was finished)" if done else "")
    found = SeedsResult(metric, tuple(seeds), tuple(values))
    if trainer.where.ranks.first:
        write_whole(out / "seeds.json", (json.dumps(found.to_json(), indent=1) + "\n").encode())
    return found
