"""One training step as a module, which DistributedDataParallel and torch.compile can wrap."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from l2a_transfer.models.objectives import Objective


class TrainingStep(nn.Module):
    """Images (B, 3, H, W), labels (B,) and progress () → loss, logits (B, K) and metrics of the family's objective.

    DistributedDataParallel averages gradients only for what its own `forward` computes. The loss is computed inside it,
    so that an objective may call any method of the network.
    """

    def __init__(self, network: nn.Module, objective: Objective, generator: torch.Generator) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self.generator = generator

    def forward(self, images: Tensor, labels: Tensor, progress: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        found = self.objective.loss(self.network, images, labels, generator=self.generator, progress=progress)
        return found.loss, found.logits, found.metrics
