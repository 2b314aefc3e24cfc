"""Two commands on one output: the second is refused before it computes anything, and the first ends whole."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from l2a_transfer.errors import OutputExistsError
from l2a_transfer.explain.draw import contact_sheet
from l2a_transfer.lock import IN_FOLDER
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import save_weights
from tests.conftest import TINY, assert_fails, l2a, save_picture
from tests.feature_files import blobs, feature_set, labels_of, save

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from contextlib import ExitStack
from pathlib import Path
from l2a_transfer.lock import folder_lock, output_lock
folder = Path(sys.argv[1])
with ExitStack() as stack:
    stack.enter_context(folder_lock(folder / "run"))
    stack.enter_context(folder_lock(folder / "seeds" / "seed-1"))
    for name in sys.argv[2:]:
        stack.enter_context(output_lock(folder / name))
    print("held", flush=True)
    sys.stdin.read()
"""
FILES = ("x.onnx", "x.h5", "y.h5", "w.safetensors", "sheet.png", "new")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A picture, a folder of pictures in splits and classes, and a feature file."""
    folder = tmp_path_factory.mktemp("given")
    for split in ("train", "test"):
        for k, label in enumerate("abab"):
            picture = save_picture(folder / "pictures" / split / label / f"{k}.jpg", k)
    (folder / "boxes.csv").write_text("".join(f"test/{label}/{k}.jpg,1,1,9,9\n" for k, label in enumerate("abab")))
    network, card = load_model(TINY)
    named = dataclasses.replace(card, classes=tuple("abcdefghij"), name="net")  # robustness needs the classes' names
    save_weights(network, named, folder / "w.safetensors")
    labels = labels_of(3, 20)
    return {
        "weights": folder / "w.safetensors",
        "picture": picture,
        "pictures": folder / "pictures",
        "boxes": folder / "boxes.csv",
        "features": save(folder / "f.h5", feature_set(labels, blobs(labels))),
    }


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder whose outputs another process holds, and that process."""
    folder = tmp_path_factory.mktemp("held")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *FILES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield folder, holder.pid
    finally:
        holder.kill()
        holder.communicate()


TRAIN = ["train", "--model", "vgg-att2-concat-pc", "--data", "imagefolder:{pictures}", "--width", "0.0625"]
TRAIN += ["--epochs", "1", "--batch-size", "4", "--device", "cpu"]
LOCALIZE = ["localize", "--model", TINY, "--side", "32", "--data", "imagefolder:{pictures}", "--skip-unmasked"]
EXPLAIN = ["explain", "--model", TINY, "--side", "16", "--data", "imagefolder:{pictures}"]
VERBS = {
    "svm-eval": (["svm-eval", "{features}", "--c-grid", "0.01", "--folds", "2"], "run"),
    "maps": (["maps", "--model", TINY, "{picture}"], "run"),
    "explain": (["explain", "--model", TINY, "--side", "16", "{picture}"], "run"),
    "explain --group": ([*EXPLAIN, "--group", "--method", "attention"], "run"),
    "sanity": (["sanity", "--model", TINY, "{picture}", "--method", "evidence", "--seeds", "1", "--side", "16"], "run"),
    "localize": ([*LOCALIZE, "--masks", "csv:{boxes}"], "run"),
    "faithfulness": (["faithfulness", "--model", TINY, "--steps", "1", "{picture}"], "run"),
    "robustness": (["robustness", "--model", "{weights}", "--data", "imagefolder:{pictures}"], "run"),
    "quickstart": (["quickstart"], "run"),
    "train": (TRAIN, "run"),
    "train --seeds": ([*TRAIN, "--seeds", "0,1"], "seeds"),
    "export": (["export", "--model", TINY], "x.onnx"),
    "extract": (["extract", "--model", "pixels", "--data", "imagefolder:{pictures}"], "x.h5"),
    "a folder where a file comes": (["maps", "--model", TINY, "{picture}"], "new"),
}


WORK = (
    "l2a_transfer.evaluation.evaluate.evaluate_files",
    "l2a_transfer.explain.dispatch.compute_maps",
    "l2a_transfer.explain.compute.map_batch",
    "l2a_transfer.explain.grouping.group_pictures",
    "l2a_transfer.explain.checks.sanity.check_sanity",
    "l2a_transfer.localization.localize.localize",
    "l2a_transfer.evaluation.faithfulness.evaluate_faithfulness",
    "l2a_transfer.evaluation.robustness.evaluate_robustness",
    "l2a_transfer.quickstart.extract",
    "l2a_transfer.quickstart.evaluate_files",
    "l2a_transfer.training.runs._run",
    "l2a_transfer.export._export",
    "l2a_transfer.features.extraction.extract.compute_shards",
)
"""What the verbs call to compute."""


def run(verb: str, given: dict[str, Path], out: Path, *options: str) -> Result:
    return l2a("-q", *(argument.format(**given) for argument in VERBS[verb][0]), "--out", out, *options)


