"""What is printed, in whatever encoding stdout has: every verb succeeds and its help can be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from l2a_transfer.cli.main import VERBS
from l2a_transfer.cli.output import ERRORS
from l2a_transfer.models.weights import save_weights
from tests.conftest import TINY, l2a, save_picture
from tests.feature_files import feature_set, labels_of, save
from tests.test_robustness import named

ENCODINGS = ("latin-1", "ascii", "cp437", "utf-8")


def run(arguments: list[str], encoding: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "l2a_transfer", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, timeout=120, check=False, env=environment)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("letters")
    for label in ("Ærø", "猫"):
        for k in range(2):
            save_picture(root / "photos" / label / f"{k} → {k}.jpg", seed=k)
    boxes = "".join(f"{label}/{k} → {k}.jpg,2,2,9,9\n" for label in ("Ærø", "猫") for k in range(2))
    (root / "boxes.csv").write_text(boxes, encoding="utf-8")
    save(root / "Łódź.h5", feature_set(labels_of(2, 12)))
    save_weights(*named(classes=("Ærø", "猫", *"cdefghij")), root / "Łódź.safetensors")
    return root


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_help_of_every_verb_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    code = """
import sys
from l2a_transfer.cli.main import VERBS, main
for arguments in [["--help"], *([verb, "--help"] for verb in VERBS)]:
    try:
        main(arguments, prog_name="l2a-transfer")
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    assert text.count("Example:") == len(VERBS) + 1


COMMANDS = {  # quickstart has a test of its own, which takes half a minute
    "models": ["models"],
    "datasets": ["datasets"],
    "extract": ["extract", "--model", "pixels", "--data", "imagefolder:photos", "--out", "→ {}.h5"],
    "maps": ["maps", "--model", TINY, "--out", "maps {}", "photos/猫/0 → 0.jpg"],
    "explain": [
        "explain",
        "--model",
        TINY,
        "--out",
        "why {}",
        "--side",
        "16",
        "--data",
        "imagefolder:photos",
        "--store",
        "→ maps {}.h5",
    ],
    "sanity": [
        *("sanity", "--model", TINY, "--out", "check {}", "photos/猫/0 → 0.jpg"),
        *("--method", "evidence", "--seeds", "1", "--side", "16", "--no-independent"),
    ],
    "localize": [
        "localize",
        "--model",
        TINY,
        "--side",
        "32",
        "--data",
        "photos",
        "--masks",
        "csv:boxes.csv",
        "--out",
        "l {}",
    ],
    "faithfulness": ["faithfulness", "--model", TINY, "--steps", "1", "--out", "faithful {}", "photos/猫/0 → 0.jpg"],
    "robustness": [
        *("robustness", "--model", "Łódź.safetensors", "--data", "imagefolder:photos", "--attack", "fgsm"),
        *("--out", "robust {}"),
    ],
    "inspect": ["inspect", "Łódź.h5"],
    "inspect --json": ["inspect", "--json", "Łódź.h5"],
    "svm-eval": ["svm-eval", "Łódź.h5", "--out", "report {}", "--c-grid", "0.01"],
    "svm-eval --json": ["svm-eval", "Łódź.h5", "--out", "r {}", "--c-grid", "0.01", "--json"],
    "train": [
        "train",
        "--model",
        "vgg",
        "--width",
        "0.0625",
        "--data",
        "imagefolder:photos",
        "--holdout",
        "1",
        "--epochs",
        "1",
        "--batch-size",
        "2",
        "--out",
        "run → {}",
    ],
    "export": ["export", "--model", TINY, "--out", "→ {}.onnx"],
}

QUICK = ("models", "datasets", "extract", "inspect", "inspect --json", "svm-eval", "svm-eval --json")
"""Those that do not load torch."""

EVERY = """
import json, os, sys
from l2a_transfer.cli.main import main
codes = {}
for number, (name, arguments) in enumerate(json.loads(sys.argv[1]).items()):
    sys.stdout.flush()
    for descriptor in (1, 2):
        os.dup2(os.open(f"{number}.{descriptor}.{sys.argv[3]}", os.O_WRONLY | os.O_CREAT), descriptor)
    try:
        main(arguments, prog_name="l2a-transfer")
    except SystemExit as end:
        codes[name] = end.code
sys.stdout.flush()
os.dup2(int(sys.argv[2]), 1)
print(json.dumps(codes))
"""


@dataclass(frozen=True)
class Printed:
    code: int
    stdout: bytes
    stderr: bytes


@pytest.fixture(scope="module")
def printed(world: Path) -> Callable[[str, str], Printed]:
    """What a command printed in an encoding. The quick commands share a process, and so do those that load torch."""

    @cache
    def together(encoding: str, quick: bool) -> dict[str, Printed]:
        chosen = {
            name: [word.format(encoding) for word in words]
            for name, words in COMMANDS.items()
            if (name in QUICK) == quick
        }
        ends = f"{encoding}.{quick}"
        receive, send = os.pipe()
        with os.fdopen(receive, encoding=encoding) as codes:
            done = subprocess.run(
                [sys.executable, "-c", EVERY, json.dumps(chosen), str(send), ends],
                cwd=world,
                pass_fds=[send],
                timeout=300,
                check=False,
                env={**os.environ, "PYTHONIOENCODING": encoding},
            )
            os.close(send)
            assert done.returncode == 0
            ended = json.loads(codes.read())
        return {
            name: Printed(ended[name], *((world / f"{k}.{stream}.{ends}").read_bytes() for stream in (1, 2)))
            for k, name in enumerate(chosen)
        }

    return lambda command, encoding: together(encoding, command in QUICK)[command]


ENCODED = [(command, encoding) for encoding in ("ascii", "latin-1") for command in COMMANDS]


@pytest.mark.parametrize(
    ("command", "encoding"),
    [
        pytest.param(*pair, marks=() if pair[0] in QUICK and pair[1] == "ascii" else pytest.mark.slow)
        for pair in ENCODED
    ],
)
def test_a_success_is_a_success_in_any_encoding(
    command: str,
    encoding: str,
    printed: Callable[[str, str], Printed],
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = printed(command, encoding)
    assert done.code == 0, done.stderr
    assert b"rename" not in done.stderr
    text = done.stdout.decode(encoding)
    assert text.strip()
    if "--json" in command:
        monkeypatch.chdir(world)
        in_utf8 = l2a(*(word.format(f"{encoding} again") for word in COMMANDS[command])).stdout
        one, other = json.loads(text), json.loads(in_utf8)
        assert one["kind" if command.startswith("inspect") else "schema"]
        for document in (one, other):
            for row in document.get("rows", []) if isinstance(document.get("rows"), list) else []:
                row.pop("seconds")
        assert one == other


def test_our_own_letters_have_lookalikes_and_others_the_escape_of_json() -> None:
    assert (
        "− → … × ≥ ± é 猫 🦙 \udcff".encode("latin-1", ERRORS)
        == b"- -> ... \xd7 >= \xb1 \xe9 \\u732b \\ud83e\\udd99 \\udcff"
    )
    assert json.loads(b'"' + "é猫🦙".encode("ascii", ERRORS) + b'"') == "é猫🦙"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_refusal_that_an_encoding_lacks_is_still_a_refusal(encoding: str, tmp_path: Path) -> None:
    done = run(["inspect", "猫→.h5"], encoding, tmp_path)
    assert done.returncode == 1
    assert rb"\u732b->.h5" in done.stderr
