"""Protocols over domains, on domains whose answers are known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from l2a_transfer.errors import ArgumentError, EvaluationError, UnknownNameError
from l2a_transfer.evaluation.evaluate import evaluate, evaluate_files
from l2a_transfer.evaluation.probes import svm
from l2a_transfer.evaluation.protocols import plan_splits
from l2a_transfer.evaluation.results import EvalConfig, EvalResults
from tests.domain_files import CLASSES, FOUR, agreement, domain_features, four_domains, save_domains
from tests.feature_files import feature_set, labels_of, save

ONE_C = (0.01,)


@pytest.fixture
def four(tmp_path: Path) -> Path:
    return save_domains(tmp_path / "four.h5", four_domains())


def by_place(results: EvalResults) -> dict[str, float]:
    return {row.data: row.mean_class_accuracy for row in results.rows}


def test_all_pairs_have_the_known_accuracies_and_drops(four: Path) -> None:
    results = evaluate(four, protocol="cross-domain", c_grid=ONE_C)
    found = by_place(results)
    assert len(found) == 16
    assert all(found[f"within {name}"] == 1 for name in FOUR)
    pairs = [(a, b) for a in FOUR for b in FOUR if a != b]
    for a, b in pairs:
        assert found[f"{a} → {b}"] == agreement(a, b), (a, b)
    assert {drop.data: drop.drop for drop in results.drops} == {f"{a} → {b}": 1 - agreement(a, b) for a, b in pairs}
    assert {round(1 - agreement(a, b), 2) for a, b in pairs} == {0, 0.5, 0.75, 1}
    for drop in results.drops:
        assert drop.within == f"within {drop.data.split(' → ')[1]}"
        assert drop.ci95[0] <= drop.drop <= drop.ci95[1]
        assert drop.p_adjusted == min(1, 12 * drop.p)
        assert (drop.ci95[0] > 0) == (drop.p < 0.05)


def test_a_row_across_is_tested_on_the_images_of_the_row_within(four: Path) -> None:
    results = evaluate(four, protocol="cross-domain", c_grid=ONE_C)
    tests = {row.data: results.splits[row.splits[0]] for row in results.rows}
    for place in results.domains:
        split = tests[place.data]
        assert not set(split.train) & set(split.test)
        assert split.test == tests[place.within or place.data].test
        assert (place.drawn, split.seed) == (tuple(dict.fromkeys((*place.sources, place.target))), 0)


def test_one_file_a_domain_gives_the_same_as_one_file_of_all(four: Path, tmp_path: Path) -> None:
    whole = by_place(evaluate(four, protocol="cross-domain", c_grid=ONE_C))
    apart = []
    for name in FOUR:
        made = four_domains(names=(name,), data=name)
        made = dataclasses.replace(made, domain=None, meta=dataclasses.replace(made.meta, domains=()))
        apart.append(save_domains(tmp_path / f"{name}.h5", made))
    results = evaluate(apart, protocol="cross-domain", c_grid=ONE_C)
    assert by_place(results) == whole
    assert {row.file for row in results.rows} == {"plain.h5 + shifted.h5 + swapped.h5 + turned.h5"}
    assert len({row.line for row in results.rows}) == 1


def test_sources_and_targets_choose_the_pairs(four: Path) -> None:
    results = evaluate(four, protocol="cross-domain", c_grid=ONE_C, source=["plain"], target=["turned", "plain"])
    assert list(by_place(results)) == ["plain → turned", "within turned"]
    assert by_place(evaluate(four, protocol="cross-domain", c_grid=ONE_C, source="plain", target="turned")) == {
        "plain → turned": 0,
        "within turned": 1,
    }


def test_leave_one_domain_out_is_tested_on_the_domain_left_out(tmp_path: Path) -> None:
    names = ("plain", "shifted", "turned")
    made = four_domains(names=names)
    results = evaluate(save_domains(tmp_path / "f.h5", made), protocol="leave-one-domain-out")
    found = by_place(results)
    assert set(found) == {
        "plain + shifted → turned",
        "plain + turned → shifted",
        "shifted + turned → plain",
        *(f"within {name}" for name in names),
    }
    assert found["plain + shifted → turned"] == 0
    assert made.domain is not None
    for place, row in zip(results.domains, results.rows, strict=True):
        split = results.splits[row.splits[0]]
        assert {names[k] for k in made.domain[list(split.train)]} == set(place.sources)
        assert {names[k] for k in made.domain[list(split.test)]} == {place.target}
        assert split.by_domain == bool(place.within)
        assert place.validation == (
            "one source domain held out after the other" if place.within else "stratified folds"
        )


@pytest.mark.parametrize("solver", ["batched", "liblinear"])
def test_c_is_chosen_by_leaving_out_each_source_as_scikit_learn_does(tmp_path: Path, solver: str) -> None:
    made = four_domains(names=("plain", "shifted", "swapped"), spread=0.6, each=20)
    grid = (1e-3, 1e-2, 1e-1, 1.0)
    results = evaluate(
        save_domains(tmp_path / "f.h5", made),
        protocol="leave-one-domain-out",
        target=["shifted"],
        c_grid=grid,
        decades=0,
        solver=solver,
    )
    row = results.rows[0]
    assert "C chosen with one source domain held out after the other, each of which counts alike" in row.notes
    assert made.domain is not None
    train = list(results.splits[row.splits[0]].train)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LinearSVC(dual=False, tol=1e-8, max_iter=10000)),
        {"linearsvc__C": list(grid)},
        cv=LeaveOneGroupOut(),
    )
    search.fit(made.features[train].astype(np.float64), made.labels[train], groups=made.domain[train])
    assert (search.best_params_["linearsvc__C"],) == row.C
    assert row.fits == 4 * 2 + 1


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the chooser was given and what it gave, of every row."""
    seen: list[dict[str, Any]] = []
    fit: Callable[..., Any] = svm.fit_svm

    def fit_svm(features: Any, labels: Any, *args: Any, groups: Any = None, **given: Any) -> Any:
        found = fit(features, labels, *args, groups=groups, **given)
        seen.append({"features": np.array(features), "labels": np.array(labels), "groups": groups, "fit": found})
        return found

    monkeypatch.setattr(svm, "fit_svm", fit_svm)
    return seen


