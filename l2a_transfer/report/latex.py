"""results.tex: the first table of a report, for a paper. It needs the LaTeX package booktabs."""

from __future__ import annotations

import re

from l2a_transfer.evaluation.results import EvalResults
from l2a_transfer.report import domains, explanations, lookup
from l2a_transfer.report.headline import headline
from l2a_transfer.report.tables import Cell, TextTable
from l2a_transfer.text import plain

ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "`": r"\textasciigrave{}",
        "'": r"\textquotesingle{}",
        '"': r"\textquotedbl{}",
        "[": "{[}",  # after \\, a bracket would start an optional argument
        "*": "{*}",
        "−": "$-$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "≥": r"$\geq$",
        "†": r"$^\dagger$",
        "‡": r"$^\ddagger$",
        "–": r"\textendash{}",
        "→": r"$\rightarrow$",
        "\u00a0": "~",
        "\ufffd": "?",
    }
)


def results_latex(results: EvalResults) -> str:
    """A `tabular` for each of the first tables of the report, and the meaning of its marks. Names are escaped."""
    parts = [r"% Needs \usepackage{booktabs}, and \usepackage[T1]{fontenc} with \usepackage{textcomp}."]
    cells: list[Cell] = []
    for table in _tables(results):
        cells += [cell for row in table.rows for cell in row]
        parts.append(_tabular(table))
    used = {cell.mark for cell in cells}
    notes = ["Mean class accuracy in % with its 95 % interval."]
    if len(parts) > 2 and results.domains:
        notes.append("Second table: the drop, within the target minus across, in points with its 95 % interval.")
    bold = "the drop is significant" if results.domains else f"the best of its column{lookup.by_its_probe(results)}"
    notes += [f"Bold: {bold}."] if any(cell.best for cell in cells) else []
    notes += [f"{mark}: {text}." for mark, text in explanations.MARKS.items() if mark in used]
    parts.append("\\par\n" + "\n".join(escape(note) for note in notes))
    return "\n\n".join(parts) + "\n"


def _tables(results: EvalResults) -> list[TextTable]:
    """Models × data sets. Over domains, places × models and the drops, because there are many places."""
    if not results.domains:
        return [headline(results, places) for places in lookup.contests(results)]
    drops = domains.drops(results)
    return [domains.accuracies(results), *([drops] if drops.rows else [])]


def escape(text: str) -> str:
    """The text on one line, with LaTeX's special characters escaped."""
    return re.sub("-(?=-)", "-{}", plain(text).translate(ESCAPES))  # two hyphens would become a dash


def _tabular(table: TextTable) -> str:
    columns = "".join("r" if is_number else "l" for _, is_number in table.columns)
    head = " & ".join(escape(name) for name, _ in table.columns)
    rows = [" & ".join(map(_cell, row)) + r" \\" for row in table.rows]
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head + r" \\", r"\midrule", *rows, r"\bottomrule"]
        + [r"\end{tabular}"]
    )


def _cell(cell: Cell) -> str:
    text = rf"\texttt{{{escape(cell.text)}}}" if cell.code else escape(cell.text)
    return (rf"\textbf{{{text}}}" if cell.best else text) + escape(cell.mark)
