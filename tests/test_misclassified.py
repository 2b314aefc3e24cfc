"""`svm-eval --pictures`: the images that models get wrong, read from the data set and shown on the page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import EvaluationError
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.misclassified import misclassified
from l2a_transfer.evaluation.results import EvalConfig, EvalResults
from tests.conftest import assert_fails, l2a
from tests.feature_files import blobs, feature_set, labels_of, save

CONFIG = EvalConfig(c_grid=(0.01,), device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures whose grey says their number, and features of them by two models."""
    root = tmp_path_factory.mktemp("set")
    labels = labels_of(3, 20)
    ids = tuple(f"{'train' if k < 30 else 'test'}/class {label}/{k:02d}.png" for k, label in enumerate(labels))
    for k, name in enumerate(ids):
        (root / "toy" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((150, 120, 3), 4 * k, np.uint8)).save(root / "toy" / name)
    for model, spread in (("first", 2.5), ("second", 3.5)):
        features = blobs(labels, spread=spread)
        save(root / f"{model}.h5", feature_set(labels, features, model=model, data="imagefolder:toy", ids=ids))
    return root


@pytest.fixture(scope="module")
def results(folder: Path) -> EvalResults:
    return evaluate_files([folder / "first.h5", folder / "second.h5"], CONFIG)


def test_the_worst_images_come_first_with_their_own_pictures(folder: Path, results: EvalResults) -> None:
    found = misclassified(results, open_source(f"imagefolder:{folder / 'toy'}"), most=5)
    assert len(found) == 5
    assert len(found[0].wrong) == found[0].models == 2
    counts = [len(one.wrong) for one in found]
    assert counts == sorted(counts, reverse=True)
    for one in found:
        picture = Image.open(io.BytesIO(one.png), formats=["PNG"])
        assert max(picture.size) == 96
        assert picture.getpixel((3, 3))[0] == 4 * int(Path(one.id).stem)  # type: ignore[index]
        assert all(answer != one.true and margin < 0 for _, answer, margin in one.wrong)


def test_the_page_shows_them_and_loads_nothing(folder: Path, tmp_path: Path) -> None:
    files, data = [folder / "first.h5", folder / "second.h5"], f"imagefolder:{folder / 'toy'}"
    asked = ("--c-grid", "0.01", "--pictures", data)
    found = l2a("svm-eval", *files, "--out", tmp_path / "r", *asked)
    assert found.exit_code == 0, found.output
    page = (tmp_path / "r" / "report.html").read_text()
    shown = re.findall(r'<img src="([^"]*)"', page)
    assert 1 <= len(shown) <= 24
    assert all(base64.b64decode(one.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG") for one in shown)
    assert "Misclassified images" in page
    without = l2a("svm-eval", *files, "--out", tmp_path / "s", "--c-grid", "0.01")
    assert without.exit_code == 0
    assert "Misclassified images" not in (tmp_path / "s" / "report.html").read_text()


def test_another_data_set_is_refused_and_nothing_is_written(folder: Path, results: EvalResults, tmp_path: Path) -> None:
    (tmp_path / "other" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "a" / "x.png")
    found = l2a("svm-eval", folder / "first.h5", "--out", tmp_path / "r", "--pictures", f"imagefolder:{tmp_path}/other")
    assert_fails(found, 2, "pictures are of imagefolder:other, but the feature files are of imagefolder:toy")
    (tmp_path / "toy" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "toy" / "a" / "x.png")
    with pytest.raises(EvaluationError, match="of the feature files is not there"):
        misclassified(results, open_source(f"imagefolder:{tmp_path / 'toy'}"))
    found = l2a("svm-eval", folder / "first.h5", "--out", tmp_path / "r", "--pictures", f"imagefolder:{tmp_path}/toy")
    assert_fails(found, 1, "of the feature files is not there")
    assert not (tmp_path / "r" / "results.json").exists()
    found = l2a("svm-eval", folder / "first.h5", "--out", tmp_path / "r", "--data-dir", tmp_path)
    assert_fails(found, 2, "--data-dir needs --pictures")
