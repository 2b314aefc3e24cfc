"""Compatibility × normalizer → attended feature (Jetley et al., ICLR 2018, section 3).

Shapes: B images, C channels, H × W positions, P = H·W.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from l2a_transfer.errors import BackendError


def compatibility_pc(local: Tensor, u: Tensor, g: Tensor | None) -> Tensor:
    """`c_i = <u, l_i + g>`, the parametrised compatibility. local (B, P, C), u (C,), g (B, C) → (B, P)."""
    scores = local @ u  # (B, P)
    return scores if g is None else scores + (g @ u)[:, None]


def compatibility_dp(local: Tensor, g: Tensor) -> Tensor:
    """`c_i = <l_i, g>`, the dot product, unscaled as in the paper. local (B, P, C), g (B, C) → (B, P)."""
    return (local @ g[:, :, None]).squeeze(2)


def compatibility_add(local: Tensor, u: Tensor, g: Tensor) -> Tensor:
    """`c_i = <u, tanh(l_i + g)>`, the additive score (Bahdanau et al. 2015). → (B, P)."""
    return torch.tanh(local + g[:, None, :]) @ u


def _entmax(name: str) -> Callable[[Tensor], Tensor]:
    try:
        import entmax
    except ImportError as error:
        raise BackendError(
            f"normalizer {name!r} needs the package entmax; install it with: pip install 'l2a-transfer[entmax]'"
        ) from error
    function = getattr(entmax, name)
    return lambda scores: function(scores, dim=1)


def find_normalizer(name: str) -> Callable[[Tensor], Tensor]:
    """The function from scores (B, P) to weights (B, P) that are ≥ 0 and sum to 1 over P.

    Raises: BackendError where the name needs a package that is not installed.
    """
    return (lambda scores: torch.softmax(scores, dim=1)) if name == "softmax" else _entmax(name)


class Attention(nn.Module):
    """One level's attention estimator: local features (and g) → attended feature and weights.

    `forward(l, g)`: l (B, C, H, W), g (B, C) or None → g_a (B, C) and a (B, H, W), both float32 whatever the
    precision of l, because a softmax over 1,024 positions loses too much in bfloat16.
    """

    def __init__(self, channels: int, compatibility: str, normalizer: str) -> None:
        super().__init__()
        self.compatibility = compatibility
        self.normalize = find_normalizer(normalizer)
        self.u: nn.Parameter | None = None
        if compatibility in ("pc", "add"):
            # The authors' normal(0, sqrt(2/(k·k·out))) gives u a standard deviation of 1.4, scores in the tens
            # and a nearly one-hot softmax at the start; 1/sqrt(C) starts with scores of about 1.
            self.u = nn.Parameter(torch.randn(channels) / math.sqrt(channels))

    def scores(self, local: Tensor, g: Tensor | None) -> Tensor:
        """Compatibility of each position, before normalization: local (B, P, C), g (B, C) → (B, P)."""
        if self.compatibility == "pc":
            assert self.u is not None
            return compatibility_pc(local, self.u, g)
        assert g is not None
        if self.compatibility == "dp":
            return compatibility_dp(local, g)
        assert self.u is not None
        return compatibility_add(local, self.u, g)

    def forward(self, l: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: E741 - the paper's name
        B, C, H, W = l.shape
        with torch.autocast(l.device.type, enabled=False):
            local = l.permute(0, 2, 3, 1).reshape(B, H * W, C).float()  # (B, P, C), no copy in channels_last
            if self.compatibility == "uniform":
                g_a = local.mean(dim=1)  # (B, C)
                return g_a, torch.full((B, H, W), 1.0 / (H * W), device=l.device)
            weights = self.normalize(self.scores(local, None if g is None else g.float()))  # (B, P)
            g_a = (weights[:, None, :] @ local).squeeze(1)  # (B, C)
        return g_a, weights.reshape(B, H, W)
