"""Shards: which files a pattern means, tar members and Parquet rows as pictures, and every way to be hostile."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import tarfile
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from l2a_transfer.data import names as names_module
from l2a_transfer.data import parquet as parquet_module
from l2a_transfer.data import webdataset
from l2a_transfer.data.loader import pixel_batches
from l2a_transfer.data.readers import open_source
from l2a_transfer.data.shards import find_shards
from l2a_transfer.data.sources import ImageSource
from l2a_transfer.errors import DataError, MissingExtraError, SourceError
from l2a_transfer.features.store.reader import read_features
from l2a_transfer.preprocess import Preprocess
from tests.conftest import TINY, assert_fails, l2a
from tests.shard_files import grey, parquet, png, tar
from tests.test_readers import rows_of


def names(where: str, suffix: str = ".tar") -> list[tuple[str, str]]:
    return [(shard.name, shard.split) for shard in find_shards(where, suffix).shards]


def touch(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_what_a_pattern_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "s-000.tar", "s-001.tar", "s-010.tar", "deep/x.tar", ".hidden/y.tar", "s.txt")
    both = [("s-000.tar", "all"), ("s-001.tar", "all")]
    assert names(f"{tmp_path}/s-{{000..001}}.tar") == both
    assert names(f"{tmp_path}/s-00?.tar") == both
    assert names(f"{tmp_path}/s-{{001,000}}.tar") == both
    assert names(f"{tmp_path}/s-000.tar") == [("s-000.tar", "all")]
    assert names(str(tmp_path)) == [("deep/x.tar", "all"), *both, ("s-010.tar", "all")]
    monkeypatch.chdir(tmp_path)
    assert names("s-{000..001}.tar") == both
    assert names("{deep/x,s-000}.tar") == [("deep/x.tar", "all"), ("s-000.tar", "all")]
    assert names("deep") == names("./deep/") == names("../" + tmp_path.name + "/deep//") == [("x.tar", "all")]


def test_links_to_folders_of_shards_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.tar")
    touch(tmp_path / "in", "0.tar")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "in" / "circle").symlink_to(tmp_path / "in", target_is_directory=True)
    assert names(str(tmp_path / "in")) == [("0.tar", "all"), ("linked/1.tar", "all")]


def test_what_is_there_is_meant_whatever_its_name_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(
        tmp_path, "d[1]/x.tar", "d[1]/y.tar", "d1/no.tar", "e{1,2}/x[0].tar", "e{1,2}/x0.tar", "e1/no.tar", "what?.tar"
    )
    assert names(f"{tmp_path}/d[1]/x.tar") == [("x.tar", "all")]
    assert names(f"{tmp_path}/d[1]") == [("x.tar", "all"), ("y.tar", "all")]
    assert names(f"{tmp_path}/d[1]/*.tar") == [("x.tar", "all"), ("y.tar", "all")]
    assert names(f"{tmp_path}/d[1]/{{y,x}}.tar") == [("x.tar", "all"), ("y.tar", "all")]
    assert names(f"{tmp_path}/e{{1,2}}/x[0].tar") == [("x[0].tar", "all")]
    assert names(f"{tmp_path}/e{{1,2}}/x[01].tar") == [("x0.tar", "all")]
    monkeypatch.chdir(tmp_path)
    assert names("what?.tar") == [("what?.tar", "all")]


def test_what_is_there_is_meant_afar_too() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/test-literal/d[1]/x[0].tar", b"")
    assert names("memory://test-literal/d[1]/x[0].tar") == [("x[0].tar", "all")]
    assert names("memory://test-literal/*/x?0?.tar") == [("x[0].tar", "all")]


def test_splits_come_from_folders_or_from_names(tmp_path: Path) -> None:
    root = touch(tmp_path / "a", "test/1.tar", "train/2.tar", "train/10.tar", "validation/1.tar")
    expected = [
        ("train/10.tar", "train"),
        ("train/2.tar", "train"),
        ("validation/1.tar", "val"),
        ("test/1.tar", "test"),
    ]
    assert names(str(root)) == expected
    assert names(f"{root}/{{train,test}}/*.tar") == [e for e in expected if e[1] != "val"]
    root = touch(tmp_path / "b", "test-00000-of-00001.parquet", "train-00000-of-00002.parquet", "val.parquet")
    assert [split for _, split in names(str(root), ".parquet")] == ["train", "val", "test"]
    root = touch(tmp_path / "c", "trainer-1.tar", "testament.tar")
    assert [split for _, split in names(str(root))] == ["all", "all"]
    touch(root, "train-1.tar")
    with pytest.raises(DataError, match=r"testament\.tar: neither its name nor its folder contains a split"):
        find_shards(str(root), ".tar")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("none.tar", "none.tar: cannot be read: No such file"),
        ("*.tar", "no .tar file in it"),
        ("empty", "no .tar file in it"),
        ("{a,a}.tar", "lists a file twice"),
        ("{0..100000}.tar", "more than 100,000"),
        ("{0..99999999999}{0..99999999999}.tar", "more than 100,000"),
        ("nosuch://x/y.tar", "nosuch"),
    ],
)
def test_patterns_that_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.tar").joinpath("empty").mkdir()
    os.remove("a.tar") if where == "*.tar" else None
    with pytest.raises(DataError, match=words):
        find_shards(where, ".tar")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two training shards and one to test on: numbers in .cls, a number in .json, one sample without label."""
    root = tmp_path / "sets"
    tar(
        root / "train-0.tar",
        {
            "dog/1.cls": "1",
            "dog/1.png": png(11),
            "dog/1.txt": "a dog",
            "dog/2.PNG": png(12),
            "dog/2.cls": "0\n",
        },
    )
    tar(
        root / "train-1.tar", {"1.png": png(13), "1.json": '{"label": 2, "x": [1]}', "2.png": png(14), "notes.txt": "x"}
    )
    tar(root / "test-0.tar", {"a.b/1.png": png(21), "a.b/1.seg.png": png(99), "a.b/1.cls": "1"})
    return root


