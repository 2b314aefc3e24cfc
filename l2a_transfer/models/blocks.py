"""Building blocks of the networks: convolutions, the trunk, the global branch and the head of a level."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Step

BN_EPS = 1e-3
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
DROPOUT_AFTER = {1: 0.3, 3: 0.4, 5: 0.4, 6: 0.4, 8: 0.4, 9: 0.4, 11: 0.4, 12: 0.4, 14: 0.4, 15: 0.4}
HEAD_DROPOUT = 0.5
LEVEL_OF_BLOCK = {2: "L1", 3: "L2", 4: "L3"}


class ConvBlock(nn.Sequential):
    """conv 3×3 → batch norm → ReLU → dropout: one numbered convolution of the paper.

    The convolution has no bias, because batch norm would subtract it again.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels of the input (B, channels_in, H, W) and of the output (B, channels_out, H, W).
    dropout : float
        Dropout rate; with 0 there is no dropout layer.
    """

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / (9 * channels_out)))
        layers: list[nn.Module] = [conv, nn.BatchNorm2d(channels_out, eps=BN_EPS), nn.ReLU(inplace=True)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        super().__init__(*layers)


class Trunk(nn.ModuleList):
    """conv1 … conv13 as five blocks. The pools between them are not included, because they differ between families.

    Parameters
    ----------
    config : ModelConfig
        Its width and dropout.
    """

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
        self.frozen = False

    def freeze(self) -> None:
        """Freeze the weights and the batch norm statistics. The trunk then stays in evaluation mode."""
        self.frozen = True
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Trunk:
        """Set the mode as usual, except that a frozen trunk stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self


class GlobalBranch(nn.Module):
    """A local map → the global feature g: two convolutions between pools, dropout, a linear layer.

    The last pool covers the whole map, so any image size gives one vector. At 32 × 32 pixels it is the paper's 2 × 2
    pool.

    Parameters
    ----------
    config : ModelConfig
        Its width and dropout.
    first_pool : int
        Side of the first pool.
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
        """l (B, 512·width, H, W) → g (B, 512·width)."""
        x = self.conv14(F.max_pool2d(l, self.first_pool))
        x = self.conv15(F.max_pool2d(x, 2))
        g: Tensor = self.linear(self.dropout(x.amax(dim=(2, 3))))  # (B, 512·width)
        return g


class LevelHead(nn.Module):
    """g_a → batch norm → ReLU → dropout: the part of the classifier head that each level has of its own.

    Parameters
    ----------
    channels : int
        Width of the attended feature.
    dropout : float
        Dropout rate.
    """

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, eps=BN_EPS)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, g_a: Tensor) -> tuple[Tensor, Tensor]:
        """g_a (B, C) → the classifier's input in evaluation (B, C), and the same with dropout, for training."""
        seen = self.relu(self.bn(g_a.to(self.bn.weight.dtype)))
        return seen, self.dropout(seen)


def read_by(head: LevelHead, classifier: Tensor, seen: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A class's score as a linear function of the attended feature, for each image.

    With the batch norm γ, β, μ, σ, the mask m of the ReLU and the classifier's weights W, the score of class c is
    `Σ_k W_ck m_k (γ_k / σ_k) g_k` and a constant. This holds in evaluation mode.

    Parameters
    ----------
    head : LevelHead
        The level's batch norm.
    classifier : Tensor (K, C)
        The columns of the classifier's weights that read this level.
    seen : Tensor (B, C)
        What the classifier reads: the head's output in evaluation mode.
    targets : Tensor (B,)
        The class of each image.

    Returns
    -------
    weights : Tensor (B, C)
        Factors of the attended feature.
    constant : Tensor (B,)
        The constant term, without the classifier's bias.
    """
    bn = head.bn
    assert bn.running_mean is not None
    assert bn.running_var is not None
    weight, bias, mean, variance = map(at_least_float32, (bn.weight, bn.bias, bn.running_mean, bn.running_var))
    scale = weight * (variance + bn.eps).rsqrt()  # (C,)
    rows = at_least_float32(classifier)[targets] * (seen > 0)  # (B, C)
    return rows * scale, rows @ (bias - mean * scale)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; leave other tensors unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def promoted(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """Apply a layer to x, at least float32, with parameters that are converted to float32 if they are half precision.

    Parameters
    ----------
    layer : nn.Conv2d or nn.Linear
        It is called as a module, so its hooks run.
    x : Tensor
        Its input.

    Returns
    -------
    Tensor
    """
    if layer.weight.dtype == x.dtype:
        found: Tensor = layer(x)
    else:
        found = functional_call(layer, {name: at_least_float32(own) for name, own in layer.named_parameters()}, x)
    return found


def pooled_trunk(trunk: Trunk, images: Tensor, pools: int) -> dict[str, Tensor]:
    """The local features of the trunk, with a 2 × 2 pool after each of the first `pools` blocks.

    Parameters
    ----------
    trunk : Trunk
        Five blocks of convolutions.
    images : Tensor (B, 3, H, W)
        Normalised images.
    pools : int
        0 … 5.

    Returns
    -------
    dict of str to Tensor (B, C, H, W)
        The outputs of the last three blocks, before their pools: L1 (conv7), L2 (conv10) and L3 (conv13).
    """
    x, local = images, {}
    for i, block in enumerate(trunk):
        x = block(x)
        if level := LEVEL_OF_BLOCK.get(i):
            local[level] = x
        if i < pools:
            x = F.max_pool2d(x, 2)
    return local


def trunk_steps(trunk: Trunk, pools_after: tuple[int, ...]) -> tuple[Step, ...]:
    """The convolutions of the trunk, with 2 × 2 pools after the blocks `pools_after`, counted from 0."""
    steps: list[Step] = []
    for i, block in enumerate(trunk):
        *before, last = cast("list[nn.Sequential]", list(cast("nn.Sequential", block)))
        steps += [*map(Step, before), Step(last, LEVEL_OF_BLOCK.get(i, ""))]
        if i in pools_after:
            steps.append(Step(None))
    return tuple(steps)
