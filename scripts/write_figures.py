"""Write benchmarks/README.md, the table of all results: `python scripts/write_figures.py [--check]`.

Device, command and commit come from the result files. `figures.py` selects the headline figures, and
`descriptions.py` says what was measured. With `--check`, nothing is written, and the exit code is 1 if the table does
not match the result files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from descriptions import WHAT
from figures import FIGURES, Document

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "benchmarks" / "README.md"
HEAD = """# What was measured

This table lists every benchmark result of the project. Use it to find where a figure in the documentation comes from,
or to repeat a measurement. `python scripts/write_figures.py` generates it from the files in [results](results/), which
contain all samples.

- **Repeating a measurement.** Run the command in the row from the repository's root. The docstring of the script says
  how it measures.
- **Comparing speeds.** A figure holds for the device and commit in its row. `make bench` compares the speed of two
  revisions on your own machine.
- **Commits.** `+changes` means that the working tree had uncommitted changes.
- **Commands.** `…` stands for a list of weight files that was left out. "and 2 more" means that the result file has two
  more commands.

"""
COLUMNS = ("result", "what", "headline", "n", "device", "commit", "command")


def said(value: Any, key: str) -> Iterator[str]:
    """The texts under a key, at any depth of a document."""
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
    """The first of these texts, and the number of others."""
    found = list(dict.fromkeys(said(document, key)))
    return "" if not found else found[0] + (f" and {len(found) - 1} more" if len(found) > 1 else "")


def commit_of(document: Document) -> str:
    found = list(dict.fromkeys(said(document, "commit")))
    short = [commit[:7] + ("+changes" if commit.endswith("+changes") else "") for commit in found]
    return ", ".join(dict.fromkeys(short))


def command_of(document: Document, given: str) -> str:
    """The first command without its list of weight files, and the number of other commands."""
    commands = [given] if given else document.get("commands") or list(dict.fromkeys(said(document, "command")))
    words = commands[0].split()
    kept = [word for word in words if not word.startswith("benchmarks/zoo/")]
    more = f" and {len(commands) - 1} more" if len(commands) > 1 else ""
    return f"`{' '.join(kept)}{' …' if len(kept) < len(words) else ''}`{more}"


def row(path: Path) -> list[str]:
    """The cells of a result file. Exits with 1 if `figures.py` has no entry for it."""
    name = path.stem
    if name not in FIGURES:
        sys.exit(f"{path.relative_to(ROOT)}: scripts/figures.py has no entry for it; add its headline there")
    figure, document = FIGURES[name], json.loads(path.read_text(encoding="utf-8"))
    n = figure.n if isinstance(figure.n, str) else figure.n(document)
    return [
        f"[{name}](results/{path.name})",
        WHAT.get(name) or document["what"],
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
        sys.exit(f"scripts/figures.py: there is no result file for {', '.join(gone)}")
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("benchmarks/README.md: does not match benchmarks/results; run: python scripts/write_figures.py")


if __name__ == "__main__":
    main()
