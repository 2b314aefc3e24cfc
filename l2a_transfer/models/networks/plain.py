"""The VGGs without attention: the paper's baseline, and one with global average pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from l2a_transfer.models.blocks import (
    HEAD_DROPOUT,
    LevelHead,
    Trunk,
    at_least_float32,
    pooled_trunk,
    promoted,
    read_by,
    trunk_steps,
)
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Attended, Evidence, Network, Step
from l2a_transfer.models.parts import Parts, trunk_parts


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
        return self.attend_from(pooled_trunk(self.trunk, images, 4))

    def local_steps(self) -> tuple[Step, ...]:
        return trunk_steps(self.trunk, pools_after=(0, 1, 2, 3))

    def attend_from(self, local: dict[str, Tensor]) -> Attended:
        x = local["L3"].amax(dim=(2, 3))  # (B, C); at 32 × 32 it is the paper's fifth pool
        seen, dropped = self.head(self.hidden(self.dropout(x)))
        feature = {"head": at_least_float32(seen)}
        return Attended(self.classifier(dropped), feature, feature, {}, local)

    def evidence(self, found: Attended, targets: Tensor) -> Evidence:
        """Each channel's contribution is at its maximum, or at the first of several equal maxima."""
        weights, constant = read_by(self.head, self.classifier.weight, found.g_a["head"], targets)
        B, _, H, W = found.local["L3"].shape
        highest, where = found.local["L3"].flatten(2).max(dim=2)  # (B, C)
        shares = (weights @ at_least_float32(self.hidden.weight)) * highest
        positions = shares.new_zeros(B, H * W).scatter_add(1, where, shares)
        return Evidence({"L3": positions.reshape(B, H, W)}, {"L3": constant + self.classifier.bias[targets]})

    def parts(self) -> Parts:
        return {"classifier": ("classifier",), "heads": ("head",), "hidden": ("hidden",), **trunk_parts()}


class GapVGG(Network):
    """Global average pooling of the last convolution, then one linear layer (Lin et al. 2014)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.trunk = Trunk(config)
        self.classifier = nn.Linear(config.channels(512), config.num_classes)

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        self.check_partners(images, partners)
        return self.attend_from(pooled_trunk(self.trunk, images, 4))

    def local_steps(self) -> tuple[Step, ...]:
        return trunk_steps(self.trunk, pools_after=(0, 1, 2, 3))

    def attend_from(self, local: dict[str, Tensor]) -> Attended:
        feature = {"gap": at_least_float32(local["L3"]).mean(dim=(2, 3))}
        return Attended(promoted(self.classifier, feature["gap"]), feature, feature, {}, local)

    def evidence(self, found: Attended, targets: Tensor) -> Evidence:
        """The class activation map divided by the number of positions."""
        local = at_least_float32(found.local["L3"])
        positions = (
            torch.einsum("bchw,bc->bhw", local, at_least_float32(self.classifier.weight)[targets]) / local[0, 0].numel()
        )
        return Evidence({"L3": positions}, {"L3": self.classifier.bias[targets]})

    def parts(self) -> Parts:
        return {"classifier": ("classifier",), **trunk_parts()}
