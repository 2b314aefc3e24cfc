"""torchvision's classification sets as image sources, with torchvision's names and downloads, and this package's
decoder, ids and splits.

torchvision only lists the pictures; it does not open them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.data.decode import DAMAGED, SUFFIXES, decode_file
from l2a_transfer.data.lists import check_file
from l2a_transfer.data.names import MAX_CLASSES, class_name
from l2a_transfer.data.registry import DatasetSpec
from l2a_transfer.data.sources import SourceBase, numbered
from l2a_transfer.data.stamps import file_stamp
from l2a_transfer.data.torchvision_files import (
    PcamFile,
    read_cars,
    read_idx,
    read_pcam_labels,
    read_usps,
)
from l2a_transfer.errors import DataError
from l2a_transfer.inputs import special_files
from l2a_transfer.wording import counted, first_line

FAULTS = (*DAMAGED, AssertionError, ImportError, MemoryError, csv.Error)
"""What torchvision and the readers here raise for missing, corrupt or hostile files."""
LISTS = {
    "DTD": ("dtd/dtd/labels/{split}1.txt",),
    "FGVCAircraft": (
        "fgvc-aircraft-2013b/data/variants.txt",
        "fgvc-aircraft-2013b/data/images_variant_{split}.txt",
    ),
    "Food101": ("food-101/meta/{split}.json",),
    "GTSRB": ("gtsrb/GT-final_test.csv",),
    "OxfordIIITPet": ("oxford-iiit-pet/annotations/{split}.txt",),
    "STL10": ("stl10_binary/class_names.txt",),
    "SUN397": ("SUN397/ClassName.txt",),
}
"""Files that torchvision reads completely, without a limit or a checksum."""
FOLDERS = {
    "MNIST": "MNIST",
    "FashionMNIST": "FashionMNIST",
    "KMNIST": "KMNIST",
    "STL10": "stl10_binary",
    "EuroSAT": "eurosat",
    "DTD": "dtd",
    "Flowers102": "flowers-102",
    "OxfordIIITPet": "oxford-iiit-pet",
    "Food101": "food-101",
    "FGVCAircraft": "fgvc-aircraft-2013b",
    "StanfordCars": "stanford_cars",
    "GTSRB": "gtsrb",
    "SUN397": "SUN397",
    "Country211": "country211",
    "Imagenette": "imagenette2",
    "Caltech256": "caltech256",
    "PCAM": "pcam",
    "FER2013": "fer2013",
}
"""The subfolders in which torchvision looks for the files of some sets; others are in the user's folder itself."""


class _Pictures(Protocol):
    """The pictures of one split."""

    def image(self, row: int) -> Image.Image:
        """Mode RGB. Raises: DataError naming the file, or an exception of DAMAGED."""

    def content(self, *, by_content: bool) -> Iterator[bytes | memoryview]:
        """What represents them in a fingerprint."""


@dataclass(frozen=True)
class _Files:
    """Pictures in one file each."""

    paths: tuple[str, ...]

    def image(self, row: int) -> Image.Image:
        return decode_file(Path(self.paths[row]))

    def content(self, *, by_content: bool) -> Iterator[bytes | memoryview]:
        yield _stamps([Path(path) for path in self.paths], by_content=by_content)


@dataclass(frozen=True, eq=False)
class _Arrays:
    """Pictures in memory, uint8: `data` (N, H, W), or (N, 3, H, W). `each`: a fingerprint hashes them one by one."""

    data: NDArray[np.uint8]
    each: bool = False

    def image(self, row: int) -> Image.Image:
        picture = self.data[row]
        return Image.fromarray(picture if picture.ndim == 2 else picture.transpose(1, 2, 0)).convert("RGB")

    def content(self, *, by_content: bool) -> Iterator[bytes | memoryview]:
        if not self.each:
            yield np.ascontiguousarray(self.data).data
            return
        for picture in self.data:
            yield f"{picture.dtype} {picture.shape}".encode()
            yield picture.tobytes()


@dataclass(frozen=True)
class _Hdf5:
    """Pictures of PatchCamelyon, read one at a time."""

    file: PcamFile
    paths: tuple[Path, ...]

    def image(self, row: int) -> Image.Image:
        return Image.fromarray(self.file.picture(row)).convert("RGB")

    def content(self, *, by_content: bool) -> Iterator[bytes | memoryview]:
        yield _stamps(self.paths, by_content=by_content)


def _stamps(paths: Sequence[Path], *, by_content: bool) -> bytes:
    return json.dumps([(path.name, *file_stamp(path, by_content=by_content)) for path in paths]).encode()


