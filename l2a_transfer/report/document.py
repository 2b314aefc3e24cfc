"""A document of sections, rendered as Markdown and as one HTML page in the report's style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from l2a_transfer.report.markup import Markup, joined
from l2a_transfer.report.svg import Figure
from l2a_transfer.report.templates import render
from l2a_transfer.text import markdown as _escaped
from l2a_transfer.text import plain


@dataclass(frozen=True)
class Grid:
    """A table: columns as (heading, whether its cells are numbers), and rows of text. The first cell names the row."""

    caption: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Listing:
    """A list of lines: commands, or sentences if `is_code` is False."""

    lines: tuple[str, ...]
    is_code: bool = False


Block = str | Grid | Listing | Figure


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: tuple[Block, ...]


def document_markdown(title: str, sections: Sequence[Section]) -> str:
    """The document as Markdown; figures are linked by name."""
    parts = [f"# {_escaped(title)}"]
    for section in sections:
        parts += [f"## {_escaped(section.title)}", *(block_markdown(block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def block_markdown(block: Block) -> str:
    """A block of a document as Markdown."""
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


def document_page(title: str, sections: Sequence[Section], *, schema: str, source: str = "results.json") -> str:
    """The document as one HTML page, which loads nothing.

    Parameters
    ----------
    title : str
        The heading of the page.
    sections : sequence of Section
        The sections.
    schema, source : str
        The schema and the name of the file with the numbers, for the page's footer.

    Returns
    -------
    str
    """
    keys = [f"section-{k}" for k in range(len(sections))]
    return render(
        "document.html.j2",
        titles={key: section.title for key, section in zip(keys, sections, strict=True)},
        sections={
            key: [_with_its_kind(block) for block in section.blocks]
            for key, section in zip(keys, sections, strict=True)
        },
        name=title,
        schema=schema,
        source=source,
    )


def _with_its_kind(block: Block) -> tuple[str, Any]:
    """A block with the name of its template, `templates/document/NAME.html.j2`."""
    if isinstance(block, Grid):
        return "table", block
    if isinstance(block, Figure):
        return "figure", block.inline()
    if isinstance(block, Listing):
        return ("code", joined(block.lines, Markup("\n"))) if block.is_code else ("list", block.lines)
    return "text", block
