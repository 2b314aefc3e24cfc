"""Which words are splits, what is no data, what is passed over, and when a layout with two readings is refused."""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from l2a_transfer.data.names import split_named, split_within
from l2a_transfer.data.readers import open_source
from l2a_transfer.data.sources import describe, reading_of
from l2a_transfer.errors import DataError, UnknownNameError
from l2a_transfer.features.store.reader import read_features, read_meta
from tests.conftest import TINY, assert_fails, l2a
from tests.shard_files import parquet, png, tar
from tests.test_readers import folder, rows_of, save_npz


def opened(root: Path, *names: str, split_from: str = "auto") -> list[tuple[str, str, str]]:
    return rows_of(open_source(f"imagefolder:{folder(root, *names)}", split_from=split_from))


@pytest.mark.parametrize(
    ("name", "alone", "within"),
    [
        ("train", "train", "train"),
        ("TRAIN", "train", "train"),
        ("Validation", "val", "val"),
        ("testing", "test", "test"),
        ("birds-train-000000.tar", None, "train"),
        ("birds_Val.000000.tar", None, "val"),
        ("train2017", None, "train"),
        ("test000.tar", None, "test"),
        ("01 Test", None, "test"),
        ("trainer-1.tar", None, None),
        ("testament.tar", None, None),
        ("contest", None, None),
        ("train-test-000.tar", None, None),
        ("train-training-0.tar", None, "train"),
        ("ümlauttest", None, None),
        ("", None, None),
    ],
)
def test_a_split_word_counts_where_it_stands_by_itself(name: str, alone: str | None, within: str | None) -> None:
    assert (split_named(name), split_within(name)) == (alone, within)


def test_split_folders_in_capitals_are_splits(tmp_path: Path) -> None:
    assert opened(tmp_path, "Train/cat/1.jpg", "Train/dog/1.jpg", "TEST/cat/2.jpg", "TEST/dog/2.jpg") == [
        ("Train/cat/1.jpg", "cat", "train"),
        ("Train/dog/1.jpg", "dog", "train"),
        ("TEST/cat/2.jpg", "cat", "test"),
        ("TEST/dog/2.jpg", "dog", "test"),
    ]


def test_folders_with_a_split_word_above_class_folders_are_splits(tmp_path: Path) -> None:
    assert opened(tmp_path, "birds-train/cat/1.jpg", "birds-test/cat/2.jpg", "birds-test/dog/2.jpg") == [
        ("birds-train/cat/1.jpg", "cat", "train"),
        ("birds-test/cat/2.jpg", "cat", "test"),
        ("birds-test/dog/2.jpg", "dog", "test"),
    ]


BOTH = ("cat/1.jpg", "dog/1.jpg")


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "test", "extra"),
        ("Train", "Extra"),
        ("fold1", "fold2"),
        ("train_a", "train_b"),
        ("train_images", "others"),
        ("day", "night"),
    ],
)
def test_the_same_classes_below_several_folders_are_refused_with_both_readings(
    tmp_path: Path, folders: tuple[str, ...]
) -> None:
    names = [f"{top}/{name}" for top in folders for name in BOTH]
    with pytest.raises(DataError, match=r"two ways: the folders .* are splits, and cat, dog below .*`split_from="):
        opened(tmp_path, *names)
    assert {row[1:] for row in opened(tmp_path, *names, split_from="none")} == {(top, "all") for top in folders}
    found = opened(tmp_path, *names, split_from="folders")
    assert [row[1] for row in found] == ["cat", "dog"] * len(folders)
    assert len({row[2] for row in found}) == len(folders)


