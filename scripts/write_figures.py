"""Writes benchmarks/README.md, a table of every figure there: `python scripts/write_figures.py [--check]`.

Device, command and commit are what a result file says of itself; `figures.py` says which of its numbers are headlines.
With `--check` nothing is written, and the exit code is 1 if the table is not that of the files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figures import FIGURES, Document

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "benchmarks" / "README.md"
HEAD = """# What was measured

Made by `python scripts/write_figures.py` from [results](results/), which hold all samples. A benchmark is run by the
command in its row, from the repository's root; its docstring says how it measures. Figures are of the machine and the
commit in their row, and a `+changes` means that files differed from that commit. `make bench` compares the speed of two
revisions on your machine.

"""
COLUMNS = ("result", "what", "headline", "n", "device", "commit", "command")


def said(value: Any, key: str) -> Iterator[str]:
    """What a document says under a key, wherever it stands."""
    if isinstance(value, dict):
        if isinstance(value.get(key), str):
            yield value[key]
            return
        for own in value.values():
            yield from said(own, key)
    elif isinstance(value, list):
        for own in value:
            yield from said(own, key)


def first_said(document: Document, key: str) -> str:
    """The first of these, and how many others there are."""
    found = list(dict.fromkeys(said(document, key)))
    return "" if not found else found[0] + (f" and {len(found) - 1} more" if len(found) > 1 else "")


def commit_of(document: Document) -> str:
    found = list(dict.fromkeys(said(document, "commit")))
    short = [commit[:7] + ("+changes" if commit.endswith("+changes") else "") for commit in found]
    return ", ".join(dict.fromkeys(short))


def command_of(document: Document, given: str) -> str:
    """The first command, without the weights that it lists one after the other, and how many others there are."""
    commands = [given] if given else document.get("commands") or list(dict.fromkeys(said(document, "command")))
    words = commands[0].split()
    kept = [word for word in words if not word.startswith("benchmarks/zoo/")]
    more = f" and {len(commands) - 1} more" if len(commands) > 1 else ""
    return f"`{' '.join(kept)}{' …' if len(kept) < len(words) else ''}`{more}"


def row(path: Path) -> list[str]:
    """The cells of a result file. Exits 1 where `figures.py` says nothing of it."""
    name = path.stem
    if name not in FIGURES:
        sys.exit(f"{path.relative_to(ROOT)}: scripts/figures.py says nothing of it; add its headline there")
    figure, document = FIGURES[name], json.loads(path.read_text(encoding="utf-8"))
    n = figure.n if isinstance(figure.n, str) else figure.n(document)
    return [
        f"[{name}](results/{path.name})",
        figure.what or document["what"],
        figure.headline(document),
        n,
        first_said(document, "device"),
        commit_of(document),
        command_of(document, figure.command),
    ]


def page() -> str:
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *(row(path) for path in sorted(RESULTS.glob("*.json")))]
    return HEAD + "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def main() -> None:
    if gone := sorted(FIGURES.keys() - {path.stem for path in RESULTS.glob("*.json")}):
        sys.exit(f"scripts/figures.py: there is no result file of {', '.join(gone)}")
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("benchmarks/README.md: not the table of benchmarks/results; run: python scripts/write_figures.py")


if __name__ == "__main__":
    main()
