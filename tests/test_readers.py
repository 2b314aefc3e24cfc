"""What `--data` means: rows, labels, ids and splits of every kind of source, and every way in which it can be wrong."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from l2a_transfer.data.decode import FORMATS
from l2a_transfer.data.readers import open_source
from l2a_transfer.data.registry import DATASETS
from l2a_transfer.data.selection import select
from l2a_transfer.data.sets import AIRPLANES_MINI
from l2a_transfer.data.sources import ImageSource
from l2a_transfer.errors import DataError, UnknownNameError
from l2a_transfer.features.store.reader import read_features
from tests.conftest import TINY, assert_fails, l2a, memory_source, save_picture


def folder(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        save_picture(root / name, seed=number)
    return root


def rows_of(source: ImageSource) -> list[tuple[str, str, str]]:
    """(id, class or "-", split) of every row."""
    labels = [source.classes[label] if label >= 0 else "-" for label in source.labels]
    return list(zip(source.ids, labels, [source.splits[k] for k in source.split], strict=True))


def test_class_folders(tmp_path: Path) -> None:
    folder(tmp_path / "in", "dog/2.jpg", "dog/10.PNG", "cat/a/deep.jpeg", "cat/z.jpg", "Zebra/1.jpg", ".hidden/1.jpg")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / "cat" / "._z.jpg").write_text("no picture")
    source = open_source(f"imagefolder:{tmp_path / 'in'}")
    assert source.name == "imagefolder:in"
    assert rows_of(source) == [
        ("Zebra/1.jpg", "Zebra", "all"),
        ("cat/a/deep.jpeg", "cat", "all"),
        ("cat/z.jpg", "cat", "all"),
        ("dog/10.PNG", "dog", "all"),
        ("dog/2.jpg", "dog", "all"),
    ]
    assert source.labels.dtype == np.int32
    assert source.split.dtype == np.uint8


def test_split_folders_in_the_usual_order(tmp_path: Path) -> None:
    folder(tmp_path, "test/b/1.jpg", "validation/a/1.jpg", "train/b/1.jpg", "train/a/2.jpg")
    source = open_source(f"imagefolder:{tmp_path}")
    assert source.splits == ("train", "val", "test")
    assert rows_of(source) == [
        ("train/a/2.jpg", "a", "train"),
        ("train/b/1.jpg", "b", "train"),
        ("validation/a/1.jpg", "a", "val"),
        ("test/b/1.jpg", "b", "test"),
    ]


def test_a_class_called_train_is_no_split_beside_other_classes(tmp_path: Path) -> None:
    source = open_source(f"imagefolder:{folder(tmp_path, 'train/1.jpg', 'bus/1.jpg')}")
    assert (source.classes, source.splits) == (("bus", "train"), ("all",))


def test_pictures_without_classes_have_no_label_and_svm_eval_names_the_reason(tmp_path: Path) -> None:
    source = open_source(f"imagefolder:{folder(tmp_path / 'in', '2.jpg', '1.jpg', 'x.png')}")
    assert rows_of(source) == [("1.jpg", "-", "all"), ("2.jpg", "-", "all"), ("x.png", "-", "all")]
    assert source.classes == ()
    folder(tmp_path / "split", "train/1.jpg", "test/2.jpg")
    assert rows_of(open_source(f"imagefolder:{tmp_path / 'split'}")) == [
        ("train/1.jpg", "-", "train"),
        ("test/2.jpg", "-", "test"),
    ]
    out = tmp_path / "f.h5"
    assert l2a("extract", "--model", TINY, "--data", f"imagefolder:{tmp_path / 'in'}", "--out", out).exit_code == 0
    assert_fails(l2a("svm-eval", out, "--out", tmp_path / "e"), 1, str(out), "label")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no pictures in it"),
        (["1.jpg", "cat/1.jpg"], "pictures both next to and in class folders"),
        (["train/1.jpg", "train/cat/1.jpg", "test/cat/2.jpg"], "pictures both next to and in class folders"),
        (["1.jpg", "train/cat/1.jpg", "test/cat/1.jpg"], "pictures next to the split folders"),
        (["val/cat/1.jpg", "valid/cat/1.jpg"], "are the same split; merge"),
    ],
)
def test_folders_that_cannot_be_understood(tmp_path: Path, names: list[str], words: str) -> None:
    root = tmp_path / "in"
    root.mkdir()
    with pytest.raises(DataError, match=f"{root}.*{words}"):
        open_source(f"imagefolder:{folder(root, *names)}")


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    folder(tmp_path, "cat/1.jpg")
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match="dog: a class folder without pictures"):
        open_source(f"imagefolder:{tmp_path}")


def test_a_missing_folder_or_a_file_in_its_place(tmp_path: Path) -> None:
    assert_fails(
        l2a("extract", "--model", TINY, "--data", f"imagefolder:{tmp_path / 'no'}", "--out", tmp_path / "f.h5"),
        1,
        str(tmp_path / "no"),
        "no such folder",
    )
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="not a folder"):
        open_source(f"imagefolder:{tmp_path / 'file'}")


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    try:
        with open(path, "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    with pytest.raises(DataError, match="the name is not UTF-8"):
        open_source(f"imagefolder:{tmp_path}")


def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    folder(tmp_path, "cat/1.jpg")
    (tmp_path / "cat" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert open_source(f"imagefolder:{tmp_path}").ids == ("cat/1.jpg",)


def test_a_picture_that_changed_at_the_same_size_changes_the_fingerprint(tmp_path: Path) -> None:
    data, path = f"imagefolder:{folder(tmp_path, 'a/1.jpg', 'b/1.jpg')}", tmp_path / "a" / "1.jpg"
    by_time, by_content = (open_source(data, verify_source=verify).fingerprint() for verify in (False, True))
    assert by_time != by_content
    content, stat = bytearray(path.read_bytes()), path.stat()
    content[-9] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert open_source(data).fingerprint() != by_time
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_source(data).fingerprint() == by_time  # nothing that the file system keeps has changed
    assert open_source(data, verify_source=True).fingerprint() != by_content
    content[-9] ^= 1
    path.write_bytes(content)
    assert open_source(data, verify_source=True).fingerprint() == by_content


def test_the_fingerprint_follows_names_labels_and_sizes(tmp_path: Path) -> None:
    data = f"imagefolder:{folder(tmp_path / 'in', 'a/1.jpg', 'b/1.jpg')}"
    first = open_source(data).fingerprint()
    assert open_source(data).fingerprint() == first
    with open(tmp_path / "in" / "a" / "1.jpg", "ab") as file:
        file.write(b"\0")
    second = open_source(data).fingerprint()
    save_picture(tmp_path / "in" / "c" / "1.jpg")
    assert len({first, second, open_source(data).fingerprint()}) == 3


FINGERPRINT = """
import hashlib, json, tracemalloc
from pathlib import Path
import numpy as np
from l2a_transfer.data import sources

