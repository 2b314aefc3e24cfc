"""The VGGs without attention: the paper's baseline, and one that averages its last map."""

from __future__ import annotations

from torch import Tensor, nn

from l2a_transfer.models.blocks import HEAD_DROPOUT, LevelHead, Trunk, pooled_trunk
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Attended, Network


class VGG(Network):
    """The plain VGG-16 baseline; its transfer feature is the 512-d output of the hidden layer's ReLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        C = config.channels(512)
        rate = config.dropout * HEAD_DROPOUT
        self.trunk = Trunk(config)
        self.dropout = nn.Dropout(rate)
        self.hidden = nn.Linear(C, C, bias=False)  # batch norm follows
        self.head = LevelHead(C, rate)
        self.classifier = nn.Linear(C, config.num_classes)

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        self.check_partners(images, partners)
        x = pooled_trunk(self.trunk, images, 4)  # (B, C, H/16, W/16)
        x = x.amax(dim=(2, 3))  # (B, C); at 32 × 32 the paper's fifth pool
        seen, dropped = self.head(self.hidden(self.dropout(x)))
        feature = {"head": seen.float()}
        return Attended(self.classifier(dropped), feature, feature, {})


class GapVGG(Network):
    """Global average pooling of the last convolution, then one linear layer (Lin et al. 2014)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.trunk = Trunk(config)
        self.classifier = nn.Linear(config.channels(512), config.num_classes)

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        self.check_partners(images, partners)
        x = pooled_trunk(self.trunk, images, 4)  # (B, C, H/16, W/16)
        feature = {"gap": x.float().mean(dim=(2, 3))}
        return Attended(self.classifier(feature["gap"]), feature, feature, {})
