"""What a map is: one image as the network took it, and an array of weights for each level or class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class AttentionMaps:
    """One picture and where each level looks at it.

    `image` uint8 (H, W, 3) as the network took it; `maps`: level → float32 (h, w), weights that sum to 1 (a sigmoid
    between 0 and 1 for PAN's L2).
    """

    name: str
    image: NDArray[np.uint8]
    maps: dict[str, NDArray[np.float32]]

    def peak(self, level: str) -> float:
        """The largest weight over the mean one: 1 where attention is uniform, h·w where it is one-hot."""
        weights = self.maps[level]
        return float(weights.max() / weights.mean())
