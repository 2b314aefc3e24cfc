"""A study's results → report.md, report.html, table.md, figures and results.json. Renders; computes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from l2a_transfer.files import write_whole
from l2a_transfer.report.markup import Markup, joined
from l2a_transfer.report.svg import Figure
from l2a_transfer.report.templates import render
from l2a_transfer.study.results import SCHEMA, StudyResults
from l2a_transfer.study.sections import Block, Grid, Listing, Section, sections_of, summary
from l2a_transfer.text import markdown as _escaped
from l2a_transfer.text import plain

RESULTS, PAGE, MARKDOWN, TABLE = "results.json", "report.html", "report.md", "table.md"


def write_study_report(results: StudyResults, out: Path) -> list[Path]:
    """Write the report into the folder `out`, `results.json` last, and return its files. The same results give the same
    bytes. Figures of an earlier report that this one does not have are removed."""
    out.mkdir(parents=True, exist_ok=True)
    sections = sections_of(results)
    figures = [block for section in sections for block in section.blocks if isinstance(block, Figure)]
    content = {figure.name: figure.file() for figure in figures}
    content[MARKDOWN] = _markdown(results.name, sections)
    content[TABLE] = "\n\n".join(_block(block) for block in summary(results)) + "\n"
    content[PAGE] = _page(results.name, sections)
    content[RESULTS] = json.dumps(results.document(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for earlier in [*out.glob("forest-*.svg"), *out.glob("low-shot-*.svg")]:
        if earlier.name not in content:
            earlier.unlink()
    for name, text in content.items():
        write_whole(out / name, text.encode("utf-8", "backslashreplace"))
    return [out / name for name in content]


def _markdown(title: str, sections: list[Section]) -> str:
    parts = [f"# {_escaped(title)}"]
    for section in sections:
        parts += [f"## {_escaped(section.title)}", *(_block(block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Grid):
        lines = [[name for name, _ in block.columns], ["---:" if number else "---" for _, number in block.columns]]
        numbers = [number for _, number in block.columns]
        lines += [
            [plain(cell) if number else _escaped(cell) for cell, number in zip(row, numbers, strict=True)]
            for row in block.rows
        ]
        return f"{_escaped(block.caption)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if isinstance(block, Figure):
        return f"![{_escaped(block.label)}]({block.name})"
    if isinstance(block, Listing):
        if block.is_code:
            return "\n".join(("```", *(plain(line).replace("```", "'''") for line in block.lines), "```"))
        return "\n".join(f"- {_escaped(line)}" for line in block.lines)
    return _escaped(block)


def _page(name: str, sections: list[Section]) -> str:
    keys = [f"section-{k}" for k in range(len(sections))]
    return render(
        "study.html.j2",
        titles={key: section.title for key, section in zip(keys, sections, strict=True)},
        sections={
            key: [_with_its_kind(block) for block in section.blocks]
            for key, section in zip(keys, sections, strict=True)
        },
        name=name,
        schema=SCHEMA,
    )


def _with_its_kind(block: Block) -> tuple[str, Any]:
    """A block with the name of the template that shows it, `templates/study/NAME.html.j2`."""
    if isinstance(block, Grid):
        return "table", block
    if isinstance(block, Figure):
        return "figure", block.inline()
    if isinstance(block, Listing):
        return ("code", joined(block.lines, Markup("\n"))) if block.is_code else ("list", block.lines)
    return "text", block
