"""What the command knows of a format."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

Damage = Callable[[Path, Random], str]
"""Changes a copy of a whole file, or of a folder, in place, and says what it did."""


@dataclass(frozen=True)
class Kind:
    """`seeds` writes the whole files, or folders, into a folder; those called `*.foreign` may be refused as they are.

    `answer` is a digest of all that a reader gives. `sealed`: every changed value is noticed, so that no other valid
    file can come of a change. `share`: how many of the cases, relative to the others.
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
