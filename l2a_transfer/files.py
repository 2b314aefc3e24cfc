"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

FORMATS = frozenset((
    ".7z", ".arrow", ".avi", ".bmp", ".csv", ".db", ".doc", ".docx", ".feather", ".gif", ".gz", ".h5", ".hdf5", ".htm",
    ".html", ".jpeg", ".jpg", ".json", ".jsonl", ".mat", ".md", ".npy", ".npz", ".onnx", ".parquet", ".pdf", ".pickle",
    ".pkl", ".png", ".pt", ".pth", ".py", ".safetensors", ".sqlite", ".svg", ".tar", ".tgz", ".tif", ".tiff", ".toml",
    ".tsv", ".txt", ".webp", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip",
))  # fmt: skip
"""Suffixes that say what is in a file."""


def names_a_format(path: Path) -> bool:
    """True where a name ends in a suffix that says what is in the file, as .csv."""
    return path.suffix.lower() in FORMATS


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write by way of a partial file, synced and renamed: `path` is then the old file or the whole new one.

    Raises: OSError where the disk refuses. After any error, and Ctrl-C, the partial file is removed.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # of a process that was killed; a link is not followed
        with open(partial, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
