"""One picture file → RGB, in this process or, if decoding could take long or much memory, in one with limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from PIL import Image

from l2a_transfer.data.decode_pixels import (
    DAMAGED,
    FORMATS,
    MAX_FILE_BYTES,
    OTHER_PICTURES,
    REPLACE,
    SUFFIXES,
    decode_in_process,
    to_rgb,
)
from l2a_transfer.data.decode_subprocess import decode_in_subprocess
from l2a_transfer.data.picture_structure import format_of, is_simple, jpeg_scans
from l2a_transfer.errors import DataError
from l2a_transfer.inputs import check_input, read_input

__all__ = [
    "DAMAGED",
    "FORMATS",
    "MAX_FILE_BYTES",
    "OTHER_PICTURES",
    "SUFFIXES",
    "decode_bytes",
    "decode_file",
    "decoded_at_least",
    "to_rgb",
]
MAX_SCANS = 100
"""Scans of a JPEG. Encoders write about ten; each is a pass over all pixels."""
MAX_SECONDS = 60.0
"""Limit of CPU time for a picture that is not simple; 100 million pixels of any format take a few seconds."""
MAX_MEMORY = 2 << 30
"""Limit of memory in bytes for a picture that is not simple: the file, the pixels and the decoder's own data."""


_LEAST_SIDE: ContextVar[int] = ContextVar("least_side", default=0)


@contextmanager
def decoded_at_least(side: int) -> Iterator[None]:
    """Within this context, simple JPEG files may be decoded at a half, a quarter or an eighth of their size.

    The scale is the smallest that leaves `side` pixels on both sides; 0 decodes all at full size. This is not a
    parameter of a source, because it does not affect which picture is read.
    """
    before = _LEAST_SIDE.set(side)
    try:
        yield
    finally:
        _LEAST_SIDE.reset(before)


def decode_file(path: Path) -> Image.Image:
    """Decode a picture file: mode RGB, rotated according to its EXIF data, first frame of an animation.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    PIL.Image.Image
        The picture, in mode RGB.

    Raises
    ------
    DataError
        If the file cannot be read, is not a picture, is corrupt or truncated, has more than 100 million pixels, or
        takes more time or memory than any picture needs. The message contains the path.
    """
    try:
        size = check_input(path).st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{path}: {size >> 20} MiB; at most {MAX_FILE_BYTES >> 20} are decoded")
        content = read_input(path, MAX_FILE_BYTES)
    except IsADirectoryError as error:
        raise DataError(f"{path}: expected a picture, got a folder; give the pictures in it") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; {REPLACE}") from error
    return decode_bytes(content, str(path))


def decode_bytes(content: bytes, name: str) -> Image.Image:
    """Decode `content` like `decode_file`; `name` is its name in errors.

    A picture that is not simple (see `picture_structure.is_simple`) is decoded in another process, with at most
    MAX_SECONDS and MAX_MEMORY.
    """
    if not content:
        raise DataError(f"{name}: empty file, expected a picture; {REPLACE}")
    kind = format_of(content)
    if kind is None or kind not in FORMATS:
        raise DataError(f"{name}: not a picture; supported formats are {', '.join(FORMATS)}; {REPLACE}")
    if is_simple(content, kind):
        return decode_in_process(content, name, least=_LEAST_SIDE.get())
    if kind == "JPEG" and jpeg_scans(content, MAX_SCANS) > MAX_SCANS:
        raise DataError(
            f"{name}: a JPEG with more than {MAX_SCANS} scans, which would take too long to decode; {REPLACE}"
        )
    return decode_in_subprocess(content, name, seconds=MAX_SECONDS, memory=MAX_MEMORY)