def test_split_from_folders_names_known_words_and_keeps_the_others(tmp_path: Path) -> None:
    names = [f"{top}/{name}" for top in ("Train", "Test", "extra", "train_a") for name in BOTH]
    source = open_source(f"imagefolder:{folder(tmp_path, *names)}", split_from="folders")
    # Train and train_a both say train, so that neither is called so.
    assert source.splits == ("test", "Train", "extra", "train_a")
    assert reading_of(source).splits_from == "folders Test → test, Train → Train, extra → extra, train_a → train_a"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train_a/1.jpg", "test_a/1.jpg"], "two ways: the folders test_a, train_a are splits; or"),
        (["train/cat/1.jpg", "bus/1.jpg"], "two ways: the folders bus, train are splits, and cat below"),
        (["Train/1.jpg", "Test/1.jpg", "extra/1.jpg"], "two ways: the folders Test, Train, extra are splits; or"),
        (["cat/train/1.jpg", "cat/test/1.jpg", "dog/train/1.jpg"], "the splits test, train are inside the folders"),
        (
            ["photos/Train/a/1.jpg", "photos/Test/a/1.jpg"],
            "its only folder with pictures, photos, contains the splits Test, Train",
        ),
        (["Val/cat/1.jpg", "VALID/cat/1.jpg"], "are the same split;"),
        (
            ["1.jpg", "Train/cat/1.jpg", "Test/cat/1.jpg"],
            "pictures next to the split folders Test, Train, such as 1.jpg",
        ),
    ],
)
def test_folders_that_may_be_splits_are_refused(tmp_path: Path, names: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        opened(tmp_path, *names)


@pytest.mark.parametrize(
    "names",
    [
        ("train/1.jpg", "bus/1.jpg"),
        ("cat/raw/1.jpg", "dog/raw/1.jpg"),
        ("cat/a/1.jpg", "cat/b/1.jpg", "dog/a/1.jpg", "dog/b/1.jpg", "dog/2.jpg"),
        ("cat/2019/1.jpg", "dog/2020/1.jpg"),
        ("train_station/1.jpg", "bridge/1.jpg"),
        ("Train station/1.jpg",),
    ],
)
def test_folders_that_can_only_be_classes_are_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    found = opened(tmp_path, *names)
    assert sorted(row[1] for row in found) == sorted(name.split("/")[0] for name in names)
    assert {row[2] for row in found} == {"all"}


def test_one_class_below_two_folders_of_which_one_has_more_is_refused(tmp_path: Path) -> None:
    names = ("day/cat/1.jpg", "day/dog/1.jpg", "night/cat/1.jpg")
    with pytest.raises(DataError, match="two ways: the folders day, night are splits, and cat, dog below them the cl"):
        opened(tmp_path, *names)
    assert [row[1:] for row in opened(tmp_path, *names, split_from="folders")] == [
        ("cat", "day"),
        ("dog", "day"),
        ("cat", "night"),
    ]
    assert [row[1] for row in opened(tmp_path, *names, split_from="none")] == ["day", "day", "night"]


@pytest.mark.parametrize("split_from", ["auto", "folders"])
@pytest.mark.parametrize(
    ("tops", "more"),
    [
        (("seg_train/seg_train", "seg_test/seg_test"), ()),
        (("train/train", "test/test"), ()),
        (("train/images", "test/images"), ()),
        (("train/images",), ()),
        (("train/images",), ("test/1.jpg",)),
        (("train/train",), ("test/test/1.jpg",)),
    ],
)
def test_a_folder_around_the_classes_of_a_split_is_no_class(
    tmp_path: Path, tops: tuple[str, ...], more: tuple[str, ...], split_from: str
) -> None:
    names = [f"{top}/{name}" for top in tops for name in BOTH]
    with pytest.raises(DataError, match="is the only folder of its split") as caught:
        opened(tmp_path, *names, *more, split_from=split_from)
    said = str(caught.value)
    found = next(top for top in tops if f": {top} is the only folder of its split" in said)
    assert "contains only folders (cat, dog); it would be read as the only class; if those are the classes" in said
    assert f"move them up, for example to {found.split('/')[0]}/cat" in said


def test_a_split_with_one_class_of_pictures_or_several_with_folders_stays_as_it_is(tmp_path: Path) -> None:
    names = ("train/cat/1.jpg", "train/cat/more/2.jpg", "test/cat/1.jpg")
    assert {row[1:] for row in opened(tmp_path / "a", *names)} == {("cat", "train"), ("cat", "test")}
    names = ("train/cat/a/1.jpg", "train/dog/a/1.jpg", "test/cat/a/1.jpg")
    assert [row[1] for row in opened(tmp_path / "b", *names)] == ["cat", "dog", "cat"]


def test_a_choice_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="split_from must be one of auto, folders, none; got 'folder'"):
        opened(tmp_path, "cat/1.jpg", split_from="folder")
    with pytest.raises(ValueError, match="digits has its own splits"):
        open_source("digits", split_from="none")
    with pytest.raises(DataError, match="there are no pictures in folders"):
        opened(tmp_path / "flat", "1.jpg", split_from="folders")


