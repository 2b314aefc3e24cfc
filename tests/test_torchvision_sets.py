"""torchvision's sets through its own readers, and downloads from a server that the test runs."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import os
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torchvision.datasets
from PIL import Image

from l2a_transfer.data.readers import open_source
from l2a_transfer.data.registry import DATASETS
from l2a_transfer.errors import DataError
from tests.conftest import TINY, assert_fails, l2a, save_picture


def save_idx(path: Path, array: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """The format of MNIST: magic with the number of axes, the axes, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">I{array.ndim}I", 0x0800 | array.ndim, *array.shape) + array.tobytes())


def save_mnist(root: Path) -> None:
    for name, rows in (("train", 3), ("t10k", 2)):
        pictures = np.arange(rows, dtype=np.uint8).repeat(784).reshape(rows, 28, 28) + 10
        save_idx(root / "raw" / f"{name}-images-idx3-ubyte", pictures)
        save_idx(root / "raw" / f"{name}-labels-idx1-ubyte", np.arange(rows, dtype=np.uint8) + 1)


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_mnist_and_its_kin(tmp_path: Path, name: str, folder: str) -> None:
    save_mnist(tmp_path / folder)
    source = open_source(name, data_dir=tmp_path)
    assert source.ids == ("train/00000", "train/00001", "train/00002", "test/00000", "test/00001")
    assert source.labels.tolist() == [1, 2, 3, 1, 2]
    assert len(source.classes) == 10
    assert [source.image(row).getpixel((3, 3)) for row in (2, 4)] == [(12, 12, 12), (11, 11, 11)]
    first = source.fingerprint()
    save_idx(tmp_path / folder / "raw" / "t10k-images-idx3-ubyte", np.zeros((2, 28, 28), dtype=np.uint8))
    assert open_source(name, data_dir=tmp_path).fingerprint() != first


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    save_mnist(tmp_path / "MNIST")
    (tmp_path / "MNIST/raw/t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + b"\0" * 3)
    result = l2a("extract", "--model", TINY, "--data", "mnist", "--data-dir", tmp_path, "--out", tmp_path / "f.h5")
    assert_fails(result, 1, str(tmp_path), "mnist (test)", "MNIST/raw/", "--download")


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {}
    for split, rows in (("train", 3), ("test", 2)):
        pictures = np.zeros((32, 32, 3, rows), dtype=np.uint8)
        pictures[:, :, 1] = np.arange(rows)
        path = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": pictures, "y": np.array([[10], [3], [9]][:rows], dtype=np.uint8)})
        digests[split] = hashlib.md5(path.read_bytes()).hexdigest()
    split_list = {k: [*v[:2], digests.get(k, v[2])] for k, v in torchvision.datasets.SVHN.split_list.items()}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", split_list)
    source = open_source("svhn", data_dir=tmp_path)
    assert source.labels.tolist() == [0, 3, 9, 0, 3]  # the files call the digit 0 class 10
    assert source.classes == tuple("0123456789")
    assert source.image(2).getpixel((0, 0)) == (0, 2, 0)


def test_a_set_of_files_without_a_split(tmp_path: Path) -> None:
    for number, name in enumerate(["Forest/Forest_1", "Forest/Forest_2", "River/River_1"]):
        save_picture(tmp_path / "eurosat" / "2750" / f"{name}.jpg", seed=number)
    source = open_source("eurosat", data_dir=tmp_path)
    assert (source.classes, source.splits) == (("Forest", "River"), ("all",))
    assert source.labels.tolist() == [0, 0, 1]
    first = source.fingerprint()
    (tmp_path / "eurosat/2750/River/River_1.jpg").write_bytes(b"no picture")
    changed = open_source("eurosat", data_dir=tmp_path)
    assert changed.fingerprint() != first
    with pytest.raises(DataError, match=r"eurosat: all/00002: .*River_1\.jpg: not a picture"):
        changed.image(2)


def test_download_is_passed_on_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Recorder:
        classes = ("a", "b")

        def __init__(self, root: str, **options: Any) -> None:
            asked.append({"root": root, **options})
            self.data = np.arange(2, dtype=np.uint8).repeat(3 * 4 * 4).reshape(2, 3, 4, 4)
            self.labels = np.arange(2)

    monkeypatch.setattr(torchvision.datasets, "STL10", Recorder)
    source = open_source("stl10", data_dir=tmp_path, download=True)
    assert source.labels.tolist() == [0, 1, 0, 1]
    assert source.image(3).getpixel((0, 0)) == (1, 1, 1)
    open_source("stl10", data_dir=tmp_path)
    root = str(tmp_path)
    assert asked == [
        {"root": root, "split": "train", "download": True},
        {"root": root, "split": "test", "download": True},
        {"root": root, "split": "train"},
        {"root": root, "split": "test"},
    ]


def save_fer2013(root: Path, grey: int) -> list[Path]:
    (root / "fer2013").mkdir(exist_ok=True)
    pixels = " ".join([str(grey)] * 48 * 48)
    for split in ("train", "test"):
        head, row = ("emotion,pixels", f"3,{pixels}") if split == "train" else ("pixels", pixels)
        (root / "fer2013" / f"{split}.csv").write_text(f"{head}\n{row}\n")
    return sorted((root / "fer2013").iterdir())


def save_pcam(root: Path, grey: int) -> list[Path]:
    (root / "pcam").mkdir(exist_ok=True)
    for split in ("train", "valid", "test"):
        for name, values in (
            ("x", np.full((2, 96, 96, 3), grey, np.uint8)),
            ("y", np.zeros((2, 1, 1, 1), np.uint8)),
        ):
            with h5py.File(root / "pcam" / f"camelyonpatch_level_2_split_{split}_{name}.h5", "w") as file:
                file[name] = values
    return sorted((root / "pcam").iterdir())


def save_caltech256(root: Path, grey: int) -> list[Path]:
    folder = root / "caltech256" / "256_ObjectCategories"
    for number, name in ((1, "ak47"), (2, "flag")):
        (folder / f"{number:03d}.{name}").mkdir(parents=True, exist_ok=True)
        for k in (1, 2):
            Image.new("L", (8, 8), grey).save(folder / f"{number:03d}.{name}" / f"{number:03d}_{k:04d}.jpg", "BMP")
    return sorted(folder.rglob("*.jpg"))


@pytest.mark.parametrize(
    ("name", "save", "in_memory"),
    [("fer2013", save_fer2013, True), ("pcam", save_pcam, False), ("caltech256", save_caltech256, False)],
)
def test_two_sets_that_differ_only_in_their_pictures_have_two_fingerprints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, save: Callable[[Path, int], list[Path]], in_memory: bool
) -> None:
    monkeypatch.setattr(torchvision.datasets.fer2013, "check_integrity", lambda *_, **__: True)
    files = save(tmp_path, 100)
    before = [path.stat() for path in files]
    first, content = (open_source(name, data_dir=tmp_path, verify_source=verify) for verify in (False, True))
    prints = first.fingerprint(), content.fingerprint()
    assert open_source(name, data_dir=tmp_path).fingerprint() == prints[0]
    save(tmp_path, 200)
    assert [path.stat().st_size for path in files] == [stat.st_size for stat in before]
    for path, stat in zip(files, before, strict=True):
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + (0 if in_memory else 1)))
    assert open_source(name, data_dir=tmp_path).fingerprint() != prints[0]
    for path, stat in zip(files, before, strict=True):
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = open_source(name, data_dir=tmp_path, verify_source=True)
    assert changed.fingerprint() != prints[1]
    assert changed.image(0).getpixel((0, 0)) == (200, 200, 200)


