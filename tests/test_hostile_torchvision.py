"""No picture of a torchvision set is opened by torchvision, and no list of one is believed."""

from __future__ import annotations

import bz2
import io
import os
import pickle
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torchvision.datasets
from PIL import Image

from l2a_transfer.data.loader import pixel_batches
from l2a_transfer.data.readers import open_source
from l2a_transfer.data.torchvision_files import read_idx, read_mat, read_usps
from l2a_transfer.errors import DataError
from l2a_transfer.preprocess import Preprocess
from tests.hostile import eps, jpeg_of_scans, mat_of_cells, png_file
from tests.test_torchvision_sets import save_idx, save_mnist, save_pcam
from tests.torchvision_layouts import LAYOUTS


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned() -> bytes:
    """Black over white as a viewer shows it; the file has them beside each other."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("L", (16, 8))
    image.paste(255, (8, 0, 16, 8))
    return encoded(image.convert("RGB"), "PNG", exif=exif)


CLEAR = encoded(Image.new("RGBA", (8, 8), (10, 20, 30, 0)), "PNG")
DEEP = png_file((2, 1), 16, 0, struct.pack(">BHH", 0, 65535, 257))


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sets made here have not the published checksums."""
    monkeypatch.setattr(torchvision.datasets.flowers102, "check_integrity", lambda *_: True)


@pytest.mark.skipif(sys.platform == "win32", reason="the fake Ghostscript is a shell script")
@pytest.mark.parametrize("name", LAYOUTS)
def test_each_set_is_read_by_our_decoder(tmp_path: Path, ghostscript: Path, name: str) -> None:
    root = tmp_path / "sets"
    paths = LAYOUTS[name](root, [CLEAR, eps(), turned(), DEEP, jpeg_of_scans(400)])
    source = open_source(name, data_dir=root)
    assert source.image(0).getpixel((0, 0)) == (255, 255, 255)
    assert np.asarray(source.image(2))[[0, 15], 0, 0].tolist() == [0, 255]
    assert np.asarray(source.image(3))[0, :, 0].tolist() == [255, 1]
    with pytest.raises(DataError, match=f"{name}: .*{paths[1].name}: not a picture"):
        source.image(1)
    (batch,) = pixel_batches(source, Preprocess(), [range(5)], on_error="skip")
    assert set(batch.faulty) == {1, 4}
    assert not ghostscript.exists()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_set_goes_to_a_worker_without_anything_of_torchvision(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path, [CLEAR, CLEAR])
    source = pickle.loads(pickle.dumps(open_source(name, data_dir=tmp_path)))  # noqa: S301 - our own bytes
    assert not any(type(part).__module__.startswith("torchvision.") for part in source.parts)
    assert source.image(0).size == (8, 8)
    assert source.fingerprint() == open_source(name, data_dir=tmp_path).fingerprint()


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


