"""The bytes of a picture in any mode → RGB, decoded by Pillow in this process."""

from __future__ import annotations

import io
import itertools
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from l2a_transfer.data.picture_structure import format_of
from l2a_transfer.errors import DataError


def _reads_avif() -> bool:
    """True if the installed Pillow decodes AVIF: from 11.3, if it was built with it."""
    try:
        from PIL import AvifImagePlugin
    except ImportError:
        return False
    return bool(AvifImagePlugin.SUPPORTED)


_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    **({"JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx")} if features.check("jpg_2000") else {}),
    **({"AVIF": (".avif", ".avifs")} if _reads_avif() else {}),
}
FORMATS = tuple(_SUFFIXES)
"""Supported formats. Pillow's others are never tried, because some start programs or accept any file."""
SUFFIXES = tuple(suffix for own in _SUFFIXES.values() for suffix in own)
OTHER_PICTURES = tuple(
    suffix
    for suffix in (
        *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        *(".avif", ".avifs", ".dib", ".tga", ".qoi", ".ico", ".pcx", ".sgi", ".pfm", ".exr", ".hdr", ".dds"),
        *(".psd", ".xcf", ".svg", ".eps"),
        *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
        *(".dcm", ".fits"),
    )
    if suffix not in SUFFIXES
)
"""Suffixes of unsupported picture formats."""
MAX_PIXELS = 100_000_000
MAX_SIDE = 65_535
"""Most pixels per side, which is also JPEG's limit. Resizing a longer strip to a square takes gigabytes of memory."""
MAX_FILE_BYTES = 256 << 20
TILE = 2048
"""Side of the tiles in which large pictures are converted."""
REPLACE = "replace the file, or remove it"
EXIF_ORIENTATION = 0x0112
PNG_FIRST_CHUNK = 8
PNG_GREY, PNG_RGB = 0, 2
"""Colour types whose tRNS chunk has one transparent colour; for a palette it has one opacity per entry."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PYTHON_ERRORS = (AttributeError, IndexError, KeyError, OverflowError, SyntaxError, TypeError, ValueError)
DAMAGED = (*_PYTHON_ERRORS, OSError, EOFError, ZeroDivisionError, RuntimeError, struct.error, zlib.error)
"""What Pillow's decoders raise for corrupt files of all formats. This package's own errors are none of these."""


def decode_in_process(content: bytes, name: str, *, least: int = 0) -> Image.Image:
    """Decode `content`: mode RGB, rotated according to its EXIF data, first frame of an animation.

    Time and memory are not limited here, but in `decode.decode_bytes`. With `least`, a JPEG is decoded at the smallest
    scale of 1, 1/2, 1/4 and 1/8 that leaves at least that many pixels on both sides.

    Raises
    ------
    DataError
        If it is not a picture, is corrupt or truncated, or has more than MAX_PIXELS pixels or MAX_SIDE per side.
        The message begins with `name`.
    """
    try:
        with warnings.catch_warnings():
            # Large and corrupt pictures are errors here, so Pillow's own warnings would only repeat them.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=[format_of(content) or ""]) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise _too_large(name, f"{image.width:,} × {image.height:,} pixels")
                if max(image.size) > MAX_SIDE:
                    raise DataError(
                        f"{name}: {image.width:,} × {image.height:,} pixels; at most {MAX_SIDE:,} per side are "
                        "decoded; make it smaller, or remove it"
                    )
                if least and image.format in ("JPEG", "MPO"):
                    image.draft(None, (least, least))
                image.load()
                if image.format == "PNG":
                    _mark_transparent(image, content, name)
                turn = _turn(image)
                rgb = to_rgb(image, name)
            del image  # so that only two copies of a large picture are in memory
            return rgb if turn is None else rgb.transpose(turn)
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error).split(" exceeds")[0]) from error  # Pillow's message has the number of pixels
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not a picture; supported formats are {', '.join(FORMATS)}; {REPLACE}") from error
    except DAMAGED as error:
        raise DataError(f"{name}: corrupt or truncated picture: {error}; {REPLACE}") from error
    except MemoryError as error:
        raise DataError(f"{name}: decoding takes more memory than is available or allowed; {REPLACE}") from error


def _too_large(name: str, what: str) -> DataError:
    return DataError(
        f"{name}: {what}; at most {MAX_PIXELS / 1e6:.0f} million are decoded; make it smaller, or remove it"
    )


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The rotation that a picture's EXIF data asks for, if any."""
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except DAMAGED:
        return None  # the pixels are intact; unreadable EXIF data is ignored
    return TURNS.get(orientation) if isinstance(orientation, int) else None


def _mark_transparent(image: Image.Image, content: bytes, name: str) -> None:
    """Put the transparent colour of a grey or RGB PNG where `to_rgb` looks for it, on the scale of the pixels there.

    The file stores it on the scale of its samples. Pillow scales samples of 2 and 4 bits to 8, but not this colour (PNG
    specification, 3rd edition, 11.3.1.1). Raises: DataError for 16-bit RGB, because Pillow keeps only 8 bits and the
    transparent pixels can no longer be identified.
    """
    depth, kind = content[24], content[25]
    at, key = PNG_FIRST_CHUNK, b""
    while not key and at < len(content) and content[at + 4 : at + 8] != b"IDAT":
        size = int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] == b"tRNS":
            key = content[at + 8 : at + 8 + size]
        at += size + 12
    if kind == PNG_GREY and len(key) == 2:
        grey = int.from_bytes(key, "big")
        image.info["transparency"] = grey if depth == 16 else grey * (255 // (2**depth - 1))
    elif kind == PNG_RGB and len(key) == 6 and depth == 16:
        raise DataError(
            f"{name}: 16 bits per channel with a transparent colour, which is lost when it is reduced to 8 bits; "
            "save it with an alpha channel"
        )


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert any 8- or 16-bit mode to RGB. Transparent pixels are blended with white; 16-bit grey is scaled, not
    clipped.

    Raises: DataError for floating-point pixels, whose range is unknown.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # I;16, I;16B, and I, which Pillow uses for some 16-bit files
        return _by_tiles(image, lambda tile: _grey_of_16_bits(tile, name))
    if image.mode == "F":
        raise DataError(f"{name}: the range of floating-point pixels is unknown; save it with 8 or 16 bits")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        return _by_tiles(image, _over_white)
    return image.convert("RGB")


def _by_tiles(image: Image.Image, converted: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert a picture to RGB tile by tile, so that only one intermediate tile is in memory."""
    W, H = image.size
    if max(W, H) <= TILE:
        return converted(image).convert("RGB")
    whole = Image.new("RGB", (W, H))
    for left, top in itertools.product(range(0, W, TILE), range(0, H, TILE)):
        box = (left, top, min(W, left + TILE), min(H, top + TILE))
        whole.paste(converted(image.crop(box)), box)
    return whole


def _grey_of_16_bits(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DataError(f"{name}: the range of integer pixels outside 0…65535 is unknown")
    grey = np.round(values / 257).astype(np.uint8)
    grey[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(grey)


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
