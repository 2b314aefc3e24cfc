"""How fast a run is: its model FLOPs utilization (MFU), and the time that is left."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from l2a_transfer.models.config import ModelConfig
from l2a_transfer.training.flops import arithmetic, macs, matrix_peak
from l2a_transfer.training.recipe import TrainConfig


class Pace:
    """Of a network trained by `processes` processes, each on one `device`. Everything is measured when it is needed."""

    def __init__(self, config: ModelConfig, device: torch.device, precision: str, processes: int) -> None:
        self.config, self.device, self.precision, self.processes = config, device, precision, processes
        self._peak: float | None = None
        self._macs: dict[int, int] = {}

    def macs(self, size: int) -> int:
        """Multiplications of one image's forward pass at `size` × `size` pixels."""
        if size not in self._macs:
            self._macs[size] = macs(self.config, size)
        return self._macs[size]

    def mfu(self, size: int) -> Callable[[float], float]:
        """Images a second of all processes → MFU: the fraction of the devices' matrix peak, with 6 operations a MAC."""
        if self._peak is None:
            with arithmetic(self.precision):
                self._peak = matrix_peak(self.device, self.precision)
        whole = self._peak * self.processes / (6 * self.macs(size))
        return lambda images_per_second: images_per_second / whole

    def seconds_left(self, recipe: TrainConfig, *, epoch: int, seconds: float) -> float:
        """How long the epochs from `epoch` on will take, if each multiplication takes as long as those before did."""
        done, left = (
            sum(self.macs(recipe.resolution(each)) for each in epochs)
            for epochs in (range(epoch), range(epoch, recipe.epochs))
        )
        return seconds * left / done if done else math.nan
