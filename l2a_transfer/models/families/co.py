"""Co-attention across two images of one class: a second image adds to what the first one shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from l2a_transfer.models.config import LEVELS, Architecture, MapSpec, ModelConfig, family
from l2a_transfer.models.families.soft import SoftFamily

if TYPE_CHECKING:
    from torch import nn

COMPATIBILITY_NAMES = ("pc", "uniform")


@family("co-attention")
class CoFamily(SoftFamily):
    """Attention at L2 and L3, and gated channel-wise co-attention with a partner image at L3."""

    architectures = tuple(
        Architecture(f"vgg-att2-concat-{name}-co", ("L2", "L3"), "concat", name) for name in COMPATIBILITY_NAMES
    )
    selections = ("soft",)
    partners = 1

    def network(self, config: ModelConfig) -> nn.Module:
        from l2a_transfer.models.networks.co import CoAttentionVGG

        return CoAttentionVGG(config)

    def feature_levels(self, config: ModelConfig) -> dict[str, int]:
        return {**super().feature_levels(config), "co": config.channels(LEVELS["L3"])}

    def maps(self, config: ModelConfig) -> tuple[MapSpec, ...]:
        return (*super().maps(config), MapSpec("co", "co", "distribution"), MapSpec("co.gate", "co", "gate"))
