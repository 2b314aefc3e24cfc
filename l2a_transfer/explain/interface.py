"""The result type of map methods: one image as the network received it, and one array per level."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.explain.overlay import heat, overlay
from l2a_transfer.explain.registry import DEFAULT_METHOD, MapKind
from l2a_transfer.notebook import html_images
from l2a_transfer.text import repr_line


@dataclass(frozen=True)
class ImageMaps:
    """The maps of one image by one method.

    Parameters
    ----------
    name : str
        Name of the image in errors and on sheets.
    image : ndarray
        The image as the network received it, uint8 (H, W, 3).
    maps : dict of str to ndarray
        Name → float32 (h, w). For attention, one map per level: weights that sum to 1 (sigmoids for PAN's L2).
    kinds : dict of str to str
        Name → "signed", "non-negative" or "distribution".
    method : str
        The method's name.
    target : int or None
        The class that the maps explain; None for a method that is not class-specific.
    class_name : str or None
        Name of that class; None without a class, or if the weights have no class names.
    probability : float or None
        The network's probability of that class.
    predicted : int or None
        The class with the largest probability.
    predicted_name : str or None
        Name of that class, if the weights have class names.
    predicted_probability : float or None
        Probability of the predicted class.
    completeness : float or None
        For a method whose maps must sum to a score, the difference from that score; see `explain.completeness`. None
        for other methods.
    template : str or None
        For a group map: the class of the template; for its control, a class other than the image's own.
    template_images : int or None
        Number of images of the template.
    """

    name: str
    image: NDArray[np.uint8]
    maps: dict[str, NDArray[np.float32]]
    kinds: dict[str, MapKind]
    method: str = DEFAULT_METHOD
    target: int | None = None
    class_name: str | None = None
    probability: float | None = None
    predicted: int | None = None
    predicted_name: str | None = None
    predicted_probability: float | None = None
    completeness: float | None = None
    template: str | None = None
    template_images: int | None = None

    def peak(self, level: str) -> float:
        """The largest weight divided by the mean: 1 if attention is uniform, h·w if it is one-hot, 0 for zeros.

        For a signed map, absolute values are used.
        """
        weights = np.abs(self.maps[level])
        return float(weights.max() / weights.mean()) if weights.any() else 0.0

    def overlay_pngs(self) -> dict[str, bytes]:
        """Level → a PNG of its map over the image, at the size that the network received."""
        H, W = self.image.shape[:2]
        found = {}
        for level, weights in self.maps.items():
            stream = io.BytesIO()
            drawn = overlay(self.image, heat(weights, (W, H)), signed=self.kinds[level] == "signed")
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