@pytest.mark.parametrize("protocol", ["cross-domain", "leave-one-domain-out"])
def test_target_labels_and_pictures_change_nothing_that_is_chosen(
    tmp_path: Path, recorded: list[dict[str, Any]], protocol: str
) -> None:
    """The rows of the target are permuted and moved; C, weights and standardisation must be the same, to the bit."""
    made = four_domains(spread=0.6)
    assert made.domain is not None
    target = np.flatnonzero(made.domain == list(FOUR).index("turned"))
    labels, features = made.labels.copy(), made.features.copy()
    rng = np.random.default_rng(1)
    labels[target] = rng.permutation(labels[target])
    features[target] = 7 + 3 * rng.permutation(features[target])
    asked = {"protocol": protocol, "target": ["turned"]}
    first = evaluate(save_domains(tmp_path / "a.h5", made), **asked)
    before = recorded.copy()
    recorded.clear()
    second = evaluate(save_domains(tmp_path / "b.h5", made, labels=labels, features=features), **asked)
    across = [k for k, place in enumerate(first.domains) if place.within]
    assert across
    for k in across:
        assert second.rows[k].C == first.rows[k].C
        assert second.rows[k].cv_accuracy_draws == first.rows[k].cv_accuracy_draws
        one, other = before[k]["fit"].classifier, recorded[k]["fit"].classifier
        assert np.array_equal(one.coef_, other.coef_)
        assert np.array_equal(one.intercept_, other.intercept_)
        assert np.array_equal(before[k]["features"], recorded[k]["features"])
        assert second.rows[k].accuracy != first.rows[k].accuracy  # the test rows did change
    assert recorded[-1]["features"].max() > 7 > max(recorded[k]["features"].max() for k in across)


