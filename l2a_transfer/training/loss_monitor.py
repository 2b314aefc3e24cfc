"""The loss as the host can see it without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


class LossMonitor:
    """Losses by step (S,), filled on their device while training goes on.

    On a GPU a look starts a copy and gives what the look before it has copied, so the host never waits.
    """

    def __init__(self, losses: Tensor) -> None:
        self.losses = losses
        self.pinned: Tensor | None = None
        if losses.device.type == "cuda":
            self.pinned = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True)
        self.sent: tuple[int, torch.Event] | None = None

    def read(self, steps: int) -> Tensor:
        """Those of the first `steps` losses that the host can read now, on the CPU; none where nothing has come."""
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
