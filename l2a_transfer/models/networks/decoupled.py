"""Decoupled spatial attention (Zhang et al. 2018): two maps per class, for where to look and what is there."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2a_transfer.models.blocks import HEAD_DROPOUT, Trunk, at_least_float32, pooled_trunk, promoted, trunk_steps
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Attended, Evidence, Network, Step
from l2a_transfer.models.parts import Parts, trunk_parts

LEAST_WEIGHT = 0.1
"""Added to the softplus, so that no position has the weight 0 and the sum over positions cannot be 0."""


class DecoupledVGG(Network):
    """Decoupled spatial attention: the logit of class c is `Σ_i S_ci D_ci` over the positions i of L3.

    The expansive map S says where to look for a class: dropout, a 1 × 1 convolution to K classes, dropout, and
    `softplus + 0.1` divided by its sum over positions. The discriminative map D says what is there: a 1 × 1
    convolution to K classes, `D_ci = <w_c, l_i> + b_c`. S_c sums to 1, so b_c counts once, like a classifier's bias.

    Notes
    -----
    The trunk has the four pools of `vgg-gap` instead of the late pools of the attention networks. With equal weights
    at all positions, the network is then exactly `vgg-gap`, with D as its classifier at each position. With the same
    seed, both start with the same trunk and classifier, so any difference in accuracy comes from S alone. The price is
    a coarse map: 2 × 2 positions at 32 × 32 pixels. At the smallest size, 16 × 16 pixels, there is one position, and S
    is 1.

    There is no global feature. `Attended.maps` has one map (B, H, W) per name, so it contains the mean of the classes'
    maps. The transfer feature is ours, not the paper's: the local features weighted by that mean map, which equals the
    mean over classes of the features weighted by each class's S.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        C, K = config.channels(512), config.num_classes
        self.trunk = Trunk(config)
        self.dropout = nn.Dropout(config.dropout * HEAD_DROPOUT)
        self.classifier = nn.Conv2d(C, K, 1)  # the discriminative map; before S, so that it starts as that of `vgg-gap`
        self.expansive = nn.Conv2d(C, K, 1)

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        self.check_partners(images, partners)
        return self.attend_from(pooled_trunk(self.trunk, images, 4))

    def local_steps(self) -> tuple[Step, ...]:
        return trunk_steps(self.trunk, pools_after=(0, 1, 2, 3))

    def attend_from(self, local: dict[str, Tensor]) -> Attended:
        with torch.autocast(local["L3"].device.type, enabled=False):
            l = at_least_float32(local["L3"])  # noqa: E741 - the paper's name
            B, C, H, W = l.shape
            weights = normalized(self.dropout(promoted(self.expansive, self.dropout(l))))  # (B, K, H, W)
            logits = (weights * promoted(self.classifier, l)).sum(dim=(2, 3))  # (B, K)
            mean = weights.mean(dim=1)  # (B, H, W)
            positions = l.permute(0, 2, 3, 1).reshape(B, H * W, C)  # (B, P, C)
            feature = {"L3": (mean.reshape(B, 1, H * W) @ positions).squeeze(1)}  # (B, C)
        return Attended(logits, feature, feature, {"L3": mean}, local)

    def evidence(self, found: Attended, targets: Tensor) -> Evidence:
        """`e_i = S_ci D_ci`, which sums to the logit over positions; the constant is 0."""
        local = at_least_float32(found.local["L3"])
        expansive, discriminative = (
            torch.einsum("bchw,bc->bhw", local, at_least_float32(layer.weight)[targets, :, 0, 0])
            + cast("Tensor", layer.bias)[targets, None, None]
            for layer in (self.expansive, self.classifier)
        )
        positions = normalized(expansive) * discriminative  # (B, H, W)
        return Evidence({"L3": positions}, {"L3": torch.zeros_like(found.logits[:, 0])})

    def parts(self) -> Parts:
        return {"classifier": ("classifier",), "expansive": ("expansive",), **trunk_parts()}


def normalized(scores: Tensor) -> Tensor:
    """Scores (…, H, W) → positive weights that sum to 1 over the positions."""
    positive = F.softplus(scores) + LEAST_WEIGHT
    return positive / positive.sum(dim=(-2, -1), keepdim=True)