def shard(root: Path, *names: str) -> Path:
    for name in names:
        tar(root / name, {"1.png": png(1), "1.cls": "0"})
    return root


def test_a_split_word_within_a_shard_s_name_is_a_split(tmp_path: Path) -> None:
    shard(tmp_path, "birds-train-000000.tar", "birds-train-000001.tar", "birds-val-000000.tar", "Birds_TEST_0.tar")
    source = open_source(f"wds:{tmp_path}")
    assert source.splits == ("train", "val", "test")
    assert np.bincount(source.split).tolist() == [2, 1, 1]
    assert "birds-val-000000.tar → val" in reading_of(source).splits_from
    assert open_source(f"wds:{tmp_path}", split_from="none").splits == ("all",)


def test_shards_whose_folder_and_name_disagree_are_refused(tmp_path: Path) -> None:
    shard(tmp_path, "train/birds-val-0.tar", "train/birds-val-1.tar")
    with pytest.raises(
        DataError, match=r"train, according to train, or val, according to birds-val-0\.tar; `split_from="
    ):
        open_source(f"wds:{tmp_path}")
    assert open_source(f"wds:{tmp_path}", split_from="folders").splits == ("train",)
    shard(tmp_path, "Extra/0.tar")
    assert open_source(f"wds:{tmp_path}", split_from="folders").splits == ("train", "Extra")
    shard(tmp_path, "0.tar")
    with pytest.raises(DataError, match=r"0\.tar: is not in a folder; `split_from=.folders.` needs each"):
        open_source(f"wds:{tmp_path}", split_from="folders")


def test_splits_of_npz_in_any_spelling(tmp_path: Path) -> None:
    images = np.zeros((3, 4, 4), dtype=np.uint8)
    source = open_source(save_npz(tmp_path / "a.npz", images=images, split=["Testing", "TRAIN", "extra"]))
    assert [source.splits[k] for k in source.split] == ["test", "train", "extra"]
    source = open_source(save_npz(tmp_path / "b.npz", Test_images=images[:1], validation_images=images))
    assert source.splits == ("val", "test")
    assert source.ids == ("val/00000", "val/00001", "val/00002", "test/00000")


