"""Cards and reports: JSON in weights, ONNX and feature files, and an earlier report in the folder of a new one."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from random import Random
from typing import Any

import h5py
from click.testing import CliRunner

from fuzzing import onnx_graphs, weights
from fuzzing.hdf5 import reseal, write_whole
from fuzzing.kinds import Kind, sha256
from fuzzing.mutate import damaged_json, one_of, pick, special_file
from l2a_transfer.cli.main import main
from l2a_transfer.errors import L2AError
from l2a_transfer.evaluation import evaluate
from l2a_transfer.features.backends.onnx import WEIGHTS_KEY
from l2a_transfer.models.weights import CARD_KEY
from l2a_transfer.report import write as report

LOADED = (evaluate, report)
"""Modules that `svm-eval` would otherwise load in every child."""
EVALUATION = ("--folds", "2", "--c-grid", "1e-2")
ATTRIBUTES = ("classes", "splits", "levels", "card", "preprocess", "fingerprint", "skipped", "source")
"""Attributes of a feature file; each is JSON."""
STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of characters that can control a terminal."""


def l2a(*arguments: object) -> str:
    """The output of a command. Raises: L2AError if it refuses; AssertionError if it ends in another way."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code in (0, 1), f"exit {done.exit_code}: {done.output[-300:]!a}"
    steering = {c for c in done.output if unicodedata.category(c) in STEERING and c not in "\n\t\r"}
    assert not steering, f"prints {steering!a}"
    if done.exit_code:
        raise L2AError(done.output.strip().splitlines()[-1])
    return done.output


def seeds(folder: Path) -> None:
    weights.seeds(folder)
    onnx_graphs.seeds(folder)
    write_whole(folder / "features.h5", 40)


def answer(path: Path) -> str:
    described = json.loads(l2a("inspect", path, "--json", "--verify"), parse_constant=_no_json)
    text = l2a("inspect", path)
    if path.suffix == ".h5":
        report = path.with_name("report")
        l2a("--quiet", "svm-eval", path, "--out", report, "--overwrite", *EVALUATION)
        json.loads((report / "results.json").read_text(encoding="utf-8"), parse_constant=_no_json)
        return sha256(described, text)
    own = weights.answer_features(path) if path.suffix == ".safetensors" else onnx_graphs.answer(path)
    return sha256(described, text, own)


def _no_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def _damage(path: Path, rng: Random) -> str:
    """Change one JSON document of the file, and seal it again."""
    if path.suffix == ".safetensors":
        header, tensors = weights.parts_of(path.read_bytes())
        metadata = header["__metadata__"]
        metadata[CARD_KEY] = damaged_json(json.loads(metadata[CARD_KEY]), rng)
        path.write_bytes(weights.resealed(header, tensors))
        return "card"
    if path.suffix == ".onnx":
        model = onnx_graphs.load(path)
        entry = rng.choice(
            [e for e in model.metadata_props if e.key in (CARD_KEY, CARD_KEY, WEIGHTS_KEY, "l2a-preprocess")]
        )
        entry.value = damaged_json(json.loads(entry.value), rng).encode(errors="replace").decode()
        onnx_graphs.save(path, model)
        return entry.key
    key = rng.choice(ATTRIBUTES)
    with h5py.File(path, "r+") as file:
        document = json.loads(file.attrs.get(key, "{}"))
        file.attrs[key] = damaged_json(document, rng).replace("\0", "").encode(errors="replace").decode()
    reseal(path)
    return key


def report_seeds(folder: Path) -> None:
    own = folder / "earlier"
    own.mkdir()
    write_whole(own / "features.h5", 40)
    l2a("--quiet", "svm-eval", own / "features.h5", "--out", own / "report", *EVALUATION)
    (own / "report" / "confusion-notes.png").write_bytes(b"not of the report")
    (own / "victim").write_bytes(b"victim")


def answer_report(path: Path) -> str:
    """The names of the files after a new report has replaced the earlier one; nothing else may have changed."""
    try:
        l2a("--quiet", "svm-eval", path / "features.h5", "--out", path / "report", "--overwrite", *EVALUATION)
    finally:
        assert (path / "victim").read_bytes() == b"victim", "wrote through a link"
    return sha256(sorted(file.name for file in (path / "report").iterdir()))


def _results(path: Path, rng: Random) -> str:
    results = path / "report" / "results.json"
    document: dict[str, Any] = json.loads(results.read_text())
    if rng.random() < 0.5:
        document["files"] = rng.choice(
            (
                5,
                None,
                "confusion-a.png",
                ["../victim", "/victim"],
                ["confusion-../victim.png"],
                [5, [], {}],
                {"a": 1},
                ["confusion-notes.png"],
                [None] * 9,
            )
        )
        text = json.dumps(document)
    else:
        text = damaged_json(document, rng)
    results.write_text(text, encoding="utf-8", errors="surrogatepass")
    return "results"


def _planted(path: Path, rng: Random) -> str:
    """A link to an unrelated file, under a name that a report writes or may write."""
    names = [file.name for file in (path / "report").iterdir()]
    place = path / "report" / (rng.choice(names) + rng.choice(("", ".partial", ".lock", ".tmp")))
    place.unlink(missing_ok=True)
    place.symlink_to("../victim")
    return place.suffix


def _elsewhere(path: Path, rng: Random) -> str:
    """The folder is a link, a file, or missing."""
    shutil.rmtree(path / "report")
    how = rng.choice(("victim", "nowhere", "/dev/null", "/proc/self", "absent"))
    if how != "absent":
        (path / "report").symlink_to(how)
    return how


report_damage = pick((6, _results), (2, _planted), (1, _elsewhere), (2, one_of(special_file, "report/*")))
KINDS = {
    "cards": Kind(seeds, _damage, answer, share=6),
    "reports": Kind(report_seeds, report_damage, answer_report, share=1),
}
