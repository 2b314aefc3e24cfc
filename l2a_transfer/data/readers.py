"""What `--data` means: a named set, or a kind and a path as `imagefolder:PATH` → an image source."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.cifar import read_cifar
from l2a_transfer.data.decode import SUFFIXES
from l2a_transfer.data.folders import read_folder
from l2a_transfer.data.layout import check_choice
from l2a_transfer.data.lists import read_list
from l2a_transfer.data.names import (
    MAX_CLASSES,
    check_class_count,
    check_split_count,
    in_order,
    merged,
    split_named,
    text_of,
)
from l2a_transfer.data.npz import Npz, open_npz
from l2a_transfer.data.objects import InMemory, source_in_memory
from l2a_transfer.data.parquet import read_parquet
from l2a_transfer.data.reading import Reading, class_warnings
from l2a_transfer.data.registry import DATASETS, KINDS, DatasetSpec, find_dataset
from l2a_transfer.data.sources import (
    ArraySource,
    FileSource,
    ImageSource,
    Table,
    ZipSource,
    check_source,
    join_splits,
    numbered,
    select,
)
from l2a_transfer.data.webdataset import read_webdataset
from l2a_transfer.errors import ArgumentError, DataError, UnknownNameError
from l2a_transfer.memory import require_memory
from l2a_transfer.wording import counted

__all__ = ["ImageSource", "open_source"]

log = logging.getLogger(__name__)
CALTECH_MINI = Path(__file__).parent / "bundled" / "caltech-mini.zip"
EXAMPLES = {"imagefolder": "photos", "npz": "photos.npz", "wds": "shards/{000..003}.tar", "parquet": "folder"}
NAME_BYTES = 200
"""What a row's id takes while a set is opened, with its label: the text, and its place in a list, a tuple and a set."""
LAST_CHARACTER = 0x10FFFF
LOOKED_AT = 1000
"""Files of a folder that are looked at to guess of which kind it is."""


def open_source(
    data: str | Path | ImageSource | InMemory,
    *,
    data_dir: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    download: bool = False,
    split_from: str = "auto",
    verify_source: bool = False,
    name: str | None = None,
) -> ImageSource:
    """The pictures of a data set, with labels, ids and splits.

    Parameters
    ----------
    data : str, Path, ndarray, Dataset, tuple, mapping or ImageSource
        A named set (`l2a-transfer datasets` lists them); `imagefolder:PATH`, `npz:FILE`, `wds:PATH` or `parquet:PATH`;
        uint8 images (N, H, W, 3) or (N, H, W); a map-style data set of torch, whose items are pictures or (picture,
        label); (images, labels) with labels (N,), integers (−1: none) or names; or split → one of these in memory.
    data_dir : str or Path, optional
        The folder of a named set.
    split : str, optional
        Only this split.
    limit : int, optional
        At most so many pictures a split, evenly over the classes.
    download : bool, default=False
        Fetch a named set that is not in `data_dir`.
    split_from : {"auto", "folders", "none"}, default="auto"
        What splits of folders and shards are: by names, the first-level folders, or nothing.
    verify_source : bool, default=False
        Make the fingerprint of what is in files, which are all read for it, and not of sizes and times of change.
    name : str, optional
        What feature files and reports call a data set in memory, "memory" by default.

    Returns
    -------
    ImageSource
        N pictures; `labels` int32 (N,), `split` uint8 (N,), `ids` N names. Data in memory is not copied and must stay
        as it is. Classes that differ only in case, or have no picture in a split, are logged.

    Raises
    ------
    UnknownNameError
        For a name or split that does not exist, with the nearest.
    DataError
        For a set that is missing, empty, damaged, or can be read in two ways, and for ids and classes whose names
        cannot be written into a feature file.
    TypeError
        For another kind of object, and for pixels that are not uint8.

    Examples
    --------
    >>> import numpy as np
    >>> import l2a_transfer
    >>> source = l2a_transfer.open_source("digits", limit=20)
    >>> len(source), source.splits, source.image(0).size
    (20, ('all',), (8, 8))
    >>> images = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    >>> l2a_transfer.open_source((images, ["cat", "dog", "cat", "dog"]), name="pets").classes
    ('cat', 'dog')
    """
    if not isinstance(data, (str, Path)):
        if data_dir is not None or download or split_from != "auto" or verify_source:
            raise ArgumentError(
                "data_dir, download, split_from and verify_source are for data on disk", "leave them out"
            )
        return _checked(source_in_memory(data, name=name), split, limit, "")
    if name is not None:
        raise ArgumentError(f"name is for data in memory; {str(data)!r} has one", "leave it out")
    data = str(data)
    kind, colon, where = data.partition(":")
    where = os.path.expanduser(where)
    if colon and kind in EXAMPLES and not where:
        raise ArgumentError(f"data {data!r} needs a path after the colon, as {kind}:{EXAMPLES[kind]}")
    how: dict[str, Any] = {"split_from": check_choice(split_from), "by_content": verify_source}
    if split_from != "auto" and kind not in ("imagefolder", "wds", "parquet"):
        raise ArgumentError(
            f"split_from is for imagefolder:, wds: and parquet:; the splits of {data} are its own", "leave it at auto"
        )
    if colon and kind == "imagefolder":
        root = Path(where)
        source: ImageSource = read_folder(root, f"imagefolder:{root.resolve().name}", **how)
    elif colon and kind == "npz":
        source = read_npz(Path(where))
    elif colon and kind == "wds":
        source = read_webdataset(where, **how)
    elif colon and kind == "parquet":
        source = read_parquet(where, **how)
    else:
        if data not in DATASETS and os.path.exists(os.path.expanduser(data)):
            raise UnknownNameError(f"data {data!r} is no data set's name but a path; {_meant(data)}")
        source = _open_named(find_dataset(data), None if data_dir is None else Path(data_dir), download=download)
        if verify_source and isinstance(source, Table):
            source = dataclasses.replace(source, by_content=True)
    return _checked(source, split, limit, data if colon else "")


