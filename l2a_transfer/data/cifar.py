"""CIFAR-10 and CIFAR-100 as distributed by their authors: Python pickles, read without executing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.cifar_pickle import read_plain
from l2a_transfer.errors import DataError
from l2a_transfer.inputs import read_input
from l2a_transfer.wording import counted

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
FILES = {
    ("cifar10", "train"): tuple(f"data_batch_{i}" for i in range(1, 6)),
    ("cifar10", "test"): ("test_batch",),
    ("cifar100", "train"): ("train",),
    ("cifar100", "test"): ("test",),
}
META = {"cifar10": ("batches.meta", b"label_names"), "cifar100": ("meta", b"fine_label_names")}
MAX_FILE_BYTES = 1 << 30
LABELS = {"cifar10": b"labels", "cifar100": b"fine_labels"}


def _read(path: Path) -> dict[Any, Any]:
    try:
        return read_plain(read_input(path, MAX_FILE_BYTES))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # includes invalid UTF-8
        raise DataError(f"{path}: not a CIFAR file, or corrupt: {error}") from error
    except MemoryError as error:
        raise DataError(f"{path}: needs more memory than is available") from error


def read_cifar(name: str, root: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int32], tuple[str, ...]]:
    """Images uint8 (N, 3, 32, 32), labels (N,), class names, in the files' own order.

    `root` is the folder that contains `cifar-10-batches-py` or `cifar-100-python`. Raises: DataError naming the file.
    """
    folder = root / FOLDERS[name]
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder", f"`data_dir` must contain {FOLDERS[name]}/, or add `download=True`"
        )
    images, labels = [], []
    for file in FILES[name, split]:
        content = _read(folder / file)
        data, own = content.get(b"data"), content.get(LABELS[name])
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
            raise DataError(f"{folder / file}: 'data' must be uint8 rows of 3,072 values")
        if not isinstance(own, list) or len(own) != len(data):
            raise DataError(f"{folder / file}: needs one label for each of its {counted(len(data), 'image')}")
        if any(type(label) is not int for label in own):
            raise DataError(f"{folder / file}: labels must be whole numbers")
        images.append(data.reshape(-1, 3, 32, 32))
        labels.append(np.asarray(own, dtype=np.int32))
    meta_file, key = META[name]
    names = _read(folder / meta_file).get(key)
    if not isinstance(names, list) or not all(isinstance(n, bytes) for n in names):
        raise DataError(f"{folder / meta_file}: has no list of class names")
    try:
        classes = tuple(n.decode() for n in names)
    except UnicodeDecodeError as error:
        raise DataError(f"{folder / meta_file}: class names must be UTF-8: {error}") from error
    y = np.concatenate(labels)
    if len(y) and not (y.min() >= 0 and y.max() < len(classes)):
        raise DataError(f"{folder}: labels must be between 0 and {len(classes) - 1}")
    return np.concatenate(images), y, classes
