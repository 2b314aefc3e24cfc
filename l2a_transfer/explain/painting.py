"""Maps as colours over a picture, and what the colours mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.drawing import legible
from l2a_transfer.errors import ArgumentError, unknown_name
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.explain.overlay import COLORMAP, SIGNED_COLORMAP
from l2a_transfer.wording import counted

if TYPE_CHECKING:
    from l2a_transfer.explain.registry import MapKind

FORMATS = ("png", "pdf", "svg")
State = Literal["", "zero", "uniform"]
UNIFORM = 1e-3
"""A map is called uniform if its values differ by less than this share of the largest."""


@dataclass(frozen=True)
class Style:
    """The style of drawn maps.

    Parameters
    ----------
    smooth : bool
        Interpolate between positions; otherwise every pixel shows the value of its position.
    alpha : float
        Opacity of the strongest colour. It decreases with the value; 0 leaves the picture unchanged.
    cmap, signed_cmap : str
        Matplotlib colormaps for maps from 0 up, and for signed maps, with 0 in the middle.
    dpi : int
        Dots per inch for sizes in inches.
    formats : tuple of str
        Names in `FORMATS`.

    Raises
    ------
    UnknownNameError
        For an unknown colormap or format.
    ArgumentError
        For numbers out of range.
    """

    smooth: bool = True
    alpha: float = 0.8
    cmap: str = COLORMAP
    signed_cmap: str = SIGNED_COLORMAP
    dpi: int = 300
    formats: tuple[str, ...] = ("png",)

    def __post_init__(self) -> None:
        from matplotlib import colormaps

        for argument, name in (("cmap", self.cmap), ("signed_cmap", self.signed_cmap)):
            if name not in colormaps:
                raise unknown_name(argument, name, sorted(n for n in colormaps if not n.endswith("_r")))
        for name in self.formats:
            if name not in FORMATS:
                raise unknown_name("format", name, FORMATS)
        if not self.formats or len(set(self.formats)) < len(self.formats):
            raise ArgumentError(f"format must be one or more distinct formats; got {', '.join(self.formats) or 'none'}")
        if not 0 < self.alpha <= 1:
            raise ArgumentError(f"alpha must be above 0 and at most 1, got {self.alpha:g}")
        if not 30 <= self.dpi <= 2400:
            raise ArgumentError(f"dpi must be between 30 and 2400, got {self.dpi}")


def state_of(values: NDArray[np.float32]) -> State:
    """Whether a map is all zeros, or uniform: colours would then be meaningless."""
    highest, lowest = float(values.max()), float(values.min())
    if highest == lowest == 0:
        return "zero"
    return "uniform" if highest - lowest <= UNIFORM * max(abs(highest), abs(lowest)) else ""


def scale_of(values: NDArray[np.float32], kind: MapKind) -> str:
    """The meaning of the strongest colour, as short as possible."""
    if state := state_of(values):
        return f"{state}, {float(values.flat[0]):.2g}" if state == "uniform" else state
    if kind == "distribution":
        return f"peak {float(values.max() / values.mean()):.3g} × mean"
    largest = float(np.abs(values).max())
    return f"±{largest:.2g}" if kind == "signed" else f"max {largest:.2g}"


def enlarged(values: NDArray[np.float32], size: tuple[int, int], *, smooth: bool) -> NDArray[np.float32]:
    """A map (h, w) as float32 (H, W) for `size` = (W, H), divided by its largest absolute value."""
    largest = max(float(np.abs(values).max()), float(np.finfo(np.float32).tiny))
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray((values / largest).astype(np.float32)).resize(size, how), dtype=np.float32)


def colored(values: NDArray[np.float32], kind: MapKind, style: Style) -> NDArray[np.float32]:
    """Colours from 0 to 255, (H, W, 3), of values between 0 and 1, or −1 and 1 for a signed map."""
    from matplotlib import colormaps

    signed = kind == "signed"
    rgba = colormaps[style.signed_cmap if signed else style.cmap](0.5 + values / 2 if signed else values)
    return np.asarray(255 * rgba[..., :3], dtype=np.float32)


def over_grey(grey: NDArray[np.float32], values: NDArray[np.float32], kind: MapKind, style: Style) -> NDArray[np.uint8]:
    """Colours over grey (H, W), with opacity increasing with the value: uint8 (H, W, 3)."""
    opacity = style.alpha * np.abs(values)[..., None]
    mixed = (1 - opacity) * grey[..., None] + opacity * colored(values, kind, style)
    return np.asarray(np.clip(np.rint(mixed), 0, 255), dtype=np.uint8)


def blended(picture: NDArray[np.uint8], values: NDArray[np.float32], kind: MapKind, style: Style) -> NDArray[np.uint8]:
    """A map in colour over the picture in grey, uint8 (H, W, 3). A zero or uniform map leaves the grey picture."""
    grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # (H, W)
    heat = np.zeros_like(grey) if state_of(values) else enlarged(values, picture.shape[1::-1], smooth=style.smooth)
    return over_grey(grey, heat, kind, style)


def subject_of(maps: ImageMaps) -> str:
    """The class that the maps explain, with its probability; empty for a method that is not class-specific.

    For a group map, the pictures of its template.
    """
    if maps.template is not None:
        return f"{counted(maps.template_images or 0, 'picture')} of {shortened(legible(maps.template), 24)}"
    if maps.target is None:
        return ""
    return _class_text(maps.class_name, maps.target, maps.probability)


def prediction_of(maps: ImageMaps) -> str:
    """The predicted class with its probability."""
    return (
        "" if maps.predicted is None else _class_text(maps.predicted_name, maps.predicted, maps.predicted_probability)
    )


def _class_text(name: str | None, number: int, probability: float | None) -> str:
    return f"{shortened(legible(name or f'class {number}'), 24)} {100 * (probability or 0):.0f} %"


def shortened(name: str, most: int) -> str:
    """The name, or an ellipsis and its end, with at most `most` letters."""
    return name if len(name) <= most else "…" + name[-(most - 1) :]


def heading_of(maps: ImageMaps, level: str) -> str:
    """Method and map, as a column heading; the map's name is omitted if it is the only one, of pixels."""
    return maps.method if level == "pixels" else f"{maps.method} {level}"
