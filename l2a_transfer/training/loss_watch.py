"""The loss as the host can see it without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


class LossWatch:
    """Losses by step, as seen at `look`: on a GPU those of an earlier look, which were copied meanwhile."""

    def __init__(self, losses: Tensor) -> None:
        self.losses = losses
        self.pinned: Tensor | None = None
        if losses.device.type == "cuda":
            self.pinned = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True)
        self.sent: tuple[int, torch.Event] | None = None

    def look(self, steps: int) -> int:
        """How many of the first `steps` losses can be read now."""
        if self.pinned is None:
            return steps
        seen = self.sent[0] if self.sent and self.sent[1].query() else 0
        if self.sent is None or seen:
            self.pinned.copy_(self.losses, non_blocking=True)
            event = torch.Event(self.losses.device)
            event.record()
            self.sent = steps, event
        return seen

    def mean(self, seen: int, last: int) -> float:
        """Of the `last` of the first `seen` losses."""
        losses = self.losses if self.pinned is None else self.pinned
        return losses[max(0, seen - last) : seen].mean().item()
