"""Domains of pictures: from folders, ids and files into the feature file, and back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from l2a_transfer.data.domains import read_pairs
from l2a_transfer.data.readers import open_source
from l2a_transfer.data.sources import describe, domains_of
from l2a_transfer.errors import ArgumentError, DataError, StoreError
from l2a_transfer.features.store.reader import USER_BLOCK, read_features
from l2a_transfer.features.store.views import open_features
from l2a_transfer.features.store.writer import write_features
from tests.conftest import TINY, assert_fails, l2a, save_picture
from tests.feature_files import feature_set, labels_of
from tests.hostile_h5 import resealed

PACS = [f"{domain}/{name}/{k}.jpg" for domain in ("art", "photo") for name in ("dog", "horse") for k in range(2)]


@pytest.fixture
def pacs(tmp_path: Path) -> Path:
    for k, name in enumerate(PACS):
        save_picture(tmp_path / "pacs" / name, k)
    return tmp_path / "pacs"


def test_folders_are_domains_with_the_classes_below_them(pacs: Path) -> None:
    source = open_source(f"imagefolder:{pacs}", domain_from="folder")
    assert (source.splits, source.classes) == (("all",), ("dog", "horse"))
    names, rows = domains_of(source)
    assert names == ("art", "photo")
    assert rows is not None
    assert [names[k] for k in rows] == [name.split("/")[0] for name in source.ids]
    assert "domains art 4, photo 4" in describe(source)


def test_a_limit_takes_from_every_class_of_every_domain(pacs: Path) -> None:
    source = open_source(f"imagefolder:{pacs}", domain_from="folder", limit=4)
    assert source.ids == ("art/dog/0.jpg", "art/horse/0.jpg", "photo/dog/0.jpg", "photo/horse/0.jpg")
    assert domains_of(source)[0] == ("art", "photo")


def test_extract_writes_the_column_and_resume_sees_another_one(pacs: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.h5"
    asked = ("extract", "--model", TINY, "--data", f"imagefolder:{pacs}", "--out", out)
    first = l2a(*asked, "--domain-from", "folder")
    assert first.exit_code == 0, first.output
    with open_features(out) as found, h5py.File(out) as plain:
        assert found.meta.domains == ("art", "photo")
        assert found.domain is not None
        assert found.domain.tolist() == [0] * 4 + [1] * 4
        assert plain["domain"].dtype == np.uint8
        assert json.loads(plain.attrs["domains"]) == ["art", "photo"]
    assert json.loads(l2a("inspect", out, "--json").stdout)["rows_per_domain"] == {"art": 4, "photo": 4}
    assert l2a(*asked, "--domain-from", "folder", "--resume").exit_code == 0
    other = l2a(*asked, "--split-from", "none", "--domain-from", r"regex:/(\w+)/", "--resume")
    assert_fails(other, 1, "complete, ")


def test_patterns_and_files_name_domains_too(tmp_path: Path) -> None:
    names, rows = domains_of(open_source("digits", domain_from=r"regex:(\d)$"))
    assert names == tuple("0123456789")
    assert rows is not None
    assert rows[:12].tolist() == [*range(10), 0, 1]
    whole = open_source("digits").ids
    listed = tmp_path / "d.csv"
    lines = [f"{name},{('even', 'odd')[k % 2]}" for k, name in enumerate(whole)]
    listed.write_text("\n".join(["id,domain", *lines]))
    names, rows = domains_of(open_source("digits", domain_from=f"file:{listed}"))
    assert names == ("even", "odd")
    assert rows is not None
    assert rows[:4].tolist() == [0, 1, 0, 1]
    (tmp_path / "d.json").write_text(json.dumps(dict.fromkeys(whole, "one")))
    assert domains_of(open_source("digits", domain_from=f"file:{tmp_path / 'd.json'}"))[0] == ("one",)


def test_the_domains_are_part_of_the_source_s_digest() -> None:
    plain, one, other = (open_source("digits", domain_from=how) for how in (None, r"regex:(\d)$", r"regex:(\d)\d$"))
    assert len({plain.fingerprint(), one.fingerprint(), other.fingerprint()}) == 3


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("folders", "domain_from must be folder, regex:PATTERN or file:FILE, got 'folders'; did you mean 'folder'?"),
        ("regex:", "domain_from must be folder"),
        ("regex:(", "is not a regular expression"),
        ("regex:abc", "has no group"),
    ],
)
def test_another_way_to_name_domains_is_refused(how: str, words: str) -> None:
    with pytest.raises(ArgumentError) as error:
        open_source("digits", domain_from=how)
    assert words in str(error.value)


def test_pictures_without_a_domain_are_refused(tmp_path: Path, pacs: Path) -> None:
    with pytest.raises(DataError, match=r"finds no domain in 'art/dog/0\.jpg'"):
        open_source(f"imagefolder:{pacs}", split_from="none", domain_from="regex:(photo)")
    (tmp_path / "d.csv").write_text("art/dog/0.jpg,x\n")
    with pytest.raises(DataError, match="has no domain for 7 images of 8 in imagefolder:pacs, first 'art/dog/1"):
        open_source(f"imagefolder:{pacs}", split_from="none", domain_from=f"file:{tmp_path / 'd.csv'}")
    with pytest.raises(ArgumentError, match="split_from must be auto with `domain_from='folder'`"):
        open_source(f"imagefolder:{pacs}", split_from="none", domain_from="folder")
    flat = [save_picture(tmp_path / "flat" / f"{k}.jpg", k) for k in range(2)]
    assert flat
    with pytest.raises(DataError):
        open_source(f"imagefolder:{tmp_path / 'flat'}", domain_from="folder")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"a,b,c\n", "row 1 has 3 columns; expected a JSON object"),
        (b'{"a": 1}', "the object.a must be text"),
        (b'{"a": "b", "a": "c"}', "appears twice"),
        (b"a,b\na,c\n", "'a' appears twice, as 'b' and as 'c'"),
        (b"a,\n", "an empty name"),
        (b"\xff,a\n", "is not UTF-8"),
        (b"[1]", "row 1 has 1 column"),
    ],
)
def test_a_file_of_pairs_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "pairs"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_pairs(path, "id", "domain")
    assert words in str(error.value)


def test_more_than_256_domains_take_two_bytes(tmp_path: Path) -> None:
    rows = 300
    made = feature_set(labels_of(2, rows // 2))
    meta = dataclasses.replace(made.meta, domains=tuple(f"d{k}" for k in range(rows)))
    given = {"labels": made.labels, "ids": made.ids, "split": made.split, "blocks": [made.features], "dim": 6}
    write_features(tmp_path / "f.h5", meta, domain=np.arange(rows), **given)
    found = read_features(tmp_path / "f.h5")
    assert found.domain is not None
    assert (found.domain.dtype, found.domain.tolist()) == (np.uint16, list(range(rows)))
    for wrong, domains, words in (
        (None, meta.domains, "has 'domains' but no /domain"),
        (np.zeros(rows), (), "has /domain but no 'domains'"),
        (np.zeros(3), ("a",), "/domain must have the shape"),
        (np.ones(rows), ("a",), "/domain must be an index of one of 1 domain"),
        (np.zeros(rows), ("a", "a"), "names must be unique"),
    ):
        with pytest.raises(StoreError) as error:
            write_features(tmp_path / "g.h5", dataclasses.replace(meta, domains=domains), domain=wrong, **given)
        assert words in str(error.value)
        assert not (tmp_path / "g.h5").exists()


def with_domain(path: Path, stored: NDArray[Any]) -> Path:
    """A sealed feature file whose /domain is `stored`, of two domains."""
    made = feature_set(labels_of(2, 4))
    meta = dataclasses.replace(made.meta, domains=("a", "b"))
    given = {"labels": made.labels, "ids": made.ids, "split": made.split, "blocks": [made.features], "dim": 6}
    write_features(path.with_suffix(".source"), meta, domain=np.arange(8) % 2, **given)
    bounds = {"userblock_size": USER_BLOCK, "libver": ("v110", "v110")}
    with h5py.File(path.with_suffix(".source")) as read, h5py.File(path, "w", **bounds) as file:
        for key, value in read.attrs.items():
            file.attrs[key] = value
        for name in ("labels", "ids", "split", "features", "domain"):
            data = stored if name == "domain" else read[name][:]
            kind = data.dtype if name != "ids" else read[name].dtype
            file.create_dataset(name, data=data, dtype=kind, chunks=data.shape, fletcher32=True)
    path.write_bytes(resealed(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (np.zeros(8, dtype=np.int32), "must have 1 axes and kind 'u'"),
        (np.zeros(8, dtype=np.uint32), "/domain must be uint8 or uint16, got uint32"),
        (np.zeros((8, 1), dtype=np.uint8), "must have 1 axes"),
        (np.full(8, 2, dtype=np.uint8), "/domain must be an index of one of 2 domains"),
    ],
)
def test_a_sealed_file_with_another_kind_of_domains_is_refused(
    tmp_path: Path, stored: NDArray[Any], words: str
) -> None:
    with pytest.raises(StoreError) as error:
        read_features(with_domain(tmp_path / "f.h5", stored))
    assert words in str(error.value)


def test_two_bytes_a_row_are_read_where_one_would_do(tmp_path: Path) -> None:
    found = read_features(with_domain(tmp_path / "f.h5", np.arange(8, dtype=np.uint16) % 2))
    assert found.domain is not None
    assert found.domain.tolist() == [0, 1] * 4
