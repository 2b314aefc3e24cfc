"""Groups of training images that are attended together. They have one class and are redrawn for each epoch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from l2a_transfer.errors import TrainingError
from l2a_transfer.training.data import TrainingData
from l2a_transfer.wording import counted

TRAINED_WITH = "others of the same class, drawn for each epoch"
TESTED_WITH = "the image itself"
TESTED_AGAIN_WITH = "others of the test images, drawn without regard to class"
"""In the accuracy that ends with `_set_partners`."""


def grouped_order(labels: NDArray[np.int32], size: int, generator: torch.Generator) -> Tensor:
    """An order of images in which consecutive groups of `size` are different images of one class.

    Each class is shuffled and cut into groups, and then the groups are shuffled. If the last group of a class is
    incomplete, it is filled with the first images of the class, so each image occurs once, and some twice.

    Parameters
    ----------
    labels : ndarray (N,)
        The class of each image. Each class that occurs must have `size` images; see `check_groups`.
    size : int
        Images per group.
    generator : torch.Generator
        Random generator for the order.

    Returns
    -------
    Tensor
        (M,) int64 rows, M ≥ N, a multiple of `size`.

    Examples
    --------
    >>> labels = np.array([0, 1, 0, 1, 0], dtype=np.int32)
    >>> order = grouped_order(labels, 2, torch.Generator().manual_seed(0))
    >>> sorted(set(order.tolist())), sorted(map(tuple, labels[order].reshape(-1, 2).tolist()))
    ([0, 1, 2, 3, 4], [(0, 0), (0, 0), (1, 1)])
    """
    found = []
    for label in np.unique(labels):
        rows = torch.from_numpy(np.flatnonzero(labels == label))
        rows = rows[torch.randperm(len(rows), generator=generator)]
        found.append(torch.cat([rows, rows[: -len(rows) % size]]).view(-1, size))
    groups = torch.cat(found)  # (G, size)
    return groups[torch.randperm(len(groups), generator=generator)].flatten()


def check_groups(architecture: str, size: int, data: TrainingData, batch: int, processes: int) -> None:
    """Raises: TrainingError if groups of `size` images cannot be formed, in training."""
    counts = np.bincount(data.train.labels, minlength=len(data.classes))
    few = np.flatnonzero((counts > 0) & (counts < size))
    if len(few):
        more = f", and {counted(len(few) - 1, 'other class', 'other classes')} too few as well" if len(few) > 1 else ""
        raise TrainingError(
            f"{architecture} is trained on groups of {size} images of one class, but {data.name} has "
            f"{counted(int(counts[few[0]]), 'training image')} of {data.classes[few[0]]!r}{more}",
            f"give each class at least {size} training images, or leave these classes out",
        )
    if batch % (size * processes):
        shared = f" for each of {processes} processes" if processes > 1 else ""
        raise TrainingError(
            f"batch_size {batch} is not a multiple of {size * processes}: {architecture} needs whole groups of {size} "
            f"images of one class{shared}",
            "use another `batch_size`",
        )