def test_models_are_compared_on_the_same_images_of_the_target(four: Path, tmp_path: Path) -> None:
    other = save_domains(tmp_path / "noisy.h5", four_domains(model="noisy", spread=1.5))
    results = evaluate([four, other], protocol="cross-domain", c_grid=ONE_C, source=["plain"], target=["shifted"])
    assert [(c.data, c.test) for c in results.comparisons] == [
        ("plain → shifted", "permutation"),
        ("within shifted", "permutation"),
    ]
    assert results.comparisons[0].difference > 0.3
    assert [drop.label for drop in results.drops] == ["toy-model", "noisy"]


def pair(tmp_path: Path, a: tuple[str, ...], b: tuple[str, ...]) -> list[Path]:
    """A file for each of two domains, `a` and `b`, with these classes."""
    paths = []
    for name, classes in (("a", a), ("b", b)):
        labels, features = domain_features(range(4), each=12)
        keep = labels < len(classes)
        made = feature_set(
            labels[keep], features[keep], data=name, classes=classes,
            split=np.zeros(keep.sum(), dtype=np.uint8), splits=("all",),
        )  # fmt: skip
        paths.append(save(tmp_path / f"{name}.h5", made))
    return paths


def test_classes_are_matched_by_name_and_the_others_listed(tmp_path: Path) -> None:
    results = evaluate(pair(tmp_path, ("ant", "bee", "cow", "dog"), CLASSES), protocol="cross-domain", c_grid=ONE_C)
    place = results.domains[0]
    assert (place.classes, place.left_out) == (("ant", "bee", "dog"), (("a", ("cow",)), ("b", ("cat",))))
    assert "left out, because not all have them: 1 class of a: cow" in results.rows[0].notes
    assert by_place(results) == {"a → b": 1, "b → a": 1, "within b": 1, "within a": 1}


def test_a_mapping_says_which_class_is_which(tmp_path: Path) -> None:
    files = pair(tmp_path, ("ameise", "biene", "katze", "hund"), CLASSES)
    mapping = dict(zip(("ameise", "biene", "katze", "hund"), CLASSES, strict=True))
    results = evaluate(files, protocol="cross-domain", c_grid=ONE_C, class_map=mapping)
    assert results.domains[0].classes == CLASSES
    assert by_place(results)["a → b"] == 1
    several = evaluate(files, protocol="cross-domain", c_grid=ONE_C, class_map=mapping | {"hund": "cat"})
    assert several.domains[0].classes == ("ant", "bee", "cat")  # two classes of a count as one


def test_within_has_the_classes_of_its_pair(tmp_path: Path) -> None:
    made = four_domains()
    assert made.domain is not None
    keep = ~((made.domain == 0) & (made.labels == 3))
    names = {"features": made.features[keep], "labels": made.labels[keep], "split": made.split[keep]}
    ids = tuple(name for name, kept in zip(made.ids, keep, strict=True) if kept)
    path = save_domains(tmp_path / "f.h5", made, ids=ids, domain=made.domain[keep], **names)
    results = evaluate(path, protocol="cross-domain", c_grid=ONE_C, target=["shifted"])
    within = {place.data: place.within for place in results.domains}
    assert within["plain → shifted"] == "within shifted, classes of plain → shifted"
    assert within["swapped → shifted"] == within["turned → shifted"] == "within shifted, classes of swapped → shifted"
    tested = {row.data: row.n_classes for row in results.rows}
    assert (tested[within["plain → shifted"]], tested[within["turned → shifted"]]) == (3, 4)


