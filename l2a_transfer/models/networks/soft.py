"""The networks of "Learn to Pay Attention": soft attention at one to three levels (Jetley et al., ICLR 2018)."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2a_transfer.models.attention import Attention, Scored
from l2a_transfer.models.blocks import (
    BN_EPS,
    HEAD_DROPOUT,
    GlobalBranch,
    LevelHead,
    Trunk,
    at_least_float32,
    read_by,
    trunk_steps,
)
from l2a_transfer.models.config import LEVELS, ModelConfig
from l2a_transfer.models.interface import Attended, Evidence, Network, Step
from l2a_transfer.models.parts import Parts, trunk_parts
from l2a_transfer.models.selection import find_selection


class AttentionVGG(Network):
    """VGG whose first two pools are moved to the end, with attention at one to three levels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        spec = config.spec
        self.trunk = Trunk(config)
        self.attention = nn.ModuleDict(
            {
                level: Attention(
                    config.channels(LEVELS[level]), spec.compatibility, config.normalizer, config.selection
                )
                for level in spec.levels
            }
        )
        self.global_branch = GlobalBranch(config) if config.builds_global_branch else None
        self.project_g = None
        if "L1" in spec.levels and config.builds_global_branch:
            self.project_g = nn.Sequential(
                nn.BatchNorm1d(config.channels(512), eps=BN_EPS),
                nn.ReLU(),
                nn.Dropout(config.dropout * HEAD_DROPOUT),
                nn.Linear(config.channels(512), config.channels(256)),
            )
        rate = config.dropout * HEAD_DROPOUT
        widths = config.feature_levels
        self.heads = nn.ModuleDict({level: LevelHead(C, rate) for level, C in widths.items()})
        if spec.head == "concat":
            self.classifiers = nn.ModuleList([nn.Linear(sum(widths.values()), config.num_classes)])
        else:
            self.classifiers = nn.ModuleList([nn.Linear(C, config.num_classes) for C in widths.values()])

    def local_features(self, images: Tensor) -> dict[str, Tensor]:
        """Level → l (B, C, H, W)."""
        block1, block2, block3, block4, block5 = self.trunk
        l1 = block3(block2(block1(images)))  # (B, 256·width, H, W)
        l2 = block4(F.max_pool2d(l1, 2))  # (B, 512·width, H/2, W/2)
        l3 = block5(F.max_pool2d(l2, 2))  # (B, 512·width, H/4, W/4)
        return {"L1": l1, "L2": l2, "L3": l3}

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        self.check_partners(images, partners)
        local = self.local_features(images)
        noise = pixel_noise(images, local, self.config) if self.draws else None
        return self.classified(*self.attended(local, noise), local)

    @property
    def draws(self) -> bool:
        """Whether positions are drawn with noise that depends on the image's pixels."""
        return find_selection(self.config.selection).needs == "noise"

    def local_steps(self) -> tuple[Step, ...]:
        return () if self.draws else trunk_steps(self.trunk, pools_after=(2, 3))

    def attend_from(self, local: dict[str, Tensor]) -> Attended:
        return super().attend_from(local) if self.draws else self.classified(*self.attended(local), local)

    def attended(
        self, local: dict[str, Tensor], noise: dict[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Level → attended feature (B, C), and level → weights (B, H, W); `noise` only if the selection needs it."""
        g_a: dict[str, Tensor] = {}
        maps: dict[str, Tensor] = {}
        for level, g in self.global_features(local).items():
            g_a[level], maps[level] = self.attention[level](local[level], g, (noise or {}).get(level))
        return g_a, maps

    def global_features(self, local: dict[str, Tensor]) -> dict[str, Tensor | None]:
        """Level → the g that its attention takes, (B, C); None if it is not built."""
        g = None if self.global_branch is None else self.global_branch(local["L3"])
        return {
            level: self.project_g(g) if level == "L1" and self.project_g is not None else g for level in self.attention
        }

    def scored(self, local: dict[str, Tensor]) -> dict[str, Scored]:
        """Level → local features and scores of its positions."""
        attention = cast("dict[str, Attention]", self.attention)
        return {level: attention[level].scored(local[level], g) for level, g in self.global_features(local).items()}

    def classified(
        self, g_a: dict[str, Tensor], maps: dict[str, Tensor] | None = None, local: dict[str, Tensor] | None = None
    ) -> Attended:
        """Compute the logits, and the attended features as the classifiers see them."""
        pairs = {level: self.heads[level](value) for level, value in g_a.items()}
        seen = {level: pair[0] for level, pair in pairs.items()}
        logits = self.logits_of([pair[1] for pair in pairs.values()])
        return Attended(logits, g_a, seen, maps or {}, local or {})

    def logits_of(self, seen: list[Tensor]) -> Tensor:
        """What the classifiers read at each level, (B, C), → logits (B, K)."""
        if self.config.spec.head == "concat":
            logits: Tensor = self.classifiers[0](torch.cat(seen, dim=1))
            return logits
        log_p = [
            F.log_softmax(at_least_float32(layer(x)), dim=1) for layer, x in zip(self.classifiers, seen, strict=True)
        ]
        return torch.logsumexp(torch.stack(log_p), dim=0) - math.log(len(log_p))

    def logits_of_all(self, seen: list[Tensor]) -> Tensor:
        """Logits for every combination of positions, one per level.

        Parameters
        ----------
        seen : list of Tensor (B, P, C)
            What the classifier would read at each position, for each level.

        Returns
        -------
        Tensor (B, P of the first level, P of the second, …, K)
        """
        n = len(seen)
        if self.config.spec.head == "concat":
            (classifier,) = cast("list[nn.Linear]", list(self.classifiers))
            weights = torch.split(classifier.weight, [values.shape[2] for values in seen], dim=1)
            parts = [values @ rows.T for values, rows in zip(seen, weights, strict=True)]  # (B, P, K)
        else:
            parts = [F.log_softmax(layer(x), dim=2) for layer, x in zip(self.classifiers, seen, strict=True)]
        spread = [
            part.reshape(len(part), *(part.shape[1] if k == i else 1 for k in range(n)), part.shape[2])
            for i, part in enumerate(parts)
        ]
        if self.config.spec.head == "concat":
            return sum(spread[1:], spread[0]) + classifier.bias
        together = torch.broadcast_tensors(*spread)  # type: ignore[no-untyped-call]
        return torch.logsumexp(torch.stack(together), dim=0) - math.log(n)

    def evidence(self, found: Attended, targets: Tensor) -> Evidence:
        """`e_i = a_i · Σ_k W_ck m_k (γ_k / σ_k) l_ik` at every level."""
        levels = list(found.g_a)
        classifiers, heads = cast("list[nn.Linear]", list(self.classifiers)), cast("dict[str, LevelHead]", self.heads)
        if self.config.spec.head == "concat":
            (classifier,) = classifiers
            rows = torch.split(classifier.weight, [found.g_a[level].shape[1] for level in levels], dim=1)
            biases = [classifier.bias[targets] / len(levels)] * len(levels)  # an equal share of the bias for each level
        else:
            rows = tuple(classifier.weight for classifier in classifiers)
            biases = [classifier.bias[targets] for classifier in classifiers]
        maps, constants = {}, {}
        for level, row, bias in zip(levels, rows, biases, strict=True):
            weights, constant = read_by(heads[level], row, found.g_a_bn_relu[level], targets)
            local = at_least_float32(found.local[level])
            maps[level] = found.maps[level] * torch.einsum("bchw,bc->bhw", local, weights)
            constants[level] = constant + bias
        return Evidence(maps, constants)

    def parts(self) -> Parts:
        """The global feature g comes from block 5 and acts on the scores of every level."""
        return {
            "classifier": ("classifiers",),
            "heads": ("heads",),
            **{f"u {level}": (f"attention.{level}",) for level in reversed(list(self.attention))},
            "g": ("project_g", "global_branch"),
            **trunk_parts(),
        }


def pixel_noise(images: Tensor, local: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Noise that is 1 at one position of each level and 0 elsewhere. It depends only on the image's pixels.

    Parameters
    ----------
    images : Tensor (B, 3, H, W)
        Normalised. They are rounded to 1/64 first, so that rounding errors have no effect.
    local : dict of str to Tensor (B, C, H, W)
        Level → local features, for the number of positions.
    config : ModelConfig
        The config, which gives the levels.

    Returns
    -------
    dict of str to Tensor (B, P)
    """
    rounded = (images.float() * 64).round().long().flatten(1)  # (B, N)
    prime = (1 << 31) - 1
    factors = torch.arange(1, rounded.shape[1] + 1, device=images.device) * 1_103_515_245 % prime
    left = (rounded * factors).sum(dim=1) % prime  # (B,)
    noise = {}
    for level in config.spec.levels:
        P = local[level].shape[2] * local[level].shape[3]
        noise[level] = F.one_hot(left % P, P)
        left = left * 48_271 % prime  # the next number of Park and Miller's generator (1993)
    return noise
