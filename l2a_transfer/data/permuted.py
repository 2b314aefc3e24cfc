"""A data set with permuted labels, which a network can only memorize."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.sources import ImageSource, Subset

SUFFIX = "-permuted-labels"
"""Suffix of the names of such data sets, and therefore of weights that were trained on them."""


@dataclass(frozen=True, eq=False)
class PermutedLabels(Subset):
    """All rows of another source with permuted labels. Each class keeps its number of rows.

    Parameters
    ----------
    whole : ImageSource
        The pictures.
    rows : ndarray
        All rows.
    seed : int
        Seed of the permutation, which is always the same for one seed.
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
