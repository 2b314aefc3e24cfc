"""The named data sets that this package reads itself: description, authors, terms of use, and reader."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.cifar import read_cifar
from l2a_transfer.data.decode import SUFFIXES
from l2a_transfer.data.download import fetch
from l2a_transfer.data.folders import read_folder
from l2a_transfer.data.lists import read_list
from l2a_transfer.data.registry import NO_SPLIT, Archive, DatasetSpec, register_dataset
from l2a_transfer.data.sources import FileSource, ImageSource, ZipSource, join_splits
from l2a_transfer.errors import DataError

BUNDLED = Path(__file__).parent / "bundled"
CALTECH_MINI, AIRPLANES_MINI = BUNDLED / "caltech-mini.zip", BUNDLED / "airplanes-mini.zip"
TORONTO, STANFORD = "https://www.cs.toronto.edu/~kriz", "http://vision.stanford.edu/Datasets"
CALTECH_CITATION = "Li, Andreeto, Ranzato, Perona: Caltech 101, CaltechDATA 2022, doi 10.22002/D1.20086"
CIFAR_CITATION = "Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009"


@register_dataset(
    DatasetSpec(
        name="caltech-mini",
        title="20 classes of Caltech-101, shorter side 48 px; ships with the package",
        images=1200,
        classes=20,
        splits=("train", "test"),
        licence="CC BY 4.0",
        citation=CALTECH_CITATION,
        downloads=False,
    )
)
def read_caltech_mini(spec: DatasetSpec, data_dir: Path, download: bool) -> ImageSource:
    """The pictures in the bundled zip file, which are stored as `SPLIT/CLASS/NAME`."""
    with zipfile.ZipFile(CALTECH_MINI) as file:
        ids = [name for name in file.namelist() if name.endswith(SUFFIXES)]
    parts = [name.split("/") for name in ids]
    classes = tuple(sorted({label for _, label, _ in parts}))
    return ZipSource(
        name=spec.name,
        classes=classes,
        splits=spec.splits,
        ids=tuple(ids),
        labels=np.array([classes.index(label) for _, label, _ in parts], dtype=np.int32),
        split=np.array([spec.splits.index(split) for split, _, _ in parts], dtype=np.uint8),
        path=CALTECH_MINI,
    )


@register_dataset(
    DatasetSpec(
        name="airplanes-mini",
        title="airplanes of Caltech-101 with object masks, shorter side 112 px; ships with the package",
        images=100,
        classes=1,
        splits=NO_SPLIT,
        licence="CC BY 4.0",
        citation=CALTECH_CITATION,
        downloads=False,
    )
)
def read_airplanes_mini(spec: DatasetSpec, data_dir: Path, download: bool) -> ImageSource:
    """The pictures in the bundled zip file, which are stored as `images/airplane/NAME` next to their masks."""
    with zipfile.ZipFile(AIRPLANES_MINI) as file:
        ids = tuple(name for name in file.namelist() if name.startswith("images/"))
    return ZipSource(
        name=spec.name,
        classes=("airplane",),
        splits=spec.splits,
        ids=ids,
        labels=np.zeros(len(ids), dtype=np.int32),
        split=np.zeros(len(ids), dtype=np.uint8),
        path=AIRPLANES_MINI,
    )


@register_dataset(
    DatasetSpec(
        name="digits",
        title="scikit-learn's handwritten digits, 8 × 8 px; ships with scikit-learn",
        images=1797,
        classes=10,
        splits=NO_SPLIT,
        licence="CC BY 4.0",
        citation="Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI 1998, doi 10.24432/C50P49",
        downloads=False,
    )
)
def read_digits(spec: DatasetSpec, data_dir: Path, download: bool) -> ImageSource:
    """scikit-learn's digits, with values 0…16 scaled to 0…255."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures = np.round(found.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8)
    return join_splits(spec.name, [str(name) for name in found.target_names], {"all": (pictures, found.target)})


@register_dataset(
    DatasetSpec(
        name="cifar10",
        title="CIFAR-10, 32 × 32 px",
        images=60000,
        classes=10,
        splits=("train", "test"),
        licence="no formal licence",
        citation=CIFAR_CITATION,
        folder="cifar-10-batches-py/",
        archives=(
            Archive(f"{TORONTO}/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"),
        ),
    ),
    DatasetSpec(
        name="cifar100",
        title="CIFAR-100, 32 × 32 px, fine labels",
        images=60000,
        classes=100,
        splits=("train", "test"),
        licence="no formal licence",
        citation=CIFAR_CITATION,
        folder="cifar-100-python/",
        archives=(
            Archive(f"{TORONTO}/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python"),
        ),
    ),
)
def read_cifar_splits(spec: DatasetSpec, data_dir: Path, download: bool) -> ImageSource:
    """CIFAR-10 or CIFAR-100 as distributed by its authors."""
    if download:
        fetch(spec, data_dir)
    parts: dict[str, tuple[NDArray[np.uint8], NDArray[np.int32]]] = {}
    classes: tuple[str, ...] = ()
    for split in spec.splits:
        images, labels, classes = read_cifar(spec.name, data_dir, split)
        parts[split] = (np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels)  # (N, 32, 32, 3)
    return join_splits(spec.name, classes, parts)