def test_fewer_than_two_common_classes_are_refused_with_both_lists(tmp_path: Path) -> None:
    files = pair(tmp_path, ("ant", "bug", "cow"), CLASSES)
    with pytest.raises(EvaluationError, match=r"a and b share 1 class, .*a has ant, bug, cow; b has ant, bee, cat"):
        evaluate(files, protocol="cross-domain")


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        (
            {"bug": "bees"},
            "class in class_map must be one of ant, bug, cow, bee, cat, dog; got 'bees'; did you mean 'bee'",
        ),
        ({"bugs": "bee"}, "got 'bugs'; did you mean 'bug'"),
        ({"bug": "cow", "cow": "bee"}, "'bug' is mapped to 'cow', which is mapped to 'bee'"),
    ],
)
def test_a_mapping_with_unknown_names_is_refused(tmp_path: Path, mapping: dict[str, str], words: str) -> None:
    files = pair(tmp_path, ("ant", "bug", "cow"), CLASSES)
    with pytest.raises((UnknownNameError, ArgumentError)) as error:
        evaluate(files, protocol="cross-domain", class_map=mapping)
    assert words in str(error.value)


def test_a_domain_with_one_class_is_refused(tmp_path: Path) -> None:
    files = pair(tmp_path, ("ant",), CLASSES)
    with pytest.raises(EvaluationError, match=r"the domain a has fewer than two classes .* \(ant\)"):
        evaluate(files, protocol="cross-domain")


def test_protocols_over_domains_need_domains(four: Path, tmp_path: Path) -> None:
    plain = save(tmp_path / "plain.h5", feature_set(labels_of(3, 20)))
    with pytest.raises(EvaluationError, match=r"needs at least three domains.* got 1 domain, toy; extract with `do"):
        evaluate(plain, protocol="leave-one-domain-out")
    with pytest.raises(EvaluationError, match="cross-domain needs at least two domains, got only toy"):
        evaluate(plain, protocol="cross-domain")
    with pytest.raises(ArgumentError, match="needs two sources other than plain, got turned"):
        evaluate(four, protocol="leave-one-domain-out", target=["plain"], source=["turned"])
    with pytest.raises(EvaluationError, match="the cross-domain protocol works across domains and has no split"):
        plan_splits(feature_set(labels_of(3, 20)), "cross-domain", draws=None, seed=0)


def test_a_target_equal_to_the_source_is_refused(four: Path) -> None:
    with pytest.raises(ArgumentError, match="source and target are the same domain, plain; `protocol='within'`"):
        evaluate(four, protocol="cross-domain", source=["plain"], target=["plain"])
    assert list(by_place(evaluate(four, protocol="within", target=["plain"], c_grid=ONE_C))) == ["within plain"]
    with pytest.raises(ArgumentError, match="source is for protocols across domains"):
        evaluate(four, protocol="within", source=["plain"])


def test_unknown_domains_and_settings_of_other_protocols_are_refused(four: Path) -> None:
    with pytest.raises(UnknownNameError, match="source must be one of plain, shifted, swapped, turned; got 'plan'"):
        evaluate(four, protocol="cross-domain", source=["plan"])
    with pytest.raises(
        ArgumentError, match="target requires one of the protocols cross-domain, leave-one-domain-out, within"
    ):
        EvalConfig(target=("plain",))
    with pytest.raises(ArgumentError, match="draws must be 1 with protocol cross-domain"):
        EvalConfig(protocol="cross-domain", draws=3)


def test_models_must_have_the_same_domains_and_images(four: Path, tmp_path: Path) -> None:
    fewer = save_domains(tmp_path / "fewer.h5", four_domains(model="other", names=("plain", "shifted")))
    with pytest.raises(EvaluationError, match="other has no features of swapped, turned, which toy-model has"):
        evaluate_files([four, fewer], EvalConfig(protocol="cross-domain"))
    longer = save_domains(tmp_path / "longer.h5", four_domains(model="other", each=14))
    with pytest.raises(EvaluationError, match="contains other images or labels of "):
        evaluate_files([four, longer], EvalConfig(protocol="cross-domain"))


