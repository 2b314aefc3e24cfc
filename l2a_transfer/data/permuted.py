"""A data set whose labels were permuted once, for a network that can learn nothing but them by heart."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.sources import ImageSource, Subset

SUFFIX = "-permuted-labels"
"""What the name of such a data set ends in, and so the names of weights that were trained on it."""


@dataclass(frozen=True, eq=False)
class PermutedLabels(Subset):
    """All rows of another source, with its labels in another order: each class keeps its number of rows.

    Parameters
    ----------
    whole : ImageSource
        The pictures.
    rows : ndarray
        All rows.
    seed : int
        Of the permutation, which is the same whenever it is asked for.
    """

    seed: int

    @classmethod
    def of(cls, source: ImageSource, seed: int) -> PermutedLabels:
        """The source with permuted labels."""
        return cls(source, np.arange(len(source)), seed)

    @property
    def name(self) -> str:
        return f"{self.whole.name}{SUFFIX}"

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        order = np.random.default_rng(self.seed).permutation(len(self.whole))
        return self.whole.labels[order]

    def fingerprint(self) -> str:
        content = self.whole.fingerprint().encode() + b"labels" + self.labels.tobytes()
        return hashlib.sha256(content).hexdigest()
