"""Pictures: every supported format, and files that declare more data than they contain or have another format."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, TiffTags
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from fuzzing.kinds import Kind, sha256
from fuzzing.mutate import mutate, mutate_file, pick, special_file
from l2a_transfer.data.decode import FORMATS, decode_file
from l2a_transfer.errors import DataError
from l2a_transfer.preprocess import Preprocess

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FOREIGN = ("EPS", "ICO", "PCX", "TGA", "SGI", "DDS", "ICNS", "IM", "MSP", "XBM", "PDF", "BLP", "DIB", "SPIDER", "QOI")
"""Formats of Pillow that are never decoded, whatever the file name."""


def picture(width: int = 40, height: int = 32) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def encoded(name: str, image: Image.Image | None = None, **options: object) -> bytes:
    content = io.BytesIO()
    (image or picture()).save(content, name, **options)
    return content.getvalue()


def seeds(folder: Path) -> None:
    for name in FORMATS:
        (folder / f"rgb.{name.lower()}").write_bytes(encoded(name))
    (folder / "progressive.jpeg").write_bytes(encoded("JPEG", picture().convert("L"), progressive=True))
    (folder / "palette.png").write_bytes(encoded("PNG", picture().convert("P"), transparency=3))
    (folder / "deflate.tiff").write_bytes(encoded("TIFF", compression="tiff_adobe_deflate"))
    grey = Image.fromarray(np.arange(1280, dtype=np.uint16).reshape(32, 40) * 50)
    (folder / "grey16.png").write_bytes(encoded("PNG", grey))
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "turned.jpeg").write_bytes(encoded("JPEG", exif=exif))
    frames = [picture().rotate(turn) for turn in (10, 20, 30)]
    (folder / "frames.gif").write_bytes(encoded("GIF", save_all=True, append_images=frames))


def answer(path: Path) -> str:
    image = decode_file(path)
    assert image.mode == "RGB"
    try:
        return sha256(image.size, Preprocess().pixels(image))
    except MemoryError as error:  # of a picture of 1 × 100 million; a reader of batches says the same
        raise DataError(f"{path}: needs more memory than is available") from error


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def zeros(count: int) -> bytes:
    """`count` zeros packed by zlib, a thousandth of the size."""
    packer, block = zlib.compressobj(9), 1 << 20
    head = packer.compress(bytes(count % block)) + packer.flush(zlib.Z_FULL_FLUSH)
    repeated = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers to what was before, so that a block can come again.
    checksum = (count % 65521) << 16 | 1
    return head + repeated * (count // block) + b"\x03\0" + checksum.to_bytes(4, "big")


def _png(rng: Random) -> bytes:
    """A PNG of any size, depth and colour type, with any number of its rows."""
    width, height = rng.choice(((10_000, 9_999), (9_999, 10_000), (1, 99_999_999), (40, 32), (65_536, 65_536), (0, 5)))
    depth, kind = rng.choice(((16, 0), (16, 2), (16, 4), (16, 6), (8, 2), (8, 3), (1, 0), (8, 6), (32, 2)))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    rows = (width * channels * depth // 8 + 1) * height
    held = zeros(min(rows, rng.choice((1000, 64 << 20, 850 << 20))))
    extra = b""
    if kind == 3:
        extra = chunk(b"PLTE", bytes(range(9))) + chunk(b"tRNS", b"\x80" * rng.choice((1, 3, 300)))
    elif rng.random() < 0.5:
        extra = chunk(b"tRNS", bytes(rng.choice((1, 2, 6))))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, rng.choice((0, 1))))
    return PNG_SIGNATURE + header + extra + chunk(b"IDAT", held) + chunk(b"IEND", b"")


def _png_chunks(rng: Random) -> bytes:
    """A small PNG with chunks that expand to large data, are very many, or are frames of an animation."""
    whole = encoded("PNG")
    bomb = zeros(rng.choice((1 << 20, 64 << 20, 512 << 20)))
    added = rng.choice(
        (
            lambda: chunk(b"zTXt", b"a\0\0" + bomb),
            lambda: chunk(b"iCCP", b"a\0\0" + bomb),
            lambda: chunk(b"iTXt", b"a\0\1\0\0\0" + bomb),
            lambda: chunk(b"tEXt", b"a\0" + b"b" * (4 << 20)),
            lambda: chunk(b"tEXt", b"k\0v") * 100_000,
            lambda: chunk(b"gAMA", b"") * 50_000,
            lambda: chunk(b"acTL", struct.pack(">II", 0xFFFFFFFF, 0)),
            lambda: (
                chunk(b"acTL", struct.pack(">II", 2, 0))
                + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 0xFFFF, 0xFFFF, 0, 0, 1, 1, 0, 0))
            ),
            lambda: chunk(b"eXIf", b"MM\0*" + b"\xff" * 5000),
            lambda: chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 16, 0, 0, 0, 0)),
            lambda: (0xFFFFFFFF).to_bytes(4, "big") + b"tEXt",
            lambda: chunk(b"zTXt", b"a\0\0" + zeros(1 << 20)) * 600,
        )
    )()
    at = rng.choice((33, len(whole) - 12))  # after IHDR, before IEND
    return whole[:at] + added + whole[at:]


def _scans(rng: Random) -> bytes:
    """A progressive JPEG with many repeated scans, of up to 10,000 × 9,999 pixels."""
    width, height = rng.choice(((40, 32), (40, 32), (2_000, 2_000), (10_000, 9_999)))
    content = encoded("JPEG", Image.new("L", (width, height), 90), progressive=True, quality=30)
    first = content.index(b"\xff\xda")
    scans, end = content[first:-2], content[-2:]
    length = max(1, min(len(scans), 40_000))
    again = rng.choice((2, 50, 400, 5000)) if length < 2000 else rng.choice((2, 10))
    ac = scans[scans.rindex(b"\xff\xda") :]
    return content[:first] + scans + ac * again + end


def _jpeg(rng: Random) -> bytes:
    """A JPEG with sizes, sampling, tables or segments that do not match its data."""
    content = bytearray(encoded("JPEG", progressive=rng.random() < 0.5))
    frame = next(content.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in content)
    how = rng.randrange(6)
    if how == 0:
        content[frame + 5 : frame + 9] = struct.pack(
            ">HH", *rng.choice(((65535, 65535), (65500, 1500), (0, 40), (10_000, 9_999)))
        )
    elif how == 1:
        content[frame + 11] = rng.choice((0x00, 0x44, 0x41, 0xFF))
    elif how == 2:
        segment = b"\xff" + bytes([rng.choice((0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE))])
        inside = rng.choice(
            (b"Exif\0\0MM\0*", b"ICC_PROFILE\0\1\xff", b"Photoshop 3.0\0" + b"8BIM" * 50, b"MPF\0II*\0")
        )
        own = inside + rng.randbytes(rng.choice((10, 2000)))
        content[2:2] = (segment + (len(own) + 2).to_bytes(2, "big") + own) * rng.choice((1, 300, 5000))
    elif how == 3:
        content[frame + 4] = rng.choice((0, 12, 16))
    elif how == 4:
        content[-2:] = b"\xff\xdd\0\4\0\1" + b"\xff\xd0" * 100_000 + b"\xff\xd9"
    else:
        content = content[: frame + 30] + bytearray(rng.randbytes(rng.choice((0, 100, 100_000))))
    return bytes(content)


def _tiff(rng: Random) -> bytes:
    """A TIFF with contradictory tags, many directories, or a cycle of directories."""
    how = rng.randrange(4)
    if how == 0:
        tags = ImageFileDirectory_v2()
        tag = rng.choice((270, 700, 33723, 50000))
        tags.tagtype[tag] = TiffTags.UNDEFINED
        tags[tag] = b"x" * rng.choice((10, 4 << 20))
        return encoded("TIFF", tiffinfo=tags)
    if how == 1:
        frames = [Image.new("L", (1, 1))] * 300
        return encoded("TIFF", Image.new("L", (1, 1)), save_all=True, append_images=frames)
    content = bytearray(
        encoded("TIFF", compression=rng.choice(("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")))
    )
    order = "<" if content[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", content, 4)
    (entries,) = struct.unpack_from(order + "H", content, start)
    if how == 2:
        struct.pack_into(order + "I", content, start + 2 + 12 * entries, start)
        return bytes(content)
    for _ in range(rng.choice((1, 2, 4))):
        at = start + 2 + 12 * rng.randrange(entries)
        field, value = rng.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I")))
        most = (1 << 8 * struct.calcsize("<" + value)) - 1
        struct.pack_into(
            order + value, content, at + field, min(rng.choice((0, 1, 2, 3, 7, 8, 32, 9999, 10_000, most)), most)
        )
    return bytes(content)


def _frames(rng: Random) -> bytes:
    """Animations of many or of large frames."""
    name = rng.choice(("GIF", "WEBP", "PNG"))
    size = rng.choice(((1, 1), (1500, 1500)))
    frames = [Image.new("P", size, k % 7) for k in range(200 if size == (1, 1) else 3)]
    if name != "GIF":
        frames = [frame.convert("RGB") for frame in frames]
    return encoded(name, frames[0], save_all=True, append_images=frames[1:])


def _plain(rng: Random) -> bytes:
    """A PPM or a BMP that declares any size."""
    size = rng.choice(
        (b"10000 9999", b"9" * 30 + b" 1", b"-5 5", b"1 " + b"0" * 5000 + b"1", b"#" + b"c" * 100_000 + b"\n3 3")
    )
    if rng.random() < 0.5:
        kind, largest = (
            rng.choice((b"P5", b"P6", b"P2", b"P3", b"P1", b"P4", b"Pf", b"PF", b"P7", b"Py", b"P0CMYK")),
            rng.choice((b"255", b"65535", b"1", b"0", b"99999")),
        )
        body = rng.choice((b"", bytes(1 << 20), b"9 " * 1_000_000, b"#" * 1_000_000))
        return kind + b"\n" + size + b"\n" + largest + b"\n" + body
    content = bytearray(encoded("BMP", picture().convert(rng.choice(("RGB", "L", "1", "P")))))
    for _ in range(rng.choice((1, 2))):
        at = rng.choice((10, 14, 18, 22, 26, 28, 30, 34, 46))
        struct.pack_into(
            "<i", content, at, rng.choice((0, 1, -1, 8, 16, 32, 40, 124, 9_999, 10_000, 2**31 - 1, -(2**31)))
        )
    return bytes(content)


def _foreign(rng: Random) -> bytes:
    """A format that is not decoded; some of these Pillow passes to other programs."""
    name = rng.choice((*FOREIGN, "EPS", "script", "svg", "fits", "wmf", "psd", "gbr", "nothing"))
    raw = {
        "script": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9999 9999\n%%EndComments\n{} loop\n%%EOF\n",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>',
        "fits": b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80) + bytes(4000),
        "wmf": b"\xd7\xcd\xc6\x9a\0\0" + bytes(100),
        "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9999, 9999, 8, 3),
        "gbr": struct.pack(">7I", 29, 2, 9999, 9999, 4, 0, 1) + b"\0",
        "nothing": b"",
    }
    if name in raw:
        return raw[name]
    modes = {"XBM": "1", "MSP": "1", "SPIDER": "F"}
    try:
        return encoded(name, picture(48, 48).convert(modes.get(name, "RGB")))
    except (KeyError, OSError, ValueError):  # this Pillow does not write it
        return raw["script"]


def _truncated(rng: Random) -> bytes:
    content = encoded(rng.choice(FORMATS))
    return content[: rng.randrange(len(content))] + rng.choice((b"", bytes(1000), content))


WAYS: tuple[Callable[[Random], bytes], ...] = (
    _png,
    _png_chunks,
    _scans,
    _jpeg,
    _tiff,
    _frames,
    _plain,
    _foreign,
    _truncated,
)


def hostile_picture(rng: Random) -> bytes:
    """A picture by one of WAYS, sometimes with a byte or two changed."""
    content = rng.choice(WAYS)(rng)
    return mutate(content, rng) if rng.random() < 0.2 and len(content) < 1 << 20 else content


def _replace(path: Path, rng: Random) -> str:
    way = rng.choice(WAYS)
    path.write_bytes(way(rng))
    return way.__name__.strip("_")


damage = pick((10, mutate_file), (10, _replace), (1, special_file))
KIND = Kind(seeds, damage, answer, share=7)
