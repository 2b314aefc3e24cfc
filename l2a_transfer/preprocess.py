"""Converts images to network inputs. The settings are stored in weights, feature and ONNX files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import ArgumentError, unknown_name

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

FITS = ("stretch", "crop")
DECODINGS = ("exact", "scaled")
SCALED_AT_LEAST = 2
"""A picture decoded at a smaller scale keeps at least this many times the pixels per side of the resized picture."""
FILTERS = ("bicubic", "bilinear", "lanczos", "box")
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
MIN_SIZE, MAX_SIZE = 4, 4096
MAX_MEAN = 255.0
STDS = (1e-3, 255.0)
"""Limits of `mean` and `std` for pixels between 0 and 1. Values outside would destroy an image."""


def check_rgb(image: Image.Image) -> None:
    """Raises: TypeError if `image` is not a Pillow image; ValueError for a mode other than RGB."""
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise TypeError(
            f"a picture must be a Pillow image of mode RGB, got {type(image).__name__}; convert uint8 (H, W, 3) with "
            "Image.fromarray(x)"
        )
    if image.mode != "RGB":
        raise ValueError(
            f"a picture must have the mode RGB, got {image.mode}; l2a_transfer.data.decode.to_rgb(image, 'its name') "
            "converts any mode in the same way as an extraction"
        )


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalize images for a network: `(x / 255 − mean) / std`.

    Parameters
    ----------
    images : Tensor, shape (B, 3, H, W)
        uint8 from 0 to 255, or floating point from 0 to 1.
    mean, std : Tensor, shape (3, 1, 1)
        See `Preprocess.statistics`.

    Returns
    -------
    Tensor of float32, shape (B, 3, H, W)
    """
    import torch

    unit = images.float() / 255 if images.dtype == torch.uint8 else images
    return (unit - mean) / std


