"""Cards, and all JSON out of files, are held against a schema before any work: the error names the file and field."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from l2a_transfer.documents import (
    MAX_DEPTH,
    NUMBER,
    _reject_duplicate_keys,
    either,
    integer,
    list_of,
    parse,
    row_of,
    table,
    text,
)
from l2a_transfer.errors import StoreError
from l2a_transfer.evaluation import evaluate
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.results_schema import earlier_files
from l2a_transfer.features.backends.onnx import with_sha256
from l2a_transfer.models.weights import CARD_KEY, PRETRAINED, Card, load_weights, read_card
from l2a_transfer.report import write as report
from tests.conftest import assert_fails, l2a
from tests.feature_files import feature_set, labels_of, save
from tests.test_store import reseal


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' appears twice"),
        ('{"b": {"a": 1, "a": 1}}', "the key 'a' appears twice"),
        ("[NaN]", "NaN is not a valid number"),
        ("[-Infinity]", "-Infinity is not a valid number"),
        ("1e999", "the number 1e999 is too large"),
        ("1" + "0" * 30, "does not fit into 64 bits"),
        ("9" * 5000, "does not fit into 64 bits"),
        (str(2**63), "does not fit into 64 bits"),
        (nested(MAX_DEPTH + 2), "nested more than 32 deep"),
        (nested(900), "nested more than 32 deep"),
        (nested(100_000), "nested more than 32 deep"),
        ('{"a":' * 900 + "1" + "}" * 900, "nested more than 32 deep"),
        ("{", "Expecting property name"),
    ],
)
def test_json_that_not_everybody_reads_alike_is_refused(document: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(document)


def test_json_that_is_good_is_read_as_it_is() -> None:
    document = {"a": [1, -2, 0.5, 1e300, True, None, "é\ud800"], "b": {"a": {}}, "c": 2**63 - 1}
    assert parse(json.dumps(document)) == document
    assert parse(nested(MAX_DEPTH)) == json.loads(nested(MAX_DEPTH))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "x must be an object, got \\[\\]"),
        ({}, "x has no 'n'"),
        ({"n": True}, "x.n must be an integer, 0 to 9, got True"),
        ({"n": 1.0}, "x.n must be an integer"),
        ({"n": 10}, "x.n must be an integer, 0 to 9, got 10"),
        ({"n": 1, "t": "abcd"}, "x.t must be text of at most 3 characters, got 'abcd'"),
        ({"n": 1, "l": [1, 2, "3"]}, r"x.l\[2\] must be a number, got '3'"),
        ({"n": 1, "l": [1, 2]}, "x.l must be a list of 3"),
        ({"n": 1, "r": ["a", "b"]}, r"x.r\[1\] must be a number"),
        ({"n": 1, "e": []}, "x.e must be text of at most 1,048,576 characters or an object, got"),
        ({"n": 1, "e": {"k": None}}, "x.e.k must be a number, got None"),
        ({"n": 1, "z\x1b": 1}, r"x has the key 'z\\x1b', which is unknown"),
    ],
)
def test_a_schema_names_the_field_and_what_it_must_be(value: Any, words: str) -> None:
    kind = table(
        {"n": integer(0, 9)},
        optional={
            "t": text(3),
            "l": list_of(NUMBER, length=3),
            "r": row_of(text(), NUMBER),
            "e": either(text(), table(others=NUMBER)),
        },
    )
    with pytest.raises(ValueError, match=words):
        kind.check(value, "x")
    kind.check({"n": 9, "t": "abc", "l": [1, 2.5, 3], "r": ["a", 1], "e": {"k": 1}}, "x")


HOSTILE: dict[str, tuple[str, str]] = {
    "a number of classes beyond 64 bits": ("config.num_classes", str(10**30)),
    "a number of classes that no network has": ("config.num_classes", str(10**15)),
    "a float for a number of classes": ("config.num_classes", "1e30"),
    "classes that are NaN": ("config.num_classes", "NaN"),
    "a list for an architecture": ("config.architecture", '["vgg"]'),
    "an object for a normalizer": ("config.normalizer", "{}"),
    "a width that is a list": ("config.width", "[0.25]"),
    "a width that is infinite": ("config.width", "Infinity"),
    "true for a width": ("config.width", "true"),
    "a list for a fit": ("preprocess.fit", '["stretch"]'),
    "an object for a filter": ("preprocess.filter", "{}"),
    "true for a size": ("preprocess.size", "true"),
    "text for a mean": ("preprocess.mean", '"abc"'),
    "a mean of text": ("preprocess.mean", '["0", "0", "0"]'),
    "a mean of four": ("preprocess.mean", "[0, 0, 0, 0]"),
    "a std beyond all numbers": ("preprocess.std", "[1e999, 1, 1]"),
    "a mean that no pixels have": ("preprocess.mean", "[1e300, 1e300, 1e300]"),
    "a std of next to nothing": ("preprocess.std", "[1e-300, 1, 1]"),
    "a name that is a list": ("name", "[]"),
    "a name that is null": ("name", "null"),
    "classes that are lists": ("classes", '[["a"]]'),
    "classes that are an object": ("classes", '{"a": 1}'),
    "a training that is a list": ("training", "[1]"),
    "a seed that is a list": ("training.seed", "[0]"),
    "a seed that is an object": ("training.seed", "{}"),
    "text for untrained": ("training.untrained", '"yes"'),
    "data that are a list": ("training.data", "[]"),
    "a start that is a number": ("training.init_from", "3"),
    "seconds that are text": ("training.seconds", '"long"'),
    "metrics that are a list": ("metrics", "[]"),
    "a metric that is a list": ("metrics.test_accuracy", "[0.5]"),
    "an accuracy that is a list": ("metrics.test_accuracy.value", "[]"),
    "an accuracy that is NaN": ("metrics.test_accuracy.value", "NaN"),
    "a count that is a float": ("metrics.test_accuracy.n", "1e30"),
    "parameters that are text": ("parameters", '"many"'),
    "a card that is 900 deep": ("training.note", nested(900)),
    "a card that is 40 deep": ("training.note", nested(40)),
}
CASES = pytest.mark.parametrize("case", HOSTILE)


def hostile_card(case: str, card: dict[str, Any]) -> tuple[str, str]:
    """The card as JSON with one field replaced by the raw text of the case, and the part of the name to be said."""
    field, raw = HOSTILE[case]
    *path, last = field.split(".")
    changed = json.loads(json.dumps(card))
    place = changed
    for part in path:
        place = place.setdefault(part, {})
    place[last] = "<here>"
    return json.dumps(changed).replace('"<here>"', raw), last


def test_the_cases_change_a_card_that_is_good() -> None:
    card = read_card(PRETRAINED / "vgg-att2-concat-pc.cifar10-w025.safetensors")
    assert Card.from_json(card.to_json()) == card


@pytest.fixture(scope="module")
def exported(exported_tiny: Path) -> bytes:
    return exported_tiny.read_bytes()


def said(case: str) -> str:
    """What the error says: the field, or for what no JSON may hold, what that is."""
    raw = HOSTILE[case][1]
    if raw in ("NaN", "Infinity"):
        return f"{raw} is not a valid number"
    if "1e999" in raw:
        return "1e999 is too large"
    if raw == str(10**30):
        return "does not fit into 64 bits"
    return "nested more than" if raw.startswith("[[[") else HOSTILE[case][0].rpartition(".")[2]


@CASES
def test_weights(case: str, tmp_path: Path) -> None:
    source = PRETRAINED / "vgg-att2-concat-pc.cifar10-w025.safetensors"
    path = tmp_path / "w.safetensors"
    save_file(load_file(source), path, metadata={CARD_KEY: hostile_card(case, read_card(source).to_json())[0]})
    out = tmp_path / "f.h5"
    for command in (
        ("inspect", path),
        ("inspect", path, "--verify"),
        ("export", "--model", path, "--out", tmp_path / "m.onnx"),
        ("extract", "--model", path, "--data", "digits", "--limit", "20", "--out", out),
    ):
        assert_fails(l2a(*command), 1, str(path), said(case))
    assert [found.name for found in tmp_path.iterdir()] == ["w.safetensors"]


@CASES
def test_onnx(case: str, exported: bytes, tmp_path: Path) -> None:
    import onnx

    model = onnx.load_model_from_string(exported)
    card = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "l2a-card"))
    for entry in model.metadata_props:
        if entry.key == "l2a-card":
            entry.value = hostile_card(case, card)[0]
    del model.metadata_props[-1]
    path = tmp_path / "m.onnx"
    path.write_bytes(with_sha256(model.SerializeToString(deterministic=True)))
    assert_fails(l2a("inspect", path), 1, str(path), said(case))
    out = tmp_path / "f.h5"
    assert_fails(l2a("extract", "--model", path, "--data", "digits", "--out", out), 1, str(path), said(case))


OF_NETWORKS = ("config.", "preprocess.")
"""Fields that decide a network, which a feature file's card need not be the card of."""


