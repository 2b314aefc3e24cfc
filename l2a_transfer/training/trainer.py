"""The training loop: device-resident data, one-cycle SGD, a checkpoint an epoch, exact resume."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from l2a_transfer.data.augment import random_flip, random_reflect_crop, resize
from l2a_transfer.errors import OutputExistsError, TrainingError, unknown_name
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.vgg import Network, build_model
from l2a_transfer.models.weights import Card, count_parameters, load_weights, save_weights, with_metrics
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.training.checkpoint import load_checkpoint, save_checkpoint
from l2a_transfer.training.recipe import TrainConfig

log = logging.getLogger(__name__)
PRECISIONS = ("auto", "fp32", "bf16")
HOLDOUT_SEED = 20180217
REPLACE = "--overwrite replaces it, or choose another --out"


@dataclass(frozen=True)
class TrainingData:
    """Images uint8 (N, 3, H, W) and labels (N,) to fit on, and others to measure on, never to choose on."""

    name: str
    classes: tuple[str, ...]
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int32]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int32]
    test_name: str = "test"

    def __post_init__(self) -> None:
        unseen = sorted(set(self.test_labels.tolist()) - set(self.train_labels.tolist()))
        if unseen:
            names = ", ".join(self.classes[i] for i in unseen[:5])
            raise TrainingError(f"{self.name}: classes in {self.test_name} that training has no image of: {names}")

    def holdout(self, n: int) -> TrainingData:
        """The training images split into N − n and n, the same way every time; the test images are out of reach.

        Recipe choices are made on this split. Raises: TrainingError where n leaves nothing on one side.
        """
        if not 0 < n < len(self.train_labels):
            raise TrainingError(f"holdout must be between 1 and {len(self.train_labels) - 1} images, got {n}")
        order = np.random.default_rng(HOLDOUT_SEED).permutation(len(self.train_labels))
        fit, held = np.sort(order[n:]), np.sort(order[:n])
        return dataclasses.replace(
            self,
            train_images=self.train_images[fit],
            train_labels=self.train_labels[fit],
            test_images=self.train_images[held],
            test_labels=self.train_labels[held],
            test_name=f"holdout-{n}",
        )

    def fingerprint(self) -> str:
        """SHA-256 over the training images and labels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.train_images).tobytes())
        digest.update(np.ascontiguousarray(self.train_labels).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class TrainResult:
    """Where the weights are and what they reach; `metrics` as in the card."""

    weights: Path
    metrics: dict[str, Any]
    seconds: float


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises: TrainingError for a device that is not there."""
    if name not in ("auto", "cpu", "cuda"):
        raise unknown_name("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device 'cuda' was asked for and PyTorch sees no CUDA GPU; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 where the device multiplies it faster than float32: CUDA GPUs that have it and CPUs with AMX.

    AVX512-BF16 alone does not count: without AMX the same step ran at 104 images a second in bf16 and at 160 in
    float32 (two Sapphire Rapids cores with AMX masked, width 0.25, batch 128).
    """
    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def epoch_batches(
    images: Tensor, labels: Tensor, recipe: TrainConfig, preprocess: Preprocess, *, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of augmented, normalised batches; a function of (seed, epoch) alone. The odd rest is left out.

    images uint8 (N, 3, H, W) → batches float32 (B, 3, size, size) in channels_last, labels (B,).
    """
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = torch.randperm(len(images), generator=generator).to(images.device)
    mean = torch.tensor(preprocess.mean, device=images.device)[:, None, None]
    std = torch.tensor(preprocess.std, device=images.device)[:, None, None]
    size = recipe.resolution(epoch)
    for start in range(0, len(order) - recipe.batch_size + 1, recipe.batch_size):
        rows = order[start : start + recipe.batch_size]
        batch = random_reflect_crop(images[rows], recipe.crop_pad, generator)
        if recipe.flip:
            batch = random_flip(batch, generator)
        batch = (resize(batch.float() / 255, size) - mean) / std  # (B, 3, size, size)
        yield batch.contiguous(memory_format=torch.channels_last), labels[rows]


@torch.inference_mode()
def evaluate(
    model: Network,
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    preprocess: Preprocess,
    *,
    batch_size: int = 250,
) -> float:
    """Accuracy between 0 and 1 in float32, on the device where the model is, in evaluation mode."""
    device = next(model.parameters()).device
    mean = torch.tensor(preprocess.mean, device=device)[:, None, None]
    std = torch.tensor(preprocess.std, device=device)[:, None, None]
    was_training, correct = model.training, 0
    model.eval()
    try:
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(images[start : start + batch_size]).to(device).float() / 255
            batch = ((batch - mean) / std).contiguous(memory_format=torch.channels_last)
            truth = torch.from_numpy(labels[start : start + batch_size]).to(device)
            correct += int((model(batch).argmax(1) == truth).sum())
    finally:
        model.train(was_training)
    return correct / len(images)


class Trainer:
    """One run: state that a checkpoint holds, and the methods that move it on by an epoch."""

    def __init__(
        self,
        config: ModelConfig,
        recipe: TrainConfig,
        data: TrainingData,
        *,
        preprocess: Preprocess | None = None,
        seed: int = 0,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        if config.num_classes != len(data.classes):
            raise TrainingError(f"the model has {config.num_classes} classes, {data.name} has {len(data.classes)}")
        if recipe.batch_size > len(data.train_labels):
            raise TrainingError(
                f"batch_size {recipe.batch_size} is larger than the {len(data.train_labels)} training images"
            )
        smallest = min(size for _, size in recipe.resolutions)
        if smallest < config.min_size:
            raise TrainingError(f"{config.architecture} needs {config.min_size} pixels, the recipe has {smallest}")
        self.config = dataclasses.replace(config, dropout=recipe.dropout)
        self.recipe, self.data, self.seed = recipe, data, seed
        self.preprocess = preprocess or Preprocess(size=recipe.resolutions[-1][1])
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.model = build_model(self.config, seed=seed).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.images = torch.from_numpy(data.train_images).to(self.device)
        self.labels = torch.from_numpy(data.train_labels.astype(np.int64)).to(self.device)
        self.steps_per_epoch = len(self.images) // recipe.batch_size
        self.commit = commit()
        self.epoch = 0
        self.seconds = 0.0

    def fingerprint(self) -> dict[str, Any]:
        """Everything that changes the weights; two runs with the same one end with the same bytes on the CPU."""
        return {
            "model": json.dumps(self.config.to_json(), sort_keys=True),
            "recipe": json.dumps(self.recipe.to_json(), sort_keys=True),
            "preprocess": json.dumps(self.preprocess.to_json(), sort_keys=True),
            "data": self.data.fingerprint(),
            "seed": self.seed,
            "device": self.device.type,
            "precision": self.precision,
            "threads": torch.get_num_threads() if self.device.type == "cpu" else 0,
        }

    def state(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "seconds": self.seconds,
        }

    def restore(self, content: dict[str, Any]) -> None:
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.epoch, self.seconds = content["epoch"], content["seconds"]

    def run_epoch(self, *, progress: bool = True) -> dict[str, float]:
        """Train one epoch; returns its mean loss, accuracy on the augmented images, rate and speed.

        Raises: TrainingError where the loss is not finite, naming the step and the rate.
        """
        recipe, total = self.recipe, self.recipe.epochs * self.steps_per_epoch
        losses = torch.zeros(self.steps_per_epoch, device=self.device)
        correct = torch.zeros((), device=self.device)
        started = time.perf_counter()
        self.model.train()
        batches = epoch_batches(self.images, self.labels, recipe, self.preprocess, seed=self.seed, epoch=self.epoch)
        bar = tqdm(
            total=self.steps_per_epoch * recipe.batch_size,
            unit="img",
            desc=f"epoch {self.epoch + 1}/{recipe.epochs} at {recipe.resolution(self.epoch)} px",
            disable=None if progress else True,
            mininterval=1.0,
        )
        # Dropout draws from the global generator: seeded for this epoch here, and given back as it was found.
        with bar, torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.seed * 100_003 + self.epoch)
            for i, (images, labels) in enumerate(batches):
                step = self.epoch * self.steps_per_epoch + i
                for group in self.optimizer.param_groups:
                    group["lr"] = recipe.learning_rate(step, total)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    logits = self.model(images)
                loss = self._loss(logits.float(), labels)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                losses[i] = loss.detach()
                correct += (logits.detach().argmax(1) == labels).sum()
                bar.update(recipe.batch_size)
                # Reading the loss waits for the device, so it happens once in a hundred steps.
                if i % 100 == 99 or i == self.steps_per_epoch - 1:
                    self._check_finite(losses[: i + 1], first=self.epoch * self.steps_per_epoch, total=total)
                    bar.set_postfix(loss=f"{losses[max(0, i - 99) : i + 1].mean().item():.3f}")
        seconds = time.perf_counter() - started
        self.epoch += 1
        self.seconds += seconds
        n = self.steps_per_epoch * recipe.batch_size
        return {
            "epoch": self.epoch,
            "resolution": recipe.resolution(self.epoch - 1),
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": losses.mean().item(),
            "train_accuracy": correct.item() / n,
            "images_per_second": n / seconds,
            "seconds": self.seconds,
        }

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        # The logits of an indep head are log-probabilities already; a second log_softmax leaves them as they are.
        return F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)

    def _check_finite(self, losses: Tensor, *, first: int, total: int) -> None:
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            step = first + int(bad[0])
            raise TrainingError(
                f"the loss is not finite at step {step} of {total} (epoch {step // self.steps_per_epoch + 1}), at rate "
                f"{self.recipe.learning_rate(step, total):.4g}; the last good checkpoint is that of epoch "
                f"{self.epoch}. Try a smaller --lr"
            )

    def card(self, name: str) -> Card:
        return Card(
            name=name,
            config=self.config,
            preprocess=self.preprocess,
            classes=self.data.classes,
            parameters=count_parameters(self.model),
            training={
                "data": self.data.name,
                "split": "train" if self.data.test_name == "test" else f"train without {self.data.test_name}",
                "n": len(self.data.train_labels),
                "data_sha256": self.data.fingerprint(),
                "recipe": self.recipe.to_json(),
                "seed": self.seed,
                "device": device_name(self.device),
                "precision": self.precision,
                "seconds": round(self.seconds, 1),
                "versions": {"python": platform.python_version(), "torch": torch.__version__},
                "commit": self.commit,
            },
        )


def device_name(device: torch.device) -> str:
    """What ran it, in words: the GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


def commit() -> str | None:
    """The git commit of the running code, None outside a checkout."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def weights_name(config: ModelConfig, data: str) -> str:
    """`ARCH.TAG` as `--model` takes it: vgg-att2-concat-pc.cifar10-w025."""
    return f"{config.architecture}.{data}-w{round(config.width * 100):03d}"


def train(
    trainer: Trainer, out: Path, *, resume: bool = False, overwrite: bool = False, progress: bool = True
) -> TrainResult:
    """Run `trainer` to its last epoch, writing `checkpoint.pt`, `metrics.jsonl` and `NAME.safetensors` into `out`.

    Fitted on the training images; measured once, at the end, on the test images, with the float16 numbers that
    ship, in float32 arithmetic. Raises: OutputExistsError where `out` holds another run and neither `resume` nor
    `overwrite` is given; TrainingError where the loss is not finite or the checkpoint is another run's.
    """
    name = weights_name(trainer.config, trainer.data.name)
    checkpoint, metrics_file, weights = out / "checkpoint.pt", out / "metrics.jsonl", out / f"{name}.safetensors"
    if checkpoint.exists() and resume:
        trainer.restore(load_checkpoint(checkpoint, trainer.fingerprint()))
        log.info("resumed after epoch %d of %d from %s", trainer.epoch, trainer.recipe.epochs, checkpoint)
    elif not overwrite:
        for path, todo in ((checkpoint, "--resume goes on with it, --overwrite replaces it"), (weights, REPLACE)):
            if path.exists():
                raise OutputExistsError(f"{path}: a run is there already; {todo}")
    out.mkdir(parents=True, exist_ok=True)
    history = _history(metrics_file, trainer.epoch)
    metrics_file.write_text("".join(json.dumps(row) + "\n" for row in history))
    while trainer.epoch < trainer.recipe.epochs:
        row = trainer.run_epoch(progress=progress)
        save_checkpoint(checkpoint, trainer.state())
        with open(metrics_file, "a") as file:
            file.write(json.dumps(row) + "\n")
        left = (trainer.recipe.epochs - trainer.epoch) * trainer.seconds / trainer.epoch
        log.info(
            "epoch %d/%d  loss %.3f  accuracy %.3f  %.0f images/s  about %.0f min left",
            trainer.epoch, trainer.recipe.epochs, row["train_loss"], row["train_accuracy"],
            row["images_per_second"], math.ceil(left / 60),
        )  # fmt: skip
    card = trainer.card(name)
    save_weights(trainer.model, card, weights)
    shipped, _ = load_weights(weights)
    shipped.to(trainer.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = trainer.data
    accuracy = evaluate(shipped, data.test_images, data.test_labels, trainer.preprocess)
    metrics = {f"{data.test_name}_accuracy": {"value": accuracy, "n": len(data.test_labels), "seeds": 1}}
    save_weights(shipped, with_metrics(card, metrics), weights)
    return TrainResult(weights, metrics, trainer.seconds)


def _history(path: Path, epochs: int) -> list[dict[str, Any]]:
    """The rows of the epochs that the checkpoint holds; a kill can leave one row more, or half a row."""
    rows: list[dict[str, Any]] = []
    if epochs and path.exists():
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and 0 < row.get("epoch", 0) <= epochs:
                rows.append(row)
    return rows