@dataclass(frozen=True)
class Preprocess:
    """Resize to `size` × `size` pixels, then `(x / 255 − mean) / std` per channel.

    The paper does not say how its target images were resized, so the choice is recorded here and in every file.

    Parameters
    ----------
    size : int
        The side of the result in pixels, 4 to 4096.
    fit : {"stretch", "crop"}
        `stretch` resizes both sides and changes the aspect ratio. `crop` resizes the shorter side and cuts out the
        centre.
    filter : {"bicubic", "bilinear", "lanczos", "box"}
        Pillow's resampling filter, with antialiasing.
    mean, std : tuple of float
        Per channel, for pixels between 0 and 1.
    resize : int, default=0
        With `crop`: resize the shorter side to this many pixels first, in whole pixels as torchvision does, and crop
        the centre from that. 0 crops the largest square from the image and resizes it.
    decode : {"exact", "scaled"}
        `scaled` decodes large JPEG files at a half, a quarter or an eighth of their size, but at least at twice the
        size that they are resized to. This is faster and gives other pixels. It only affects reading files: `pixels`
        does not change pictures before resizing them.

    Raises
    ------
    UnknownNameError
        If `fit`, `filter` or `decode` is unknown.
    ArgumentError
        If numbers are out of range.
    """

    size: int = 32
    fit: str = "stretch"
    filter: str = "bicubic"
    mean: tuple[float, float, float] = CIFAR10_MEAN
    std: tuple[float, float, float] = CIFAR10_STD
    resize: int = 0
    decode: str = "exact"

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise unknown_name("fit", self.fit, FITS)
        if self.filter not in FILTERS:
            raise unknown_name("filter", self.filter, FILTERS)
        if self.decode not in DECODINGS:
            raise unknown_name("decode", self.decode, DECODINGS)
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise ArgumentError(f"size must be between {MIN_SIZE} and {MAX_SIZE} pixels, got {self.size}")
        if self.resize and (self.fit != "crop" or not self.size <= self.resize <= 2 * MAX_SIZE):
            raise ArgumentError(
                f"resize must be 0, or with fit 'crop' between the size and {2 * MAX_SIZE:,} pixels; got {self.resize} "
                f"with fit {self.fit!r} and size {self.size}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ArgumentError(f"mean and std must be three numbers each, std above 0; got {self.mean} and {self.std}")
        low, high = STDS
        if not all(-MAX_MEAN <= x <= MAX_MEAN for x in self.mean) or not all(low <= x <= high for x in self.std):
            raise ArgumentError(
                f"mean must be between {-MAX_MEAN:g} and {MAX_MEAN:g}, and std between {low:g} and {high:g}, for "
                f"pixels between 0 and 1; got {self.mean} and {self.std}"
            )

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize an RGB image of any size. An image that already has the size is not resampled.

        Returns
        -------
        ndarray of uint8, shape (3, size, size)

        Raises
        ------
        TypeError
            If the image is not a Pillow image.
        ValueError
            If its mode is not RGB.
        """
        from PIL import Image

        check_rgb(image)
        W, H = image.size
        if self.resize:
            image = self._centre(image)
        elif (self.size, self.size) != (W, H):
            box = None
            if self.fit == "crop":
                side = min(W, H)
                left, top = (W - side) / 2, (H - side) / 2
                box = (left, top, left + side, top + side)
            resample = Image.Resampling[self.filter.upper()]
            image = image.resize((self.size, self.size), resample, box=box)
        array = np.asarray(image, dtype=np.uint8)  # (size, size, 3)
        return np.ascontiguousarray(array.transpose(2, 0, 1))  # (3, size, size)

    def _centre(self, image: Image.Image) -> Image.Image:
        """Resize the shorter side to `resize` pixels and crop the centre, with torchvision's rounding."""
        from PIL import Image

        short = min(image.size)
        W, H = (self.resize if side == short else int(self.resize * side / short) for side in image.size)
        if image.size != (W, H):
            image = image.resize((W, H), Image.Resampling[self.filter.upper()])
        left, top = round((W - self.size) / 2.0), round((H - self.size) / 2.0)
        return image.crop((left, top, left + self.size, top + self.size))

    @property
    def least_side(self) -> int:
        """The shorter side in pixels that decoding at a smaller scale must keep; 0 if nothing is scaled."""
        return SCALED_AT_LEAST * (self.resize or self.size) if self.decode == "scaled" else 0

    def changed(self, size: int | None = None, fit: str | None = None, decode: str | None = None) -> Preprocess:
        """The same settings with another size, fit or decoding, if given; `resize` keeps its ratio to the size.

        Raises: same as the class.
        """
        if size is not None and not MIN_SIZE <= size <= MAX_SIZE:
            raise ArgumentError(f"image_size must be between {MIN_SIZE} and {MAX_SIZE} pixels, got {size}")
        new_size, new_fit = self.size if size is None else size, self.fit if fit is None else fit
        resize = round(self.resize * new_size / self.size) if new_fit == "crop" else 0
        return dataclasses.replace(self, size=new_size, fit=new_fit, resize=resize, decode=decode or self.decode)

    def keeps(self, width: int, height: int) -> bool:
        """True if the pixels of an image of this size are not changed."""
        return (width, height) == (self.size, self.size) and self.resize in (0, self.size)

    def statistics(self, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """`mean` and `std` for `normalize`: float32, shape (3, 1, 1), on `device`."""
        import torch

        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (self.mean, self.std))
        return mean, std

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        if not self.resize:  # as in earlier versions, which did not have it
            del values["resize"]
        if self.decode == "exact":
            del values["decode"]
        return {**values, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preprocess:
        """The settings written by `to_json`. Raises: ValueError or TypeError for anything else."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or {"resize", "decode", *values} != names:
            raise ValueError(f"a preprocess must have the keys {sorted(names)}, got {values!r}")
        for key in ("size", "resize"):
            if not isinstance(values.get(key, 0), int):
                raise TypeError(f"preprocess: {key} must be an int, got {values[key]!r}")
        mean, std = (tuple(float(x) for x in values[key]) for key in ("mean", "std"))
        resize, decode = values.get("resize", 0), values.get("decode", "exact")
        return cls(values["size"], values["fit"], values["filter"], mean, std, resize, decode)  # type: ignore[arg-type]
