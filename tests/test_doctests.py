"""The examples in docstrings and in docs/api.md run, and print what they say."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "l2a_transfer").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def run(test: doctest.DocTest) -> int:
    """How many examples a test has. Fails with doctest's own report where one of them does."""
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    failed, attempted = runner.run(test, out=said.append)
    assert not failed, "".join(said)
    return attempted


def test_there_are_examples_to_run() -> None:
    assert len(MODULES) > 5


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder(exclude_empty=True).find(import_module(name))
    count = 0
    for number, test in enumerate(test for test in found if test.examples):
        folder = tmp_path / str(number)  # an example may write files, and starts from nothing
        folder.mkdir()
        monkeypatch.chdir(folder)
        count += run(test)
    assert count > 0, f"{name} has '>>>' outside of docstrings"


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```pycon\n(.*?)^```", API, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    parser, names = doctest.DocTestParser(), dict[str, object]()
    for number, block in enumerate(blocks):
        test = parser.get_doctest(block, {}, f"api.md, block {number}", "api.md", 0)
        test.globs = names  # one page, one session
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        said: list[str] = []
        failed, _ = runner.run(test, out=said.append, clear_globs=False)
        assert not failed, "".join(said)
