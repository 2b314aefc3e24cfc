"""The networks: VGG trunks, attention heads, and the three baselines (Jetley et al., ICLR 2018).

Shapes: B images, H × W pixels, K classes, D the width of the transfer feature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2a_transfer.errors import wrong_kind
from l2a_transfer.models.attention import Attention
from l2a_transfer.models.config import LEVELS, ModelConfig

BN_EPS = 1e-3
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
DROPOUT_AFTER = {1: 0.3, 3: 0.4, 5: 0.4, 6: 0.4, 8: 0.4, 9: 0.4, 11: 0.4, 12: 0.4, 14: 0.4, 15: 0.4}
HEAD_DROPOUT = 0.5


@dataclass(frozen=True)
class Attended:
    """What a network says of a batch: logits, the attended features and where it looked.

    `g_a` and `g_a_bn_relu`: level → (B, D_level), raw and as the classifier sees them; `maps`: level → (B, H, W),
    weights that sum to 1 (a sigmoid, for PAN's L2). Networks without attention have one level and no maps.
    """

    logits: Tensor
    g_a: dict[str, Tensor]
    g_a_bn_relu: dict[str, Tensor]
    maps: dict[str, Tensor]

    @property
    def features(self) -> Tensor:
        """The concatenated g_a, (B, D)."""
        return torch.cat(list(self.g_a.values()), dim=1)


class ConvBlock(nn.Sequential):
    """conv 3×3 → batch norm → ReLU → dropout: one numbered convolution of the paper.

    The convolution has no bias: batch norm subtracts it again, so its gradient would be zero.
    """

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / (9 * channels_out)))
        layers: list[nn.Module] = [conv, nn.BatchNorm2d(channels_out, eps=BN_EPS), nn.ReLU(inplace=True)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        super().__init__(*layers)


class Trunk(nn.ModuleList):
    """conv1 … conv13, without the pools, which differ between the families."""

    def __init__(self, config: ModelConfig) -> None:
        blocks, channels_in, index = [], 3, 0
        for widths in BLOCKS:
            convs = []
            for width in widths:
                index += 1
                channels_out = config.channels(width)
                convs.append(ConvBlock(channels_in, channels_out, config.dropout * DROPOUT_AFTER.get(index, 0.0)))
                channels_in = channels_out
            blocks.append(nn.Sequential(*convs))
        super().__init__(blocks)


class GlobalBranch(nn.Module):
    """A local map → the global feature g (B, 512·width): two convolutions between pools, dropout, a linear layer.

    The last pool adapts, so that any image size gives one vector; at 32 × 32 it is the paper's 2 × 2 pool.
    """

    def __init__(self, config: ModelConfig, *, first_pool: int = 2) -> None:
        super().__init__()
        C = config.channels(512)
        self.first_pool = first_pool
        self.conv14 = ConvBlock(C, C, config.dropout * DROPOUT_AFTER[14])
        self.conv15 = ConvBlock(C, C, config.dropout * DROPOUT_AFTER[15])
        self.dropout = nn.Dropout(config.dropout * HEAD_DROPOUT)
        self.linear = nn.Linear(C, C)

    def forward(self, l: Tensor) -> Tensor:  # noqa: E741 - the paper's name
        x = self.conv14(F.max_pool2d(l, self.first_pool))
        x = self.conv15(F.max_pool2d(x, 2))
        g: Tensor = self.linear(self.dropout(x.amax(dim=(2, 3))))  # (B, 512·width)
        return g


class LevelHead(nn.Module):
    """g_a → BN → ReLU → dropout, the part of the head that every level has of its own."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, eps=BN_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, g_a: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C) → what the classifier sees in evaluation, and the same with dropout."""
        seen = F.relu(self.bn(g_a))
        return seen, self.dropout(seen)


class Network(nn.Module):
    """Base of the four families: `model(images)` gives logits, `model.attend(images)` everything.

    Images are float32 (B, 3, H, W), normalised by the model's Preprocess, any H and W of at least
    `config.min_size` pixels.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def attend(self, images: Tensor) -> Attended:
        raise TypeError("Network is abstract; build one with build_model(config)")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K); for `indep` heads the log of the mean class probability."""
        return self.attend(images).logits


class AttentionVGG(Network):
    """VGG whose first two pools are moved to the end, with attention at one to three levels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        spec = config.spec
        self.trunk = Trunk(config)
        self.attention = nn.ModuleDict(
            {
                level: Attention(config.channels(LEVELS[level]), spec.compatibility, config.normalizer)
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

    def local_features(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Level → l (B, C, H, W), and the last map (B, C, H/4, W/4)."""
        block1, block2, block3, block4, block5 = self.trunk
        l1 = block3(block2(block1(images)))  # (B, 256·width, H, W)
        l2 = block4(F.max_pool2d(l1, 2))  # (B, 512·width, H/2, W/2)
        l3 = block5(F.max_pool2d(l2, 2))  # (B, 512·width, H/4, W/4)
        return {"L1": l1, "L2": l2, "L3": l3}, l3

    def attend(self, images: Tensor) -> Attended:
        local, last = self.local_features(images)
        g = None if self.global_branch is None else self.global_branch(last)
        g_a: dict[str, Tensor] = {}
        maps: dict[str, Tensor] = {}
        for level, attention in self.attention.items():
            g_level = self.project_g(g) if level == "L1" and self.project_g is not None else g
            g_a[level], maps[level] = attention(local[level], g_level)
        pairs = {level: self.heads[level](value) for level, value in g_a.items()}
        seen = {level: pair[0] for level, pair in pairs.items()}
        dropped = [pair[1] for pair in pairs.values()]
        if self.config.spec.head == "concat":
            logits = self.classifiers[0](torch.cat(dropped, dim=1))  # (B, K)
        else:
            log_p = [F.log_softmax(layer(x).float(), dim=1) for layer, x in zip(self.classifiers, dropped, strict=True)]
            logits = torch.logsumexp(torch.stack(log_p), dim=0) - math.log(len(log_p))  # (B, K)
        return Attended(logits, g_a, seen, maps)


def _pooled_trunk(trunk: Trunk, images: Tensor, pools: int) -> Tensor:
    x = images
    for i, block in enumerate(trunk):
        x = block(x)
        if i < pools:
            x = F.max_pool2d(x, 2)
    return x


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

    def attend(self, images: Tensor) -> Attended:
        x = _pooled_trunk(self.trunk, images, 4)  # (B, C, H/16, W/16)
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

    def attend(self, images: Tensor) -> Attended:
        x = _pooled_trunk(self.trunk, images, 4)  # (B, C, H/16, W/16)
        feature = {"gap": x.float().mean(dim=(2, 3))}
        return Attended(self.classifier(feature["gap"]), feature, feature, {})


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

    def attend(self, images: Tensor) -> Attended:
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


FAMILIES: dict[str, type[Network]] = {
    "vgg": VGG,
    "vgg-gap": GapVGG,
    "vgg-pan": PanVGG,
    "attention": AttentionVGG,
}


def build_model(config: ModelConfig, *, seed: int | None = None) -> Network:
    """A freshly initialised network in training mode.

    With `seed` the weights are a function of the config and the seed alone, and the global random state is left
    as it was. Raises: BackendError where the normalizer's package is missing.
    """
    if not isinstance(config, ModelConfig):
        raise wrong_kind("config", "a ModelConfig, as ModelConfig('vgg-att2-concat-pc', width=0.25)", config)
    family = FAMILIES[config.spec.family]
    if seed is None:
        return family(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family(config)
