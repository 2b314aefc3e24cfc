"""Training and test images, in memory or streamed, as batches of uint8 pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from l2a_transfer.data.loader import choose_workers, pixel_batches
from l2a_transfer.data.sources import ArraySource, ImageSource, Subset
from l2a_transfer.errors import TrainingError, unknown_name
from l2a_transfer.memory import require_memory, usable_memory
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.training.processes import Placement

AT_ONCE = 256
"""Number of pictures that are read at a time."""
HOLDOUT_SEED = 20180217
TEST_SPLITS = ("test", "val", "valid")
TRAIN_SPLITS = ("train", "trainval")
PLACES = ("auto", "memory", "stream")
SHARE_OF_MEMORY = 0.5
"""Fraction of the free memory that pixels may take; larger data sets are streamed."""
SHARE_OF_TEST = 0.25
"""Fraction of the free memory that test pictures may take to be kept between evaluations."""


def shown_metric(metric: str) -> str:
    """The name in logs of a card's `metric`: `val_accuracy` if it is on held-out images.

    Examples
    --------
    >>> shown_metric("test_accuracy"), shown_metric("holdout-5000-stratified_accuracy")
    ('test_accuracy', 'val_accuracy')
    """
    return metric if metric == "test_accuracy" else "val_accuracy"


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Pictures to train on, and others to evaluate on. The latter are never used to make choices.

    Raises: TrainingError if a class in `test` has no picture in `train`, or a picture has no label.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSource
    test: ImageSource
    test_name: str = "test"
    permuted_labels: int | None = None
    """The seed with which the labels were permuted; None for true labels."""
    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)
    """Decoded pictures, so that the next seed and the next evaluation need not decode them again."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise TrainingError(f"{self.name}: needs at least two classes, has {len(self.classes)}")
        for part, source in (("train", self.train), (self.test_name, self.test)):
            if not len(source):
                raise TrainingError(f"{self.name}: no pictures in {part}")
            unlabelled = np.flatnonzero(source.labels < 0)
            if len(unlabelled):
                raise TrainingError(
                    f"{self.name}: {source.ids[unlabelled[0]]} has no label ({len(unlabelled)} in total); put every "
                    "picture into the folder of its class"
                )
        unseen = sorted(set(self.test.labels.tolist()) - set(self.train.labels.tolist()))
        if unseen:
            names = ", ".join(self.classes[i] for i in unseen[:5])
            raise TrainingError(f"{self.name}: classes in {self.test_name} without a training image: {names}")

    @property
    def test_metric(self) -> str:
        """The name in cards of the accuracy on `test`: test_accuracy, or holdout-5000-stratified_accuracy."""
        return f"{self.test_name}_accuracy"

    def train_pixels(self, preprocess: Preprocess, device: torch.device, placement: Placement) -> Pixels:
        """The pictures of `train`, opened with `open_pixels` once for all runs on this data."""
        key = ("train", preprocess, device, placement)
        if key not in self._kept:
            self._kept[key] = open_pixels(
                self.train,
                preprocess,
                device,
                place=placement.pixels,
                workers=placement.workers,
                sharing=placement.process.on_machine,
            )
        found: Pixels = self._kept[key]
        return found

    def test_pixels(
        self, preprocess: Preprocess, *, workers: int | None = None, again: bool = True
    ) -> NDArray[np.uint8] | None:
        """The pictures of `test` at the network's size, uint8 (N, 3, size, size), decoded once and kept.

        None if they would take more than SHARE_OF_TEST of the free memory, or in the first call if they are not needed
        `again`. They are then streamed, and nothing is kept.
        """
        key, asked = ("test", preprocess), ("asked", preprocess)
        if key not in self._kept and (again or asked in self._kept):
            if len(self.test) * 3 * preprocess.size**2 > SHARE_OF_TEST * usable_memory():
                return None
            self._kept[key] = read_pixels(self.test, preprocess, workers=workers)
        self._kept[asked] = True
        return self._kept.get(key)

    @classmethod
    def from_source(cls, source: ImageSource, *, holdout: int | None = None, stratified: bool = True) -> TrainingData:
        """The training and test splits of a source. With `holdout`, that many training images are held out for testing.

        A source with one split has no test images, so `holdout` must be given. `stratified`: as for `holdout`.
        """
        train = _rows(source, TRAIN_SPLITS) if len(source.splits) > 1 else np.arange(len(source))
        if train is None:
            raise TrainingError(f"{source.name}: has no split called train; its splits are {', '.join(source.splits)}")
        test = _rows(source, TEST_SPLITS) if len(source.splits) > 1 else None
        if holdout is not None:
            part = Subset(source, train)
            return cls(source.name, source.classes, part, part).holdout(holdout, stratified=stratified)
        if test is None:
            raise TrainingError(
                f"{source.name}: has no test split, only {', '.join(source.splits)}",
                "use `holdout=N` to test on N training images instead",
            )
        return cls(source.name, source.classes, Subset(source, train), Subset(source, test))

    def holdout(self, n: int, *, stratified: bool = True) -> TrainingData:
        """Split the training images into N − n and n, always in the same way. The result has no test images.

        Each class contributes its share of n, up to rounding, and keeps at least one image for training. Recipe choices
        are made on this split. `stratified=False` ignores classes, like versions whose cards say `holdout-N` without
        `stratified`. Raises: TrainingError if n leaves nothing on one side.
        """
        order = np.random.default_rng(HOLDOUT_SEED).permutation(len(self.train))
        if stratified:
            order = _by_class(self.train.labels, order, n)
        elif not 0 < n < len(self.train):
            raise TrainingError(f"holdout must be between 1 and {len(self.train) - 1} images, got {n}")
        fit, held = np.sort(order[n:]), np.sort(order[:n])
        return dataclasses.replace(
            self,
            train=Subset(self.train, fit),
            test=Subset(self.train, held),
            test_name=f"holdout-{n}-stratified" if stratified else f"holdout-{n}",
        )


