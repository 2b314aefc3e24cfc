"""The folder of `train --seeds` as a model of `extract`: one file a seed, which `svm-eval` groups."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from l2a_transfer.errors import WeightsError
from l2a_transfer.features.extraction.seeds import seed_weights
from l2a_transfer.features.store.reader import read_meta
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import Card, count_parameters, save_weights
from l2a_transfer.preprocess import Preprocess
from tests.conftest import assert_fails, l2a, save_picture

NAME = "vgg-gap.toy"


def save_run(seed: int, path: Path) -> None:
    config = ModelConfig("vgg-gap", num_classes=2, width=1 / 32)
    network = build_model(config, seed=seed)
    training = {"data": "toy", "split": "train", "n": 8, "seed": seed, "recipe": {"name": "fast"}}
    path.parent.mkdir(parents=True)
    card = Card(NAME, config, Preprocess(), ("a", "b"), count_parameters(network), training)
    save_weights(network, card, path)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three weight files and their summary, as `train --seeds 0,1,2` leaves them, without the training."""
    folder = tmp_path / "runs"
    for seed in range(3):
        save_run(seed, folder / f"seed-{seed}" / f"{NAME}.safetensors")
    (folder / "seeds.json").write_text(
        json.dumps({"schema": "l2a-seeds/1", "name": NAME, "runs": [{"seed": k, "value": 0.5} for k in range(3)]})
    )
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / "pictures" / split / label).mkdir(parents=True)
            for k in range(6):
                save_picture(tmp_path / "pictures" / split / label / f"{k}.png", seed=k + 10 * (label == "b"))
    return f"imagefolder:{tmp_path / 'pictures'}"


def extracted(runs: Path, pictures: str, out: Path, *more: str) -> object:
    return l2a("extract", "--model", runs, "--data", pictures, "--out", out, "--device", "cpu", "--workers", "0", *more)


class Folded(HTMLParser):
    """The text inside and outside of `details`."""

    def __init__(self) -> None:
        super().__init__()
        self.depth, self.inside, self.section = 0, "", ""
        self.before = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.depth += tag == "details"
        self.section = dict(attrs).get("id", self.section) if tag == "section" else self.section  # type: ignore[call-overload]

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "details"

    def handle_data(self, data: str) -> None:
        if self.section == "result":
            if self.depth:
                self.inside += data
            else:
                self.before += data


def test_each_seed_has_a_file_and_svm_eval_groups_them(runs: Path, pictures: str, tmp_path: Path) -> None:
    found = extracted(runs, pictures, tmp_path / "f" / "features.h5")
    assert found.exit_code == 0, found.output
    files = [tmp_path / "f" / f"features-seed-{k}.h5" for k in range(3)]
    assert sorted((tmp_path / "f").iterdir()) == files
    assert [read_meta(path)[0].card["training"]["seed"] for path in files] == [0, 1, 2]
    assert [line.split(":")[0] for line in found.stdout.splitlines()] == list(map(str, files))
    assert "3 training seeds, one feature file each" in found.stderr
    out = tmp_path / "r"
    result = l2a("svm-eval", *files, "--out", out, "--c-grid", "0.01", "--device", "cpu", "--probe", "svm,ncm")
    assert result.exit_code == 0, result.output
    document = json.loads((out / "results.json").read_text())
    assert [(s["probe"], s["seeds"]) for s in document["seeds"]] == [("svm", ["0", "1", "2"]), ("ncm", ["0", "1", "2"])]
    page = Folded()
    page.feed((out / "report.html").read_text())
    assert "mean ± sd over 3 seeds" in page.before
    assert "seed-1" not in page.before
    assert page.inside.count("seed-1") == 2
    assert "6 rows of single training seeds" in page.inside
    assert "seed-1" in (out / "results.tex").read_text()


def test_files_that_are_there_are_kept_and_can_be_verified(runs: Path, pictures: str, tmp_path: Path) -> None:
    out = tmp_path / "features.h5"
    assert extracted(runs, pictures, out).exit_code == 0
    (tmp_path / "features-seed-0.h5").unlink()
    assert_fails(extracted(runs, pictures, out), 1, "features-seed-1.h5", "--resume", "--overwrite")
    assert not (tmp_path / "features-seed-0.h5").exists()
    found = extracted(runs, pictures, out, "--resume")
    assert found.exit_code == 0, found.output
    assert found.stdout.count("verified") == 2


def test_a_folder_that_is_not_finished_or_not_whole_is_refused(runs: Path, pictures: str, tmp_path: Path) -> None:
    weights = runs / "seed-1" / f"{NAME}.safetensors"
    other = weights.read_bytes()
    weights.write_bytes((runs / "seed-2" / weights.name).read_bytes())
    assert_fails(extracted(runs, pictures, tmp_path / "f.h5"), 1, "trained with the seed 2, not 1")
    weights.unlink()
    assert_fails(extracted(runs, pictures, tmp_path / "f.h5"), 1, str(weights), "lists the seed 1")
    weights.write_bytes(other)
    for content, words in (
        ('{"schema": "l2a-seeds/2"}', "not a summary of training seeds"),
        ('{"schema": "l2a-seeds/1", "name": "../x", "runs": [{"seed": 0}]}', "not a summary of training seeds"),
        ('{"schema": "l2a-seeds/1", "name": "x", "runs": []}', "not a summary of training seeds"),
        ("{", "not a summary of training seeds"),
    ):
        (runs / "seeds.json").write_text(content)
        assert_fails(extracted(runs, pictures, tmp_path / "f.h5"), 1, words)
    (runs / "seeds.json").unlink()
    with pytest.raises(WeightsError, match=r"has no seeds\.json, so not all of its seeds are trained"):
        seed_weights(runs)
    assert not list(tmp_path.glob("f*.h5"))


def test_anything_else_is_no_folder_of_seeds(tmp_path: Path) -> None:
    assert seed_weights("pixels") == seed_weights(tmp_path) == seed_weights(tmp_path / "none") == {}
