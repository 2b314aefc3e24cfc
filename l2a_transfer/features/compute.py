"""Row ranges → shards, in this process: decoding in workers, the network here, writing in a thread beside it."""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.loader import PixelBatch, choose_workers, pixel_batches
from l2a_transfer.data.readers import ImageSource
from l2a_transfer.errors import StoreError
from l2a_transfer.features.interface import Computed, FeatureBackend
from l2a_transfer.features.plan import batches_of
from l2a_transfer.features.shards import Shard, Shards

WRITING = 2
"""Shards that may wait for the disk; each is held in memory until it is there."""


def compute_shards(
    source: ImageSource,
    backend: FeatureBackend,
    shards: Shards,
    ranges: Sequence[range],
    *,
    batch_size: int,
    workers: int | None = None,
    on_error: str = "fail",
    attention: bool = False,
    advance: Callable[[int], object] = lambda images: None,
) -> Iterator[tuple[range, dict[int, str]]]:
    """Write the shard of each range, in order; yields the range and its skipped rows once the shard is on disk.

    `advance` is told how many images were computed. Raises: DataError for an image that cannot be used where
    `on_error` is "fail"; StoreError for features that are not finite, and where the disk refuses.
    """
    batches = [batch for rows in ranges for batch in batches_of(rows, batch_size)]
    workers = choose_workers(sum(map(len, ranges)), workers)
    pixels = pixel_batches(source, backend.preprocess, batches, workers=workers, on_error=on_error)
    faulty: deque[dict[int, str]] = deque()  # of the batches that the backend has taken and not yet given back
    writing: deque[tuple[range, dict[int, str], Future[None]]] = deque()
    with ThreadPoolExecutor(1, "shards") as writer, closing(pixels):  # type: ignore[type-var]
        computed = backend.stream(_images(pixels, faulty), attention=attention)
        for rows in ranges:
            parts = []
            for batch in batches_of(rows, batch_size):
                parts.append((batch, next(computed), faulty.popleft()))
                advance(len(batch))
            shard = _assemble(parts, source, backend)
            writing.append((rows, shard.skipped, writer.submit(shards.write, rows, shard)))
            _give_memory_back()
            if len(writing) >= WRITING:
                yield _written(writing)
        while writing:
            yield _written(writing)


def _give_memory_back() -> None:
    """Have glibc return the pages that it holds free.

    Between the large arrays of a forward pass small ones live on, so holes are left that fit no longer; over a long run
    they would add up to a tenth of the memory. Once a shard, this costs about one per cent of the time.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _images(pixels: Iterator[PixelBatch], faulty: deque[dict[int, str]]) -> Iterator[NDArray[np.uint8]]:
    for batch in pixels:
        faulty.append(batch.faulty)
        yield batch.images_u8


def _written(writing: deque[tuple[range, dict[int, str], Future[None]]]) -> tuple[range, dict[int, str]]:
    rows, skipped, future = writing.popleft()
    future.result()
    return rows, skipped


def _assemble(
    parts: list[tuple[range, Computed, dict[int, str]]], source: ImageSource, backend: FeatureBackend
) -> Shard:
    """One shard of the batches of its range, without the rows whose images could not be used."""
    whole = np.array([row for batch, _, _ in parts for row in batch], dtype=np.int64)
    skipped = {batch[at]: _reason(why, source.ids[batch[at]]) for batch, _, bad in parts for at, why in bad.items()}
    used = np.array([row not in skipped for row in whole.tolist()])
    features = np.concatenate([computed.features for _, computed, _ in parts])[used]
    maps = {
        level: np.concatenate([computed.maps[level] for _, computed, _ in parts])[used] for level in parts[0][1].maps
    }
    kept = whole[used]
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise StoreError(
            f"{backend.card['name']} on {source.name}: features that are not finite in {len(bad)} rows, the first of "
            f"image {source.ids[kept[bad[0]]]!r}; use --precision fp32, or other weights"
        )
    return Shard(kept, features, maps, skipped)


def _reason(message: str, name: str) -> str:
    """What an error says behind the image's own name, so that it does not depend on where the images lie."""
    _, found, reason = message.partition(f"{name}: ")
    return reason if found else message
