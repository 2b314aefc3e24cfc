"""Which images are attended together: the partners of each image of a set, for networks over groups of images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import ArgumentError

SEED = 0
"""Of the partners in an extraction."""


def partner_rows(ids: Sequence[str], partners: int, seed: int = 0) -> NDArray[np.int64]:
    """The rows of each image's partners.

    The images stand in a circle, ordered by the SHA-256 of seed and id. The partners of an image are those that follow
    it. So they depend on the set of ids and the seed alone, and no image is its own partner or has one twice.

    Parameters
    ----------
    ids : sequence of str
        N different names.
    partners : int
        How many of each image, k; less than N.
    seed : int, default=0
        Another seed gives another circle.

    Returns
    -------
    ndarray
        (N, k), int64.

    Raises
    ------
    ArgumentError
        If there are not more than `partners` images.

    Examples
    --------
    >>> partner_rows(["a", "b", "c"], 2).tolist()
    [[2, 1], [0, 2], [1, 0]]
    """
    N = len(ids)
    if not 0 <= partners < N:
        raise ArgumentError(f"partners must be at least 0 and fewer than the images, {N}; got {partners}")
    digests = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in ids]
    circle = np.array(sorted(range(N), key=digests.__getitem__), dtype=np.int64)
    found = np.empty((N, partners), dtype=np.int64)
    for step in range(partners):
        found[circle, step] = np.roll(circle, -1 - step)
    return found
