"""Tables that fit the terminal's width; in a pipe or a file, one unbroken line per row."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from l2a_transfer.text import terminal
from l2a_transfer.wording import are, counted

if TYPE_CHECKING:
    from rich.console import Console

    from l2a_transfer.evaluation.results import EvalResults
    from l2a_transfer.localization.results import LocalizationResults

GAP = 2
"""Columns between two cells."""
KEY_WIDTH, LEAST_VALUE_WIDTH = 24, 20
FURTHER = (
    "accuracy, % [95 %]",
    "train / test",
    "C",
    "chosen",
    "protocol",
    "macro-F1, %",
    "top-5, %",
    "D",
    "fits not converged",
)
"""Columns of an evaluation that narrow terminals may omit, the most important first. The report has all columns."""


def terminal_width() -> int | None:
    """The number of columns of the terminal behind stdout; None if stdout is a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table_lines(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Sequence[bool] = (),
    width: int | None = None,
) -> list[str]:
    """A table as lines of plain text.

    Parameters
    ----------
    headings : sequence of str
        One heading per column.
    rows : iterable of sequence of str
        The cells. Control characters in them are escaped before anything is measured.
    numbers : sequence of bool, optional
        Which columns are right-aligned. By default none is.
    width : int, optional
        Columns of the terminal. Cells are wrapped between words to fit. If that would break a word, each row becomes
        a list of headings and values instead. Without a width, each row is one line.

    Examples
    --------
    >>> table_lines(["name", "images"], [["digits", "1,797"]], numbers=[False, True])
    ['name    images', 'digits   1,797']
    >>> table_lines(["name", "images"], [["fashion-mnist", "70,000"]], width=16)
    ['fashion-mnist', '  images', '    70,000']
    """
    safe = [[terminal(cell) for cell in row] for row in rows]
    widths = _column_widths([headings, *safe], width)
    if widths is not None:
        right = [k < len(numbers) and numbers[k] for k in range(len(widths))]
        return [line for row in (headings, *safe) for line in _row_lines(row, widths, right)]
    assert width is not None
    lines = []
    for row in safe:
        pairs = zip(headings[1:], row[1:], strict=True)
        lines += _wrapped(row[0], width)
        lines += [f"  {line}" for line in pair_lines(pairs, key_width=max(map(len, headings)), width=width - 2)]
    return lines


def pair_lines(pairs: Iterable[tuple[str, str]], *, key_width: int = KEY_WIDTH, width: int | None = None) -> list[str]:
    """Keys and values as lines of plain text.

    Parameters
    ----------
    pairs : iterable of (str, str)
        The keys and their values.
    key_width : int
        Columns for the keys; the values begin one column further right.
    width : int, optional
        Columns of the terminal. Values are wrapped to fit; in a narrow terminal they are below their keys. Without a
        width, each pair is one line.

    Examples
    --------
    >>> pair_lines([("kind", "features"), ("rows", "40")], key_width=6)
    ['kind   features', 'rows   40']
    """
    from rich.cells import cell_len

    lines = []
    for key, value in ((terminal(key), terminal(value)) for key, value in pairs):
        if width is None:
            lines.append(f"{key:<{key_width}} {value}")
        elif width - key_width - 1 < LEAST_VALUE_WIDTH:
            lines += _wrapped(key, width)
            lines += [f"  {line}" for line in _wrapped(value, width - 2)]
        else:
            values = [" " * (key_width + 1) + line for line in _wrapped(value, width - key_width - 1)]
            if cell_len(key) <= key_width:
                values[0] = key + values[0][cell_len(key) :]
            else:
                lines += _wrapped(key, width)
            lines += values
    return lines


def results_lines(results: EvalResults, *, width: int | None = None) -> list[str]:
    """The table of an evaluation: fitted to a terminal of `width` columns, or as Markdown without a width."""
    from l2a_transfer.report import tables
    from l2a_transfer.report.markdown import markdown_table

    if width is None:
        return markdown_table(results).split("\n")
    table = tables.details(results, results.rows)
    rows = [[cell.text + cell.mark for cell in row] for row in table.rows]
    headings, numbers = zip(*table.columns, strict=True)
    kept = _fitting(headings, rows, width)
    if not kept:
        return table_lines(headings, rows, numbers=numbers, width=width)
    lines = table_lines(
        [headings[k] for k in kept],
        [[row[k] for k in kept] for row in rows],
        numbers=[numbers[k] for k in kept],
        width=width,
    )
    left_out = [name for k, name in enumerate(headings) if k not in kept]
    return lines + (["", *_wrapped(f"Also in the report: {'; '.join(left_out)}.", width)] if left_out else [])