EXPECTED = [
    ("train-0.tar/dog/1.png", "1", "train"),
    ("train-0.tar/dog/2.PNG", "0", "train"),
    ("train-1.tar/1.png", "2", "train"),
    ("train-1.tar/2.png", "-", "train"),
    ("test-0.tar/a.b/1.png", "1", "test"),
]
GREYS = [11, 12, 13, 14, 21]


def test_webdataset(shards: Path) -> None:
    source = open_source(f"wds:{shards}")
    assert (source.name, source.classes, source.splits) == ("wds:sets", ("0", "1", "2"), ("train", "test"))
    assert rows_of(source) == EXPECTED
    for row in (4, 0, 3, 1, 2, 2):
        assert grey(source.image(row)) == GREYS[row]
    assert open_source(f"wds:{shards}", split="test").ids == (EXPECTED[4][0],)
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert grey(again.image(3)) == 14
    assert again.fingerprint() == source.fingerprint()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_in_every_format_of_tar(tmp_path: Path, format: int) -> None:
    long = "/".join(["folder"] * 20) + ("/ü" if format != tarfile.USTAR_FORMAT else "/u")
    path = tar(tmp_path / "s.tar", {f"{long}.png": png(5), f"{long}.cls": "0"}, format)
    source = open_source(f"wds:{path}")
    assert source.ids == (f"s.tar/{long}.png",)
    assert grey(source.image(0)) == 5


