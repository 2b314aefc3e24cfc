"""Decoupled spatial attention (Zhang et al. 2018): each class has its own weights over the positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from l2a_transfer.models.config import Architecture, Family, ModelConfig, family

if TYPE_CHECKING:
    from torch import nn


@family("vgg-dsna")
class DecoupledFamily(Family):
    """Each class has its own attention weights over the positions of L3, and its own score at each position."""

    architectures = (Architecture("vgg-dsna", levels=("L3",), head="concat"),)

    def network(self, config: ModelConfig) -> nn.Module:
        from l2a_transfer.models.networks.decoupled import DecoupledVGG

        return DecoupledVGG(config)

    def builds_global_branch(self, config: ModelConfig) -> bool:
        """Never: there is no global feature."""
        return False
