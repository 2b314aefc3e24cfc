"""A sanity check → sanity.json, sanity.csv, sanity.svg and sanity.html. Only renders."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from l2a_transfer.explain.checks.results import (
    LABELS,
    PERMUTED,
    SCHEMA,
    SanityResults,
    SanityRow,
    Similarity,
    statements,
    written,
)
from l2a_transfer.explain.checks.similarity import MEANS, MEASURES
from l2a_transfer.files import check_folder, check_free, leftovers, replacing_all
from l2a_transfer.lock import folder_lock
from l2a_transfer.report.sanity_figure import TITLES, figure
from l2a_transfer.report.templates import render
from l2a_transfer.text import csv_cell
from l2a_transfer.wording import counted

RESULTS = "sanity.json"
FILES = (RESULTS, "sanity.csv", "sanity.svg", "sanity.html")
HOW = (
    "Each number is the mean similarity between the maps of the network and those of the same network with random "
    "parts: 1 for identical maps, 0 for unrelated ones. A method whose maps hardly change when everything is random "
    "explains the image, not the network. Sobel's edge map is the control. For each image, the maps explain the class "
    "that the intact network predicts."
)
SAME = "1 (same)"
CONSTANT = "constant"


class Grid(NamedTuple):
    """A table: caption, columns as (heading, whether its cells are numbers), and rows of text."""

    caption: str
    columns: list[tuple[str, bool]]
    rows: list[list[str]]


@contextmanager
def sanity_folder(out: Path, *, overwrite: bool) -> Iterator[None]:
    """Lock the folder `out`, which is created if needed, while a check is computed and written.

    Raises: OutputExistsError if its files exist and `overwrite` is not given, if they are not regular files, if `out`
    is not a folder, or if another process is writing to it.
    """
    _check_free(out, overwrite=overwrite)
    with folder_lock(out):
        _check_free(out, overwrite=overwrite)  # another process may have held the lock until now and written files
        yield


def _check_free(out: Path, *, overwrite: bool) -> None:
    check_folder(out, "a sanity check")
    replaced = leftovers(out)
    for name in FILES:
        check_free(out / name, overwrite=overwrite, what="the sanity check", replaced=replaced)


def write_sanity(results: SanityResults, out: Path) -> list[Path]:
    """Write a check into the folder `out`: all files or none, `sanity.json` last.

    For use within `sanity_folder`. The same results give the same bytes.

    Parameters
    ----------
    results : SanityResults
        The result of `check_sanity`.
    out : Path
        The folder.

    Returns
    -------
    list of Path
        The files, `sanity.json` first.

    Raises
    ------
    OSError
        If a file cannot be written; the error names it.
    """
    content = {
        RESULTS: written(results),
        "sanity.csv": _csv(results),
        "sanity.svg": figure(results).file(),
        "sanity.html": _page(results),
    }
    with replacing_all(out) as put:
        for name, text in content.items():
            put(name, text.encode("utf-8", "backslashreplace"))
    return [out / name for name in content]


def overview(results: SanityResults, order: str) -> Grid:
    """Maps × parts: Spearman's correlation after each randomisation."""
    columns = list(dict.fromkeys(row.part for row in results.rows_of(order=order)))
    rows = []
    for label in results.maps:
        own = {row.part: row for row in results.rows_of(label=label, order=order)}
        rows.append([label, *(_cell(own[part]) for part in columns)])
    return Grid(f"{MEANS['spearman']}, {TITLES[order]}", [("map", False), *((part, True) for part in columns)], rows)


def _cell(row: SanityRow) -> str:
    mean = row.similarity["spearman"].mean
    return CONSTANT if mean is None else SAME if row.unchanged else number(mean)


def number(value: float) -> str:
    """Format with two decimals and a real minus sign; −0.00 becomes 0.00."""
    return f"{value + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _measures(results: SanityResults, order: str) -> Grid:
    """Maps × measures with intervals, for the last step of a cascade or for permuted labels."""
    last = PERMUTED if order == LABELS else results.parts[-1].name
    rows = [
        [row.label, row.kind, *(_interval(row.similarity[name]) for name in MEASURES), str(row.constant)]
        for row in results.rows_of(order=order)
        if row.part == last
    ]
    columns = [("map", False), ("kind", False), *((name.replace("_", ", "), True) for name in MEASURES)]
    title = "everything random" if order != LABELS else TITLES[LABELS]
    return Grid(f"All measures, {title} [95 % interval over images]", [*columns, ("constant pairs", True)], rows)


def _interval(found: Similarity) -> str:
    if found.mean is None:
        return CONSTANT
    shown = number(found.mean)
    return shown if found.ci95 is None else f"{shown} [{number(found.ci95[0])}, {number(found.ci95[1])}]"


def _csv(results: SanityResults) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["method", "map", "kind", "order", "part", "unchanged", "constant", "measure", "mean"]
    writer.writerow([*names, "ci95_low", "ci95_high", "n", "seeds"])
    for row in results.rows:
        for measure, found in row.similarity.items():
            low, high = found.ci95 or ("", "")
            of = [row.method, row.map, row.kind, row.order, row.part, row.unchanged, row.constant, measure]
            per_seed = ";".join("" if value is None else repr(value) for value in found.seeds)
            values = [*of, "" if found.mean is None else found.mean, low, high, found.n, per_seed]
            writer.writerow([csv_cell(value) for value in values])
    return text.getvalue()


def _page(results: SanityResults) -> str:
    sections: dict[str, tuple[str, list[tuple[str, Any]]]] = {}
    said = statements(results)
    result: list[tuple[str, Any]] = [("text", HOW), ("figure", figure(results).inline())]
    sections["result"] = ("Result", result + ([("list", said)] if said else []))
    for order in results.orders:
        tables: list[tuple[str, Any]] = []
        if order == LABELS and results.labels is not None:
            of = results.labels
            tables.append(
                (
                    "text",
                    f"{of.name} was trained on labels that were permuted once, and reaches an accuracy of "
                    f"{100 * of.train_accuracy:.1f} % on these labels (n = {of.n:,}).",
                )
            )
        tables.append(("table", overview(results, order)))
        if order != "independent":
            tables.append(("table", _measures(results, order)))
        sections[order] = (TITLES[order].removesuffix(" to …").capitalize(), tables)
    sections["provenance"] = ("Where every number comes from", [("list", _provenance(results))])
    return render(
        "sanity.html.j2",
        titles={key: title for key, (title, _) in sections.items()},
        sections={key: blocks for key, (_, blocks) in sections.items()},
        name=results.network,
        schema=SCHEMA,
    )


def _provenance(results: SanityResults) -> list[str]:
    lines = [
        f"weights: SHA-256 {results.weights_sha256}",
        f"images: {counted(len(results.ids), 'image')} of {results.data}, {results.side} × {results.side} pixels",
        f"random networks: built fresh with the seeds {', '.join(map(str, results.seeds)) or 'none'}, each with the "
        "initialisation of its own family; batch norms with their statistics are random too",
        *(f"{part.name}: {counted(part.numbers, 'number')} in {', '.join(part.tensors)}" for part in results.parts),
        *(f"{name}: {MEANS[name]}" for name in MEASURES),
        "maps are interpolated linearly to the size of the images before they are compared",
        *(f"{method} was left out: {why}" for method, why in results.left_out.items()),
        *(f"{name} {version}" for name, version in results.versions.items()),
    ]
    if results.labels is not None:
        lines.insert(1, f"weights of permuted labels: {results.labels.name}, SHA-256 {results.labels.weights_sha256}")
    return lines
