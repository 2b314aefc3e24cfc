"""Who is the partner of an image, for networks that attend groups of images: itself, or other images of its set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import ArgumentError, BackendError, unknown_name

SELF, SET = "self", "set"
RULES = (SELF, SET)
"""`self`: each image is its own partner, so that its features depend on nothing else. `set`: `partner_rows`."""
SEED = 0
"""Seed of the partners that an extraction draws from the set."""


def rule_in(fingerprint: Mapping[str, Any]) -> str:
    """The rule in the fingerprint of an extraction; empty for a network without partners.

    The number of partners, with their seed, stands for `set`. Earlier versions had no other rule.
    """
    found = fingerprint.get("partners")
    return "" if not found else SELF if found == SELF else SET


def drawn_partners(rule: str, ids: Sequence[str], partners: int, name: str) -> NDArray[np.int64] | None:
    """`partner_rows` by the rule `set`, otherwise None.

    Raises: UnknownNameError for another rule; BackendError if the network `name` has no partners; ArgumentError.
    """
    if rule not in RULES:
        raise unknown_name("partners", rule, RULES)
    if rule == SELF:
        return None
    if partners == 0:
        raise BackendError(f"{name} attends each image alone, so no partners can be drawn", "leave `partners` out")
    return partner_rows(ids, partners)


def partner_rows(ids: Sequence[str], partners: int, seed: int = 0) -> NDArray[np.int64]:
    """The rows of each image's partners by the rule `set`.

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
