"""The feature file: what goes in comes out, nothing changed is believed, nothing hostile is followed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2a_transfer.errors import StoreError
from l2a_transfer.features.store.reader import (
    SEAL,
    USER_BLOCK,
    is_feature_file,
    open_store,
    read_features,
    read_maps,
    read_meta,
)
from l2a_transfer.features.store.schema import FeatureMeta
from l2a_transfer.features.store.writer import write_features
from tests.conftest import assert_fails, l2a
from tests.feature_files import feature_set, labels_of
from tests.feature_files import save as saved

META = FeatureMeta(
    data="toy",
    classes=("ant", "bée"),
    splits=("train", "test"),
    levels=(("L2", 0, 2), ("L3", 2, 3)),
    card={"name": "toy-model", "width": 0.25},
    preprocess={"size": 32},
    tap="ga",
    precision="fp32",
    backend="torch",
    fingerprint={"data": "abc", "batch_size": 64},
)
FEATURES = np.array([[1, 2, 3], [4, 5, 6], [-7, 0.5, 9], [0, 0, 1e-6]], dtype=np.float32)
ROWS: dict[str, Any] = {"labels": [0, 1, -1, 0], "ids": ["a/1.jpg", "b/ü.jpg", "c", "d"], "split": [0, 0, 1, 1]}


def save(
    path: Path, meta: FeatureMeta = META, features: np.ndarray = FEATURES, dtype: str = "float32", **rows: Any
) -> Path:
    write_features(path, meta, **{**ROWS, **rows}, blocks=[features[:1], features[1:]], dim=3, dtype=dtype)
    return path


def reseal(path: Path) -> None:
    """Renew length and hash, as a hostile program would, so that only the content can be refused."""
    content = path.read_bytes()[USER_BLOCK:]
    seal = SEAL.pack(b"L2AFEAT\n", 1, len(content), hashlib.sha256(content).digest())
    path.write_bytes(seal.ljust(USER_BLOCK, b"\0") + content)


def changed(path: Path, change: Callable[[h5py.File], None]) -> Path:
    """The file after `change`, sealed again."""
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        change(file)
    reseal(path)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_goes_in_comes_out(tmp_path: Path, dtype: str) -> None:
    found = read_features(save(tmp_path / "f.h5", dtype=dtype))
    assert found.meta == META
    assert found.path == tmp_path / "f.h5"
    assert found.features.dtype == dtype
    np.testing.assert_array_equal(found.features, FEATURES.astype(dtype))
    assert (found.labels.dtype, found.labels.tolist()) == (np.int32, [0, 1, -1, 0])
    assert (found.split.dtype, found.split.tolist()) == (np.uint8, [0, 0, 1, 1])
    assert found.ids == ("a/1.jpg", "b/ü.jpg", "c", "d")
    assert read_meta(tmp_path / "f.h5") == (META, 4, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]


def test_the_bytes_are_a_function_of_the_content(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a.h5").read_bytes(), save(tmp_path / "b.h5").read_bytes()
    assert a == b
    other = dataclasses.replace(META, precision="bf16")
    assert save(tmp_path / "c.h5", other).read_bytes() != a


def test_a_file_that_is_written_a_second_later_has_the_same_bytes(tmp_path: Path) -> None:
    """HDF5 stores times in whole seconds, and h5py before 3.15 asked it to, for the root and the group of the maps."""
    maps = {"L3": [np.full((4, 2, 2), 0.25, dtype=np.float16)]}
    first = save(tmp_path / "a.h5", maps=maps).read_bytes()
    time.sleep(1.1)
    assert save(tmp_path / "b.h5", maps=maps).read_bytes() == first


def test_plain_h5py_reads_it_in_three_lines(tmp_path: Path) -> None:
    with h5py.File(save(tmp_path / "f.h5")) as file:
        np.testing.assert_array_equal(file["features"][:], FEATURES)
        assert file["ids"].asstr()[:].tolist() == ROWS["ids"]
        assert json.loads(file.attrs["classes"]) == ["ant", "bée"]
        assert file.attrs["schema"] == "l2a-features/1"
        assert all(file[name].fletcher32 for name in ("features", "labels", "ids", "split"))


def test_the_user_block_is_as_written_down(tmp_path: Path) -> None:
    content = save(tmp_path / "f.h5").read_bytes()
    assert content[:8] == b"L2AFEAT\n"
    version, length = struct.unpack_from("<IQ", content, 8)
    assert (version, length) == (1, len(content) - 512)
    assert content[20:52] == hashlib.sha256(content[512:]).digest()
    assert content[52:512] == bytes(460)
    assert content[512:520] == b"\x89HDF\r\n\x1a\n"
    assert is_feature_file(tmp_path / "f.h5")


def test_version_1_files_still_load() -> None:
    found = read_features(Path(__file__).parent / "data" / "features-v1.h5")
    assert found.meta == META
    np.testing.assert_array_equal(found.features, FEATURES)
    assert found.ids == tuple(ROWS["ids"])


def test_attributes_of_fixed_length_are_text(tmp_path: Path) -> None:
    def fix(file: h5py.File) -> None:
        for key in list(file.attrs):
            file.attrs[key] = np.bytes_(file.attrs[key].encode())

    path = changed(save(tmp_path / "f.h5"), fix)
    with h5py.File(path) as file:
        assert isinstance(file.attrs["classes"], bytes)
    assert read_meta(path)[0] == META
    with pytest.raises(StoreError, match=r"f\.h5: "):
        read_meta(changed(path, set_attribute("data", np.bytes_(b"\xff"))))


def test_every_single_flipped_bit_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5")
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    places = [*range(60), 300, 511, *rng.integers(512, len(content), 100).tolist(), len(content) - 1]
    for place in places:
        content[place] ^= 1 << (place % 8)
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"f\.h5: "):
            read_features(path)
        content[place] ^= 1 << (place % 8)
    path.write_bytes(content)
    read_features(path)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 30, 511, 512, 600, -1])
def test_a_truncated_file_says_so(tmp_path: Path, keep: int) -> None:
    path = save(tmp_path / "f.h5")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"f\.h5: (truncated|not a feature file)"):
        read_features(path)


def test_a_file_that_was_never_finished_says_so(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5")
    path.write_bytes(bytes(USER_BLOCK) + path.read_bytes()[USER_BLOCK:])
    with pytest.raises(StoreError, match=r"f\.h5: incomplete: writing it was interrupted"):
        read_features(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        read_features(tmp_path / "none.h5")
    with pytest.raises(StoreError, match="cannot be read"):
        read_features(tmp_path)
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["features"] = FEATURES
    with pytest.raises(StoreError, match="not a feature file of l2a-transfer"):
        read_features(tmp_path / "plain.h5")
    path = save(tmp_path / "f.h5")
    content = bytearray(path.read_bytes())
    content[8] = 2
    path.write_bytes(content)
    with pytest.raises(StoreError, match="format version 2; this program reads version 1"):
        read_features(path)
    path.write_bytes(bytes(content[:USER_BLOCK]) + b"no HDF5 at all")
    reseal(path)
    with pytest.raises(StoreError, match="not an HDF5 file"):
        read_features(path)


def replace(file: h5py.File, name: str, **options: Any) -> None:
    del file[name]
    if "data" in options:  # as the writer stores it
        options = {"chunks": options["data"].shape, "fletcher32": True} | options
    file.create_dataset(name, **options)


def set_attribute(key: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(key, value)


def external_link(file: h5py.File) -> None:
    del file["features"]
    file["features"] = h5py.ExternalLink("/etc/passwd", "/features")


def soft_link(file: h5py.File) -> None:
    file["more"] = h5py.SoftLink("/features")


def external_storage(file: h5py.File) -> None:
    replace(file, "features", shape=(4, 3), dtype="f4", external=[("elsewhere.bin", 0, h5py.h5f.UNLIMITED)])


def virtual_source(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "features", (4, 3))
    del file["features"]
    file.create_virtual_dataset("features", layout)


def huge(file: h5py.File) -> None:
    replace(file, "features", shape=(4, 10**12), dtype="f4", chunks=(1, 1024), fletcher32=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (external_link, "/features is a soft or external link"),
        (soft_link, "/more is a soft or external link"),
        (external_storage, "/features stores its values in other files"),
        (virtual_source, "/features stores its values in other files"),
        (huge, "declares"),
        (lambda f: replace(f, "features", data=FEATURES, compression="gzip"), "fletcher32 as its only filter"),
        (lambda f: replace(f, "features", data=FEATURES.astype("f8")), "float32 or float16"),
        (lambda f: replace(f, "features", data=FEATURES[:3]), "/features has 3 rows, but /labels has 4"),
        (lambda f: replace(f, "features", data=FEATURES[:, :2]), "levels cover 3 columns"),
        (lambda f: replace(f, "features", data=FEATURES[0]), "must have 2 axes"),
        (lambda f: replace(f, "labels", data=np.array([0, 1, 2, 0], "i4")), "−1 or an index of one of 2 classes"),
        (lambda f: replace(f, "labels", data=np.array([0, 1, -2, 0], "i4")), "−1 or an index of one of 2 classes"),
        (lambda f: replace(f, "split", data=np.array([0, 0, 1, 2], "u1")), "/split must be an index of one of 2"),
        (lambda f: replace(f, "split", data=np.array([0, 0, 1], "u1")), r"/split must have the shape \(4,\)"),
        (lambda f: replace(f, "ids", data=np.array([b"a", b"b", b"a", b"c"])), "'a' appears more than once"),
        (lambda f: replace(f, "ids", data=np.array([b"\xff", b"b", b"a", b"c"])), "corrupt or written by another"),
        (lambda f: f.__delitem__("labels"), "no data set /labels"),
        (lambda f: (f.__delitem__("ids"), f.create_group("ids")), "no data set /ids"),
        (set_attribute("schema", "l2a-features/9"), "schema must be 'l2a-features/1', got 'l2a-features/9'"),
        (lambda f: f.attrs.__delitem__("schema"), "schema must be"),
        (set_attribute("card", "{"), "'card' is not valid JSON"),
        (set_attribute("card", "[" * 100_000), "'card' is not valid JSON"),
        (set_attribute("card", "{}"), "card has no 'name'"),
        (set_attribute("classes", "{}"), "classes must be a list, got {}"),
        (set_attribute("classes", "[1, 2]"), r"classes\[0\] must be text"),
        (set_attribute("levels", '[["L2", 0, 2], ["L3", 1, 3]]'), "cover the columns in order"),
        (set_attribute("levels", '[["L2", 0]]'), r"levels\[0\] must be a list of 3"),
        (set_attribute("tap", 3), "'tap' must be text"),
        (set_attribute("classes", r'["cat", "\ud800"]'), "'classes': name 1 is not UTF-8"),
        (set_attribute("classes", '["", "dog"]'), "'classes': name 0 is empty"),
        (set_attribute("classes", r'["cat", "d\u0000g"]'), "'classes': name 1 has a NUL"),
        (set_attribute("splits", r'["train", "\ud800"]'), "'splits': name 1 is not UTF-8"),
        (set_attribute("splits", '["train", "train"]'), "'splits': names must be unique"),
        (set_attribute("levels", '[["", 0, 2], ["L3", 2, 3]]'), "'levels': name 0 is empty"),
        (set_attribute("levels", '[["L3", 0, 2], ["L3", 2, 3]]'), "'levels': names must be unique"),
    ],
)
def test_a_seal_is_not_trusted_to_mean_good_will(
    tmp_path: Path, change: Callable[[h5py.File], None], words: str
) -> None:
    path = changed(save(tmp_path / "f.h5"), change)
    for read in (read_features, read_meta):
        with pytest.raises(StoreError, match=words):
            read(path)


@pytest.mark.parametrize("classes", [("0", "1"), ("3", "17"), ("airplane", "automobile"), ("maillot", "maillot")])
def test_class_names_that_data_sets_have_are_kept(tmp_path: Path, classes: tuple[str, ...]) -> None:
    meta = dataclasses.replace(META, classes=classes)
    assert read_features(save(tmp_path / "f.h5", meta=meta)).meta.classes == classes


def test_nan_features_name_the_image(tmp_path: Path) -> None:
    def poison(file: h5py.File) -> None:
        file["features"][2, 1] = np.nan

    path = changed(save(tmp_path / "f.h5", labels=[0, 1, 0, 1]), poison)
    with pytest.raises(StoreError, match=r"1 of 4 rows is not finite, the first is 'c'"):
        read_features(path)
    assert_fails(l2a("svm-eval", path, "--out", tmp_path / "out"), 1, str(path), "not finite")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": [0, 1, 0]}, "/split must have the shape"),
        ({"ids": ["a", "b", "c"]}, "4 names, got 3"),
        ({"ids": ["a", "b", "c", "b"]}, "'b' appears more than once"),
        ({"ids": ["a", "b", "c", ""]}, "not empty"),
        ({"ids": ["a", "b", "c", "caf\udce9"]}, "must be UTF-8"),
        ({"ids": ["a", "b", "c", "x" * 5000]}, "takes 5,000 bytes"),
        ({"labels": [0, 1, 2, 0]}, "/labels must be"),
        ({"features": FEATURES[:3]}, "got 3 rows of features, expected 4"),
        ({"features": np.concatenate([FEATURES, FEATURES])}, "does not match"),
        ({"features": FEATURES[:, :2]}, "does not match"),
        ({"features": FEATURES * np.float32(np.nan)}, "'a/1.jpg' are not finite"),
        ({"features": FEATURES * 1e5, "dtype": "float16"}, "'a/1.jpg' are not finite in float16"),
        ({"meta": dataclasses.replace(META, levels=(("L2", 0, 2),))}, "levels cover 2 columns"),
        ({"meta": dataclasses.replace(META, card={})}, "card has no name"),
        ({"meta": dataclasses.replace(META, classes=("cat", "\ud800"))}, "'classes': name 1 is not UTF-8"),
        ({"meta": dataclasses.replace(META, splits=("train", ""))}, "'splits': name 1 is empty"),
    ],
)
def test_what_does_not_fit_together_is_not_written_and_the_old_file_stays(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    path = save(tmp_path / "f.h5")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=words):
        save(path, **options)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]
    with pytest.raises(ValueError, match="float64"):
        save(path, dtype="float64")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5")
    before = path.read_bytes()

    def interrupted() -> Iterator[np.ndarray]:
        yield FEATURES[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(path, META, **ROWS, blocks=interrupted(), dim=3)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from l2a_transfer.errors import StoreError
from l2a_transfer.features.store.writer import write_features
from tests.test_store import META
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
rows = 20_000
blocks = (np.ones((1000, 3), np.float32) for _ in range(rows // 1000))
try:
    write_features(Path(sys.argv[1]), META, labels=[0] * rows, ids=map(str, range(rows)), split=[0] * rows,
                   blocks=blocks, dim=3)
except StoreError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5")
    before = path.read_bytes()
    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        timeout=120,
    )
    assert child.stdout.startswith(f"{path}: cannot be written: ")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40),
        min_size=1,
        max_size=30,
        unique=True,
    ),
    dim=st.integers(1, 7),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_any_names_any_width_any_blocks(tmp_path: Path, ids: list[str], dim: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(len(ids))
    features = rng.normal(size=(len(ids), dim)).astype(np.float32)
    meta = dataclasses.replace(META, levels=(("L3", 0, dim),))
    blocks = np.split(features, sorted(min(cut, len(ids)) for cut in cuts))
    labels, split = rng.integers(-1, 2, len(ids)), rng.integers(0, 2, len(ids))
    write_features(tmp_path / "f.h5", meta, labels=labels, ids=ids, split=split, blocks=blocks, dim=dim)
    found = read_features(tmp_path / "f.h5")
    assert found.ids == tuple(ids)
    np.testing.assert_array_equal(found.features, features)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.split, split)


MAPS = {"L2": np.full((4, 2, 3), 0.25, np.float16), "L3": np.eye(4, dtype=np.float16)[:, :, None]}


def with_maps(path: Path, meta: FeatureMeta = META) -> Path:
    write_features(
        path,
        meta,
        **ROWS,
        blocks=[FEATURES],
        dim=3,
        maps={level: [values[:3], values[3:3], values[3:]] for level, values in MAPS.items()},
    )
    return path


def test_maps_and_skipped_images_come_back(tmp_path: Path) -> None:
    meta = dataclasses.replace(META, skipped=(("e", "truncated"), ("f/ü.jpg", "not a picture")))
    path = with_maps(tmp_path / "f.h5", meta)
    assert read_features(path).meta == meta
    found = read_maps(path)
    assert list(found) == ["L2", "L3"]
    for level, values in MAPS.items():
        assert found[level].dtype == np.float16
        np.testing.assert_array_equal(found[level], values)
    with h5py.File(path) as file:
        assert file["maps/L2"].fletcher32
    assert read_maps(save(tmp_path / "g.h5")) == {}


def test_maps_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    for blocks, said in (
        ([MAPS["L2"][:3]], "got 3 rows of maps/L2, expected 4"),
        ([MAPS["L2"], MAPS["L2"]], "does not match"),
        ([MAPS["L2"][:2], MAPS["L3"][:2]], "does not match"),
        ([MAPS["L2"] * np.float16(np.inf)], "the maps/L2 of 'a/1.jpg' are not finite"),
    ):
        with pytest.raises(StoreError, match=said):
            write_features(tmp_path / "f.h5", META, **ROWS, blocks=[FEATURES], dim=3, maps={"L2": blocks})
    assert not list(tmp_path.iterdir())


def _replaced(file: h5py.File, values: np.ndarray) -> None:
    del file["maps/L2"]
    file.create_dataset("maps/L2", data=values, chunks=values.shape, fletcher32=True)


HOSTILE_MAPS: dict[str, Callable[[h5py.File], object]] = {
    "no group": lambda file: (file.pop("maps"), file.create_dataset("maps", data=[1.0])),
    "soft link": lambda file: file["maps"].__setitem__("L1", h5py.SoftLink("/features")),
    "external link": lambda file: file["maps"].__setitem__("L1", h5py.ExternalLink("/etc/passwd", "/x")),
    "the group a link": lambda file: (file.pop("maps"), file.__setitem__("maps", h5py.SoftLink("/"))),
    "itself": lambda file: file.__setitem__("maps/L1", file["maps"]),
    "two axes": lambda file: _replaced(file, np.ones((4, 2), np.float16)),
    "float32": lambda file: _replaced(file, np.ones((4, 2, 3), np.float32)),
    "integers": lambda file: _replaced(file, np.ones((4, 2, 3), np.int16)),
    "other rows": lambda file: _replaced(file, np.ones((3, 2, 3), np.float16)),
    "huge": lambda file: (
        file.pop("maps/L2"),
        file.create_dataset("maps/L2", (4, 1 << 20, 1 << 20), np.float16, chunks=(1, 64, 64), fletcher32=True),
    ),
    "skipped is a number": lambda file: file.attrs.__setitem__("skipped", 3),
    "skipped is no JSON": lambda file: file.attrs.__setitem__("skipped", "[["),
    "skipped is an object": lambda file: file.attrs.__setitem__("skipped", "{}"),
    "skipped has numbers": lambda file: file.attrs.__setitem__("skipped", '[["e", 1]]'),
    "skipped has three": lambda file: file.attrs.__setitem__("skipped", '[["e", "f", "g"]]'),
    "skipped has a row": lambda file: file.attrs.__setitem__("skipped", '[["c", "damaged"]]'),
    "skipped twice": lambda file: file.attrs.__setitem__("skipped", '[["e", "x"], ["e", "y"]]'),
}


@pytest.mark.parametrize("what", HOSTILE_MAPS)
def test_hostile_maps_and_skipped_images(tmp_path: Path, what: str) -> None:
    path = with_maps(tmp_path / "f.h5")
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        HOSTILE_MAPS[what](file)
    reseal(path)
    with pytest.raises(StoreError, match=r"f\.h5: "):
        read_features(path)


@pytest.mark.parametrize("value", [np.nan, -0.5, 1.5])
def test_weights_that_are_none(tmp_path: Path, value: float) -> None:
    path = with_maps(tmp_path / "f.h5")
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file["maps/L3"][2, 1] = value
    reseal(path)
    with pytest.raises(StoreError, match=r"/maps/L3 has weights that are not between 0 and 1"):
        read_maps(path)


ENDLESS = """
import sys
import time
from l2a_transfer.errors import StoreError
from l2a_transfer.features.store.reader import read_features
try:
    read_features(sys.argv[1])
except StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("size", [0, 8, 1 << 60])
def test_a_heap_in_which_libhdf5_would_go_round_for_ever(tmp_path: Path, size: int) -> None:
    path = save(tmp_path / "f.h5")
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL\x01\0\0\0")
    (length,) = struct.unpack_from("<Q", content, heap + 8)
    at, index = heap + 16, 1
    while index:  # to the free space, the last object
        index, _, _, own = struct.unpack_from("<HHIQ", content, at)
        at += 16 + -(-own // 8) * 8 if index else 0
    assert at + struct.unpack_from("<Q", content, at + 8)[0] == heap + length
    struct.pack_into("<Q", content, at + 8, size)
    path.write_bytes(content)
    reseal(path)
    # In a process of its own, which ends even where libhdf5 does not.
    command = [sys.executable, "-c", ENDLESS, str(path)]
    child = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1], timeout=60
    )
    assert child.stdout.startswith(f"{path}: corrupt or written by another program: a heap of strings is inconsistent;")


def test_data_that_looks_like_the_beginning_of_a_heap_is_no_heap(tmp_path: Path) -> None:
    features = np.frombuffer(b"GCOL\x01\0\0\x01GCOL", dtype=np.float32).reshape(1, 3).repeat(4, axis=0)
    assert read_features(save(tmp_path / "f.h5", features=features)).features.tobytes() == features.tobytes()


HOLDER = """
import fcntl, sys
with open(sys.argv[1], "rb") as file:
    fcntl.flock(file, fcntl.LOCK_EX)  # what HDF5 takes to write, and what some file systems never give
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_sealed_file_that_another_process_holds_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "f.h5", feature_set(labels_of(2, 12)))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OSError, match="unable to lock file"):
            h5py.File(path, "r")
        assert len(read_features(path).ids) == 24
    finally:
        holder.communicate()


def test_a_file_that_this_process_holds_in_any_way_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "f.h5", feature_set(labels_of(2, 12)))
    for options in ({}, {"locking": False}, {"locking": "best-effort"}):
        with h5py.File(path, "r", **options):
            assert len(read_features(path).ids) == 24
    with open_store(path).file, h5py.File(path, "r") as plain:
        assert plain["labels"].shape == (24,)
