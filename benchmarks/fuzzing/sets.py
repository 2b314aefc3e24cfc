"""Data sets in folders: torchvision's layouts and this package's own, with hostile pictures, lists and names."""

from __future__ import annotations

import bz2
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from unittest import mock

import h5py
import numpy as np
import scipy.io
import torchvision.datasets

from fuzzing.kinds import Kind, sha256
from fuzzing.mutate import NAMES, VALUES, damaged_json, mutate_file, mutate_text, one_of, pick, special_file
from fuzzing.pictures import damage as damage_picture
from fuzzing.pictures import encoded, picture
from l2a_transfer.data.readers import open_source

PICTURES = (".jpg", ".jpeg", ".png", ".ppm")
GUARDED = ("imagelabels.mat", "setid.mat")
"""Files whose MD5 torchvision checks, so that they cannot be replaced."""


def put(path: Path, number: int = 0) -> None:
    """A picture rotated according to its number, so that no two in a set are equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = {".jpg": "JPEG", ".jpeg": "JPEG", ".ppm": "PPM"}.get(path.suffix.lower(), "PNG")
    path.write_bytes(encoded(name, picture(24, 20).rotate(10 * number)))


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def eurosat(root: Path) -> None:
    for k, name in enumerate(("Forest/Forest_1", "Forest/Forest_2", "River/River_1")):
        put(root / "eurosat/2750" / f"{name}.jpg", k)


def dtd(root: Path) -> None:
    for split in ("train", "val", "test"):
        names = [f"banded/banded_{split}.jpg", f"dotted/dotted_{split}.jpg"]
        write(root / f"dtd/dtd/labels/{split}1.txt", *names)
        for k, name in enumerate(names):
            put(root / "dtd/dtd/images" / name, k)


def flowers102(root: Path) -> None:
    base = root / "flowers-102"
    for k in range(1, 7):
        put(base / f"jpg/image_{k:05d}.jpg", k)
    scipy.io.savemat(base / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2]])})
    scipy.io.savemat(base / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]})


def pets(root: Path) -> None:
    for split, k in (("trainval", 0), ("test", 2)):
        names = [f"Abyssinian_{k + 1}", f"yorkshire_terrier_{k + 2}"]
        write(root / f"oxford-iiit-pet/annotations/{split}.txt", f"{names[0]} 1 1 1", f"{names[1]} 2 2 1")
        for n, name in enumerate(names):
            put(root / f"oxford-iiit-pet/images/{name}.jpg", n)


def food101(root: Path) -> None:
    for split, k in (("train", 0), ("test", 1)):
        names = {"pizza": [f"pizza/{k}"], "sushi": [f"sushi/{k}"]}
        write(root / f"food-101/meta/{split}.json", json.dumps(names))
        for own in names.values():
            put(root / f"food-101/images/{own[0]}.jpg", k)


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    write(data / "variants.txt", "707-320", "A300 B4")
    for k, split in enumerate(("train", "val", "test")):
        write(data / f"images_variant_{split}.txt", f"{k}00001 707-320", f"{k}00002 A300 B4")
        for n in (1, 2):
            put(data / f"images/{k}0000{n}.jpg", n)


def cars(root: Path) -> None:
    base = root / "stanford_cars"
    kinds = [(field, "O") for field in ("bbox_x1", "class", "fname")]
    (base / "devkit").mkdir(parents=True)
    for split, where in (
        ("train", base / "devkit/cars_train_annos.mat"),
        ("test", base / "cars_test_annos_withlabels.mat"),
    ):
        rows = np.array([[(5, k + 1, f"0000{k}.jpg") for k in range(2)]], dtype=kinds)
        scipy.io.savemat(where, {"annotations": rows})
        for k in range(2):
            put(base / f"cars_{split}/0000{k}.jpg", k)
    scipy.io.savemat(base / "devkit/cars_meta.mat", {"class_names": np.array([["Audi A4", "BMW M3"]], dtype=object)})


def gtsrb(root: Path) -> None:
    base = root / "gtsrb"
    for k in range(3):
        put(base / f"GTSRB/Training/0000{k % 2}/0000{k}.ppm", k)
        put(base / f"GTSRB/Final_Test/Images/0000{k}.ppm", k)
    write(
        base / "GT-final_test.csv", "Filename;Width;Height;ClassId", *[f"0000{k}.ppm;24;20;{k % 2}" for k in range(3)]
    )


def sun397(root: Path) -> None:
    write(root / "SUN397/ClassName.txt", "/a/abbey", "/z/zoo")
    for k, name in enumerate(("a/abbey/sun_a", "a/abbey/sun_b", "z/zoo/sun_c")):
        put(root / f"SUN397/{name}.jpg", k)


def country211(root: Path) -> None:
    for split in ("train", "valid", "test"):
        for k, country in enumerate(("AD", "ZW")):
            put(root / f"country211/{split}/{country}/{k}.jpg", k)


def imagenette(root: Path) -> None:
    for split in ("train", "val"):
        for k, name in enumerate(("n01440764", "n03888257")):
            put(root / f"imagenette2/{split}/{name}/{name}_{k}.JPEG", k)


def caltech256(root: Path) -> None:
    for k, name in ((1, "ak47"), (2, "flag")):
        for n in (1, 2):
            put(root / f"caltech256/256_ObjectCategories/{k:03d}.{name}/{k:03d}_{n:04d}.jpg", n)


def mnist(root: Path) -> None:
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    for name, rows in (("train", 3), ("t10k", 2)):
        pixels = np.arange(rows * 784, dtype=np.int64).astype(np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, rows, 28, 28) + pixels.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, rows) + bytes(range(1, rows + 1)))


def usps(root: Path) -> None:
    for name, rows in (("usps.bz2", 3), ("usps.t.bz2", 2)):
        lines = [f"{row + 1} " + " ".join(f"{k + 1}:{(k % 3) - 1}" for k in range(256)) for row in range(rows)]
        (root / name).write_bytes(bz2.compress(("\n".join(lines) + "\n").encode()))


def pcam(root: Path) -> None:
    (root / "pcam").mkdir()
    for split in ("train", "valid", "test"):
        values = {"x": np.full((2, 96, 96, 3), 9, np.uint8), "y": np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1)}
        for name, own in values.items():
            with h5py.File(root / f"pcam/camelyonpatch_level_2_split_{split}_{name}.h5", "w") as file:
                file.create_dataset(name, data=own, chunks=(1, *own.shape[1:]), compression="gzip")


def imagefolder(root: Path) -> None:
    for split in ("train", "test"):
        for k, name in enumerate(("ant/0.jpg", "ant/1.png", "bée/2.jpeg")):
            put(root / split / name, k)


def caltech101(root: Path) -> None:
    for k, name in enumerate(("ant", "crab", "BACKGROUND_Google")):
        put(root / f"caltech101/101_ObjectCategories/{name}/image_0001.jpg", k)


def stanford40(root: Path) -> None:
    for split, k in (("train", 1), ("test", 2)):
        names = [f"cooking_00{k}.jpg", f"fishing_00{k}.jpg"]
        write(root / f"stanford40/ImageSplits/{split}.txt", *names)
        for name in names:
            put(root / f"stanford40/JPEGImages/{name}", k)


TORCHVISION = (
    eurosat,
    dtd,
    flowers102,
    pets,
    food101,
    aircraft,
    cars,
    gtsrb,
    sun397,
    country211,
    imagenette,
    caltech256,
    mnist,
    usps,
    pcam,
)
OWN = (imagefolder, caltech101, stanford40)


def seeds_of(sets: tuple[Callable[[Path], None], ...]) -> Callable[[Path], None]:
    def seeds(folder: Path) -> None:
        for make in sets:
            (folder / make.__name__).mkdir()
            make(folder / make.__name__)

    return seeds


def answer(path: Path) -> str:
    name = f"imagefolder:{path}" if path.name == "imagefolder" else path.name
    with mock.patch.object(torchvision.datasets.flowers102, "check_integrity", return_value=True):
        source = open_source(name, data_dir=path)
        pictures = [sha256(np.asarray(source.image(row))) for row in range(min(len(source), 40))]
        source.fingerprint()  # has times of change, and so is no part of the answer
        return sha256(source.ids, source.labels, source.classes, source.splits, *pictures)


def _picture(path: Path, rng: Random) -> str:
    chosen = [file for file in _files(path) if file.suffix.lower() in PICTURES]
    return damage_picture(rng.choice(chosen), rng) if chosen else _list(path, rng)


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name not in GUARDED)


def _list(path: Path, rng: Random) -> str:
    """Change a list, an annotation, or a file of arrays."""
    chosen = [file for file in _files(path) if file.suffix.lower() not in PICTURES]
    if not chosen:
        return _name(path, rng)
    file = rng.choice(chosen)
    if file.suffix == ".json" and rng.random() < 0.7:
        file.write_text(damaged_json(json.loads(file.read_text()), rng), encoding="utf-8", errors="surrogatepass")
        return "json"
    if file.suffix in (".txt", ".csv", ".json"):
        return mutate_text(file, rng)
    if file.suffix == ".mat" and rng.random() < 0.5:
        return _mat(file, rng)
    if file.suffix == ".bz2" and rng.random() < 0.5:
        return _packed(file, rng)
    if file.suffix == ".h5" and rng.random() < 0.5:
        return _arrays(file, rng)
    if file.name.endswith("ubyte") and rng.random() < 0.5:
        data = bytearray(file.read_bytes())
        at = rng.choice((0, 4, 8, 12))
        forged = rng.choice((0, 1, 0x801, 0x803, 0xD03, 5, 2**31 - 1, 2**32 - 1))
        data[at : at + 4] = forged.to_bytes(4, "big")
        file.write_bytes(data)
        return "idx"
    return mutate_file(file, rng)


def _mat(path: Path, rng: Random) -> str:
    """MATLAB files with other fields, names and numbers."""
    names = ["00000.jpg", "00001.jpg"]
    names[rng.randrange(2)] = rng.choice(NAMES).encode(errors="replace").decode()
    numbers = [
        1,
        rng.choice([value for value in VALUES if isinstance(value, (int, float)) and -(2**60) < value < 2**60]),
    ]
    rows = np.array(
        [list(zip((1, 1), numbers, names, strict=True))],
        dtype=[(field, "O") for field in ("bbox_x1", "class", "fname")],
    )
    given = rng.choice(
        (
            {"annotations": rows, "class_names": names},
            {"annotations": numbers},
            {"annotations": rows[:, :1]},
            {"other": 1},
        )
    )
    scipy.io.savemat(path, given, do_compression=rng.random() < 0.5)
    if rng.random() < 0.3:
        mutate_file(path, rng)
    return "mat"


def _packed(path: Path, rng: Random) -> str:
    text = rng.choice(
        (
            b"1 1:nan " * 3,
            b"1 " + b"1:1 " * 256,
            b"a b:c\n",
            b"",
            b"1 " + b"1:1e999 " * 256 + b"\n",
            b"\xff\xfe",
            b"9" * 50 + b" 1:1" * 256,
            b"1 1:1\n" * 100_000,
            bytes(16 << 20),
        )
    )
    # Streams that follow each other are one file.
    path.write_bytes(bz2.compress(text) * rng.choice((1, 1, 256)))
    return "packed"


def _arrays(path: Path, rng: Random) -> str:
    """PatchCamelyon's arrays with other types, shapes and storage."""
    name = path.stem[-1]
    shape = rng.choice(
        ((2, 96, 96, 3), (2, 1, 1, 1), (2,), (), (1 << 20, 96, 96, 3), (2, 1 << 15, 1 << 15, 3), (1 << 40, 1, 1, 1))
    )
    kind = rng.choice(("u1", "f4", "i8", "S5", h5py.string_dtype(), "O", "c8", "V9"))
    with h5py.File(path, "w") as file:
        how = rng.randrange(5)
        if how == 0:
            file[name] = h5py.ExternalLink("/dev/zero", "/x")
        elif how == 1:
            file.create_dataset(name, (2, 96, 96, 3), "u1", external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)])
        elif how == 2:
            file.create_group(name)
        else:
            file.create_dataset(
                name, shape, h5py.string_dtype() if kind == "O" else kind, chunks=True if shape and how == 3 else None
            )
    return f"arrays {how}"


