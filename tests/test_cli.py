"""What every command shares: help with an example that parses, exit codes, nearest names, torch only when needed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import click
import pytest

from l2a_transfer import __version__
from l2a_transfer.cli.main import VERBS, main
from tests.conftest import assert_fails, l2a

TORCH_FREE = (
    "l2a_transfer",
    "l2a_transfer.errors",
    "l2a_transfer.models.config",
    "l2a_transfer.data.registry",
    "l2a_transfer.features.store.reader",
    "l2a_transfer.evaluation.evaluate",
    "l2a_transfer.svm.fitting",
    "l2a_transfer.svm.estimators",
    "l2a_transfer.evaluation.protocols",
    "l2a_transfer.evaluation.statistics",
    "l2a_transfer.report.write",
    "l2a_transfer.study.study",
    "l2a_transfer.cli.main",
)


def parse(line: str) -> None:
    """Parses one `l2a-transfer VERB …` line without running it. Raises: click.UsageError where it is wrong."""
    words = shlex.split(line)
    assert words[0] == "l2a-transfer", line
    with main.make_context("l2a-transfer", words[1:]) as context:
        name, command, rest = main.resolve_command(context, context._protected_args + context.args)  # type: ignore[attr-defined]
        with command.make_context(name, rest, parent=context):
            pass


def in_fresh_process(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_an_example_that_parses(verb: str) -> None:
    result = l2a(verb, "-h")
    assert result.exit_code == 0, result.output
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    assert command.help is not None
    examples = re.findall(r"^\s*(l2a-transfer .+)$", command.help.split("Example:")[-1], flags=re.MULTILINE)
    assert examples, f"the help of {verb} has no example"
    for example in examples:
        assert example.startswith(f"l2a-transfer {verb}"), example
        parse(example)


def test_the_parser_of_examples_refuses_a_wrong_flag() -> None:
    with pytest.raises(click.UsageError):
        parse("l2a-transfer extract --modle x --data y --out z")


def test_help_of_every_verb_and_the_listed_modules_work_without_torch() -> None:
    code = f"""
import sys
from importlib import import_module
from click.testing import CliRunner
for module in {TORCH_FREE!r}:
    import_module(module)
from l2a_transfer.cli.main import VERBS, main
for arguments in [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)]:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, (arguments, result.output)
print(sorted(name for name in sys.modules if name.split(".")[0] in ("torch", "torchvision", "onnxruntime", "onnx")))
"""
    assert in_fresh_process(code).strip() == "[]"


def test_public_names_are_there_and_listed() -> None:
    code = """
import l2a_transfer
for name in l2a_transfer.__all__:
    assert getattr(l2a_transfer, name).__doc__, name
    assert name in dir(l2a_transfer)
"""
    in_fresh_process(code)
    import l2a_transfer

    with pytest.raises(AttributeError, match="nonsense"):
        _ = l2a_transfer.nonsense


def test_version() -> None:
    assert l2a("--version").stdout.strip() == f"l2a-transfer, version {__version__}"


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["extrac"], "extract"),
        (["svm_eval"], "svm-eval"),
        (["extract", "--modle", "x"], "--model"),
        (["extract", "--model", "vgg-att2-concat-pd", "--data", "caltech-mini", "--out", "x.h5"], "vgg-att2-concat-p"),
        (["extract", "--model", "pixels", "--data", "caltech-mimi", "--out", "x.h5"], "caltech-mini"),
        (["extract", "--model", "untrained:vgg-att2-concat-pc@0.0625", "--data", "caltech-mini", "--levels", "L4",
          "--out", "x.h5"], "L2"),
        (["extract", "--model", "untrained:vgg-att2-concat-pc@0.0625", "--data", "caltech-mini", "--tap", "gaa",
          "--out", "x.h5"], "ga"),
        (["extract", "--model", "pixels", "--data", "caltech-mini", "--split", "tset", "--out", "x.h5"], "test"),
        (["train", "--model", "vgg-att2-concat-pc", "--data", "cifar01", "--data-dir", "x", "--out", "y"], "cifar10"),
        (["export", "--model", "untrained:vgg-att2-concat-cp", "--out", "x.onnx"], "vgg-att2-concat-pc"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)  # fmt: skip
def test_an_unknown_name_exits_2_and_names_the_nearest(arguments: list[str], nearest: str) -> None:
    assert_fails(l2a(*arguments), 2, nearest)


def test_json_documents_are_one_document() -> None:
    for verb in ("models", "datasets"):
        result = l2a(verb, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)


def test_click_refuses_no_path_itself() -> None:
    """Click's own check of a path that cannot be read exits 2, as for misuse; the verbs say 1 and what to do."""
    paths = [p for verb in VERBS for p in main.get_command(None, verb).params if isinstance(p.type, click.Path)]  # type: ignore[arg-type,union-attr]
    assert paths
    assert not [p.name for p in paths if p.type.readable]