@dataclass(frozen=True, eq=False)
class _Part:
    """One split: its pictures, one label each (−1 for none), and the names of all classes in the files."""

    pictures: _Pictures
    labels: NDArray[np.int64]
    classes: Sequence[Any]
    rows: int


@dataclass(frozen=True, eq=False)
class TorchvisionSource(SourceBase):
    """One torchvision data set per split, split after split. Ids are, for example, `test/00012`."""

    parts: tuple[_Pictures, ...]
    starts: tuple[int, ...]

    def image(self, row: int) -> Image.Image:
        part = int(self.split[row])
        try:
            return self.parts[part].image(row - self.starts[part])
        except DataError as error:
            raise DataError(f"{self.name}: {self.ids[row]}: {error.problem}", error.remedy) from error
        except DAMAGED as error:
            raise DataError(f"{self.name}: {self.ids[row]}: corrupt or missing picture: {error}") from error

    def fingerprint(self) -> str:
        sha = hashlib.sha256(self._digest().encode())
        for part in self.parts:
            for content in part.content(by_content=self.by_content):
                sha.update(content)
        return sha.hexdigest()


def open_torchvision(spec: DatasetSpec, data_dir: Path, *, download: bool) -> TorchvisionSource:
    """All splits of a torchvision set below `data_dir`.

    Raises: DataError if its files are missing or corrupt, cannot be downloaded, or list pictures outside `data_dir`.
    """
    data_dir = data_dir.expanduser()  # as torchvision does
    parts = []
    _check_files(spec, data_dir)
    for split, values in spec.split_options:
        try:
            parts.append(_part(spec, data_dir, dict(values), download=download and spec.downloads))
        except (urllib.error.URLError, TimeoutError) as error:
            raise DataError(f"{spec.name}: cannot be downloaded: {error}") from error
        except FAULTS as error:
            hint = "or add `download=True`" if spec.downloads else "its authors ask you to download it yourself"
            raise DataError(
                f"{data_dir}: {spec.name} ({split}) is missing or corrupt ({first_line(error)})",
                f"`data_dir` must contain {spec.folder}, {hint}",
            ) from error
    for (split, _), part in zip(spec.split_options, parts, strict=True):
        if len(part.labels) != part.rows:
            labels, images = counted(len(part.labels), "label"), counted(part.rows, "image")
            raise DataError(f"{spec.name} ({split}): {labels} for {images}")
        if not -1 <= part.labels.min(initial=0) <= part.labels.max(initial=0) < MAX_CLASSES:
            raise DataError(f"{data_dir}: {spec.name} ({split}): labels must be between 0 and {MAX_CLASSES - 1}")
    classes = _class_names(parts[0].classes, int(max(part.labels.max(initial=0) for part in parts)) + 1)
    lengths = [part.rows for part in parts]
    return TorchvisionSource(
        name=spec.name,
        classes=classes,
        splits=spec.splits,
        ids=tuple(name for split, length in zip(spec.splits, lengths, strict=True) for name in numbered(split, length)),
        labels=np.concatenate([part.labels for part in parts]).astype(np.int32),
        split=np.repeat(np.arange(len(parts)), lengths).astype(np.uint8),
        parts=tuple(part.pictures for part in parts),
        starts=tuple(np.cumsum([0, *lengths[:-1]]).tolist()),
    )


def _part(spec: DatasetSpec, data_dir: Path, values: dict[str, Any], *, download: bool) -> _Part:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, spec.loader)
    own = _OWN.get(spec.loader)
    if own is not None:
        return own(kind, data_dir, values, download=download)
    for name in LISTS.get(spec.loader, ()):
        check_file(data_dir / name.format(**values))
    dataset = kind(str(data_dir), **values, **({"download": True} if download else {}))
    classes = getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or ()
    if spec.loader in ("SVHN", "STL10"):
        data = np.asarray(dataset.data)
        return _Part(_Arrays(data), _numbers(dataset.labels), classes, len(data))
    if spec.loader == "FER2013":
        data = np.stack([np.asarray(picture) for picture, _ in dataset._samples])
        labels = _numbers([-1 if label is None else label for _, label in dataset._samples])
        return _Part(_Arrays(data, each=True), labels, classes, len(data))
    paths, labels = _listed(dataset)
    if not paths:
        raise ValueError("it lists no pictures")
    if spec.loader == "SUN397":  # torchvision uses the order of the file system
        order = sorted(range(len(paths)), key=lambda row: Path(paths[row]).as_posix())
        paths, labels = [paths[row] for row in order], labels[order]
    return _Part(_Files(_inside(spec.name, data_dir, paths)), labels, classes, len(paths))


