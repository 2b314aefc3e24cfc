"""Folders whose links or depth do not end, and patterns that name too much: read or refused, at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from l2a_transfer.data.folders import read_folder
from l2a_transfer.data.readers import open_source
from l2a_transfer.data.shards import find_shards
from l2a_transfer.data.walk import walk_folders
from l2a_transfer.errors import DataError, UnknownNameError

DEEP = 1500
"""Folders in each other: more than calls of Python may be, and few enough for a path to the last one."""


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder with a picture and a shard far down."""
    before = Path.cwd()
    root = tmp_path / "deep"
    root.mkdir()
    os.chdir(root)
    for _ in range(DEEP):
        os.mkdir("a")
        os.chdir("a")
    Image.new("RGB", (8, 8)).save("one.png")
    Path("one.tar").touch()
    yield root
    for name in ("one.png", "one.tar"):
        Path(name).unlink()
    for _ in range(DEEP):  # shutil.rmtree calls itself for each level
        os.chdir("..")
        os.rmdir("a")
    os.chdir(before)


def linked(root: Path) -> Path:
    """A folder with one shard, and three links that lead back: 3 to the power of 40 paths before the system stops."""
    (root / "x").mkdir(parents=True)
    (root / "x" / "0.tar").touch()
    for name in ("back", "again", "x/up"):
        (root / name).symlink_to(root)
    return root


def test_a_folder_of_any_depth_is_read(deep: Path) -> None:
    below = "/".join(["a"] * DEEP)
    assert read_folder(deep, "deep").ids == (f"{below}/one.png",)
    for where in (str(deep), f"{deep}/**/*.tar"):
        assert [shard.path for shard in find_shards(where, ".tar").shards] == [f"{deep}/{below}/one.tar"]
    with pytest.raises(UnknownNameError, match="did you mean 'wds:"):
        open_source(str(deep))


@pytest.mark.parametrize("pattern", ["**/*.tar", "**/**/*.tar", "**/x/**/*.tar", "x/**/*.tar", "./**/?.tar"])
def test_links_that_lead_back_end(pattern: str, tmp_path: Path) -> None:
    root = linked(tmp_path / "set")
    (shard,) = find_shards(f"{root}/{pattern}", ".tar").shards
    assert os.path.samefile(shard.path, root / "x" / "0.tar")


def test_two_stars_are_folders_at_any_depth_but_hidden_ones(tmp_path: Path) -> None:
    for name in ("0.tar", "a/1.tar", "a/b/2.tar", "a/b/c/b/3.tar", ".h/4.tar", "a/.h/5.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern: str) -> str:
        paths = [shard.path for shard in find_shards(f"{tmp_path}/{pattern}", ".tar").shards]
        return " ".join(sorted(os.path.basename(path)[0] for path in paths))

    assert found("**/*.tar") == "0 1 2 3"
    assert found("a/**/*.tar") == "1 2 3"
    assert found("**/b/*.tar") == "2 3"
    assert found("**/b/**/*.tar") == "2 3"
    assert found("*/**/[12].tar") == "1 2"
    assert found(".h/**/*.tar") == "4"


def test_a_pattern_below_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked(tmp_path)
    monkeypatch.chdir(tmp_path)
    (shard,) = find_shards("**/x/*.tar", ".tar").shards
    assert (shard.path, shard.name) == ("again/x/0.tar", "0.tar") or os.path.samefile(shard.path, "x/0.tar")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{a}" * 3000, "more than 32 braces"),
        ("{0.." + "9" * 5000 + "}", "cannot be read"),
        ("{0..999999}{0..999999}*.tar", "more than 100,000 files"),
    ],
)
def test_braces_that_name_too_much_are_refused(pattern: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        find_shards(f"{tmp_path}/{pattern}", ".tar")


def test_a_folder_comes_once_and_by_the_first_path(tmp_path: Path) -> None:
    root = linked(tmp_path / "set")
    (root / "y").symlink_to("x")
    assert list(walk_folders(root)) == [(str(root), []), (f"{root}/x", ["0.tar"])]
    assert list(walk_folders(root, enter=lambda name: name != "x")) == [(str(root), []), (f"{root}/y", ["0.tar"])]
    assert list(walk_folders(root, without=[str(root / "y")])) == [(str(root), [])]
