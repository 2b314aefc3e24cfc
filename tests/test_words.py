"""What errors say, and to whom: Python's names in Python, flags on the command line, and faults of our own as such."""

from __future__ import annotations

import ast
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import l2a_transfer
from l2a_transfer.cli.failures import PARAMETER, explained
from l2a_transfer.cli.main import VERBS, main
from l2a_transfer.errors import (
    ArgumentError,
    BackendError,
    Interrupted,
    L2AError,
    MissingExtraError,
    OutputExistsError,
    unknown_name,
)
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import PRETRAINED
from tests.conftest import assert_fails, l2a, memory_source, save_picture
from tests.feature_files import feature_set, labels_of, save

PACKAGE = Path(l2a_transfer.__file__).parent
OPTIONS = {
    parameter.name: parameter
    for verb in VERBS
    for parameter in main.get_command(click.Context(main), verb).params  # type: ignore[union-attr]
}


def texts(path: Path) -> Iterator[str]:
    """Every string of a module that is no docstring; an f-string in pieces."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


LIBRARY = [path for path in PACKAGE.rglob("*.py") if "cli" not in path.relative_to(PACKAGE).parts]


def test_no_sentence_of_the_library_names_a_flag() -> None:
    # The command that repeats a report, git's own options, and the commands of a study.
    allowed = {"cards.py", "origins.py", "provenance.py", "steps.py"}
    found = [
        (path.name, text)
        for path in LIBRARY
        if path.name not in allowed
        for text in texts(path)
        if re.search(r"(^|[\s(`'])--[a-z]", text)
    ]
    assert not found


def test_every_parameter_that_a_remedy_names_is_a_flag() -> None:
    named = {match[1] for path in LIBRARY for text in texts(path) for match in PARAMETER.finditer(text)}
    assert {"overwrite", "resume", "out"} <= named
    assert named <= set(OPTIONS)


def test_a_remedy_is_told_in_the_reader_s_language() -> None:
    error = OutputExistsError(
        "f.h5: exists", "`resume=True` verifies it, `on_error='skip'`, `attention=False`, or `out`"
    )
    assert str(error) == "f.h5: exists; `resume=True` verifies it, `on_error='skip'`, `attention=False`, or `out`"
    said = explained(error)
    assert said.message == "f.h5: exists; --resume verifies it, --on-error skip, --no-attention, or --out"
    assert said.exit_code == 1


def test_names_of_files_are_never_taken_for_parameters() -> None:
    assert explained(OutputExistsError("`out`: exists", "move `out`")).message == "`out`: exists; move --out"
    assert explained(BackendError("data_dir: no such folder"), ["data_dir"]).message == "data_dir: no such folder"


def test_misuse_names_the_option_of_the_command_that_was_given() -> None:
    assert explained(ArgumentError("c_grid must be positive"), ["c_grid"]).message == "--c-grid must be positive"
    assert explained(ArgumentError("c_grid must be positive")).message == "c_grid must be positive"
    assert explained(unknown_name("tap", "gaa", ["ga"]), ["tap"]).message.startswith(
        "--tap must be one of ga; got 'gaa'"
    )
    assert_fails(l2a("svm-eval", "f.h5", "--out", "s", "--c-grid", "1e300"), 2, "--c-grid must be different")
    assert_fails(l2a("svm-eval", "f.h5", "--out", "s", "--probe", "knn,knn"), 2, "--probe must be distinct")


@pytest.mark.parametrize(
    "error",
    [
        OutputExistsError("there", "`out`"),
        ArgumentError("wrong"),
        MissingExtraError("wds:x", "fsspec", "remote"),
        Interrupted("saved", "`resume=True`"),
        unknown_name("tap", "gaa", ["ga"]),
    ],
)
def test_errors_cross_processes_as_they_are(error: BaseException) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(copy), str(copy)) == (type(error), str(error))


def test_two_parameters_that_exclude_each_other_are_shown_as_options() -> None:
    error = ArgumentError("compare and reference cannot be used together: name pairs, or one reference for all models")
    said = explained(error, ["compare", "reference"]).message
    assert said == "--compare and --reference cannot be used together: name pairs, or one reference for all models"
    assert explained(error, ["compare"]).message == str(error)


def test_misuse_is_a_value_error_and_files_are_not() -> None:
    assert issubclass(ArgumentError, ValueError)
    assert not issubclass(L2AError, ValueError)
    assert not issubclass(Interrupted, Exception)


BROKEN = """
import sys
import l2a_transfer.models.weights as weights
def broken():
    raise ValueError("too many values to unpack (expected 2)")