def test_names_of_classes(tmp_path: Path) -> None:
    numbers = {"1.png": png(1), "1.cls": "1", "2.png": png(2), "2.cls": "0"}
    texts = {"1.png": png(1), "1.json": '{"label": "dog"}', "2.png": png(2), "2.json": '{"label": "cat"}'}
    path = tar(tmp_path / "a.tar", texts)
    assert (open_source(f"wds:{path}").classes, open_source(f"wds:{path}").labels.tolist()) == (("cat", "dog"), [1, 0])
    (tmp_path / "classes.txt").write_text("dog\ncat\n\nbird\n")
    for members in (numbers, texts):
        source = open_source(f"wds:{tar(tmp_path / 'a.tar', members)}")
        assert source.classes == ("dog", "cat", "bird")
        assert source.labels.tolist() == ([1, 0] if members is numbers else [0, 1])
    refused = {
        b"dog": "the label 1 is not one of 1 classes",
        b"a\na": "unique class names",
        b"\xff": "UTF-8",
        b"": "unique class names",
    }
    for content, words in refused.items():
        (tmp_path / "classes.txt").write_bytes(content)
        tar(tmp_path / "a.tar", numbers)
        with pytest.raises(DataError, match=words):
            open_source(f"wds:{path}")


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nothing"])
def test_a_list_of_classes_that_cannot_be_read_is_not_taken_for_none(kind: str, tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", {"0.png": png(1), "0.cls": "1"})
    path = tmp_path / "classes.txt"
    if kind == "link to nothing":
        path.symlink_to("nothing")
    else:
        (os.mkfifo if kind == "pipe" else os.mkdir)(path)
    with pytest.raises(DataError, match=r"/classes\.txt: cannot be read: "):
        open_source(f"wds:{tmp_path}")


def special(name: str, kind: bytes, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info.tobuf()


PICTURE = tarfile.TarInfo("1.png")
PICTURE.size = len(png(1))
WHOLE = PICTURE.tobuf() + png(1).ljust(-(-len(png(1)) // 512) * 512, b"\0")


def about_the_next(kind: bytes, content: bytes) -> bytes:
    """A header and a block of what it says about the member after it."""
    return sized(len(content), kind) + content.ljust(512, b"\0")


def sized(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo("x")
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (special("/etc/passwd.png", tarfile.REGTYPE), "outside the shard's root"),
        (special("../1.png", tarfile.REGTYPE), "outside the shard's root"),
        (special("a/../../1.png", tarfile.REGTYPE), "outside the shard's root"),
        (special("a\\..\\1.png", tarfile.REGTYPE), "outside the shard's root"),
        (special("C:1.png", tarfile.REGTYPE), "outside the shard's root"),
        (special("1.png", tarfile.SYMTYPE, "/etc/passwd"), "link, a device or sparse"),
        (special("1.png", tarfile.LNKTYPE, "2.png"), "link, a device or sparse"),
        (special("1.png", tarfile.CHRTYPE), "link, a device or sparse"),
        (special("1.png", tarfile.FIFOTYPE), "link, a device or sparse"),
        (special("1.png", tarfile.CONTTYPE), "link, a device or sparse"),
        (sized(10_000), "extends beyond the file"),
        (sized(-512), "not a tar file, or corrupt|extends beyond the file"),
        (sized(1 << 40, tarfile.XHDTYPE), "a header asks for"),
        (sized(1 << 40, tarfile.GNUTYPE_LONGNAME), "a header asks for"),
        (sized(-1024, tarfile.XHDTYPE), "not a tar file, or corrupt"),
        (b"no tar at all".ljust(1024), "not a tar file, or corrupt"),
        (b"", "not a tar file, or corrupt: empty file"),
        (bytes(1024), "no pictures in it"),
        (b"\x1f\x8b" + bytes(600), "is compressed"),
        (about_the_next(tarfile.GNUTYPE_LONGNAME, b"1.png\0") * 3000 + WHOLE, "too many extended headers in a row"),
        (about_the_next(tarfile.XHDTYPE, b"14 path=1.png\n") * 3000 + WHOLE, "too many extended headers in a row"),
        (about_the_next(tarfile.XGLTYPE, b"14 path=1.png\n") * 3000 + WHOLE, "too many extended headers in a row"),
    ],
)
def test_a_hostile_shard_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "s.tar"
    for before in (b"", WHOLE):
        if before and words.split(":")[0] in ("no pictures in it", "not a tar file, or corrupt", "is compressed"):
            continue
        path.write_bytes(before + content + (bytes(1024) if content else b""))
        with pytest.raises(DataError, match=f"s.tar: .*({words})"):
            open_source(f"wds:{path}")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"1.cls": "0"}, "a sample must have one picture"),
        ({"1.png": png(1), "1.jpg": png(1)}, "a sample must have one picture"),
        ({"1.png": png(1), "2.txt": "", "1.PNG": png(1), "1.png ": ""}, None),
        ({"1.png": png(1), "1.cls": "dog"}, "1.cls: must be a class number, got 'dog'"),
        ({"1.png": png(1), "1.cls": "9" * 5000}, "1.cls: must be a class number"),
        ({"1.png": png(1), "1.cls": "-2"}, "the label -2 is not one of 0 classes"),
        ({"1.png": png(1), "1.cls": "2000000000"}, "the label 2000000000 is not one of"),
        ({"1.png": png(1), "1.json": '{"label": 1.5}'}, "'label' must be a number or a name"),
        ({"1.png": png(1), "1.json": '{"label": true}'}, "'label' must be a number or a name"),
        ({"1.png": png(1), "1.json": "{"}, "1.json: is not JSON"),
        ({"1.png": png(1), "1.json": "[" * 200_000}, "1.json: is not JSON: maximum recursion"),
        ({"1.png": png(1), "1.json": " " * (2 << 20)}, "at most 1048576 are read"),
        ({"1.png": png(1), "1.cls": "1", "2.png": png(1), "2.json": '{"label": "a"}'}, "numbers in some samples"),
        ({"notes.txt": ""}, "no pictures in it"),
    ],
)
def test_samples_that_cannot_be_understood(tmp_path: Path, members: dict[str, Any], words: str | None) -> None:
    path = tar(tmp_path / "s.tar", members)
    if words is None:
        assert open_source(f"wds:{path}").ids == ("s.tar/1.png", "s.tar/1.PNG")
        return
    with pytest.raises(DataError, match=words):
        open_source(f"wds:{path}")


