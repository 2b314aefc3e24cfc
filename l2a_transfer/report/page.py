"""report.html: the whole report as one page, which loads and runs nothing, and suits phones and paper.

This module provides the content of the page; `templates/report.html.j2` defines its layout.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any, NamedTuple

from l2a_transfer.evaluation.compare import Comparison
from l2a_transfer.evaluation.misclassified import MOST
from l2a_transfer.evaluation.probes.registry import SVM, what_is_chosen
from l2a_transfer.evaluation.protocols import over_domains
from l2a_transfer.evaluation.results import SCHEMA, EvalResults, EvalRow
from l2a_transfer.report import charts, domains, explanations, figures, lookup, origins, tables
from l2a_transfer.report.charts import Scale
from l2a_transfer.report.headline import headline
from l2a_transfer.report.lookup import Place
from l2a_transfer.report.markup import Markup, element, name_of
from l2a_transfer.report.templates import render
from l2a_transfer.wording import counted

ERRORS = 10
"""Number of confusions listed beside a model's matrix."""
TITLES = {
    "result": "Result",
    "domains": "Across domains",
    "low-shot": "Accuracy with few training images",
    "measures": "All measures",
    "differences": "Differences between models",
    "ablations": "Ablations",
    "choice": "How C was chosen",
    "errors": "Errors of each model",
    "pictures": "Misclassified images",
    "provenance": "Where every number comes from",
}
Values = dict[str, Any]
"""The values for a section's template; empty if the section is left out."""


class Plot(NamedTuple):
    """A column of interval bars before column `before` of a table: one bar per row, and the axis below."""

    before: int
    title: str
    bars: list[Markup]
    axis: Markup


def page(results: EvalResults) -> str:
    """The HTML document of a report."""
    sections = {
        "result": _result(results),
        "domains": _domains(results),
        "low-shot": _low_shot(results),
        "measures": _measures(results),
        "differences": _differences(results),
        "ablations": _ablations(results),
        "choice": _choice(results),
        "errors": _errors(results),
        "pictures": _pictures(results),
        "provenance": _provenance(results),
    }
    return render(
        "report.html.j2",
        titles={key: title for key, title in TITLES.items() if sections[key]},
        sections=sections,
        models=len(lookup.models(results)),
        probes=lookup.probes(results),
        kind="domain" if results.domains else "data set",
        data_sets=domains.names(results) or list(dict.fromkeys(row.data for row in results.rows)),
        schema=SCHEMA,
    )


def _result(results: EvalResults) -> Values:
    """The tables of models × places. Each number links to its row in the provenance."""
    shown, cells = [], []
    for places in lookup.contests(results):
        rows = headline(results, places, "folded").rows
        seeds = headline(results, places, "seeds").rows
        cells += [cell for row in (*rows, *seeds) for cell in row]
        by_shots = places[0].shots is not None
        firsts = [lookup.rows_at(results, place)[0] for place in places]
        below = [counted(row.n_train, "training image") if by_shots else _setting(row) for row in firsts]
        heads = list(zip(places, below, strict=True))
        table = {
            "first": firsts[0],
            "by_shots": by_shots,
            "heads": heads,
            "has_probes": len(lookup.probes(results)) > 1,
        }
        shown.append(table | {"rows": rows, "seeds": seeds})
    marks = {cell.mark for cell in cells}
    return {
        "tables": shown,
        "of_probe": lookup.by_its_probe(results),
        "has_best": any(cell.best for cell in cells),
        "marks": [(mark, text) for mark, text in explanations.MARKS.items() if mark in marks],
        "intervals": [explanations.INTERVALS[kind] for kind in dict.fromkeys(row.interval for row in results.rows)],
        "warnings": list(dict.fromkeys(f"{row.data}: {note}" for row in results.rows for note in row.notes)),
    }


def _domains(results: EvalResults) -> Values:
    if not results.domains:
        return {}
    return {
        "accuracies": domains.accuracies(results),
        "drops": domains.drops(results),
        "figure": domains.heat_map(results).inline(),
        "tests": f"for {counted(len(results.drops), 'drop')}, Bonferroni",
        "validations": domains.validations(results),
        "chosen": what_is_chosen(lookup.probes(results)),
        "left_out": domains.left_out(results),
    }


