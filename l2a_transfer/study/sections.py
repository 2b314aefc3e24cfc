"""The sections of a study's report, from which both Markdown and HTML are rendered."""

from __future__ import annotations

from collections.abc import Iterable

from l2a_transfer.evaluation.probes.registry import SVM
from l2a_transfer.evaluation.verdict import p_text
from l2a_transfer.report.document import Block, Grid, Listing, Section
from l2a_transfer.report.svg import Figure
from l2a_transfer.study.compared import Compared
from l2a_transfer.study.contrasts import Estimate, OverTargets
from l2a_transfer.study.plots import forest, low_shot, numbers, signed
from l2a_transfer.study.results import Row, StudyResults
from l2a_transfer.wording import counted

REASONS = 3
"""How many reasons a table gives for an incomplete comparison; the rest are counted."""


def sections_of(results: StudyResults) -> list[Section]:
    """The whole report, without empty sections."""
    found = [
        Section("Hypotheses", _hypotheses(results)),
        Section("Planned comparisons", _comparisons(results)),
        *(Section(f"{one.name}: {one.title}, features {one.features}", _compared(one)) for one in results.comparisons),
        Section("Mean class accuracy", tuple(_rows(results))),
        Section("Few training images", tuple(_curves(results))),
        Section("Not done", _undone(results)),
        Section("How to repeat each number", _commands(results)),
    ]
    return [section for section in found if section.blocks]


def summary(results: StudyResults) -> list[Block]:
    """The tables for a page of results, with their notes: comparisons, and models on targets."""
    return [*_hypotheses(results), *_comparisons(results), _matrix(results)]


def _hypotheses(results: StudyResults) -> tuple[Block, ...]:
    if not results.hypotheses:
        return ()
    noted = any(h.note for h in results.hypotheses)
    rows = tuple(
        (
            h.name,
            h.says or "–",
            ", ".join(dict.fromkeys(h.support + h.refute)),
            _verdict(h.verdict, h.note),
            *([h.note or "–"] if noted else []),
        )
        for h in results.hypotheses
    )
    columns = (
        ("hypothesis", False),
        ("says", False),
        ("rests on", False),
        ("verdict", False),
        *([("remarks", False)] if noted else []),
    )
    return (Grid("Hypotheses and what the planned comparisons say of them.", columns, rows),)


def _verdict(verdict: str, note: str) -> str:
    return f"{verdict or '–'} (planned interval only)" if note else verdict or "–"


def _comparisons(results: StudyResults) -> tuple[Block, ...]:
    if not results.comparisons:
        return ()
    rows = [_comparison_row(one, over) for one in results.comparisons for over in one.summaries]
    noted = any(row[-1] for row in rows)
    columns = (
        ("comparison", False),
        ("networks", False),
        ("features", False),
        ("over", False),
        ("targets", True),
        ("seeds", True),
        ("test images", True),
        ("difference, points [95 %]", True),
        ("p", True),
        ("τ", True),
        ("interval over runs, points", True),
        ("supported if, refuted if", False),
        ("verdict", False),
        *([("remarks", False)] if noted else []),
    )
    notes = (
        "A difference on one target is over training seeds: the errors of seeds and of test images are added. A "
        "network with one run adds no error of seeds.",
        "Over targets: a random-effects mean (Paule and Mandel's τ) with the Hartung–Knapp interval, its factor held "
        "at 1 or more. This planned interval counts the targets as independent. The targets share their networks, so "
        "it can be too narrow.",
        "Interval over runs: the interval of the same mean with the training run as the unit. It allows for a lucky "
        "seed that shifts all targets together.",
        "Intervals and p of this table are adjusted for the comparisons of a family (Bonferroni). A verdict follows "
        "the first summary's planned interval and the rules of the study's file. If the interval over runs does not "
        "satisfy the same rule, the verdict says “planned interval only”.",
    )
    shown = tuple(tuple(cell or "–" for cell in (row if noted else row[:-1])) for row in rows)
    return (Grid("Planned comparisons over targets.", columns, shown), Listing(notes))


