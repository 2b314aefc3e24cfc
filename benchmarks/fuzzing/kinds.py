"""The description of a format for the fuzzer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

Damage = Callable[[Path, Random], str]
"""Changes a copy of an original file, or of a folder, in place, and returns a description."""


@dataclass(frozen=True)
class Kind:
    """`seeds` writes the original files, or folders, into a folder; those named `*.foreign` may be rejected undamaged.

    `answer`: a digest of everything that a reader returns. `sealed`: every changed value is detected, so a change
    cannot produce another valid file. `share`: relative number of cases.
    """

    seeds: Callable[[Path], None]
    damage: Damage
    answer: Callable[[Path], str]
    sealed: bool = False
    share: int = 1


def sha256(*parts: Any) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode(errors="surrogatepass"))
    return sha.hexdigest()