def _checked(source: ImageSource, split: str | None, limit: int | None, where: str) -> ImageSource:
    """The chosen rows of a source. Raises: as `check_source`."""
    chosen = select(source, split=split, limit=limit)
    check_source(chosen, where=where)
    for text in class_warnings(source.classes, source.splits, source.labels, source.split):
        log.warning("%s: %s", source.name, text)
    return chosen


def _meant(path: str) -> str:
    """What to write for a path that is there, by what it holds."""
    found = Path(os.path.expanduser(path))
    kinds = {".npz": "npz", ".tar": "wds", ".parquet": "parquet"}
    if found.is_dir():
        held = {file.suffix for file in itertools.islice(found.rglob("*"), LOOKED_AT)}
        kind = next((kinds[suffix] for suffix in (".tar", ".parquet") if suffix in held), "imagefolder")
    else:
        kind = kinds.get(found.suffix, "")
    return f"did you mean '{kind}:{path}'?" if kind else f"what is read is {', '.join(KINDS)}"


def _open_named(spec: DatasetSpec, data_dir: Path | None, *, download: bool) -> ImageSource:
    if not spec.needs_data_dir:
        return {"caltech-mini": _caltech_mini, "digits": _digits}[spec.name](spec)
    if data_dir is None:
        raise DataError(f"{spec.name}: needs the folder that holds {spec.folder}", "name it as `data_dir`")
    if spec.loader:
        from l2a_transfer.data.torchvision_sets import open_torchvision

        source: ImageSource = open_torchvision(spec, data_dir, download=download)
    else:
        if download and spec.downloads:
            from l2a_transfer.data.download import fetch

            fetch(spec, data_dir)
        readers: dict[str, Callable[[DatasetSpec, Path], ImageSource]] = {
            "cifar10": _cifar, "cifar100": _cifar, "caltech101": _caltech101, "stanford40": _stanford40,
            "svhn1083": _svhn1083,
        }  # fmt: skip
        source = readers[spec.name](spec, data_dir)
    if spec.images and len(source) != spec.images:
        log.warning("%s: %s, the published set has %d", spec.name, counted(len(source), "image"), spec.images)
    return source


def _cifar(spec: DatasetSpec, data_dir: Path) -> ImageSource:
    parts: dict[str, tuple[NDArray[np.uint8], NDArray[np.int32]]] = {}
    classes: tuple[str, ...] = ()
    for split in spec.splits:
        images, labels, classes = read_cifar(spec.name, data_dir, split)
        parts[split] = (np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels)  # (N, 32, 32, 3)
    return join_splits(spec.name, classes, parts)


def _digits(spec: DatasetSpec) -> ImageSource:
    from sklearn.datasets import load_digits

    found = load_digits()  # values 0…16
    pictures = np.round(found.images * (255 / 16)).astype(np.uint8)
    return join_splits(spec.name, [str(name) for name in found.target_names], {"all": (pictures, found.target)})


def _caltech_mini(spec: DatasetSpec) -> ImageSource:
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


