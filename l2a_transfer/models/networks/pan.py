"""Progressive attention (Seo et al. 2016), the paper's baseline with a gate before the last block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2a_transfer.models.attention import Attention
from l2a_transfer.models.blocks import HEAD_DROPOUT, GlobalBranch, LevelHead, Trunk, at_least_float32, read_by
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Attended, Evidence, Network
from l2a_transfer.models.parts import Parts, trunk_parts


class PanVGG(Network):
    """Progressive attention (Seo et al. 2016) as in the paper's baseline.

    At L2, `σ(<u, l_i + g₂>)` multiplies the map, which then feeds the rest of the network. At L3, a softmax over
    `<u, l_i + g₃>` gives the attended feature for the classifier. g₂ acts through the sigmoid and is always built; g₃
    is inert.
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
        l1 = block3(block2(block1(images)))  # (B, 256·width, H, W)
        l2 = block4(F.max_pool2d(l1, 2))  # (B, C, H/2, W/2)
        B, C, H, W = l2.shape
        g2 = self.global_branch_2(l2)  # (B, C)
        with torch.autocast(l2.device.type, enabled=False):
            local = at_least_float32(l2.permute(0, 2, 3, 1).reshape(B, H * W, C))  # (B, P, C)
            gate = torch.sigmoid(self.gate.scores(local, at_least_float32(g2)) + self.gate_bias).reshape(B, H, W)
        l3 = block5(F.max_pool2d(l2 * gate[:, None].to(l2.dtype), 2))  # (B, C, H/4, W/4)
        g3 = None if self.global_branch is None else self.global_branch(l3)
        g_a, weights = self.attention(l3, g3)
        seen, dropped = self.head(g_a)
        maps, levels = {"L2": gate, "L3": weights}, {"L1": l1, "L2": l2, "L3": l3}
        return Attended(self.classifier(dropped), {"L3": g_a}, {"L3": seen}, maps, levels)

    def evidence(self, found: Attended, targets: Tensor) -> Evidence:
        """Only for L3, because only L3 is classified. The effect of the gate at L2 is part of L3's local features."""
        weights, constant = read_by(self.head, self.classifier.weight, found.g_a_bn_relu["L3"], targets)
        positions = found.maps["L3"] * torch.einsum("bchw,bc->bhw", at_least_float32(found.local["L3"]), weights)
        return Evidence({"L3": positions}, {"L3": constant + self.classifier.bias[targets]})

    def parts(self) -> Parts:
        """The gate at L2 and the global feature that it reads come between blocks 5 and 4."""
        blocks = trunk_parts()
        return {
            "classifier": ("classifier",),
            "heads": ("head",),
            "u L3": ("attention",),
            "g": ("global_branch",),
            "block 5": blocks.pop("block 5"),
            "u L2": ("gate", "gate_bias"),
            "g L2": ("global_branch_2",),
            **blocks,
        }
