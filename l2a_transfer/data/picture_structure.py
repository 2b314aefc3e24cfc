"""Inspect a picture's bytes before they are decoded: its format, its number of scans, and whether it is simple.

A simple picture has a common size and nothing that could cost a decoder minutes or gigabytes. Other pictures are
decoded in a separate process.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import numpy as np

SIMPLE_PIXELS = 32_000_000
SIMPLE_SCANS = 12
"""Limit for a JPEG with SIMPLE_PIXELS; a smaller one may have up to thirty."""
SIMPLE_NOTE = 1 << 16
"""Limit of metadata that Pillow parses, such as EXIF. All its entries can refer to the same bytes, each as a copy."""
SIMPLE_BLOCKS = 1_000
"""Limit of segments, chunks or blocks besides the pixels."""
SIMPLE_CHUNKS = 50_000
"""Limit for a PNG, whose pixels are in chunks too."""

_BEGINNINGS: dict[str, Callable[[bytes], object]] = {
    "JPEG": lambda b: b.startswith(b"\xff\xd8\xff"),
    "PNG": lambda b: b.startswith(b"\x89PNG\r\n\x1a\n"),
    "WEBP": lambda b: b.startswith(b"RIFF") and b[8:12] == b"WEBP",
    "GIF": lambda b: b.startswith((b"GIF87a", b"GIF89a")),
    "BMP": lambda b: b.startswith(b"BM"),
    "TIFF": lambda b: b[:4] in (b"MM\0*", b"II*\0", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0"),
    "PPM": lambda b: re.match(rb"P[0-6fy]", b),
    "JPEG2000": lambda b: b.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")),
    "AVIF": lambda b: b[4:12] in (b"ftypavif", b"ftypavis", b"ftypmif1", b"ftypmsf1"),
}


def format_of(content: bytes) -> str | None:
    """Pillow's name of the format that a file begins with; None if it is not supported."""
    head = content[:16]
    return next((name for name, begins in _BEGINNINGS.items() if begins(head)), None)


def is_simple(content: bytes, kind: str) -> bool:
    """True if, according to its headers, a picture of the format `kind` takes little time and memory to decode."""
    try:
        return _SIMPLE[kind](content) if kind in _SIMPLE else False
    except (struct.error, IndexError):
        return False  # truncated


# JPEG (ITU-T T.81, annex B): 0xFF and a marker, then, for all but some, the length of what follows.
SOS, EOI, APP1 = 0xDA, 0xD9, 0xE1
SIZES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
BARE = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def jpeg_scans(content: bytes, most: int) -> int:
    """The number of scans of a JPEG, at most `most` + 1. Each scan is a pass over all pixels, however short it is."""
    if (marks := _scan_marks(content)) <= most:
        return marks
    scans, at = 0, 2
    while scans <= most and (found := _MARKER.search(content, at)) and found[0][1] != EOI:
        scans += found[0][1] == SOS
        at = found.end()
        if found[0][1] not in BARE:
            at += max(2, int.from_bytes(content[at : at + 2], "big"))
    return scans


def _scan_marks(content: bytes) -> int:
    """An upper limit for a JPEG's number of scans: thumbnails and data after the picture may contain scan markers."""
    if len(content) < 1 << 13:
        return content.count(b"\xff\xda")
    found = 0
    for start in range(0, len(content), 1 << 20):  # four times faster than bytes.count
        values = np.frombuffer(content, dtype=np.uint8, offset=start, count=min(1 + (1 << 20), len(content) - start))
        found += int(np.count_nonzero((values[:-1] == 0xFF) & (values[1:] == SOS)))
    return found


