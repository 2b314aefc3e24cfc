"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from l2a_transfer.models.interface import Network


class MovingAverage:
    """A network whose weights and batch statistics follow those of another: m ← d·m + (1 − d)·w, from the first w on.

    Unlike `torch.optim.swa_utils.AveragedModel`, which reads its count from a tensor in every update, it never makes
    the host wait for a GPU.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network)
        self.updates = 0
        self._blend = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self, network: Network) -> None:
        own, theirs = _floating(self.network), _floating(network)
        if self.updates:
            self._blend(own, theirs, self.updates)
        else:
            for mine, value in zip(own, theirs, strict=True):
                mine.copy_(value)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]


def _floating(network: Network) -> list[Tensor]:
    """All tensors except the batch counts, which nothing reads."""
    return [value.detach() for value in network.state_dict().values() if value.is_floating_point()]
