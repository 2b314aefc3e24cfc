"""Several probes in the protocols over domains: what each chooses on, and how the report tells them apart."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from l2a_transfer.data.readers import open_source
from l2a_transfer.evaluation import measure_row
from l2a_transfer.evaluation.evaluate import evaluate
from l2a_transfer.evaluation.misclassified import misclassified
from l2a_transfer.evaluation.probes import knn
from l2a_transfer.evaluation.probes.registry import PROBES, Probe
from l2a_transfer.evaluation.results import EvalResults
from l2a_transfer.report import domains as shown
from l2a_transfer.report.latex import results_latex
from l2a_transfer.report.predictions import predictions_csv
from l2a_transfer.report.write import write_report
from l2a_transfer.svm.config import SvmConfig
from tests.conftest import assert_fails, l2a
from tests.domain_files import CLASSES, FOUR, agreement, four_domains, save_domains
from tests.feature_files import blobs, feature_set, labels_of, save
from tests.test_domains import ONE_C

ALL = ("svm", "logistic", "knn", "ncm")
THREE = ("plain", "shifted", "turned")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> EvalResults:
    folder = tmp_path_factory.mktemp("domains")
    files = [
        save_domains(folder / "good.h5", four_domains(model="good")),
        save_domains(folder / "noisy.h5", four_domains(model="noisy", spread=1.0)),
    ]
    return evaluate(files, protocol="cross-domain", probes=ALL, c_grid=ONE_C, folds=2, source="plain")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every probe was given to fit and choose on, row by row of the table."""
    seen: list[dict[str, Any]] = []

    def watched(probe: Probe) -> Probe:
        def fit(features: Any, labels: Any, config: SvmConfig, tick: Any, groups: Any) -> Any:
            seen.append({"features": np.array(features), "labels": np.array(labels), "groups": groups})
            return probe.fit(features, labels, config, tick, groups)

        return dataclasses.replace(probe, fit=fit)

    found = {name: watched(PROBES[name]) for name in ALL}
    monkeypatch.setattr(measure_row, "PROBES", SimpleNamespace(find=found.__getitem__))
    return seen


@pytest.mark.parametrize("protocol", ["cross-domain", "leave-one-domain-out"])
def test_no_probe_can_choose_on_target_rows(tmp_path: Path, given: list[dict[str, Any]], protocol: str) -> None:
    """Labels of the target are permuted and its features moved: nothing that a probe is given or chooses changes."""
    made = four_domains(spread=0.6)
    assert made.domain is not None
    target = np.flatnonzero(made.domain == list(FOUR).index("turned"))
    labels, features = made.labels.copy(), made.features.copy()
    rng = np.random.default_rng(1)
    labels[target] = rng.permutation(labels[target])
    features[target] = 7 + 3 * rng.permutation(features[target])
    asked = {"protocol": protocol, "target": ["turned"], "probes": ALL, "folds": 2, "logme": True}
    first = evaluate(save_domains(tmp_path / "a.h5", made), **asked)
    before = given.copy()
    given.clear()
    second = evaluate(save_domains(tmp_path / "b.h5", made, labels=labels, features=features), **asked)
    assert len(before) == len(given) == len(first.rows) == len(ALL) * len(first.domains)
    within = {place.data: place.within for place in first.domains}
    across = [k for k, row in enumerate(first.rows) if within[row.data]]
    assert {first.rows[k].probe for k in across} == set(ALL)
    for k in across:
        one, other = first.rows[k], second.rows[k]
        assert (one.C, one.chosen, one.cv_accuracy_draws, one.logme) == (
            other.C,
            other.chosen,
            other.cv_accuracy_draws,
            other.logme,
        )
        assert np.array_equal(before[k]["features"], given[k]["features"])
        assert np.array_equal(before[k]["labels"], given[k]["labels"])
        train = list(first.splits[one.splits[0]].train)
        assert not set(train) & set(target.tolist())
        assert np.array_equal(before[k]["features"], made.features[train])
        groups = given[k]["groups"]
        expected = made.domain[train] if protocol == "leave-one-domain-out" else None
        assert (groups is None) if expected is None else np.array_equal(groups, expected)
        assert one.accuracy != other.accuracy  # the test rows did change
    inner = [k for k, row in enumerate(first.rows) if not within[row.data]]
    assert all(not np.array_equal(before[k]["features"], given[k]["features"]) for k in inner)


