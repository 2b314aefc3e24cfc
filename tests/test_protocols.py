"""Which rows train and test: as written in docs/protocols.md, the same for every file of a set, refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from l2a_transfer.errors import EvaluationError, UnknownNameError
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.protocols import Plan, plan_splits
from l2a_transfer.evaluation.results import EvalConfig
from l2a_transfer.evaluation.splits import check_folds
from l2a_transfer.features.store.reader import FeatureSet
from l2a_transfer.svm.config import SvmConfig
from l2a_transfer.svm.fitting import fit_svm
from tests.feature_files import blobs, feature_set, halves, labels_of, save


def plan(features: FeatureSet, protocol: str = "auto", draws: int | None = None, seed: int = 0) -> Plan:
    return plan_splits(features, protocol, draws=draws, seed=seed)


def unsplit(classes: int = 3, each: int = 10, **given: object) -> FeatureSet:
    labels = labels_of(classes, each)
    return feature_set(labels, split=np.zeros(len(labels), np.uint8), splits=("all",), **given)  # type: ignore[arg-type]


def shuffled(features: FeatureSet, seed: int = 5) -> FeatureSet:
    """The same images in another row order."""
    order = np.random.default_rng(seed).permutation(len(features.labels))
    return dataclasses.replace(
        features,
        features=features.features[order],
        labels=features.labels[order],
        ids=tuple(features.ids[row] for row in order),
        split=features.split[order],
    )


def ids_of(features: FeatureSet, rows: tuple[int, ...]) -> set[str]:
    return {features.ids[row] for row in rows}


def test_official_is_the_sets_own_split() -> None:
    features = feature_set(labels_of(2, 4))
    found = plan(features)
    assert (found.protocol, found.splits[0].seed) == ("official", None)
    assert "train and a test split" in found.why
    assert (found.splits[0].train, found.splits[0].test) == ((0, 1, 2, 3), (4, 5, 6, 7))


def test_official_leaves_other_splits_out_and_says_so() -> None:
    split = np.array([2, 2, 1, 1, 0, 0, 2, 2], dtype=np.uint8)
    found = plan(feature_set(labels_of(2, 4), split=split, splits=("val", "test", "train")))
    assert (found.splits[0].train, found.splits[0].test) == ((0, 1, 6, 7), (2, 3))
    assert found.notes == ("left out: 2 rows of split val",)


def test_stratified_keeps_30_percent_of_each_class_for_the_test() -> None:
    labels = np.repeat(np.arange(3, dtype=np.int32), [10, 5, 2])
    features = feature_set(labels, split=np.zeros(17, np.uint8), splits=("all",))
    found = plan(features)
    split = found.splits[0]
    assert (found.protocol, split.seed) == ("stratified", 0)
    assert np.bincount(labels[list(split.test)]).tolist() == [3, 2, 1]
    assert sorted(split.train + split.test) == list(range(17))


def test_caltech_30_has_30_to_train_at_most_50_to_test_and_no_background() -> None:
    labels = np.repeat(np.arange(4, dtype=np.int32), [100, 31, 60, 90])
    features = feature_set(
        labels,
        data="caltech101",
        classes=("BACKGROUND_Google", "ant", "bass", "wrench"),
        split=np.zeros(len(labels), np.uint8),
        splits=("all",),
    )
    found = plan(features)
    assert (found.protocol, len(found.splits)) == ("caltech-30", 10)
    assert found.notes == ("left out: 100 rows of the background class BACKGROUND_Google",)
    for split in found.splits:
        assert np.bincount(labels[list(split.train)], minlength=4).tolist() == [0, 30, 30, 30]
        assert np.bincount(labels[list(split.test)], minlength=4).tolist() == [0, 1, 30, 50]
        assert not set(split.train) & set(split.test)


def test_draws_differ_and_the_first_ones_do_not_depend_on_how_many_there_are() -> None:
    features = unsplit()
    one, four = plan(features, draws=1).splits, plan(features, draws=4).splits
    assert one == four[:1]
    assert len({split.sha256 for split in four}) == 4
    assert plan(features, seed=1).splits[0].test != one[0].test
    assert plan(features, draws=4).splits == four


@pytest.mark.parametrize("protocol", ["stratified", "official"])
def test_files_of_one_set_get_one_split_whatever_the_model_and_the_row_order(protocol: str) -> None:
    features = feature_set(labels_of(3, 10))
    other = shuffled(dataclasses.replace(features, features=blobs(features.labels, dim=9, seed=1)))
    one, two = plan(features, protocol).splits[0], plan(other, protocol).splits[0]
    assert one.sha256 == two.sha256
    assert ids_of(features, one.train) == ids_of(other, two.train)
    assert ids_of(features, one.test) == ids_of(other, two.test)


def test_the_digest_changes_when_one_image_changes_sides() -> None:
    features = feature_set(labels_of(2, 4))
    moved = features.split.copy()
    moved[[0, 4]] = moved[[4, 0]]
    assert plan(features).splits[0].sha256 != plan(dataclasses.replace(features, split=moved)).splits[0].sha256


def test_files_with_other_images_of_one_set_are_not_put_in_one_table(tmp_path: Path) -> None:
    one = save(tmp_path / "a.h5", unsplit(each=10, model="a"))
    two = save(tmp_path / "b.h5", unsplit(each=12, model="b"))
    with pytest.raises(EvaluationError, match=r"b\.h5: contains other images or labels of toy than .*a\.h5"):
        evaluate_files([one, two], EvalConfig())


def test_the_digest_changes_with_a_label() -> None:
    features = feature_set(labels_of(2, 4))
    labels = features.labels.copy()
    labels[[0, 1]] = labels[[1, 0]]
    assert plan(features).splits[0].sha256 != plan(dataclasses.replace(features, labels=labels)).splits[0].sha256


@pytest.mark.parametrize("poison", ["labels permuted", "labels constant", "features shifted"])
def test_test_rows_can_change_neither_c_nor_the_coefficients(poison: str, tmp_path: Path) -> None:
    labels = labels_of(3, 20)
    clean = feature_set(labels, blobs(labels, spread=2.0))
    test = clean.split == 1
    features, bad = clean.features.copy(), labels.copy()
    if poison == "labels permuted":
        bad[test] = np.random.default_rng(0).permutation(bad[test])
    elif poison == "labels constant":
        bad[test] = 0
    else:
        features[test] = 1000 * features[test] + 7
    poisoned = dataclasses.replace(clean, features=features, labels=bad)
    rows, models = [], []
    for name, content in (("clean", clean), ("poisoned", poisoned)):
        results = evaluate_files([save(tmp_path / f"{name}.h5", content)], EvalConfig())
        rows.append(results.rows[0])
        train = list(results.splits[0].train)
        models.append(fit_svm(content.features[train], content.labels[train], SvmConfig(EvalConfig().c_grid, 5)))
    assert (rows[0].C, rows[0].cv_accuracy_draws) == (rows[1].C, rows[1].cv_accuracy_draws)
    assert rows[0].C == (models[0].C,)
    np.testing.assert_array_equal(models[0].classifier.coef_, models[1].classifier.coef_)
    assert rows[0].accuracy != rows[1].accuracy


def test_the_svm_is_given_the_training_rows_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every array that reaches the fit is the split's training part, bit for bit."""
    from l2a_transfer.evaluation.probes import svm

    seen = []

    def spy(features: np.ndarray, labels: np.ndarray, config: SvmConfig, **given: object) -> object:
        seen.append((features.copy(), labels.copy()))
        return fit_svm(features, labels, config)

    monkeypatch.setattr(svm, "fit_svm", spy)
    content = unsplit()
    results = evaluate_files([save(tmp_path / "a.h5", content)], EvalConfig(draws=2))
    for split, (features, labels) in zip(results.splits, seen, strict=True):
        np.testing.assert_array_equal(features, content.features[list(split.train)])
        np.testing.assert_array_equal(labels, content.labels[list(split.train)])


