"""Signs of divergence or of a run that learns nothing, checked after each epoch, and what to do about them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.models.objectives import CrossEntropy
from l2a_transfer.models.weights import beyond_float16
from l2a_transfer.wording import counted

if TYPE_CHECKING:
    from l2a_transfer.training.trainer import Trainer

GUESSING_SHARE = 0.99
"""Fraction of the guessing loss. A mean loss above it over an epoch is no better than guessing."""
STEPS_TO_LEARN = 100
"""Number of steps that a network gets to become better than guessing."""


def guessing_loss(labels: NDArray[np.int32], classes: int, smoothing: float) -> float:
    """The smallest cross-entropy, in nats, of a guess that knows the class frequencies but not the image.

    This is the entropy of the mean smoothed target; ln K if K classes are equally frequent.
    """
    frequency = np.bincount(labels, minlength=classes) / len(labels)
    target = (1 - smoothing) * frequency + smoothing / classes
    target = target[target > 0]
    return float(-(target * np.log(target)).sum())


def signs(trainer: Trainer, row: dict[str, Any]) -> dict[str, str]:
    """Warnings about the epoch in `row`, by kind of sign; empty if there are none."""
    found, recipe = {}, trainer.recipe
    less = f"a smaller learning rate ({recipe.lr:g} in this run; a quarter of it is a good next try)"
    guess = math.inf  # unknown for a family's own loss
    if isinstance(trainer.objective, CrossEntropy):
        guess = guessing_loss(trainer.data.train.labels, len(trainer.data.classes), recipe.label_smoothing)
    steps = trainer.epoch * trainer.steps_per_epoch
    if row["train_loss"] >= GUESSING_SHARE * guess and (
        trainer.finished or (trainer.epoch >= 2 and steps >= STEPS_TO_LEARN)
    ):
        seen = (
            f"epoch {trainer.epoch}: the mean loss of the epoch is {row['train_loss']:.3f}, and guessing by class "
            f"frequency gives {guess:.3f}"
        )
        found["guessing"] = (
            f"{seen}: no better than guessing after {counted(steps, 'step')}; train for more epochs"
            if steps < STEPS_TO_LEARN
            else f"{seen}: the network has diverged or learns nothing; start again with {less}"
        )
    if large := beyond_float16(trainer.result):
        key, value = max(large.items(), key=lambda item: item[1])
        found["range"] = (
            f"epoch {trainer.epoch}: {key} has a value of {value:.3g}, and the maximum of float16 is 65,504: a sign of "
            f"divergence; start again with {less}; if the run completes, such tensors are saved as float32"
        )
    return found
