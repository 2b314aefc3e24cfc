"""The order and augmentation of one epoch. They depend only on (seed, epoch) and are drawn before it begins."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from l2a_transfer.data.augment import cutout, flip, reflect_crop, resize
from l2a_transfer.data.sources import ImageSource
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.preprocess import Preprocess, normalize
from l2a_transfer.training.data import Pixels
from l2a_transfer.training.groups import grouped_order
from l2a_transfer.training.recipe import TrainConfig


def stream_seed(purpose: str, *numbers: int) -> int:
    """A 63-bit seed for each combination of purpose and numbers, so that the random streams are independent."""
    digest = hashlib.sha256(repr((purpose, *numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@dataclass(frozen=True)
class EpochPlan:
    """The rows (steps, B) of an epoch with `steps` batches of B images, and the augmentation of each image.

    shifts and centres (steps, B, 2) in pixels, mirrored (steps, B). Images of an incomplete last batch are left out.
    """

    rows: NDArray[np.int64]
    shifts: Tensor
    mirrored: Tensor
    centres: Tensor

    def part(self, start: int, rank: int, processes: int) -> EpochPlan:
        """The steps from `start` on, with the part of each batch that belongs to process `rank`."""
        B = self.rows.shape[1] // processes
        own = slice(rank * B, (rank + 1) * B)
        return EpochPlan(
            *(values[start:, own] for values in (self.rows, self.shifts, self.mirrored, self.centres))  # type: ignore[arg-type]
        )


def plan_epoch(
    n: int, recipe: TrainConfig, *, seed: int, epoch: int, labels: NDArray[np.int32] | None = None, group: int = 1
) -> EpochPlan:
    """The plan of epoch `epoch`, counted from 0, over `n` images; with `labels`, in groups of one class."""
    generator = torch.Generator().manual_seed(stream_seed("epoch", seed, epoch))
    B = recipe.batch_size
    steps = n // B
    if labels is None or group == 1:
        order = torch.randperm(n, generator=generator)
    else:
        order = grouped_order(labels, group, generator)
    rows = order[: steps * B].view(steps, B)
    pad = recipe.crop_pad
    return EpochPlan(
        rows.numpy(),
        torch.randint(-pad, pad + 1, (steps, B, 2), generator=generator),
        torch.rand(steps, B, generator=generator) < 0.5,
        torch.randint(0, recipe.size, (steps, B, 2), generator=generator),
    )


def plan_for(config: ModelConfig, source: ImageSource, recipe: TrainConfig, *, seed: int, epoch: int) -> EpochPlan:
    """The plan of an epoch over a source. For a network with partners, batches are groups of one class."""
    group = 1 + config.partners
    return plan_epoch(len(source), recipe, seed=seed, epoch=epoch, labels=source.labels, group=group)


def augmented_batches(
    pixels: Pixels, plan: EpochPlan, recipe: TrainConfig, preprocess: Preprocess, *, size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of an epoch: images float32 (B, 3, size, size), normalised, in channels_last, and labels (B,)."""
    mean, std = preprocess.statistics(device)
    fill = (torch.tensor(preprocess.mean) * 255).round().to(device)
    shifts, mirrored, centres = (values.to(device) for values in (plan.shifts, plan.mirrored, plan.centres))
    for step, (batch, labels) in enumerate(pixels.batches(list(plan.rows))):
        if recipe.crop_pad:
            batch = reflect_crop(batch, shifts[step])
        if recipe.flip:
            batch = flip(batch, mirrored[step])
        if recipe.cutout:
            batch = cutout(batch, centres[step], recipe.cutout, fill)
        batch = normalize(resize(batch.float() / 255, size), mean, std)  # (B, 3, size, size)
        yield batch.contiguous(memory_format=torch.channels_last), labels