def test_files_of_one_model_must_have_the_same_columns_and_other_domains(tmp_path: Path) -> None:
    a, b = pair(tmp_path, CLASSES, CLASSES)
    labels, features = domain_features(range(4))
    wide = feature_set(labels, np.hstack([features, features]), data="c", classes=CLASSES)
    with pytest.raises(EvaluationError, match="with different levels, so one SVM cannot be fitted to both"):
        evaluate([a, save(tmp_path / "c.h5", wide)], protocol="cross-domain")
    named = four_domains(names=("plain",), data="c")
    named = dataclasses.replace(named, meta=dataclasses.replace(named.meta, domains=("b",)))
    with pytest.raises(EvaluationError, match="several of its files have a domain called 'b'"):
        evaluate([a, b, save_domains(tmp_path / "d.h5", named)], protocol="cross-domain")


def test_files_of_one_model_must_be_made_in_the_same_way_and_the_card_has_all_of_them(tmp_path: Path) -> None:
    made = {
        name: feature_set(*domain_features(range(4), seed=k), data=name, classes=CLASSES) for k, name in enumerate("ab")
    }
    files = []
    for name, own in made.items():
        (tmp_path / name).mkdir()
        files.append(save(tmp_path / name / "features.h5", own))
    (card,) = evaluate(files, protocol="cross-domain", c_grid=ONE_C).cards.values()
    assert list(card["feature_files"]) == ["a/features.h5", "b/features.h5"]
    for key, value in (("precision", "bf16"), ("preprocess", {**made["b"].meta.preprocess, "size": 64})):
        other = dataclasses.replace(made["b"], meta=dataclasses.replace(made["b"].meta, **{key: value}))
        with pytest.raises(EvaluationError, match=f"with different {key}, so one SVM cannot be fitted to both"):
            evaluate([files[0], save(tmp_path / f"{key}.h5", other)], protocol="cross-domain")
    own = made["b"].meta
    other = dataclasses.replace(
        made["b"], meta=dataclasses.replace(own, fingerprint={**own.fingerprint, "partners": "self"})
    )
    with pytest.raises(EvaluationError, match="with different partners, so one SVM cannot be fitted to both"):
        evaluate([files[0], save(tmp_path / "partners.h5", other)], protocol="cross-domain")


def test_domains_whose_names_make_one_name_of_two_places_are_refused(tmp_path: Path) -> None:
    """a → (b → c) and (a → b) → c: the rows of both stood at one place."""
    made = four_domains()
    meta = dataclasses.replace(made.meta, domains=("a", "b → c", "a → b", "c"))
    path = save_domains(tmp_path / "f.h5", made, meta=meta)
    with pytest.raises(EvaluationError, match="two places the same name, 'a → b → c'; use domain names without"):
        evaluate(path, protocol="cross-domain")
    assert evaluate(path, protocol="cross-domain", source=["a"], c_grid=ONE_C).domains


def test_own_train_and_test_splits_are_the_parts(tmp_path: Path) -> None:
    made = four_domains(names=("plain", "shifted"))
    split = np.arange(len(made.labels)) // 4 % 3  # in turn train, test and extra
    meta = dataclasses.replace(made.meta, splits=("train", "test", "extra"))
    results = evaluate(
        save_domains(tmp_path / "f.h5", made, split=split, meta=meta), protocol="cross-domain", c_grid=ONE_C
    )
    own = results.splits[results.rows[0].splits[0]]
    assert own.seed is None
    assert set(split[list(own.train)]) == {0}
    assert set(split[list(own.test)]) == {1}
    assert "left out: 16 rows of plain in splits other than train and test" in results.rows[0].notes


def test_the_document_has_places_and_drops(four: Path) -> None:
    found = json.loads(json.dumps(evaluate(four, protocol="cross-domain", c_grid=ONE_C).document()))
    assert (len(found["domains"]), len(found["drops"])) == (16, 12)
    assert found["domains"][0]["sources"] == ["plain"]
    assert "domains" not in evaluate(four, protocol="stratified", c_grid=ONE_C).document()
