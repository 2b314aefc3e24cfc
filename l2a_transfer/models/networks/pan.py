"""Progressive attention (Seo et al. 2016), the paper's baseline with a gate before the last block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2a_transfer.models.attention import Attention
from l2a_transfer.models.blocks import HEAD_DROPOUT, GlobalBranch, LevelHead, Trunk
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Attended, Network


class PanVGG(Network):
    """Progressive attention (Seo et al. 2016) as the paper's baseline has it.

    At L2 `σ(<u, l_i + g₂>)` multiplies the map, which then feeds the rest; at L3 a softmax over `<u, l_i + g₃>`
    gives the attended feature that classifies. g₂ acts through the sigmoid and is always built; g₃ is inert.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        C = config.channels(512)
        self.trunk = Trunk(config)
        self.global_branch_2 = GlobalBranch(config, first_pool=4)
        self.gate = Attention(C, "pc", config.normalizer)
        self.gate_bias = nn.Parameter(torch.zeros(()))
        self.global_branch = GlobalBranch(config) if config.builds_global_branch else None
        self.attention = Attention(C, "pc", config.normalizer)
        self.head = LevelHead(C, config.dropout * HEAD_DROPOUT)
        self.classifier = nn.Linear(C, config.num_classes)

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        self.check_partners(images, partners)
        block1, block2, block3, block4, block5 = self.trunk
        l2 = block4(F.max_pool2d(block3(block2(block1(images))), 2))  # (B, C, H/2, W/2)
        B, C, H, W = l2.shape
        g2 = self.global_branch_2(l2)  # (B, C)
        with torch.autocast(l2.device.type, enabled=False):
            local = l2.permute(0, 2, 3, 1).reshape(B, H * W, C).float()  # (B, P, C)
            gate = torch.sigmoid(self.gate.scores(local, g2.float()) + self.gate_bias).reshape(B, H, W)
        l3 = block5(F.max_pool2d(l2 * gate[:, None].to(l2.dtype), 2))  # (B, C, H/4, W/4)
        g3 = None if self.global_branch is None else self.global_branch(l3)
        g_a, weights = self.attention(l3, g3)
        seen, dropped = self.head(g_a)
        return Attended(self.classifier(dropped), {"L3": g_a}, {"L3": seen}, {"L2": gate, "L3": weights})
