"""Image sources of data in memory: arrays, (images, labels), map-style data sets of torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from l2a_transfer.data.decode import to_rgb
from l2a_transfer.data.names import check_class_count
from l2a_transfer.data.sources import ImageSource, SourceBase, join_splits, numbered
from l2a_transfer.errors import DataError, wrong_kind


class Pictures(Protocol):
    """uint8 (N, H, W, 3) or (N, H, W), or a map-style data set, whose items are pictures or (picture, label)."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Any: ...


InMemory: TypeAlias = "Pictures | tuple[Pictures, ArrayLike] | Mapping[str, Pictures | tuple[Pictures, ArrayLike]]"
EXPECTED = (
    "a data set's name, KIND:PATH as 'imagefolder:photos', uint8 images (N, H, W, 3), (images, labels), a map-style "
    "data set of torch, or {split: one of these}"
)
UNTRANSFORMED = "give the data set without a transform; pictures are resized and normalised here"


@dataclass(frozen=True, eq=False)
class DatasetSource(SourceBase):
    """Pictures of map-style data sets, one data set per split. An item is a picture, or a tuple starting with one."""

    datasets: tuple[Any, ...]

    def image(self, row: int) -> Image.Image:
        starts = [0, *accumulate(len(dataset) for dataset in self.datasets)]
        k = int(np.searchsorted(starts, row, side="right")) - 1
        return picture_of(_first(self.datasets[k][row - starts[k]]), f"{self.name}: {self.ids[row]}")

    def fingerprint(self) -> str:
        return self._sha256(self._pictures())

    def _pictures(self) -> Iterator[bytes]:
        for row in range(len(self)):
            image = self.image(row)
            yield json.dumps(image.size).encode() + hashlib.sha256(image.tobytes()).digest()


@dataclass(frozen=True, eq=False)
class _Part:
    """One split: pictures, optionally one label each (numbers or names), and the class names of the numbers."""

    pictures: Any
    labels: NDArray[Any] | None
    classes: tuple[str, ...] | None


def is_source(data: object) -> TypeGuard[ImageSource]:
    """True if the object has the interface of an image source."""
    return all(hasattr(data, name) for name in ("image", "labels", "ids", "split", "fingerprint"))


def source_in_memory(data: InMemory | ImageSource, *, name: str | None = None) -> ImageSource:
    """An image source of data in memory, or `data` itself if it is a source.

    Parameters
    ----------
    data : ndarray, data set, (images, labels), mapping or ImageSource
        uint8 (N, H, W, 3) or (N, H, W); a map-style data set whose items are pictures or (picture, label), and whose
        `classes` are used if it has them; either of them with labels (N,), as integers (−1: none) or names; or a
        mapping from split to one of these. Pictures of a data set are Pillow images, uint8 arrays (H, W, 3) or (H, W),
        or uint8 tensors (3, H, W).
    name : str, optional
        Its name in feature files and reports, "memory" by default.

    Returns
    -------
    ImageSource
        It reads `data` without a copy, so `data` must not be changed.

    Raises
    ------
    TypeError
        For another kind of object, or arrays of another type.
    DataError
        If the shapes of arrays do not match, or if labels are not classes.
    """
    if is_source(data):
        return data
    name = "memory" if name is None else name
    parts: Mapping[str, Any] = data if isinstance(data, Mapping) else {"all": data}
    if not parts or not all(isinstance(split, str) for split in parts):
        raise wrong_kind("data", EXPECTED, data)
    read = {split: _part(value) for split, value in parts.items()}
    classes, labels = _classes(name, read)
    whole = [part.pictures for part in read.values()]
    if all(isinstance(pictures, np.ndarray) for pictures in whole) and len({p.shape[1:] for p in whole}) == 1:
        return join_splits(
            name,
            classes,
            {split: (part.pictures, own) for (split, part), own in zip(read.items(), labels, strict=True)},
        )
    return DatasetSource(
        name=name,
        classes=classes,
        splits=tuple(read),
        ids=tuple(own for split, part in read.items() for own in numbered(split, len(part.pictures))),
        labels=np.concatenate(labels).astype(np.int32),
        split=np.repeat(np.arange(len(read)), [len(own) for own in labels]).astype(np.uint8),
        datasets=tuple(whole),
        by_content=True,
    )


def _part(data: Any) -> _Part:
    """Raises: TypeError if `data` is not pictures; DataError if the number of labels does not match."""
    given = None
    if isinstance(data, tuple) and len(data) == 2 and not _is_picture(data[0]):
        data, given = data
    if isinstance(data, np.ndarray):
        check_pictures(data)
        labels, classes = None, None
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, (str, bytes, Mapping)):
        labels, classes = (None, None) if given is not None else _labels_of(data)
    else:
        raise wrong_kind("data", EXPECTED, data)
    if given is not None:
        labels = np.asarray(given)
        if labels.shape != (len(data),) or labels.dtype.kind not in "iuU":
            raise DataError(
                f"labels must be {len(data)} integers or names, one for each picture; got {labels.dtype} {labels.shape}"
            )
    return _Part(data, labels, classes)