LISTS = {
    "pets": ("oxford-iiit-pet/annotations/test.txt", "Sphynx_0", "../../../secret"),
    "food101": ("food-101/meta/test.json", "pie/0", "../../../secret"),
    "aircraft": ("fgvc-aircraft-2013b/data/images_variant_val.txt", "0 707", "../../../../secret 707"),
    "gtsrb": ("gtsrb/GT-final_test.csv", "0.ppm", "/secret.jpg"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "sets"
    LAYOUTS[name](root, [CLEAR])
    path, old, new = LISTS[name]
    edit(root / path, lambda text: text.replace(old, new, 1))
    with pytest.raises(DataError, match=r"lists a picture outside this folder, '.*secret"):
        open_source(name, data_dir=root)


@pytest.mark.parametrize(
    ("name", "path", "content"),
    [
        ("pets", "oxford-iiit-pet/annotations/test.txt", "Sphynx_0 1000000000000000000000000000000 1 1\n"),
        ("pets", "oxford-iiit-pet/annotations/test.txt", "Sphynx_0 1000000000 1 1\n"),
        ("pets", "oxford-iiit-pet/annotations/test.txt", "Sphynx_0 -7 1 1\n"),
        ("pets", "oxford-iiit-pet/annotations/test.txt", "Sphynx\0_0 1 1 1\n"),
        ("pets", "oxford-iiit-pet/annotations/test.txt", "Sphynx_0\n"),
        ("dtd", "dtd/dtd/labels/train1.txt", "a/b/c/d\n"),
        ("dtd", "dtd/dtd/labels/train1.txt", ""),
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_val.txt", "0 unknown\n"),
        ("food101", "food-101/meta/test.json", "[" * 100_000),
        ("food101", "food-101/meta/test.json", '{"pie": 3}'),
        ("food101", "food-101/meta/test.json", "[1]"),
        ("gtsrb", "gtsrb/GT-final_test.csv", "Filename;ClassId\n" + "x" * 200_000 + ";0\n"),
        ("gtsrb", "gtsrb/GT-final_test.csv", "Filename;ClassId\n0.ppm\n"),
        ("gtsrb", "gtsrb/GT-final_test.csv", "File\n0.ppm\n"),
        ("sun397", "SUN397/ClassName.txt", "/b/other\n"),
        ("cars", "stanford_cars/devkit/cars_meta.mat", "no matlab"),
    ],
)
def test_a_hostile_list_is_a_named_error(tmp_path: Path, name: str, path: str, content: str) -> None:
    LAYOUTS[name](tmp_path, [CLEAR])
    (tmp_path / path).write_text(content)
    with pytest.raises(DataError, match=name):
        open_source(name, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["pets", "cars", "mnist", "usps"])
def test_a_list_of_gigabytes_or_a_pipe_is_not_read(tmp_path: Path, name: str) -> None:
    if name in LAYOUTS:
        LAYOUTS[name](tmp_path, [CLEAR])
    else:
        save_mnist(tmp_path / "MNIST")
    path = (
        tmp_path
        / {
            "pets": "oxford-iiit-pet/annotations/test.txt",
            "cars": "stanford_cars/devkit/cars_meta.mat",
            "mnist": "MNIST/raw/t10k-labels-idx1-ubyte",
            "usps": "usps.bz2",
        }[name]
    )
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match=rf"{path.name}: 1024 MiB; at most"):
        open_source(name, data_dir=tmp_path)
    if hasattr(os, "mkfifo"):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(DataError, match=rf"{path.name}: a pipe"):
            open_source(name, data_dir=tmp_path)


def test_a_list_of_stanford40_of_gigabytes_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    for name in ("JPEGImages", "ImageSplits"):
        (tmp_path / "stanford40" / name).mkdir(parents=True)
    path = tmp_path / "stanford40" / "ImageSplits" / "train.txt"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match=r"train\.txt: 1024 MiB; at most 16 are read"):
        open_source("stanford40", data_dir=tmp_path)
    if hasattr(os, "mkfifo"):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(DataError, match=r"train\.txt: a pipe"):
            open_source("stanford40", data_dir=tmp_path)


def test_the_matlab_files_of_cars_are_read_as_scipy_reads_them(tmp_path: Path) -> None:
    rows = np.zeros(3, dtype=[("bbox_x1", "O"), ("class", "O"), ("fname", "O")])
    for k, (number, name) in enumerate([(1, "a.jpg"), (196, "ü.jpg"), (200, "long name.jpg")]):
        rows[k] = (np.int16(-3), np.uint8(number) if number < 200 else np.float64(2), name)
    for packed in (False, True):
        content = {"annotations": rows, "class_names": np.array([["One", "Two"]], dtype=object)}
        scipy.io.savemat(tmp_path / "x.mat", content, do_compression=packed)
        found = read_mat(tmp_path / "x.mat")
        assert [(row["fname"], int(row["class"][0])) for row in found["annotations"]] == [
            ("a.jpg", 1),
            ("ü.jpg", 196),
            ("long name.jpg", 2),
        ]
        assert found["annotations"][0]["bbox_x1"].tolist() == [-3]
        assert found["class_names"] == ["One", "Two"]


def test_cells_in_cells_without_an_end_do_not_crash(tmp_path: Path) -> None:
    LAYOUTS["cars"](tmp_path, [CLEAR])
    (tmp_path / "stanford_cars/devkit/cars_meta.mat").write_bytes(mat_of_cells(40_000))
    with pytest.raises(DataError, match="arrays are nested more than 4 levels deep"):
        open_source("cars", data_dir=tmp_path)


def test_a_matlab_array_of_many_sides_is_refused_before_they_are_multiplied(tmp_path: Path) -> None:
    sides = b"\xff\xff\xff\x7f" * 6
    inner = struct.pack("<IIII", 6, 8, 1, 0) + struct.pack("<II", 5, len(sides)) + sides + struct.pack("<II", 1, 0)
    content = b"\0" * 124 + b"\x00\x01IM" + struct.pack("<II", 14, len(inner)) + inner
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(ValueError, match="an array with 6 axes; at most 4 are read"):
        read_mat(tmp_path / "x.mat")


def test_a_matlab_file_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    packed = zlib.compress(bytes(64 << 20))
    content = b"\0" * 124 + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(ValueError, match="unpacks to more than 16 MiB"):
        read_mat(tmp_path / "x.mat")


@pytest.mark.parametrize("seed", range(5))
def test_a_mutated_matlab_file_is_a_value_error_or_read(tmp_path: Path, seed: int) -> None:
    scipy.io.savemat(tmp_path / "x.mat", {"class_names": np.array([["One", "Two"]], dtype=object), "n": np.arange(5)})
    base = (tmp_path / "x.mat").read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(300):
        mutated = bytearray(base)
        for at in rng.integers(124, len(base), 3):
            mutated[at] = rng.choice([0, 1, 2, 14, 15, 127, 255])
        (tmp_path / "x.mat").write_bytes(mutated)
        try:
            found = read_mat(tmp_path / "x.mat")
        except (ValueError, zlib.error):
            continue
        assert type(found) is dict


