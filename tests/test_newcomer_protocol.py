"""A protocol from outside of the package: one function, registered beside its code, used by name and taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from l2a_transfer.errors import EvaluationError, PluginError, UnknownNameError
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.protocols import PROTOCOLS, Request, plan_splits, register
from l2a_transfer.evaluation.results import EvalConfig
from l2a_transfer.evaluation.splits import Labelled, Split, make_split
from tests.conftest import l2a
from tests.feature_files import feature_set, labels_of, save


@pytest.fixture
def odd_rows() -> Iterator[None]:
    @register("odd-rows", draws=2, needs=("train",), suits=lambda features: "it is odd" * (features.meta.data == "odd"))
    def odd(features: Labelled, request: Request) -> tuple[list[Split], tuple[str, ...]]:
        """Every second row, after as many as the seed and the draw say."""
        rows = np.arange(len(features.labels))
        splits = []
        for draw in range(request.draws):
            trains = (rows + request.seed + draw) % 2 == 1
            splits.append(make_split(features, "odd-rows", draw, request.seed, rows[trains], rows[~trains], shared=0.5))
        return splits, ("every second row",)

    yield
    PROTOCOLS.remove("odd-rows")


@pytest.mark.usefixtures("odd_rows")
def test_it_is_used_like_the_package_s_own(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", feature_set(labels_of(3, 20)))
    results = evaluate_files([path], EvalConfig(protocol="odd-rows", c_grid=(0.01,)))
    (row,) = results.rows
    assert (row.protocol, row.why, row.draws, row.n_train) == ("odd-rows", "as asked", 2, 30)
    assert [split.train[:2] for split in results.splits] == [(1, 3), (0, 2)]
    assert "every second row" in row.notes
    unsplit = feature_set(labels_of(3, 20), split=np.zeros(60, np.uint8), splits=("all",))
    with pytest.raises(EvaluationError, match="the odd-rows protocol needs the splits train, no row is in train"):
        plan_splits(unsplit, "odd-rows", draws=None, seed=0)


@pytest.mark.usefixtures("odd_rows")
def test_the_command_line_has_it(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", feature_set(labels_of(3, 20)))
    asked = l2a("svm-eval", path, "--out", tmp_path / "r", "--protocol", "odd-rows", "--c-grid", "0.01", "--draws", "3")
    assert asked.exit_code == 0, asked.output
    assert "--protocol odd-rows" in (tmp_path / "r" / "report.md").read_text()
    assert json.loads((tmp_path / "r" / "results.json").read_text())["rows"][0]["draws"] == 3


@pytest.mark.usefixtures("odd_rows")
def test_auto_takes_it_where_it_suits() -> None:
    odd = feature_set(labels_of(3, 20), data="odd", split=np.zeros(60, np.uint8), splits=("train",))
    found = plan_splits(odd, "auto", draws=None, seed=0)
    assert (found.protocol, found.why) == ("odd-rows", "it is odd")
    other = feature_set(labels_of(3, 20), split=np.zeros(60, np.uint8), splits=("all",))
    assert plan_splits(other, "auto", draws=None, seed=0).protocol == "stratified"


@pytest.mark.usefixtures("odd_rows")
def test_a_name_is_given_once() -> None:
    with pytest.raises(PluginError, match="the protocol 'odd-rows' is declared twice"):
        register("odd-rows")(lambda features, request: ([], ()))


def test_it_can_be_taken_back() -> None:
    domains = ("cross-domain", "leave-one-domain-out", "within")
    assert tuple(PROTOCOLS) == ("auto", "official", "caltech-30", "low-shot", "stratified", *domains)
    with pytest.raises(UnknownNameError, match="protocol must be one of auto, official, caltech-30, low-shot"):
        EvalConfig(protocol="odd-rows")


def test_the_example_of_the_contributor_s_guide_runs() -> None:
    guide = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    exec(guide.split("## A new protocol")[1].split("```python\n")[1].split("```")[0], {})
    try:
        found = plan_splits(feature_set(labels_of(3, 20)), "odd-rows", draws=None, seed=0)
    finally:
        PROTOCOLS.remove("odd-rows")
    assert [len(split.train) for split in found.splits] == [30, 30]
