"""Probes other than the SVM, LogME, and how their rows stand beside each other."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from l2a_transfer.errors import ArgumentError, EvaluationError, UnknownNameError
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.probes.knn import votes
from l2a_transfer.evaluation.probes.registry import PROBES, ProbeFit, register_probe
from l2a_transfer.evaluation.results import EvalConfig, EvalResults
from l2a_transfer.evaluation.transferability import logme
from l2a_transfer.report import lookup, tables
from l2a_transfer.report.headline import headline
from l2a_transfer.svm.config import SvmConfig
from l2a_transfer.svm.rows import LazyRows
from tests.conftest import assert_fails, l2a
from tests.feature_files import blobs, feature_set, labels_of, save

ALL = ("svm", "logistic", "knn", "ncm")
CONFIG = SvmConfig((1e-3, 1e-2, 1e-1), 3, decades=0, device="cpu")


def fitted(name: str, X: np.ndarray, y: np.ndarray, config: SvmConfig = CONFIG) -> ProbeFit:
    return PROBES[name].fit(X, y, config, lambda n: None, None)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("features")
    labels = labels_of(3, 20)
    return [
        save(folder / f"{name}.h5", feature_set(labels, blobs(labels, spread=spread, dim=8), model=name))
        for name, spread in (("good", 1.0), ("poor", 3.0))
    ]


@pytest.fixture(scope="module")
def results(files: list[Path]) -> EvalResults:
    return evaluate_files(files, EvalConfig(c_grid=(1e-3, 1e-2), folds=2, probes=ALL, logme=True, device="cpu"))


def test_logistic_regression_is_scikit_learn_s_with_the_c_of_the_same_folds() -> None:
    labels = labels_of(4, 15)
    X = blobs(labels, spread=2.0)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)

    def model(C: float) -> object:
        return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))

    right = {
        C: sum((model(C).fit(X[a], labels[a]).predict(X[b]) == labels[b]).sum() for a, b in folds.split(X, labels))
        for C in CONFIG.c_grid
    }
    found = fitted("logistic", X, labels)
    assert max(right, key=lambda C: (right[C], -C)) == found.C
    np.testing.assert_allclose(np.array(found.cv_accuracy) * len(X), [right[C] for C in CONFIG.c_grid])
    expected = model(found.C).fit(X.astype(float), labels).decision_function(X.astype(float))
    np.testing.assert_allclose(found.scores(X), expected, atol=1e-6)
    assert (found.fits, found.unconverged, found.chosen) == (10, 0, f"C = {found.C:g}")


def test_logistic_regression_of_two_classes_has_a_score_for_each() -> None:
    labels = labels_of(2, 15)
    scores = fitted("logistic", blobs(labels), labels).scores(blobs(labels))
    assert scores.shape == (30, 2)
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1])


def test_the_votes_of_neighbours_and_what_decides_between_equals() -> None:
    near = np.array([[2, 0, 0, 2, 1], [1, 1, 0, 0, 0]])
    found = votes(near, 3)
    assert np.floor(found).tolist() == [[2, 1, 2], [3, 2, 0]]
    assert found.argmax(axis=1).tolist() == [2, 0]
    assert votes(np.array([[0, 2, 2, 0, 1]]), 3).argmax() == 0


def test_nearest_neighbours_choose_k_and_the_metric_on_training_rows() -> None:
    rng = np.random.default_rng(0)
    labels = labels_of(3, 30)
    directions = blobs(np.arange(3, dtype=np.int32), spread=0.0)[labels] + 0.4 * rng.normal(size=(90, 6))
    rays = directions * np.exp(rng.normal(size=(90, 1)) * 2)  # a class is a direction, at any distance
    plain = dataclasses.replace(CONFIG, normalization="none")
    assert fitted("knn", rays, labels, plain).chosen.endswith("cosine")
    rings = rng.normal(size=(90, 6)) * 0.2 + 3.0 * labels[:, None]  # a class is a distance, in one direction
    found = fitted("knn", rings, labels, plain)
    assert found.chosen == "k = 1, euclidean"
    own = KNeighborsClassifier(1, algorithm="brute").fit(rings, labels)
    assert (found.scores(rings + 0.1).argmax(axis=1) == own.predict(rings + 0.1)).all()


def test_noisy_labels_take_more_neighbours_than_one() -> None:
    labels = labels_of(3, 40)
    X = blobs(labels, spread=0.2)
    noisy = labels.copy()
    noisy[::7] = (noisy[::7] + 1) % 3
    assert fitted("knn", X, noisy).chosen not in ("k = 1, cosine", "k = 1, euclidean")


def test_no_more_neighbours_are_tried_than_a_fold_has_rows() -> None:
    labels = labels_of(2, 3)
    assert fitted("knn", blobs(labels), labels).chosen in ("k = 1, cosine", "k = 3, cosine")


def test_nearest_class_mean_is_scikit_learn_s() -> None:
    labels = labels_of(4, 15)
    X = blobs(labels, spread=3.0).astype(float)
    scale = StandardScaler().fit(X)
    own = NearestCentroid().fit(scale.transform(X), labels)
    found = fitted("ncm", X, labels)
    assert (found.classes[found.scores(X).argmax(axis=1)] == own.predict(scale.transform(X))).all()
    distance = np.linalg.norm(scale.transform(X)[:, None] - own.centroids_[None], axis=2)
    np.testing.assert_allclose(found.scores(X), -(distance**2), atol=1e-9)


@pytest.mark.parametrize("name", ["logistic", "knn", "ncm"])
def test_rows_to_length_1_and_a_pca_are_fitted_on_training_rows(name: str) -> None:
    labels = labels_of(3, 12)
    X = blobs(labels, dim=10).astype(float)
    found = fitted(name, X, labels, dataclasses.replace(CONFIG, components=4, normalization="l2"))
    assert found.components == 4
    np.testing.assert_allclose(found.scores(7 * X), found.scores(X), atol=1e-8)


@pytest.mark.parametrize("name", ["logistic", "knn", "ncm"])
def test_one_class_and_too_few_rows_are_errors(name: str) -> None:
    with pytest.raises(EvaluationError, match="at least two classes"):
        fitted(name, np.ones((6, 2)), np.zeros(6, np.int32), dataclasses.replace(CONFIG, folds=1, c_grid=(0.1,)))
    if name != "ncm":
        with pytest.raises(EvaluationError, match="3 folds need as many training rows of each class"):
            fitted(name, np.eye(4), np.array([0, 0, 1, 1], np.int32))


@pytest.mark.parametrize("shape", [(40, 3), (12, 30)])
def test_logme_is_the_largest_evidence_of_the_regression(shape: tuple[int, int]) -> None:
    """Against the density of the labels, with weights N(0, 1/α) integrated out, and α, β searched by another method."""
    N, D = shape
    rng = np.random.default_rng(1)
    labels = np.arange(N, dtype=np.int32) % 3
    X = rng.normal(size=(N, D)) + 0.8 * rng.normal(size=(3, D))[labels]

    def largest(y: np.ndarray) -> float:
        def negative(logs: np.ndarray) -> float:
            alpha, beta = np.exp(np.clip(logs, -14, 14))
            covariance = np.eye(N) / beta + X @ X.T / alpha
            return -float(multivariate_normal.logpdf(y, np.zeros(N), covariance, allow_singular=True))

        starts = [(a, b) for a in (-3.0, 0.0, 4.0) for b in (-1.0, 2.0)]
        return -min(minimize(negative, start, method="Nelder-Mead").fun for start in starts)

    expected = np.mean([largest((labels == k).astype(float)) / N for k in range(3)])
    assert logme(X, labels) == pytest.approx(expected, abs=1e-4)


def test_logme_reads_from_a_file_and_of_constant_features_it_is_that_of_noise() -> None:
    labels = labels_of(3, 20)
    X = blobs(labels)
    assert logme(LazyRows(X), labels) == logme(X, labels)
    y_variance = 1 / 3  # of 0s and 1s around 0, which is what nothing explains
    assert logme(np.zeros((60, 4)), labels) == pytest.approx(-0.5 * (np.log(2 * np.pi * y_variance) + 1))
    assert logme(1000 * X, labels) == pytest.approx(logme(X, labels), abs=1e-9)


def test_each_probe_is_a_row_that_says_what_it_chose(results: EvalResults) -> None:
    assert [(row.label, row.probe) for row in results.rows] == [(m, p) for m in ("good", "poor") for p in ALL]
    svm, logistic, knn, ncm = results.rows[:4]
    assert svm.solver == "batched"
    assert svm.chosen == (f"C = {svm.C[0]:g}",)
    assert len(logistic.C) == 1
    assert logistic.solver == "lbfgs"
    assert knn.C == ()
    assert knn.chosen[0].startswith("k = ")
    assert knn.fits == 3
    assert ncm.chosen == ("",)
    assert len({row.logme for row in results.rows[:4]}) == 1
    assert results.rows[0].logme > results.rows[4].logme  # type: ignore[operator]
    assert {row.splits for row in results.rows} == {(0,)}


def test_models_are_compared_within_a_probe(results: EvalResults) -> None:
    assert [(c.a, c.b, c.probe) for c in results.comparisons] == [("good", "poor", probe) for probe in ALL]
    assert {c.comparisons for c in results.comparisons} == {4}
    assert " by the probe knn" in results.comparisons[2].verdict
    assert "probe" not in results.comparisons[0].verdict


def test_the_svm_s_rows_are_those_of_a_run_without_other_probes(files: list[Path], results: EvalResults) -> None:
    alone = evaluate_files(files, EvalConfig(c_grid=(1e-3, 1e-2), folds=2, device="cpu"))
    for row, own in zip(alone.rows, (results.rows[0], results.rows[4]), strict=True):
        assert dataclasses.replace(row, seconds=0, logme=own.logme) == dataclasses.replace(own, seconds=0)


def test_the_tables_have_a_column_of_probes(results: EvalResults) -> None:
    (places,) = lookup.contests(results)
    table = headline(results, places)
    assert [name for name, _ in table.columns] == ["model", "probe", "toy"]
    assert [[cell.text for cell in row[:2]] for row in table.rows] == [[m, p] for m in ("good", "poor") for p in ALL]
    assert all(row[2].text != "–" for row in table.rows)
    best = [row[2].best for row in table.rows]
    assert sum(best[:4]) + sum(best[4:]) >= 4
    listed = tables.details(results, results.rows)
    names = [name for name, _ in listed.columns]
    assert names.index("probe") == 2
    assert "chosen" in names
    assert "LogME" in names


def test_no_test_row_reaches_a_probe_before_it_is_tested(files: list[Path], tmp_path: Path) -> None:
    """Other test labels and features change no choice and no LogME."""
    labels = labels_of(3, 20)
    own = feature_set(labels, blobs(labels, dim=8), model="good")
    X, y = np.array(own.features), labels.copy()
    tested = own.split == 1
    X[tested] = np.random.default_rng(3).normal(size=X[tested].shape) * 100
    y[tested] = np.roll(y[tested], 1)
    other = save(tmp_path / "other.h5", dataclasses.replace(own, features=X, labels=y))
    config = EvalConfig(c_grid=(1e-3, 1e-2), folds=2, probes=ALL, logme=True, device="cpu")
    first, second = evaluate_files(files[:1], config), evaluate_files([other], config)
    for a, b in zip(first.rows, second.rows, strict=True):
        assert (a.C, a.chosen, a.cv_accuracy_draws, a.logme) == (b.C, b.chosen, b.cv_accuracy_draws, b.logme)
        assert a.accuracy != b.accuracy


def test_with_one_image_a_class_nothing_is_chosen(tmp_path: Path) -> None:
    labels = labels_of(3, 20)
    path = save(tmp_path / "f.h5", feature_set(labels))
    config = EvalConfig(protocol="low-shot", shots=(1, 2), draws=2, probes=("knn", "logistic"), c_grid=(1e-2, 1e-1))
    rows = evaluate_files([path], config).rows
    assert [(row.probe, row.shots) for row in rows] == [("knn", 1), ("logistic", 1), ("knn", 2), ("logistic", 2)]
    assert rows[0].chosen == ("k = 1, cosine",) * 2
    assert "k = 1, cosine is fixed, because one image a class leaves nothing to choose it on" in rows[0].notes
    assert "C = 0.01 is fixed, because one image a class leaves nothing to choose it on" in rows[1].notes


def test_wrong_probes_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="probe must be one of svm, logistic, knn, ncm; got 'kn'; did you mean"):
        EvalConfig(probes=("svm", "kn"))
    for wrong in ((), ("knn", "knn")):
        with pytest.raises(ArgumentError, match="probes must be distinct"):
            EvalConfig(probes=wrong)
    with pytest.raises(TypeError, match="probes must be a sequence of names"):
        EvalConfig(probes="svm")  # type: ignore[arg-type]


def test_knn_needs_a_row_a_class_in_each_fold_even_where_c_is_given(tmp_path: Path) -> None:
    labels = labels_of(3, 8)
    path = save(tmp_path / "f.h5", feature_set(labels))
    with pytest.raises(EvaluationError, match="5 folds need 5 training images of each class"):
        evaluate_files([path], EvalConfig(probes=("knn",), c_grid=(0.1,)))
    (row,) = evaluate_files([path], EvalConfig(probes=("ncm",))).rows
    assert row.fits == 1


@pytest.fixture
def largest() -> Iterator[None]:
    @register_probe("largest", solver="none")
    def fit(features: np.ndarray, labels: np.ndarray, config: SvmConfig, tick: object, groups: object) -> ProbeFit:
        """Always the last class."""
        classes = np.unique(labels)
        return ProbeFit(lambda rows: np.tile(np.arange(float(len(classes))), (len(rows), 1)), classes)

    yield
    PROBES.remove("largest")


@pytest.mark.usefixtures("largest")
def test_a_probe_of_one_s_own_is_used_by_name(files: list[Path]) -> None:
    (row,) = evaluate_files(files[:1], EvalConfig(probes=("largest",))).rows
    assert row.mean_class_accuracy == pytest.approx(1 / 3)


def test_the_example_of_the_contributor_s_guide_runs(files: list[Path]) -> None:
    guide = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    exec(guide.split("## A new probe")[1].split("```python\n")[1].split("```")[0], {})
    try:
        (row,) = evaluate_files(files[:1], EvalConfig(probes=("gaussian",))).rows
    finally:
        PROBES.remove("gaussian")
    assert row.mean_class_accuracy > row.chance


def test_the_command_line_measures_several_and_says_how_to_repeat_it(files: list[Path], tmp_path: Path) -> None:
    asked = ("--probe", "svm, knn", "--logme", "--c-grid", "0.01", "--folds", "2", "--json")
    found = l2a("svm-eval", *files, "--out", tmp_path / "r", *asked)
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    assert [row["probe"] for row in document["rows"]] == ["svm", "knn"] * 2
    assert {c["probe"] for c in document["comparisons"]} == {"svm", "knn"}
    page = (tmp_path / "r" / "report.html").read_text()
    assert "Probes on frozen features" in page
    assert ", probe knn</h3>" in page
    assert "--probe svm,knn --logme" in page
    assert "probe knn" in (tmp_path / "r" / "report.md").read_text()
    assert_fails(l2a("svm-eval", *files, "--out", tmp_path / "s", "--probe", "smv"), 2, "did you mean 'svm'?")
    assert not (tmp_path / "s").exists()


def test_results_show_which_row_is_of_which_probe(results: EvalResults) -> None:
    assert "of probes on frozen features" in repr(results)
    assert "good (probe knn)" in repr(results)
    assert "good (probe svm)" not in repr(results)