def test_logistic_regression_holds_out_each_source_as_scikit_learn_does(tmp_path: Path) -> None:
    made = four_domains(names=("plain", "shifted", "swapped"), spread=0.6, each=20)
    grid = (1e-3, 1e-2, 1e-1, 1.0)
    path = save_domains(tmp_path / "f.h5", made)
    asked = {"protocol": "leave-one-domain-out", "target": ["shifted"], "c_grid": grid, "decades": 0}
    results = evaluate(path, probes=("logistic",), **asked)
    row = results.rows[0]
    assert "hyper-parameters chosen with one source domain held out after the other, each of which counts alike" in (
        row.notes
    )
    assert made.domain is not None
    train = list(results.splits[row.splits[0]].train)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": list(grid)},
        cv=LeaveOneGroupOut(),
    )
    search.fit(made.features[train].astype(np.float64), made.labels[train], groups=made.domain[train])
    assert (search.best_params_["logisticregression__C"],) == row.C
    assert row.fits == 4 * 2 + 1


def test_nearest_neighbours_hold_out_each_source_and_each_counts_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large domain and two small ones want different k: what counts is the mean of their shares."""
    monkeypatch.setattr(knn, "NEIGHBOURS", (1, 3, 5))
    differs = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        groups = np.repeat([4, 7, 9], [60, 12, 12])
        y = (np.arange(len(groups)) % 2).astype(np.int32)
        X = rng.normal(size=(len(groups), 3)) + 0.9 * y[:, None] + 0.4 * rng.normal(size=(10, 3))[groups]
        config = SvmConfig((0.1,), 3, decades=0, device="cpu")
        found = PROBES["knn"].fit(X, y, config, lambda n: None, groups)
        means, sums = {}, {}
        for metric in knn.METRICS:
            for k in knn.NEIGHBOURS:
                shares = []
                for train, test in LeaveOneGroupOut().split(X, y, groups):
                    model = make_pipeline(StandardScaler(), KNeighborsClassifier(k, metric=metric, algorithm="brute"))
                    shares.append((model.fit(X[train], y[train]).predict(X[test]) == y[test], len(test)))
                means[f"k = {k}, {metric}"] = round(float(np.mean([own.mean() for own, _ in shares])), 9)
                sums[f"k = {k}, {metric}"] = sum(int(own.sum()) for own, _ in shares)
        assert found.chosen == max(means, key=lambda name: means[name])
        assert found.fits == 4
        differs += max(sums, key=lambda name: sums[name]) != found.chosen
    assert differs  # else counting rows would do


def test_what_is_chosen_and_how_is_said_for_the_probes_that_ran(tmp_path: Path) -> None:
    path = save_domains(tmp_path / "f.h5", four_domains(names=THREE))

    def validation(*probes: str) -> str:
        asked = {"protocol": "leave-one-domain-out", "target": ["plain"], "c_grid": ONE_C, "folds": 2}
        return evaluate(path, probes=probes, **asked).domains[0].validation

    assert validation("svm") == "none, because one C was given"
    assert validation("ncm") == "none, because there is nothing to choose"
    assert validation("svm", "knn") == "one source domain held out after the other"


@pytest.mark.slow
def test_each_probe_has_its_own_drops_all_adjusted_together(results: EvalResults) -> None:
    pairs = [(f"plain → {b}", 1 - agreement("plain", b)) for b in FOUR if b != "plain"]
    good = [drop for drop in results.drops if drop.label == "good"]
    assert [(drop.data, drop.probe) for drop in good] == [(data, probe) for data, _ in pairs for probe in ALL]
    for drop in good:
        assert drop.drop == pytest.approx(dict(pairs)[drop.data])
    assert len(results.drops) == 2 * 3 * 4
    assert all(drop.p_adjusted == min(1, 24 * drop.p) for drop in results.drops)


def test_all_comparisons_of_all_probes_are_one_family(results: EvalResults) -> None:
    assert len(results.comparisons) == 6 * 4
    assert {c.comparisons for c in results.comparisons} == {24}
    assert {(c.a, c.b) for c in results.comparisons} == {("good", "noisy")}


def test_a_verdict_names_the_domains_and_the_protocol(results: EvalResults, tmp_path: Path) -> None:
    verdicts = {(c.data, c.probe): c.verdict for c in results.comparisons}
    assert verdicts["within turned", "svm"].startswith(
        "good is better than noisy on the domain turned, fitted on training images of the same domain (within) ("
    )
    assert (
        " on the domain shifted, fitted on plain (cross-domain) by the probe knn ("
        in (verdicts["plain → shifted", "knn"])
    )
    assert not any("on within" in text for text in verdicts.values())
    files = [
        save_domains(tmp_path / f"{model}.h5", four_domains(model=model, spread=spread))
        for model, spread in (("good", 0.05), ("noisy", 1.0))
    ]
    left_out = evaluate(files, protocol="leave-one-domain-out", c_grid=ONE_C, target=["shifted"])
    (verdict, *_) = [c.verdict for c in left_out.comparisons if "+" in c.data]
    assert " on the domain shifted, fitted on plain, swapped and turned (leave-one-domain-out) " in verdict


def test_within_the_classes_of_one_pair_the_verdict_says_so(tmp_path: Path) -> None:
    files = []
    for model, spread in (("good", 0.05), ("noisy", 1.0)):
        made = four_domains(model=model, spread=spread)
        assert made.domain is not None
        keep = ~((made.domain == 0) & (made.labels == 3))
        own = {"features": made.features[keep], "labels": made.labels[keep], "split": made.split[keep]}
        ids = tuple(name for name, kept in zip(made.ids, keep, strict=True) if kept)
        files.append(save_domains(tmp_path / f"{model}.h5", made, ids=ids, domain=made.domain[keep], **own))
    results = evaluate(files, protocol="cross-domain", c_grid=ONE_C, target=["shifted"])
    within = [c.verdict for c in results.comparisons if c.data.startswith("within")]
    assert any(
        "the same domain, with the classes of plain → shifted (within)" in text.replace("\u2192", "→")
        for text in within
    )


def test_the_tables_and_the_heat_map_have_every_probe(results: EvalResults) -> None:
    table = shown.accuracies(results)
    assert [name for name, _ in table.columns] == ["domain", "probe", "classes", "good", "noisy"]
    assert [row[1].text for row in table.rows] == list(ALL) * 6
    lost = shown.drops(results)
    assert [name for name, _ in lost.columns] == ["domain", "probe", "good", "noisy"]
    assert len(lost.rows) == 3 * 4
    drawn = shown.heat_map(results).file()
    assert all(drawn.count(f", probe {probe}</text>") == 2 for probe in ALL)


def test_predictions_name_the_place_and_the_probe(results: EvalResults) -> None:
    lines = list(csv.DictReader(io.StringIO(predictions_csv(results).decode())))
    assert {line["protocol"] for line in lines} == {"cross-domain", "within"}
    tested = {row.data: row.n_test for row in results.rows}
    for data, count in tested.items():
        own = [line for line in lines if line["data"] == data]
        assert len(own) == count
        for row in results.rows:
            if row.data == data:
                name = row.label + ("" if row.probe == "svm" else f", probe {row.probe}")
                right = [line[f"{name}: prediction"] == line["true"] for line in own]
                assert np.mean(right) == pytest.approx(row.accuracy)
                assert all((float(line[f"{name}: margin"]) > 0) <= ok for line, ok in zip(own, right, strict=True))
    assert {line["true"] for line in lines} == set(CLASSES)


def test_the_latex_tables_over_domains_are_places_and_drops(results: EvalResults, tmp_path: Path) -> None:
    text = results_latex(results)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"plain $\rightarrow$ turned & knn & 4 & 0.0" in text.replace(r"\texttt{", "").replace("}", "")
    assert "→" not in text
    assert "Bold: the drop is significant." in text
    alone = evaluate(
        save_domains(tmp_path / "f.h5", four_domains()), protocol="within", c_grid=ONE_C, target=["plain", "turned"]
    )
    text = results_latex(alone)
    assert text.count(r"\begin{tabular}") == 1
    assert "drop" not in text


def test_the_report_says_where_each_row_was_measured(results: EvalResults, tmp_path: Path) -> None:
    write_report(results, tmp_path / "r")
    page, text = (re.sub(r"<[^>]*>", "", (tmp_path / "r" / name).read_text()) for name in ("report.html", "report.md"))
    for said in (page, text):
        assert " on within " not in said
        chosen = "Cross-validation that chooses hyper-parameters, on the training parts of the sources only"
        assert f"{chosen}: cross-domain: stratified folds" in said
    assert "plain → turned, as it is, probe knn" in page
    assert "on 6 places" in page
    assert "2 models on 4 domains: plain, shifted, swapped, turned. Each probe" in page


def test_the_command_line_measures_several_probes_across_domains(tmp_path: Path) -> None:
    path = save_domains(tmp_path / "f.h5", four_domains(names=THREE))
    asked = ("--protocol", "leave-one-domain-out", "--probe", "svm,knn", "--c-grid", "0.01", "--folds", "2")
    found = l2a("svm-eval", path, "--out", tmp_path / "r", *asked, "--target", "plain")
    assert found.exit_code == 0, found.output
    document = json.loads((tmp_path / "r" / "results.json").read_text())
    assert [(row["data"], row["probe"]) for row in document["rows"]] == [
        ("shifted + turned → plain", "svm"),
        ("shifted + turned → plain", "knn"),
        ("within plain", "svm"),
        ("within plain", "knn"),
    ]
    assert [drop["probe"] for drop in document["drops"]] == ["svm", "knn"]
    assert {"predictions.csv", "results.tex", "domains.svg"} <= set(document["files"])


def set_of_pictures(root: Path, name: str, labels: np.ndarray, grey: int) -> tuple[str, ...]:
    """The ids of pictures whose grey says their number and their set."""
    ids = tuple(f"{CLASSES[label]}/{k:02d}.png" for k, label in enumerate(labels))
    for k, one in enumerate(ids):
        (root / name / one).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 2 * k + grey, np.uint8)).save(root / name / one)
    return ids


def test_misclassified_images_are_those_of_one_target_each_once(tmp_path: Path) -> None:
    """Two files of one model, whose ids have the name of their set before them, and a class with another name."""
    files, mapping = [], {}
    for k, name in enumerate(("a", "b")):
        labels = labels_of(3, 20)
        ids = set_of_pictures(tmp_path, name, labels, 100 * k)
        own = ("ant", "bee", "cat") if name == "b" else ("ameise", "bee", "cat")
        features = blobs(labels, spread=2.5, seed=3 + k)
        made = feature_set(
            labels, features, data=f"imagefolder:{name}", ids=ids, classes=own,
            split=np.zeros(60, dtype=np.uint8), splits=("all",),
        )  # fmt: skip
        files.append(save(tmp_path / f"{name}.h5", made))
    mapping = {"ameise": "ant"}
    results = evaluate(files, protocol="cross-domain", c_grid=ONE_C, class_map=mapping, probes=("svm", "knn"))
    source = open_source(f"imagefolder:{tmp_path / 'b'}")
    found = misclassified(results, source)
    assert found
    assert {one.data for one in found} == {"imagefolder:a → imagefolder:b"}
    assert len({one.id for one in found}) == len(found)
    for one in found:
        picture = Image.open(io.BytesIO(one.png), formats=["PNG"])
        assert picture.size == (96, 96)  # a picture of 8 × 8 pixels is enlarged
        grey = picture.getpixel((3, 3))[0]  # type: ignore[index]
        assert grey == 2 * int(Path(one.id).stem) + 100
        assert one.models == 1
    found = l2a(
        "svm-eval", *files, "--out", tmp_path / "r", "--protocol", "cross-domain", "--c-grid", "0.01",
        "--class-map", _csv(tmp_path, mapping), "--pictures", f"imagefolder:{tmp_path / 'b'}",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "imagefolder:a → imagefolder:b: <b>" in (tmp_path / "r" / "report.html").read_text().replace("<wbr>", "")


def _csv(folder: Path, mapping: dict[str, str]) -> Path:
    path = folder / "map.csv"
    path.write_text("class,counts as\n" + "".join(f"{one},{other}\n" for one, other in mapping.items()))
    return path


def test_pictures_of_a_set_whose_folders_are_domains(tmp_path: Path) -> None:
    """PACS and the like: the folders could be classes too, and nothing said which."""
    rng = np.random.default_rng(0)
    for k in range(32):
        folder = tmp_path / "pacs" / ("photo", "sketch")[k % 2] / ("cat", "dog")[k // 2 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    data, out = f"imagefolder:{tmp_path / 'pacs'}", tmp_path / "f.h5"
    asked = ("--data", data, "--domain-from", "folder", "--out", out, "--workers", "0", "--image-size", "8")
    assert l2a("extract", "--model", "pixels", *asked).exit_code == 0
    asked = ("svm-eval", out, "--protocol", "cross-domain", "--probe", "ncm", "--out", tmp_path / "r")
    assert_fails(l2a(*asked, "--pictures", data), 1, "--split-from folders")
    assert_fails(l2a(*asked, "--split-from", "folders"), 2, "--split-from needs --pictures")
    found = l2a(*asked, "--pictures", data, "--split-from", "folders")
    assert found.exit_code == 0, found.output
    assert "data:image/png" in (tmp_path / "r" / "report.html").read_text()
