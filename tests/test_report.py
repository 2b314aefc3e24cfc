"""The report: every number where it belongs, files complete or not at all, plots that hold any name."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import tracemalloc
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from l2a_transfer.errors import OutputExistsError
from l2a_transfer.evaluation import measure_row
from l2a_transfer.evaluation.confusion import Confusion
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.measure_row import _notes
from l2a_transfer.evaluation.results import EvalConfig, EvalResults
from l2a_transfer.evaluation.seeds import SeedSummary
from l2a_transfer.features.store.reader import read_features
from l2a_transfer.report import figures, lookup, tables
from l2a_transfer.report.markdown import markdown_table
from l2a_transfer.report.write import check_output, write_report
from l2a_transfer.svm.config import SvmConfig
from l2a_transfer.svm.fitting import SvmFit
from l2a_transfer.svm.grid import FoldCounts, GridResult
from tests.feature_files import blobs, feature_set, labels_of, save
from tests.made_results import comparison, digest
from tests.made_results import results as made
from tests.made_results import row as made_row


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> EvalResults:
    """Two models on a set with a split (the second: pixels) and one model on a set that is drawn three times."""
    folder = tmp_path_factory.mktemp("features")
    labels = labels_of(3, 20)
    drawn = np.zeros(60, np.uint8)
    files = [
        save(folder / "good.h5", feature_set(labels, blobs(labels, spread=0.8), model="good")),
        save(folder / "pixels.h5", feature_set(labels, blobs(labels, dim=40, spread=9.0), model="pixels")),
        save(folder / "c.h5", feature_set(labels, model="good", data="caltech", split=drawn, splits=("all",))),
    ]
    one = evaluate_files(files[:2], EvalConfig())
    three = evaluate_files(files[2:], EvalConfig(draws=3))
    return dataclasses.replace(
        one,
        rows=(*one.rows, dataclasses.replace(three.rows[0], splits=(1, 2, 3))),
        details=one.details + three.details,
        splits=one.splits + three.splits,
        test_ids=one.test_ids + three.test_ids,
        test_classes=one.test_classes + three.test_classes,
    )


def test_rows_say_what_was_measured(results: EvalResults) -> None:
    good, pixels, drawn = results.rows
    assert (good.model, good.data, good.protocol, good.n_train, good.n_test, good.dim) == (
        "good",
        "toy",
        "official",
        30,
        30,
        6,
    )
    assert (good.components, pixels.components) == (None, 30)
    assert pixels.notes[-1] == (
        "PCA to 24 components in the folds that choose C, 30 in the final fit, because there are no more training rows "
        "or columns"
    )
    assert (good.fits, drawn.fits, good.unconverged) == (21, 63, 0)
    assert (good.interval, drawn.interval) == ("score", "corrected-t")
    assert good.chance == 1 / 3
    for row in results.rows:
        assert row.accuracy_ci95[0] <= row.accuracy <= row.accuracy_ci95[1]
        assert row.accuracy == np.mean(row.accuracy_draws)
        assert row.mean_class_accuracy == pytest.approx(row.accuracy)  # classes are of one size here
        assert len(row.C) == len(row.splits) == row.draws
    assert good.accuracy > pixels.accuracy + 0.2


def fitted(right: list[int], best: int, *, components: int | None = None, folds: int | None = None) -> SvmFit:
    """A fit that chose among candidates with so many held-out rows right on one fold."""
    counts = FoldCounts(np.array(right)[:, None], np.zeros((len(right), 1), dtype=bool))
    grid = GridResult(tuple(10.0**k for k in range(len(right))), counts, best, 0)
    return SvmFit(None, grid.Cs[best], grid, 1, 0, components, folds, rows=6)


def test_a_plateau_that_reaches_the_edge_of_the_grid_is_not_reported() -> None:
    """The grid does not grow there, as the report says, and a note said that the best C is at the edge."""
    svm = SvmConfig((1.0, 10.0, 100.0), 5)
    assert _notes([fitted([5, 5, 4], 0)], svm, None) == []
    assert _notes([fitted([4, 5, 4], 1)], svm, None) == []
    edge = "the best C is at the edge of the grid and better than its neighbour in {} of 3 draws"
    assert _notes([fitted([5, 5, 4], 0), fitted([5, 4, 4], 0), fitted([3, 4, 5], 2)], svm, None) == [edge.format(2)]


def test_the_note_on_pca_agrees_with_the_column_of_components() -> None:
    svm = SvmConfig((1.0, 10.0, 100.0), 5, components=256)
    why = "because there are no more training rows or columns"
    for folds, final, text in (
        (33, 42, "33 components in the folds that choose C, 42 in the final fit"),
        (200, 256, "200 components in the folds that choose C, 256 in the final fit"),
        (5, 5, "5 components"),
        (None, 42, "42 components"),
    ):
        assert _notes([fitted([4, 5, 4], 1, components=final, folds=folds)], svm, None) == [f"PCA to {text}, {why}"]


def test_accuracy_can_be_recounted_from_the_split_and_the_predictions(results: EvalResults, tmp_path: Path) -> None:
    labels = labels_of(3, 20)
    for row, detail in zip(results.rows, results.details, strict=True):
        for k, (index, predicted) in enumerate(zip(row.splits, detail.predictions, strict=True)):
            right = np.array(predicted) == labels[list(results.splits[index].test)]
            assert row.accuracy_draws[k] == right.mean()
        assert detail.confusion.tested.sum() == row.n_test * row.draws
        assert detail.confusion.right.sum() == pytest.approx(row.accuracy * row.n_test * row.draws)


def test_the_split_of_two_models_on_one_set_is_kept_once(results: EvalResults) -> None:
    assert results.rows[0].splits == results.rows[1].splits == (0,)
    assert len(results.splits) == 4


def test_table_has_percent_with_one_decimal(results: EvalResults) -> None:
    row = dataclasses.replace(
        results.rows[0],
        mean_class_accuracy=0.77777,
        mean_class_accuracy_ci95=(0.7, 0.80349),
        accuracy=1.0,
        accuracy_ci95=(1.0, 1.0),
        macro_f1=0.5432,
        C=(0.001,),
        unconverged=2,
    )
    lines = markdown_table(dataclasses.replace(results, rows=(row, results.rows[1]))).splitlines()
    assert lines[2] == (
        "| toy | `good` | 77.8 [70.0, 80.3] | 100.0 [100.0, 100.0] | 54.3 | official | 30 / 30 | 6 | 0.001 | 2 of 21 |"
    )
    assert "| 40 → 30 |" in lines[3]
    assert len({line.count("|") for line in lines}) == 1


def test_a_name_cannot_break_the_table(results: EvalResults) -> None:
    row = dataclasses.replace(results.rows[0], label="a|b`c\nd", data="x|y")
    assert "| x\\|y | `a\\|b'c d` |" in markdown_table(dataclasses.replace(results, rows=(row,)))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$5 and $6", r"\$5 and \$6"),
        ("_x_", r"\_x\_"),
        ("my_photos_2", "my_photos_2"),
        ("~~a~~ ^b^", r"\~\~a\~\~ \^b\^"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("a|b *c* [d](e)", r"a\|b \*c\* \[d\](e)"),
        ("a\\", "a\\\\"),
    ],
)
def test_a_name_is_never_markdown(results: EvalResults, name: str, shown: str) -> None:
    row = dataclasses.replace(results.rows[0], data=name, variant=name)
    line = markdown_table(dataclasses.replace(results, rows=(row,))).splitlines()[2]
    assert line.startswith(f"| {shown} | `good` | {shown} |")


def test_writes_every_file_and_each_says_the_same(results: EvalResults, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report"
    written = write_report(results, out)
    assert [path.name for path in written] == [
        "results.json",
        "results.csv",
        "comparisons.csv",
        "predictions.csv",
        "results.tex",
        "report.html",
        "report.md",
        "accuracy.svg",
        "confusion-toy-good.svg",
        "confusion-toy-pixels.svg",
        "confusion-caltech-good.svg",
    ]
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in written)
    document = json.loads(written[0].read_text(encoding="utf-8"))
    assert document["schema"] == "l2a-results/1"
    assert json.loads(json.dumps(results.document())) == {k: v for k, v in document.items() if k != "files"}
    assert document["rows"][0]["mean_class_accuracy"] == results.rows[0].mean_class_accuracy
    assert document["splits"][0]["train"] == list(range(30))
    table = list(csv.DictReader(io.StringIO(written[1].read_text(encoding="utf-8"))))
    assert [float(line["accuracy"]) for line in table] == [row.accuracy for row in results.rows]
    assert float(table[2]["accuracy_ci95_high"]) == results.rows[2].accuracy_ci95[1]
    assert table[2]["C"].split(";") == [str(C) for C in results.rows[2].C]
    (line,) = csv.DictReader(io.StringIO(written[2].read_text(encoding="utf-8")))
    (pair,) = results.comparisons
    assert pair.ci95 is not None
    assert (line["a"], line["b"], line["n_a"], float(line["ci95_low"])) == ("good", "pixels", "1", pair.ci95[0])
    text = written[6].read_text(encoding="utf-8")
    assert markdown_table(results) in text
    for split in results.splits:
        assert split.sha256 in text
    assert lookup.verdict(pair).replace("[", "\\[").replace("]", "\\]").replace("<", "&lt;") in text
    for picture in written[7:]:
        assert f"]({picture.name})" in text
        shapes = [one.tag.rpartition("}")[2] for one in ElementTree.parse(picture).iter()]
        assert shapes.count("text") > 6
        assert {"line", "image"} & set(shapes)


def test_a_report_that_exists_is_left_as_it_is(results: EvalResults, tmp_path: Path) -> None:
    written = write_report(results, tmp_path / "r")
    before = {path: path.read_bytes() for path in written}
    with pytest.raises(OutputExistsError, match=r"results\.json: exists; `overwrite=True`"):
        write_report(dataclasses.replace(results, rows=results.rows[:1]), tmp_path / "r")
    assert {path: path.read_bytes() for path in (tmp_path / "r").iterdir()} == before


def test_a_failure_while_writing_leaves_the_earlier_report(
    results: EvalResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_report(results, tmp_path / "r")
    before = {path: path.read_bytes() for path in written}

    def full(row: object, detail: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures, "confusion", full)
    other = dataclasses.replace(results, config=EvalConfig(seed=9))
    with pytest.raises(OSError, match="No space left"):
        write_report(other, tmp_path / "r", overwrite=True)
    assert {path: path.read_bytes() for path in (tmp_path / "r").iterdir()} == before


def test_overwriting_removes_the_earlier_plots_and_nothing_else(results: EvalResults, tmp_path: Path) -> None:
    out = tmp_path / "r"
    write_report(results, out)
    for name in ("notes.txt", "confusion-mine.svg"):
        (out / name).write_text("mine")
    fewer = dataclasses.replace(results, rows=results.rows[:1], details=results.details[:1])
    write_report(fewer, out, overwrite=True)
    assert {path.name for path in out.glob("*.svg")} == {"accuracy.svg", "confusion-toy-good.svg", "confusion-mine.svg"}
    assert (out / "notes.txt").read_text() == "mine"


def test_pictures_of_an_earlier_report_that_were_png_files_are_removed(results: EvalResults, tmp_path: Path) -> None:
    out = tmp_path / "r"
    out.mkdir()
    pictures = ["accuracy.png", "confusion-toy-good.png"]
    for name in (*pictures, "confusion-mine.png"):
        (out / name).write_bytes(b"")
    (out / "results.json").write_text(json.dumps({"schema": "l2a-results/1", "files": ["results.json", *pictures]}))
    write_report(results, out, overwrite=True)
    assert [path.name for path in out.glob("*.png")] == ["confusion-mine.png"]


def test_a_foreign_file_list_cannot_delete_anything(results: EvalResults, tmp_path: Path) -> None:
    out = tmp_path / "r"
    out.mkdir()
    (tmp_path / "confusion-x.png").write_text("precious")
    (out / "data.csv").write_text("precious")
    files = ["../confusion-x.png", "data.csv", str(tmp_path / "confusion-x.png"), 7]
    (out / "results.json").write_text(json.dumps({"schema": "l2a-results/1", "files": files}))
    write_report(results, out, overwrite=True)
    assert (out / "data.csv").read_text() == (tmp_path / "confusion-x.png").read_text() == "precious"


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("")
    with pytest.raises(OutputExistsError, match="is a file, but a report needs a folder"):
        check_output(tmp_path / "r", overwrite=True)


def test_rows_of_one_model_are_told_apart(tmp_path: Path) -> None:
    long = "x" * 60
    rows = [
        made_row("m"),
        made_row("m", variant="L2 alone"),
        made_row(f"{long}a{long}"),
        made_row(f"{long}b{long}"),
        made_row("m", shots=4, data="d"),
    ]
    assert [str(lookup.place_of(r)) for r in rows] == ["toy"] * 4 + ["d, k = 4"]
    names = figures.apart([lookup.full_name(r) for r in rows[:4]], 20)
    assert names == ["m", "m, L2 alone", "3: xxxxxxxxxx…xxxxxxxxx", "4: xxxxxxxxxx…xxxxxxxxx"]
    both = made([*rows[:2], *(made_row("m", 0.5, shots=k, data="d", protocol="low-shot") for k in (1, 4))])
    assert lookup.pictured(both) == [0, 3]
    written = [path.name for path in write_report(both, tmp_path / "r")]
    assert written[7:] == ["confusion-toy-m.svg", "confusion-d-m.svg"]
    table = list(csv.DictReader(io.StringIO((tmp_path / "r" / "results.csv").read_text(encoding="utf-8"))))
    assert [(line["variant"], line["shots"]) for line in table] == [("", ""), ("L2 alone", ""), ("", "1"), ("", "4")]
    assert (
        (tmp_path / "r" / "comparisons.csv")
        .read_text()
        .startswith("data,protocol,shots,family,comparisons,a,b,population,n_a,n_b,")
    )


def test_half_a_character_in_a_name_is_written_and_can_be_read(tmp_path: Path) -> None:
    written = write_report(made([made_row()], classes=("\ud800", "b")), tmp_path / "r")
    assert json.loads(written[0].read_text(encoding="utf-8"))["details"][0]["classes"] == ["\ud800", "b"]


@pytest.mark.parametrize(("classes", "whole"), [(250, True), (251, False)])
def test_a_large_confusion_matrix_is_kept_by_the_pairs_that_occurred(classes: int, whole: bool, tmp_path: Path) -> None:
    few = ((0, 0, 3), (1, 0, 2), (classes - 1, 1, 1))
    many = made([made_row()], classes=tuple(map(str, range(classes))))
    many = dataclasses.replace(many, details=(dataclasses.replace(many.details[0], cells=few),))
    written, *_ = write_report(many, tmp_path / "r")
    (detail,) = json.loads(written.read_text(encoding="utf-8"))["details"]
    if whole:
        matrix = np.array(detail["confusion"])
        assert matrix.shape == (classes, classes)
        assert [(i, k, matrix[i, k]) for i, k in zip(*np.nonzero(matrix), strict=True)] == list(few)
        assert detail["confusion_cells"] is None
    else:
        assert detail["confusion"] is None
        assert detail["confusion_cells"] == [list(cell) for cell in few]


def test_a_report_grows_with_the_test_images_and_not_with_the_classes_squared(tmp_path: Path) -> None:
    """5,000 classes made a results.json of 75 MB, and svm-eval took 3.4 GB of memory."""
    K = 5000
    many = made([made_row()], classes=tuple(map(str, range(K))))
    wrong = tuple((k, (7 * k + 1) % K, 1) for k in range(K))
    many = dataclasses.replace(many, details=(dataclasses.replace(many.details[0], cells=wrong),))
    tracemalloc.start()
    try:
        written = write_report(many, tmp_path / "r")
        assert tracemalloc.get_traced_memory()[1] < 500 << 20
    finally:
        tracemalloc.stop()
    assert sum(path.stat().st_size for path in written) < 2 << 20


def test_neighbouring_classes_share_a_pixel_of_a_large_matrix() -> None:
    """2,500 classes are drawn as 834 × 834, three classes a pixel, and the last one stands alone."""
    cells = np.array([(0, 2, 3), (2, 5, 1), (2499, 0, 4)], dtype=np.int64)
    share, together = Confusion(2500, cells).picture()
    assert (share.shape, together) == ((834, 834), 3)
    assert [(i, k, share[i, k]) for i, k in zip(*np.nonzero(share), strict=True)] == [
        (0, 0, 0.75),
        (0, 1, 0.25),
        (833, 0, 1.0),
    ]
    assert Confusion(1000, np.array([(0, 999, 2)], dtype=np.int64)).picture()[0][0, 999] == 1.0


def test_scores_of_many_classes_are_computed_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once they were test images × classes: 2 GB for 50,000 images of 5,000 classes."""
    labels = labels_of(6, 20)
    path = save(tmp_path / "f.h5", feature_set(labels, blobs(labels, spread=2.0)))
    whole = evaluate_files([path], EvalConfig(c_grid=(0.01,)))
    real, sizes = SvmFit.scores, []

    def scores(fit: SvmFit, features: np.ndarray) -> np.ndarray:
        found = real(fit, features)
        sizes.append(found.size)
        return found

    monkeypatch.setattr(measure_row, "PREDICT_SCORES", 45)
    monkeypatch.setattr(SvmFit, "scores", scores)
    blocks = evaluate_files([path], EvalConfig(c_grid=(0.01,)))
    assert (len(sizes), max(sizes)) == (9, 42)
    assert blocks.details == whole.details
    assert (blocks.rows[0].top5, blocks.rows[0].accuracy) == (whole.rows[0].top5, whole.rows[0].accuracy)