def _comparison_row(one: Compared, over: OverTargets) -> tuple[str, ...]:
    """The cells of a summary; the last one has remarks, which may be empty."""
    first = over == one.summaries[0]
    rules = " / ".join(filter(None, (one.support, one.refute)))
    used = [target for target in one.targets if target.target in over.targets]
    seeds = {tuple(target.seeds.values()) for target in used}
    all_there = len(over.targets) == len(over.planned)
    return (
        one.name,
        one.title,
        one.features if one.width is None else f"PCA to {one.width}",
        over.name,
        str(len(over.targets)) if all_there else f"{len(over.targets)} of {len(over.planned)}",
        "; ".join(" + ".join(map(str, own)) for own in sorted(seeds)),
        f"{sum(target.n_test for target in used):,}",
        _adjusted(over.estimate),
        "–" if one.missing else _p(over.estimate),
        "–" if over.tau is None else f"{100 * over.tau:.1f}",
        _bounds(over.over_runs),
        rules if first else "",
        _verdict(one.verdict, one.note) if first else "",
        "; ".join(_remarks(one) if first else _one_run(one)),
    )


def _remarks(one: Compared) -> list[str]:
    """What a reader must know of a comparison beside its numbers."""
    found = [one.note] if one.note else []
    if one.missing:
        more = f", and {len(one.missing) - REASONS} more reasons" if len(one.missing) > REASONS else ""
        found.append(f"incomplete because: {', '.join(one.missing[:REASONS])}{more}")
    return found + _one_run(one)


def _one_run(one: Compared) -> list[str]:
    return [f"{model}: 1 run; the interval leaves out its spread over seeds" for model in one.one_run]


def _compared(one: Compared) -> tuple[Block, ...]:
    untested = any(target.estimate.not_defined for target in one.targets)
    rows = tuple(
        (
            target.target,
            target.protocol + (f", k = {target.shots}" if target.shots else ""),
            f"{target.n_train:,} / {target.n_test:,}",
            ", ".join(f"{m} {n}" for m, n in target.seeds.items()),
            numbers(target.estimate),
            _adjusted(target.estimate),
            "–" if one.missing else _p(target.estimate),
            *([target.estimate.not_defined or "–"] if untested else []),
        )
        for target in one.targets
    )
    columns = (
        ("target", False),
        ("protocol", False),
        ("train / test", True),
        ("runs", False),
        ("difference, points [95 %]", True),
        ("adjusted [95 %]", True),
        ("p, adjusted", True),
        *([("no test, because", False)] if untested else []),
    )
    blocks: list[Block] = []
    if rows:
        comparisons = one.targets[0].estimate.comparisons
        caption = f"{one.title} on each target, adjusted for {comparisons}: {one.metric.replace('_', ' ')}."
        blocks.append(Grid(caption, columns, rows))
    blocks += [figure] if (figure := forest(one)) else []
    if notes := (*one.missing, *_one_run(one), *([one.note] if one.note else [])):
        blocks.append(Listing(tuple(f"{note}." for note in notes)))
    return tuple(blocks)


def _adjusted(estimate: Estimate | None) -> str:
    if estimate is None or estimate.ci95_adjusted is None:
        return "–"
    low, high = estimate.ci95_adjusted
    return f"{signed(estimate.difference)} [{signed(low)}, {signed(high)}]"


def _bounds(estimate: Estimate | None) -> str:
    if estimate is None or estimate.ci95_adjusted is None:
        return "–"
    low, high = estimate.ci95_adjusted
    return f"[{signed(low)}, {signed(high)}]"


def _p(estimate: Estimate | None) -> str:
    return "–" if estimate is None or estimate.p_adjusted is None else p_text(estimate.p_adjusted).removeprefix("= ")


