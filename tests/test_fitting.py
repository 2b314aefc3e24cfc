"""The SVM: C from training rows only, ties to the smaller C, nothing from held-out rows, unconverged fits counted."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from l2a_transfer.errors import EvaluationError
from l2a_transfer.svm.config import NORMALIZATIONS, SOLVERS, SvmConfig
from l2a_transfer.svm.fitting import fit_svm
from tests.feature_files import blobs, labels_of

GRID = (1e-4, 1e-3, 1e-2, 1e-1)
CONFIG = SvmConfig(GRID, folds=3, seed=4, decades=0)


def reference(features: NDArray[np.float64], labels: NDArray[np.int32], config: SvmConfig) -> GridSearchCV:
    """scikit-learn's own grid search over the whole pipeline, everything fitted inside each fold."""
    steps = [StandardScaler(), LinearSVC(dual=False, random_state=config.seed)]
    if config.components is not None:
        steps.insert(1, PCA(config.components, random_state=config.seed))
    folds = StratifiedKFold(config.folds, shuffle=True, random_state=config.seed)
    search = GridSearchCV(make_pipeline(*steps), {"linearsvc__C": list(config.c_grid)}, cv=folds)
    return search.fit(features, labels)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("components", [None, 4])
def test_equals_scikit_learns_grid_search_over_the_whole_pipeline(
    classes: int, components: int | None, solver: str
) -> None:
    labels = labels_of(classes, 12)
    features = blobs(labels, dim=8, spread=1.5, dtype="float64") * np.logspace(-3, 3, 8)
    config = SvmConfig(GRID, folds=3, seed=4, components=components, solver=solver, decades=0)
    ours, theirs = fit_svm(features, labels, config), reference(features, labels, config)
    assert theirs.best_params_["linearsvc__C"] == ours.C
    np.testing.assert_allclose(ours.cv_accuracy, theirs.cv_results_["mean_test_score"], atol=1e-12)
    scores = theirs.decision_function(features)
    expected = np.stack([-scores, scores], axis=1) if classes == 2 else scores
    np.testing.assert_allclose(ours.scores(features), expected, atol=0 if solver == "liblinear" else 2e-3)
    assert ours.components == components


@pytest.mark.parametrize("solver", SOLVERS)
def test_solves_a_case_with_a_known_answer(solver: str) -> None:
    """Points at −1 and +1: w minimises w²/2 + 2C(1 − w)², so w = 4C/(1 + 4C), and the intercept is 0."""
    features, labels = np.array([[-1.0], [1.0]]), np.array([0, 1], dtype=np.int32)
    fit = fit_svm(features, labels, SvmConfig((0.25,), folds=2, tol=1e-12, solver=solver))
    np.testing.assert_allclose(fit.scores(np.array([[1.0], [0.0]])), [[-0.5, 0.5], [0, 0]], atol=1e-6)
    assert (fit.C, fit.fits, fit.cv_accuracy, fit.components) == (0.25, 1, (), None)
    assert fit.predict(np.array([[-0.1], [0.1]])).tolist() == [0, 1]


def test_a_tie_goes_to_the_smaller_c() -> None:
    labels = labels_of(2, 12)
    features = np.where(labels[:, None] == 1, 5.0, -5.0) + np.random.default_rng(0).normal(size=(24, 2)) / 10
    fit = fit_svm(features, labels, CONFIG)
    assert fit.cv_accuracy == (1.0, 1.0, 1.0, 1.0)
    assert fit.C == 1e-4


def test_the_best_c_is_taken_and_not_just_the_smallest() -> None:
    # The class is the small difference of two columns that agree otherwise, which takes large weights.
    rng = np.random.default_rng(1)
    labels = labels_of(2, 60)
    common = rng.normal(size=120)
    features = np.stack([common + 0.2 * labels, common + 0.02 * rng.normal(size=120)], axis=1)
    fit = fit_svm(features, labels, CONFIG)
    assert fit.C == GRID[int(np.argmax(fit.cv_accuracy))] > 1e-4


def test_standardisation_stays_inside_the_fold() -> None:
    """On columns with rows far out, a scaler fitted on all training rows gives other held-out rows right."""
    labels = labels_of(3, 10)
    features = blobs(labels, dim=20, dtype="float64") * np.random.default_rng(0).lognormal(0, 2, size=(30, 20))
    folds = StratifiedKFold(3, shuffle=True, random_state=4)
    leaked = np.zeros(len(GRID))
    scaled = StandardScaler().fit_transform(features)
    for train, held_out in folds.split(features, labels):
        for k, C in enumerate(GRID):
            svm = LinearSVC(C=C, dual=False, random_state=4).fit(scaled[train], labels[train])
            leaked[k] += np.count_nonzero(svm.predict(scaled[held_out]) == labels[held_out])
    ours = np.array(fit_svm(features, labels, CONFIG).cv_accuracy) * len(labels)
    np.testing.assert_allclose(ours, reference(features, labels, CONFIG).cv_results_["mean_test_score"] * len(labels))
    assert not np.allclose(ours, leaked)