def test_a_hole_after_the_last_member_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"1.png": png(1)})
    whole = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(whole + (60 << 20))
    assert len(open_source(f"wds:{path}")) == 1
    with open(path, "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=r"a\.tar: not a tar file, or corrupt: more than 64 MiB after its end"):
        open_source(f"wds:{path}")


def test_a_name_twice_and_a_picture_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(WHOLE + tarfile.TarInfo("2.txt").tobuf() + WHOLE + bytes(1024))
    with pytest.raises(DataError, match=r"s\.tar: contains two members with the same name"):
        open_source(f"wds:{path}")
    monkeypatch.setattr(webdataset, "MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match=r"1\.png: 0 MiB; at most 0 are decoded"):
        open_source(f"wds:{tar(path, {'1.png': png(1)})}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (WHOLE + WHOLE.replace(b"1.png", b"2.png", 1) + bytes(1024), "neither a member nor an end marker at byte"),
        (WHOLE, "neither a member nor an end marker at byte"),
        (WHOLE + bytes(1024) + WHOLE + bytes(1024), "more members after its end"),
    ],
)
def test_no_member_is_lost_silently(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "s.tar").write_bytes(content)
    with pytest.raises(DataError, match=rf"s\.tar: not a tar file, or corrupt: {words}"):
        open_source(f"wds:{tmp_path / 's.tar'}")


@pytest.mark.parametrize("kind", ["wds", "parquet"])
def test_a_shard_that_changes_is_noticed_and_never_skipped(kind: str, shards: Path, hugging: Path) -> None:
    source = open_source(f"{kind}:{shards}")
    before = source.fingerprint()
    changed, gone = sorted(p for p in shards.iterdir() if p.suffix == {"wds": ".tar"}.get(kind, ".parquet"))[-2:]
    changed.write_bytes(changed.read_bytes() + bytes(1024))
    rows = [k for k, name in enumerate(source.ids) if name.startswith(changed.name)]
    with pytest.raises(SourceError, match=f"{changed.name}: its size has changed since the set was opened"):
        source.image(rows[0])
    with pytest.raises(SourceError, match="its size has changed"):
        list(pixel_batches(source, Preprocess(), [range(rows[0], rows[0] + 1)], on_error="skip"))
    if kind == "wds":  # zeros behind the end of a tar file are allowed; behind a Parquet footer nothing is
        assert open_source(f"wds:{shards}").fingerprint() != before
    gone.unlink()
    with pytest.raises(SourceError, match=f"{gone.name}: cannot be read: No such file"):
        source.image(next(k for k, name in enumerate(source.ids) if name.startswith(gone.name)))


@pytest.mark.parametrize("kind", ["wds", "parquet"])
def test_a_shard_that_changes_at_the_same_size_is_noticed(kind: str, shards: Path, hugging: Path) -> None:
    where = f"{kind}:{shards}"
    source = open_source(where)
    by_content = open_source(where, verify_source=True).fingerprint()
    path = next(p for p in sorted(shards.iterdir()) if p.suffix == {"wds": ".tar"}.get(kind, ".parquet"))
    stat, content = path.stat(), bytearray(path.read_bytes())
    at = content.index(b"IDAT") + 8
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    rows = [k for k, name in enumerate(source.ids) if name.startswith(path.name)]
    with pytest.raises(SourceError, match=f"{path.name}: was changed after the set was opened; start again"):
        source.image(rows[0])
    assert open_source(where).fingerprint() != source.fingerprint()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_source(where).fingerprint() == source.fingerprint()
    assert open_source(where, verify_source=True).fingerprint() != by_content


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    source = open_source(f"wds:{tar(tmp_path / 's.tar', {'a/1.png': png(1)[:-27]})}")
    with pytest.raises(DataError, match=r"s\.tar: a/1\.png: corrupt"):
        source.image(0)


@pytest.fixture
def hugging(tmp_path: Path) -> Path:
    """A folder as the Hub has it: two files to train on, in row groups of two, and one to test on."""
    root = tmp_path / "sets"
    classes = ["cat", "dog"]
    parquet(root / "train-00000-of-00002.parquet", [png(k) for k in range(5)], [0, 1, 1, None, -1], classes, group=2)
    parquet(root / "train-00001-of-00002.parquet", [png(k) for k in range(5, 8)], [0, 0, 1], classes, group=2)
    parquet(root / "test-00000-of-00001.parquet", [png(8)], [1], classes)
    return root


def test_parquet(hugging: Path) -> None:
    source = open_source(f"parquet:{hugging}")
    assert (source.name, source.classes, source.splits) == ("parquet:sets", ("cat", "dog"), ("train", "test"))
    assert rows_of(source) == [
        *((f"train-00000-of-00002.parquet/{k:05d}", ["cat", "dog", "dog", "-", "-"][k], "train") for k in range(5)),
        *((f"train-00001-of-00002.parquet/{k:05d}", ["cat", "cat", "dog"][k], "train") for k in range(3)),
        ("test-00000-of-00001.parquet/00000", "dog", "test"),
    ]
    for row in (8, 3, 0, 7, 4, 5, 5):
        assert grey(source.image(row)) == row
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert grey(again.image(6)) == 6
    assert again.fingerprint() == source.fingerprint()


def test_parquet_without_names_labels_or_hugging_face(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = open_source(f"parquet:{parquet(tmp_path / 'a.parquet', [png(1), png(2)], [3, 0])}")
    assert (source.classes, source.labels.tolist(), source.splits) == (("0", "1", "2", "3"), [3, 0], ("all",))
    source = open_source(f"parquet:{parquet(tmp_path / 'b.parquet', [png(1)], None)}")
    assert (source.classes, source.labels.tolist()) == ((), [-1])
    pq.write_table(pa.table({"img": [png(7)], "labels": pa.array([1], "uint8"), "x": ["y"]}), tmp_path / "c.parquet")
    source = open_source(f"parquet:{tmp_path / 'c.parquet'}")
    assert (grey(source.image(0)), source.labels.tolist()) == (7, [1])


@pytest.mark.parametrize("in_struct", [False, True])
@pytest.mark.parametrize("layout", ["binary", "large_binary", "binary_view", "fixed_size", "dictionary"])
def test_pictures_in_every_layout_of_bytes(tmp_path: Path, layout: str, in_struct: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = pa.array(
        [png(4), png(5)],
        {"large_binary": pa.large_binary(), "binary_view": pa.binary_view(), "fixed_size": pa.binary(len(png(4)))}.get(
            layout, pa.binary()
        ),
    )
    pictures = pictures.dictionary_encode() if layout == "dictionary" else pictures
    column = pa.StructArray.from_arrays([pictures], names=["bytes"]) if in_struct else pictures
    labels = pa.array([1, 0]).dictionary_encode() if layout == "dictionary" else pa.array([1, 0])
    try:
        pq.write_table(pa.table({"image": column, "label": labels}), tmp_path / "a.parquet")
    except pa.ArrowNotImplementedError as error:
        pytest.skip(f"pyarrow {pa.__version__} does not write it: {error}")
    source = open_source(f"parquet:{tmp_path / 'a.parquet'}")
    assert (greys(source, range(2)), source.labels.tolist()) == ([4, 5], [1, 0])


def test_one_of_several_label_columns(tmp_path: Path) -> None:
    import pyarrow as pa

    path = parquet(
        tmp_path / "c100" / "train-0.parquet",
        [png(1), png(2)],
        None,
        fine_label=pa.array([1, 0]),
        coarse_label=pa.array([0, 0]),
        classes={"fine_label": ["a", "b"], "coarse_label": ["all"]},
        text=["x", "y"],
    )
    with pytest.raises(DataError, match=r"several label columns, fine_label, coarse_label; .* parquet:PATH#fine_label"):
        open_source(f"parquet:{path.parent}")
    fine = open_source(f"parquet:{path.parent}#fine_label")
    assert (fine.name, fine.classes, fine.labels.tolist()) == ("parquet:c100#fine_label", ("a", "b"), [1, 0])
    coarse = open_source(f"parquet:{path}#coarse_label")
    assert (coarse.classes, coarse.labels.tolist()) == (("all",), [0, 0])
    assert fine.fingerprint() != coarse.fingerprint()
    for column, words in (
        ("lable", "has no column 'lable'; its columns are image, fine_label"),
        ("text", "'text' must contain integers"),
    ):
        with pytest.raises(DataError, match=words):
            open_source(f"parquet:{path.parent}#{column}")
    marked = parquet(tmp_path / "a#b" / "test.parquet", [png(3)], [0])
    assert open_source(f"parquet:{marked.parent}").name == "parquet:a#b"
    for pattern in ("*.parquet", "{test}.parquet", "test.parquet"):
        assert len(open_source(f"parquet:{marked.parent}/{pattern}")) == 1


@pytest.mark.parametrize("own", [["a", ["b"]], ["a", {"b": 1}], ["a", 1], {"a": 0}, "ab", ["a", None]])
def test_class_names_of_parquet_that_are_no_texts_are_refused(tmp_path: Path, own: Any) -> None:
    path = parquet(tmp_path / "a.parquet", [png(1), png(2)], [0, 1], own)
    with pytest.raises(DataError, match=r"a\.parquet: the class names of 'label', .*, must be a list of strings"):
        open_source(f"parquet:{path}")


@pytest.mark.parametrize("kind", ["parquet", "wds", "npz"])
def test_too_many_class_names_are_what_the_error_speaks_of(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["a", "b", "c"]
    path = tmp_path / f"a.{'tar' if kind == 'wds' else kind}"
    if kind == "parquet":
        parquet(path, [png(1)], [0], own)
    elif kind == "wds":
        tar(path, {"1.png": png(1), "1.cls": "0"})
        (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    else:
        np.savez(path, images=np.zeros((1, 4, 4), np.uint8), classes=np.array(own))
    assert open_source(f"{kind}:{path}").classes == tuple(own)
    monkeypatch.setattr(names_module, "MAX_CLASSES", 2)
    with pytest.raises(DataError, match=r"a\.(parquet|tar|npz).*: names 3 classes; at most 2 are allowed"):
        open_source(f"{kind}:{path}")


def test_parquet_that_cannot_be_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    path = tmp_path / "a.parquet"

    def refused(words: str) -> None:
        with pytest.raises(DataError, match=rf"a\.parquet: .*{words}"):
            open_source(f"parquet:{path}").image(0)

    refused_anyhow = [(b"PAR1" + bytes(100), "not a Parquet file"), (b"", "not a Parquet file: 0 bytes")]
    for content, words in refused_anyhow:
        path.write_bytes(content)
        refused(words)
    whole = parquet(path, [png(1)], [0]).read_bytes()
    for content in (whole[:-3], whole[:50], b"PAR2" + whole[4:], whole[:-8] + b"\xff\xff\xff\x7fPAR1"):
        path.write_bytes(content)
        refused("not a Parquet file")
    path.write_bytes(whole[:-300] + bytes(200) + whole[-100:])
    refused("not a Parquet file, or corrupt")
    parquet(path, [png(1)], [2], ["a", "b"])
    with pytest.raises(DataError, match="labels must be −1 or between 0 and 1; got 2…2"):
        open_source(f"parquet:{path}")
    parquet(path, [None], [0])
    refused("row 00000: has no image bytes; paths to other files are not followed")
    parquet(path, [png(1)[:-27]], [0])
    refused("row 00000: corrupt")
    parquet(path, [png(1)], None, fine_label=pa.array([1]), coarse_label=pa.array([1]))
    assert open_source(f"parquet:{path}").classes == ()
    parquet(path, [png(1)], None, label=["dog"])
    refused("'label' must contain integers, got string")
    parquet(path, [png(1)], [0], image="a", b=pa.array([{"bytes": b"x"}]))
    assert open_source(f"parquet:{path}").labels.tolist() == [0]
    parquet(path, [png(1)], [0])
    with monkeypatch.context() as patch:
        patch.setattr(parquet_module, "MAX_GROUP_BYTES", 10)
        refused("write the file with a smaller row_group_size")
    parquet(tmp_path / "b.parquet", [png(1)], [0], ["x"])
    with pytest.raises(DataError, match=r"b\.parquet: its image or label column or its classes differ"):
        open_source(f"parquet:{tmp_path}")


def greys(source: ImageSource, rows: range) -> list[int]:
    return [grey(source.image(row)) for row in rows]


@pytest.mark.parametrize("kind", ["wds", "parquet"])
def test_many_processes_read_the_same(kind: str, shards: Path, hugging: Path) -> None:
    source = open_source(f"{kind}:{hugging}")
    expected = GREYS if kind == "wds" else list(range(9))
    assert greys(source, range(2)) == expected[:2]  # the parent has a file open when it forks
    rows = [range(k, k + 1) for k in range(len(expected))]
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        assert [g for found in pool.map(greys, [source] * len(rows), rows) for g in found] == expected
    batches = pixel_batches(source, Preprocess(size=8), [range(0, 3), range(3, len(source))], workers=2)
    assert [int(p) for batch in batches for p in batch.images_u8[:, 0, 0, 0]] == expected


@pytest.mark.parametrize("kind", ["wds", "parquet"])
def test_a_remote_set_is_the_same_set(kind: str, shards: Path, hugging: Path) -> None:
    suffix = {"wds": "tar", "parquet": "parquet"}[kind]
    memory = fsspec.filesystem("memory")
    for path in shards.glob(f"*.{suffix}"):
        memory.pipe(f"/test-shards/sets/{path.name}", path.read_bytes())
    memory.pipe("/test-shards/sets/.hidden/x.tar", b"")
    local = open_source(f"{kind}:{shards}")
    for where in ("sets", f"sets/*.{suffix}", "sets/"):
        remote = open_source(f"{kind}:memory://test-shards/{where}")
        assert rows_of(remote) == rows_of(local)
        assert greys(remote, range(len(local))) == greys(local, range(len(local)))
    where = f"{kind}:memory://test-shards/sets"
    assert open_source(where).fingerprint() == open_source(where).fingerprint()
    contents = (open_source(data, verify_source=True).fingerprint() for data in (where, f"{kind}:{shards}"))
    assert len(set(contents)) == 1
    changed = next(shards.glob(f"train-*.{suffix}"))
    before = open_source(where).fingerprint()
    memory.pipe(f"/test-shards/sets/{changed.name}", changed.read_bytes())
    assert open_source(where).fingerprint() != before
    with pytest.raises(DataError, match="memory://test-shards/none"):
        open_source(f"{kind}:memory://test-shards/none.{suffix}")
    memory.rm("/test-shards", recursive=True)


@pytest.mark.parametrize(("package", "data"), [("pyarrow", "parquet:x.parquet"), ("fsspec", "wds:s3://bucket/x.tar")])
def test_a_missing_extra_is_named(package: str, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == package] + [package, f"{package}.parquet"]:
        monkeypatch.setitem(sys.modules, name, None)
    extra = {"pyarrow": "parquet", "fsspec": "remote"}[package]
    with pytest.raises(MissingExtraError, match=rf"{package}; install it with: .*l2a-transfer\[{extra}\]"):
        open_source(data)


@pytest.mark.parametrize("kind", ["wds", "parquet"])
def test_extraction_from_shards(kind: str, shards: Path, hugging: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.h5"
    result = l2a("extract", "--model", TINY, "--data", f"{kind}:{shards}", "--out", out, "--workers", "2")
    assert result.exit_code == 0, result.output
    found = read_features(out)
    assert found.ids == open_source(f"{kind}:{shards}").ids
    assert found.meta.splits == ("train", "test")
    assert_fails(l2a("extract", "--model", TINY, "--data", f"{kind}:", "--out", out), 2, "needs a path after the colon")


def test_the_index_of_a_large_shard_is_small(tmp_path: Path) -> None:
    picture = png(1) + bytes(20_000)
    path = tar(tmp_path / "s.tar", {f"{k:05d}.png": picture for k in range(500)})
    tracemalloc.start()
    source = open_source(f"wds:{path}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(source) == 500
    assert peak < 1 << 20 < path.stat().st_size / 10


def test_moving_a_set_changes_neither_ids_nor_fingerprint(shards: Path, tmp_path: Path) -> None:
    before = open_source(f"wds:{shards}")
    shutil.copytree(shards, tmp_path / "elsewhere" / "sets")
    after = open_source(f"wds:{tmp_path}/elsewhere/sets")
    assert (after.ids, after.fingerprint()) == (before.ids, before.fingerprint())
    assert np.array_equal(after.labels, before.labels)
