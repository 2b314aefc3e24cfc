"""Choose the partners of each image of a set, for networks that attend groups of images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import ArgumentError

SEED = 0
"""Seed of the partners in an extraction."""


def partner_rows(ids: Sequence[str], partners: int, seed: int = 0) -> NDArray[np.int64]:
    """The rows of each image's partners.

    The images are arranged in a circle, sorted by the SHA-256 of seed and id. The partners of an image are the next
    images. They therefore depend only on the set of ids and the seed, and an image has distinct partners other than
    itself.

    Parameters
    ----------
    ids : sequence of str
        N unique names.
    partners : int
        Partners per image, k; less than N.
    seed : int, default=0
        Random seed of the circle.

    Returns
    -------
    ndarray
        (N, k), int64.

    Raises
    ------
    ArgumentError
        If there are `partners` images or fewer.

    Examples
    --------
    >>> partner_rows(["a", "b", "c"], 2).tolist()
    [[2, 1], [0, 2], [1, 0]]
    """
    N = len(ids)
    if not 0 <= partners < N:
        raise ArgumentError(f"partners must be at least 0 and less than the number of images, {N}; got {partners}")
    digests = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in ids]
    circle = np.array(sorted(range(N), key=digests.__getitem__), dtype=np.int64)
    found = np.empty((N, partners), dtype=np.int64)
    for step in range(partners):
        found[circle, step] = np.roll(circle, -1 - step)
    return found