def test_pca_keeps_no_more_than_a_fold_has_rows() -> None:
    labels = labels_of(2, 6)
    fit = fit_svm(blobs(labels, dim=300), labels, SvmConfig(GRID, folds=3, components=256))
    assert (fit.components, fit.fold_components) == (12, 8)
    fit = fit_svm(blobs(labels, dim=5), labels, SvmConfig(GRID, folds=3, components=256))
    assert (fit.components, fit.fold_components) == (5, 5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_unconverged_fits_are_counted_and_no_warning_leaks(solver: str) -> None:
    labels = labels_of(3, 10)
    features = blobs(labels, spread=2.0)
    grid = (1e-1, 1e0, 1e1, 1e2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stopped = fit_svm(features, labels, SvmConfig(grid, 3, max_iter=1, jobs=2, solver=solver, decades=0))
        finished = fit_svm(features, labels, SvmConfig(grid, 3, solver=solver, decades=0))
    assert (stopped.unconverged, stopped.fits) == (13, 13)
    assert (finished.unconverged, finished.fits) == (0, 13)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_normalization_is_what_it_says(normalization: str) -> None:
    labels = labels_of(3, 10)
    features = blobs(labels, dim=5, spread=2.0, dtype="float64") * np.logspace(0, 1, 5) + 3
    fit = fit_svm(features, labels, SvmConfig((0.1,), 3, normalization=normalization, tol=1e-12))
    steps = {"standardize": [StandardScaler()], "l2": [Normalizer()], "none": []}[normalization]
    expected = make_pipeline(*steps, LinearSVC(C=0.1, dual=False, tol=1e-10, max_iter=10_000)).fit(features, labels)
    np.testing.assert_allclose(fit.scores(features), expected.decision_function(features), atol=1e-4)


def test_threads_and_a_second_run_change_no_number() -> None:
    labels = labels_of(3, 20)
    features = blobs(labels, dim=20, spread=3.0)
    config = SvmConfig(GRID, folds=5, components=7, seed=2)
    fits = [fit_svm(features, labels, SvmConfig(**{**config.__dict__, "jobs": jobs})) for jobs in (1, 1, 2)]
    for fit in fits[1:]:
        assert (fit.C, fit.cv_accuracy) == (fits[0].C, fits[0].cv_accuracy)
        np.testing.assert_array_equal(fit.classifier["svm"].coef_, fits[0].classifier["svm"].coef_)


def test_float16_near_its_end_and_constant_columns_are_fine() -> None:
    labels = labels_of(2, 12)
    features = np.ones((24, 3), dtype=np.float16)
    features[:, 1] = np.where(labels == 1, 65504, -65504)  # squares overflow float16 and sums do, too
    fit = fit_svm(features, labels, CONFIG)
    assert fit.predict(features).tolist() == labels.tolist()
    assert np.isfinite(fit.classifier.coef_).all()


def test_ticks_once_a_fit() -> None:
    labels = labels_of(3, 6)
    for solver in SOLVERS:
        for components in (None, 3):
            ticks: list[float] = []
            config = dataclasses.replace(CONFIG, solver=solver, components=components)
            fit_svm(blobs(labels), labels, config, tick=ticks.append)
            assert sum(ticks) == pytest.approx(13)
            assert config.fits == 13


@pytest.mark.parametrize(
    ("labels", "words"),
    [([0, 0, 0, 0], "two classes"), ([0, 0, 0, 0, 1, 1], "3 folds need .* smallest has 2")],
)
def test_refuses_one_class_and_classes_smaller_than_the_folds(labels: list[int], words: str) -> None:
    array = np.array(labels, dtype=np.int32)
    with pytest.raises(EvaluationError, match=words):
        fit_svm(blobs(array), array, CONFIG)


def test_a_large_pca_keeps_the_accuracy_of_an_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the components come from an iteration, every fold's too."""
    monkeypatch.setattr("l2a_transfer.svm.fitting.EXACT_PCA", 20)
    labels = labels_of(3, 30)
    features = blobs(labels, dim=60, spread=3.0, dtype="float64") * np.linspace(1, 3, 60)
    config = SvmConfig(GRID, folds=3, seed=4, components=8, decades=0)
    found = fit_svm(features, labels, config)
    assert type(found.classifier["pca"]).__name__ == "LeadingComponents"
    monkeypatch.undo()
    exact = fit_svm(features, labels, config)
    assert type(exact.classifier["pca"]).__name__ == "PCA"
    assert (found.components, found.fold_components) == (8, 8)
    np.testing.assert_allclose(found.cv_accuracy, exact.cv_accuracy, atol=0.05)
    assert (found.predict(features) == exact.predict(features)).mean() > 0.97
