"""A study's results → report.md, report.html, table.md, figures and results.json. Only renders."""

from __future__ import annotations

import json
from pathlib import Path

from l2a_transfer.files import write_whole
from l2a_transfer.report.document import block_markdown, document_markdown, document_page
from l2a_transfer.report.svg import Figure
from l2a_transfer.study.results import SCHEMA, StudyResults
from l2a_transfer.study.sections import sections_of, summary

RESULTS, PAGE, MARKDOWN, TABLE = "results.json", "report.html", "report.md", "table.md"


def write_study_report(results: StudyResults, out: Path) -> list[Path]:
    """Write the report into the folder `out`, `results.json` last, and return its files. The same results give the same
    bytes. Figures of an earlier report that are not in this one are removed."""
    out.mkdir(parents=True, exist_ok=True)
    sections = sections_of(results)
    figures = [block for section in sections for block in section.blocks if isinstance(block, Figure)]
    content = {figure.name: figure.file() for figure in figures}
    content[MARKDOWN] = document_markdown(results.name, sections)
    content[TABLE] = "\n\n".join(block_markdown(block) for block in summary(results)) + "\n"
    content[PAGE] = document_page(results.name, sections, schema=SCHEMA)
    content[RESULTS] = json.dumps(results.document(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for earlier in [*out.glob("forest-*.svg"), *out.glob("low-shot-*.svg")]:
        if earlier.name not in content:
            earlier.unlink()
    for name, text in content.items():
        write_whole(out / name, text.encode("utf-8", "backslashreplace"))
    return [out / name for name in content]