def bad(**given: object) -> FeatureSet:
    return feature_set(labels_of(3, 10), **given)  # type: ignore[arg-type]


def one_class() -> FeatureSet:
    return feature_set(np.zeros(8, np.int32), classes=("cat",), split=halves(8, 1))


def unlabelled(protocol_split: bool) -> FeatureSet:
    features = bad() if protocol_split else unsplit()
    labels = features.labels.copy()
    labels[[4, 9]] = -1
    return dataclasses.replace(features, labels=labels)


def one_image() -> FeatureSet:
    labels = np.array([0] * 8 + [1] * 8 + [2], dtype=np.int32)
    return feature_set(labels, classes=("cat", "dog", "emu"), split=np.zeros(17, np.uint8), splits=("all",))


def unseen() -> FeatureSet:
    features = feature_set(labels_of(3, 10), classes=("cat", "dog", "emu"))
    return dataclasses.replace(features, split=np.where(features.labels == 2, 1, features.split).astype(np.uint8))


def not_finite(value: float, dtype: str) -> FeatureSet:
    features = bad()
    array = features.features.astype(dtype)
    array[7, 2] = value
    return dataclasses.replace(features, features=array)


@pytest.mark.parametrize(
    ("features", "protocol", "words"),
    [
        (unlabelled(False), "auto", r"2 of 30 images of toy are unlabelled \(label -1\), the first is 'img/00004"),
        (unlabelled(True), "auto", r"2 of 30 images of toy are unlabelled"),
        (one_class(), "auto", "at least two classes to train on, got only 'cat'"),
        (one_class(), "stratified", "at least two classes to train on, got only 'cat'"),
        (one_image(), "auto", r"stratified needs at least 2 images of each class; too few in 'emu' \(1\)"),
        (unsplit(each=30), "caltech-30", r"at least 31 images of each class; too few in 'class 0' \(30\)"),
        (unseen(), "official", "no training images of 'emu'"),
        (unsplit(), "official", "needs the splits train and test, no row is in train or test"),
        (
            not_finite(float("nan"), "float32"),
            "auto",
            "NaN or infinite features in 1 of 30 rows, the first is 'img/",
        ),
        (not_finite(float("inf"), "float16"), "auto", "float16 overflows above 65504: extract as float32"),
    ],
)
def test_refused_with_path_and_reason(features: FeatureSet, protocol: str, words: str) -> None:
    with pytest.raises(EvaluationError, match=rf"^toy\.h5: .*{words}.*"):
        plan(features, protocol)