weights.pretrained_names = broken
from l2a_transfer.cli.main import main
main(sys.argv[1:], prog_name="l2a-transfer")
"""


def broken(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BROKEN, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_fault_of_our_own_does_not_look_like_misuse() -> None:
    done = broken("models")
    assert done.returncode == 70
    assert "ValueError: too many values to unpack" in done.stderr
    assert "Please report it" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Usage" not in done.stderr


@pytest.mark.parametrize(("arguments", "environment"), [(["--traceback"], {}), ([], {"L2A_DEBUG": "1"})])
def test_the_traceback_is_shown_on_request(arguments: list[str], environment: dict[str, str]) -> None:
    done = broken(*arguments, "models", **environment)
    assert done.returncode == 70
    assert "in broken\n" in done.stderr  # the frame that raised it; the source of `-c` is shown by some Pythons alone
    assert done.stderr.rstrip().endswith("(or set the environment variable L2A_DEBUG=1).")


def test_a_refusal_shows_its_traceback_too_and_keeps_its_exit_code(tmp_path: Path) -> None:
    result = l2a("--traceback", "inspect", tmp_path / "none.h5")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_ctrl_c_prints_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("l2a_transfer.cli.models.echo_json", interrupted)
    result = l2a("models", "--json")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "Interrupted before it finished; run it again.\n"


@pytest.mark.slow
def test_ctrl_c_during_training_says_once_where_it_was_saved(tmp_path: Path) -> None:
    command = [
        "train",
        "--model",
        "vgg",
        "--width",
        "0.0625",
        "--data",
        "digits",
        "--holdout",
        "1700",
        "--epochs",
        "500",
    ]
    child = subprocess.Popen(
        [sys.executable, "-m", "l2a_transfer", *command, "--out", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stderr is not None
    while "epoch 1/500" not in (line := child.stderr.readline()):
        assert line, "it ended"
    child.send_signal(signal.SIGINT)
    said = [line for line in child.communicate(timeout=60)[1].splitlines() if not line.startswith("epoch ")]
    assert child.returncode == 130
    assert len(said) == 1, said
    assert said[0].startswith("Interrupted: stopped ")
    assert said[0].endswith("checkpoint.pt; run it again with --resume, not --overwrite, to continue.")


def test_memory_that_runs_out_is_no_fault_of_ours() -> None:
    assert explained(MemoryError("Unable to allocate 8 GiB")).exit_code == 1
    assert "8 GiB" in explained(MemoryError("Unable to allocate 8 GiB")).message


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), 1, "out of memory: DefaultCPU"),
        (ImportError("libx.so: no such file", name="torch"), 1, "a package cannot be loaded: libx.so"),
        (ImportError("no name 'x'", name="l2a_transfer.errors"), 70, "bug in l2a-transfer"),
        (RuntimeError("DataLoader worker (pid 3) is killed"), 1, "fewer --workers"),
        (UnicodeEncodeError("utf-8", "f\udcff.h5", 1, 2, "surrogates"), 1, r"'f\udcff.h5'"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "start"), 70, "bug in l2a-transfer"),
        (KeyError("x"), 70, "KeyError: 'x'"),
        (OSError(28, "No space left on device", "f.h5"), 1, "f.h5: No space left on device; the disk is full"),
    ],
)
def test_whose_fault_an_error_is(error: Exception, code: int, words: str) -> None:
    said = explained(error)
    assert (said.exit_code, words in said.message) == (code, True), said.message


@pytest.mark.parametrize("option", ["--seed 4294967296", "--seed -1", "--max-memory 1K --c-grid 0.1"])
def test_numbers_out_of_range_are_misuse(option: str, tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", feature_set(labels_of(2, 12)))
    result = l2a("svm-eval", path, "--out", tmp_path / "r", *option.split())
    assert_fails(result, 2, option.split()[0])


def test_the_library_reads_no_environment() -> None:
    """Debugging is asked for on the command line; what the processes of torchrun are told is an argument too."""
    readers = [
        path.name
        for path in LIBRARY
        if any(
            isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    ]
    # The compiler's cache is named in no other way, Ray is told in no other way to report nothing, a command on another
    # node has that node's environment, an error names the address that torch itself has read there, and OpenMP reads
    # nothing else when it is loaded.
    assert sorted(readers) == ["compiling.py", "processes.py", "ray_engine.py", "ray_launcher.py", "threads.py"]


PIXELS = np.zeros((4, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: l2a_transfer.extract(7, PixelsBackend(), "f.h5"), "data must be a data set's name"),  # type: ignore[arg-type]
        (lambda: l2a_transfer.extract(memory_source(), 7, "f.h5"), "model must be a model's name"),  # type: ignore[arg-type]
        (lambda: evaluate_files("f.h5"), r"paths must be a list of feature files, such as \['features.h5'\]"),
        (lambda: l2a_transfer.evaluate("f.h5", {"folds": 3}), "config must be an EvalConfig"),  # type: ignore[arg-type]
        (lambda: l2a_transfer.open_backend(PIXELS), "model must be a model's name"),  # type: ignore[arg-type]
        (lambda: l2a_transfer.load_model(None), "name must be a model's name.*got NoneType"),  # type: ignore[arg-type]
        (lambda: l2a_transfer.create_model(7), "name must be the name of an architecture.*got int"),  # type: ignore[arg-type]
        (lambda: build_model("vgg"), r"config must be a ModelConfig.*got str"),  # type: ignore[arg-type]
        (lambda: l2a_transfer.export_onnx(None, "f.onnx"), "model must be a model's name"),  # type: ignore[call-overload]
        (lambda: l2a_transfer.attention_maps(7, "p.jpg"), "model must be a model's name"),  # type: ignore[call-overload]
        (
            lambda: l2a_transfer.attention_maps(build_model(ModelConfig("vgg-att2-concat-pc", width=0.0625)), [7]),  # type: ignore[list-item]
            "images must be a Pillow image",
        ),
        (lambda: l2a_transfer.create_model("vgg", width="a"), "width must be a number.*got str"),  # type: ignore[arg-type]
        (lambda: l2a_transfer.list_models(4), "pattern must be a name pattern.*got int"),  # type: ignore[arg-type]
        (lambda: l2a_transfer.extract(memory_source(), PixelsBackend(), None), "out must be a path.*got NoneType"),  # type: ignore[arg-type]
        (lambda: l2a_transfer.write_report("x.h5", "report"), r"results must be the result of evaluate\(\).*got str"),  # type: ignore[arg-type]
        (lambda: l2a_transfer.train(7, "digits", "run"), "architecture must be the name of an architecture"),  # type: ignore[arg-type]
    ],
)
def test_another_kind_of_argument_is_a_type_error_that_says_what_to_pass(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        call()


def test_files_are_evaluated_without_a_config(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", feature_set(labels_of(2, 12)))
    given = l2a_transfer.evaluate([str(path)], l2a_transfer.EvalConfig())
    found = l2a_transfer.evaluate(path)
    assert (found.config, found.details) == (given.config, given.details)


def test_models_and_data_may_be_paths(tmp_path: Path) -> None:
    save_picture(tmp_path / "cat" / "0.jpg")
    with pytest.raises(ValueError, match="did you mean 'imagefolder:"):
        l2a_transfer.open_source(tmp_path)
    path = PRETRAINED / "vgg-att2-concat-pc.cifar10-w025.safetensors"
    assert l2a_transfer.open_backend(path, device="cpu").card["name"] == "vgg-att2-concat-pc.cifar10-w025"