def _low_shot(results: EvalResults) -> Values:
    rows = [row for row in results.rows if row.shots is not None and not row.variant]
    if not rows:
        return {}
    panels = []
    for data, probe in dict.fromkeys((row.data, row.probe) for row in rows):
        own = [row for row in rows if (row.data, row.probe) == (data, probe)]
        first, chart = own[0], figures.low_shot(data, own)
        by_probe = lookup.place_of(first).by_probe
        panels.append(
            {"data": data, "by_probe": by_probe, "n_classes": first.n_classes, "draws": first.draws, "chart": chart}
        )
    labels = {row.line: row.label for row in rows}
    return {"legend": charts.legend([(line, name_of(label)) for line, label in labels.items()]), "panels": panels}


def _measures(results: EvalResults) -> Values:
    groups: dict[tuple[str, str], list[EvalRow]] = {}
    for place in lookup.places(results):
        groups.setdefault((place.data, place.protocol), []).extend(lookup.rows_at(results, place))
    shown = []
    for rows in groups.values():
        first = rows[0]
        table = tables.details(results, rows, leave_out=("data", "protocol", "train / test"))
        setting = _setting(first)
        if first.shots is not None:
            draws = counted(first.draws, "draw")
            setting = f"{first.protocol}, {draws}, {first.n_classes} classes, k training images per class"
        measured = iter(rows)
        bars = [_accuracy_bar(None if k in table.summaries else next(measured), first) for k in range(len(table.rows))]
        before = 1 if first.shots is None else 2
        plot = Plot(before, "mean class accuracy, %", bars, charts.axis(figures.PERCENT))
        shown.append({"first": first, "table": table, "setting": setting, "plot": plot})
    return {"tables": shown, "columns_mean": " ".join(explanations.columns_mean(only_svm=lookup.only_svm(results)))}


def _accuracy_bar(row: EvalRow | None, first: EvalRow) -> Markup:
    """The bar of a row; for None, which is a mean over seeds, only the chance level."""
    if row is None:
        return charts.guide_bar([(100 * first.chance, "guess")], figures.PERCENT)
    return figures.accuracy_bar(row)


def _differences(results: EvalResults) -> Values:
    places = []
    all_found: list[Comparison] = []
    for place in lookup.places(results):
        found = lookup.between_models(results, place)
        if found:
            all_found += found
            verdicts = [(lookup.verdict(c), lookup.shown(c)) for c in found]
            table = tables.comparisons(found)
            places.append({"place": place, "table": table, "plot": _differences_plot(found), "verdicts": verdicts})
    if not places:
        return {}
    kinds = dict.fromkeys(c.test for c in results.comparisons)
    return {
        "places": places,
        "families": [explanations.adjustment(*family) for family in lookup.families(results.comparisons)],
        "tests": [(explanations.TEST_NAMES[kind], explanations.TESTS[kind]) for kind in kinds],
        "mcnemar": explanations.MCNEMAR if tables.has_mcnemar(all_found) else "",
    }


def _differences_plot(found: Sequence[Comparison | None]) -> Plot:
    """Differences on one axis with a line at 0; None for a row without a bar."""
    ends = [100 * x for c in found if c is not None for x in (*(c.ci95_simultaneous or (c.difference,)), 0.0)]
    scale = charts.round_scale(min(ends), max(ends), most=4)
    bars = [_difference_bar(c, scale) for c in found]
    return Plot(2, "difference, points", bars, charts.axis(scale))


def _difference_bar(c: Comparison | None, scale: Scale) -> Markup:
    if c is None:
        return charts.guide_bar([(0.0, "zero")], scale)
    low, high = c.ci95_simultaneous or (c.difference, c.difference)
    return charts.interval_bar(
        100 * c.difference,
        (100 * low, 100 * high),
        scale,
        series=0,
        hollow=not lookup.shown(c),
        guides=[(0.0, "zero")],
        label=f"{tables.difference(c)} points",
    )


def _ablations(results: EvalResults) -> Values:
    shown = []
    for rows in lookup.ablations(results):
        base = rows[0]
        found = [None if row is base else lookup.compared(results, row, base) for row in rows]
        shown.append(
            {
                "label": base.label,
                "place": lookup.place_of(base),
                "table": tables.ablation(results, rows),
                "plot": _differences_plot(found) if any(found) else None,
            }
        )
    return {"models": shown} if shown else {}