def check_pictures(images: NDArray[Any]) -> None:
    """Raises: TypeError for another dtype, ValueError for another shape; both say what to do.

    Nothing is guessed, because the values alone do not tell 0…1 from 0…255, or rows from channels.
    """
    expected = "images must be uint8 0…255, (N, H, W, 3) or (N, H, W)"
    shape = images.shape
    if images.dtype != np.uint8:
        raise TypeError(
            f"{expected}; got {images.dtype} {shape}; convert values between 0 and 1 with "
            "np.rint(255 * x).astype(np.uint8)"
        )
    if not ((len(shape) == 4 and shape[3] == 3) or (len(shape) == 3 and shape[2] != 3)) or 0 in shape[1:]:
        todo = ""
        if len(shape) == 4 and shape[1] == 3:
            todo = "; channels come last: x.transpose(0, 2, 3, 1)"
        elif len(shape) == 3:
            todo = "; for a single image, use x[None]"
        raise ValueError(f"{expected}; got {shape}{todo}")


def _labels_of(dataset: Any) -> tuple[NDArray[Any] | None, tuple[str, ...] | None]:
    """The labels of a data set's items and the names of its classes, if it has them."""
    N = len(dataset)
    first = dataset[0] if N else None
    if not (isinstance(first, (tuple, list)) and len(first) >= 2):
        return None, None
    known = getattr(dataset, "targets", None)
    if known is None or len(known) != N or getattr(dataset, "target_transform", None) is not None:
        known = [dataset[row][1] for row in range(N)]
    labels = np.asarray([label.item() if hasattr(label, "item") else label for label in known])
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise DataError(f"the labels of a data set must be integers or names, got {known[0]!r:.60}")
    names = getattr(dataset, "classes", None)
    named = isinstance(names, (list, tuple)) and all(isinstance(own, str) for own in names)
    return labels, tuple(names) if named and names else None


def _classes(name: str, parts: Mapping[str, _Part]) -> tuple[tuple[str, ...], list[NDArray[np.int32]]]:
    """The classes of all splits, and the labels of each split as indices into them, −1 for no label."""
    found = [part.labels for part in parts.values() if part.labels is not None and len(part.labels)]
    indices: list[Any]
    names = list(dict.fromkeys(part.classes for part in parts.values() if part.classes is not None))
    if len(names) > 1:
        raise DataError(f"{name}: the splits {', '.join(parts)} have different classes")
    if len({labels.dtype.kind == "U" for labels in found}) > 1:
        raise DataError(f"{name}: labels must be integers in all splits, or names in all of them")
    if found and found[0].dtype.kind == "U":
        classes = names[0] if names else tuple(str(own) for own in np.unique(np.concatenate(found)))
        place = {own: k for k, own in enumerate(classes)}
        if unknown := sorted({str(own) for labels in found for own in labels} - set(place)):
            raise DataError(f"{name}: the label {unknown[0]!r} is not one of the classes")
        indices = [None if part.labels is None else [place[str(own)] for own in part.labels] for part in parts.values()]
    else:
        low, high = (min(map(np.min, found)), max(map(np.max, found))) if found else (-1, -1)
        count = len(names[0]) if names else int(high) + 1
        check_class_count(name, max(count, 1))
        if low < -1 or high >= count:
            raise DataError(f"{name}: labels must be −1 or between 0 and {count - 1}; got {low}…{high}")
        classes = names[0] if names else tuple(str(k) for k in range(count))
        indices = [part.labels for part in parts.values()]
    labels = [
        np.full(len(part.pictures), -1, dtype=np.int32) if own is None else np.asarray(own, dtype=np.int32)
        for part, own in zip(parts.values(), indices, strict=True)
    ]
    return classes, labels


def _first(item: Any) -> Any:
    return item[0] if isinstance(item, (tuple, list)) and item else item


def _is_picture(item: object) -> bool:
    return isinstance(item, Image.Image)


def picture_of(item: Any, name: str) -> Image.Image:
    """Convert an item to a Pillow image in mode RGB. Raises: DataError if it is not a picture of uint8 values."""
    if _is_picture(item):
        return to_rgb(item, name)
    array = item if isinstance(item, np.ndarray) else np.asarray(item) if hasattr(item, "__array__") else None
    if array is None:
        raise DataError(f"{name}: must be a Pillow image, a uint8 array or a uint8 tensor, got {type(item).__name__}")
    if array is not item and array.ndim == 3 and array.shape[0] in (1, 3):  # tensors have channels first
        array = array.transpose(1, 2, 0) if array.shape[0] == 3 else array[0]
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise DataError(
            f"{name}: must be a Pillow image or uint8 (H, W, 3), got {array.dtype} {array.shape}", UNTRANSFORMED
        )
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")
