"""What the names of files, folders and classes say, and in which letters they are kept."""

from __future__ import annotations


def text_of(value: object) -> str:
    """A value as text; bytes, as h5py and NumPy give text back, are UTF-8. Raises: UnicodeDecodeError."""
    return value.decode() if isinstance(value, bytes) else str(value)
