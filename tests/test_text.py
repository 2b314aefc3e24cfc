"""Names that strangers chose steer no terminal, are computed by no spreadsheet, and break no document."""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
import os
import re
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import h5py
import pytest
from click.testing import Result

import l2a_transfer
from l2a_transfer.cli.failures import explained
from l2a_transfer.cli.main import OneLineFormatter, _one_line
from l2a_transfer.errors import ArgumentError, DataError
from l2a_transfer.report.write import write_report
from l2a_transfer.text import csv_cell, json_text, terminal
from tests.conftest import TINY, l2a, save_picture
from tests.feature_files import feature_set, labels_of, save
from tests.made_results import comparison, results, row
from tests.test_store import reseal

HOSTILE = {
    "clears the screen": "\x1b[2J",
    "sets the title": "\x1b]0;owned\x07",
    "C1": "\x9b2J\x9d0;x\x9c",
    "bell": "\x07",
    "back over the line": "good\rbad",
    "another line": "good\nError: bad",
    "backspace": "bad\x08\x08\x08good",
    "delete": "\x7f",
    "next line": "\x85",
    "separators": "\u2028\u2029",
    "overrides": "\u202egpj.exe\u202c",
    "isolates": "\u2066x\u2069",
    "marks": "\u200e\u200f\u061c",
    "invisible": "\u200b\u2060\ufeff\xad",
    "tags": "\U000e0041\U000e007f",
    "half a character": "\ud800",
    "vertical": "a\x0b\x0cb",
}
EVERYTHING = "".join(text.replace("/", "") for text in HOSTILE.values())
KIND = pytest.mark.parametrize("kind", HOSTILE)
FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "=cmd|'/C calc'!A0",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "'=1",
    '"=1',
    "＝1",
    "＋1",
    "－1",
    "＠x",
    "a;=1",
    "a; =1",
    "-",
    "=",
    "--1",
    "-a.b",
    "\x00=1",
]


