"""One run: a network, its optimizer and the position in its recipe. A resumed run gives bitwise the same result."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from l2a_transfer.compiling import compiled
from l2a_transfer.devices import choose_device, training_precision
from l2a_transfer.errors import NotFiniteError, TrainingError
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Network
from l2a_transfer.models.registry import build_model
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.provenance import commit
from l2a_transfer.training.arithmetic import machine
from l2a_transfer.training.average import MovingAverage
from l2a_transfer.training.checkpoint import (
    check_metrics,
    check_momentum,
    check_position,
    check_tensors,
    short,
    upgraded_history,
)
from l2a_transfer.training.data import Pixels, TrainingData
from l2a_transfer.training.epochs import augmented_batches, plan_for, stream_seed
from l2a_transfer.training.flops import arithmetic
from l2a_transfer.training.initialization import Start, begin
from l2a_transfer.training.loss_monitor import LossMonitor
from l2a_transfer.training.pace import Pace
from l2a_transfer.training.processes import Placement
from l2a_transfer.training.recipe import TrainConfig
from l2a_transfer.training.requirements import check_run, objective_of
from l2a_transfer.training.step import TrainingStep
from l2a_transfer.training.step_memory import require_step_memory

log = logging.getLogger(__name__)
LOOK_EVERY = 50
"""Number of steps between checks of the loss, for the progress bar and for values that are not finite. The first and
last step of an epoch are checked too."""
Compute = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, dict[str, Tensor]]]
"""Images, labels and progress → loss, logits and metrics."""


class Trainer:
    """The state in a checkpoint, and the methods that advance it.

    The position is (epoch, step within it). Order, augmentation and dropout depend only on seed and position, so a
    checkpoint needs no random state. With several processes, each processes its part of every batch.

    Raises: TrainingError if model, recipe, data and device do not suit each other.
    """

    def __init__(
        self,
        config: ModelConfig,
        recipe: TrainConfig,
        data: TrainingData,
        *,
        preprocess: Preprocess | None = None,
        seed: int = 0,
        placement: Placement | None = None,
        init_from: str | None = None,
    ) -> None:
        placement = placement or Placement()
        check_run(config, recipe, data, placement)
        self.config = dataclasses.replace(config, dropout=recipe.dropout)
        self.recipe, self.data, self.seed, self.placement = recipe, data, seed, placement
        self.preprocess = preprocess or Preprocess(size=recipe.size)
        self.device = choose_device(placement.device, placement.process.local)
        self.precision = training_precision(placement.precision, self.device)
        self.model = build_model(self.config, seed=seed)
        self.objective = objective_of(self.config, recipe)
        self.init_from = init_from
        self.start: Start | None = begin(self.model, init_from, freeze=recipe.freeze)
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if placement.sync_batch_norm:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # type: ignore[no-untyped-call]
        self.pace = Pace(self.config, self.device, self.precision, placement.process.size)
        self.steps_per_epoch = len(data.train) // recipe.batch_size
        self.steps = self.steps_per_epoch * recipe.epochs
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.average: MovingAverage | None = None
        if recipe.average:
            self.average = MovingAverage(self.model, math.exp(-1 / max(1.0, recipe.average * self.steps)))
        self.commit = commit()
        # Compute it once: a fingerprint reads all pixels, or the size of every file.
        self.data_sha256, self.test_sha256 = data.train.fingerprint(), data.test.fingerprint()
        self.epoch = self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.losses = torch.zeros(self.steps_per_epoch, device=self.device)
        self.correct = torch.zeros((), device=self.device)
        self.metrics: dict[str, Tensor] = {}
        self._step: Compute | None = None
        self._generator = torch.Generator(self.device)

    @cached_property
    def pixels(self) -> Pixels:
        """The training pictures, opened at first use; they are decoded then if they are kept in memory."""
        return self.data.train_pixels(self.preprocess, self.device, self.placement)

    @property
    def result(self) -> Network:
        """The network that the run produces: the average if the recipe has one."""
        return self.model if self.average is None else self.average.network

    @property
    def finished(self) -> bool:
        return self.epoch >= self.recipe.epochs

    def fingerprint(self) -> dict[str, Any]:
        """Everything that affects the weights. Runs with the same fingerprint give the same bytes on a CPU."""
        return {
            "model": json.dumps(self.config.to_json(), sort_keys=True),
            "recipe": json.dumps(self.recipe.to_json(), sort_keys=True),
            "preprocess": json.dumps(self.preprocess.to_json(), sort_keys=True),
            "data": self.data_sha256,
            "test": self.test_sha256,
            "seed": self.seed,
            "init_from": self.start.sha256 if self.start else "",
            "device": self.device.type,
            "precision": self.precision,
            "threads": torch.get_num_threads() if self.device.type == "cpu" else 0,
            "processes": self.placement.process.size,
            "sync_batch_norm": self.placement.sync_batch_norm,
            "compile": self.placement.compile,
            **self.machine,
        }

    @cached_property
    def machine(self) -> dict[str, str]:
        """Properties of the first process's machine that affect the weights. Machines of a group may differ."""
        if not self.placement.process.is_main:
            return {}
        return machine(self.config, self.preprocess.size, self.data.train, self.device, self.precision)

    @property
    def earlier(self) -> dict[str, str]:
        """Values that earlier versions had in the fingerprint of this run, if they differ."""
        return {"init_from": self.start.earlier_sha256} if self.start else {}

    def state(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint(),
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "losses": self.losses,
            "correct": self.correct,
            "metrics": self.metrics,
            "seconds": self.seconds,
            "history": self.history,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Restore the result of `state`. Raises: TrainingError if no run of this recipe can have produced it."""
        try:
            content = {**content, "history": upgraded_history(content["history"])}
            check_position(content, epochs=self.recipe.epochs, steps=self.steps_per_epoch)
            at = content["epoch"] * self.steps_per_epoch + content["step"]
            sums = {"losses": self.losses, "correct": self.correct}
            check_tensors("sums", {key: content[key] for key in sums}, sums)
            metrics = content.get("metrics", {})  # those of an objective; earlier versions had none
            check_metrics(metrics)
            check_tensors("model", content["model"], self.model.state_dict())
            if self.average is not None:
                check_tensors("average", content["average"]["network"], self.average.network.state_dict())
                if content["average"]["updates"] != at:
                    raise ValueError(f"its average has {short(content['average']['updates'])} updates, {at} steps on")
            momentum = check_momentum(content["optimizer"]["state"], self.model if self.recipe.momentum else None)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else error
            raise TrainingError(f"not a state of this run: {said}") from error
        self.model.load_state_dict(content["model"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        groups = self.optimizer.state_dict()["param_groups"]  # their values come from the recipe
        self.optimizer.load_state_dict({"state": momentum, "param_groups": groups})
        self.losses.copy_(content["losses"])
        self.correct.copy_(content["correct"])
        self.metrics = {name: value.to(self.device) for name, value in metrics.items()}
        self.epoch, self.step, self.seconds = content["epoch"], content["step"], float(content["seconds"])
        self.history = list(content["history"])

    def run_epoch(self, *, progress: bool = True, stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
        """Train to the end of the epoch; returns its loss, accuracy on augmented images, rate and speed.

        If `stop` returns True between two steps, the result is None; the position is then inside the epoch, and the
        next call continues from there. Reading the loss every LOOK_EVERY steps does not make the host wait for a GPU.
        Raises: NotFiniteError if the loss, or a weight at the end, is not finite; MemoryLimitError if a step on a CPU
        needs more memory than this process may use.
        """
        recipe, process = self.recipe, self.placement.process
        size, first = recipe.resolution(self.epoch), self.step
        if self._step is None:
            # On a GPU, PyTorch reports missing memory itself. With torch.compile, we cannot know what is kept.
            if self.device.type == "cpu" and not self.placement.compile:
                each = recipe.batch_size // self.placement.process.size
                require_step_memory(self.config, recipe, images=each, precision=self.precision)
            self._step = self._wrapped()
        compute = self._step
        plan = plan_for(self.config, self.data.train, recipe, seed=self.seed, epoch=self.epoch)
        plan = plan.part(first, process.rank, process.size)
        batches = augmented_batches(self.pixels, plan, recipe, self.preprocess, size=size, device=self.device)
        if first == 0:
            self.losses.zero_()
            self.correct.zero_()
            self.metrics = {}
        self.model.train()
        watch = LossMonitor(self.losses)
        mfu = self.pace.mfu(size) if progress else None
        bar = tqdm(
            total=self.steps_per_epoch * recipe.batch_size,
            initial=first * recipe.batch_size,
            unit="img",
            desc=f"epoch {self.epoch + 1}/{recipe.epochs} at {size} px",
            disable=None if progress and self.placement.process.is_main else True,
            mininterval=1.0,
        )
        started = time.perf_counter()
        # Dropout draws from the global generators. They are seeded for each step, and restored afterwards.
        devices = [self.device] if self.device.type == "cuda" else []
        with bar, arithmetic(self.precision), torch.random.fork_rng(devices=devices):
            for images, labels in batches:
                self._train_step(compute, images, labels)
                bar.update(recipe.batch_size)
                looks = self.step in (1, self.steps_per_epoch) or self.step % LOOK_EVERY == 0
                if looks and len(seen := watch.read(self.step)):
                    self._check_finite(seen)
                    speed = (self.step - first) * recipe.batch_size / (time.perf_counter() - started)
                    share = f", mfu {mfu(speed):.2f}" if mfu else ""
                    bar.set_postfix_str(f"train_loss {seen[-LOOK_EVERY:].mean().item():.3f}{share}")
                if self.step < self.steps_per_epoch and stop():
                    self._check_state()
                    self.seconds += time.perf_counter() - started
                    return None
            self._check_state()
        return self._end_epoch(size, first, time.perf_counter() - started)

    def _train_step(self, compute: Compute, images: Tensor, labels: Tensor) -> None:
        at = self.epoch * self.steps_per_epoch + self.step
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate(at, self.steps)
        if self.recipe.dropout:
            torch.manual_seed(stream_seed("dropout", self.seed, at, self.placement.process.rank))
        self._generator.manual_seed(stream_seed("sample", self.seed, at, self.placement.process.rank))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss, logits, metrics = compute(images, labels, torch.tensor(at / self.steps))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)
        self.losses[self.step] = loss.detach()
        self.correct += (logits.detach().argmax(1) == labels).sum()
        for name, value in metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value.detach().double()
        self.step += 1

    def _end_epoch(self, size: int, first: int, seconds: float) -> dict[str, Any]:
        losses, correct, ranks = self.losses.mean(), self.correct, self.placement.process
        metrics = {name: value / self.steps_per_epoch for name, value in sorted(self.metrics.items())}
        if ranks.size > 1:
            for value in (losses, correct, *metrics.values()):
                dist.all_reduce(value)
            losses /= ranks.size
            metrics = {name: value / ranks.size for name, value in metrics.items()}
        n = self.steps_per_epoch * self.recipe.batch_size
        speed = (self.steps_per_epoch - first) * self.recipe.batch_size / seconds
        self.epoch, self.step = self.epoch + 1, 0
        self.seconds += seconds
        return {
            "epoch": self.epoch,
            "resolution": size,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": losses.item(),
            "train_accuracy": correct.item() / n,
            **{f"train_{name}": value.item() for name, value in metrics.items()},
            "images_per_second": speed,
            "mfu": self.pace.mfu(size)(speed),
            "seconds": self.seconds,
        }

    def seconds_left(self) -> float:
        """Estimated seconds for the remaining epochs; NaN before the first has ended."""
        return self.pace.seconds_left(self.recipe, epoch=self.epoch, seconds=self.seconds)

    def _wrapped(self) -> Compute:
        """The step, compiled if requested, and with gradients averaged over processes."""
        if self.placement.process.size == 1:
            # Only the network is compiled, so that an objective's sampling does not change.
            return TrainingStep(self._compiled(self.model), self.objective, self._generator)
        step = TrainingStep(self.model, self.objective, self._generator)
        ids = [self.device.index] if self.device.type == "cuda" else None
        unused = self.config.family.has_unused_parameters(self.config)
        together = nn.parallel.DistributedDataParallel(step, device_ids=ids, find_unused_parameters=unused)
        wrapped: Compute = self._compiled(together)
        return wrapped

    def _compiled(self, module: nn.Module) -> Any:
        """`module`, compiled with torch.compile if the run requests it."""
        # A recipe has few image sizes, and specialised code for each is faster than generic code.
        return compiled(module, self.device.type) if self.placement.compile else module

    def _check_finite(self, losses: Tensor) -> None:
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            raise self._not_finite("the loss is not finite at", int(bad[0]))

    def _check_state(self) -> None:
        """Check before saving that the losses, the metrics, the weights and the momentum are finite."""
        self._check_finite(self.losses)
        for name, value in self.metrics.items():
            if not torch.isfinite(value):
                raise self._not_finite(f"the metric {name!r} is not finite after", self.step - 1)
        momentum = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [*self.model.state_dict().values(), *self.result.state_dict().values(), *momentum]
        floating = [value for value in tensors if isinstance(value, Tensor) and value.is_floating_point()]
        if not torch.isfinite(nn.utils.get_total_norm(floating)):
            raise self._not_finite("the weights are not finite after", self.step - 1)

    def _not_finite(self, what: str, step: int) -> NotFiniteError:
        at = self.epoch * self.steps_per_epoch + step
        rate = self.recipe.learning_rate(at, self.steps)
        return NotFiniteError(
            f"{what} step {at} of {self.steps} (epoch {self.epoch + 1}), at a learning rate of {rate:.4g}"
        )
