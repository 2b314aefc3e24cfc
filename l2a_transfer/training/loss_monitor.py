"""Reading the loss on the host without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


class LossMonitor:
    """Losses by step (S,), which training fills on their device.

    On a GPU, `read` starts a copy and returns the result of the previous copy, so the host never waits.
    """

    def __init__(self, losses: Tensor) -> None:
        self.losses = losses
        self.pinned: Tensor | None = None
        if losses.device.type == "cuda":
            self.pinned = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True)
        self.sent: tuple[int, torch.Event] | None = None

    def read(self, steps: int) -> Tensor:
        """The losses of the first `steps` that have reached the host, on the CPU; may be empty."""
        if self.pinned is None:
            return self.losses[:steps]
        there = self.sent[0] if self.sent and self.sent[1].query() else 0
        seen = self.pinned[:there].clone()
        if self.sent is None or there:
            self.pinned.copy_(self.losses, non_blocking=True)
            event = torch.Event(self.losses.device)
            event.record()
            self.sent = steps, event
        return seen