@register_dataset(
    DatasetSpec(
        name="caltech101",
        title="Caltech-101 without its background class",
        images=8677,
        classes=101,
        splits=NO_SPLIT,
        licence="CC BY 4.0",
        citation=CALTECH_CITATION,
        folder="caltech101/101_ObjectCategories/",
        archives=(
            Archive(
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                "3138e1922a9193bfa496528edbbc45d0",
                "caltech101/101_ObjectCategories",
                inner="caltech-101/101_ObjectCategories.tar.gz",
            ),
        ),
    )
)
def read_caltech101(spec: DatasetSpec, data_dir: Path, download: bool) -> ImageSource:
    """The folders of Caltech-101, one per class, without the background class."""
    if download:
        fetch(spec, data_dir)
    root = _subfolder(spec, data_dir, "caltech101/101_ObjectCategories")
    return read_folder(root, spec.name, split_from="none", without=["BACKGROUND_Google"])


@register_dataset(
    DatasetSpec(
        name="stanford40",
        title="Stanford 40 Actions (Action-40)",
        images=9532,
        classes=40,
        splits=("train", "test"),
        licence="research use",
        citation="Yao, Jiang, Khosla, Lin, Guibas, Fei-Fei: Human Action Recognition by Learning Bases of Action "
        "Attributes and Parts, ICCV 2011",
        folder="stanford40/JPEGImages/ and stanford40/ImageSplits/",
        archives=(
            Archive(f"{STANFORD}/Stanford40_JPEGImages.zip", None, "stanford40/JPEGImages"),
            Archive(f"{STANFORD}/Stanford40_ImageSplits.zip", None, "stanford40/ImageSplits"),
        ),
    )
)
def read_stanford40(spec: DatasetSpec, data_dir: Path, download: bool) -> ImageSource:
    """The authors' lists `ImageSplits/train.txt` and `test.txt`; the action is the file name up to its number."""
    if download:
        fetch(spec, data_dir)
    root, lists = (_subfolder(spec, data_dir, f"stanford40/{name}") for name in ("JPEGImages", "ImageSplits"))
    names: list[str] = []
    split: list[int] = []
    for k, part in enumerate(spec.splits):
        path = lists / f"{part}.txt"
        try:
            own = sorted(read_list(path).decode().split())
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        for name in own:
            if not re.fullmatch(r"[A-Za-z_]+_\d+\.jpg", name):
                raise DataError(f"{path}: {name!r} is not the name of a picture, such as 'fishing_001.jpg'")
        names += own
        split += [k] * len(own)
    if not names or len(set(names)) != len(names):
        raise DataError(f"{lists}: lists no pictures, or one of them twice")
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise DataError(f"{root / missing[0]}: missing, but listed in ImageSplits ({len(missing)} in all)")
    actions = [name.rsplit("_", 1)[0] for name in names]
    classes = tuple(sorted(set(actions)))
    labels = np.array([classes.index(action) for action in actions], dtype=np.int32)
    return FileSource(spec.name, classes, spec.splits, tuple(names), labels, np.array(split, dtype=np.uint8), root)


@register_dataset(
    DatasetSpec(
        name="svhn1083",
        title="the first 1,083 crops of SVHN's training file, 700 / 383",
        images=1083,
        classes=10,
        splits=("train", "test"),
        licence="non-commercial use",
        citation="Netzer, Wang, Coates, Bissacco, Wu, Ng: Reading Digits in Natural Images with Unsupervised Feature "
        "Learning, NIPS workshop 2011",
        folder="svhn1083/{train,test}/<digit>/",
        downloads=False,
    )
)
def read_svhn1083(spec: DatasetSpec, data_dir: Path, download: bool) -> ImageSource:
    """The folders `train` and `test`, with one folder per digit."""
    return read_folder(_subfolder(spec, data_dir, "svhn1083"), spec.name)


def _subfolder(spec: DatasetSpec, data_dir: Path, folder: str) -> Path:
    """A folder below `data_dir`. Raises: DataError if it is missing, explaining how to get it."""
    if not (data_dir / folder).is_dir():
        hint = ", or add `download=True`" if spec.downloads else ""
        raise DataError(f"{data_dir / folder}: no such folder", f"`data_dir` must contain {spec.folder}{hint}")
    return data_dir / folder
