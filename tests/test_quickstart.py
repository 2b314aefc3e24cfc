"""The main job, on what ships: the trained network against its controls on photographs it has never seen."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

from l2a_transfer.data.readers import open_source
from l2a_transfer.data.sources import ImageSource
from l2a_transfer.errors import EvaluationError
from l2a_transfer.localization.results import read_localization
from l2a_transfer.quickstart import DATA, MODELS
from tests.conftest import assert_fails, l2a


@pytest.fixture(scope="module", params=[100, pytest.param(600, marks=pytest.mark.slow)])
def pictures(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many pictures each split has: a part of them, and in the slow run all. A quarter as many airplanes."""
    limit: int = request.param

    def limited(name: str) -> ImageSource:
        return open_source(name, limit=limit if name == DATA else limit // 4)

    with pytest.MonkeyPatch.context() as patch:
        if limit < 600:
            patch.setattr("l2a_transfer.quickstart.open_source", limited)
        yield limit


@pytest.fixture(scope="module")
def done(pictures: int, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("quickstart") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("getaddrinfo", "create_connection"):
            patch.setattr(socket, name, lambda *_, **__: pytest.fail("quickstart asked for the network"))
        result = l2a("quickstart", "--out", out)
    assert result.exit_code == 0, (result.output, result.exception)
    return out, result


def rows(out: Path) -> dict[str, dict[str, object]]:
    return {row["model"]: row for row in json.loads((out / "results.json").read_text())["rows"]}


def test_leaves_what_it_promises_and_lists_it(done: tuple[Path, Result]) -> None:
    out, result = done
    maps = ("attention.png", "localization.json", "localization.html")
    for name in (*(f"features-{name}.h5" for name in MODELS), "results.json", "report.md", *maps):
        assert (out / name).is_file()
        assert str(out / name) in result.stdout
    with Image.open(out / "attention.png") as picture:
        assert picture.width >= 600
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24) or []) > 1000


def test_trained_attention_beats_untrained_by_25_points_of_mean_class_accuracy(done: tuple[Path, Result]) -> None:
    measured = rows(done[0])
    assert set(measured) == {
        "vgg-att2-concat-pc.cifar10-w025",
        "vgg-att2-concat-uniform.cifar10-w025",
        "untrained:vgg-att2-concat-pc@0.25",
        "pixels",
    }
    value = {model: float(row["mean_class_accuracy"]) for model, row in measured.items()}  # type: ignore[arg-type]
    assert value["vgg-att2-concat-pc.cifar10-w025"] - value["untrained:vgg-att2-concat-pc@0.25"] >= 0.25


def test_all_rows_share_one_split(done: tuple[Path, Result], pictures: int) -> None:
    for row in rows(done[0]).values():
        assert (row["n_train"], row["n_test"], row["data"]) == (pictures, pictures, "caltech-mini")


def test_ends_with_the_table_and_three_commands(done: tuple[Path, Result]) -> None:
    stdout = done[1].stdout
    for model in rows(done[0]):
        assert model in stdout
    # Attention against uniform: features, and the maps of two methods.
    assert stdout.count("This holds for these two weight files only.") == 3
    assert stdout.count("This holds for this weight file and this random initialization only.") == 1
    assert stdout.count("This holds for this weight file only.") == 1  # attention against pixels
    assert f"- 2 more comparisons are in {done[0] / 'report.html'}\n" in stdout
    assert str(done[0] / "seeds.csv") not in stdout
    assert stdout.split("Next:")[1].count("  l2a-transfer ") == 3


def test_its_maps_are_measured_against_masks(done: tuple[Path, Result], pictures: int) -> None:
    out, result = done
    found = read_localization(out / "localization.json")
    assert (found.data, found.images) == ("airplanes-mini", min(pictures // 4, 100))
    overlap = {row.label: row.measures["jaccard"].mean for row in found.rows}
    assert all(label in result.stdout for label in overlap)
    own, control = (f"evidence L3 of {MODELS[name]}" for name in ("attention", "uniform"))
    assert overlap[own] > overlap[control] > overlap["random"]
    better = f"- {own} is better than {control} on airplanes-mini by foreground IoU"
    assert better in result.stdout
    assert "<svg" in (out / "localization.html").read_text()


def test_a_finished_quickstart_is_left_as_it_is(done: tuple[Path, Result]) -> None:
    out, _ = done
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir() if path.is_file()}
    assert_fails(l2a("quickstart", "--out", out), 1, str(out), "--overwrite")
    assert before == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir() if p.is_file()}


def test_what_an_interrupted_quickstart_finished_is_used(
    done: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in MODELS:
        shutil.copy2(done[0] / f"features-{name}.h5", tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    def stop(*_: object, **__: object) -> None:
        raise EvaluationError("as far as the SVMs")

    monkeypatch.setattr("l2a_transfer.quickstart.evaluate_files", stop)
    assert_fails(l2a("quickstart", "--out", tmp_path), 1, "as far as the SVMs")
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_ctrl_c_says_which_files_of_a_quickstart_stay(
    done: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in MODELS:
        shutil.copy2(done[0] / f"features-{name}.h5", tmp_path)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("l2a_transfer.quickstart.evaluate_files", stop)
    result = l2a("quickstart", "--out", tmp_path)
    assert result.exit_code == 130
    said = f"Interrupted: 4 of 4 feature files in {tmp_path} are complete and are kept; run it again to reuse them."
    assert result.stderr.splitlines()[-1] == said


def test_features_of_something_else_in_its_place_are_left_alone(done: tuple[Path, Result], tmp_path: Path) -> None:
    mine = tmp_path / "features-attention.h5"
    shutil.copy2(done[0] / "features-pixels.h5", mine)
    before = mine.read_bytes()
    assert_fails(l2a("quickstart", "--out", tmp_path), 1, str(mine), "with other options", "--overwrite")
    assert mine.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [mine.name]
