"""torchvision's classification sets as image sources: its files and downloads, this package's ids and splits."""

from __future__ import annotations

import hashlib
import json
import pickle
import urllib.error
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.data.decode import DAMAGED, SUFFIXES, to_rgb
from l2a_transfer.data.names import class_name
from l2a_transfer.data.registry import DatasetSpec
from l2a_transfer.data.sources import Table, numbered
from l2a_transfer.data.stamps import file_stamp
from l2a_transfer.errors import DataError
from l2a_transfer.inputs import special_files
from l2a_transfer.wording import counted

LABELS = ("targets", "labels", "y", "_labels")
SAMPLES = ("samples", "_samples")
PATHS = ("_image_files", "_images")
FOLDERS = {
    "MNIST": "MNIST", "FashionMNIST": "FashionMNIST", "KMNIST": "KMNIST", "STL10": "stl10_binary", "EuroSAT": "eurosat",
    "DTD": "dtd", "Flowers102": "flowers-102", "OxfordIIITPet": "oxford-iiit-pet", "Food101": "food-101",
    "FGVCAircraft": "fgvc-aircraft-2013b", "StanfordCars": "stanford_cars", "GTSRB": "gtsrb", "SUN397": "SUN397",
    "Country211": "country211", "Imagenette": "imagenette2", "Caltech256": "caltech256", "PCAM": "pcam",
    "FER2013": "fer2013",
}  # fmt: skip
"""Where torchvision looks for the files of a set; those of others lie in the folder that the user names."""


@dataclass(frozen=True, eq=False)
class TorchvisionSource(Table):
    """One torchvision data set a split, split after split; ids are `test/00012`."""

    sets: tuple[Any, ...]
    starts: tuple[int, ...]

    def image(self, row: int) -> Image.Image:
        part = int(self.split[row])
        try:
            image, _ = self.sets[part][row - self.starts[part]]
            return to_rgb(image, f"{self.name}: {self.ids[row]}")
        except DAMAGED as error:
            raise DataError(f"{self.name}: {self.ids[row]}: damaged or missing picture: {error}") from error

    def fingerprint(self) -> str:
        sha = hashlib.sha256(self._digest().encode())
        for dataset in self.sets:
            for part in _content(dataset, by_content=self.by_content):
                sha.update(part)
        return sha.hexdigest()


def open_torchvision(spec: DatasetSpec, data_dir: Path, *, download: bool) -> TorchvisionSource:
    """All splits of a torchvision set below `data_dir`.

    Raises: DataError where its files are missing, damaged, or cannot be fetched.
    """
    import torchvision.datasets

    options: dict[str, Any] = {"download": True} if download and spec.downloads else {}
    _check_files(spec, data_dir)
    sets = []
    for split, values in spec.split_options:
        try:
            sets.append(getattr(torchvision.datasets, spec.loader)(str(data_dir), **dict(values), **options))
        except (urllib.error.URLError, TimeoutError) as error:
            raise DataError(f"{spec.name}: cannot be fetched: {error}") from error
        except (*DAMAGED, RuntimeError, ImportError, pickle.UnpicklingError) as error:
            hint = "or add `download=True`" if spec.downloads else "its authors ask you to fetch it yourself"
            raise DataError(
                f"{data_dir}: {spec.name} ({split}) is not there or damaged ({_first_line(error)})",
                f"`data_dir` must hold {spec.folder}, {hint}",
            ) from error
        if spec.loader == "SUN397":
            _sort(sets[-1])
    labels = [_labels(dataset) for dataset in sets]
    for (split, _), dataset, own in zip(spec.split_options, sets, labels, strict=True):
        if len(own) != len(dataset):
            raise DataError(f"{spec.name} ({split}): {counted(len(own), 'label')} for {counted(len(dataset), 'image')}")
    classes = _class_names(sets[0], int(max(own.max(initial=0) for own in labels)) + 1)
    lengths = [len(dataset) for dataset in sets]
    return TorchvisionSource(
        name=spec.name,
        classes=classes,
        splits=spec.splits,
        ids=tuple(name for split, length in zip(spec.splits, lengths, strict=True) for name in numbered(split, length)),
        labels=np.concatenate(labels).astype(np.int32),
        split=np.repeat(np.arange(len(sets)), lengths).astype(np.uint8),
        sets=tuple(sets),
        starts=tuple(np.cumsum([0, *lengths[:-1]]).tolist()),
    )


