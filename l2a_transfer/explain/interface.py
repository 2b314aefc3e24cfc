"""What a map is: one image as the network took it, and an array of weights for each level or class."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.explain.overlay import heat, overlay
from l2a_transfer.notebook import html_images
from l2a_transfer.text import repr_line


@dataclass(frozen=True)
class AttentionMaps:
    """One picture and where a network looks at it.

    Parameters
    ----------
    name : str
        What errors and sheets call the picture.
    image : ndarray
        The picture as the network took it, uint8 (H, W, 3).
    maps : dict
        Name → float32 (h, w). Of attention, a map a level: weights that sum to 1 (a sigmoid between 0 and 1 for PAN's
        L2).
    signed : bool
        Whether values may be negative, as evidence against a class.
    """

    name: str
    image: NDArray[np.uint8]
    maps: dict[str, NDArray[np.float32]]
    signed: bool = False

    def peak(self, level: str) -> float:
        """The largest weight over the mean one: 1 where attention is uniform, h·w where it is one-hot.

        Of a signed map, of the values' sizes.
        """
        weights = np.abs(self.maps[level])
        return float(weights.max() / weights.mean())

    def overlay_pngs(self) -> dict[str, bytes]:
        """Level → a PNG of its attention over the picture, of the size that the network took."""
        H, W = self.image.shape[:2]
        found = {}
        for level, weights in self.maps.items():
            stream = io.BytesIO()
            drawn = overlay(self.image, heat(weights, (W, H)), signed=self.signed)
            Image.fromarray(drawn).save(stream, format="png")
            found[level] = stream.getvalue()
        return found

    def __repr__(self) -> str:
        H, W = self.image.shape[:2]
        maps = (f"{name} {values.shape}" for name, values in self.maps.items())
        return repr_line(self, self.name, f"image ({H}, {W}, 3)", f"maps {', '.join(maps)}")

    def _repr_html_(self) -> str:
        return html_images(
            [
                (f"{self.name}, {level}, peak {self.peak(level):.3g} × mean", png)
                for level, png in self.overlay_pngs().items()
            ]
        )