def _rows(results: StudyResults) -> Iterable[Block]:
    columns = (
        ("model", False),
        ("features", False),
        ("columns", True),
        ("seeds", True),
        ("mean, %", True),
        ("sd", True),
        ("each seed, %", True),
        ("accuracy, %", True),
    )
    places: dict[tuple[str, str, int | None], list[Row]] = {}
    for row in results.rows:
        places.setdefault((row.target, _by_probe(row, row.protocol), row.shots), []).append(row)
    for (target, protocol, shots), own in places.items():
        first = own[0]
        how = f", k = {shots}" if shots is not None else ""
        draws = f", {first.draws} draws" if first.draws > 1 else ""
        caption = (
            f"{target}, {protocol}{how}{draws}: {first.n_classes} classes, {first.n_train:,} training and "
            f"{first.n_test:,} test images, {100 * first.chance:.1f} % by chance."
        )
        yield Grid(caption, columns, tuple(_cells(row) for row in own))


def _cells(row: Row) -> tuple[str, ...]:
    n = str(len(row.values)) + (f" of {len(row.values) + len(row.missing)}" if row.missing else "")
    return (
        row.model,
        "as they are" if row.components is None else f"PCA to {row.components}",
        str(row.dim),
        n if row.seeds != (None,) else "–",
        f"{100 * row.mean:.1f}",
        "–" if row.sd is None else f"{100 * row.sd:.1f}",
        ", ".join(f"{100 * value:.1f}" for value in row.values),
        f"{100 * row.accuracy_mean:.1f}",
    )


def _matrix(results: StudyResults) -> Grid:
    """Models × targets with unreduced features, without low-shot protocols."""
    rows = [row for row in results.rows if row.shots is None and row.components is None]
    places = list(dict.fromkeys((row.target, _by_probe(row, row.protocol)) for row in rows))
    cells = {(row.model, row.target, _by_probe(row, row.protocol)): row for row in rows}
    lines = []
    for model in dict.fromkeys(row.model for row in rows):
        found = [cells.get((model, *place)) for place in places]
        lines.append((model, *("–" if row is None else _short(row) for row in found)))
    names = [
        target if sum(t == target for t, _ in places) == 1 else f"{target}, {protocol}" for target, protocol in places
    ]
    caption = "Mean class accuracy, %: mean over seeds ± standard deviation (number of seeds)."
    return Grid(caption, (("model", False), *((name, True) for name in names)), tuple(lines))


def _by_probe(row: Row, protocol: str) -> str:
    """The protocol, and the probe if it is not the default one."""
    return protocol if row.probe == SVM else f"{protocol}, probe {row.probe}"


def _short(row: Row) -> str:
    spread = "" if row.sd is None else f" ± {100 * row.sd:.1f}"
    return f"{100 * row.mean:.1f}{spread}" + ("" if row.seeds == (None,) else f" ({len(row.values)})")


def _curves(results: StudyResults) -> Iterable[Figure]:
    rows = [row for row in results.rows if row.shots is not None and row.components is None]
    for target, protocol, probe in dict.fromkeys((row.target, row.protocol, row.probe) for row in rows):
        own = [row for row in rows if (row.target, row.protocol, row.probe) == (target, protocol, probe)]
        if figure := low_shot(target, protocol if probe == SVM else f"{protocol}-{probe}", own):
            yield figure


def _undone(results: StudyResults) -> tuple[Block, ...]:
    if not results.undone:
        return ()
    return (
        "This report is of a study that is not complete. What is missing:",
        Listing(tuple(f"{name}: {why}" for name, why in results.undone.items())),
    )


def _commands(results: StudyResults) -> tuple[Block, ...]:
    return (
        "Run where the study's file lies, with OUT for the study's folder, in this order.",
        Listing(tuple(results.commands.values()), is_code=True),
        "The program that ran the steps:",
        Listing(tuple(f"{counted(n, 'step')}: {program}" for program, n in results.programs.items())),
    )
