"""Small hostile files, made anew: each is a function that returns the bytes of one."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

ADDRESS = 0x0000_4141_4141_4140
"""Where `forged_cifar_batch` would have NumPy look for an object."""


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _bytes(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def forged_cifar_batch() -> bytes:
    """A pickle of nothing but numpy.dtype, numpy.ndarray and _reconstruct that has NumPy follow ADDRESS.

    An array of a structured dtype, which is said to hold no references, gets plain bytes as its memory; then a second
    BUILD says of the same dtype that it holds references.
    """
    none, false, true = b"N", b"\x89", b"\x88"

    def dtype(code: str) -> bytes:
        return _global("numpy", "dtype") + _tuple(_text(code), false, true) + b"R"

    reference = dtype("O") + _tuple(_number(3), _text("|"), none, none, none, *map(_number, (-1, -1, 63))) + b"b"
    fields = b"}" + _text("f") + _tuple(reference, _number(0)) + b"s"

    def flags(value: int) -> bytes:
        names = _tuple(_text("f"))
        return _tuple(_number(3), _text("|"), none, names, fields, _number(8), _number(1), _number(value)) + b"b"

    array = _global("numpy.core.multiarray", "_reconstruct") + _tuple(
        _global("numpy", "ndarray"), _tuple(_number(0)), _bytes(b"b")
    )
    memory = struct.pack("<Q", ADDRESS) * 64
    return (
        b"\x80\x03"
        + dtype("V8")
        + b"q\x07"
        + flags(0)
        + b"0"
        + array
        + b"Rq\x08"
        + _tuple(_number(1), _tuple(_number(64)), b"h\x07", false, _bytes(memory))
        + b"b0"
        + b"h\x07"
        + flags(63)
        + b"0}"
        + _bytes(b"data")
        + b"h\x08s."
    )


def pickle_with_far_memo() -> bytes:
    """Ten bytes for which the unpickler of C before Python 3.15 takes 32 GiB: a place far up in its memo."""
    return b"\x80\x02}r" + struct.pack("<I", 0x7FFF_FFFF) + b"."


def pickle_with_long_string() -> bytes:
    """A string that declares an exbibyte and has none of it."""
    return b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x."


def pickle_with_deep_key(depth: int = 200_000) -> bytes:
    """A dictionary whose key is a tuple in a tuple in a tuple …, which a recursion without an end would hash."""
    return b"\x80\x02}" + b")" + b"\x85" * depth + b"Ns."


def pickle_encoding_again(times: int = 5_000, size: int = 100_000) -> bytes:
    """One text that is encoded again and again, into bytes that are each its own: 500 MB from 130 KB."""
    ask = b"h\x00(h\x01h\x02tRa"
    head = b"\x80\x02(" + _global("_codecs", "encode") + b"q\x00" + _text("x" * size) + b"q\x01" + _text("latin1")
    return head + b"q\x02]" + ask * times + b"t."


PICKLES = {
    "memo": pickle_with_far_memo,
    "string": pickle_with_long_string,
    "key": pickle_with_deep_key,
    "encoded": pickle_encoding_again,
}


def eps() -> bytes:
    """A picture of PostScript, for which Pillow starts Ghostscript."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def jpeg_of_scans(scans: int, side: int = 64) -> bytes:
    """A progressive JPEG with about so many scans: its last one, again and again."""
    buffer = io.BytesIO()
    pixels = np.arange(side * side, dtype=np.uint32).reshape(side, side)
    Image.fromarray((pixels * 2654435761 >> 24).astype(np.uint8)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (scans - content.count(b"\xff\xda")) + content[-2:]


def png_of_chunks(chunks: int) -> bytes:
    """A PNG of 8 × 8 pixels among so many empty chunks."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 77).save(buffer, "PNG")
    content = buffer.getvalue()
    empty = b"\0\0\0\0teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    return content[:33] + empty * chunks + content[33:]


def tiff_of_tags(tags: int, size: int) -> bytes:
    """A TIFF of 1 × 1 pixel with so many notes, all of which are the same `size` bytes of the file."""
    known = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in known.items()]
    at = 8 + 2 + 12 * (len(known) + tags) + 4
    entries += [struct.pack("<HHII", 1000 + k, 7, size, at) for k in range(tags)]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4) + bytes(size)


def grey_of_16_bits(width: int, height: int) -> bytes:
    """A PNG of 16 bits a pixel that is small as a file."""
    return png_file((width, height), 16, 0, bytes(height * (1 + 2 * width)))


def png_file(size: tuple[int, int], depth: int, kind: int, data: bytes, transparent: bytes = b"") -> bytes:
    """A PNG of (W, H) pixels, `depth` bits a sample, of colour type `kind`; `data` are its rows, filter bytes too."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    key = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + key + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


PICTURES = {
    "eps": eps,
    "scans": lambda: jpeg_of_scans(400),
    "chunks": lambda: png_of_chunks(60_000),
    "tags": lambda: tiff_of_tags(5_000, 4 << 20),
    "grey": lambda: grey_of_16_bits(10_000, 9_999),
}


def mat_of_cells(depth: int) -> bytes:
    """A MATLAB file of a cell in a cell in a cell …, which a recursion without an end would follow."""
    inner = struct.pack("<II", 14, 0)
    head = struct.pack("<IIII", 6, 8, 1, 0) + struct.pack("<IIii", 5, 8, 1, 1) + struct.pack("<II", 1, 0)
    parts, size = [inner], len(inner)
    for _ in range(depth):
        parts.append(struct.pack("<II", 14, size + len(head)) + head)
        size += len(head) + 8
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(reversed(parts))