def _caltech101(spec: DatasetSpec, data_dir: Path) -> ImageSource:
    root = _inside(spec, data_dir, "caltech101/101_ObjectCategories")
    return read_folder(root, spec.name, split_from="none", without=["BACKGROUND_Google"])


def _svhn1083(spec: DatasetSpec, data_dir: Path) -> ImageSource:
    return read_folder(_inside(spec, data_dir, "svhn1083"), spec.name)


def _stanford40(spec: DatasetSpec, data_dir: Path) -> ImageSource:
    """The authors' lists `ImageSplits/train.txt` and `test.txt`; the action is the file name up to its number."""
    root, lists = (_inside(spec, data_dir, f"stanford40/{name}") for name in ("JPEGImages", "ImageSplits"))
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
                raise DataError(f"{path}: {name!r} is not the name of a picture, as 'fishing_001.jpg'")
        names += own
        split += [k] * len(own)
    if not names or len(set(names)) != len(names):
        raise DataError(f"{lists}: no pictures listed, or one of them twice")
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise DataError(f"{root / missing[0]}: listed in ImageSplits but not there ({len(missing)} in all)")
    actions = [name.rsplit("_", 1)[0] for name in names]
    classes = tuple(sorted(set(actions)))
    labels = np.array([classes.index(action) for action in actions], dtype=np.int32)
    return FileSource(spec.name, classes, spec.splits, tuple(names), labels, np.array(split, dtype=np.uint8), root)


def _inside(spec: DatasetSpec, data_dir: Path, folder: str) -> Path:
    if not (data_dir / folder).is_dir():
        hint = ", or add `download=True`" if spec.downloads else ""
        raise DataError(f"{data_dir / folder}: no such folder", f"`data_dir` must hold {spec.folder}{hint}")
    return data_dir / folder


def read_npz(path: Path) -> ImageSource:
    """Arrays in an `.npz`: `images` uint8 (N, H, W) or (N, H, W, 3), and optionally `labels` (N,) or (N, 1) integers,
    `classes` (K,) names, `ids` (N,) and `split` (N,) names. Or, as MedMNIST has it, `train_images`, `train_labels`,
    `val_…`, `test_…`. Names may be text or bytes in UTF-8. Nothing is unpickled. Raises: DataError naming the file and
    the key.
    """
    with open_npz(path) as file:
        return _read_npz(path, file)


def _read_npz(path: Path, file: Npz) -> ImageSource:
    headers = file.arrays
    given = _texts(path, file, "classes") if "classes" in headers else None
    prefixes = [key.removesuffix("images") for key in headers if key == "images" or key.endswith("_images")]
    split_of = {prefix: split_named(prefix[:-1]) or prefix[:-1] or "all" for prefix in prefixes}
    if not prefixes or ("" in prefixes and len(prefixes) > 1) or len(set(split_of.values())) < len(prefixes):
        raise DataError(
            f"{path}: needs 'images', or one '<split>_images' a split; it has {', '.join(headers) or 'none'}"
        )
    order = in_order(set(split_of.values()))
    prefixes.sort(key=lambda p: order.index(split_of[p]))
    parts = []
    _require_names(path, sum(sum(headers[f"{prefix}images"].shape[:1]) for prefix in prefixes))
    for prefix in prefixes:
        images = headers[f"{prefix}images"]
        if (
            images.dtype != np.uint8
            or not (len(images.shape) == 3 or (len(images.shape) == 4 and images.shape[3] == 3))
            or not images.bytes
        ):
            raise DataError(
                f"{path}: '{prefix}images' must be uint8 (N, H, W) or (N, H, W, 3), not empty; "
                f"got {images.dtype} {images.shape}"
            )
        rows = images.shape[0]
        found = headers.get(f"{prefix}labels")
        if found is not None and (math.prod(found.shape) != rows or found.dtype.kind not in "iu"):
            raise DataError(f"{path}: '{prefix}labels' must be {rows} integers, got {found.dtype} {found.shape}")
        own = np.full(rows, -1) if found is None else file.read(f"{prefix}labels").reshape(-1)
        parts.append(own.astype(np.int64))
    if len({headers[f"{prefix}images"].shape[1:] for prefix in prefixes}) > 1:
        raise DataError(f"{path}: the pictures of all splits must have one shape")
    low, high = (int(f([f(labels) for labels in parts])) for f in (min, max))
    count = len(given) if given else high + 1
    if given:
        check_class_count(f"{path}: 'classes'", count)
    if low < -1 or high >= count or count > MAX_CLASSES:
        raise DataError(
            f"{path}: labels must be −1 or between 0 and {count - 1 if given else MAX_CLASSES - 1}; got {low}…{high}"
        )
    used = {"classes", *(f"{prefix}{part}" for prefix in prefixes for part in ("images", "labels"))}
    used |= {"ids", "split"} if "" in prefixes else set()
    if unused := [key for key in (*headers, *file.others) if key not in used]:
        log.warning("%s: arrays that are not read: %s", path, ", ".join(unused))
    classes, labels = merged(given or [str(k) for k in range(count)], np.concatenate(parts))
    splits = tuple(split_of[prefix] for prefix in prefixes)
    lengths = [len(own) for own in parts]
    source = ArraySource(
        name=f"npz:{path.stem}",
        classes=classes,
        splits=splits,
        ids=tuple(name for split, rows in zip(splits, lengths, strict=True) for name in numbered(split, rows)),
        labels=labels.astype(np.int32),
        split=np.repeat(np.arange(len(splits)), lengths).astype(np.uint8),
        pictures=_pictures(file, [f"{prefix}images" for prefix in prefixes]),
    )
    from_names = ", ".join(f"{prefix}images → {split_of[prefix]}" for prefix in prefixes)
    reading = Reading("no array 'split': one split" if "" in prefixes else f"names of arrays, {from_names}")
    source = dataclasses.replace(source, reading=reading)
    return _named_rows(path, source, file) if "" in prefixes else source


