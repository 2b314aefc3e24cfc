"""Row ranges → shards: workers decode, this process runs the network, and another thread writes."""

from __future__ import annotations

import math
import mmap
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.loader import PixelBatch, RowNumbers, choose_workers, pixel_batches
from l2a_transfer.data.sources import ImageSource
from l2a_transfer.errors import StoreError
from l2a_transfer.features.backends.interface import Computed, FeatureBackend
from l2a_transfer.features.extraction.plan import batches_of
from l2a_transfer.features.extraction.shard_folder import RowShard, ShardFolder
from l2a_transfer.wording import counted

WRITING = 2
"""Shards that may wait for the disk; each stays in memory until it is written."""


def compute_shards(
    source: ImageSource,
    backend: FeatureBackend,
    shards: ShardFolder,
    ranges: Sequence[range],
    *,
    batch_size: int,
    workers: int | None = None,
    on_error: str = "fail",
    attention: bool = False,
    partners: NDArray[np.int64] | None = None,
    advance: Callable[[int], object] = lambda images: None,
) -> Iterator[tuple[range, dict[int, str]]]:
    """Compute the rows of each range and write its shard, in order.

    Parameters
    ----------
    source : ImageSource
        The pictures.
    backend : FeatureBackend
        The backend that computes the features.
    shards : ShardFolder
        Where shards are written.
    ranges : sequence of range
        Row numbers, as returned by `plan_ranges`.
    batch_size : int
        Images per batch.
    workers : int, optional
        Number of decoding processes; chosen automatically by default.
    on_error : {"fail", "skip"}
        What to do with an image that cannot be used.
    attention : bool
        Compute attention maps too.
    partners : ndarray, optional
        (N, k), int64: the rows of each image's partners, as returned by `partner_rows`, for a network with partners. If
        a partner cannot be used, its image cannot be used either. By default, each image is its own partner.
    advance : callable
        Called with the number of images in each batch that was computed.

    Yields
    ------
    tuple of range, dict
        A range whose shard is on disk, and its skipped rows: row number → reason.

    Raises
    ------
    DataError
        If an image cannot be used and `on_error` is "fail".
    StoreError
        If features are not finite, or if writing to the disk fails.
    """
    batches = [batch for rows in ranges for batch in batches_of(rows, batch_size)]
    members: list[RowNumbers] = [*batches]
    if partners is not None:  # each image before its partners
        members = [np.column_stack([batch, partners[batch.start : batch.stop]]).reshape(-1) for batch in batches]
    workers = choose_workers(sum(map(len, members)), workers)
    pixels = pixel_batches(source, backend.preprocess, members, workers=workers, on_error=on_error)
    faulty: deque[dict[int, str]] = deque()  # for batches that are inside the backend
    writing: deque[tuple[range, dict[int, str], Future[None]]] = deque()
    with ThreadPoolExecutor(1, "shards") as writer, closing(pixels):  # type: ignore[type-var]
        images = _images(pixels, faulty, members, source, 0 if partners is None else partners.shape[1])
        computed = backend.stream(images, attention=attention)
        for rows in ranges:
            shard = _filled(rows, batch_size, computed, faulty, source, backend, advance)
            writing.append((rows, shard.skipped, writer.submit(shards.write, rows, shard)))
            del shard
            if len(writing) >= WRITING:
                yield _written(writing)
        while writing:
            yield _written(writing)


def _images(
    pixels: Iterator[PixelBatch],
    faulty: deque[dict[int, str]],
    members: Sequence[RowNumbers],
    source: ImageSource,
    partners: int,
) -> Iterator[NDArray[np.uint8]]:
    """The input of the backend: uint8 (B, 3, size, size), or (B, 1 + partners, 3, size, size)."""
    for rows, (images_u8, found) in zip(members, pixels, strict=True):
        reasons: dict[int, str] = {}
        for place, message in found.items():
            at, step = divmod(place, 1 + partners)
            name = source.ids[rows[place]]
            reason = _reason(message, name)
            reasons.setdefault(at, f"its partner {name!r}: {reason}" if step else reason)
        faulty.append(reasons)
        yield images_u8.reshape(-1, 1 + partners, *images_u8.shape[1:]) if partners else images_u8


def _written(writing: deque[tuple[range, dict[int, str], Future[None]]]) -> tuple[range, dict[int, str]]:
    rows, skipped, future = writing.popleft()
    future.result()
    return rows, skipped


def _filled(
    rows: range,
    batch_size: int,
    computed: Iterator[Computed],
    faulty: deque[dict[int, str]],
    source: ImageSource,
    backend: FeatureBackend,
    advance: Callable[[int], object],
) -> RowShard:
    """One shard from the next batches, without rows whose images could not be used."""
    features: NDArray[np.float32] | None = None
    maps: dict[str, NDArray[np.float16]] = {}
    skipped: dict[int, str] = {}
    for batch in batches_of(rows, batch_size):
        values = next(computed)
        if features is None:
            features = _mapped_zeros((len(rows), *values.features.shape[1:]), values.features.dtype)
            maps = {level: _mapped_zeros((len(rows), *own.shape[1:]), own.dtype) for level, own in values.maps.items()}
        at = slice(batch.start - rows.start, batch.stop - rows.start)
        features[at] = values.features
        for level, own in values.maps.items():
            maps[level][at] = own
        skipped |= {batch[at]: reason for at, reason in faulty.popleft().items()}
        advance(len(batch))
    assert features is not None
    kept = np.array([row for row in rows if row not in skipped], dtype=np.int64)
    if skipped:
        features, maps = features[kept - rows.start], {level: own[kept - rows.start] for level, own in maps.items()}
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise StoreError(
            f"{backend.card['name']} on {source.name}: features that are not finite in {counted(len(bad), 'row')}, "
            f"first for image {source.ids[kept[bad[0]]]!r}",
            "use `precision='fp32'`, or other weights",
        )
    return RowShard(kept, features, maps, skipped)


def _mapped_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of zeros in its own memory pages.

    A shard outlives its batches, and the thread that writes it frees it at any moment. On the heap, it would leave gaps
    among the large arrays of the network: in four runs of `benchmarks/memory.py`, peak memory with 20,000 pictures was
    12 to 15 % higher than with 2,000. With separate pages, it is 1 % higher.
    """
    size = math.prod(shape)
    return np.frombuffer(mmap.mmap(-1, max(1, size * dtype.itemsize)), dtype, size).reshape(shape)


def _reason(message: str, name: str) -> str:
    """The part of an error after the image's name, so that it does not depend on where the images are."""
    _, found, reason = message.partition(f"{name}: ")
    return reason if found else message