def steers(text: str) -> set[str]:
    """What in a text, whose lines end in LF, could steer a terminal or turn text round."""
    return {c for c in text if c != "\n" and (unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp"))} - {"\u200d"}


def said_safely(result: Result) -> None:
    for text in (result.stdout, result.stderr):
        assert not steers(text), (steers(text), text)
    assert "Traceback" not in result.output


@KIND
def test_a_line_for_a_terminal(kind: str) -> None:
    shown = terminal(f"a{HOSTILE[kind]}b")
    assert not steers(shown)
    assert "\n" not in shown
    assert (shown[0], shown[-1]) == ("a", "b")
    assert ast.literal_eval(f'"{shown}"') == f"a{HOSTILE[kind]}b"


def test_good_names_are_shown_as_they_are() -> None:
    for name in ("bée", "шоколад", "שלום", "می\u200cخواهم", "🦆", "👩\u200d🔬", "a\u00a0×2", "C:\\x", "été 2", "漢字"):
        assert terminal(name) == csv_cell(name) == json_text(name) == name


@KIND
def test_json_is_the_same_document(kind: str) -> None:
    document = {HOSTILE[kind]: [HOSTILE[kind], 1]}
    shown = json_text(json.dumps(document, ensure_ascii=False, indent=1))
    assert not steers(shown)
    assert json.loads(shown) == document


@pytest.mark.parametrize("text", FORMULAS)
def test_a_spreadsheet_computes_no_cell(text: str) -> None:
    shown = csv_cell(text)
    assert isinstance(shown, str)
    for part in shown.split(";"):  # at which it cuts where the comma is a decimal point
        assert not re.match(r"[\s\"]*[=+\-@＝＋－＠]", part), shown
    assert not re.search(r"[\x00-\x1f]", shown)
    assert text.strip("\t\r\n\x00 ")[-1] == shown[-1]


@pytest.mark.parametrize(
    "value", [-0.5, -1, 0, 1e-05, None, True, "-0.5", "-0.5;+0.25", "-1e-05 0.1;1", "", "good", "a-b"]
)
def test_numbers_and_plain_text_stay_what_they_are(value: object) -> None:
    assert csv_cell(value) == value
    assert type(csv_cell(value)) is type(value)


@pytest.mark.parametrize("name", [*HOSTILE.values(), *FORMULAS])
def test_a_report_in_every_medium(name: str, tmp_path: Path) -> None:
    card = {"name": name, name: {name: [name]}, "training": {name: name}, "metrics": {name: name}}
    rows = [
        row(name, data=name, file=name, why=name, notes=(name,), tap=name, levels=(name, name)),
        row("b", data=name),
    ]
    made = results(rows, [comparison(name, "b", -0.5, data=name, verdict=name)], classes=(name, "b"), card=card)
    write_report(made, tmp_path)
    for file in ("results.json", "results.csv", "comparisons.csv", "report.md", "report.html"):
        text = (tmp_path / file).read_text(encoding="utf-8")
        beside = {"\u200e", "\u200f", "\u061c", "\u200b", "\u2060", "\ufeff", "\xad", "\U000e0041", "\U000e007f"}
        assert not steers(text) - (beside if file.startswith("report") else set()), file
    document = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert document["rows"][0]["label"] == document["details"][0]["classes"][0] == name
    for file in ("results.csv", "comparisons.csv"):
        table = list(csv.reader(io.StringIO((tmp_path / file).read_text(encoding="utf-8"))))
        assert len({len(line) for line in table}) == 1
        for cell in (cell for line in table for cell in line):
            numbers = re.fullmatch(r"[-+\d.e]*", cell)
            assert numbers or not re.match(r"[\s\"]*[=+\-@＝＋－＠]", cell), cell
    found = list(csv.DictReader(io.StringIO((tmp_path / "comparisons.csv").read_text(encoding="utf-8"))))
    assert float(found[0]["difference"]) == -0.5


def hostile_features(path: Path, name: str) -> Path:
    """A feature file in which every text is `name`, without its half characters where no file may have them."""
    whole = name.encode("utf-8", "replace").decode()
    save(path, feature_set(labels_of(2, 12)))
    card = {"name": name, name: {name: [name, {name: name}]}, "training": {name: name}, "metrics": {name: name}}
    texts = dict.fromkeys(("data", "tap", "precision", "backend"), whole)
    documents = {
        "classes": [f"{whole}0", f"{whole}1"],
        "card": card,
        "preprocess": {name: name},
        "fingerprint": {name: name},
        "levels": [[whole, 0, 6]],
        "skipped": [[name, name]],
        "source": {"splits_from": name, "passed_over": {"files": 1, "kinds": {name: 1}, "first": [name]}},
    }
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        for key, value in documents.items():
            file.attrs[key] = json.dumps(value)
        for key, value in texts.items():
            file.attrs[key] = value
    reseal(path)
    return path


@KIND
def test_inspect(kind: str, tmp_path: Path) -> None:
    path = hostile_features(tmp_path / "f.h5", HOSTILE[kind])
    text, document = l2a("inspect", path), l2a("inspect", path, "--json")
    assert (text.exit_code, document.exit_code) == (0, 0), text.output
    said_safely(text)
    said_safely(document)
    keys = {line.split()[0].partition(".")[0] for line in text.stdout.splitlines()}
    assert keys <= set(json.loads(document.stdout))
    assert json.loads(document.stdout)["card"]["name"] == HOSTILE[kind]


@KIND
def test_svm_eval_with_its_bar(kind: str, tmp_path: Path) -> None:
    path = hostile_features(tmp_path / "f.h5", HOSTILE[kind])
    other = save(tmp_path / "g.h5", feature_set(labels_of(2, 12), data="toy"))
    result = l2a("svm-eval", path, other, "--out", tmp_path / "report", "--c-grid", "0.01")
    assert result.exit_code == 0, result.output
    assert "fit" in result.stderr
    assert not steers(result.stdout)
    assert not steers(result.stderr.replace("\r", ""))  # the bar goes back to the beginning of its own line
    shown = l2a("svm-eval", path, "--out", tmp_path / "report", "--c-grid", "0.01", "--json", "--overwrite")
    assert not steers(shown.stdout)
    assert json.loads(shown.stdout)["rows"][0]["label"] == HOSTILE[kind]


NAME = EVERYTHING.replace("\ud800", "")


def commands(folder: Path) -> dict[str, tuple[Any, ...]]:
    missing, picture = folder / f"{NAME}none", folder / f"{NAME}.jpg"
    picture.write_bytes(b"no picture")
    (folder / "photos" / NAME).mkdir(parents=True)
    (folder / "photos" / NAME / f"{NAME}.jpg").write_bytes(b"no picture")
    out = folder / "out"
    return {
        "inspect": ("inspect", missing),
        "svm-eval": ("svm-eval", missing, "--out", out),
        "svm-eval --compare": ("svm-eval", "a.h5", "--out", out, "--compare", NAME),
        "svm-eval --out": ("svm-eval", "a.h5", "--out", picture),
        "export": ("export", "--model", f"{missing}.safetensors", "--out", folder / "m.onnx"),
        "export --out": ("export", "--model", TINY, "--out", missing),
        "export --model": ("export", "--model", NAME, "--out", folder / "m.onnx"),
        "extract --model": ("extract", "--model", NAME, "--data", "digits", "--out", folder / "f.h5"),
        "extract --data": ("extract", "--model", "pixels", "--data", NAME, "--out", folder / "f.h5"),
        "extract npz": ("extract", "--model", "pixels", "--data", f"npz:{missing}", "--out", folder / "f.h5"),
        "extract wds": ("extract", "--model", "pixels", "--data", f"wds:{missing}", "--out", folder / "f.h5"),
        "extract folder": (
            "extract",
            "--model",
            "pixels",
            "--data",
            f"imagefolder:{folder / 'photos'}",
            "--out",
            folder / "f.h5",
        ),
        "extract --out": ("extract", "--model", "pixels", "--data", "digits", "--out", folder / "photos"),
        "maps": ("maps", "--model", TINY, picture, "--out", out),
        "explain": ("explain", "--model", TINY, picture, "--out", out),
        "explain --class": ("explain", "--model", TINY, picture, "--out", out, "--class", NAME),
        "sanity": ("sanity", "--model", TINY, picture, "--out", out),
        "sanity --labels": (
            "sanity",
            "--model",
            TINY,
            folder / "photos",
            "--labels",
            f"{missing}.safetensors",
            "--out",
            out,
        ),
        "train": ("train", "--model", NAME, "--data", "digits", "--out", out),
        "train --data": ("train", "--model", "vgg", "--data", f"imagefolder:{folder / 'photos'}", "--out", out),
        "train --init-from": (
            "train",
            "--model",
            "vgg",
            "--data",
            "caltech-mini",
            "--init-from",
            f"{missing}.safetensors",
            "--out",
            out,
        ),
        "quickstart": ("quickstart", "--out", picture),
        "models": ("models", f"--{NAME}"),
        "datasets": ("datasets", NAME),
        "an option": (f"--{NAME}",),
        "a verb": (NAME,),
    }


@pytest.mark.parametrize(
    "which",
    [
        "inspect",
        "svm-eval",
        "svm-eval --compare",
        "svm-eval --out",
        "export",
        "export --out",
        "export --model",
        "extract --model",
        "extract --data",
        "extract npz",
        "extract wds",
        "extract folder",
        "extract --out",
        "maps",
        "explain",
        "explain --class",
        "sanity",
        "sanity --labels",
        "train",
        "train --data",
        "train --init-from",
        "quickstart",
        "models",
        "datasets",
        "an option",
        "a verb",
    ],
)
def test_what_every_verb_says_of_a_name(which: str, tmp_path: Path) -> None:
    result = l2a(*commands(tmp_path)[which])
    assert result.exit_code in (1, 2), result.output
    assert not steers(result.stdout)
    assert not steers(result.stderr.replace("\r", "")), steers(result.stderr)
    assert isinstance(result.exception, SystemExit)


@pytest.mark.slow
def test_the_log_the_traceback_and_warnings_of_a_process_of_its_own(tmp_path: Path) -> None:
    for k in range(2):
        save_picture(tmp_path / "photos" / "a" / f"{k}.jpg", k)
    (tmp_path / "photos" / "a" / f"{NAME}.jpg").write_bytes(b"no picture")
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    run = [sys.executable, "-m", "l2a_transfer"]
    source = f"imagefolder:{tmp_path / 'photos'}"
    skipped = subprocess.run(
        [*run, "extract", "--model", "pixels", "--data", source, "--out", tmp_path / "f.h5", "--on-error", "skip"],
        capture_output=True,
        env=environment,
        timeout=300,
        check=True,
    )
    said = skipped.stderr.decode()
    assert "skipped a/\\x1b[2J" in said
    assert not steers(said + skipped.stdout.decode())
    failed = subprocess.run(
        [*run, "--traceback", "inspect", tmp_path / f"{NAME}.h5"], capture_output=True, env=environment, timeout=300
    )
    assert b"Traceback" in failed.stderr
    assert not steers(failed.stderr.decode())


def test_records_of_the_log_and_warnings_are_one_line() -> None:
    record = logging.LogRecord("l2a_transfer", logging.WARNING, "", 0, "skipped %s", (NAME,), None)
    assert not steers(OneLineFormatter().format(record))
    assert "\n" not in OneLineFormatter().format(record)
    with warnings.catch_warnings():
        assert not steers(_one_line(UserWarning(NAME), UserWarning, "file.py", 3))


def test_an_error_keeps_the_name_and_shows_it_safely() -> None:
    error = DataError(f"{NAME}: no such file")
    assert NAME in str(error)
    assert not steers(explained(error).message)
    assert "\n" not in explained(error).message
    assert not steers(explained(ArgumentError(f"data {NAME!r} is none")).message)
    bug = explained(ZeroDivisionError(NAME)).message
    assert not steers(bug)
    assert len(bug.splitlines()) == 2


def test_everything_that_verbs_say_goes_through_one_function() -> None:
    package = Path(l2a_transfer.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "output.py":
            assert not re.search(r"\b(?:click\.s?echo|click\.secho|print|sys\.std(?:out|err)\.write)\(", text), path


def test_a_hostile_folder_is_the_name_of_a_class(tmp_path: Path) -> None:
    for k in range(2):
        save_picture(tmp_path / f"photos{k}" / NAME / f"{k}.jpg", k)
        save_picture(tmp_path / f"photos{k}" / "b" / f"{k}.jpg", k)
    source = f"imagefolder:{tmp_path / 'photos0'}"
    result = l2a("extract", "--model", "pixels", "--data", source, "--out", tmp_path / "f.h5")
    assert result.exit_code == 0, result.output
    assert not steers(result.stdout + result.stderr.replace("\r", ""))
    said_safely(l2a("inspect", tmp_path / "f.h5", "--json"))