def save_usps(root: Path) -> None:
    for name, rows in (("usps.bz2", 2), ("usps.t.bz2", 1)):
        lines = [f"{k + 1} " + " ".join(f"{i + 1}:{-1 + k:.4f}" for i in range(256)) for k in range(rows)]
        (root / name).write_bytes(bz2.compress(("\n".join(lines) + "\n").encode()))


def test_usps_is_read_as_torchvision_reads_it(tmp_path: Path) -> None:
    save_usps(tmp_path)
    source = open_source("usps", data_dir=tmp_path)
    theirs = torchvision.datasets.USPS(str(tmp_path))
    assert source.labels.tolist() == [0, 1, 0]
    assert [np.asarray(source.image(k))[0, 0, 0] for k in (0, 1)] == theirs.data[:, 0, 0].tolist() == [0, 127]


@pytest.mark.parametrize("line", ["1 " + "x" * 70_000, "1 1:0.5", "1 " + " ".join(["1:nan"] * 256), "\xff"])
def test_a_damaged_usps_is_a_named_error(tmp_path: Path, line: str) -> None:
    save_usps(tmp_path)
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(line.encode("latin-1")))
    with pytest.raises(DataError, match=r"usps \(train\) is missing or corrupt"):
        open_source("usps", data_dir=tmp_path)


def test_a_usps_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_usps(tmp_path)
    monkeypatch.setattr("l2a_transfer.data.torchvision_files.MAX_USPS_BYTES", 3000)
    with pytest.raises(ValueError, match="unpacks to more than"):
        read_usps(tmp_path / "usps.bz2")


def test_pickles_of_an_old_torchvision_are_not_loaded(tmp_path: Path) -> None:
    save_mnist(tmp_path / "MNIST")
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        (processed / name).write_bytes(b"what torchvision would load in place of raw/")
    assert len(open_source("mnist", data_dir=tmp_path)) == 5
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="processed: contains files of an old torchvision, which are not supported"):
        open_source("mnist", data_dir=tmp_path, download=True)


def test_an_idx_file_of_other_axes_or_length_is_a_named_error(tmp_path: Path) -> None:
    for content in (b"\0\0\x08\x02" + bytes(8), b"\0\0\x08\x01\xff\xff\xff\xff1", b"\0\0\x0d\x01\0\0\0\x011234", b""):
        save_mnist(tmp_path / "MNIST")
        (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(content)
        with pytest.raises(DataError, match=r"mnist \(test\) is missing or corrupt"):
            open_source("mnist", data_dir=tmp_path)
    save_mnist(tmp_path / "MNIST")
    save_idx(tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte", np.zeros(7, dtype=np.uint8))
    with pytest.raises(DataError, match="7 labels for 2 images"):
        open_source("mnist", data_dir=tmp_path)


def test_an_idx_file_of_endless_rows_without_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x-idx3"
    path.write_bytes(bytes((0, 0, 8, 3)) + struct.pack(">III", 2**32 - 1, 0, 28))
    with pytest.raises(ValueError, match="x-idx3 has 4,294,967,295 rows; at most 10,000,000 are read"):
        read_idx(path, 3)


def other_file(path: Path) -> None:
    with h5py.File(path.with_name("other.h5"), "w") as file:
        file["x"] = np.zeros((2, 96, 96, 3), np.uint8)
    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink("other.h5", "x")


def virtual(path: Path) -> None:
    layout = h5py.VirtualLayout(shape=(2, 96, 96, 3), dtype="u1")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(2, 96, 96, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)


def external(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (2, 96, 96, 3), "u1", external=[("secret", 0, 2 * 96 * 96 * 3)])


def huge(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (2, 1 << 20, 1 << 12, 3), "u1", chunks=(1, 64, 64, 3))


def huge_chunks(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (100_000, 96, 96, 3), "u1", chunks=(50_000, 96, 96, 3), compression="gzip")


def floats(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros((2, 96, 96, 3), np.float32)


def group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("x")


@pytest.mark.parametrize("make", [other_file, virtual, external, huge, huge_chunks, floats, group])
def test_hdf5_of_pcam_that_is_not_plain_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    save_pcam(tmp_path, 7)
    assert open_source("pcam", data_dir=tmp_path).image(5).getpixel((3, 3)) == (7, 7, 7)
    path = tmp_path / "pcam" / "camelyonpatch_level_2_split_test_x.h5"
    path.unlink()
    make(path)
    with pytest.raises(
        DataError, match=r"pcam \(test\) is missing or corrupt \('x'|pcam \(test\).*'x' in the file itself"
    ):
        open_source("pcam", data_dir=tmp_path)
