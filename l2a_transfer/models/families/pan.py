"""Progressive attention (Seo et al. 2016), the paper's baseline with a gate before the last block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from l2a_transfer.models.config import Architecture, Family, MapSpec, ModelConfig, attention_kind, family

if TYPE_CHECKING:
    from torch import nn


@family("vgg-pan")
class PanFamily(Family):
    """A gate at L2, and attention at L3. The attended feature of L3 is the transfer feature."""

    architectures = (Architecture("vgg-pan", levels=("L3",), head="concat", compatibility="pc"),)

    def network(self, config: ModelConfig) -> nn.Module:
        from l2a_transfer.models.networks.pan import PanVGG

        return PanVGG(config)

    def g_acts(self, config: ModelConfig) -> bool:
        """Always: g₂ changes the gate, even though g₃ may be inert."""
        return True

    def maps(self, config: ModelConfig) -> tuple[MapSpec, ...]:
        return MapSpec("L2", "L2", "gate"), MapSpec("L3", "L3", attention_kind(config))
