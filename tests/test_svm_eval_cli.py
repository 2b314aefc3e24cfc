"""`svm-eval` as a user meets it: table on stdout, the rest on stderr, one line and an exit code when it fails."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from l2a_transfer.evaluation import measure_row
from l2a_transfer.evaluation.measure_row import few_test_images
from l2a_transfer.evaluation.probes import svm as svm_probe
from l2a_transfer.evaluation.splits import Split
from l2a_transfer.svm.fitting import fit_svm
from tests.conftest import assert_fails, l2a, save_picture
from tests.feature_files import blobs, feature_set, labels_of, save


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    labels = labels_of(3, 20)
    models = {"attention": 0.8, "pixels": 6.0}
    return [
        save(tmp_path / f"{model}.h5", feature_set(labels, blobs(labels, spread=spread), model=model))
        for model, spread in models.items()
    ]


def test_prints_the_table_and_the_paths_and_nothing_else(files: list[Path], tmp_path: Path) -> None:
    result = l2a("svm-eval", *files, "--out", tmp_path / "r", "--jobs", "2")
    assert result.exit_code == 0, (result.output, result.exception)
    table, verdicts, paths = result.stdout.rstrip().split("\n\n")
    assert [line.split("|")[2].strip() for line in table.splitlines()[2:]] == ["`attention`", "`pixels`"]
    assert verdicts.startswith("- attention is better than pixels on toy (+")
    assert [Path(line).parent for line in paths.splitlines()] == [tmp_path / "r"] * 10
    assert all(Path(line).is_file() for line in paths.splitlines())
    assert "SVMs" in result.stderr


def test_quiet_says_nothing_on_stderr(files: list[Path], tmp_path: Path) -> None:
    result = l2a("-q", "svm-eval", *files, "--out", tmp_path / "r")
    assert (result.exit_code, result.stderr) == (0, "")


def test_json_is_one_document_and_the_same_as_the_file(files: list[Path], tmp_path: Path) -> None:
    result = l2a("svm-eval", *files, "--out", tmp_path / "r", "--json", "--seed", "3", "--c-grid", "0.01,0.001")
    document, written = json.loads(result.stdout), json.loads((tmp_path / "r" / "results.json").read_text())
    written.pop("files")
    assert document == written
    assert document["config"]["c_grid"] == [0.001, 0.01]
    assert document["config"]["seed"] == 3


def test_options_reach_the_measurement(files: list[Path], tmp_path: Path) -> None:
    arguments = ["--protocol", "stratified", "--draws", "2", "--folds", "3", "--c-grid", "1e-3", "--json"]
    rows = json.loads(l2a("svm-eval", *files, "--out", tmp_path / "r", *arguments).stdout)["rows"]
    assert [(r["protocol"], r["draws"], r["C"], r["fits"]) for r in rows] == [("stratified", 2, [1e-3, 1e-3], 2)] * 2


def test_the_same_command_twice_measures_the_same(files: list[Path], tmp_path: Path) -> None:
    documents = []
    for name, jobs in (("a", "1"), ("b", "2")):
        result = l2a("svm-eval", *files, "--out", tmp_path / name, "--json", "--jobs", jobs)
        document = json.loads(result.stdout)
        del document["config"]["jobs"]
        for row in document["rows"]:
            del row["seconds"]
        documents.append(document)
    assert documents[0] == documents[1]


def test_a_report_that_exists_is_refused_before_anything_is_computed(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "r"
    assert l2a("svm-eval", *files, "--out", out).exit_code == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    again = l2a("svm-eval", *files, "--out", out)
    assert_fails(again, 1, str(out / "results.json"), "--overwrite")
    assert "SVMs" not in again.stderr
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert l2a("svm-eval", files[0], "--out", out, "--overwrite").exit_code == 0
    assert len(json.loads((out / "results.json").read_text())["rows"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--protocol", "oficial"], ["protocol must be one of", "did you mean 'official'"]),
        (["--solver", "libliner"], ["did you mean 'liblinear'"]),
        (["--c-grid", "1e-3,abc"], ["--c-grid must be numbers", "'abc'"]),
        (["--c-grid", "0,1"], ["different positive numbers", "[0.0, 1.0]"]),
        (["--c-grid", "1,1"], ["different positive numbers"]),
        (["--c-grid", "nan"], ["different positive numbers"]),
        (["--c-grid", "inf,1"], ["different positive numbers"]),
        (["--c-grid", ""], ["--c-grid must be numbers"]),
        (["--folds", "1"], ["folds must be at least 2, got 1"]),
        (["--draws", "0"], ["draws must be at least 1, got 0"]),
        (["--seed", "-1"], ["seed must be at least 0, got -1"]),
        (["--protocol", "official", "--draws", "3"], ["draws must be 1 with protocol official"]),
        (["--decades", "-1"], ["decades must be at least 0, got -1"]),
        (["--shots", "1,two"], ["--shots must be numbers", "'two'"]),
        (["--shots", "0"], ["shots must be numbers of images of at least 1"]),
        (["--ablate", "levels,widht"], ["ablate must be one of", "did you mean 'width'"]),
        (["--max-memory", "much"], ["--max-memory must be a size such as 500M or 8G, got 'much'"]),
        (
            ["--compare", "attention"],
            ["--compare must be two names separated by a comma, such as A,B; got 'attention'"],
        ),
        (["--compare", "attention,pixel"], ["compare must be one of attention, pixels", "did you mean 'pixels'"]),
        (["--reference", "attentoin"], ["reference must be one of", "did you mean 'attention'"]),
        (["--device", "cpuu"], ["did you mean 'cpu'"]),
    ],
)
def test_misuse_exits_2_and_says_what_is_valid(
    arguments: list[str], words: list[str], files: list[Path], tmp_path: Path
) -> None:
    assert_fails(l2a("svm-eval", *files, "--out", tmp_path / "r", *arguments), 2, *words)
    assert not (tmp_path / "r").exists()


def test_a_missing_file_is_named_before_the_others_are_computed(files: list[Path], tmp_path: Path) -> None:
    result = l2a("svm-eval", files[0], tmp_path / "gone.h5", "--out", tmp_path / "r")
    assert_fails(result, 1, f"{tmp_path / 'gone.h5'}: no such file", "extract")
    assert "SVMs" not in result.stderr
    assert not (tmp_path / "r").exists()


def test_a_file_given_twice_is_refused(files: list[Path], tmp_path: Path) -> None:
    assert_fails(l2a("svm-eval", files[0], files[0], "--out", tmp_path / "r"), 1, str(files[0]), "given twice")


def test_unlabelled_images_are_refused_by_name(tmp_path: Path) -> None:
    features = feature_set(labels_of(3, 20))
    labels = features.labels.copy()
    labels[2] = -1
    path = save(tmp_path / "u.h5", dataclasses.replace(features, labels=labels))
    result = l2a("svm-eval", path, "--out", tmp_path / "r")
    assert_fails(result, 1, f"{path}: 1 of 60 images of toy is unlabelled", "'img/00002.jpg'")
    assert not (tmp_path / "r").exists()


def test_a_class_with_one_image_is_refused(tmp_path: Path) -> None:
    labels = np.array([0] * 8 + [1] * 8 + [2], dtype=np.int32)
    features = feature_set(labels, classes=("cat", "dog", "emu"), split=np.zeros(17, np.uint8), splits=("all",))
    path = save(tmp_path / "one.h5", features)
    assert_fails(l2a("svm-eval", path, "--out", tmp_path / "r"), 1, str(path), "'emu' (1)")


def test_a_class_with_fewer_images_than_folds_is_refused(files: list[Path], tmp_path: Path) -> None:
    result = l2a("svm-eval", *files, "--out", tmp_path / "r", "--folds", "11")
    assert_fails(result, 1, str(files[0]), "11 folds need 11 training images", "--folds 10")


def test_a_damaged_file_is_refused(files: list[Path], tmp_path: Path) -> None:
    content = bytearray(files[1].read_bytes())
    content[len(content) // 2] ^= 1
    files[1].write_bytes(bytes(content))
    result = l2a("svm-eval", *files, "--out", tmp_path / "r")
    assert_fails(result, 1, str(files[1]))
    assert "SVMs" not in result.stderr


def kinds_fitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The type of the features of every fit from now on: `ndarray` in memory, `LazyRows` from the file."""
    kinds: list[str] = []

    def spy(features: object, *given: object, **named: object) -> object:
        kinds.append(type(features).__name__)
        return fit_svm(features, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(svm_probe, "fit_svm", spy)
    return kinds


@pytest.mark.slow
def test_features_larger_than_max_memory_are_streamed_to_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = kinds_fitted(monkeypatch)
    labels = labels_of(3, 80)
    path = save(tmp_path / "wide.h5", feature_set(labels, blobs(labels, dim=400, spread=4.0)))
    whole = json.loads(l2a("svm-eval", path, "--out", tmp_path / "a", "--json").stdout)
    result = l2a("svm-eval", path, "--out", tmp_path / "b", "--json", "--max-memory", "350K")
    assert result.exit_code == 0, (result.output, result.exception)
    assert kinds == ["ndarray", "LazyRows"]
    streamed = json.loads(result.stdout)
    assert streamed["rows"][0]["C"] == whole["rows"][0]["C"]
    assert streamed["rows"][0]["cv_accuracy_draws"] == whole["rows"][0]["cv_accuracy_draws"]
    assert streamed["details"][0]["predictions"] == whole["details"][0]["predictions"]


def test_features_larger_than_what_may_be_taken_are_streamed_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = kinds_fitted(monkeypatch)
    labels = labels_of(3, 80)
    path = save(tmp_path / "wide.h5", feature_set(labels, blobs(labels, dim=400, spread=4.0)))
    whole = json.loads(l2a("svm-eval", path, "--out", tmp_path / "a", "--json").stdout)
    rows = whole["rows"][0]["n_train"]
    for usable, kind in ((24 * rows * 400, "ndarray"), (24 * rows * 400 - 2, "LazyRows")):
        monkeypatch.setattr(measure_row, "usable_memory", lambda usable=usable: usable)
        result = l2a("svm-eval", path, "--out", tmp_path / kind, "--json")
        assert kinds[-1] == kind
        assert json.loads(result.stdout)["details"] == whole["details"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--solver", "liblinear"], "liblinear on 120 rows of 400 columns needs about 4 MiB"),
        (["--ablate", "normalization"], "rows to length 1 on 120 rows of 400 columns needs about 1 MiB"),
        (["--ablate", "precision"], "float16 on 120 rows of 400 columns needs about 1 MiB"),
    ],
)
def test_what_has_to_be_in_memory_and_does_not_fit_is_refused_with_what_it_takes(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l2a_transfer.evaluation.measure_row.usable_memory", lambda: 100_000)
    monkeypatch.setattr("l2a_transfer.memory.usable_memory", lambda: 100_000)
    labels = labels_of(3, 80)
    path = save(tmp_path / "wide.h5", feature_set(labels, blobs(labels, dim=400, spread=4.0)))
    result = l2a("svm-eval", path, "--out", tmp_path / "r", *arguments)
    assert_fails(result, 1, str(path))
    assert f"{words}, and this process may use 1 MiB more" in result.stderr


def test_both_solvers_agree_and_the_row_names_its_own(files: list[Path], tmp_path: Path) -> None:
    found = {}
    for solver in ("batched", "liblinear"):
        arguments = ["--out", tmp_path / solver, "--json", "--solver", solver]
        (found[solver], _) = json.loads(l2a("svm-eval", *files, *arguments).stdout)["rows"]
        assert found[solver]["solver"] == solver
    for key in ("C", "c_grid_draws", "cv_accuracy_draws", "accuracy", "unconverged"):
        assert found["batched"][key] == found["liblinear"][key], key


def test_low_shot_ablations_and_comparisons_are_in_the_document(files: list[Path], tmp_path: Path) -> None:
    arguments = ["--protocol", "low-shot", "--shots", "1,4", "--draws", "3", "--ablate", "normalization", "--json"]
    document = json.loads(l2a("svm-eval", *files, "--out", tmp_path / "r", *arguments).stdout)
    found = {(row["label"], row["variant"], row["shots"]) for row in document["rows"]}
    variants = [("attention", name) for name in ("", "rows to length 1", "not normalised")] + [("pixels", "")]
    assert found == {(*variant, shots) for variant in variants for shots in (1, 4)}
    pairs = {(c["a"], c["b"], c["shots"], c["test"]) for c in document["comparisons"]}
    assert ("attention", "pixels", 4, "corrected-t") in pairs
    assert len(pairs) == 2 * (1 + 2)
    assert all(c["p_adjusted"] >= c["p"] for c in document["comparisons"])


def seed_files(folder: Path, taps: tuple[str, ...] = ("ga",)) -> list[Path]:
    """Three training seeds of two architectures, of which the first separates the classes better."""
    labels = labels_of(3, 40)
    made = []
    for architecture, spread in (("pc", 1.0), ("uniform", 3.0)):
        for seed in range(3):
            for tap in taps:
                noise = np.random.default_rng(seed).normal(scale=0.3, size=(120, 6)).astype(np.float32)
                own = feature_set(labels, blobs(labels, spread=spread) + noise)
                card = {
                    "name": f"{architecture}.seed-{seed}",
                    "config": {"architecture": architecture, "width": 0.25},
                    "training": {"seed": seed, "data": "cifar10", "recipe": {"name": "fast"}},
                }
                meta = dataclasses.replace(own.meta, card=card, tap=tap)
                made.append(save(folder / f"{architecture}-{seed}-{tap}.h5", dataclasses.replace(own, meta=meta)))
    return made


def test_the_architectures_verdict_comes_first_and_the_table_has_their_mean(tmp_path: Path) -> None:
    result = l2a("svm-eval", *seed_files(tmp_path), "--out", tmp_path / "r")
    assert result.exit_code == 0, (result.output, result.exception)
    table, verdicts, _ = result.stdout.rstrip().split("\n\n")
    names = [line.split("|")[2].strip() for line in table.splitlines()[2:]]
    assert names == [
        "`pc.seed-0`",
        "`pc.seed-1`",
        "`pc.seed-2`",
        "pc@0.25: mean ± sd over 3 seeds",
        "`uniform.seed-0`",
        "`uniform.seed-1`",
        "`uniform.seed-2`",
        "uniform@0.25: mean ± sd over 3 seeds",
    ]
    (verdict,) = verdicts.splitlines()
    assert verdict.startswith("- pc@0.25 is better than uniform@0.25 on toy (+")
    assert "adjusted" not in verdict
    assert verdict.endswith("This holds for these two architectures as trained here (3 and 3 training seeds) only.")
    document = json.loads((tmp_path / "r" / "results.json").read_text())
    assert [(c["family"], c["n"], c["test"]) for c in document["comparisons"]] == [("architectures", [3, 3], "seeds")]
    assert [(s["name"], s["seeds"]) for s in document["seeds"]] == [
        ("pc@0.25", ["0", "1", "2"]),
        ("uniform@0.25", ["0", "1", "2"]),
    ]
    assert "pc@0.25: mean ± sd over 3 seeds" in (tmp_path / "r" / "report.html").read_text().replace("<wbr>", "")
    assert "pc@0.25: mean ± sd over 3 seeds" in (tmp_path / "r" / "report.md").read_text()
    assert (tmp_path / "r" / "seeds.csv").read_text().count("toy") == 2


def test_two_taps_of_three_seeds_are_three_seeds(tmp_path: Path) -> None:
    arguments = ["--out", tmp_path / "r", "--c-grid", "0.01", "--json"]
    document = json.loads(l2a("svm-eval", *seed_files(tmp_path, ("ga", "ga-bn-relu")), *arguments).stdout)
    found = [(c["a"], c["b"], c["n"]) for c in document["comparisons"] if c["family"] == "architectures"]
    assert found == [(f"pc@0.25 (tap {tap})", f"uniform@0.25 (tap {tap})", [3, 3]) for tap in ("ga", "ga-bn-relu")]


def test_compare_and_reference_choose_what_is_compared(files: list[Path], tmp_path: Path) -> None:
    for number, asked in enumerate((["--compare", "pixels,attention"], ["--reference", "attention"])):
        arguments = ["--out", tmp_path / str(number), "--c-grid", "0.01", "--json", *asked]
        (found,) = json.loads(l2a("svm-eval", *files, *arguments).stdout)["comparisons"]
        assert (found["family"], found["a"], found["b"]) == ("asked", "pixels", "attention")


def test_what_a_reference_is_not_compared_with_is_said(
    files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = labels_of(3, 20)
    alone = save(tmp_path / "alone.h5", feature_set(labels, blobs(labels), model="b", data="other"))
    arguments = ["--out", tmp_path / "r", "--c-grid", "0.01", "--reference", "attention"]
    assert l2a("svm-eval", *files, alone, *arguments).exit_code == 0
    said = [record.getMessage() for record in caplog.records]
    assert "other: b: not compared with attention, because it has no features here" in said


def test_one_class_with_few_test_images_has_fewer() -> None:
    def split(test: int) -> Split:
        return Split("toy", "official", 0, None, "", (), tuple(range(test)))

    labels = np.repeat([0, 1], [20, 9]).astype(np.int32)
    assert few_test_images(labels, [split(29)])[0].startswith("1 of 2 classes has fewer than 10 test images")


def test_few_test_images_a_class_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = labels_of(3, 12)
    path = save(tmp_path / "few.h5", feature_set(labels, blobs(labels), model="a"))
    assert l2a("svm-eval", path, "--out", tmp_path / "r", "--c-grid", "0.01").exit_code == 0
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("toy: 3 of 3 classes have fewer than 10 test images (the fewest: 6)")
    assert "3 of 3 classes have fewer than 10 test images" in (tmp_path / "r" / "report.md").read_text()
    result, _, _ = (tmp_path / "r" / "report.html").read_text().partition(">All measures</h2>")
    assert result.count("3 of 3 classes have fewer than 10 test images") == 1


def test_one_picture_a_class_is_enough_for_pixels(tmp_path: Path) -> None:
    """As many components as rows leave one of rounding noise, which was refused as too far from 0."""
    for k in range(24):
        save_picture(tmp_path / "photos" / ("cat", "dog")[k % 2] / f"{k}.jpg", seed=k)
    features = tmp_path / "p.h5"
    assert (
        l2a("extract", "--model", "pixels", "--data", f"imagefolder:{tmp_path / 'photos'}", "--out", features).exit_code
        == 0
    )
    result = l2a(
        "svm-eval", features, "--out", tmp_path / "r", "--protocol", "low-shot", "--shots", "1,2", "--draws", "2"
    )
    assert result.exit_code == 0, result.output