def test_two_files_of_one_model_are_told_apart(tmp_path: Path) -> None:
    labels = labels_of(3, 20)
    files = [
        save(tmp_path / f"{name}.h5", feature_set(labels, blobs(labels, seed=k))) for k, name in enumerate(("l2", "l3"))
    ]
    results = evaluate_files(files, EvalConfig())
    assert [row.label for row in results.rows] == ["toy-model (l2)", "toy-model (l3)"]
    assert [row.model for row in results.rows] == ["toy-model", "toy-model"]
    names = [path.name for path in write_report(results, tmp_path / "r")]
    assert len(set(names)) == len(names) == 10
    assert read_features(files[0]).path == files[0]


SEED_SUMMARY = SeedSummary(
    "vgg@0.25",
    "toy",
    "official",
    None,
    ("x", "good"),
    ("0", "1"),
    (0.7, 0.75),
    0.725,
    0.0354,
    0.7,
    0.01,
    0.6,
    0.02,
    (digest("x"), digest("good")),
    "c0ffee",
)


def test_seeds_csv_is_written_only_where_there_are_seeds_and_goes_with_them(tmp_path: Path) -> None:
    rows = [made_row("good", 0.75), made_row("x", 0.5)]
    first = write_report(made(rows, seeds=[SEED_SUMMARY]), tmp_path / "r")
    assert tmp_path / "r" / "seeds.csv" in first
    (line,) = csv.DictReader(io.StringIO((tmp_path / "r" / "seeds.csv").read_text()))
    assert (line["name"], line["seeds"]) == ("vgg@0.25", "0;1")
    second = write_report(made(rows), tmp_path / "r", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == sorted(path.name for path in second)
    assert "seeds.csv" not in json.loads((tmp_path / "r" / "results.json").read_text())["files"]
    for name in ("report.html", "report.md"):
        assert "seeds.csv" not in (tmp_path / "r" / name).read_text()
    (tmp_path / "r" / "seeds.csv").write_text("of another program")  # named by no report
    write_report(made(rows), tmp_path / "r", overwrite=True)
    assert (tmp_path / "r" / "seeds.csv").read_text() == "of another program"


def test_minus_signs_in_every_table_and_verdict_for_people_and_hyphens_in_files_for_programs(tmp_path: Path) -> None:
    name = "run -5 (-1.0)"
    said = f"{name} and pixels do not differ significantly on toy (-1.2 points [-6.0, +3.5], p = 0.71). This holds …"
    pair = comparison(name, "pixels", -0.012, 0.71, ci95_simultaneous=(-0.06, 0.035), effect=-0.25, verdict=said)
    results = made([made_row(name, 0.5), made_row("pixels", 0.51)], [pair])
    shown = said.replace("-1.2 points [-6.0", "−1.2 points [−6.0")
    assert lookup.verdict(pair) == shown
    write_report(results, tmp_path / "r")
    html, text = ((tmp_path / "r" / each).read_text().replace("<wbr>", "") for each in ("report.html", "report.md"))
    assert shown in html
    assert shown.replace("[", "\\[").replace("]", "\\]") in text
    for document in (html, text):
        assert "−1.2 [−6.0, +3.5]" in document  # the table
        assert "−0.25" in document
    for each in ("results.json", "comparisons.csv"):
        assert said in (tmp_path / "r" / each).read_text()
        assert "−" not in (tmp_path / "r" / each).read_text()


def test_verdicts_of_variants_follow_those_of_whole_models_in_the_order_of_the_rows() -> None:
    variants = ("L2 alone", "rows to length 1")
    rows = [
        made_row(label, 0.5, variant=variant, data="toy", shots=shots)
        for label in ("good", "b")
        for shots in (1, 2)
        for variant in ("", *variants)
    ]
    # As they are compared: place by place.
    pairs = [comparison("good", "b", shots=shots) for shots in (1, 2)]
    pairs += [
        comparison(f"{label}, {variant}", label, family="variants", shots=shots)
        for shots in (1, 2)
        for label in ("good", "b")
        for variant in variants
    ]
    found = [(c.a, c.shots) for c in lookup.verdicts(made(rows, pairs))]
    assert found[:2] == [("good", 1), ("good", 2)]
    assert found[2:] == [(lookup.full_name(row), row.shots) for row in rows if row.variant]


def test_pixels_have_no_tap_in_a_report(tmp_path: Path) -> None:
    results = made([made_row("good"), made_row("pixels", backend="pixels")])
    write_report(results, tmp_path / "r")
    assert [row["tap"] for row in json.loads((tmp_path / "r" / "results.json").read_text())["rows"]] == ["ga", "ga"]
    table = tables.origins(results.rows)
    column = [heading for heading, _ in table.columns].index("tap")
    assert [row[column].text for row in table.rows] == ["ga", "–"]
    text = (tmp_path / "r" / "report.html").read_text().replace("<wbr>", "")
    assert text.count("tap ga, fp32, backend torch") == 1
    assert text.count("fp32, backend pixels") == 1
    assert "tap ga, fp32, backend pixels" not in text