def test_extract_and_inspect_say_what_was_recognised(tmp_path: Path) -> None:
    root = folder(tmp_path / "in", *(f"{split}/{name}" for split in ("Train", "Test") for name in BOTH))
    (root / "Train" / "cat" / "2.heic").write_bytes(b"x")
    (root / "Train" / "cat" / "3.txt").write_bytes(b"x")
    out = tmp_path / "f.h5"
    result = l2a("extract", "--model", TINY, "--data", f"imagefolder:{root}", "--out", out)
    assert result.exit_code == 0, result.output
    line = "imagefolder:in: train 2, test 2 (folders Test → test, Train → train); 2 classes; passed over: 2 files"
    assert f"{line} (1 .heic, 1 .txt), first Train/cat/2.heic" in result.stderr
    assert "; passed over: 2 files (1 .heic, 1 .txt), first Train/cat/2.heic" in result.stdout
    quiet = l2a("-q", "extract", "--model", TINY, "--data", f"imagefolder:{root}", "--out", tmp_path / "q.h5")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    found = json.loads(l2a("inspect", out, "--json").stdout)["source"]
    assert found == {
        "splits_from": "folders Test → test, Train → train",
        "passed_over": {
            "files": 2,
            "kinds": {".heic": 1, ".txt": 1},
            "first": ["Train/cat/2.heic", "Train/cat/3.txt"],
        },
    }
    text = l2a("inspect", out).stdout
    assert "Test → test" in text
    assert re.search(r"^source\.passed_over\.kinds +1 \.heic, 1 \.txt$", text, re.MULTILINE)
    assert re.search(r"^maps +none$", text, re.MULTILINE)
    assert read_meta(out)[0].source == found
    folder(root, "extra/cat/1.jpg", "extra/dog/1.jpg")
    again = ("extract", "--model", TINY, "--data", f"imagefolder:{root}", "--out", tmp_path / "g.h5")
    assert_fails(l2a(*again), 1, "can be read in two ways", "--split-from folders")
    assert l2a(*again, "--split-from", "folders").exit_code == 0
    assert read_features(tmp_path / "g.h5").meta.splits == ("train", "test", "extra")


def test_a_dot_in_the_names_of_a_shard_s_members_loses_no_sample(tmp_path: Path) -> None:
    members = {
        "shot_3.05.png": png(1),
        "shot_3.05.cls": "4",
        "shot_3.10.png": png(2),
        "shot_3.10.cls": "3",
        "a.b/1.png": png(3),
        "a.b/1.seg.png": png(99),
        "a.b/1.cls": "2",
        "v1.0/frame.0001.png": png(4),
        "v1.0/frame.0002.png": png(5),
        "t_1.png": png(6),
        "t_1.cls": "0",
        "t_1.5.png": png(7),
        "t_1.5.json": '{"label": 1}',
        "t_1.5.txt": "x",
        "u.rgb.png": png(8),
        "u.cls": "1",
        "u.meta.json": '{"label": [1]}',
    }
    source = open_source(f"wds:{tar(tmp_path / 's.tar', members)}")
    assert [(name, label) for name, label, _ in rows_of(source)] == [
        ("s.tar/shot_3.05.png", "4"),
        ("s.tar/shot_3.10.png", "3"),
        ("s.tar/a.b/1.png", "2"),
        ("s.tar/v1.0/frame.0001.png", "-"),
        ("s.tar/v1.0/frame.0002.png", "-"),
        ("s.tar/t_1.png", "0"),
        ("s.tar/t_1.5.png", "1"),
        ("s.tar/u.rgb.png", "1"),
    ]
    assert [np.asarray(source.image(row)).max() for row in range(8)] == [1, 2, 3, 4, 5, 6, 7, 8]
    passed_over = reading_of(source).passed_over
    assert (passed_over.files, passed_over.first) == (1, ("s.tar/a.b/1.seg.png",))


@pytest.mark.parametrize(
    "members",
    [
        {"a.05.cls": "1"},
        {"a.05.cls": "1", "a.10.png": png(1)},
        {"a.rgb.png": png(1), "a.depth.png": png(2), "a.cls": "1"},
        {"a.05.png": png(1), "a.05.jpg": png(1), "a.05.cls": "1"},
    ],
)
def test_a_label_without_one_picture_is_refused_also_behind_a_dot(tmp_path: Path, members: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match="a sample must have one picture"):
        open_source(f"wds:{tar(tmp_path / 's.tar', members)}")