def test_sun397_is_in_one_order_whatever_the_file_system_lists_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "SUN397").mkdir()
    (tmp_path / "SUN397" / "ClassName.txt").write_text("/a/abbey\n/z/zoo\n")
    for number, name in enumerate(("z/zoo/sun_b", "a/abbey/sun_c", "a/abbey/sun_a")):
        save_picture(tmp_path / "SUN397" / f"{name}.jpg", seed=number)
    found = sorted((tmp_path / "SUN397").rglob("*.jpg"))
    sources = []
    for listed in (found, found[::-1]):
        monkeypatch.setattr(type(tmp_path), "rglob", lambda *_, listed=listed: iter(listed))
        sources.append(open_source("sun397", data_dir=tmp_path))
    assert sources[0].labels.tolist() == sources[1].labels.tolist() == [0, 0, 1]
    assert sources[0].fingerprint() == sources[1].fingerprint()


def test_names_of_classes_may_be_bytes_or_synonyms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Set:
        classes = (b"tench", ("goldfish", "Carassius auratus"), "shark")

        def __init__(self, root: str, **options: Any) -> None:
            self.labels = [0, 1, 2]
            self.data = np.zeros((3, 3, 4, 4), dtype=np.uint8)

    monkeypatch.setattr(torchvision.datasets, "STL10", Set)
    assert open_source("stl10", data_dir=tmp_path).classes == ("tench", "goldfish", "shark")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}", folder
        http_server.shutdown()
        thread.join()


