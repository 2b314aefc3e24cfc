"""One run: a network, its optimizer and the position in its recipe; exact to the bit from wherever it is resumed."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from l2a_transfer.devices import choose_device, ieee_float32, training_precision
from l2a_transfer.errors import NotFiniteError, TrainingError
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Network
from l2a_transfer.models.registry import build_model
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.provenance import commit
from l2a_transfer.training.average import MovingAverage
from l2a_transfer.training.checkpoint import check_position, check_tensors, short
from l2a_transfer.training.data import Pixels, TrainingData, open_pixels
from l2a_transfer.training.epochs import augmented_batches, plan_epoch, stream_seed
from l2a_transfer.training.flops import macs, matrix_peak
from l2a_transfer.training.loss_watch import LossWatch
from l2a_transfer.training.machine import machine
from l2a_transfer.training.processes import Where
from l2a_transfer.training.recipe import TrainConfig
from l2a_transfer.training.start import Start, start_from
from l2a_transfer.training.step_memory import require_step_memory
from l2a_transfer.wording import counted

__all__ = ["Trainer", "Where"]

log = logging.getLogger(__name__)
LOOK_EVERY = 50
"""Steps between two looks at the loss, for the progress bar and for a loss that is not finite; also the first and last
of an epoch."""
OF_G = ("global_branch.", "project_g.")
"""Layers that have no gradient, and so no momentum, where they are built and nothing uses them."""


class Trainer:
    """State that a checkpoint holds, and the methods that move it on.

    The position is (epoch, step in it); order, augmentation and dropout are functions of seed and position, so a
    checkpoint needs no random state. Of several `ranks` each takes its piece of every batch.

    Raises: TrainingError for a model, recipe, data or device that do not go together.
    """

    def __init__(
        self,
        config: ModelConfig,
        recipe: TrainConfig,
        data: TrainingData,
        *,
        preprocess: Preprocess | None = None,
        seed: int = 0,
        where: Where | None = None,
        init_from: str | None = None,
    ) -> None:
        where = where or Where()
        _check(config, recipe, data, where)
        self.config = dataclasses.replace(config, dropout=recipe.dropout)
        self.recipe, self.data, self.seed, self.where = recipe, data, seed, where
        self.preprocess = preprocess or Preprocess(size=recipe.size)
        self.device = choose_device(where.device, where.ranks.local)
        self.precision = training_precision(where.precision, self.device)
        self.model = build_model(self.config, seed=seed)
        self.init_from = init_from
        self.start: Start | None = start_from(self.model, init_from) if init_from is not None else None
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if where.sync_batch_norm:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # type: ignore[no-untyped-call]
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
        # Once: a fingerprint reads all pixels, or asks for the size of every file.
        self.data_sha256, self.test_sha256 = data.train.fingerprint(), data.test.fingerprint()
        self.epoch = self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.losses = torch.zeros(self.steps_per_epoch, device=self.device)
        self.correct = torch.zeros((), device=self.device)
        self._forward: Callable[[Tensor], Tensor] | None = None
        self._peak: float | None = None
        self._macs: dict[int, int] = {}

    @cached_property
    def pixels(self) -> Pixels:
        """What is trained on; opened, and decoded where it lies in memory, when it is first asked for."""
        return open_pixels(
            self.data.train, self.preprocess, self.device, place=self.where.pixels, workers=self.where.workers
        )

    @property
    def result(self) -> Network:
        """The network that the run ends with: the average where the recipe has one."""
        return self.model if self.average is None else self.average.network

    @property
    def finished(self) -> bool:
        return self.epoch >= self.recipe.epochs

    def fingerprint(self) -> dict[str, Any]:
        """Everything that changes the weights; two runs with the same one end with the same bytes on the CPU."""
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
            "processes": self.where.ranks.size,
            "sync_batch_norm": self.where.sync_batch_norm,
            "compile": self.where.compile,
            **self.machine,
        }

    @cached_property
    def machine(self) -> dict[str, str]:
        """What of the first process's machine changes the weights; machines of a group may differ."""
        if not self.where.ranks.first:
            return {}
        return machine(self.config, self.preprocess.size, self.data.train, self.device, self.precision)

    @property
    def earlier(self) -> dict[str, str]:
        """What earlier versions had in the fingerprint of this very run, where they had something else."""
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
            "seconds": self.seconds,
            "history": self.history,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Take up what `state` gave. Raises: TrainingError where no run of this recipe can have given it."""
        try:
            check_position(content, epochs=self.recipe.epochs, steps=self.steps_per_epoch)
            at = content["epoch"] * self.steps_per_epoch + content["step"]
            sums = {"losses": self.losses, "correct": self.correct}
            check_tensors("sums", {key: content[key] for key in sums}, sums)
            check_tensors("model", content["model"], self.model.state_dict())
            if self.average is not None:
                check_tensors("average", content["average"]["network"], self.average.network.state_dict())
                if content["average"]["updates"] != at:
                    raise ValueError(f"its average has {short(content['average']['updates'])} updates, {at} steps on")
            momentum = self._momentum(content["optimizer"]["state"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else error
            raise TrainingError(f"not a state of this run: {said}") from error
        self.model.load_state_dict(content["model"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        groups = self.optimizer.state_dict()["param_groups"]  # what they hold is the recipe's
        self.optimizer.load_state_dict({"state": momentum, "param_groups": groups})
        self.losses.copy_(content["losses"])
        self.correct.copy_(content["correct"])
        self.epoch, self.step, self.seconds = content["epoch"], content["step"], float(content["seconds"])
        self.history = list(content["history"])

    def _momentum(self, state: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
        """The optimizer's state in memory of its own. Raises: as `check_tensors`, TypeError and LookupError."""
        names = [name for name, _ in self.model.named_parameters()] if self.recipe.momentum else []
        own = {
            k: parameter
            for k, (name, parameter) in enumerate(zip(names, self.model.parameters(), strict=False))
            if k in state or not name.startswith(OF_G)
        }
        buffers = {k: each["momentum_buffer"] for k, each in state.items()}
        check_tensors("momentum", buffers, own)
        return {k: {"momentum_buffer": torch.empty_like(own[k]).copy_(value)} for k, value in buffers.items()}

    def run_epoch(self, *, progress: bool = True, stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
        """Train to the end of the epoch; returns its loss, accuracy on the augmented images, rate and speed.

        Where `stop` says so between two steps, returns None: the position is then inside the epoch, and the next
        call goes on from there. Nothing waits for a GPU but the progress bar, once in LOOK_EVERY steps, for a loss
        that is long there. Raises: NotFiniteError where the loss, or a weight at the end, is not finite;
        MemoryLimitError where a step takes more of a CPU's memory than this process may take.
        """
        recipe, ranks = self.recipe, self.where.ranks
        size, first = recipe.resolution(self.epoch), self.step
        if self._forward is None:
            self._require_memory()
            self._forward = self._wrapped()
        forward = self._forward
        plan = plan_epoch(len(self.data.train), recipe, seed=self.seed, epoch=self.epoch)
        batches = augmented_batches(
            self.pixels,
            plan.part(first, ranks.rank, ranks.size),
            recipe,
            self.preprocess,
            size=size,
            device=self.device,
        )
        if first == 0:
            self.losses.zero_()
            self.correct.zero_()
        self.model.train()
        watch = LossWatch(self.losses)
        peak = self._peak_share(size) if progress else None
        bar = tqdm(
            total=self.steps_per_epoch * recipe.batch_size,
            initial=first * recipe.batch_size,
            unit="img",
            desc=f"epoch {self.epoch + 1}/{recipe.epochs} at {size} px",
            disable=None if progress and ranks.first else True,
            mininterval=1.0,
        )
        started = time.perf_counter()
        # Dropout draws from the global generators: seeded for each step, and given back as they were found.
        devices = [self.device] if self.device.type == "cuda" else []
        with bar, self._arithmetic(), torch.random.fork_rng(devices=devices):
            for images, labels in batches:
                self._train_step(forward, images, labels)
                bar.update(recipe.batch_size)
                looks = self.step in (1, self.steps_per_epoch) or self.step % LOOK_EVERY == 0
                if looks and len(seen := watch.look(self.step)):
                    self._check_finite(seen)
                    speed = (self.step - first) * recipe.batch_size / (time.perf_counter() - started)
                    share = f"{peak(speed):.2f} of peak" if peak else ""
                    bar.set_postfix_str(f"loss {seen[-LOOK_EVERY:].mean().item():.3f}, {share}")
                if self.step < self.steps_per_epoch and stop():
                    self._check_state()
                    self.seconds += time.perf_counter() - started
                    return None
            self._check_state()
        return self._end_epoch(size, first, time.perf_counter() - started)

    def _train_step(self, forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> None:
        at = self.epoch * self.steps_per_epoch + self.step
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate(at, self.steps)
        if self.recipe.dropout:
            torch.manual_seed(stream_seed("dropout", self.seed, at, self.where.ranks.rank))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = forward(images)
        loss = self._loss(logits.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)
        self.losses[self.step] = loss.detach()
        self.correct += (logits.detach().argmax(1) == labels).sum()
        self.step += 1

    def _end_epoch(self, size: int, first: int, seconds: float) -> dict[str, Any]:
        losses, correct, ranks = self.losses.mean(), self.correct, self.where.ranks
        if ranks.size > 1:
            dist.all_reduce(losses)
            dist.all_reduce(correct)
            losses /= ranks.size
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
            "images_per_second": speed,
            "peak_share": self._peak_share(size)(speed),
            "seconds": self.seconds,
        }

    def seconds_left(self) -> float:
        """How long the remaining epochs will take, if each multiplication takes as long as those before did."""
        done, left = (
            sum(self._macs_at(self.recipe.resolution(epoch)) for epoch in epochs)
            for epochs in (range(self.epoch), range(self.epoch, self.recipe.epochs))
        )
        return self.seconds * left / done if done else math.nan

    def _macs_at(self, size: int) -> int:
        if size not in self._macs:
            self._macs[size] = macs(self.config, size)
        return self._macs[size]

    def _peak_share(self, size: int) -> Callable[[float], float]:
        """Images a second of all processes → the fraction of the devices' matrix peak: 6 operations a MAC."""
        if self._peak is None:
            with self._arithmetic():
                self._peak = matrix_peak(self.device, self.precision)
        whole = self._peak * self.where.ranks.size / (6 * self._macs_at(size))
        return lambda images_per_second: images_per_second / whole

    def _require_memory(self) -> None:
        """Of a GPU, PyTorch says itself what is lacking; torch.compile decides by itself what is kept."""
        if self.device.type == "cpu" and not self.where.compile:
            images = self.recipe.batch_size // self.where.ranks.size
            require_step_memory(self.config, images=images, size=self.recipe.size, precision=self.precision)

    def _arithmetic(self) -> AbstractContextManager[None]:
        """float32 is float32: no TF32 on a GPU."""
        return ieee_float32() if self.precision == "fp32" else nullcontext()

    def _wrapped(self) -> Callable[[Tensor], Tensor]:
        """The network as it is called: compiled, and with the processes' gradients averaged."""
        model: Any = self.model
        if self.where.ranks.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            # The mean asks for no g, so a branch that is built all the same gets no gradient.
            unused = self.config.builds_global_branch and self.config.spec.compatibility == "uniform"
            model = nn.parallel.DistributedDataParallel(model, device_ids=ids, find_unused_parameters=unused)
        # dynamic=False: a recipe has few image sizes, and code for each is faster than code for any.
        return torch.compile(model, dynamic=False) if self.where.compile else model

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        # The logits of an indep head are log-probabilities already; a second log_softmax leaves them as they are.
        return F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)

    def _check_finite(self, losses: Tensor) -> None:
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            raise self._not_finite("the loss is not finite at", int(bad[0]))

    def _check_state(self) -> None:
        """What is saved now must be good: the losses so far, and what the last of them has made of the weights."""
        self._check_finite(self.losses)
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


def _check(config: ModelConfig, recipe: TrainConfig, data: TrainingData, where: Where) -> None:
    """What can be said before anything is built or read. Raises: TrainingError."""
    ranks = where.ranks.size
    if config.num_classes != len(data.classes):
        raise TrainingError(
            f"the model has {counted(config.num_classes, 'class', 'classes')}, {data.name} has {len(data.classes)}"
        )
    if recipe.batch_size > len(data.train):
        raise TrainingError(
            f"batch_size {recipe.batch_size} is larger than the {counted(len(data.train), 'training image')}",
            "take a smaller `batch_size`",
        )
    smallest = min(size for _, size in recipe.resolutions)
    if smallest < config.min_size:
        raise TrainingError(f"{config.architecture} needs {config.min_size} pixels, the recipe has {smallest}")
    if recipe.batch_size % ranks or recipe.batch_size < 2 * ranks:
        raise TrainingError(
            f"batch_size {recipe.batch_size} cannot be shared by {ranks} processes: each needs the same number of "
            "images, at least 2"
        )
    if where.sync_batch_norm and choose_device(where.device).type != "cuda":
        raise TrainingError("synchronised batch norm works between GPUs only", "leave `sync_batch_norm` out")