def _check_files(spec: DatasetSpec, data_dir: Path) -> None:
    """Raises: DataError for a pipe, a socket or a device that torchvision would open; of pictures, each is looked at
    when it is decoded."""
    folder = FOLDERS.get(spec.loader)
    for path, kind in special_files(data_dir / (folder or ""), below=folder is not None):
        if not path.lower().endswith(SUFFIXES):
            raise DataError(f"{path}: {kind}, where a file is expected", f"`data_dir` must hold {spec.folder}")


def _sort(dataset: Any) -> None:
    """Order the pictures of SUN397 by their names: torchvision takes them as the file system lists them."""
    order = sorted(range(len(dataset._image_files)), key=lambda row: dataset._image_files[row].as_posix())
    dataset._image_files = [dataset._image_files[row] for row in order]
    dataset._labels = [dataset._labels[row] for row in order]


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _labels(dataset: Any) -> NDArray[np.int64]:
    """Labels without decoding a picture where torchvision keeps them in a list; else by going through the set."""
    for name in LABELS:
        if getattr(dataset, name, None) is not None:
            return np.asarray(getattr(dataset, name), dtype=np.int64).reshape(-1)
    for name in SAMPLES:
        if samples := getattr(dataset, name, None):
            return np.asarray([-1 if sample[1] is None else int(sample[1]) for sample in samples], dtype=np.int64)
    return np.asarray([int(dataset[row][1]) for row in range(len(dataset))], dtype=np.int64)


def _class_names(dataset: Any, count: int) -> tuple[str, ...]:
    names: Sequence[Any] = getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or ()
    named = tuple(class_name(name[0] if isinstance(name, (tuple, list)) else name) for name in names)
    return named if len(named) >= count else tuple(str(k) for k in range(count))


def _content(dataset: Any, *, by_content: bool) -> Iterator[bytes | memoryview]:
    """What stands for the pictures of a set: their bytes where they are in memory, else the stamps of their files.

    The pictures themselves, decoded, where torchvision tells neither. Raises: DataError for a file that is missing.
    """
    if isinstance(data := getattr(dataset, "data", None), (np.ndarray, list)) or hasattr(data, "numpy"):
        yield np.ascontiguousarray(data).data
    elif paths := _paths(dataset):
        stamps = [(path.name, *file_stamp(path, by_content=by_content)) for path in paths]
        yield json.dumps(stamps).encode()
    else:
        for row in range(len(dataset)):
            try:
                picture = np.ascontiguousarray(dataset[row][0])
                yield f"{picture.dtype} {picture.shape}".encode()
                yield picture.tobytes()
            except DAMAGED as error:
                yield f"damaged: {type(error).__name__}".encode()


def _paths(dataset: Any) -> list[Path]:
    """The files that the pictures are in, where torchvision says which; of each set that it reads from files."""
    for name in SAMPLES:
        samples = getattr(dataset, name, None)
        if samples and isinstance(samples[0][0], (str, Path)):
            return [Path(sample[0]) for sample in samples]
    for name in PATHS:
        if paths := getattr(dataset, name, None):
            return [Path(path) for path in paths]
    kind = type(dataset).__name__
    if kind == "PCAM":
        return [dataset._base_folder / name for name, *_ in dataset._FILES[dataset._split].values()]
    if kind == "Caltech256":
        root = Path(dataset.root) / "256_ObjectCategories"
        numbers = zip(dataset.y, dataset.index, strict=True)
        return [root / dataset.categories[y] / f"{y + 1:03d}_{index:04d}.jpg" for y, index in numbers]
    return []
