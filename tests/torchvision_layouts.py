"""Torchvision's sets of files, made anew as their authors lay them out: one class, the same pictures in every split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import scipy.io


def _write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _pictures(names: Iterable[Path], pictures: list[bytes]) -> list[Path]:
    return [_write(path, content) for path, content in zip(names, pictures, strict=False)]


def eurosat(root: Path, pictures: list[bytes]) -> list[Path]:
    return _pictures((root / f"eurosat/2750/Forest/{k}.jpg" for k in range(9)), pictures)


def dtd(root: Path, pictures: list[bytes]) -> list[Path]:
    for split in ("train", "val", "test"):
        _write(root / f"dtd/dtd/labels/{split}1.txt", "".join(f"banded/{k}.jpg\n" for k in range(len(pictures))))
    return _pictures((root / f"dtd/dtd/images/banded/{k}.jpg" for k in range(9)), pictures)


def flowers102(root: Path, pictures: list[bytes]) -> list[Path]:
    base, numbers = root / "flowers-102", np.arange(1, len(pictures) + 1)
    found = _pictures((base / f"jpg/image_{k:05d}.jpg" for k in range(1, 9)), pictures)
    scipy.io.savemat(base / "imagelabels.mat", {"labels": np.ones(len(pictures), dtype=np.uint8)})
    scipy.io.savemat(base / "setid.mat", {"trnid": numbers, "valid": numbers, "tstid": numbers})
    return found


def pets(root: Path, pictures: list[bytes]) -> list[Path]:
    base = root / "oxford-iiit-pet"
    for split in ("trainval", "test"):
        _write(base / f"annotations/{split}.txt", "".join(f"Sphynx_{k} 1 1 1\n" for k in range(len(pictures))))
    return _pictures((base / f"images/Sphynx_{k}.jpg" for k in range(9)), pictures)


def food101(root: Path, pictures: list[bytes]) -> list[Path]:
    for split in ("train", "test"):
        names = [f"pie/{k}" for k in range(len(pictures))]
        _write(root / f"food-101/meta/{split}.json", json.dumps({"pie": names}))
    return _pictures((root / f"food-101/images/pie/{k}.jpg" for k in range(9)), pictures)


def aircraft(root: Path, pictures: list[bytes]) -> list[Path]:
    data = root / "fgvc-aircraft-2013b/data"
    _write(data / "variants.txt", "707-320\n")
    for split in ("train", "val", "test"):
        _write(data / f"images_variant_{split}.txt", "".join(f"{k} 707-320\n" for k in range(len(pictures))))
    return _pictures((data / f"images/{k}.jpg" for k in range(9)), pictures)


def cars(root: Path, pictures: list[bytes]) -> list[Path]:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True, exist_ok=True)
    rows = np.zeros(len(pictures), dtype=[("bbox_x1", "O"), ("class", "O"), ("fname", "O")])
    for k in range(len(pictures)):
        rows[k] = (np.uint8(3), np.uint8(1), f"{k:05d}.jpg")
    for name in ("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"):
        scipy.io.savemat(base / name, {"annotations": rows}, do_compression=True)
    scipy.io.savemat(base / "devkit/cars_meta.mat", {"class_names": np.array(["Hummer", "Audi"], dtype=object)})
    _pictures((base / f"cars_test/{k:05d}.jpg" for k in range(9)), pictures)
    return _pictures((base / f"cars_train/{k:05d}.jpg" for k in range(9)), pictures)


def gtsrb(root: Path, pictures: list[bytes]) -> list[Path]:
    base = root / "gtsrb"
    lines = "".join(f"{k}.ppm;0\n" for k in range(len(pictures)))
    _write(base / "GT-final_test.csv", f"Filename;ClassId\n{lines}")
    _pictures((base / f"GTSRB/Final_Test/Images/{k}.ppm" for k in range(9)), pictures)
    return _pictures((base / f"GTSRB/Training/00000/{k}.ppm" for k in range(9)), pictures)


def sun397(root: Path, pictures: list[bytes]) -> list[Path]:
    _write(root / "SUN397/ClassName.txt", "/a/abbey\n")
    return _pictures((root / f"SUN397/a/abbey/sun_{k}.jpg" for k in range(9)), pictures)


def country211(root: Path, pictures: list[bytes]) -> list[Path]:
    for split in ("valid", "test", "train"):
        found = _pictures((root / f"country211/{split}/AD/{k}.jpg" for k in range(9)), pictures)
    return found


def imagenette(root: Path, pictures: list[bytes]) -> list[Path]:
    for split in ("val", "train"):
        found = _pictures((root / f"imagenette2/{split}/n01440764/{k}.JPEG" for k in range(9)), pictures)
    return found


def caltech256(root: Path, pictures: list[bytes]) -> list[Path]:
    folder = root / "caltech256/256_ObjectCategories/001.ak47"
    return _pictures((folder / f"001_{k:04d}.jpg" for k in range(1, 9)), pictures)


LAYOUTS: dict[str, Callable[[Path, list[bytes]], list[Path]]] = {
    "eurosat": eurosat,
    "dtd": dtd,
    "flowers102": flowers102,
    "pets": pets,
    "food101": food101,
    "aircraft": aircraft,
    "cars": cars,
    "gtsrb": gtsrb,
    "sun397": sun397,
    "country211": country211,
    "imagenette": imagenette,
    "caltech256": caltech256,
}
"""Name of a set → what writes it below a folder and returns the paths of the pictures of its first split. That of
flowers102 needs torchvision's check of its MATLAB files to be off."""
