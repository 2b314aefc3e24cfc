"""What a path or a name is taken for: the meant thing, or a refusal that says what to write instead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2a_transfer.data.readers import open_source
from l2a_transfer.evaluation import evaluate as evaluate_module
from l2a_transfer.evaluation.verdict import sentence
from l2a_transfer.wording import are, counted
from tests.conftest import TINY, assert_fails, l2a, save_picture
from tests.feature_files import feature_set, labels_of, save
from tests.test_shards import touch


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, which is the current one too, with photos/{cat,dog}/{0,1}.jpg."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for k in range(2):
        save_picture(tmp_path / "photos" / "cat" / f"{k}.jpg", seed=k)
        save_picture(tmp_path / "photos" / "dog" / f"{k}.jpg", seed=10 + k)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("photos", "imagefolder:photos"),
        ("photos/", "imagefolder:photos/"),
        ("./photos", "imagefolder:./photos"),
        ("~/photos", "imagefolder:~/photos"),
        ("tars", "wds:tars"),
        ("tars/a.tar", "wds:tars/a.tar"),
        ("tables", "parquet:tables"),
        ("set.npz", "npz:set.npz"),
    ],
)
def test_a_path_without_its_kind_is_told_the_kind(given: str, meant: str, home: Path) -> None:
    touch(home, "tars/a.tar", "tables/deep/a.parquet", "set.npz", "notes.csv")
    result = l2a("extract", "--model", "pixels", "--data", given, "--out", "f.h5")
    assert_fails(result, 2, f"{given!r} is a path, not the name of a data set; did you mean {meant!r}?")
    assert "pets" not in result.stderr


def test_a_file_of_no_kind_is_told_the_kinds(home: Path) -> None:
    (home / "pest").write_text("mine")
    result = l2a("extract", "--model", "pixels", "--data", "pest", "--out", "f.h5")
    assert_fails(result, 2, "'pest' is a path, not the name of a data set; supported are imagefolder:PATH, npz:FILE")
    assert "did you mean" not in result.stderr


def test_a_name_of_a_data_set_is_that_even_where_a_folder_has_it(home: Path) -> None:
    (home / "digits").mkdir()
    assert len(open_source("digits", limit=3)) == 3
    assert_fails(l2a("extract", "--model", "pixels", "--data", "digitz", "--out", "f.h5"), 2, "did you mean 'digits'")


@pytest.mark.slow
def test_home_is_expanded_behind_the_colon_and_in_every_path_option(home: Path) -> None:
    np.savez(home / "a.npz", images=np.zeros((2, 4, 4), np.uint8))
    assert len(open_source("imagefolder:~/photos")) == 4
    assert len(open_source("npz:~/a.npz")) == 2
    assert l2a("extract", "--model", TINY, "--data", "imagefolder:~/photos", "--out=~/f.h5").exit_code == 0
    assert l2a("export", "--model", TINY, "--out=~/m.onnx").exit_code == 0
    onnx = l2a("extract", "--model", "~/m.onnx", "--data", "imagefolder:photos", "--out", "~/g.h5")
    assert onnx.exit_code == 0, onnx.output
    assert l2a("inspect", "~/g.h5").exit_code == 0
    assert l2a("maps", "--model", TINY, "--out=~/maps", "~/photos/cat/0.jpg").exit_code == 0
    explain = ("explain", "--model", TINY, "--method", "centre", "--side", "16", "--out=~/why", "--store=~/why.h5")
    assert l2a(*explain, "~/photos/cat/0.jpg").exit_code == 0
    assert not (home / "~").exists()


@pytest.mark.parametrize("name", ["x.csv", "x.CSV", "x.json", "x.onnx", "x.npz"])
def test_features_are_not_written_into_a_file_of_another_format(name: str, home: Path) -> None:
    arguments = ("extract", "--model", "pixels", "--data", "imagefolder:photos", "--out")
    assert_fails(l2a(*arguments, name), 2, f"--out must be the name of an HDF5 file, such as x.h5; got {name!r}")
    assert sorted(os.listdir(home)) == ["photos"]
    for good in ("x.h5", "x.hdf5", "x", "caltech.v1"):
        assert l2a(*arguments, good).exit_code == 0


def test_a_network_is_not_exported_into_a_file_of_another_format(home: Path) -> None:
    result = l2a("export", "--model", TINY, "--out", "x.pt")
    assert_fails(result, 2, "--out must be the name of an ONNX file, such as x.onnx; got 'x.pt'")


@pytest.mark.parametrize(
    "arguments",
    [
        ["svm-eval", "f.h5", "--out", "report.html"],
        ["maps", "--model", TINY, "photos/cat/0.jpg", "--out", "map.png"],
        ["explain", "--model", TINY, "photos/cat/0.jpg", "--out", "map.svg"],
        ["sanity", "--model", TINY, "photos/cat/0.jpg", "--out", "check.json"],
        ["localize", "--model", TINY, "--data", "photos", "--masks", "png:masks", "--out", "r.json"],
        ["train", "--model", "vgg", "--data", "digits", "--out", "vgg.safetensors"],
        ["quickstart", "--out", "quickstart.csv"],
    ],
)
def test_a_folder_is_not_made_under_the_name_of_a_file(arguments: list[str], home: Path) -> None:
    assert_fails(l2a(*arguments), 2, "--out", "looks like a file, but a folder is needed")


def test_maps_of_a_folder_are_those_of_its_pictures(home: Path) -> None:
    result = l2a("maps", "--model", TINY, "--out", "maps", "photos/dog", "photos/cat/1.jpg")
    assert result.exit_code == 0, result.output
    names = ["000-0-L2.png", "000-0-L3.png", "001-1-L2.png", "001-1-L3.png", "002-1-L2.png", "002-1-L3.png"]
    assert sorted(os.listdir("maps")) == [*names, "attention.png"]
    (home / "empty").mkdir()
    result = l2a("maps", "--model", TINY, "--out", "new", "empty")
    assert_fails(result, 1, "empty: the folder has no pictures; use another folder, or a picture")
    assert "remove it" not in result.stderr


def test_a_folder_in_the_place_of_weights_names_those_in_it(home: Path) -> None:
    touch(home, "run/vgg.photos-w025.safetensors")
    result = l2a("export", "--model", "run", "--out", "x.onnx")
    assert_fails(result, 1, "run: is a folder; name a weights file, such as run/vgg.photos-w025.safetensors")


def test_one_is_not_counted_as_many(home: Path) -> None:
    (home / "photos" / "cat" / "1.jpg").write_text("no picture")
    result = l2a("extract", "--model", "pixels", "--data", "imagefolder:photos", "--out", "f.h5", "--on-error", "skip")
    assert "; 1 image skipped, listed" in result.stdout
    alone = l2a("extract", "--model", "pixels", "--data", "imagefolder:photos", "--limit", "1", "--out", "g.h5")
    assert ", 1 image\n" in alone.stderr
    assert (counted(1, "image"), counted(2000, "image"), counted(0, "image")) == ("1 image", "2,000 images", "0 images")
    assert (counted(1, "class", "classes"), counted(2, "class", "classes")) == ("1 class", "2 classes")
    assert (are(1), are(2), are(0)) == ("is", "are", "are")


@pytest.mark.parametrize("difference", [-0.0, -0.0004, 0.0])
def test_nothing_is_minus_nothing(difference: float) -> None:
    said = sentence(
        "a",
        "b",
        "here",
        difference=difference,
        interval=(difference, difference),
        p_adjusted=1.0,
        comparisons=1,
        population="these",
        not_defined="",
    )
    assert "-0.0" not in said
    assert "(0.0 points [0.0, 0.0], p = 1.00)" in said


def test_the_progress_bar_counts_the_fits_of_a_grid_that_grew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def growing(*arguments: Any, **given: Any) -> Any:
        found = measure(*arguments, **given)
        arguments[-1](10)  # two more C on five folds
        return found

    measure = evaluate_module.measure_row
    monkeypatch.setattr(evaluate_module, "measure_row", growing)
    path = save(tmp_path / "f.h5", feature_set(labels_of(2, 12)))
    result = l2a("svm-eval", path, "--out", tmp_path / "report", "--c-grid", "0.01,0.1")
    assert result.exit_code == 0, result.output
    last = result.stderr.replace("\r", "\n").split("SVMs: ")[-1]
    assert "100%" in last
    assert "| 21/21 [" in last
