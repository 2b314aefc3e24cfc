"""What every network is: `model(images)` gives logits, `model.attend(images)` everything that it found.

Shapes: B images, H × W pixels, K classes, D the width of the transfer feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2a_transfer.models.config import ModelConfig
from l2a_transfer.preprocess import Preprocess


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


class Network(nn.Module):
    """Base of the families: `model(images)` gives logits, `model.attend(images)` everything.

    Images are float32 (B, 3, H, W), normalised by the model's Preprocess, any H and W of at least
    `config.min_size` pixels.
    """

    preprocess: Preprocess = Preprocess()
    """How pictures become its input; weights bring their own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def attend(self, images: Tensor) -> Attended:
        raise TypeError("Network is abstract; build one with build_model(config)")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K); for `indep` heads the log of the mean class probability."""
        return self.attend(images).logits