def _name(path: Path, rng: Random) -> str:
    """A file or folder renamed, removed, duplicated with another case, or moved into itself."""
    chosen = rng.choice(sorted(path.rglob("*")))
    how = rng.randrange(5)
    name = rng.choice(NAMES).replace("\0", "").replace("/", "_").encode("utf-8", "surrogatepass")[:120] or b"x"
    target = os.path.join(os.fsencode(chosen.parent), name + os.fsencode(chosen.suffix))
    if how == 0 and not os.path.exists(target):
        os.rename(os.fsencode(chosen), target)
    elif how == 1:
        os.rename(chosen, chosen.with_name(chosen.name.swapcase() + "x"))
    elif how == 2 and not os.path.lexists(path / "again"):
        (chosen.parent / "again").symlink_to(path, target_is_directory=True)
    elif how == 3:
        if chosen.is_dir():
            os.rename(chosen, chosen.with_name(chosen.name + " "))
        else:
            chosen.unlink()
    else:
        for k in range(50):
            os.link(chosen, chosen.with_name(f"{k}{chosen.name}")) if chosen.is_file() else chosen.with_name(
                f"{k}{chosen.name}"
            ).mkdir()
    return f"name {how}"


damage = pick((8, _picture), (8, _list), (3, _name), (1, one_of(special_file)))
KINDS = {
    "torchvision": Kind(seeds_of(TORCHVISION), damage, answer, share=7),
    "folders": Kind(seeds_of(OWN), damage, answer, share=3),
}