def test_what_a_shard_holds_beside_pictures_is_counted(tmp_path: Path) -> None:
    members = {
        "1.png": png(1),
        "1.cls": "0",
        "1.txt": "caption",
        "2.heic": b"x",
        "2.cls": "1",
        "notes.md": "x",
        "__MACOSX/._1.png": b"x",
        "@eaDir/1.png": b"x",
        ".thumbs/1.png": b"x",
    }
    tar(tmp_path / "sets" / "s.TAR", members)
    (tmp_path / "sets" / "more.tar.gz").write_bytes(b"x")
    (tmp_path / "sets" / "classes.txt").write_text("a\nb\n")
    source = open_source(f"wds:{tmp_path / 'sets'}")
    assert source.ids == ("s.TAR/1.png",)
    assert str(reading_of(source).passed_over) == "4 files (1 .heic, 1 .cls, 1 .gz, 1 .md), first s.TAR/2.heic"
    tar(tmp_path / "none.tar", {"1.heic": b"x"})
    with pytest.raises(DataError, match=r"no pictures in it; .*passed over: 1 file \(1 \.heic\), first none\.tar/1"):
        open_source(f"wds:{tmp_path / 'none.tar'}")


def test_a_format_that_is_not_read_is_counted(tmp_path: Path) -> None:
    folder(tmp_path, "cat/1.jpg", "dog/1.jpg")
    for name in ("cat/2.heic", "cat/3.HEIC", "dog/0001", "dog/x.xml", "notes.txt", "cat/.hidden", "cat/Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    source = open_source(f"imagefolder:{tmp_path}")
    assert len(source) == 2
    passed_over = reading_of(source).passed_over
    assert passed_over.files == 5
    assert str(passed_over).startswith("5 files (2 .heic, 1 .txt, 1 .xml, 1 without suffix), first cat/2.heic")
    assert "passed over: 5 files" in describe(open_source(f"imagefolder:{tmp_path}", limit=1))
    (tmp_path / "dog" / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"dog: a class folder without pictures that can be read; passed over: 2 files"):
        open_source(f"imagefolder:{tmp_path}")


def test_what_systems_leave_in_folders_is_no_data(tmp_path: Path) -> None:
    left = ("@eaDir", ".thumbnails", "__MACOSX", ".git", ".ipynb_checkpoints", "lost+found", "$RECYCLE.BIN")
    names = [f"{parent}{name}/cat/1.jpg" for name in left for parent in ("", "cat/", "train/")]
    source = open_source(f"imagefolder:{folder(tmp_path / 'a', 'cat/1.jpg', 'dog/1.jpg', *names[:-1:3], *names[1::3])}")
    assert source.ids == ("cat/1.jpg", "dog/1.jpg")
    assert source.classes == ("cat", "dog")
    assert reading_of(source).passed_over.files == 0
    source = open_source(f"imagefolder:{folder(tmp_path / 'b', 'train/cat/1.jpg', 'test/cat/1.jpg', *names[2::3])}")
    assert source.splits == ("train", "test")
    shard(tmp_path / "c", "0.tar", "__MACOSX/0.tar", "@eaDir/0.tar")
    for where in (tmp_path / "c", f"{tmp_path}/c/**/*.tar"):
        assert open_source(f"wds:{where}").ids == ("0.tar/1.png",)


def test_a_hive_folder_carries_the_label(tmp_path: Path) -> None:
    for name in (
        "label=dog/0",
        "label=cat/0",
        "label=cat/1",
        "label=caf%C3%A9/0",
        "label=__HIVE_DEFAULT_PARTITION__/0",
    ):
        parquet(tmp_path / "a" / f"{name}.parquet", [png(1)], None)
    source = open_source(f"parquet:{tmp_path / 'a'}")
    assert source.splits == ("all",)
    assert {name.split("/")[0]: label for name, label, _ in rows_of(source)} == {
        "label=__HIVE_DEFAULT_PARTITION__": "-",
        "label=caf%C3%A9": "café",
        "label=cat": "cat",
        "label=dog": "dog",
    }
    for name in ("split=train/label=10/0", "split=train/label=9/0", "split=test/label=train/0"):
        parquet(tmp_path / "b" / f"{name}.parquet", [png(1)], None)
    source = open_source(f"parquet:{tmp_path / 'b'}")
    assert (source.splits, source.classes) == (("train", "test"), ("10", "9", "train"))
    for name in ("kind=10/0", "kind=2/0"):
        parquet(tmp_path / "c" / f"{name}.parquet", [png(1)], None)
    assert open_source(f"parquet:{tmp_path / 'c'}").classes == ()
    source = open_source(f"parquet:{tmp_path / 'c'}#kind")
    assert (source.labels.tolist(), len(source.classes)) == ([10, 2], 11)


def test_only_some_files_in_hive_folders_are_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "label=cat" / "0.parquet", [png(1)], None)
    parquet(tmp_path / "more" / "0.parquet", [png(1)], None)
    with pytest.raises(DataError, match="its image or label column or its classes differ"):
        open_source(f"parquet:{tmp_path}")


