"""Co-attention across two images, channel-wise, with a gate (Lu et al., CVPR 2019).

Shapes: B images, C channels, H × W positions, P = H·W.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from l2a_transfer.errors import ArgumentError
from l2a_transfer.models.blocks import at_least_float32
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Attended, Evidence
from l2a_transfer.models.networks.soft import AttentionVGG
from l2a_transfer.models.parts import Parts


class CoAttention(nn.Module):
    """For each image a and its partner b: what b shows where it resembles each position of a.

    `S = V_bᵀ D V_a` with a diagonal D, `Z_a = V_b softmax(S)` over b's positions, and the gate `f_a = σ(w · Z_a)` [1]_.
    With a and b swapped, S is its transpose: the same D and w serve both.

    Parameters
    ----------
    channels : int
        C, the number of channels of the local features.

    References
    ----------
    .. [1] X. Lu et al.: See More, Know More: Unsupervised Video Object Segmentation with Co-Attention Siamese
       Networks. CVPR 2019.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.D = nn.Parameter(torch.full((channels,), 1 / math.sqrt(channels)))  # initially the scaled dot product
        self.w = nn.Parameter(torch.randn(channels) / math.sqrt(channels))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute what the partner shows, where it looks, and the gate.

        Parameters
        ----------
        a, b : Tensor (B, C, H, W)
            Local features of images and of their partners, in any precision.

        Returns
        -------
        shown : Tensor (B, C, H, W)
            `f_a Z_a`: what b shows at each position of a. Like the other outputs, it is float32.
        looks : Tensor (B, H, W)
            Where in a the positions of b look: the softmax of S over a's positions, averaged over b's. Sums to 1.
        gate : Tensor (B, H, W)
            f_a.
        """
        B, _, H, W = a.shape
        with torch.autocast(a.device.type, enabled=False):
            D, w = at_least_float32(self.D), at_least_float32(self.w)
            own, other = (at_least_float32(l).flatten(2) for l in (a, b))  # (B, C, P)  # noqa: E741
            scores = (other * D[:, None]).transpose(1, 2) @ own  # (B, P of b, P of a)
            found = other @ scores.softmax(dim=1)  # (B, C, P)
            gate = torch.sigmoid(w @ found)  # (B, P)
            looks = scores.softmax(dim=2).mean(dim=1)  # (B, P)
            shown = found * gate[:, None]
        return shown.reshape(a.shape), looks.reshape(B, H, W), gate.reshape(B, H, W)


def _swapped(pairs: Tensor) -> Tensor:
    """Swap the two members of each pair in a batch (B, …) of consecutive pairs."""
    return pairs.reshape(-1, 2, *pairs.shape[1:]).flip(1).flatten(0, 1)


class CoAttentionVGG(AttentionVGG):
    """An attention network that also reads, at each position of L3, what the image's partner shows there.

    The published network concatenates `f_a Z_a` and V_a as input of a segmentation convolution. Here they are averaged
    with the attention weights of L3, and the classifier reads both: `g_a` of the level `co` is `Σ_i a_i f_i Z_i`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.co = CoAttention(config.feature_levels["co"])

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        if partners is None:  # each image is its own partner, and the trunk processes it once
            return self.attend_from(self.local_features(images))
        self.check_partners(images, partners)
        local = self.local_features(torch.cat([images, partners[:, 0]]))  # one batch for the batch norms
        own = {level: values[: len(images)] for level, values in local.items()}
        return self._attend_beside(own, local["L3"][len(images) :])

    def attend_group(self, images: Tensor) -> Attended:
        """Like `Network.attend_group`, but runs the trunk once per image. Raises: ArgumentError for an odd number."""
        if len(images) % 2:
            raise ArgumentError(f"images must be consecutive pairs; got {len(images)} images")
        local = self.local_features(images)
        return self._attend_beside(local, _swapped(local["L3"]))

    def _attend_beside(self, local: dict[str, Tensor], partner: Tensor) -> Attended:
        """The result for local features of images and L3 of their partners."""
        shown, looks, gate = self.co(local["L3"], partner)
        g_a, maps = self.attended(local)
        g_a["co"] = (shown * maps["L3"][:, None]).sum(dim=(2, 3))  # (B, C)
        found = self.classified(g_a, maps, local)
        return replace(found, maps={**maps, "co": looks, "co.gate": gate}, local={**local, "co": shown})

    def attend_from(self, local: dict[str, Tensor]) -> Attended:
        """Like `Network.attend_from`, with each image as its own partner."""
        return self._attend_beside(local, local["L3"])

    def evidence(self, found: Attended, targets: Tensor) -> Evidence:
        """Includes `co`, whose positions are those of the image: `a_i f_i Z_i` counts there, wherever it is in b."""
        return super().evidence(replace(found, maps={**found.maps, "co": found.maps["L3"]}), targets)

    def parts(self) -> Parts:
        own = super().parts()
        return {"classifier": own.pop("classifier"), "heads": own.pop("heads"), "co": ("co",), **own}