def _fitting(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The columns that fit into a terminal without wrapping: all that are not in FURTHER, and those in it that fit.

    Empty if even those not in FURTHER do not fit.
    """
    from rich.cells import cell_len

    longest_word = [max(cell_len(word) for word in heading.split(" ")) for heading in headings]
    needed = [max([word, *(cell_len(terminal(row[k])) for row in rows)]) for k, word in enumerate(longest_word)]
    kept = [k for k, name in enumerate(headings) if name not in FURTHER]
    used = sum(needed[k] + GAP for k in kept) - GAP
    if used > width:
        return []
    for name in FURTHER:
        if name in headings and used + GAP + needed[k := headings.index(name)] <= width:
            kept.append(k)
            used += GAP + needed[k]
    return sorted(kept)


def localization_lines(results: LocalizationResults, *, width: int | None = None) -> list[str]:
    """The table of maps against masks, fitted to a terminal of `width` columns."""
    from l2a_transfer.report.localization import result_table

    table = result_table(results)
    cells = [[cell.text for cell in row] for row in table.rows]
    headings, numbers = zip(*table.columns, strict=True)
    return table_lines(headings, cells, numbers=numbers, width=width)


def verdict_lines(verdicts: Sequence[str], *, total: int, out: Path) -> list[str]:
    """One line per shown verdict, and one that says where the rest of the `total` comparisons are."""
    lines = [f"- {verdict}" for verdict in verdicts]
    if more := total - len(verdicts):
        lines.append(f"- {counted(more, 'more comparison')} {are(more)} in {out / 'report.html'}")
    return lines


def _column_widths(rows: Iterable[Sequence[str]], width: int | None) -> list[int] | None:
    """The width of each column, at least that of its longest word; None if they do not fit.

    The first row contains the headings. Other cells are wrapped only if they do not all fit on one line. The rest of
    `width` goes to the columns that need the least more, so that only the widest columns are wrapped.
    """
    from rich.cells import cell_len

    columns = list(zip(*rows, strict=True))
    wanted = [max(map(cell_len, column)) for column in columns]
    if width is None:
        return wanted
    words = [max(cell_len(word) for cell in column for word in cell.split(" ")) for column in columns]
    whole = [max([word, *map(cell_len, column[1:])]) for word, column in zip(words, columns, strict=True)]
    gaps = GAP * (len(columns) - 1)
    widths = whole if sum(whole) + gaps <= width else words
    left = width - sum(widths) - gaps
    if left < 0:
        return None
    by_lack = sorted(range(len(widths)), key=lambda k: wanted[k] - widths[k])
    for served, k in enumerate(by_lack):
        added = min(wanted[k] - widths[k], left // (len(by_lack) - served))
        widths[k] += added
        left -= added
    return widths


def _row_lines(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    """A row of a table as lines. `right` says which columns are right-aligned."""
    from rich.cells import cell_len

    wrapped = [_wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
    lines = []
    for parts in zip_longest(*wrapped, fillvalue=""):
        padding = [" " * (width - cell_len(part)) for part, width in zip(parts, widths, strict=True)]
        padded = [pad + part if own else part + pad for part, pad, own in zip(parts, padding, right, strict=True)]
        lines.append((" " * GAP).join(padded).rstrip(" "))
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` columns, broken between words if possible."""
    from rich.text import Text

    width = max(width, 2)  # the width of one wide character
    lines = Text(text).wrap(_console(), width, overflow="fold")
    return [line.plain.rstrip(" ") for line in lines] or [""]


@cache
def _console() -> Console:
    """The console whose defaults rich needs to wrap text; nothing is printed through it."""
    from rich.console import Console

    return Console(file=io.StringIO())
