"""The first table of a report: models × data sets, with means over training seeds."""

from __future__ import annotations

from collections.abc import Sequence

from l2a_transfer.evaluation.results import EvalResults, EvalRow
from l2a_transfer.report import lookup
from l2a_transfer.report.explanations import CLOSE, UNKNOWN
from l2a_transfer.report.lookup import Place
from l2a_transfer.report.tables import Cell, TextTable, interval_text, mean_and_sd


def headline(results: EvalResults, places: Sequence[Place], which: str = "all") -> TextTable:
    """Models × places: mean class accuracy in percent with its interval, with the best of each column marked. Below the
    rows of an architecture with several training seeds are their mean and standard deviation. With several probes, each
    has its own row, and the best of each is marked.

    `which`: "all" rows, "folded" (means over seeds without the rows of single seeds), or "seeds" (only those rows).
    """
    rows = []
    last = {}  # recipe → line of its last row in any place
    cells: dict[tuple[int, Place], Cell] = {}
    probes = lookup.probes(results)
    for place in (place._replace(probe=probe) for place in places for probe in probes):
        for row in lookup.rows_at(results, place):
            cells[row.line, place] = _standing(results, row)
            for summary in lookup.summaries_after(results, row, lookup.rows_at(results, place)):
                last[summary.recipe_sha256] = row.line
    folded = _folded(results) if which != "all" else set()
    for line, label in lookup.models(results).items():
        if (line in folded) == (which == "seeds") or which == "all":
            for probe, here in _by_probe(probes, places):
                found = (cells.get((line, place), Cell("–")) for place in here)
                rows.append((Cell(label, name=True, code=True), *probe, *found))
        for recipe in (recipe for recipe, after in last.items() if after == line and which != "seeds"):
            for probe, here in _by_probe(probes, places):
                own = {p: s for p in here for s in lookup.summaries_at(results, p) if s.recipe_sha256 == recipe}
                if own:
                    counts = sorted({len(s.seeds) for s in own.values()})
                    name = next(iter(own.values())).name
                    text = f"{name}: mean ± sd over {' or '.join(map(str, counts))} seeds"
                    rows.append((Cell(text, name=True), *probe, *(mean_and_sd(own.get(place)) for place in here)))
    of_probe = (("probe", False),) if len(probes) > 1 else ()
    return TextTable((("model", False), *of_probe, *((_column(place), True) for place in places)), tuple(rows))


def _by_probe(probes: Sequence[str], places: Sequence[Place]) -> list[tuple[tuple[Cell, ...], list[Place]]]:
    """For each probe: its cell if there are several probes, and the places with it."""
    return [
        ((Cell(probe),) if len(probes) > 1 else (), [place._replace(probe=probe) for place in places])
        for probe in probes
    ]


def _folded(results: EvalResults) -> set[int]:
    """Lines of models that are training seeds of an architecture in every place, so that its mean can replace them."""
    seeds = {(lookup.place_of(summary), digest) for summary in results.seeds for digest in summary.file_digests}
    alone = {row.line for row in results.rows if (lookup.place_of(row), row.file_sha256) not in seeds}
    return {row.line for row in results.rows} - alone


def _column(place: Place) -> str:
    """The heading of a column, which covers all probes."""
    return str(place).removesuffix(place.by_probe)


def _standing(results: EvalResults, row: EvalRow) -> Cell:
    standing = lookup.standing(results, row)
    alone = len(lookup.rows_at(results, lookup.place_of(row))) < 2
    mark = CLOSE if standing == "close" else UNKNOWN if standing == "unknown" and not alone else ""
    return Cell(
        interval_text(row.mean_class_accuracy, row.mean_class_accuracy_ci95),
        best=standing == "best",
        mark=mark,
        row=next(k for k, other in enumerate(results.rows) if other is row),
    )
