"""The README is true: its commands run, its tables are the measured files, its links lead somewhere."""

from __future__ import annotations

import json
import pickle
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2a_transfer.cli.main import VERBS
from l2a_transfer.features.store.reader import read_features
from l2a_transfer.models.weights import PRETRAINED, pretrained_names, read_card
from tests.conftest import l2a, save_picture

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("l2a-transfer ")
]
# The same commands on less: a class of three pictures instead of hundreds, one epoch of a thin network. There is no
# batch size here: the page's own must fit.
SHORTER = {"train": ["--epochs", "1"]}
PLAN = """
name = "photos"
networks.pixels.weights = "pixels"
targets.photos = { data = "imagefolder:photos", protocols = ["one-c"] }
protocols.one-c = { protocol = "stratified", c_grid = [0.01] }
"""


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README supposes it: photos/CLASS/*.jpg, masks/CLASS/*.png and data/ with two tiny sets."""
    root = tmp_path_factory.mktemp("newcomer")
    for number in range(12):
        save_picture(root / "photos" / "cat" / f"{number}.jpg", seed=number)
        save_picture(root / "photos" / "dog" / f"{number}.jpg", seed=100 + number)
        for name in ("cat", "dog"):
            with Image.open(root / "photos" / name / f"{number}.jpg") as photo:
                mask = Image.new("L", photo.size)
            mask.paste(255, (4, 4, 16, 20))
            (root / "masks" / name).mkdir(parents=True, exist_ok=True)
            mask.save(root / "masks" / name / f"{number}.png")
    for number in range(32):
        for name in ("BACKGROUND_Google", "anchor", "ant"):
            save_picture(root / "data/caltech101/101_ObjectCategories" / name / f"image_{number:04d}.jpg", seed=number)
    (root / "study.toml").write_text(PLAN)
    np.save(root / "features.npy", np.random.default_rng(0).normal(size=(24, 8)))  # a row for each of the photos
    cifar = root / "data" / "cifar-10-batches-py"
    cifar.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name in names:
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        (cifar / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": [i % 10 for i in range(20)]}))
    (cifar / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"c%d" % i for i in range(10)]}))
    return root


def test_every_command_appears() -> None:
    assert {shlex.split(line)[1] for line in COMMANDS} == set(VERBS)


@pytest.mark.slow
def test_commands_run_in_the_order_of_the_page(newcomer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(newcomer)
    for line in COMMANDS:
        verb, *rest = shlex.split(line)[1:]
        if verb == "quickstart":
            continue  # tests/test_quickstart.py runs this very line, and it takes half a minute
        thin = ["--width", "0.0625"] if verb == "train" and "--init-from" not in rest else []
        result = l2a(verb, *rest, *SHORTER.get(verb, []), *thin)
        assert result.exit_code == 0, (line, result.output, result.exception)


def test_links_lead_to_files() -> None:
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize(
    ("file", "rows", "section"),
    [
        ("quickstart", 4, "Try it"),
        ("transfer", 12, "Does it generalize? Real data"),
        ("backbones", 12, "Any backbone, one table"),
    ],
)
def test_the_tables_are_the_measured_files(file: str, rows: int, section: str) -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / f"{file}.json").read_text())
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## )", README, flags=re.MULTILINE | re.DOTALL)
    assert measured["commit"][:7] in text
    assert len(re.findall(r"^\|.* [\d,]+ / [\d,]+ \|$", text, flags=re.MULTILINE)) == rows
    assert len(measured["rows"]) == rows
    for row in measured["rows"]:
        value, (low, high) = row["mean_class_accuracy"], row["mean_class_accuracy_ci95"]
        cell = f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {row['data']} | `{row['model']}`"))
        assert cell in line, (row["model"], cell, line)


def test_the_page_on_the_quickstart_has_its_figures() -> None:
    page = (ROOT / "docs" / "start" / "quickstart.md").read_text(encoding="utf-8")
    for row in json.loads((ROOT / "benchmarks" / "results" / "quickstart.json").read_text())["rows"]:
        value, (low, high) = row["mean_class_accuracy"], row["mean_class_accuracy_ci95"]
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{row['model']}` |"))
        assert line.endswith(f"| {100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}] |")


def test_what_the_documents_say_of_kills_is_what_was_measured() -> None:
    results = ROOT / "benchmarks" / "results"
    kill = json.loads((results / "kill.json").read_text())
    said = (ROOT / "docs" / "extraction.md").read_text(encoding="utf-8")
    assert f"at {kill['kills_total']} random moments, {kill['kills_in_merge']} of them during its merge" in said
    assert ("Every data set is equal, byte for byte" in said) == kill["all_equal"]
    train_kill = json.loads((results / "train-kill.json").read_text())
    assert f"at {train_kill['kills_total']} random moments" in (ROOT / "docs" / "training.md").read_text(
        encoding="utf-8"
    )
    study_kill = json.loads((results / "study-kill.json").read_text())
    line = f"killed at {study_kill['kills_total']} random moments"
    assert line in (ROOT / "docs" / "study.md").read_text(encoding="utf-8")


def test_the_accuracies_are_those_of_the_cards() -> None:
    for name in pretrained_names():
        accuracy = read_card(PRETRAINED / f"{name}.safetensors").metrics["test_accuracy"]["value"]
        assert f"| `{name}` | {100 * accuracy:.2f} %" in README


def test_the_python_examples_run(newcomer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(newcomer)
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert read_features(newcomer / "mini.h5").features.shape == (120, 256)