def _choice(results: EvalResults) -> Values:
    """One panel per place for the models, and one for each model with variants."""
    groups: list[tuple[Place, EvalRow | None, list[EvalRow]]] = []
    for place in lookup.places(results):
        groups.append((place, None, [row for row in lookup.rows_at(results, place) if figures.has_path(row)]))
    for rows in lookup.ablations(results):
        groups.append((lookup.place_of(rows[0]), rows[0], [row for row in rows if figures.has_path(row)]))
    panels = []
    for place, base, rows in groups:
        if not rows:
            continue
        series = [row.line if base is None else k for k, row in enumerate(rows)]
        names = [row.label if base is None else row.variant or "as it is" for row in rows]
        panels.append(
            {
                "place": place,
                "base": base.label if base else "",
                "chart": figures.c_path(rows, series, str(place)),
                "legend": charts.legend([(k, name_of(name, 44)) for k, name in zip(series, names, strict=True)]),
            }
        )
    how = origins.choice(results)
    has_draws = any(row.draws > 1 for row in results.rows)
    return {"how": f"{how[0].upper()}{how[1:]}.", "has_draws": has_draws, "panels": panels} if panels else {}


def _errors(results: EvalResults) -> Values:
    indices = lookup.pictured(results)
    shown = []
    for index in indices:
        row, detail = results.rows[index], results.details[index]
        shown.append(
            {
                "row": row,
                "place": lookup.place_of(row),
                "together": f"{row.draws} draws together" if row.draws > 1 else "one split",
                "has_numbers": len(detail.classes) <= figures.NUMBERS_UP_TO,
                "matrix": figures.confusion(row, detail).inline(),
                "table": tables.errors(results, index, ERRORS),
            }
        )
    return {
        "left_out": len(indices) < len(results.rows),
        "of_probe": f", by the probe {lookup.probes(results)[0]}" if len(lookup.probes(results)) > 1 else "",
        "by_shots": any(row.shots for row in results.rows),
        "models": shown,
    }


def _pictures(results: EvalResults) -> Values:
    if not results.pictures:
        return {}
    shown = [
        {
            "picture": element("img", src="data:image/png;base64," + b64encode(found.png).decode("ascii"), alt=""),
            "place": f"{found.data}: " if results.domains else "",
            "true": found.true,
            "id": found.id,
            "models": found.models,
            "wrong": [(label, answer) for label, answer, _ in found.wrong],
        }
        for found in results.pictures
    ]
    several = len(lookup.probes(results)) > 1
    return {"pictures": shown, "most": MOST, "of_probe": f" by the probe {results.rows[0].probe}" if several else ""}


def _provenance(results: EvalResults) -> Values:
    cards = [
        {
            "title": origins.title(sources),
            "facts": origins.card_facts(card),
            "files": [_file(results, source) for source in sources],
        }
        for card, sources in origins.cards(results)
    ]
    return {
        "command": origins.command(results),
        "run": origins.run(results),
        "cards": cards,
        "splits": tables.splits(results),
        "chosen": f"{'C' if lookup.probes(results) == [SVM] else 'chosen'}, draw by draw",
    }


def _file(results: EvalResults, source: origins.Origin) -> Values:
    """A feature file and its rows."""
    first = results.rows[source.rows[0]]
    tap = f"tap {lookup.tap(first)}, " if lookup.tap(first) else ""
    facts = [
        ("feature file", source.file),
        ("SHA-256 of its content", source.sha256),
        ("features", f"{tap}{first.precision}, backend {first.backend}"),
        ("protocol", f"{first.protocol}, {first.why}"),
    ]
    rows = [_file_row(results, index) for index in source.rows]
    return {"name": source.file, "data": source.data, "facts": facts, "rows": rows}


def _file_row(results: EvalResults, index: int) -> Values:
    row = results.rows[index]
    place = lookup.place_of(row)
    splits = [(k, results.splits[k]) for k in row.splits]
    return {
        "index": index,
        "title": (f"{row.data}, " if over_domains(row.protocol) else "")
        + (row.variant or "as it is")
        + (f", k = {row.shots}" if row.shots is not None else "")
        + place.by_probe,
        "levels": ", ".join(row.levels),
        "normalization": row.normalization,
        "solver": row.solver,
        "C": ", ".join(f"{C:g}" for C in row.C),
        "chosen": "; ".join(row.chosen) if row.probe != SVM else "",
        "splits": [(k, "fixed" if split.seed is None else f"draw {split.draw}") for k, split in splits],
        "seconds": f"{row.seconds:.1f}",
        "notes": "; ".join(row.notes) or "–",
    }


def _setting(row: EvalRow) -> str:
    """Protocol and number of images, as in `caltech-30, 3 draws, 101 classes, 3,030 training and 2,945 test images`."""
    draws = f", {row.draws} draws" if row.draws > 1 else ""
    images = f"{row.n_train:,} training and {counted(row.n_test, 'test image')}"
    return f"{row.protocol}{draws}, {row.n_classes} classes, {images}"