def test_two_normal_forms_of_a_name_are_one_class(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != apart
    source = open_source(f"imagefolder:{folder(tmp_path / 'a', f'train/{composed}/1.jpg', f'test/{apart}/1.jpg')}")
    assert (source.classes, source.labels.tolist()) == ((composed,), [0, 0])
    assert source.image(1).mode == "RGB"  # found under the name that it has
    images = np.zeros((3, 4, 4), dtype=np.uint8)
    source = open_source(save_npz(tmp_path / "b.npz", images=images, labels=[2, 1, 0], classes=[apart, "x", composed]))
    assert (source.classes, source.labels.tolist()) == ((composed, "x"), [0, 1, 0])
    members = {"1.png": png(1), "1.json": json.dumps({"label": apart}), "2.png": png(2)}
    source = open_source(f"wds:{tar(tmp_path / 's.tar', {**members, '2.json': json.dumps({'label': composed})})}")
    assert (source.classes, source.labels.tolist()) == ((composed,), [0, 0])
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbf" + f"{apart}\n".encode())
    assert open_source(f"wds:{tmp_path / 's.tar'}").classes == (composed,)
    path = parquet(tmp_path / "p.parquet", [png(k) for k in range(3)], [0, 1, 2], [apart, composed, "x"])
    source = open_source(f"parquet:{path}")
    assert (source.classes, source.labels.tolist()) == ((composed, "x"), [0, 0, 1])


def test_classes_of_one_split_only_and_of_other_case_are_said_before_anything_is_computed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("train/Coast/1.jpg", "train/cat/1.jpg", "test/coast/1.jpg", "test/cat/1.jpg", "val/cat/1.jpg")
    root = folder(tmp_path / "in", *names)
    # What stops an extraction before its first picture does not stop these.
    assert_fails(l2a("extract", "--model", TINY, "--data", f"imagefolder:{root}", "--out", tmp_path), 1, "is a folder")
    assert caplog.messages == [
        "imagefolder:in: classes that differ only in case or spaces count as different classes: 'Coast' and 'coast'",
        "imagefolder:in: 1 class without a picture in train: 'coast'",
        "imagefolder:in: 2 classes without a picture in val: 'Coast', 'coast'",
        "imagefolder:in: 1 class without a picture in test: 'Coast'",
    ]


def test_classes_of_one_name_are_said_by_their_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = np.zeros((3, 4, 4), dtype=np.uint8)
    open_source(save_npz(tmp_path / "a.npz", images=images, labels=[0, 1, 2], classes=["a", "b", "a"]))
    assert caplog.messages == ["npz:a: several classes have the same name and differ only in their number: 'a' (0, 2)"]


def test_spaces_around_the_split_names_of_npz_are_no_part_of_them(tmp_path: Path) -> None:
    images = np.zeros((3, 4, 4), dtype=np.uint8)
    source = open_source(save_npz(tmp_path / "a.npz", images=images, split=["train ", " train", " extra "]))
    assert [source.splits[k] for k in source.split] == ["train", "train", "extra"]


def test_nothing_is_said_of_classes_that_every_labelled_split_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg", "test/1.jpg")
    with caplog.at_level(logging.WARNING):
        open_source(f"imagefolder:{root}")
    assert not caplog.messages