def _listed(dataset: Any) -> tuple[list[str], NDArray[np.int64]]:
    """The file and the label of each picture, as stored by torchvision."""
    if hasattr(dataset, "categories"):  # Caltech256
        root = Path(dataset.root) / "256_ObjectCategories"
        numbers = zip(dataset.y, dataset.index, strict=True)
        paths = [str(root / dataset.categories[y] / f"{y + 1:03d}_{index:04d}.jpg") for y, index in numbers]
        return paths, _numbers(dataset.y)
    samples = getattr(dataset, "samples", None) or getattr(dataset, "_samples", None)
    if samples:
        return [str(path) for path, _ in samples], _numbers([label for _, label in samples])
    files = dataset._images if hasattr(dataset, "_images") else dataset._image_files
    return [str(path) for path in files], _numbers(dataset._labels)


def _inside(name: str, data_dir: Path, paths: Sequence[str]) -> tuple[str, ...]:
    """The paths. Raises: DataError if a list names a path outside `data_dir`."""
    root = os.path.abspath(data_dir)
    for path in paths:
        if "\0" in path or os.path.commonpath([root, os.path.abspath(path)]) != root:
            raise DataError(
                f"{data_dir}: {name} lists a picture outside this folder, {path[:200]!r}; download it again"
            )
    return tuple(paths)


def _numbers(values: Any) -> NDArray[np.int64]:
    return np.asarray(values, dtype=np.int64).reshape(-1)


def _mnist(kind: Any, data_dir: Path, values: dict[str, Any], *, download: bool) -> _Part:
    raw = data_dir / kind.__name__ / "raw"
    name = "train" if values["train"] else "t10k"
    paths = raw / f"{name}-images-idx3-ubyte", raw / f"{name}-labels-idx1-ubyte"
    if download and not all(path.exists() for path in paths):
        if (raw.parent / "processed").exists():  # pickles of old versions, which torchvision would prefer
            raise DataError(
                f"{raw.parent / 'processed'}: contains files of an old torchvision, which are not supported; remove it"
            )
        kind(str(data_dir), **values, download=True)
    data, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    return _Part(_Arrays(data), _numbers(labels), kind.classes, len(data))


def _usps(kind: Any, data_dir: Path, values: dict[str, Any], *, download: bool) -> _Part:
    url, name, md5 = kind.split_list["train" if values["train"] else "test"]
    if download and not (data_dir / name).exists():
        from torchvision.datasets.utils import download_url

        download_url(url, str(data_dir), name, md5)
    check_file(data_dir / name)
    data, labels = read_usps(data_dir / name)
    return _Part(_Arrays(data), _numbers(labels), (), len(data))


def _cars(kind: Any, data_dir: Path, values: dict[str, Any], *, download: bool) -> _Part:
    root, split = data_dir / "stanford_cars", values["split"]
    lists = {"train": root / "devkit" / "cars_train_annos.mat", "test": root / "cars_test_annos_withlabels.mat"}
    rows, classes = read_cars(lists[split], root / "devkit" / "cars_meta.mat")
    paths = [str(root / f"cars_{split}" / name) for name, _ in rows]
    return _Part(_Files(_inside("cars", data_dir, paths)), _numbers([label for _, label in rows]), classes, len(rows))


def _pcam(kind: Any, data_dir: Path, values: dict[str, Any], *, download: bool) -> _Part:
    files = kind._FILES[values["split"]]
    paths = tuple(data_dir / "pcam" / name for name, *_ in files.values())
    if download and not all(path.exists() for path in paths):
        kind(str(data_dir), **values, download=True)
    images, targets = (data_dir / "pcam" / files[key][0] for key in ("images", "targets"))
    for path in paths:
        check_file(path, 1 << 40)
    pictures = PcamFile(images)
    return _Part(_Hdf5(pictures, paths), read_pcam_labels(targets), (), pictures.rows())


_OWN: dict[str, Callable[..., _Part]] = {
    "MNIST": _mnist,
    "FashionMNIST": _mnist,
    "KMNIST": _mnist,
    "USPS": _usps,
    "StanfordCars": _cars,
    "PCAM": _pcam,
}


def _check_files(spec: DatasetSpec, data_dir: Path) -> None:
    """Raises: DataError for a pipe, a socket or a device that torchvision would open. Pictures are checked when they
    are decoded."""
    folder = FOLDERS.get(spec.loader)
    for path, kind in special_files(data_dir / (folder or ""), below=folder is not None):
        if not path.lower().endswith(SUFFIXES):
            raise DataError(f"{path}: {kind}, where a file is expected", f"`data_dir` must contain {spec.folder}")


def _class_names(names: Sequence[Any], count: int) -> tuple[str, ...]:
    named = tuple(class_name(name[0] if isinstance(name, (tuple, list)) else name) for name in names)
    return named if len(named) >= count else tuple(str(k) for k in range(count))
