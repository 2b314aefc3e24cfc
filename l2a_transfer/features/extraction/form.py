"""Whether an extraction compiles the network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from l2a_transfer.compiling import can_compile
from l2a_transfer.errors import BackendError, unknown_name
from l2a_transfer.features.backends.interface import FeatureBackend
from l2a_transfer.features.extraction.shard_folder import plan_of
from l2a_transfer.features.store.reader import read_meta

log = logging.getLogger(__name__)
COMPILE = ("auto", "on", "off")
IMAGES_PER_THREAD = 15_000
"""From this number on, what the compiled network saves is more than compiling takes (docs/extraction.md)."""


def in_form(
    backend: FeatureBackend, compile: str, *, rows: int, batch_size: int, out: Path, resume: bool, overwrite: bool
) -> FeatureBackend:
    """The backend as an extraction runs it: compiled for its batches, or as it is.

    "auto" does not measure anything, so that the same command gives the same bytes. It compiles a network of this
    package in float32 on a CPU, if there are `IMAGES_PER_THREAD` images for each thread and a C++ compiler. An
    unfinished extraction to `out` that is continued, or a finished one that is verified, keeps its form.

    Raises: UnknownNameError; BackendError if "on" is not possible.
    """
    if compile not in COMPILE:
        raise unknown_name("compile", compile, COMPILE)
    make: Any = getattr(backend, "compiled", None)
    if compile == "on" and make is None:
        raise BackendError(
            f"{backend.card['name']}: {backend.name} networks are not compiled here", "leave `compile` out"
        )
    if make is None or compile == "off":
        return backend
    if compile == "auto" and not _pays(backend, rows, {} if overwrite and not resume else _earlier(out, resume)):
        return backend
    found: FeatureBackend = make(batch_size)
    return found


def _earlier(out: Path, resume: bool) -> dict[str, Any]:
    """The fingerprint of the extraction to `out` that this one continues or verifies; empty if there is none."""
    return plan_of(out) or (read_meta(out)[0].fingerprint if resume and out.is_file() else {})


def _pays(backend: FeatureBackend, rows: int, earlier: dict[str, Any]) -> bool:
    if "form" in earlier:
        return "compiled" in earlier["form"]
    if (backend.device, backend.precision) != ("cpu", "fp32") or not can_compile():
        return False
    import torch

    threads = torch.get_num_threads()
    if rows < IMAGES_PER_THREAD * threads:
        return False
    log.info("compiling the network first, which pays from %d images on", IMAGES_PER_THREAD * threads)
    return True
