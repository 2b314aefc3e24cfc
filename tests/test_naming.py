"""Feature files of one name and one model: each keeps its row, card, verdicts and plot, whatever it is called."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.results import EvalConfig, EvalResults
from l2a_transfer.report import lookup, origins, tables
from l2a_transfer.report.headline import headline
from l2a_transfer.report.markdown import report_markdown
from l2a_transfer.report.page import page
from l2a_transfer.report.write import write_report
from tests.conftest import assert_fails, l2a
from tests.feature_files import blobs, feature_set, labels_of, save

LABELS = labels_of(3, 20)
ONE_C = EvalConfig(c_grid=(0.01,))


def saved(path: Path, spread: float, *, model: str = "vgg", data: str = "toy", **card: Any) -> Path:
    """A feature file of a model that is the better, the smaller `spread` is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = feature_set(LABELS, blobs(LABELS, spread=spread), model=model, data=data)
    return save(path, dataclasses.replace(made, meta=dataclasses.replace(made.meta, card={"name": model, **card})))


@pytest.fixture
def seeds(tmp_path: Path) -> list[Path]:
    """What training and extracting three seeds into folders of their own leaves: one name and one model."""
    return [saved(tmp_path / f"seed-{k}" / "features.h5", spread, of=k) for k, spread in enumerate((0.05, 2.0, 6.0))]


def labels(results: EvalResults) -> list[str]:
    return [row.label for row in results.rows]


def test_files_of_one_name_and_model_all_stand_in_the_headline(seeds: list[Path]) -> None:
    """The table showed the first one only, and what it showed was the best."""
    results = evaluate_files(seeds, ONE_C)
    values = [f"{100 * row.mean_class_accuracy:.1f}" for row in results.rows]
    assert len(set(values)) == 3
    table = headline(results, lookup.places(results))
    assert [line[0].text for line in table.rows] == labels(results) == ["vgg (seed-0)", "vgg (seed-1)", "vgg (seed-2)"]
    assert [line[1].text.partition(" ")[0] for line in table.rows] == values
    assert [line[1].best for line in table.rows] == [True, False, False]
    assert [line[1].row for line in table.rows] == [0, 1, 2]
    for text in (report_markdown(results, {}), page(results)):
        for value, label in zip(values, labels(results), strict=True):
            assert value in text
            assert f"of={label[-2]}" not in text


def test_verdicts_cards_and_the_command_name_each_of_them(seeds: list[Path], tmp_path: Path) -> None:
    """Verdicts read "vgg (features) is better than vgg (features)", and two of three cards were dropped."""
    results = evaluate_files(seeds, ONE_C)
    for comparison in results.comparisons:
        assert comparison.a != comparison.b
        digests = [row.file_sha256 for row in results.rows if row.label in (comparison.a, comparison.b)]
        assert [side for (side,) in comparison.files] == digests
    assert len(results.comparisons) == 3
    assert [lookup.standing(results, row) for row in results.rows] == ["best", "behind", "behind"]
    assert [(card["of"], [o.file for o in own]) for card, own in origins.cards(results)] == [
        (k, [f"seed-{k}/features.h5"]) for k in range(3)
    ]
    assert list(results.cards) == [row.file_sha256 for row in results.rows]
    text = report_markdown(results, {})
    for k in range(3):
        assert f"- of: {k}\n" in text.partition(f"### `vgg (seed-{k})`")[2].partition("###")[0] + "\n"
    arguments = shlex.split(origins.command(results))
    assert arguments[2:5] == ["seed-0/features.h5", "seed-1/features.h5", "seed-2/features.h5"]
    again = evaluate_files([tmp_path / name for name in arguments[2:5]], ONE_C)
    assert [row.accuracy for row in again.rows] == [row.accuracy for row in results.rows]


@pytest.mark.parametrize(
    "name", ["-o.h5", "~/f.h5", "a\nb.h5", "a\x1b[2J'\\b.h5", "a```b.h5", "a b.h5", "\u200bé.h5", "\u3000f.h5"]
)
def test_the_command_of_a_report_names_the_file_in_a_shell(tmp_path: Path, name: str) -> None:
    results = evaluate_files([saved(tmp_path / name, 0.05)], ONE_C)
    row = dataclasses.replace(results.rows[0], file=name)
    line = origins.command(dataclasses.replace(results, rows=(row,)))
    assert line.isprintable() or "é" in line
    assert line in report_markdown(dataclasses.replace(results, rows=(row,)), {})
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout.decode()
    assert words.split("\0")[2] == (f"./{name}" if name[0] in "-~" else name)