N = 50_000
sources.file_stamp = lambda path, *, by_content: (len(str(path)), 7)
ids = tuple(f"class/picture-{k:07d}.png" for k in range(N))
zeros = np.zeros(N, np.int32)
files = sources.FileSource("many", ("class",), ("all",), ids, zeros, zeros.astype(np.uint8), Path("root"))
tracemalloc.start()
found = files.fingerprint()
print(tracemalloc.get_traced_memory()[1])
table = ["many", ("class",), ("all",), ids, [0] * N, [0] * N]
stamps = [(len("root/") + len(name), 7) for name in ids]
assert found == hashlib.sha256((json.dumps(table) + json.dumps(stamps)).encode()).hexdigest()
"""


@pytest.mark.slow
def test_a_fingerprint_takes_no_memory_that_grows_with_the_files() -> None:
    """Of 200,000 files it took 60 MB: the text of all ids, and of all sizes and times, at once.

    In a process of its own, because names of files are interned, in a table that grows by doubling.
    """
    done = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 6 << 20


def test_a_picture_that_disappears_is_named(tmp_path: Path) -> None:
    source = open_source(f"imagefolder:{folder(tmp_path, 'a/1.jpg', 'b/1.jpg')}")
    (tmp_path / "b" / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"b/1\.jpg: cannot be read"):
        source.image(1)
    with pytest.raises(DataError, match=r"b/1\.jpg: cannot be read"):
        source.fingerprint()


def test_split_and_limit() -> None:
    whole = memory_source(rows=40, classes=4)  # labels 0 0 1 1 2 2 3 3 …; even rows train, odd rows test
    test = select(whole, split="test")
    assert (len(test), test.splits, set(test.split.tolist())) == (20, ("test",), {0})
    assert test.ids == whole.ids[1::2]
    limited = select(whole, limit=6)
    assert limited.splits == ("train", "test")
    for k in range(2):
        assert sorted(limited.labels[limited.split == k].tolist()) == [0, 0, 1, 1, 2, 3]
    assert list(limited.ids) == sorted(limited.ids)
    np.testing.assert_array_equal(np.asarray(limited.image(3)), whole.pictures[whole.ids.index(limited.ids[3])])
    assert len(select(whole, limit=1000)) == 40
    assert len({whole.fingerprint(), test.fingerprint(), limited.fingerprint()}) == 3
    with pytest.raises(UnknownNameError, match="did you mean 'test'"):
        select(whole, split="tset")


def test_caltech_mini() -> None:
    source = open_source("caltech-mini")
    assert (len(source), len(source.classes), source.splits) == (1200, 20, ("train", "test"))
    counts = np.zeros((2, 20), dtype=int)
    np.add.at(counts, (source.split, source.labels), 1)
    assert (counts == 30).all()
    assert len({name.split("/", 1)[1] for name in source.ids}) == 1200  # no picture in both splits
    image = source.image(700)
    assert (image.mode, min(image.size)) == ("RGB", 48)
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert again.image(700).tobytes() == image.tobytes()
    assert again.fingerprint() == source.fingerprint()


def test_airplanes_mini() -> None:
    source = open_source("airplanes-mini")
    assert (len(source), source.classes, source.splits) == (100, ("airplane",), ("all",))
    with zipfile.ZipFile(AIRPLANES_MINI) as file:
        assert b"Creative Commons Attribution 4.0" in file.read("ATTRIBUTION.txt")
        for row, name in enumerate(source.ids):
            mask = Image.open(file.open(name.replace("images/", "masks/").replace(".jpg", ".png")))
            assert mask.size == source.image(row).size
            assert 0.02 < np.asarray(mask).mean() < 0.7
    assert AIRPLANES_MINI.stat().st_size < 1.2e6


def test_digits() -> None:
    source = open_source("digits")
    assert (len(source), source.classes, source.splits) == (1797, tuple("0123456789"), ("all",))
    assert (source.image(0).mode, source.image(0).size) == ("RGB", (8, 8))
    assert np.asarray(source.image(0)).max() == round(15 * 255 / 16)  # the first digit's darkest value is 15 of 16


def save_npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


IMAGES = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)


def test_npz(tmp_path: Path) -> None:
    source = open_source(save_npz(tmp_path / "a.npz", images=IMAGES))
    assert rows_of(source) == [(f"all/{k:05d}", "-", "all") for k in range(4)]
    np.testing.assert_array_equal(np.asarray(source.image(2)), IMAGES[2])
    source = open_source(
        save_npz(
            tmp_path / "b.npz",
            images=IMAGES[..., 0],
            labels=[1, 0, 1, -1],
            classes=["x", "y"],
            ids=["q", "r", "s", "t"],
            split=["test", "train", "train", "test"],
        )
    )
    assert source.name == "npz:b"
    assert rows_of(source) == [("q", "y", "test"), ("r", "x", "train"), ("s", "y", "train"), ("t", "-", "test")]
    assert source.splits == ("train", "test")
    assert source.image(1).mode == "RGB"


def test_npz_as_medmnist_has_it(tmp_path: Path) -> None:
    data = save_npz(
        tmp_path / "m.npz",
        test_images=IMAGES[:1],
        test_labels=np.array([[2]], np.uint8),
        train_images=IMAGES[1:],
        train_labels=np.array([[0], [1], [2]], np.uint8),
    )
    assert rows_of(open_source(data)) == [
        ("train/00000", "0", "train"),
        ("train/00001", "1", "train"),
        ("train/00002", "2", "train"),
        ("test/00000", "2", "test"),
    ]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": IMAGES}, "needs 'images'"),
        ({"images": IMAGES.astype(np.float32)}, "must be uint8"),
        ({"images": IMAGES[..., :2]}, "must be uint8"),
        ({"images": IMAGES[:0]}, "not empty"),
        ({"images": IMAGES, "labels": [0, 1]}, "must be 4 integers"),
        ({"images": IMAGES, "labels": [0.5, 1, 1, 1]}, "must be 4 integers"),
        ({"images": IMAGES, "labels": [0, 1, 2, 3], "classes": ["a", "b"]}, "between 0 and 1; got 0…3"),
        ({"images": IMAGES, "labels": [0, 1, -2, 3]}, "got -2…3"),
        ({"images": IMAGES, "labels": [0, 1, 2, 2**31 - 2]}, "must be −1 or between"),
        ({"images": IMAGES, "ids": ["a", "b", "c", "a"]}, "4 unique names"),
        ({"images": IMAGES, "split": ["train"]}, "'split' must have 4 names"),
        ({"images": np.array([None] * 4)}, "not an .npz file of plain arrays"),
        ({"train_images": IMAGES, "test_images": IMAGES[:, :4]}, "must have the same shape"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=rf"a\.npz: .*{words}"):
        open_source(save_npz(tmp_path / "a.npz", **arrays))


def test_npz_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match=r"a\.npz: cannot be read"):
        open_source(f"npz:{path}")
    path.write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"a\.npz: not an \.npz file"):
        open_source(f"npz:{path}")
    save_npz(path, images=IMAGES)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"a\.npz: not an \.npz file"):
        open_source(f"npz:{path}")


def cifar_files(data_dir: Path) -> None:
    root = data_dir / "cifar-10-batches-py"
    root.mkdir(parents=True)
    for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        pixels = np.full((2, 3072), k, dtype=np.uint8)
        pixels[:, :1024] += 100  # red
        (root / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": [k, 9 - k]}))
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"c%d" % i for i in range(10)]}))


def test_cifar10(tmp_path: Path) -> None:
    cifar_files(tmp_path)
    source = open_source("cifar10", data_dir=tmp_path)
    assert (len(source), source.splits) == (12, ("train", "test"))
    assert rows_of(source)[0] == ("train/00000", "c0", "train")
    assert rows_of(source)[-1] == ("test/00001", "c4", "test")
    assert source.image(11).getpixel((0, 0)) == (105, 5, 5)


def test_caltech101_leaves_out_the_background(tmp_path: Path) -> None:
    root = tmp_path / "caltech101" / "101_ObjectCategories"
    folder(root, "ant/image_0001.jpg", "BACKGROUND_Google/image_0001.jpg", "crab/image_0001.jpg")
    assert rows_of(open_source("caltech101", data_dir=tmp_path)) == [
        ("ant/image_0001.jpg", "ant", "all"),
        ("crab/image_0001.jpg", "crab", "all"),
    ]


def stanford(root: Path) -> Path:
    names = {"train": ["riding_a_bike_002.jpg", "cooking_001.jpg"], "test": ["cooking_010.jpg"]}
    (root / "stanford40" / "ImageSplits").mkdir(parents=True)
    for split, own in names.items():
        (root / "stanford40" / "ImageSplits" / f"{split}.txt").write_text("\n".join(own) + "\n")
        folder(root / "stanford40" / "JPEGImages", *own)
    return root


def test_stanford40(tmp_path: Path) -> None:
    assert rows_of(open_source("stanford40", data_dir=stanford(tmp_path))) == [
        ("cooking_001.jpg", "cooking", "train"),
        ("riding_a_bike_002.jpg", "riding_a_bike", "train"),
        ("cooking_010.jpg", "cooking", "test"),
    ]


def test_stanford40_with_a_picture_missing_or_a_list_that_leads_elsewhere(tmp_path: Path) -> None:
    stanford(tmp_path)
    (tmp_path / "stanford40/JPEGImages/cooking_010.jpg").unlink()
    with pytest.raises(DataError, match=r"cooking_010\.jpg: missing, but listed in ImageSplits"):
        open_source("stanford40", data_dir=tmp_path)
    (tmp_path / "stanford40/ImageSplits/test.txt").write_text("../../../etc/passwd_1.jpg\n")
    with pytest.raises(DataError, match=r"test\.txt: .* is not the name of a picture"):
        open_source("stanford40", data_dir=tmp_path)
    (tmp_path / "stanford40/ImageSplits/test.txt").unlink()
    with pytest.raises(DataError, match=r"test\.txt: cannot be read"):
        open_source("stanford40", data_dir=tmp_path)


@pytest.mark.parametrize("name", [name for name, spec in DATASETS.items() if spec.needs_data_dir])
def test_a_set_that_is_not_there_says_what_must_be(name: str, tmp_path: Path) -> None:
    result = l2a("extract", "--model", "pixels", "--data", name, "--out", tmp_path / "f.h5")
    assert_fails(result, 1, name, "--data-dir")
    (tmp_path / "empty").mkdir()
    result = l2a(
        "extract", "--model", "pixels", "--data", name, "--data-dir", tmp_path / "empty", "--out", tmp_path / "f.h5"
    )
    assert_fails(result, 1, str(tmp_path / "empty"), "must contain")
    assert "--download" in result.stderr or not DATASETS[name].downloads
    assert not [path for path in (tmp_path / "empty").rglob("*") if path.is_file()]


def test_every_row_of_the_registry_is_complete() -> None:
    for name, spec in DATASETS.items():
        assert spec.name == name
        assert spec.title
        assert spec.licence
        assert any(year in spec.citation for year in map(str, range(1990, 2027))), name
        assert spec.splits
        assert spec.images >= spec.classes > (name != "airplanes-mini")
        if spec.loader:
            import torchvision.datasets

            assert hasattr(torchvision.datasets, spec.loader)
            assert tuple(split for split, _ in spec.split_options) == spec.splits


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'caltech101'"):
        open_source("caltech-101")
    with pytest.raises(UnknownNameError, match="did you mean 'imagefolder:PATH'"):
        open_source("image-folder:x")


def test_grey_and_odd_pictures_reach_the_features(tmp_path: Path) -> None:
    for name, mode in (("a/1.png", "L"), ("a/2.png", "LA"), ("b/1.png", "P"), ("b/2.jpg", "CMYK")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (20, 10)).save(tmp_path / "in" / name)
    result = l2a("extract", "--model", TINY, "--data", f"imagefolder:{tmp_path / 'in'}", "--out", tmp_path / "f.h5")
    assert result.exit_code == 0, result.output
    found = read_features(tmp_path / "f.h5")
    assert found.ids == ("a/1.png", "a/2.png", "b/1.png", "b/2.jpg")
    black, transparent, palette, no_ink = found.features
    np.testing.assert_array_equal(black, palette)
    np.testing.assert_array_equal(transparent, no_ink)  # both are white
    assert not np.array_equal(black, no_ink)


def test_every_name_of_a_format_that_is_read_is_read(tmp_path: Path) -> None:
    names = {"1.jpe": "JPEG", "2.JFIF": "JPEG", "3.mpo": "MPO", "4.pbm": "PPM", "5.apng": "PNG", "6.jp2": "JPEG2000"}
    if "AVIF" in FORMATS:
        names["7.avif"] = "AVIF"
    for name, kind in names.items():
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("1" if kind == "PPM" else "RGB", (32, 32), 1 if kind == "PPM" else (200, 100, 50)).save(
            tmp_path / "a" / name, kind
        )
    source = open_source(f"imagefolder:{tmp_path}")
    assert source.ids == tuple(f"a/{name}" for name in names)
    for row, kind in enumerate(names.values()):
        expected = (255, 255, 255) if kind == "PPM" else (200, 100, 50)
        assert np.abs(np.asarray(source.image(row)).astype(int) - expected).max() <= 3, kind


BYTES = np.array([b"caf\xc3\xa9", b"cat"])


def test_bytes_are_text_wherever_an_npz_has_names(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 4), dtype=np.uint8)
    source = open_source(
        save_npz(
            tmp_path / "a.npz",
            images=images,
            labels=[1, 0],
            classes=BYTES,
            ids=BYTES,
            split=np.array([b"test", b"train"]),
        )
    )
    assert rows_of(source) == [("café", "cat", "test"), ("cat", "café", "train")]
    for key in ("classes", "ids", "split"):
        arrays = {"images": images, "labels": [0, 0], key: np.array([b"caf\xe9", b"x"])}
        with pytest.raises(DataError, match=rf"a\.npz: '{key}' must be text or bytes in UTF-8"):
            open_source(save_npz(tmp_path / "a.npz", **arrays))