def _require_names(path: Path, rows: int, size: int = 0) -> None:
    """Raises: MemoryLimitError where the names of so many rows, of so many bytes each, are more than memory holds.

    A name is an object of Python's, which a picture of one pixel, packed a thousandfold, is far smaller than.
    """
    require_memory(
        rows * (NAME_BYTES + 2 * size), f"{path}: to have {counted(rows, 'name')} in memory", "split the file"
    )


def _pictures(file: Npz, names: list[str]) -> NDArray[np.uint8]:
    """The pictures of all splits in one array, into which each is read."""
    file.check_size(names)
    headers = [file.arrays[name] for name in names]
    pictures = np.empty((sum(header.shape[0] for header in headers), *headers[0].shape[1:]), dtype=np.uint8)
    at = 0
    for name, header in zip(names, headers, strict=True):
        file.read_into(name, pictures[at : at + header.shape[0]])
        at += header.shape[0]
    return pictures


def _named_rows(path: Path, source: ArraySource, file: Npz) -> ArraySource:
    """The source with the ids and splits that an `.npz` gives its rows."""
    splits, split, ids, reading = source.splits, source.split, source.ids, source.reading
    if "split" in file.arrays:
        shape = file.arrays["split"].shape
        if shape != (len(source),):
            raise DataError(f"{path}: 'split' must have {counted(len(source), 'name')}, got {shape}")
        given = [name.strip() for name in _texts(path, file, "split")]
        own = [split_named(name) or name for name in given]
        splits = in_order(set(own))
        check_split_count(f"{path}: 'split'", splits)
        split = np.array([splits.index(name) for name in own], dtype=np.uint8)
        said = ", ".join(f"{name} → {split_named(name) or name}" for name in sorted(set(given))[:5])
        reading = Reading(f"the array 'split', {said}")
    if "ids" in file.arrays:
        ids = tuple(_texts(path, file, "ids"))
        if len(ids) != len(source) or len(set(ids)) != len(ids):
            raise DataError(f"{path}: 'ids' must be {len(source)} different names")
    elif "split" in file.arrays:
        ids = tuple(numbered("row", len(source)))
    return dataclasses.replace(source, splits=splits, ids=ids, split=split, reading=reading)


def _texts(path: Path, file: Npz, key: str) -> list[str]:
    """The names in an array, which may be bytes. Raises: DataError where they are no UTF-8, or no characters."""
    header = file.arrays[key]
    _require_names(path, math.prod(header.shape), header.dtype.itemsize)
    values = file.read(key)
    if values.dtype.kind == "U":  # NumPy makes text of any numbers, and an error of Python's own of some
        codes = np.ascontiguousarray(values).reshape(-1).view(f"{values.dtype.byteorder}u4")
        if codes.size and codes.max() > LAST_CHARACTER:
            raise DataError(f"{path}: '{key}' has numbers in it that stand for no character", "save it again")
    try:
        return [text_of(name) for name in values.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: '{key}' must be text or bytes in UTF-8: {error}") from error