def test_every_file_of_the_report_tells_them_apart(seeds: list[Path], tmp_path: Path) -> None:
    results = evaluate_files(seeds, EvalConfig(c_grid=(0.01,), ablate=("normalization",)))
    written = [path.name for path in write_report(results, tmp_path / "r")]
    assert [name for name in written if name.startswith("confusion")] == [
        f"confusion-toy-vgg_seed-{k}_.svg" for k in range(3)
    ]
    document = json.loads((tmp_path / "r" / "results.json").read_text())
    digests = [read_sha256(path) for path in seeds]
    assert [row["file_sha256"] for row in document["rows"]] == [d for d in digests for _ in range(3)]
    assert set(document["cards"]) == set(digests)
    rows = table_of(tmp_path / "r" / "results.csv")
    pairs = table_of(tmp_path / "r" / "comparisons.csv")
    known = {(row["file_sha256"], row["variant"]) for row in rows}
    assert len(known) == len(rows) == 9
    assert all({(p["files_a"], p["variants_a"]), (p["files_b"], p["variants_b"])} <= known for p in pairs)
    for own in lookup.ablations(results):
        assert {row.file_sha256 for row in own} == {own[0].file_sha256}
        table = tables.ablation(results, own)
        assert [line[2].text == "–" for line in table.rows] == [True, False, False]
    assert len(lookup.ablations(results)) == 3
    assert len(re.findall(r'id="row-\d+"', page(results))) == 9


def table_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def read_sha256(path: Path) -> str:
    """As the user block has it."""
    return path.read_bytes()[20:52].hex()


def test_pairs_and_references_can_be_named_by_what_the_table_calls_them(seeds: list[Path], tmp_path: Path) -> None:
    asked = ["--compare", "vgg (seed-2),vgg (seed-1)", "--c-grid", "0.01", "--json"]
    (pair,) = json.loads(l2a("svm-eval", *seeds, "--out", tmp_path / "r", *asked).stdout)["comparisons"]
    assert pair["files"] == [[read_sha256(seeds[2])], [read_sha256(seeds[1])]]
    plain = l2a("svm-eval", *seeds, "--out", tmp_path / "s", "--reference", "vgg")
    assert_fails(plain, 2, "--reference must be one of vgg (seed-0), vgg (seed-1), vgg (seed-2); got 'vgg'")


def test_pairs_can_be_named_whatever_the_names_are(tmp_path: Path) -> None:
    models = ("vgg (x,y)", "vgg (seed-0)", " spaced ", "a", "b,c", "a,b", "c")
    files = [saved(tmp_path / f"{k}.h5", 1.0 + k, model=model) for k, model in enumerate(models)]
    for asked, pair in {
        "vgg (x,y),vgg (seed-0)": (0, 1),
        "vgg (seed-0), spaced ": (1, 2),
        "c, vgg (seed-0)": (6, 1),
        "a,b,b,c": (5, 4),
    }.items():
        results = evaluate_files(files, EvalConfig(c_grid=(0.01,), compare=(asked,)))
        assert results.config.compare == (tuple(models[k] for k in pair),)
        assert (results.comparisons[0].a, results.comparisons[0].b) == results.config.compare[0]
    with pytest.raises(ValueError, match=r"'a,b,c' can be split in several ways"):
        evaluate_files(files, EvalConfig(c_grid=(0.01,), compare=("a,b,c",)))
    with pytest.raises(ValueError, match=r"compare must be two names of the table"):
        evaluate_files(files, EvalConfig(c_grid=(0.01,), compare=("x,y,z",)))


def test_a_name_that_two_models_have_is_refused_where_one_is_asked_for(tmp_path: Path) -> None:
    recipe = {"config": {"architecture": "vgg", "width": 1.0}, "training": {"data": "cifar10"}}
    files = [saved(tmp_path / f"{k}.h5", 1 + k, model=f"m{k}", **_seed(recipe, k)) for k in range(3)]
    files.append(saved(tmp_path / "impostor.h5", 5.0, model="vgg@1.0"))
    with pytest.raises(ValueError, match=r"reference: 'vgg@1\.0' is the name of several models"):
        evaluate_files(files, EvalConfig(c_grid=(0.01,), reference="vgg@1.0"))