@pytest.mark.parametrize("options", [(), ("--overwrite",)], ids=["new", "overwrite"])
@pytest.mark.parametrize("verb", VERBS)
def test_the_second_is_refused_before_it_computes_anything(
    verb: str,
    options: tuple[str, ...],
    given: dict[str, Path],
    held: tuple[Path, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for work in WORK:  # before any is replaced, because these modules import functions from each other
        import_module(work.rpartition(".")[0])
    for work in WORK:
        monkeypatch.setattr(work, lambda *_, **__: pytest.fail("it had begun"))
    folder, holder = held
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    assert_fails(run(verb, given, folder / VERBS[verb][1], *options), 1, f"is being written by process {holder}; wait")
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


SECOND = {
    "explain": ("--store", "x.h5", "x.h5: is being written by process {}; wait for it, or choose another --store"),
    "localize": ("--write-masks", "run", "run: is being written by process {}; wait for it"),
}
"""Verbs with a second output: its option, its name, and what is said where another process holds it."""


@pytest.mark.parametrize("verb", SECOND)
def test_a_second_output_that_another_writes_is_refused_and_leaves_no_first_one(
    verb: str, given: dict[str, Path], held: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, holder = held
    monkeypatch.setattr("l2a_transfer.explain.compute.map_batch", lambda *_, **__: pytest.fail("it had begun"))
    monkeypatch.setattr("l2a_transfer.localization.localize.localize", lambda *_, **__: pytest.fail("it had begun"))
    option, name, said = SECOND[verb]
    result = run(verb, given, folder / "fresh", option, str(folder / name), "--overwrite")
    assert_fails(result, 1, said.format(holder))
    assert not (folder / "fresh").exists()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("y.h5", lambda path, given: save(path, feature_set(labels_of(3, 20), blobs(labels_of(3, 20))))),
        ("w.safetensors", lambda path, given: save_weights(*load_model(TINY), path)),
        ("sheet.png", lambda path, given: contact_sheet([], path, title="t")),
    ],
)
def test_library_functions_are_refused_too(
    name: str, write: Callable[..., object], given: dict[str, Path], held: tuple[Path, int]
) -> None:
    folder, holder = held
    with pytest.raises(OutputExistsError, match=rf"{name}: is being written by process {holder}; wait for it"):
        write(folder / name, given)
    assert not (folder / name).exists()


FIRST = {
    "svm-eval": "l2a_transfer.report.write.report_markdown",
    "maps": "l2a_transfer.explain.draw.sheet_png",
    "explain": "l2a_transfer.explain.write.explain_sheet",
    "sanity": "l2a_transfer.report.sanity.written",
    "explain --group": "l2a_transfer.explain.write.explain_sheet",
    "localize": "l2a_transfer.report.localization.localization_markdown",
    "faithfulness": "l2a_transfer.report.faithfulness.areas_grid",
    "robustness": "l2a_transfer.report.robustness.accuracy_grid",
    "train": "l2a_transfer.training.runs.learning_curve",
    "export": "l2a_transfer.export.check_parity",
    "extract": "l2a_transfer.features.extraction.extract.write_features",
}
"""What the first command is just doing when the second one comes."""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("svm-eval", "svm-eval"),
        ("svm-eval", "maps"),
        ("svm-eval", "train"),
        pytest.param("maps", "svm-eval", marks=pytest.mark.slow),
        ("maps", "maps"),
        ("maps", "quickstart"),
        ("explain", "explain"),
        pytest.param("sanity", "maps", marks=pytest.mark.slow),
        ("sanity", "sanity"),
        pytest.param("localize", "maps", marks=pytest.mark.slow),
        ("localize", "localize"),
        pytest.param("explain --group", "explain", marks=pytest.mark.slow),
        ("faithfulness", "faithfulness"),
        pytest.param("faithfulness", "robustness", marks=pytest.mark.slow),
        ("robustness", "robustness"),
        pytest.param("robustness", "maps", marks=pytest.mark.slow),
        pytest.param("train", "svm-eval", marks=pytest.mark.slow),
        ("train", "train"),
        pytest.param("export", "export", marks=pytest.mark.slow),
        ("extract", "extract"),
    ],
)
def test_the_first_ends_whole_and_the_second_is_refused(
    first: str, second: str, given: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = VERBS[first][1]
    alone, shared = tmp_path / "alone" / name, tmp_path / "shared" / name
    assert run(first, given, alone).exit_code == 0
    module, function = FIRST[first].rsplit(".", 1)
    work = getattr(sys.modules[module], function)
    refused: list[Result] = []

    def interrupted_by_the_second(*arguments: Any, **options: Any) -> Any:
        if not refused:
            with ThreadPoolExecutor(1) as other:
                refused.append(other.submit(run, second, given, shared, "--overwrite").result())
        return work(*arguments, **options)

    monkeypatch.setattr(FIRST[first], interrupted_by_the_second)
    done = run(first, given, shared)
    assert done.exit_code == 0, done.output
    assert_fails(refused[0], 1, "is being written by")
    assert names(shared) == names(alone)
    for path in names(alone):
        if path.suffix in (".onnx", ".h5", ".png") and path.name != "curve.png":
            assert (shared.parent / path).read_bytes() == (alone.parent / path).read_bytes()


def names(out: Path) -> list[Path]:
    return sorted(path.relative_to(out.parent) for path in [out, *out.rglob("*")] if path.is_file())


@pytest.mark.slow
def test_no_lock_is_left_behind(given: dict[str, Path], tmp_path: Path) -> None:
    for verb in ("svm-eval", "export"):
        assert run(verb, given, tmp_path / VERBS[verb][1]).exit_code == 0
        assert run(verb, given, tmp_path / VERBS[verb][1]).exit_code == 1
    assert not [path for path in tmp_path.rglob("*") if path.name == IN_FOLDER or path.suffix == ".lock"]
