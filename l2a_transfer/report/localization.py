"""Localisation results → JSON, CSV, Markdown and one HTML page. Only renders."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from l2a_transfer.evaluation.verdict import p_text, points, significant, with_interval
from l2a_transfer.files import check_folder, check_free, leftovers, replacing_all
from l2a_transfer.localization.compare import FAMILIES, WORDS
from l2a_transfer.localization.results import (
    MEASURES,
    RESULTS,
    SCHEMA,
    LocalizationResults,
    MapComparison,
    Measure,
    Row,
)
from l2a_transfer.localization.sheet import Sheet
from l2a_transfer.lock import folder_lock
from l2a_transfer.report import charts, lookup, origins
from l2a_transfer.report.markdown import text_table
from l2a_transfer.report.markup import Markup, element
from l2a_transfer.report.page import Plot
from l2a_transfer.report.tables import Cell, TextTable
from l2a_transfer.report.templates import render
from l2a_transfer.text import csv_cell, json_text
from l2a_transfer.text import markdown as escaped
from l2a_transfer.wording import counted, with_minus

TABLE, COMPARISONS, PICTURES, PAGE, MARKDOWN = (
    "localization.csv",
    "comparisons.csv",
    "pictures.csv",
    "report.html",
    "report.md",
)
FILES = (RESULTS, TABLE, COMPARISONS, PICTURES, PAGE, MARKDOWN)
TITLES = {
    "result": "Result",
    "measures": "All measures",
    "differences": "Differences between maps",
    "pictures": "Best, median and worst pictures",
    "provenance": "Where every number comes from",
}
UPPER = "J, oracle †"
UPPER_MEANS = "†: each fold at the threshold that is best for its own images. This is an upper bound, not a result."
EXPLAINED = {
    "jaccard": "J: intersection over union of the object and the map above the threshold τ, which was chosen on other "
    "images; P: share of pixels that are classified correctly at τ. In a signed map, only positive values can exceed τ",
    "average_precision": "AP: average precision over the pixels of an image; pooled: over all images' pixels together",
    "pointing": "pointing: the map's maximum lies on the object; near: at most 3 % of the longer side away from it",
    "energy": "energy: share of the map's positive mass that lies on the object",
    "jaccard_otsu": "J, Otsu: at Otsu's threshold; J, mass: of the hottest pixels that hold 60 % of the mass",
    "max_box_accuracy": "MaxBoxAccV2: share of images with a box that overlaps by 0.3, 0.5 and 0.7, on average; "
    "thresholds chosen on other images",
}


@contextmanager
def localization_folder(out: Path, *, overwrite: bool) -> Iterator[None]:
    """Lock the folder `out` from before maps are computed until the report is written.

    Raises: OutputExistsError if it contains a report and `overwrite` is not given, if it is not a folder, or if another
    process is writing to it.
    """
    _check(out, overwrite=overwrite)
    with folder_lock(out):
        _check(out, overwrite=overwrite)
        yield


def _check(out: Path, *, overwrite: bool) -> None:
    check_folder(out, "a report")
    replaced = leftovers(out)
    for name in FILES:
        check_free(out / name, overwrite=overwrite, what="the report", replaced=replaced)


def write_localization(
    results: LocalizationResults, sheet: Sheet, pictures: Iterable[Sequence[object]], out: Path
) -> list[Path]:
    """Write the report into the folder that `localization_folder` has locked: all files or none.

    Parameters
    ----------
    results : LocalizationResults
        The table and the comparisons.
    sheet : Sheet
        Pictures to show.
    pictures : iterable of sequence
        Row, picture, class and measures of each picture of each row, for `pictures.csv`.
    out : Path
        The folder.

    Returns
    -------
    list of Path
        The files, `localization.json` first.
    """
    names = [*FILES]
    with replacing_all(out) as put:
        put(RESULTS, localization_json(results, names))
        put(TABLE, _csv(_rows_csv(results)))
        put(COMPARISONS, _csv(_comparisons_csv(results)))
        put(PICTURES, _csv([("row", "picture", "class", *MEASURES), *pictures]))
        put(PAGE, localization_page(results, sheet).encode("utf-8", "backslashreplace"))
        put(MARKDOWN, localization_markdown(results).encode("utf-8", "backslashreplace"))
    return [out / name for name in names]


def localization_json(results: LocalizationResults, names: Sequence[str]) -> bytes:
    """The JSON document with the names of the report's files, as UTF-8."""
    document = {**results.document(), "files": list(names)}
    whole = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    return (json_text(whole) + "\n").encode("utf-8", "backslashreplace")


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([csv_cell(cell) for cell in row] for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _rows_csv(results: LocalizationResults) -> Iterator[Sequence[object]]:
    facts = ("label", "model", "method", "map", "kind", "target", "control", "weights_sha256", "images")
    ends = ("", "_low", "_high", "_class_mean", "_class_mean_low", "_class_mean_high")
    others = ("pooled_average_precision", "oracle_jaccard", "oracle_pixel_accuracy")
    yield (*facts, *(f"{name}{end}" for name in MEASURES for end in ends), "levels", *others)
    for row in results.rows:
        cells: list[object] = [getattr(row, name) for name in facts]
        for name in MEASURES:
            own = row.measures.get(name)
            cells += [""] * len(ends) if own is None else [own.mean, *own.ci95, own.class_mean, *own.class_ci95]
        yield (*cells, ";".join(map(str, row.levels)), *(getattr(row, name) for name in others))


def _comparisons_csv(results: LocalizationResults) -> Iterator[Sequence[object]]:
    names = ("family", "comparisons", "measure", "a", "b", "difference", "p", "p_adjusted", "population", "verdict")
    yield (*names, "ci95_low", "ci95_high", "ci95_simultaneous_low", "ci95_simultaneous_high")
    for own in results.comparisons:
        yield (*(getattr(own, name) for name in names), *(own.ci95 or ("", "")), *(own.ci95_simultaneous or ("", "")))


def main_measure(results: LocalizationResults) -> str:
    """The measure that is compared, which is also the first number in the table."""
    return results.config.measure or "jaccard"


def result_table(results: LocalizationResults) -> TextTable:
    """Means over classes of every row, in percent, with the controls last."""
    first = main_measure(results)
    own = [first, *(name for name in MEASURES if name in results.rows[0].measures and name != first)]
    columns = [("map", False), (f"{MEASURES[own[0]]} [95 %]", True), *((MEASURES[name], True) for name in own[1:])]
    best = {name: max(row.measures[name].class_mean for row in results.rows) for name in own}
    rows = []
    for row in results.rows:
        cells = [Cell(f"{row.label} (control)" if row.control else row.label, name=True)]
        for name in own:
            value = row.measures[name].class_mean
            text = _interval(row.measures[name], over_classes=True) if name == first else f"{100 * value:.1f}"
            cells.append(Cell(text, best=value == best[name]))
        rows.append(tuple(cells))
    return TextTable(tuple(columns), tuple(rows))


def image_table(results: LocalizationResults) -> TextTable:
    """Means over images of every row with intervals, in percent, and the thresholds."""
    own = list(results.rows[0].measures)
    pooled = [("AP, pooled", True), ("τ of each fold", True), (UPPER, True)] if results.outlined else []
    columns = (("map", False), ("class", False), *((f"{MEASURES[name]} [95 %]", True) for name in own), *pooled)
    rows = []
    for row in results.rows:
        cells = [Cell(row.label, name=True), Cell(row.target or "–", name=True)]
        cells += [Cell(_interval(row.measures[name], over_classes=False)) for name in own]
        if row.pooled_average_precision is not None:
            cells += [Cell(f"{100 * row.pooled_average_precision:.1f}"), Cell(" ".join(f"{x:.3f}" for x in row.levels))]
            cells.append(Cell("–" if row.oracle_jaccard is None else f"{100 * row.oracle_jaccard:.1f}"))
        rows.append(tuple(cells))
    return TextTable(columns, tuple(rows))


def _interval(own: Measure, *, over_classes: bool) -> str:
    value, (low, high) = (own.class_mean, own.class_ci95) if over_classes else (own.mean, own.ci95)
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def comparison_table(found: Sequence[MapComparison]) -> TextTable:
    """The first map of each pair minus the second, in points."""
    columns = (
        ("first", False),
        ("second", False),
        ("difference, points [simultaneous 95 %]", True),
        ("adjusted p", True),
        ("n", True),
    )
    rows = []
    for own in found:
        shown = with_minus(points(own.difference, 1))
        if own.ci95_simultaneous is not None:
            shown = with_minus(with_interval(own.difference, own.ci95_simultaneous, apart=_is_shown(own)))
        p = "–" if own.p_adjusted is None else p_text(own.p_adjusted).removeprefix("= ")
        n = f"{own.n[0]:,}" if own.n[0] == own.n[1] else f"{own.n[0]:,}, {own.n[1]:,}"
        cells = (Cell(own.a, name=True), Cell(own.b, name=True), Cell(shown), Cell(p, best=_is_shown(own)), Cell(n))
        rows.append(cells)
    return TextTable(columns, tuple(rows))


def _is_shown(own: MapComparison) -> bool:
    return significant(own.p_adjusted, own.difference)


def facts(results: LocalizationResults) -> list[tuple[str, str]]:
    """Facts about the run as (name, value)."""
    config = results.config
    found = [
        ("pictures", f"{results.data}: {counted(results.images, 'image')} of {len(results.classes)} classes measured"),
        ("masks", results.masks + (f", class {config.mask_class}" if config.mask_class else "")),
        ("left out", ", ".join(f"{n:,} {reason}" for reason, n in results.skipped.items()) or "none"),
        ("object", f"{100 * results.foreground:.1f} % of the pixels of an image, on average"),
        ("network input", f"images whose shorter side has {config.side} pixels"),
        ("explained class", config.target if config.target in ("true", "predicted") else f"class {config.target}"),
        ("seed", f"{config.seed}, for folds, ties and the bootstrap"),
        ("versions", ", ".join(f"{name} {version}" for name, version in results.versions.items())),
    ]
    how = f"for each of {config.folds} folds on the images of the others"
    if results.choosing:
        how = f"on {counted(results.choosing, 'other image')} of the validation list"
    found.insert(1, ("thresholds", f"chosen {how}"))
    if config.same_class:
        found.append(("same class", ", ".join(f"{a} = {b}" for a, b in config.same_class.items())))
    if config.options:
        shown = [f"{method}.{name} = {value}" for method, own in config.options.items() for name, value in own.items()]
        found.append(("options", ", ".join(shown)))
    return found


def notes(results: LocalizationResults) -> list[str]:
    """Explanations of the columns."""
    found = [text for name, text in EXPLAINED.items() if name in results.rows[0].measures]
    found.append("intervals: bootstrap over images, stratified by class")
    return found


def localization_page(results: LocalizationResults, sheet: Sheet) -> str:
    """The HTML document."""
    sections: dict[str, dict[str, Any]] = {
        "result": {"table": result_table(results), "plot": _plot(results), "notes": notes(results)},
        "measures": {"table": image_table(results), "upper": UPPER_MEANS if results.outlined else ""},
        "differences": {"families": [_family(results, family) for family in _families(results)]},
        "pictures": {"sheet": sheet, "figures": [_figure(own.png) for own in sheet.pictures]},
        "provenance": {
            "facts": facts(results),
            "cards": [(label, origins.card_facts(card)) for label, card in results.models.items()],
        },
    }
    return render(
        "localization.html.j2",
        titles=TITLES,
        sections=sections,
        results=results,
        measure=WORDS[main_measure(results)],
        schema=SCHEMA,
    )


def _families(results: LocalizationResults) -> list[str]:
    return [name for name in FAMILIES if any(own.family == name for own in results.comparisons)]


def _family(results: LocalizationResults, family: str) -> dict[str, Any]:
    found = [own for own in results.comparisons if own.family == family]
    ends = [100 * x for c in found for x in (*(c.ci95_simultaneous or (c.difference,)), 0.0)]
    scale = charts.round_scale(min(ends), max(ends), most=4)
    bars = [
        charts.interval_bar(
            100 * c.difference,
            tuple(100 * x for x in c.ci95_simultaneous or (c.difference, c.difference)),  # type: ignore[arg-type]
            scale,
            series=0,
            hollow=not _is_shown(c),
            guides=[(0.0, "zero")],
            label=f"{with_minus(points(c.difference, 1))} points",
        )
        for c in found
    ]
    return {
        "title": f"{FAMILIES[family][0].upper()}{FAMILIES[family][1:]}",
        "table": comparison_table(found),
        "plot": Plot(2, "difference, points", bars, charts.axis(scale)),
        "verdicts": [(lookup.verdict(c), _is_shown(c)) for c in found],
    }


def _plot(results: LocalizationResults) -> Plot:
    """The forest plot beside the table, with the main measure of each row and its interval."""
    name = main_measure(results)
    scale = charts.round_scale(0.0, 100 * max(row.measures[name].class_ci95[1] for row in results.rows))
    bars = [_bar(row, row.measures[name], scale) for row in results.rows]
    return Plot(1, f"{MEASURES[name]}, %", bars, charts.axis(scale))


def _bar(row: Row, own: Measure, scale: charts.Scale) -> Markup:
    low, high = own.class_ci95
    return charts.interval_bar(
        100 * own.class_mean,
        (100 * low, 100 * high),
        scale,
        series=4 if row.control else 0,
        hollow=row.control,
        label=f"{100 * own.class_mean:.1f} %",
    )


def _figure(png: bytes) -> Markup:
    return element("img", src="data:image/png;base64," + base64.b64encode(png).decode("ascii"), alt="")


def localization_markdown(results: LocalizationResults) -> str:
    """The report without pictures."""
    parts = [
        "# Maps against masks",
        f"Means over classes, in %, of {counted(results.images, 'image')} of {escaped(results.data)}.",
        text_table(result_table(results)),
        "\n".join(f"- {text}." for text in notes(results)),
        "## All measures",
        "Means over images, in %.",
        text_table(image_table(results)),
        *([UPPER_MEANS] if results.outlined else []),
    ]
    if results.comparisons:
        parts += [f"## Differences between maps\n\nBy {WORDS[main_measure(results)]}."]
        parts += ["\n".join(f"- {escaped(lookup.verdict(own))}" for own in results.comparisons)]
    parts += ["## Where every number comes from"]
    parts += ["\n".join(f"- {escaped(name)}: {escaped(value)}" for name, value in facts(results))]
    for label, card in results.models.items():
        lines = [f"- {escaped(name)}: {escaped(value)}" for name, value in origins.card_facts(card)]
        parts += [f"### {escaped(label)}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"