def _seed(card: dict[str, Any], seed: int) -> dict[str, Any]:
    return {**card, "training": {**card["training"], "seed": seed}}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a/features.h5", "b/features.h5"], ["vgg (a)", "vgg (b)"]),
        (["l2.h5", "l3.h5"], ["vgg (l2)", "vgg (l3)"]),
        (["x/one.h5", "y/two.h5"], ["vgg (one)", "vgg (two)"]),
        (["a/b/f.h5", "b/a/f.h5"], ["vgg (b/f)", "vgg (a/f)"]),
        (["f.h5", "f.hdf5"], ["vgg (f.h5)", "vgg (f.hdf5)"]),
        (["top/f.h5", "top/f/f.h5", "g.h5"], ["vgg (top/f.h5)", "vgg (f/f)", "vgg (g)"]),
        (["a/run/f.h5", "b/run/f.h5", "b/run/g.h5"], ["vgg (a)", "vgg (b/run/f)", "vgg (g)"]),
    ],
)
def test_a_label_is_the_shortest_path_that_tells_a_file_apart(
    names: list[str], found: list[str], tmp_path: Path
) -> None:
    paths = [saved(tmp_path / name, 1.0 + k) for k, name in enumerate(names)]
    results = evaluate_files(paths, ONE_C)
    assert [row.file for row in results.rows] == names
    assert labels(results) == found


def test_one_model_on_two_data_sets_is_one_line_and_two_seeds_are_two(tmp_path: Path) -> None:
    places = [(k, data) for k in range(2) for data in ("toy", "other")]
    files = [
        saved(tmp_path / f"seed-{k}" / f"{data}.h5", 0.05 + 4 * k, data=data, training={"seed": k})
        for k, data in places
    ]
    results = evaluate_files([*files, saved(tmp_path / "pixels.h5", 5.0, model="pixels")], ONE_C)
    table = headline(results, lookup.places(results))
    assert [line[0].text for line in table.rows] == ["vgg (seed-0)", "vgg (seed-1)", "pixels"]
    assert [[cell.row for cell in line[1:]] for line in table.rows] == [[0, 1], [2, 3], [4, None]]
    assert [row.line for row in results.rows] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("{model}/{data}.h5", ["vgg (x)", "vgg (y)"]),
        ("{data}/{model}.h5", ["vgg (x)", "vgg (y)"]),
        ("{model}-{data}.h5", ["vgg (x-toy)", "vgg (x-other)", "vgg (y-toy)", "vgg (y-other)"]),
    ],
)
def test_models_with_one_card_are_paired_over_data_sets_by_name_or_folder(
    name: str, expected: list[str], tmp_path: Path
) -> None:
    places = [(model, data) for model in ("x", "y") for data in ("toy", "other")]
    files = [
        saved(tmp_path / name.format(model=model, data=data), 0.1 + k, data=data)
        for k, (model, data) in enumerate(places)
    ]
    results = evaluate_files(files, ONE_C)
    assert [line[0].text for line in headline(results, lookup.places(results)).rows] == expected


def test_a_model_that_has_the_name_which_another_was_given_is_told_apart(tmp_path: Path) -> None:
    files = [saved(tmp_path / "a" / "f.h5", 0.05), saved(tmp_path / "b" / "f.h5", 3.0)]
    results = evaluate_files([*files, saved(tmp_path / "g.h5", 6.0, model="vgg (a)")], ONE_C)
    first, second, third = labels(results)
    digests = [row.file_sha256[:12] for row in results.rows]
    assert (first, second, third) == (
        f"vgg (a), SHA-256 {digests[0]}",
        "vgg (b)",
        f"vgg (a), SHA-256 {digests[2]}",
    )
    assert len(headline(results, lookup.places(results)).rows) == 3


@pytest.mark.parametrize("other", ["vgg\u200d", "vgg ", " vgg", "vgg\ufe0f", "vgg\u3164", "vgg\u00a0"])
def test_names_that_look_alike_are_told_apart(tmp_path: Path, other: str) -> None:
    files = [saved(tmp_path / "f.h5", 0.05), saved(tmp_path / "g.h5", 6.0, model=other)]
    results = evaluate_files(files, ONE_C)
    assert labels(results) == [
        f"{name}, SHA-256 {row.file_sha256[:12]}" for name, row in zip(("vgg", other), results.rows, strict=True)
    ]


