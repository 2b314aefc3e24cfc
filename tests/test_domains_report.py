"""Domains in the report and on the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from l2a_transfer.evaluation.evaluate import evaluate
from l2a_transfer.report import domains as shown
from l2a_transfer.report import origins
from l2a_transfer.report.write import write_report
from tests.conftest import assert_fails, l2a
from tests.domain_files import FOUR, agreement, four_domains, save_domains
from tests.feature_files import feature_set, labels_of, save
from tests.test_domains import ONE_C


@pytest.fixture
def four(tmp_path: Path) -> Path:
    return save_domains(tmp_path / "four.h5", four_domains())


def test_the_tables_have_every_pair_and_its_drop(four: Path, tmp_path: Path) -> None:
    other = save_domains(tmp_path / "other.h5", four_domains(model="other", spread=0.04))
    results = evaluate([four, other], protocol="cross-domain", c_grid=ONE_C)
    table = shown.accuracies(results)
    assert [name for name, _ in table.columns] == ["domain", "classes", "toy-model", "other"]
    assert len(table.rows) == 16
    cells = {row[0].text: row for row in table.rows}
    assert cells["plain → swapped"][2].text.startswith("50.0 [")
    lost = {row[0].text: row for row in shown.drops(results).rows}
    assert set(lost) == {f"{a} → {b}" for a in FOUR for b in FOUR if a != b}
    assert lost["plain → turned"][1].text.startswith("+100.0 [")
    assert lost["plain → turned"][1].best
    assert lost["plain → shifted"][1].text.startswith("0.0 [")
    assert not lost["plain → shifted"][1].best


def test_the_heat_map_has_sources_as_rows_and_targets_as_columns(four: Path) -> None:
    figure = shown.heat_map(evaluate(four, protocol="cross-domain", c_grid=ONE_C))
    drawn = ElementTree.fromstring(figure.file())
    middle = [element for element in drawn.iter() if element.get("text-anchor") == "middle"]
    texts = [(float(element.get("y", 0)), float(element.get("x", 0)), element.text) for element in middle]
    numbers = [text for _, _, text in sorted(texts)]
    domains = sorted(FOUR)
    assert numbers == [f"{100 * agreement(a, b):.0f}" for a in domains for b in domains]


def test_with_several_sources_the_heat_map_has_the_others_and_within(tmp_path: Path) -> None:
    path = save_domains(tmp_path / "f.h5", four_domains(names=("plain", "shifted", "turned")))
    results = evaluate(path, protocol="leave-one-domain-out")
    assert "by holding out one source domain at a time (within a domain by 5-fold" in origins.choice(results)
    assert shown.validations(results) == [
        "leave-one-domain-out: one source domain held out after the other",
        "within: stratified folds",
    ]
    given = evaluate(path, protocol="leave-one-domain-out", c_grid=ONE_C)
    assert given.domains[0].validation == "none, because one C was given"
    assert not any("C chosen" in note for row in given.rows for note in row.notes)
    drawn = shown.heat_map(results).file()
    assert drawn.count("all others") == 1
    assert ">within<" in drawn


def test_the_report_is_written_and_replaced_by_one_without_domains(four: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    files = write_report(evaluate(four, protocol="cross-domain", c_grid=ONE_C, source=["plain"]), out)
    assert out / "domains.svg" in files
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    for words in ("Across domains", "plain → turned"):
        assert words in page.replace("<wbr>", "")
        assert words in text
    assert "--protocol cross-domain" in text
    assert "--source plain" in text
    write_report(evaluate(four, protocol="stratified", c_grid=ONE_C), out, overwrite=True)
    assert not (out / "domains.svg").exists()
    assert "Across domains" not in (out / "report.html").read_text()


def test_the_command_line_takes_domains_and_a_class_map(four: Path, tmp_path: Path) -> None:
    mapping = tmp_path / "map.csv"
    mapping.write_text("class,counts as\ndog,cat\n")
    asked = ("svm-eval", four, "--out", tmp_path / "r", "--protocol", "cross-domain", "--c-grid", "0.01")
    result = l2a(*asked, "--source", "plain", "--target", "turned", "--target", "swapped", "--class-map", mapping)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "r" / "results.json").read_text())
    assert [place["data"] for place in found["domains"]] == [
        "plain → turned",
        "plain → swapped",
        "within turned",
        "within swapped",
    ]
    assert found["domains"][0]["classes"] == ["ant", "bee", "cat"]
    assert found["config"]["class_map"] == [["dog", "cat"]]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--source", "plane"), 2, "did you mean 'plain'"),
        (
            ("--source", "plain", "--target", "plain"),
            2,
            "--source and --target are the same domain, plain; --protocol within",
        ),
        (("--class-map", "nothing.csv"), 1, "nothing.csv: cannot be read: No such file"),
        (("--draws", "2"), 2, "--draws must be 1 with protocol cross-domain"),
    ],
)
def test_misuse_is_said_in_one_line(
    four: Path, tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    result = l2a("svm-eval", four, "--out", tmp_path / "r", "--protocol", "cross-domain", *options)
    assert_fails(result, code, words)
    assert not (tmp_path / "r" / "results.json").exists()


def test_a_file_without_domains_is_told_how_to_get_them(tmp_path: Path) -> None:
    plain = save(tmp_path / "plain.h5", feature_set(labels_of(3, 20)))
    result = l2a("svm-eval", plain, "--out", tmp_path / "r", "--protocol", "leave-one-domain-out")
    assert_fails(result, 1, "extract with --domain-from, or give one feature file a domain")


def test_the_digests_of_a_model_s_files_are_in_the_report(tmp_path: Path) -> None:
    files = []
    for name in ("plain", "shifted"):
        made = four_domains(names=(name,), data=name)
        made = dataclasses.replace(made, domain=None, meta=dataclasses.replace(made.meta, domains=()))
        files.append(save_domains(tmp_path / f"{name}.h5", made))
    results = evaluate(files, protocol="cross-domain", c_grid=ONE_C)
    (card,) = results.cards.values()
    assert set(card["feature_files"]) == {"plain.h5", "shifted.h5"}
    write_report(results, tmp_path / "r")
    text = (tmp_path / "r" / "report.md").read_text()
    assert "svm-eval plain.h5 shifted.h5 --out" in text
    assert all(digest in text for digest in card["feature_files"].values())