def test_a_class_with_fewer_training_images_than_folds_is_named() -> None:
    labels = np.repeat(np.arange(2, dtype=np.int32), [20, 5])
    features = feature_set(labels, classes=("cat", "dog"), split=np.zeros(25, np.uint8), splits=("all",))
    split = plan(features).splits[0]
    check_folds(features, split, 3)
    with pytest.raises(EvaluationError, match=r"5 folds need 5 training images .* 'dog' \(3\); use `folds=3`"):
        check_folds(features, split, 5)


def test_a_class_of_the_list_without_images_is_fine() -> None:
    features = feature_set(labels_of(3, 10), classes=("a", "b", "c", "never seen"))
    assert len(plan(features, "stratified").splits[0].test) == 9


def test_drawing_the_official_split_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"toy\.h5: .* cannot be drawn 3 times; omit `draws`"):
        plan(bad(), "auto", draws=3)
    with pytest.raises(ValueError, match="draws must be 1 with protocol official"):
        EvalConfig(protocol="official", draws=3)


def test_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'stratified'"):
        plan(bad(), "stratifyed")


def test_unknown_label_is_refused() -> None:
    features = bad()
    with pytest.raises(EvaluationError, match="label 2, but there are only 2 classes"):
        plan(dataclasses.replace(features, meta=dataclasses.replace(features.meta, classes=("a", "b"))))


def test_low_shot_draws_k_of_each_class_nested_and_tests_on_the_same_images() -> None:
    content = feature_set(labels_of(4, 40))  # 20 a class to train, 20 to test
    found = plan_splits(content, "low-shot", draws=3, seed=1, shots=(4, 1, 2))
    assert [(k, len(own)) for k, own in found.groups()] == [(1, 3), (2, 3), (4, 3)]
    official = np.flatnonzero(content.split == 1).tolist()
    for split in found.splits:
        assert list(split.test) == official
        assert np.bincount(content.labels[list(split.train)]).tolist() == [split.shots] * 4
        assert split.shared == pytest.approx((split.shots or 0) / 20)
    by_k = dict(found.groups())
    for one, two, four in zip(by_k[1], by_k[2], by_k[4], strict=True):
        assert set(one.train) < set(two.train) < set(four.train)
    assert len({split.train for split in by_k[4]}) == 3
    assert found.notes == ("tested on the set's own test split",)


def test_low_shot_without_a_test_split_holds_out_one_part_for_all_draws() -> None:
    labels = labels_of(3, 20)
    content = feature_set(labels, split=np.zeros(60, np.uint8), splits=("all",))
    found = plan_splits(content, "low-shot", draws=2, seed=0, shots=(1, 8, 16))
    assert {len(split.test) for split in found.splits} == {18}
    assert len({split.test for split in found.splits}) == 1
    assert found.notes == (
        "tested on 30 % of each class, drawn once",
        "left out: k = 16, because the smallest class has 14 training images",
    )
    assert not any(set(split.train) & set(split.test) for split in found.splits)
    with pytest.raises(
        EvaluationError, match="low-shot needs 16 training images of each class, but the smallest has 14"
    ):
        plan_splits(content, "low-shot", draws=2, seed=0, shots=(16,))


def test_low_shot_rows_fix_c_at_one_image_and_use_k_folds(tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5", feature_set(labels_of(3, 20)))
    results = evaluate_files([path], EvalConfig(protocol="low-shot", draws=2, shots=(1, 2, 8), decades=0))
    one, two, eight = results.rows
    assert [(r.shots, r.n_train, r.draws) for r in results.rows] == [(1, 3, 2), (2, 6, 2), (8, 24, 2)]
    assert (one.C, one.fits, one.cv_accuracy_draws) == ((0.01, 0.01), 2, ((), ()))
    assert "C = 0.01 is fixed" in one.notes[-1]
    assert (two.fits, eight.fits) == (2 * (4 * 2 + 1), 2 * (4 * 5 + 1))
    assert one.interval == "corrected-t"
    assert [results.splits[k].shots for r in results.rows for k in r.splits] == [1, 1, 2, 2, 8, 8]