def tar_of(root: Path, *names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in names:
            tar.add(root / name, name)
    return buffer.getvalue()


def serve_caltech(folder: Path, tmp_path: Path) -> str:
    """A small Caltech-101 as its authors pack it (a tar in a zip); returns its MD5."""
    for name in ("ant", "crab"):
        save_picture(tmp_path / "made" / "101_ObjectCategories" / name / "image_0001.jpg")
    with zipfile.ZipFile(folder / "caltech-101.zip", "w") as file:
        file.writestr("caltech-101/101_ObjectCategories.tar.gz", tar_of(tmp_path / "made", "101_ObjectCategories"))
    return hashlib.md5((folder / "caltech-101.zip").read_bytes()).hexdigest()


def served_from(address: str, name: str, monkeypatch: pytest.MonkeyPatch, md5: str | None) -> None:
    archives = tuple(
        dataclasses.replace(archive, url=f"{address}/{archive.url.rsplit('/', 1)[1]}", md5=md5)
        for archive in DATASETS[name].archives
    )
    monkeypatch.setitem(DATASETS._entries, name, dataclasses.replace(DATASETS[name], archives=archives))


def test_caltech101_is_fetched_once(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, folder = server
    served_from(address, "caltech101", monkeypatch, serve_caltech(folder, tmp_path))
    arguments = ("extract", "--model", TINY, "--data", "caltech101", "--data-dir", tmp_path / "data", "--download")
    result = l2a(*arguments, "--out", tmp_path / "f.h5")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["caltech101"]
    (folder / "caltech-101.zip").unlink()
    result = l2a(*arguments, "--out", tmp_path / "g.h5")
    assert result.exit_code == 0, result.output


def test_stanford40_comes_in_two_archives(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    served_from(address, "stanford40", monkeypatch, None)
    save_picture(tmp_path / "p.jpg")
    with zipfile.ZipFile(folder / "Stanford40_JPEGImages.zip", "w") as file:
        file.write(tmp_path / "p.jpg", "JPEGImages/cooking_001.jpg")
        file.write(tmp_path / "p.jpg", "JPEGImages/fishing_002.jpg")
    with zipfile.ZipFile(folder / "Stanford40_ImageSplits.zip", "w") as file:
        file.writestr("ImageSplits/train.txt", "cooking_001.jpg\n")
        file.writestr("ImageSplits/test.txt", "fishing_002.jpg\n")
    source = open_source("stanford40", data_dir=tmp_path / "data", download=True)
    assert source.ids == ("cooking_001.jpg", "fishing_002.jpg")


@pytest.mark.parametrize("fault", ["md5", "not there", "cut short", "another folder"])
def test_a_faulty_download_leaves_no_set_behind(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    address, folder = server
    md5: str | None = serve_caltech(folder, tmp_path)
    path = folder / "caltech-101.zip"
    if fault == "md5":
        md5 = "0" * 32
    elif fault == "not there":
        path.unlink()
    elif fault == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
        md5 = None
    else:
        with zipfile.ZipFile(path, "w") as file:
            save_picture(tmp_path / "made" / "wrong" / "1.jpg")
            file.writestr("caltech-101/101_ObjectCategories.tar.gz", tar_of(tmp_path / "made", "wrong"))
        md5 = None
    served_from(address, "caltech101", monkeypatch, md5)
    result = l2a(
        "extract",
        "--model",
        TINY,
        "--data",
        "caltech101",
        "--data-dir",
        tmp_path / "data",
        "--download",
        "--out",
        tmp_path / "f.h5",
    )
    assert_fails(result, 1, "caltech-101.zip")
    assert not (tmp_path / "data" / "caltech101").exists()
    assert not (tmp_path / "f.h5").exists()
