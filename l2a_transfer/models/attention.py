"""Compatibility × normalizer → attended feature (Jetley et al., ICLR 2018, section 3).

Shapes: B images, C channels, H × W positions, P = H·W.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2a_transfer.models.blocks import at_least_float32
from l2a_transfer.models.compatibilities import COMPATIBILITIES
from l2a_transfer.models.normalizers import find_normalizer
from l2a_transfer.models.selection import find_selection


@dataclass(frozen=True)
class Scored:
    """A level before its weights are computed: local features (B, P, C) and scores (B, P), at least float32."""

    local: Tensor
    scores: Tensor


class Attention(nn.Module):
    """One level's attention estimator: local features (and g) → attended feature and weights.

    Parameters
    ----------
    channels : int
        C, the number of channels of the local features and of g.
    compatibility, normalizer : str
        Registered names. A normalizer may include its parameter, as in ``"tvmax:0.1"``.
    selection : str, default="soft"
        A registered selection, such as ``"hard"`` or ``"top:4"``.

    Raises
    ------
    UnknownNameError
        If a name is not registered.
    MissingExtraError
        If the normalizer needs a package that is not installed.
    """

    def __init__(self, channels: int, compatibility: str, normalizer: str, selection: str = "soft") -> None:
        super().__init__()
        found, weighting = COMPATIBILITIES.find(compatibility), find_normalizer(normalizer)
        weighting.require_package()
        self.compatibility = found.scores
        self.normalizer = weighting.function
        self.selection = find_selection(selection)
        self.u: nn.Parameter | None = None
        if found.learns_u:
            # The authors' normal(0, sqrt(2/(k·k·out))) gives u a standard deviation of 1.4, scores in the tens
            # and a nearly one-hot softmax at the start; 1/sqrt(C) starts with scores of about 1.
            self.u = nn.Parameter(torch.randn(channels) / math.sqrt(channels))

    def scores(self, local: Tensor, g: Tensor | None) -> Tensor:
        """Compatibility of each position, before normalization: local (B, P, C), g (B, C) → (B, P)."""
        if self.compatibility is None:
            raise TypeError("uniform attention has no scores")
        u, g = (None if x is None else at_least_float32(x) for x in (self.u, g))
        return self.compatibility(local, u, g)

    def scored(self, l: Tensor, g: Tensor | None) -> Scored:  # noqa: E741 - the paper's name
        """Local features and scores of all positions: l (B, C, H, W), g (B, C) or None."""
        with torch.autocast(l.device.type, enabled=False):
            local = _by_position(l)
            return Scored(local, self.scores(local, g))

    def forward(self, l: Tensor, g: Tensor | None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:  # noqa: E741
        """The attended feature and the weights.

        Parameters
        ----------
        l : Tensor (B, C, H, W)
            Local features, in any precision.
        g : Tensor (B, C) or None
            The global feature; None if it is inert.
        noise : Tensor (B, P) or None
            Only for selections that need it.

        Returns
        -------
        g_a : Tensor (B, C)
            The weighted sum of the local features. It and the weights are float32, because a softmax over 1,024
            positions loses too much precision in bfloat16.
        weights : Tensor (B, H, W)
        """
        B, _, H, W = l.shape
        with torch.autocast(l.device.type, enabled=False):
            local = _by_position(l)
            if self.selection.needs == "noise":
                assert noise is not None
                assert self.selection.choose is not None
                weights = self.selection.choose(noise.to(local)).reshape(B, H, W)
            elif self.compatibility is None:
                g_a = local.mean(dim=1)  # (B, C)
                return g_a, torch.full((B, H, W), 1.0 / (H * W), device=l.device, dtype=local.dtype)
            else:
                scores = self.scores(local, g)
                if self.selection.choose is None:
                    weights = self.normalizer(scores.reshape(B, H, W))  # (B, H, W)
                else:
                    weights = self.selection.choose(scores).reshape(B, H, W)
            g_a = (weights.reshape(B, 1, H * W) @ local).squeeze(1)  # (B, C)
        return g_a, weights


def _by_position(l: Tensor) -> Tensor:  # noqa: E741 - the paper's name
    """l (B, C, H, W) → (B, P, C), at least float32."""
    B, C, H, W = l.shape
    return at_least_float32(l.permute(0, 2, 3, 1).reshape(B, H * W, C))  # no copy in channels_last