def _by_class(labels: NDArray[np.int32], order: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Reorder `order` so that the n held-out rows come first, with each class's share rounded by largest remainder.

    Ties follow `order`. Raises: TrainingError if a class would keep no image.
    """
    labels = labels[order]
    counts = np.bincount(labels)
    most = len(labels) - np.count_nonzero(counts)
    if not 0 < n <= most:
        if not most:
            raise TrainingError("nothing can be held out: no class has more than one image")
        raise TrainingError(
            f"holdout must be between 1 and {most} images, so that each class keeps one for training; got {n}"
        )
    taken, left = np.divmod(n * counts, len(labels))
    first_seen = np.full(len(counts), len(labels))
    np.minimum.at(first_seen, labels, np.arange(len(labels)))
    turns = np.lexsort((first_seen, -left))  # the class with the largest remainder first
    while (short := n - int(taken.sum())) > 0:
        taken[[c for c in turns if taken[c] < counts[c] - 1][:short]] += 1
    rank = np.empty(len(labels), dtype=np.int64)  # rank of each row within its class
    for label in np.flatnonzero(counts):
        rank[labels == label] = np.arange(counts[label])
    held = rank < taken[labels]
    return np.concatenate([order[held], order[~held]])


def _rows(source: ImageSource, names: Sequence[str]) -> NDArray[np.int64] | None:
    """The rows of the first split in `names` that the source has."""
    for name in names:
        if name in source.splits:
            return np.flatnonzero(source.split == source.splits.index(name))
    return None


class Pixels(Protocol):
    """The pictures of a run."""

    def __len__(self) -> int: ...

    def batches(self, rows: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each array of rows, in order: pixels uint8 (B, 3, size, size) and labels (B,) int64, on the device."""


class ResidentPixels:
    """All pixels on the device, as uint8. A batch is one gather on the device."""

    def __init__(
        self,
        source: ImageSource,
        preprocess: Preprocess,
        device: torch.device,
        *,
        workers: int | None,
        sharing: int = 1,
    ) -> None:
        pixels = read_pixels(source, preprocess, workers=workers, sharing=sharing)
        self.pixels = torch.from_numpy(pixels).to(device)  # (N, 3, S, S)
        self.labels = torch.from_numpy(source.labels.astype(np.int64)).to(device)  # (N,)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, rows: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        if not rows:
            return
        # One transfer per epoch, because a copy from pageable memory makes the host wait for a GPU.
        everything = torch.from_numpy(np.concatenate(rows)).to(self.pixels.device)
        for own in torch.split(everything, [len(part) for part in rows]):
            yield self.pixels[own], self.labels[own]


class StreamedPixels:
    """Pixels that worker processes decode a few batches ahead, and that are then sent to the device."""

    def __init__(
        self,
        source: ImageSource,
        preprocess: Preprocess,
        device: torch.device,
        *,
        workers: int | None,
        sharing: int = 1,
    ) -> None:
        self.source, self.preprocess, self.device, self.sharing = source, preprocess, device, sharing
        self.workers = choose_workers(len(source), workers, sharing=sharing)

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, rows: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        decoded = pixel_batches(self.source, self.preprocess, rows, workers=self.workers, sharing=self.sharing)
        for own, batch in zip(rows, decoded, strict=True):
            pixels = torch.from_numpy(batch.images_u8)
            labels = torch.from_numpy(self.source.labels[own].astype(np.int64))
            if self.device.type == "cuda":
                pixels, labels = pixels.pin_memory(), labels.pin_memory()
            yield pixels.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


def open_pixels(
    source: ImageSource,
    preprocess: Preprocess,
    device: torch.device,
    *,
    place: str = "auto",
    workers: int | None = None,
    sharing: int = 1,
) -> Pixels:
    """Keep pictures in device memory if `place` says so or they fit into half of what is free; otherwise stream them.

    Both give the same batches. `sharing` processes share the host's memory and cores.
    Raises: UnknownNameError for another place; MemoryLimitError if `place` is "memory" and the host has too little.
    """
    if place not in PLACES:
        raise unknown_name("pixels", place, PLACES)
    needed = len(source) * 3 * preprocess.size**2
    # Pixels pass through host memory on their way to a GPU.
    host = free_memory(torch.device("cpu")) // sharing
    free = min(free_memory(device), host) if device.type == "cuda" else host
    resident = place == "memory" or (place == "auto" and needed <= SHARE_OF_MEMORY * free)
    if place == "memory":
        require_memory(
            needed,
            f"{source.name}: {len(source)} images of {preprocess.size} × {preprocess.size} pixels in memory",
            "`pixels='stream'` decodes them again in each epoch",
        )
    return (ResidentPixels if resident else StreamedPixels)(
        source, preprocess, device, workers=workers, sharing=sharing
    )


def free_memory(device: torch.device) -> int:
    """Free bytes of a device; for the CPU, those that this process may still use."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else usable_memory()


def read_pixels(
    source: ImageSource, preprocess: Preprocess, *, workers: int | None = None, sharing: int = 1
) -> NDArray[np.uint8]:
    """Every picture of a source at the network's size: uint8 (N, 3, size, size)."""
    pixels = np.empty((len(source), 3, preprocess.size, preprocess.size), dtype=np.uint8)
    found, own = _array(source)
    if found is not None and found.shape[1:3] == (preprocess.size, preprocess.size):
        for start in range(0, len(own), AT_ONCE):
            pixels[start : start + AT_ONCE] = found[own[start : start + AT_ONCE]].transpose(0, 3, 1, 2)
        return pixels
    rows = [range(start, min(start + AT_ONCE, len(source))) for start in range(0, len(source), AT_ONCE)]
    batches = pixel_batches(source, preprocess, rows, workers=choose_workers(len(source), workers, sharing=sharing))
    for part, batch in zip(rows, batches, strict=True):
        pixels[part.start : part.stop] = batch.images_u8
    return pixels


def _array(source: ImageSource) -> tuple[NDArray[np.uint8] | None, NDArray[np.int64]]:
    """The RGB pictures (N, H, W, 3) of a source that is already in memory, else None; and the rows that it uses."""
    if isinstance(source, Subset):
        whole, rows = _array(source.whole)
        return whole, rows[source.rows]
    pictures = source.pictures if isinstance(source, ArraySource) and source.pictures.ndim == 4 else None
    return pictures, np.arange(len(source))
