"""predictions.csv and results.tex: each image's answers and margins, and the table for a paper."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest

from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.results import EvalConfig, EvalResults
from l2a_transfer.report.latex import escape, results_latex
from l2a_transfer.report.predictions import predictions_csv
from l2a_transfer.report.write import write_report
from tests.feature_files import blobs, feature_set, labels_of, save
from tests.made_results import comparison, row
from tests.made_results import results as made


def lines_of(results: EvalResults) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(predictions_csv(results).decode())))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> EvalResults:
    folder = tmp_path_factory.mktemp("features")
    labels = labels_of(3, 20)
    first = feature_set(labels, blobs(labels, spread=2.0), model="first")
    turned = np.arange(60)[::-1]  # the same images in another order
    second = feature_set(labels, blobs(labels, spread=2.5, seed=0), model="second")
    second = dataclasses.replace(
        second,
        features=second.features[turned],
        labels=labels[turned],
        ids=tuple(second.ids[k] for k in turned),
        split=second.split[turned],
    )
    files = [save(folder / "first.h5", first), save(folder / "second.h5", second)]
    return evaluate_files(files, EvalConfig(c_grid=(0.01,), folds=2, probes=("svm", "ncm"), device="cpu"))


def test_each_test_image_has_a_line_with_every_model_s_answer(results: EvalResults) -> None:
    lines = lines_of(results)
    assert len(lines) == 30
    assert list(lines[0])[:8] == [
        *("data", "protocol", "shots", "draw", "id", "true"),
        *("first: prediction", "first: margin"),
    ]
    assert lines[0].items() >= {"data": "toy", "protocol": "official", "shots": "", "draw": "0"}.items()
    for measured in results.rows:
        name = measured.label + ("" if measured.probe == "svm" else f", probe {measured.probe}")
        right = [line[f"{name}: prediction"] == line["true"] for line in lines]
        assert np.mean(right) == pytest.approx(measured.accuracy)
        assert [float(line[f"{name}: margin"]) > 0 for line in lines] == right
    labels = {f"img/{k:05d}.jpg": f"class {k % 3}" for k in range(60)}
    assert all(labels[line["id"]] == line["true"] for line in lines)


def test_draws_and_shots_have_lines_of_their_own(tmp_path: Path) -> None:
    labels = labels_of(2, 20)
    path = save(tmp_path / "f.h5", feature_set(labels))
    lines = lines_of(evaluate_files([path], EvalConfig(protocol="low-shot", shots=(1, 2), draws=2, c_grid=(0.1,))))
    assert {(line["shots"], line["draw"]) for line in lines} == {(k, d) for k in "12" for d in "01"}
    assert len(lines) == len({(line["shots"], line["draw"], line["id"]) for line in lines}) == 80


def test_a_model_that_was_not_tested_on_an_image_has_an_empty_cell(tmp_path: Path) -> None:
    labels = labels_of(2, 20)
    files = [save(tmp_path / f"{d}.h5", feature_set(labels, model=d, data=d)) for d in ("a", "b")]
    lines = lines_of(evaluate_files(files, EvalConfig(c_grid=(0.1,))))
    assert {(line["data"], line["a: margin"] == "", line["b: margin"] == "") for line in lines} == {
        ("a", False, True),
        ("b", True, False),
    }


def test_a_model_that_is_called_as_another_one_s_probe_keeps_columns_of_its_own(tmp_path: Path) -> None:
    """Both wrote into the columns of "a, probe ncm", and the second was what the file had."""
    labels = labels_of(2, 20)
    made = {"a": blobs(labels, spread=0.1), "a, probe ncm": blobs(labels, spread=20.0)}
    files = [save(tmp_path / f"{k}.h5", feature_set(labels, made[name], model=name)) for k, name in enumerate(made)]
    found = evaluate_files(files, EvalConfig(c_grid=(0.1,), probes=("svm", "ncm")))
    lines = lines_of(found)
    measured = [name for name in lines[0] if name.endswith(": prediction")]
    assert len(set(measured)) == len(found.rows) == 4
    accuracies = [np.mean([line[name] == line["true"] for line in lines]) for name in measured]
    assert accuracies == pytest.approx([one.accuracy for one in found.rows])


def test_names_are_no_formulas(tmp_path: Path) -> None:
    labels = labels_of(2, 20)
    ids = tuple(f"=cmd{k}" for k in range(40))
    path = save(tmp_path / "f.h5", feature_set(labels, ids=ids, classes=("+a", "@b"), model="=m"))
    lines = lines_of(evaluate_files([path], EvalConfig(c_grid=(0.1,))))
    assert all(line["id"].startswith("'=cmd") for line in lines)
    assert {line["true"] for line in lines} == {"'+a", "'@b"}
    assert "'=m: prediction" in lines[0]


def test_an_earlier_predictions_file_goes_with_its_report(results: EvalResults, tmp_path: Path) -> None:
    write_report(results, tmp_path / "r")
    assert (tmp_path / "r" / "predictions.csv").exists()
    without = dataclasses.replace(results, test_ids=(), test_classes=())
    written = write_report(without, tmp_path / "r", overwrite=True)
    assert "predictions.csv" not in {path.name for path in written}
    assert not (tmp_path / "r" / "predictions.csv").exists()


def test_the_latex_table_is_the_headline_with_booktabs(results: EvalResults) -> None:
    text = results_latex(results)
    assert re.findall(r"\\(top|mid|bottom)rule", text) == ["top", "mid", "bottom"]
    assert r"\begin{tabular}{llr}" in text
    assert r"model & probe & toy \\" in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == 4
    assert all(line.count(" & ") == 2 and line.endswith(r" \\") for line in body)
    assert r"\texttt{first} & svm & " in body[0]


def test_the_best_is_bold_and_marks_are_explained() -> None:
    rows = [row("good", 0.8), row("x_1%", 0.75)]
    text = results_latex(made(rows, [comparison("good", "x_1%", 0.05, 0.4)]))
    assert r"\texttt{good} & \textbf{80.0 {[}70.0, 90.0]} \\" in text
    assert r"\texttt{x\_1\%} & 75.0 {[}65.0, 85.0]$^\dagger$ \\" in text
    assert r"$^\dagger$: does not differ significantly" in text


@pytest.mark.parametrize("name", ["\\input{x}", "a$b", "#1", "50%", "x~y^2", "{", "[4cm]", "*", "a\nb", "&", "_", "--"])
def test_no_name_is_a_command(name: str) -> None:
    shown = escape(name)
    left = re.sub(r"\\text[a-z]+\{\}|\\[{}$&#%_]|\{[\[*]\}|-\{\}", "", shown)
    assert not re.search(r"[\\{}$&#%_~^\n]", left), shown
    assert "--" not in shown
    assert not shown.startswith(("[", "*"))
