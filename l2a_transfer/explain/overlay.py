"""Maps as pixels: weights → heat → colours over the picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLORMAP, SIGNED_COLORMAP = "inferno", "coolwarm"


def heat(weights: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Weights (h, w) → float32 (H, W) between 0 and 1 for `size` = (W, H); the hottest position is exactly 1.

    Signed values are scaled to between −1 and 1, by the largest absolute value.

    0 means no attention, not the coldest position, so that nearly uniform attention looks nearly uniform. There is no
    interpolation: every pixel shows the weight of its position.
    """
    hottest = max(float(np.abs(weights).max()), float(np.finfo(np.float32).tiny))
    scaled = weights / hottest
    picture = Image.fromarray(scaled.astype(np.float32)).resize(size, Image.Resampling.NEAREST)
    return np.asarray(picture, dtype=np.float32)


def colors(values: NDArray[np.float32], *, signed: bool = False) -> NDArray[np.uint8]:
    """Heat (H, W) between 0 and 1, or −1 and 1 if signed → uint8 (H, W, 3); 1 gets the top colour of the colormap."""
    from matplotlib import colormaps

    rgba = (
        colormaps[SIGNED_COLORMAP](0.5 + values / 2, bytes=True) if signed else colormaps[COLORMAP](values, bytes=True)
    )
    return np.asarray(rgba[..., :3], dtype=np.uint8)


def overlay(image: NDArray[np.uint8], values: NDArray[np.float32], *, signed: bool = False) -> NDArray[np.uint8]:
    """Heat (H, W) in colour over a greyed picture (H, W, 3): the picture at 0, the top colour at 1."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # (H, W)
    opacity = np.abs(values)[..., None]
    mixed = (1 - opacity) * grey[..., None] + opacity * colors(values, signed=signed).astype(np.float32)
    return np.asarray(np.clip(np.rint(mixed), 0, 255), dtype=np.uint8)