@pytest.mark.parametrize("code", [0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF, 0x61C, 0xAD, 0xE0041, 0x7F, 0x9B, 0x202E])
def test_what_cannot_be_seen_is_seen_in_a_report(tmp_path: Path, code: int) -> None:
    files = [saved(tmp_path / "f.h5", 0.05), saved(tmp_path / "g.h5", 6.0, model=f"vgg{chr(code)}")]
    results = evaluate_files(files, ONE_C)
    for text in (report_markdown(results, {}), page(results)):
        assert chr(code) not in text
        assert "vgg\ufffd" in text


def test_rows_of_one_label_are_never_taken_for_each_other(seeds: list[Path]) -> None:
    """Labels are for readers: were they all the same, the report would still hold every number where it belongs."""
    real = evaluate_files(seeds, EvalConfig(c_grid=(0.01,), ablate=("normalization",)))
    same = dataclasses.replace(
        real,
        rows=tuple(dataclasses.replace(row, label="x") for row in real.rows),
        comparisons=tuple(dataclasses.replace(c, a="x", b="x") for c in real.comparisons),
    )
    for ask in (
        lambda results: [[cell.text for cell in line[1:]] for line in headline(results, lookup.places(results)).rows],
        lambda results: [lookup.standing(results, row) for row in results.rows],
        lambda results: [len(rows) for rows in lookup.ablations(results)],
        lambda results: [tables.ablation(results, rows).rows for rows in lookup.ablations(results)],
        lambda results: [card for card, _ in origins.cards(results)],
        lambda results: origins.command(results),
        lambda results: re.findall(r'class="bar s\d|href="#row-\d+"', page(results)),
    ):
        assert ask(same) == ask(real)


def test_the_same_content_under_two_names_is_refused(seeds: list[Path], tmp_path: Path) -> None:
    """A model beside its own copy is no comparison; and a row's identity is its file's content."""
    copy = tmp_path / "copy.h5"
    copy.write_bytes(seeds[1].read_bytes())
    refused = l2a("svm-eval", *seeds, copy, "--out", tmp_path / "r")
    assert_fails(refused, 1, f"{copy}: has the same content as {seeds[1]}", "name one of the two")
    assert not (tmp_path / "r").exists()


def test_two_image_sizes_of_one_model_are_two_lines(tmp_path: Path) -> None:
    """One line of models × data sets showed 32 pixels on one data set beside 64 on another."""
    files = []
    for size, data in ((32, "one"), (64, "two")):
        made = feature_set(LABELS, blobs(LABELS), model="vgg", data=data)
        meta = dataclasses.replace(made.meta, preprocess={**made.meta.preprocess, "size": size})
        files.append(save(tmp_path / f"{data}-{size}.h5", dataclasses.replace(made, meta=meta)))
    results = evaluate_files(files, ONE_C)
    assert [row.line for row in results.rows] == [0, 1]
    assert labels(results) == ["vgg (one-32)", "vgg (two-64)"]


def test_networks_of_two_files_of_one_name_are_two_models_and_no_seeds_of_one(tmp_path: Path) -> None:
    """Both are module:mine.py:net, and random weights of one seed are the same; what the code does with them is not."""
    card: dict[str, Any] = {"config": {"architecture": "module:mine.py:net"}, "weights_sha256": "0" * 64}
    own = {"training": {"untrained": True, "seed": 0}, **card}
    files = [saved(tmp_path / f"{k}.h5", 1.0, data=f"set {k}", code_sha256=str(k) * 64, **own) for k in range(2)]
    assert [row.line for row in evaluate_files(files, ONE_C).rows] == [0, 1]
    seeds = [
        saved(tmp_path / f"{k}-{seed}.h5", 1.0 + seed + k / 8, code_sha256=str(k) * 64, **{**own, "training": training})
        for k in range(2)
        for seed, training in enumerate({"untrained": True, "seed": seed} for seed in range(2))
    ]
    assert [len(found.seeds) for found in evaluate_files(seeds, ONE_C).seeds] == [2, 2]
