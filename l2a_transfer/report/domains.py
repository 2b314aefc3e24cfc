"""Results over domains: tables of domains × models, and heat maps from source to target."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from l2a_transfer.evaluation.domains import DomainDrop, DomainPlace
from l2a_transfer.evaluation.results import EvalResults, EvalRow
from l2a_transfer.evaluation.verdict import points, significant
from l2a_transfer.report import lookup
from l2a_transfer.report.figures import FONT_SIZE, apart, picture_of
from l2a_transfer.report.markup import Markup, element, joined, shortened
from l2a_transfer.report.svg import Figure, width_in_ems
from l2a_transfer.report.tables import Cell, TextTable
from l2a_transfer.wording import with_minus

CELL, GAP, TITLE = 46.0, 26.0, 22.0
OTHERS = "all others"


def accuracies(results: EvalResults) -> TextTable:
    """Places × models: mean class accuracy in percent with its interval, and one row per probe."""
    rows = {(row.data, row.line, row.probe): row for row in results.rows if not row.variant}
    lines = []
    for place in results.domains:
        for probe, cell in _probes(results):
            cells = [rows.get((place.data, line, probe)) for line in lookup.models(results)]
            lines.append((Cell(place.data, name=True), *cell, Cell(str(len(place.classes))), *map(_accuracy, cells)))
    return TextTable((("domain", False), *_of_probe(results), ("classes", True), *_models(results)), tuple(lines))


def drops(results: EvalResults) -> TextTable:
    """Places × models: the accuracy lost by the change of domain, in points with its interval; bold if the adjusted p
    is below 0.05. Empty if nothing was measured across domains. There is one row per probe."""
    found = {(drop.data, drop.line, drop.probe): drop for drop in results.drops if not drop.variant}
    lines = []
    for place in results.domains:
        for probe, cell in _probes(results) if place.within else ():
            cells = [found.get((place.data, line, probe)) for line in lookup.models(results)]
            lines.append((Cell(place.data, name=True), *cell, *map(_drop, cells)))
    return TextTable((("domain", False), *_of_probe(results), *_models(results)), tuple(lines))


def _probes(results: EvalResults) -> list[tuple[str, tuple[Cell, ...]]]:
    """Each probe, with its cell if there are several."""
    probes = lookup.probes(results)
    return [(probe, (Cell(probe),) if len(probes) > 1 else ()) for probe in probes]


def _of_probe(results: EvalResults) -> tuple[tuple[str, bool], ...]:
    return (("probe", False),) if len(lookup.probes(results)) > 1 else ()


def _models(results: EvalResults) -> list[tuple[str, bool]]:
    return [(label, True) for label in lookup.models(results).values()]


def _accuracy(row: EvalRow | None) -> Cell:
    if row is None:
        return Cell("–")
    low, high = row.mean_class_accuracy_ci95
    return Cell(f"{100 * row.mean_class_accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]")


def _drop(drop: DomainDrop | None) -> Cell:
    if drop is None:
        return Cell("–")
    low, high = (with_minus(points(end, 1)) for end in drop.ci95)
    return Cell(f"{with_minus(points(drop.drop, 1))} [{low}, {high}]", best=significant(drop.p_adjusted, drop.drop))


def names(results: EvalResults) -> list[str]:
    """Every domain once, sources first."""
    sources = [name for place in results.domains for name in place.sources]
    return list(dict.fromkeys([*sources, *(place.target for place in results.domains)]))


def left_out(results: EvalResults) -> list[tuple[str, str]]:
    """(place, classes of each domain that not all domains have) for every place across domains with such classes."""
    return [
        (place.data, "; ".join(f"{name}: {', '.join(names)}" for name, names in place.left_out))
        for place in results.domains
        if place.within and place.left_out
    ]


def validations(results: EvalResults) -> list[str]:
    """How C or the probes' other hyperparameters were chosen, once per protocol."""
    return list(dict.fromkeys(f"{place.protocol}: {place.validation}" for place in results.domains))


