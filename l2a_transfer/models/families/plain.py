"""VGGs without attention: the paper's baseline, and one with global average pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from l2a_transfer.models.config import Architecture, Family, ModelConfig, family

if TYPE_CHECKING:
    from torch import nn


@family("vgg")
class PlainFamily(Family):
    """The VGG-16 baseline, whose feature is the output of its hidden layer."""

    architectures = (Architecture("vgg"),)

    def network(self, config: ModelConfig) -> nn.Module:
        from l2a_transfer.models.networks.plain import VGG

        return VGG(config)

    def feature_levels(self, config: ModelConfig) -> dict[str, int]:
        return {"head": config.channels(512)}


@family("vgg-gap")
class GapFamily(Family):
    """The VGG with global average pooling, whose feature is the pooled map."""

    architectures = (Architecture("vgg-gap"),)

    def network(self, config: ModelConfig) -> nn.Module:
        from l2a_transfer.models.networks.plain import GapVGG

        return GapVGG(config)

    def feature_levels(self, config: ModelConfig) -> dict[str, int]:
        return {"gap": config.channels(512)}
