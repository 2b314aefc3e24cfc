"""report.html: the whole report as one page that loads nothing, runs nothing, and reads on a phone and on paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files

from l2a_transfer.evaluation.compare import Comparison
from l2a_transfer.evaluation.results import SCHEMA, EvalResults, EvalRow
from l2a_transfer.report import charts, figures, lookup, tables
from l2a_transfer.report import origins as provenance
from l2a_transfer.report.charts import Scale
from l2a_transfer.report.lookup import Place
from l2a_transfer.report.markup import Markup, element, joined, name_of, words_of
from l2a_transfer.report.tables import Cell, Table
from l2a_transfer.wording import counted

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
ERRORS = 10
"""Confusions of a model that are listed beside its matrix."""
Plot = tuple[int, str, Callable[[int], Markup], Scale]
"""A column of interval bars: where it stands, its heading, the bar of a row, the scale of the axis below."""


def page(results: EvalResults) -> str:
    """The HTML document."""
    sections = [
        ("result", "Result", _result(results)),
        ("low-shot", "Few training images", _low_shot(results)),
        ("measures", "All measures", _measures(results)),
        ("differences", "Differences between models", _differences(results)),
        ("ablations", "Ablations", _ablations(results)),
        ("choice", "How C was chosen", _choice(results)),
        ("errors", "Where each model errs", _errors(results)),
        ("provenance", "Where every number comes from", _provenance(results)),
    ]
    kept = [(key, title, parts) for key, title, parts in sections if parts]
    links = [element("li", element("a", title, href=f"#{key}")) for key, title, _ in kept]
    body = [
        element("header", element("h1", "Linear SVM on frozen features"), _lead(results)),
        element("nav", element("ul", *links), aria_label="Contents"),
        element("main", *(
            element("section", element("h2", title, id=f"{key}-title"), *parts, id=key, aria_labelledby=f"{key}-title")
            for key, title, parts in kept
        )),
        element("footer", element("p", "Rendered from ", element("code", "results.json"), f" ({SCHEMA}), which has "
                "every split, prediction and confusion count in full. This page loads nothing and runs no script.")),
    ]  # fmt: skip
    style = Markup(files("l2a_transfer.report").joinpath("page.css").read_text(encoding="utf-8"))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", "Linear SVM on frozen features"),
        Markup(f"<style>{style}</style>"),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', *body), lang='en')}\n"


def _lead(results: EvalResults) -> Markup:
    sets = list(dict.fromkeys(row.data for row in results.rows))
    names = len(lookup.models(results))
    return element(
        "p", f"{names} model{'s' * (names > 1)} on {len(sets)} data set{'s' * (len(sets) > 1)}: ",
        joined((name_of(data) for data in sets), ", "), ". Each SVM is fitted on training images, its C is chosen on "
        "training images alone, and it is asked once about the test images. Brackets are 95 % intervals.",
        class_="lead",
    )  # fmt: skip


def _result(results: EvalResults) -> list[Markup]:
    parts, cells = [], []
    for places in lookup.contests(results):
        table = tables.headline(results, places)
        cells += [cell for row in table.rows for cell in row]
        parts.append(_headline(results, table, places))
    used = {cell.mark for cell in cells} - {""}
    marked = [joined([element("b", "Bold"), ": the best of its column."])] if any(cell.best for cell in cells) else []
    marked += [joined([mark, f": {text}."]) for mark, text in tables.MARKS.items() if mark in used]
    kinds = dict.fromkeys(row.interval for row in results.rows)
    notes = [*marked, *(f"Intervals: {tables.INTERVALS[kind]}." for kind in kinds),
             "A number leads to where it comes from."]  # fmt: skip
    return [*parts, element("ul", *(element("li", note) for note in notes), class_="note")]


def _headline(results: EvalResults, table: Table, places: Sequence[Place]) -> Markup:
    """The table of models × places; each number leads to its row in the provenance."""
    by_shots = places[0].shots is not None
    heads = [element("th", "model", scope="col")]
    for place in places:
        title = f"k = {place.shots}" if by_shots else _place(place)
        row = lookup.rows_at(results, place)[0]
        below = f"{counted(row.n_train, 'training image')}" if by_shots else _setting(results, place)
        heads.append(element("th", title, element("span", below, class_="sub"), scope="col", class_="number"))
    lines = []
    for name, *cells in table.rows:
        found = [element("td", _linked(cell), class_=_class(cell, number=True)) for cell in cells]
        lines.append(element("tr", element("th", name_of(name.text), scope="row", class_="name"), *found))
    last = lookup.rows_at(results, places[0])[0]
    caption = (
        joined([name_of(last.data), f", {last.protocol}, {counted(last.draws, 'draw')}, {last.n_classes} classes, "
                f"{counted(last.n_test, 'test image')}: mean class accuracy, % [95 % interval], with k training images "
                "a class."])
        if by_shots else "Mean class accuracy, % [95 % interval]."
    )  # fmt: skip
    return _box("Mean class accuracy", _caption(caption), element("thead", element("tr", *heads)),
                element("tbody", *lines))  # fmt: skip


def _measures(results: EvalResults) -> list[Markup]:
    scale = Scale(0, 100, tuple((value, f"{value}") for value in range(0, 101, 20)))
    groups: dict[tuple[str, str], list[EvalRow]] = {}
    for place in lookup.places(results):
        groups.setdefault((place.data, place.protocol), []).extend(lookup.rows_at(results, place))
    parts: list[Markup] = []
    for rows in groups.values():
        first = rows[0]
        table = tables.details(results, rows, leave_out=("data", "protocol", "train / test"))
        measured = iter(rows)
        shown = [None if k in table.summaries else next(measured) for k in range(len(table.rows))]

        def bar(k: int, shown: Sequence[EvalRow | None] = shown, chance: float = 100 * first.chance) -> Markup:
            row = shown[k]
            if row is None:
                return charts.guide_bar([(chance, "guess")], scale)
            low, high = row.mean_class_accuracy_ci95
            return charts.interval_bar(
                100 * row.mean_class_accuracy, (100 * low, 100 * high), scale, series=row.line,
                guides=[(100 * row.chance, "guess")], label=f"{100 * row.mean_class_accuracy:.1f} %",
            )  # fmt: skip

        shots = first.shots is not None
        setting = (
            f"{first.protocol}, {counted(first.draws, 'draw')}, {first.n_classes} classes, k training images a class"
            if shots
            else _setting(results, lookup.place_of(first))
        )  # fmt: skip
        caption = joined([name_of(first.data), f": {setting}. Dotted: guessing, {100 * first.chance:.1f} %."])
        parts.append(_rendered(table, caption, plot=(2 if shots else 1, "mean class accuracy, %", bar, scale)))
    return [*parts, element("p", " ".join(tables.COLUMNS_MEAN), class_="note")]


def _differences(results: EvalResults) -> list[Markup]:
    parts: list[Markup] = []
    all_found: list[Comparison] = []
    for place in lookup.places(results):
        found = lookup.between_models(results, place)
        if not found:
            continue
        all_found += found
        parts.append(element("h3", _place(place)))
        caption = "First minus second, mean class accuracy; right of the line the first is better."
        parts.append(_forest(tables.comparisons(found), found, caption, at=1, pairs=True))
        parts.append(element("ul", *(
            element("li", c.verdict, class_="shown" if lookup.shown(c) else "not-shown")
            for c in found
        ), class_="verdicts"))  # fmt: skip
    if parts:
        kinds = dict.fromkeys(c.test for c in results.comparisons)
        notes = [
            *(f"{tables.adjusted(*family)}." for family in lookup.families(results.comparisons)),
            "Filled marker and bold p: the difference is significant (adjusted p < 0.05). Hollow: it is not, which "
            "does not make the two equal.",
            "Only first (second) right: test images that this one alone got right, all draws together. Effect: for the "
            "permutation test the first one's share of these, classes weighing alike, minus a half; else the mean "
            "difference over its spread.",
            *(f"{tables.TEST_NAMES[kind]}: {tables.TESTS[kind]}." for kind in kinds),
            *([tables.MCNEMAR] if tables.has_mcnemar(all_found) else []),
        ]
        parts.append(element("ul", *(element("li", note) for note in notes), class_="note"))
    return parts


def _forest(
    table: Table, found: Sequence[Comparison | None], caption: str, *, at: int = 2, pairs: bool = False
) -> Markup:
    """A table with the differences also drawn, on one axis with a line at 0. `pairs`: the first two columns as one."""
    ends = [100 * x for c in found if c is not None for x in (*(c.ci95_simultaneous or (c.difference,)), 0.0)]
    scale = charts.round_scale(min(ends), max(ends), most=4)

    def bar(k: int) -> Markup:
        c = found[k]
        if c is None:
            return charts.guide_bar([(0.0, "zero")], scale)
        low, high = c.ci95_simultaneous or (c.difference, c.difference)
        interval = (100 * low, 100 * high)
        return charts.interval_bar(100 * c.difference, interval, scale, series=0, hollow=not lookup.shown(c),
                                   guides=[(0.0, "zero")], label=f"{tables.difference(c)} points")  # fmt: skip

    return _rendered(table, caption, plot=(at, "difference, points", bar, scale), pairs=pairs)


def _low_shot(results: EvalResults) -> list[Markup]:
    rows = [row for row in results.rows if row.shots is not None and not row.variant]
    if not rows:
        return []
    panels = []
    for data in dict.fromkeys(row.data for row in rows):
        own = [row for row in rows if row.data == data]
        caption = element(
            "figcaption", element("b", name_of(data)), f", {own[0].n_classes} classes, {counted(own[0].draws, 'draw')}"
        )
        panels.append(element("figure", caption, figures.low_shot(data, own)))
    return [
        charts.legend([(line, name_of(label)) for line, label in {row.line: row.label for row in rows}.items()]),
        element("div", *panels, class_="panels"),
        element("p", "Whiskers: 95 % intervals. Points of one k stand side by side so that none covers "
                "another. Dotted: guessing.", class_="note"),
    ]  # fmt: skip


def _ablations(results: EvalResults) -> list[Markup]:
    parts = []
    for rows in lookup.ablations(results):
        base, place = rows[0], lookup.place_of(rows[0])
        found = [None if row is base else lookup.compared(results, row, base) for row in rows]
        table = tables.ablation(results, rows)
        title = element("h3", name_of(base.label), " on ", _place(place))
        if any(found):
            parts += [title, _forest(table, found, "Each variant minus the model as it is, mean class accuracy.")]
        else:
            parts += [title, _rendered(table, "Mean class accuracy.")]
    if parts:
        parts.append(element("p", "Filled marker and bold p: the variant's difference is significant (adjusted p < "
                             "0.05). This holds for the features of the one file only.", class_="note"))  # fmt: skip
    return parts


def _choice(results: EvalResults) -> list[Markup]:
    """One panel a place for the models as they are, and one for each model with variants."""
    panels: list[Markup] = []
    groups: list[tuple[Place, EvalRow | None, list[EvalRow]]] = []
    for place in lookup.places(results):
        groups.append((place, None, [row for row in lookup.rows_at(results, place) if figures.has_path(row)]))
    for rows in lookup.ablations(results):
        groups.append((lookup.place_of(rows[0]), rows[0], [row for row in rows if figures.has_path(row)]))
    for place, base, rows in groups:
        if not rows:
            continue
        series = [row.line if base is None else k for k, row in enumerate(rows)]
        names = [row.label if base is None else row.variant or "as it is" for row in rows]
        caption = [element("b", _place(place))] + ([", variants of ", name_of(base.label)] if base else [])
        panels.append(element(
            "figure", element("figcaption", *caption), figures.c_path(rows, series, str(place)),
            charts.legend([(k, name_of(name, 44)) for k, name in zip(series, names, strict=True)]),
        ))  # fmt: skip
    if not panels:
        return []
    many = " One thin line a draw." if any(row.draws > 1 for row in results.rows) else ""
    return [
        element("p", _sentence(provenance.choice(results.config)), f" Markers: the C that was chosen.{many}"),
        element("div", *panels, class_="panels"),
    ]


def _errors(results: EvalResults) -> list[Markup]:
    parts: list[Markup] = []
    indices = lookup.pictured(results)
    if len(indices) < len(results.rows):
        parts.append(element("p", "Drawn for the models as they are"
                             + (", at the largest k" if any(row.shots for row in results.rows) else "")
                             + "; the counts of all rows are in results.json.", class_="note"))  # fmt: skip
    for index in indices:
        row, detail = results.rows[index], results.details[index]
        label = (
            f"Confusion matrix of {row.label} on {row.data}, {len(detail.classes)} classes; its most frequent "
            "confusions are listed in the table below it"
        )
        parts.append(element("h3", name_of(row.label), " on ", _place(lookup.place_of(row))))
        together = f"{row.draws} draws together" if row.draws > 1 else "one split"
        caption = f"Share of each true class's test images by predicted class, {together}" + (
            "; in %." if len(detail.classes) <= figures.NUMBERS_UP_TO
            else ". Shades go by its square root, so that a few per cent of errors show."
        )  # fmt: skip
        picture = element("figure", element("figcaption", caption), _scroll(
            figures.confusion(detail, label), f"Confusion matrix of {row.label} on {row.data}"))  # fmt: skip
        listed = tables.errors(results, index, ERRORS)
        worst = (
            _rendered(listed, f"Most frequent confusions, {together}.") if listed.rows
            else element("p", "No test image is confused.", class_="note")
        )  # fmt: skip
        parts.append(element("div", picture, worst, class_="beside"))
    return parts


def _provenance(results: EvalResults) -> list[Markup]:
    facts = [*provenance.run(results)]
    parts = [
        element("h3", "How to repeat this"),
        element("pre", provenance.command(results)),
        _facts(facts),
    ]
    for card, sources in provenance.cards(results):
        parts.append(element("h3", name_of(provenance.title(sources))))
        parts.append(_facts(provenance.card_facts(card)))
        for source in sources:
            parts += _file(results, source)
    table = tables.splits(results)
    parts.append(element("h3", "Splits"))
    parts.append(_rendered(
        table, "Splits with the same SHA-256 have the same images; results.json has their rows.",
        ids=[f"split-{k}" for k in range(len(table.rows))],
    ))  # fmt: skip
    return parts


def _file(results: EvalResults, source: provenance.Origin) -> list[Markup]:
    """A feature file and the rows made from it."""
    first = results.rows[source.rows[0]]
    facts = [
        ("feature file", source.file),
        ("SHA-256 of its content", source.sha256),
        ("features", f"tap {first.tap}, {first.precision}, backend {first.backend}"),
        ("protocol", f"{first.protocol}, {first.why}"),
    ]
    heads = ("row", "levels", "normalization", "solver", "C, draw by draw", "splits", "seconds", "notes")
    table = _box(
        f"Rows of {source.file}", _caption("Rows made from this file."),
        element("thead", element("tr", *(element("th", head, scope="col") for head in heads))),
        element("tbody", *(_origin(results, k, results.rows[k]) for k in source.rows)),
    )  # fmt: skip
    return [element("h4", "on ", name_of(first.data)), _facts(facts), table]


def _origin(results: EvalResults, index: int, row: EvalRow) -> Markup:
    own = [element("a", _draw_name(results, k), href=f"#split-{k}") for k in row.splits]
    name = (row.variant or "as it is") + (f", k = {row.shots}" if row.shots is not None else "")
    cells = (
        ", ".join(row.levels), row.normalization, row.solver, ", ".join(f"{C:g}" for C in row.C), joined(own, ", "),
        f"{row.seconds:.1f}", "; ".join(row.notes) or "–",
    )  # fmt: skip
    return element("tr", element("th", name, scope="row"), *(element("td", cell) for cell in cells), id=f"row-{index}")


def _draw_name(results: EvalResults, k: int) -> str:
    return f"draw {results.splits[k].draw}" if results.splits[k].seed is not None else "fixed"


def _facts(facts: Sequence[tuple[str, str]]) -> Markup:
    return element("dl", *(joined([element("dt", name), element("dd", element("bdi", text))]) for name, text in facts))


def _rendered(
    table: Table, caption: str, *, plot: Plot | None = None, ids: Sequence[str] | None = None, pairs: bool = False
) -> Markup:
    """A table in its own box; `plot` puts a column of bars and their axis into it, `pairs` makes one column of the
    first two."""
    heads = [
        element("th", name.replace("95 %]", "95\u00a0%]"), scope="col", class_="number" if number else None)
        for name, number in table.columns
    ]
    if pairs:
        heads[:2] = [element("th", f"{table.columns[0][0]} − {table.columns[1][0]}", scope="col")]
    if plot is not None:
        at, title, _, scale = plot
        heads.insert(at, element("th", title, scope="col", class_="plot"))
    lines = []
    for k, cells in enumerate(table.rows):
        found = [
            element("th", _content(cell), scope="row", class_=_class(cell, number=number)) if i == 0
            else element("td", _content(cell), class_=_class(cell, number=number))
            for i, (cell, (_, number)) in enumerate(zip(cells, table.columns, strict=True))
        ]  # fmt: skip
        if pairs:
            pair = joined([_content(cells[0]), element("br"), "− ", _content(cells[1])])
            found[:2] = [element("th", pair, scope="row", class_="name pair")]
        if plot is not None:
            found.insert(at, element("td", plot[2](k), class_="plot"))
        lines.append(element("tr", *found, id=None if ids is None else ids[k]))
    body = [element("thead", element("tr", *heads)), element("tbody", *lines)]
    if plot is not None:
        rest = len(heads) - 1 - at
        body.append(element("tfoot", element(
            "tr", element("td", colspan=at), element("td", charts.axis(scale), class_="plot"),
            *([element("td", colspan=rest)] if rest else []),
        ), aria_hidden="true"))  # fmt: skip
    return _box(words_of(caption), _caption(caption), *body)


def _caption(content: str) -> Markup:
    """A caption that stays in sight while the table below it scrolls aside."""
    return element("caption", element("span", content))


def _box(label: str, *parts: Markup) -> Markup:
    return _scroll(element("table", *parts), label)


def _scroll(content: Markup, label: str) -> Markup:
    """What may be wider than the screen scrolls in a box of its own, which the keyboard reaches."""
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def _content(cell: Cell) -> Markup:
    text = name_of(cell.text) if cell.name else joined([cell.text])
    return element("b", text) if cell.best else text


def _linked(cell: Cell) -> Markup:
    if cell.row is None:
        return joined([cell.text])
    value, bracket, rest = cell.text.partition(" ")
    shown = joined([element("a", value, href=f"#row-{cell.row}"), bracket + rest])
    best = element("span", " (best)", class_="hidden") if cell.best else ""
    return joined([element("b", shown) if cell.best else shown, best, element("span", cell.mark, class_="mark")])


def _class(cell: Cell, *, number: bool) -> str | None:
    names = (
        ["number"] * number + ["name"] * cell.name + ["digest"] * (cell.code and not cell.name) + ["wrap"] * cell.long
    )
    return " ".join(names) or None


def _place(place: Place) -> Markup:
    return joined([name_of(place.data), f", k = {place.shots}" if place.shots is not None else ""])


def _setting(results: EvalResults, place: Place) -> str:
    """The protocol and how many images: 'caltech-30, 3 draws, 101 classes, 3030 / 2945 images'."""
    row = lookup.rows_at(results, place)[0]
    draws = f", {row.draws} draws" if row.draws > 1 else ""
    images = f"{row.n_train:,} training and {counted(row.n_test, 'test image')}"
    return f"{row.protocol}{draws}, {row.n_classes} classes, {images}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
