"""Select rows of a source: one split, and a limit per split, balanced over classes and domains."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.sources import ImageSource, Subset, domains_of
from l2a_transfer.errors import ArgumentError, unknown_name


def select(source: ImageSource, *, split: str | None = None, limit: int | None = None) -> ImageSource:
    """Select rows of a source.

    Parameters
    ----------
    source : ImageSource
        The whole source.
    split : str, optional
        Keep only this split.
    limit : int, optional
        Keep at most this many rows per split: the first of every class, then the second of every class, and so on. With
        domains, the first of every class of every domain, and so on.

    Returns
    -------
    ImageSource
        The selected rows, or the source itself if everything is kept.

    Raises
    ------
    UnknownNameError
        For a split that the source does not have.
    ArgumentError
        For a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ArgumentError(f"limit must be at least 1, got {limit}")
    if split is not None and split not in source.splits:
        raise unknown_name(f"split of {source.name}", split, source.splits)
    if split is None and limit is None:
        return source
    kept = []
    _, domain = domains_of(source)
    kinds = source.labels.astype(np.int64)
    kinds = kinds if domain is None else kinds + (len(source.classes) + 1) * domain.astype(np.int64)
    for k, name in enumerate(source.splits):
        if split in (None, name):
            rows = np.flatnonzero(source.split == k)
            kept.append(rows if limit is None else _deal(rows, kinds[rows], limit))
    return Subset(source, np.sort(np.concatenate(kept)))


def _deal(rows: NDArray[np.int64], labels: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """`limit` of the rows: the first of every class, then the second of every class, and so on."""
    turn = np.empty(len(rows), dtype=np.int64)
    for label in np.unique(labels):
        own = labels == label
        turn[own] = np.arange(own.sum())
    return rows[np.lexsort((labels, turn))[:limit]]
