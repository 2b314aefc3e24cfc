"""Ids and names that no feature file can hold are refused when a set is opened, not after everything was computed."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2a_transfer.data.names import first_fault, name_fault, well_formed
from l2a_transfer.data.readers import open_source
from l2a_transfer.data.sources import ArraySource, check_source
from l2a_transfer.errors import DataError
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.store.reader import read_features
from tests.conftest import assert_fails, l2a, save_picture
from tests.shard_files import parquet, png, tar

IMAGES = np.zeros((3, 4, 4, 3), np.uint8)
LATIN_1 = os.fsdecode(b"caf\xe9")
"""A name in another encoding than UTF-8, as Python gives it."""


def test_what_is_wrong_with_a_name() -> None:
    assert [name_fault(name) for name in ("a", "é", "a b", "GCOL\x01", "x" * 4096)] == [""] * 5
    assert name_fault("") == "is empty"
    assert name_fault("a\0b") == "has a NUL in it"
    assert name_fault(LATIN_1) == "is not UTF-8"
    assert name_fault("é" * 2049) == "takes 4,098 bytes"
    assert first_fault(["a", "é" * 2000, "x" * 4096]) is None
    assert first_fault(["a"] * 25_000 + [""]) == (25_000, "is empty")
    assert first_fault([]) is None
    assert well_formed(f"{LATIN_1} é") == "caf? é"


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"ids": ["a", "", "c"]}, "row 1: the name '' is empty"),
        ({"ids": ["a", "b\0c", "d"]}, r"row 1: the name 'b\\x00c' has a NUL in it"),
        ({"ids": ["a", "b", "x" * 5000]}, "row 2: the name 'x{60}'… takes 5,000 bytes"),
        ({"ids": ["a", "b", LATIN_1]}, "row 2: the name .* is not UTF-8"),
        ({"classes": ["a", "", "c"]}, "class 1: the name '' is empty"),
        ({"classes": ["a", "b", LATIN_1]}, "class 2: the name .* is not UTF-8"),
        ({"classes": ["x" * 5000, "b", "c"]}, "class 0: .* takes 5,000 bytes"),
        ({"split": ["train", "é\0x", "test"]}, "split 2: .* has a NUL in it"),
        ({"split": ["train", "", "test"]}, "split 2: the name '' is empty"),
    ],
)
def test_npz(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=[0, 1, 2], **arrays)
    with pytest.raises(DataError, match=rf"^npz:.*a\.npz: {words}"):
        open_source(f"npz:{tmp_path / 'a.npz'}")


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["a", "b\0c"], "class 1: .* has a NUL in it"),
        (["a", "\ud800"], "class 1: .* is not UTF-8"),
        (["a", ""], "class 1: .* is empty"),
        (["a", "x" * 5000], "class 1: .* takes 5,000 bytes"),
    ],
)
def test_parquet_and_tar(tmp_path: Path, classes: list[str], words: str) -> None:
    parquet(tmp_path / "a.parquet", [png(1), png(2)], [0, 1], classes)
    with pytest.raises(DataError, match=rf"^parquet:.*a\.parquet: {words}"):
        open_source(f"parquet:{tmp_path / 'a.parquet'}")
    members: dict[str, bytes | str] = {}
    for k, name in enumerate(classes):
        members |= {f"{k}.png": png(k), f"{k}.json": json.dumps({"label": name})}
    tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=r"^wds:.*a\.tar: class [01]: .*" + words.split(".*")[1]):
        open_source(f"wds:{tmp_path / 'a.tar'}")


def test_a_member_whose_name_and_shard_together_are_too_long(tmp_path: Path) -> None:
    name = "/".join(["x" * 200] * 20) + "/1.png"
    tar(tmp_path / ("s" * 100 + ".tar"), {name: png(1)}, tarfile.PAX_FORMAT)
    with pytest.raises(
        DataError, match=r"^wds:.*s+\.tar: row 0: the name 's{60}'… takes 4,130 bytes; ids, classes, splits and levels"
    ):
        open_source(f"wds:{tmp_path}/{'s' * 100}.tar")


def foreign(folder: Path, name: bytes) -> Path:
    """A folder with a name of these bytes; skips where the file system takes UTF-8 only."""
    path = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
    try:
        path.mkdir(parents=True)
    except OSError:
        pytest.skip("this file system takes no such name")
    return path


def test_folders_whose_names_are_not_utf8(tmp_path: Path) -> None:
    save_picture(foreign(tmp_path / "in", b"caf\xe9") / "1.jpg", seed=1)
    save_picture(tmp_path / "in" / "tea" / "1.jpg", seed=2)
    with pytest.raises(DataError, match="the name is not UTF-8; rename the file"):
        open_source(f"imagefolder:{tmp_path / 'in'}")
    root = foreign(tmp_path, b"photos\xe9")
    save_picture(root / "a" / "1.jpg", seed=1)
    result = l2a("extract", "--model", "pixels", "--data", f"imagefolder:{root}", "--out", tmp_path / "f.h5")
    assert_fails(result, 1, "/photos?: the data set's name is not UTF-8")
    np.savez(root / f"{LATIN_1}.npz", images=IMAGES)
    with pytest.raises(DataError, match=r"^npz:.*caf\?.*: the data set's name is not UTF-8"):
        open_source(f"npz:{root}/{LATIN_1}.npz")


def test_torchvision(tmp_path: Path) -> None:
    for name in (b"Forest", b"caf\xe9"):
        save_picture(foreign(tmp_path / "eurosat" / "2750", name) / "1.jpg", seed=1)
    with pytest.raises(DataError, match=r"^eurosat: class 1: .* is not UTF-8"):
        open_source("eurosat", data_dir=tmp_path)


def test_only_the_name_of_the_set_has_to_be_utf8_and_not_what_it_lies_in(tmp_path: Path) -> None:
    root = foreign(tmp_path, b"photos\xe9") / "in"
    save_picture(root / "a" / "1.jpg", seed=1)
    (root / "a" / "2.jpg").write_bytes(b"no picture")
    source = open_source(f"imagefolder:{root}")
    extract(source, PixelsBackend(), tmp_path / "f.h5", on_error="skip", progress=False)
    ((name, reason),) = read_features(tmp_path / "f.h5").meta.skipped
    assert name == "a/2.jpg"
    assert reason.startswith("not a picture")


class Untouched(PixelsBackend):
    def stream(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("was asked to compute")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": ("a", "b\0", "c")}, r"row 1: the name 'b\\x00' has a NUL in it"),
        ({"ids": ("a", "b", "a")}, "row 2: the id 'a' appears twice"),
        ({"name": "se\0t"}, "the data set's name has a NUL in it"),
        ({"labels": np.array([0, 3, 1], np.int32)}, "row 1: the label 3 is not between -1 and 1"),
        ({"labels": np.array([0, -2, 1], np.int32)}, "row 1: the label -2 is not between -1 and 1"),
        ({"split": np.array([0, 0, 2], np.uint8)}, "row 2: the split 2 is not between 0 and 0"),
    ],
)
def test_sources_of_the_callers_own_are_checked_before_anything_is_computed(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    whole: dict[str, Any] = {
        "name": "own",
        "classes": ("x", "y"),
        "splits": ("all",),
        "ids": ("a", "b", "c"),
        "labels": np.array([0, 1, -1], np.int32),
        "split": np.zeros(3, np.uint8),
        "pictures": IMAGES,
    }
    check_source(ArraySource(**whole))
    with pytest.raises(DataError, match=words):
        extract(ArraySource(**(whole | change)), Untouched(), tmp_path / "f.h5", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_more_splits_than_can_be_told_apart(tmp_path: Path) -> None:
    save_picture(tmp_path / "in" / "0" / "a" / "1.jpg", seed=1)
    for k in range(1, 256):
        shutil.copytree(tmp_path / "in" / "0", tmp_path / "in" / str(k))
    with pytest.raises(DataError, match="in: has 256 splits; at most 255 are allowed"):
        open_source(f"imagefolder:{tmp_path / 'in'}", split_from="folders")
    shutil.rmtree(tmp_path / "in" / "255")
    assert len(open_source(f"imagefolder:{tmp_path / 'in'}", split_from="folders").splits) == 255
