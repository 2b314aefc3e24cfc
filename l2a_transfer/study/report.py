"""A study's results → report.md, report.html, table.md, figures and results.json. Renders; computes nothing."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from l2a_transfer.files import write_whole
from l2a_transfer.report.markup import Markup, element, joined, name_of
from l2a_transfer.report.page import POLICY
from l2a_transfer.study.figures import Figure
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
    content = {figure.name: figure.standalone() for figure in figures}
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


def _page(title: str, sections: list[Section]) -> str:
    style = Markup(files("l2a_transfer.report").joinpath("page.css").read_text(encoding="utf-8"))
    head = element(
        "head", element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"), element("title", title),
        Markup(f"<style>{style}</style>"),
    )  # fmt: skip
    links = [element("li", element("a", section.title, href=f"#section-{k}")) for k, section in enumerate(sections)]
    parts = [
        element("section", element("h2", section.title), *(_element(block) for block in section.blocks),
                id=f"section-{k}")
        for k, section in enumerate(sections)
    ]  # fmt: skip
    body = element(
        "body", element("header", element("h1", title)), element("nav", element("ul", *links), aria_label="Contents"),
        element("main", *parts),
        element("footer", element("p", "Rendered from ", element("code", RESULTS), f" ({SCHEMA}).")),
    )  # fmt: skip
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _element(block: Block) -> Markup:
    if isinstance(block, Grid):
        heads = [
            element("th", name, scope="col", class_="number" if number else None) for name, number in block.columns
        ]
        rows = [
            element("tr", element("th", name_of(first), scope="row"), *(
                element("td", cell, class_="number" if number else None)
                for cell, (_, number) in zip(rest, block.columns[1:], strict=True)
            ))
            for first, *rest in block.rows
        ]  # fmt: skip
        table = element("table", element("caption", element("span", block.caption)),
                        element("thead", element("tr", *heads)), element("tbody", *rows))  # fmt: skip
        return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=block.caption)
    if isinstance(block, Figure):
        return element("figure", block.inline())
    if isinstance(block, Listing):
        if block.is_code:
            return element("pre", joined(block.lines, Markup("\n")))
        return element("ul", *(element("li", line) for line in block.lines), class_="note")
    return element("p", block)