def _simple_jpeg(content: bytes) -> bool:
    at, note, pixels = 2, 0, 0
    for _ in range(SIMPLE_BLOCKS):
        start, marker, size = struct.unpack_from(">BBH", content, at)
        if start != 0xFF or marker in BARE or size < 2:
            return False
        if marker == SOS:
            scans = _scan_marks(content)
            return 0 < pixels <= SIMPLE_PIXELS and scans <= 30 and scans * pixels <= SIMPLE_SCANS * SIMPLE_PIXELS
        if marker in SIZES:
            if pixels:
                return False  # with two headers, a decoder may use either
            height, width = struct.unpack_from(">HH", content, at + 5)
            pixels = height * width
        elif marker == APP1:
            note += size if content[at + 4 : at + 8] == b"Exif" else 0
            if note > SIMPLE_NOTE:
                return False
        at += 2 + size
    return False


def _simple_png(content: bytes) -> bool:
    # libpng skips unknown chunks before the header, and Pillow uses the last header.
    if not content.startswith(b"\0\0\0\x0dIHDR", 8):
        return False
    width, height = struct.unpack_from(">II", content, 16)
    at = 8
    for k in range(SIMPLE_CHUNKS):
        if at + 8 > len(content):
            return bool(width * height <= SIMPLE_PIXELS)
        size, name = struct.unpack_from(">I4s", content, at)
        if name == b"IHDR" and k:
            return False
        if name == b"eXIf" and size > SIMPLE_NOTE:
            return False
        if name in (b"tEXt", b"zTXt", b"iTXt") and content.startswith(b"Raw profile type", at + 8):
            return False  # EXIF data in text that may be compressed
        at += size + 12
    return False


def _simple_webp(content: bytes) -> bool:
    name = content[12:16]
    if name == b"VP8X":
        width, height = (int.from_bytes(content[at : at + 3], "little") + 1 for at in (24, 27))
    elif name == b"VP8L":
        bits = struct.unpack_from("<I", content, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif name == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    else:
        return False
    at = 12
    for k in range(SIMPLE_BLOCKS):
        if at + 8 > len(content):
            return bool(2 * width * height <= SIMPLE_PIXELS)  # libwebp keeps four copies of the picture
        name, size = struct.unpack_from("<4sI", content, at)
        if (name == b"EXIF" and size > SIMPLE_NOTE) or (name == b"VP8X" and k):
            return False
        at += 8 + size + size % 2
    return False


def _simple_gif(content: bytes) -> bool:
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    start, left = at, SIMPLE_BLOCKS
    for _ in range(SIMPLE_BLOCKS):
        if content[at] == 0x2C:
            left, top, own_width, own_height = struct.unpack_from("<4H", content, at + 1)
            return bool(max(width, left + own_width) * max(height, top + own_height) <= SIMPLE_PIXELS)
        if content[at] != 0x21 or at - start > SIMPLE_NOTE:
            return False
        at += 2
        # After an empty extension, Pillow skips blocks that do not belong to it according to the format.
        if not content[at] or (content.startswith(b"NETSCAPE2.0", at + 1) and not content[at + 1 + content[at]]):
            return False
        while content[at]:
            at += 1 + content[at]
            left -= 1
            if not left:
                return False
        at += 1
    return False


def _simple_bmp(content: bytes) -> bool:
    header, width, height, _, _, compression = struct.unpack_from("<IiiHHI", content, 14)
    # Pillow decodes the other compressions (run lengths) in Python.
    plain = header in (40, 52, 56, 108, 124) and compression in (0, 3)
    return plain and width > 0 and width * abs(height) <= SIMPLE_PIXELS


_PPM = re.compile(rb"P(?:4\s+(\d+)\s+(\d+)|[56]\s+(\d+)\s+(\d+)\s+255)\s")


def _simple_ppm(content: bytes) -> bool:
    # Pillow reads plain-text formats and ranges other than 0…255 in Python.
    found = _PPM.match(content[:64])
    if not found:
        return False
    width, height = (int(side) for side in found.groups() if side)
    return width * height <= SIMPLE_PIXELS


_SIMPLE: dict[str, Callable[[bytes], bool]] = {
    "JPEG": _simple_jpeg,
    "PNG": _simple_png,
    "WEBP": _simple_webp,
    "GIF": _simple_gif,
    "BMP": _simple_bmp,
    "PPM": _simple_ppm,
}