@pytest.mark.parametrize(
    "case",
    [
        case
        for case, (field, raw) in HOSTILE.items()
        if not field.startswith(OF_NETWORKS) or raw in ("NaN", "Infinity") or "1e999" in raw
    ],
)
def test_feature_files(case: str, tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", feature_set(labels_of(2, 12)))
    card = read_card(PRETRAINED / "vgg-att2-concat-pc.cifar10-w025.safetensors").to_json()
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file.attrs["card"] = hostile_card(case, card)[0]
    reseal(path)
    report = tmp_path / "report"
    for command in (("inspect", path), ("svm-eval", path, "--out", report, "--c-grid", "0.01")):
        assert_fails(l2a(*command), 1, str(path), "'card'", said(case))
    assert not report.exists()


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("levels", '[["L3", 0, Infinity]]'),
        ("levels", '[["L3", 0, 1e30]]'),
        ("levels", '[["L3", 0, 6.0]]'),
        ("levels", f'[["L3", 0, {10**30}]]'),
        ("levels", '[["L3", -1, 6]]'),
        ("levels", '[[["L3"], 0, 6]]'),
        ("levels", '{"L3": 1}'),
        ("levels", nested(900)),
        ("classes", '[["a"], "b"]'),
        ("classes", '["a", NaN]'),
        ("splits", '["train", 1]'),
        ("preprocess", "[]"),
        ("preprocess", '{"size": NaN}'),
        ("fingerprint", '{"a": 1, "a": 2}'),
        ("fingerprint", '{"a": ' + nested(500) + "}"),
        ("skipped", '[["a", 1]]'),
        ("source", '{"passed_over": 3}'),
        ("source", '{"passed_over": {"kinds": [1]}}'),
    ],
)
def test_attributes_of_feature_files(attribute: str, value: str, tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", feature_set(labels_of(2, 12)))
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file.attrs[attribute] = value
    reseal(path)
    for command in (("inspect", path), ("svm-eval", path, "--out", tmp_path / "report")):
        assert_fails(l2a(*command), 1, str(path), repr(attribute))
    assert not (tmp_path / "report").exists()


def test_features_that_could_not_be_read_again_are_not_written(tmp_path: Path) -> None:
    features = feature_set(labels_of(2, 12))
    for card, words in (
        ({"name": "a", "x": float("nan")}, "NaN is not a valid number"),
        ({"name": "a", "metrics": [1]}, "card.metrics"),
    ):
        meta = dataclasses.replace(features.meta, card=card)
        with pytest.raises(StoreError, match=rf"f\.h5: the attribute 'card'.*{words}"):
            save(tmp_path / "f.h5", dataclasses.replace(features, meta=meta))
    assert not list(tmp_path.iterdir())


def test_a_card_of_features_made_elsewhere_is_shown_as_it_is(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", feature_set(labels_of(2, 12)))
    card = {"name": "clip", "config": {"layers": [1, 2]}, "training": None, "metrics": {"zero-shot": 0.5}, "url": "x"}
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file.attrs["card"] = json.dumps(card)
    reseal(path)
    found = l2a("inspect", path, "--json")
    assert json.loads(found.stdout)["card"] == card
    result = l2a("svm-eval", path, "--out", tmp_path / "report", "--c-grid", "0.01")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("[]", "results must be an object"),
        ('{"schema": "other/1", "files": []}', "results.schema must be 'l2a-results/1'"),
        ('{"schema": "l2a-results/1"}', "results has no 'files'"),
        ('{"schema": "l2a-results/1", "files": 5}', "results.files must be a list, got 5"),
        ('{"schema": "l2a-results/1", "files": [1]}', r"results.files[0] must be text"),
        ('{"schema": "l2a-results/1", "files": ' + nested(900) + "}", "nested more than"),
        ("{", "Expecting"),
    ],
)
def test_results_that_are_not_ours_are_named_and_replaced(
    document: str, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features = save(tmp_path / "f.h5", feature_set(labels_of(2, 12)))
    path = tmp_path / "report" / "results.json"
    path.parent.mkdir()
    path.write_text(document)
    kept = path.with_name("confusion-mine.png")
    kept.write_bytes(b"mine")
    result = l2a("svm-eval", features, "--out", path.parent, "--c-grid", "0.01", "--overwrite")
    assert result.exit_code == 0, result.output
    assert f"{path}: not a report of this program" in caplog.text
    assert words in caplog.text
    assert kept.read_bytes() == b"mine"
    assert "results.csv" in earlier_files(path)


class Name(str):
    """A key that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)


def test_a_key_that_comes_twice_is_found_in_one_pass() -> None:
    pairs = [(Name(k), 0) for k in range(2000)]
    with pytest.raises(ValueError, match="the key '1999' appears twice"):
        _reject_duplicate_keys([*pairs, (Name(1999), 0)])
    assert Name.compared < 20_000


def test_an_earlier_report_is_looked_at_before_the_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = save(tmp_path / "f.h5", feature_set(labels_of(2, 12)))
    (tmp_path / "r").mkdir()
    seen: list[str] = []

    def looked(path: Path) -> list[str]:
        seen.append("earlier")
        return earlier_files(path)

    def fits(*arguments: Any, **options: Any) -> Any:
        seen.append("fits")
        return evaluate_files(*arguments, **options)

    monkeypatch.setattr(report, "earlier_files", looked)
    monkeypatch.setattr(evaluate, "evaluate_files", fits)
    result = l2a("svm-eval", features, "--out", tmp_path / "r", "--c-grid", "0.01", "--overwrite")
    assert result.exit_code == 0, result.output
    assert seen == ["earlier", "fits"]


def test_weights_without_a_sha256_are_said_to_be_unverified(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = PRETRAINED / "vgg-att2-concat-pc.cifar10-w025.safetensors"
    path = tmp_path / "old.safetensors"
    save_file(load_file(source), path, metadata={CARD_KEY: json.dumps(read_card(source).to_json())})
    load_weights(source)
    assert not caplog.records
    for use in (
        lambda: load_weights(path),
        lambda: l2a("inspect", path),
        lambda: l2a("export", "--model", path, "--out", tmp_path / "m.onnx"),
    ):
        caplog.clear()
        use()
        told = [record.getMessage() for record in caplog.records if "not verified" in record.getMessage()]
        assert told == [f"{path}: not verified: it has no SHA-256, so damage and changes cannot be detected"]


def test_weights_that_are_replaced_after_they_were_checked_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PRETRAINED / "vgg-att2-concat-pc.cifar10-w025.safetensors"
    path = tmp_path / "w.safetensors"
    path.write_bytes(source.read_bytes())
    other = {key: torch.zeros_like(value) for key, value in load_file(source).items()}
    before = Card.from_json

    def replaced(values: Any) -> Card:
        save_file(other, path, metadata={CARD_KEY: json.dumps(values)})
        return before(values)

    monkeypatch.setattr(Card, "from_json", replaced)
    network, _ = load_weights(path)
    assert np.count_nonzero(network.state_dict()["trunk.0.0.0.weight"].numpy())
