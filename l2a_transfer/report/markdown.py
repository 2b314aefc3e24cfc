"""report.md: the content of report.html as Markdown, with figures in separate files."""

from __future__ import annotations

import dataclasses

from l2a_transfer.evaluation.compare import Comparison
from l2a_transfer.evaluation.probes.registry import SVM, what_is_chosen
from l2a_transfer.evaluation.results import EvalResults
from l2a_transfer.report import domains, explanations, lookup, origins, tables
from l2a_transfer.report.headline import headline
from l2a_transfer.report.lookup import Place
from l2a_transfer.report.tables import Cell, TextTable
from l2a_transfer.text import markdown as _escape
from l2a_transfer.text import plain
from l2a_transfer.wording import counted

ERRORS = 5
"""Number of confusions listed below a model's matrix."""


def markdown_table(results: EvalResults) -> str:
    """All measures, one line per row, in percent with one decimal."""
    return text_table(tables.details(results, results.rows))


def report_markdown(results: EvalResults, confusions: dict[str, int]) -> str:
    """The report; `confusions` maps the file name of each confusion matrix to its row."""
    sections = [
        [f"# {'Linear SVM' if lookup.probes(results) == [SVM] else 'Probes'} on frozen features"],
        *_headlines(results),
        *_domains(results),
        ["![Mean class accuracy](accuracy.svg)"],
        ["## All measures", "", markdown_table(results)],
        _notes(results),
        *_differences(results),
        *_ablations(results),
        ["## Errors of each model"],
    ]
    for name, index in confusions.items():
        row = results.rows[index]
        sections.append(
            [f"![Confusion matrix of {_escape(row.label)}{lookup.place_of(row).after}{_escape(row.data)}]({name})"]
        )
        listed = tables.errors(results, index, ERRORS)
        if listed.rows:
            sections.append([text_table(listed)])
    sections += _provenance(results)
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _headlines(results: EvalResults) -> list[list[str]]:
    found, cells = [], []
    for places in lookup.contests(results):
        table = headline(results, places)
        cells += [cell for row in table.rows for cell in row]
        # The headings of these columns are names of data sets.
        found.append(["Mean class accuracy, % [95 % interval]:", "", text_table(_escaped(table))])
    used = {cell.mark for cell in cells}
    notes = (
        [f"- **Bold**: the best of its column{lookup.by_its_probe(results)}."]
        if any(cell.best for cell in cells)
        else []
    )
    notes += [f"- {mark}: {text}." for mark, text in explanations.MARKS.items() if mark in used]
    return [*found, notes]


def _domains(results: EvalResults) -> list[list[str]]:
    if not results.domains:
        return []
    lost = domains.drops(results)
    across = [
        "Drop: accuracy within the target domain minus accuracy across domains, in points of mean class accuracy "
        "[95 % interval]:",
        "",
    ]
    count, chosen = counted(len(results.drops), "drop"), what_is_chosen(lookup.probes(results))
    bold = [f"- Bold: the drop is significant (adjusted p < 0.05; for {count}, Bonferroni)."] if lost.rows else []
    return [
        ["## Across domains"],
        ["Mean class accuracy, % [95 % interval]:", "", text_table(_escaped(domains.accuracies(results)))],
        [*across, text_table(_escaped(lost))] if lost.rows else [],
        ["![From source to target domain](domains.svg)"],
        [
            *bold,
            *(
                f"- Cross-validation that chooses {chosen}, on the training parts of the sources only: {text}."
                for text in domains.validations(results)
            ),
            *(
                f"- Classes left out of {_escape(place)}, because not all of its domains have them: {_escape(names)}."
                for place, names in domains.left_out(results)
            ),
        ],
    ]


def _escaped(table: TextTable) -> TextTable:
    """A table whose headings come from data and are escaped."""
    return dataclasses.replace(table, columns=tuple((_escape(name), number) for name, number in table.columns))


def _notes(results: EvalResults) -> list[str]:
    kinds = dict.fromkeys(row.interval for row in results.rows)
    return [
        f"- Each SVM is fitted on training rows; {origins.choice(results)}. The test rows are used once.",
        *(f"- 95 % intervals: {explanations.INTERVALS[kind]}." for kind in kinds),
        *(f"- {text}" for text in explanations.columns_mean(only_svm=lookup.only_svm(results))),
        *dict.fromkeys(f"- {_escape(row.data)}: protocol {row.protocol}, {_escape(row.why)}." for row in results.rows),
        *dict.fromkeys(
            f"- {_title(lookup.place_of(row))}, `{_code(lookup.full_name(row))}`: {_escape('; '.join(row.notes))}."
            for row in results.rows
            if row.notes
        ),
    ]


def _differences(results: EvalResults) -> list[list[str]]:
    sections: list[list[str]] = []
    all_found: list[Comparison] = []
    for place in lookup.places(results):
        found = lookup.between_models(results, place)
        all_found += found
        if found:
            sections.append([f"### {_title(place)}", "", text_table(tables.comparisons(found))])
            sections.append([f"- {_escape(lookup.verdict(c))}" for c in found])
    if not sections:
        return []
    kinds = dict.fromkeys(c.test for c in results.comparisons)
    notes = [
        *(f"- {explanations.adjustment(*family)}." for family in lookup.families(results.comparisons)),
        "- Bold p: the difference is significant.",
        *(f"- {explanations.TEST_NAMES[kind]}: {explanations.TESTS[kind]}." for kind in kinds),
        *([f"- {explanations.MCNEMAR}"] if tables.has_mcnemar(all_found) else []),
    ]
    return [["## Differences between models"], *sections, notes]


def _ablations(results: EvalResults) -> list[list[str]]:
    sections = [
        [
            f"### `{_code(rows[0].label)}`{lookup.place_of(rows[0]).after}{_title(lookup.place_of(rows[0]))}",
            "",
            text_table(tables.ablation(results, rows)),
        ]
        for rows in lookup.ablations(results)
    ]
    return [["## Ablations"], *sections] if sections else []


def _provenance(results: EvalResults) -> list[list[str]]:
    sections = [
        ["## Where every number comes from"],
        ["```", origins.command(results), "```"],
        [f"- {name}: {_escape(value)}" for name, value in origins.run(results)],
        [text_table(tables.origins(results.rows))],
        [
            "Every split's rows are in `results.json`; splits with the same SHA-256 have the same images in each part.",
            "",
            text_table(tables.splits(results)),
        ],
    ]
    for card, sources in origins.cards(results):
        files = ", ".join(f"{source.file} (SHA-256 {source.sha256})" for source in sources)
        facts = [("feature files", files), *origins.card_facts(card)]
        title = f"### `{_code(origins.title(sources))}`"
        sections.append([title, "", *(f"- {_escape(name)}: {_escape(value)}" for name, value in facts)])
    return sections


def _title(place: Place) -> str:
    return _escape(str(place))


def text_table(table: TextTable) -> str:
    """A table as Markdown."""
    lines = [[name for name, _ in table.columns], ["---:" if number else "---" for _, number in table.columns]]
    lines += [[_cell(cell) for cell in row] for row in table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(cell: Cell) -> str:
    text = f"`{_code(cell.text)}`" if cell.code else _escape(cell.text) if cell.name else cell.text
    return (f"**{text}**" if cell.best else text) + cell.mark


def _code(text: str) -> str:
    """The text, made safe for backticks in a table."""
    return plain(text).replace("|", "\\|").replace("`", "'")
