"""A checkpoint is written whole or not at all, and belongs to one run: its fingerprint says which."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from l2a_transfer import files
from l2a_transfer.errors import TrainingError

SCHEMA = "l2a-checkpoint/1"
HINTS = {"threads": " (OMP_NUM_THREADS sets them)", "processes": " (torchrun sets them)"}
"""Of what no option of `train` sets."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write atomically: after a kill or a full disk `path` is the previous checkpoint or the whole new one.

    Raises: TrainingError where the disk refuses.
    """
    whole = io.BytesIO()  # torch itself says of a full disk "unexpected pos"
    torch.save({"schema": SCHEMA, **content}, whole)
    write_whole(path, whole.getbuffer())


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """A file of a run. Raises: TrainingError where the disk refuses; `path` is then as before."""
    try:
        files.write_whole(path, content)
    except OSError as error:
        raise TrainingError(
            f"{path}: could not be saved ({error.strerror or error}); what was saved before it is kept. Make room, and "
            "go on with --resume"
        ) from error


def load_checkpoint(path: Path, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """The content that `save_checkpoint` wrote for this very run.

    Raises: TrainingError where the file is damaged, or another config, recipe, seed or data set made it; the error
    names what differs.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads the archive without looking at its checksums
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{damaged} does not have its checksum")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}; make it a file that can be read") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f"{path}: damaged or not a checkpoint: {first}; --overwrite starts again") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or "fingerprint" not in content:
        raise TrainingError(f"{path}: not an {SCHEMA} checkpoint; --overwrite starts again")
    theirs = content["fingerprint"]
    differing = sorted(key for key in {*theirs, *fingerprint} if theirs.get(key) != fingerprint.get(key))
    if differing:
        named = "; ".join(
            f"{key}: {theirs.get(key)} there, {fingerprint.get(key)} here{HINTS.get(key, '')}" for key in differing
        )
        raise TrainingError(f"{path}: made by another run ({named}); use another --out, or the same options")
    return content