def heat_map(results: EvalResults) -> Figure:
    """Mean class accuracy from source (row) to target (column), with one panel per model and probe. The diagonal is
    within a domain.

    If training used several sources together, there is one row for all others and one for within.
    """
    places = results.domains
    targets = sorted({place.target for place in places})
    pooled = any(len(place.sources) > 1 for place in places)
    sources = [OTHERS, "within"] if pooled else sorted({place.sources[0] for place in places})
    names, below = apart(sources, 24), apart(targets, 24)
    left = 24.0 + FONT_SIZE * max(map(width_in_ems, names))
    foot = 12.0 + FONT_SIZE * max(map(width_in_ems, below))
    width, height = CELL * len(targets), CELL * len(sources)
    probes = lookup.probes(results)
    by_probe = {probe: f", probe {probe}" if len(probes) > 1 else "" for probe in probes}
    parts, y = [], 0.0
    panels = [(line, label, probe) for line, label in lookup.models(results).items() for probe in probes]
    for line, label, probe in panels:
        rows = {row.data: row for row in results.rows if (row.line, row.variant, row.probe) == (line, "", probe)}
        values = np.full((len(sources), len(targets)), math.nan)
        for place in places:
            row = _row_of(place, sources, pooled)
            if row is not None and place.data in rows:
                values[row, targets.index(place.target)] = rows[place.data].mean_class_accuracy
        parts.append(element("text", shortened(label, 60) + by_probe[probe], x=8, y=y + 14, class_="title"))
        parts += _panel(values, names, below, left, y + TITLE)
        y += TITLE + height + foot + GAP
    total = left + max(width, 200.0) + 12
    parts.append(element("text", "rows: trained on; columns: tested on", x=8, y=y - 4, font_size=12))
    label = "Mean class accuracy from source to target domain, for each model; the tables have the numbers"
    title = ("Mean class accuracy on the target, %",)
    return Figure(label, joined(parts), total, y + 4, kind="matrix", title=title)


def _row_of(place: DomainPlace, sources: Sequence[str], pooled: bool) -> int | None:
    """The row of a place; None for a place within a target that has only the classes of one pair."""
    if not place.within and place.data != f"within {place.target}":
        return None
    if pooled:
        return 0 if place.within else 1
    return sources.index(place.sources[0])


def _panel(values: np.ndarray, names: Sequence[str], below: Sequence[str], left: float, top: float) -> list[Markup]:
    """One heat map, whose upper left corner is at (`left`, `top`)."""
    rows, columns = values.shape
    shown = np.nan_to_num(values, nan=0.0)
    width, height = CELL * columns, CELL * rows
    image = picture_of(shown, exact=True)
    parts = [element("image", href=image, x=left, y=top, width=width, height=height, preserveAspectRatio="none")]
    parts.append(element("rect", x=left, y=top, width=width, height=height, class_="frame"))
    for k, name in enumerate(names):
        middle = top + (k + 0.5) * CELL + 0.35 * FONT_SIZE
        parts.append(element("text", name, x=left - 5, y=middle, text_anchor="end", font_size=FONT_SIZE))
    for k, name in enumerate(below):
        across = left + (k + 0.5) * CELL + 0.35 * FONT_SIZE
        turned = f"translate({across:.1f} {top + height + 5:.1f}) rotate(-90)"
        parts.append(element("text", name, transform=turned, text_anchor="end", font_size=FONT_SIZE))
    for i in range(rows):
        for k in range(columns):
            value = values[i, k]
            parts.append(
                element(
                    "text",
                    "–" if math.isnan(value) else f"{100 * value:.0f}",
                    x=left + (k + 0.5) * CELL,
                    y=top + (i + 0.5) * CELL + 4,
                    text_anchor="middle",
                    font_size=12,
                    class_="over" if value > 0.55 else None,
                )
            )
    return parts
