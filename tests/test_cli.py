"""What every command shares: help with an example that parses, exit codes, nearest names, torch only when needed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from l2a_transfer import __version__
from l2a_transfer.cli.main import VERBS, main
from l2a_transfer.cli.options import GroupedOption, NameChoice
from l2a_transfer.errors import unknown_name
from tests.conftest import assert_fails, l2a

TORCH_FREE = (
    "l2a_transfer",
    "l2a_transfer.errors",
    "l2a_transfer.models.config",
    "l2a_transfer.models.families.plain",
    "l2a_transfer.models.families.pan",
    "l2a_transfer.models.families.decoupled",
    "l2a_transfer.models.families.soft",
    "l2a_transfer.data.registry",
    "l2a_transfer.features.store.reader",
    "l2a_transfer.evaluation.evaluate",
    "l2a_transfer.svm.fitting",
    "l2a_transfer.svm.estimators",
    "l2a_transfer.evaluation.protocols",
    "l2a_transfer.evaluation.statistics",
    "l2a_transfer.report.write",
    "l2a_transfer.report.faithfulness",
    "l2a_transfer.report.robustness",
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


def test_no_arguments_print_the_help_in_lines() -> None:
    result = l2a()
    assert result.exit_code == 2
    assert "\\n" not in result.stderr
    assert len(result.stderr.splitlines()) > 10


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
from l2a_transfer.cli.options import GroupedOption, NameChoice
for arguments in [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)]:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, (arguments, result.output)
print(sorted(name for name in sys.modules if name.split(".")[0] in ("torch", "torchvision", "onnxruntime", "onnx")))
"""
    assert in_fresh_process(code).strip() == "[]"


def parameters(verb: str) -> list[click.Parameter]:
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    return command.params


def is_option(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option)


NAMED = [(verb, p) for verb in VERBS for p in parameters(verb) if isinstance(p.type, NameChoice)]


@pytest.mark.parametrize(("verb", "parameter"), NAMED, ids=[f"{verb} {p.opts[0]}" for verb, p in NAMED])
def test_a_wrong_choice_exits_2_with_the_sentence_of_the_library(verb: str, parameter: click.Parameter) -> None:
    assert isinstance(parameter.type, NameChoice)
    names = parameter.type.choices
    assert parameter.get_default(click.Context(main)) in names or "[default: " in (parameter.help or "")  # type: ignore[attr-defined]
    wrong = names[-1][:-1] + "_"
    arguments = [word for p in parameters(verb) if p.required for word in ([p.opts[0]] if is_option(p) else []) + ["x"]]
    result = l2a(verb, *arguments, parameter.opts[0], wrong)
    expected = str(unknown_name(parameter.opts[0], wrong, names))
    assert expected.endswith(f"did you mean {names[-1]!r}?")
    assert_fails(result, 2)
    assert result.stderr == f"Error: {expected}\n"


def test_choices_are_the_names_that_the_library_takes() -> None:
    from l2a_transfer.svm.config import SOLVERS
    from l2a_transfer.training.data import PLACES

    found = {(verb, p.name): p.type.choices for verb, p in NAMED if isinstance(p.type, NameChoice)}
    # Written out, because these modules import scikit-learn, for which no help should wait.
    assert found["svm-eval", "solver"] == SOLVERS
    assert found["train", "pixels"] == PLACES


@pytest.mark.parametrize(
    "verb", ["train", "extract", "svm-eval", "study", "explain", "localize", "faithfulness", "robustness"]
)
def test_every_option_of_a_long_help_has_a_group(verb: str) -> None:
    options = [p for p in parameters(verb) if is_option(p)]
    assert len({getattr(p, "group", None) for p in options} - {GroupedOption.group, None}) >= 3
    assert not [p.name for p in options if getattr(p, "group", GroupedOption.group) == GroupedOption.group]
    assert re.split(r"^\S.*:$", l2a(verb, "--help").stdout, flags=re.MULTILINE)[-1].split()[:2] == ["-h,", "--help"]


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_the_width_and_keeps_names_and_examples_whole(verb: str, columns: int) -> None:
    text = CliRunner().invoke(main, [verb, "--help"], terminal_width=columns).stdout
    lines = text.splitlines()
    for parameter in parameters(verb):
        for name in parameter.opts if is_option(parameter) else ():
            assert [line for line in lines if re.match(rf"  {name}(?![\w-])", line)], name
    assert "\x1b" not in text
    for line in lines:
        assert len(line) <= columns or line.startswith(("    l2a-transfer ", "  --")), line


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
        (
            [
                "extract",
                "--model",
                "untrained:vgg-att2-concat-pc@0.0625",
                "--data",
                "caltech-mini",
                "--levels",
                "L4",
                "--out",
                "x.h5",
            ],
            "L2",
        ),
        (
            [
                "extract",
                "--model",
                "untrained:vgg-att2-concat-pc@0.0625",
                "--data",
                "caltech-mini",
                "--tap",
                "gaa",
                "--out",
                "x.h5",
            ],
            "ga",
        ),
        (["extract", "--model", "pixels", "--data", "caltech-mini", "--split", "tset", "--out", "x.h5"], "test"),
        (["train", "--model", "vgg-att2-concat-pc", "--data", "cifar01", "--data-dir", "x", "--out", "y"], "cifar10"),
        (["export", "--model", "untrained:vgg-att2-concat-cp", "--out", "x.onnx"], "vgg-att2-concat-pc"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)
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
