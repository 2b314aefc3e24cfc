"""The speed of a run: its model FLOPs utilization (MFU), and the remaining time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from l2a_transfer.models.config import ModelConfig
from l2a_transfer.training.flops import arithmetic, macs, matrix_peak
from l2a_transfer.training.recipe import TrainConfig


class Pace:
    """The speed of training with `processes` processes, each on one `device`. Values are measured when needed."""

    def __init__(self, config: ModelConfig, device: torch.device, precision: str, processes: int) -> None:
        self.config, self.device, self.precision, self.processes = config, device, precision, processes
        self._peak: float | None = None
        self._macs: dict[int, int] = {}

    def macs(self, size: int) -> int:
        """Multiply-accumulates of one image's forward pass at `size` × `size` pixels."""
        if size not in self._macs:
            self._macs[size] = macs(self.config, size)
        return self._macs[size]

    def mfu(self, size: int) -> Callable[[float], float]:
        """Images per second of all processes → MFU: fraction of the devices' matrix peak, with 6 operations per MAC."""
        if self._peak is None:
            with arithmetic(self.precision):
                self._peak = matrix_peak(self.device, self.precision)
        whole = self._peak * self.processes / (6 * self.macs(size))
        return lambda images_per_second: images_per_second / whole

    def seconds_left(self, recipe: TrainConfig, *, epoch: int, seconds: float) -> float:
        """The time for the epochs from `epoch` on, if each multiplication takes as long as before."""
        done, left = (
            sum(self.macs(recipe.resolution(each)) for each in epochs)
            for epochs in (range(epoch), range(epoch, recipe.epochs))
        )
        return seconds * left / done if done else math.nan
