"""Results as text tables, which are the same in the terminal, in report.md and on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from l2a_transfer.evaluation.compare import Comparison
from l2a_transfer.evaluation.probes.registry import SVM
from l2a_transfer.evaluation.results import EvalResults, EvalRow
from l2a_transfer.evaluation.seeds import SeedSummary
from l2a_transfer.evaluation.verdict import p_text, points, with_interval
from l2a_transfer.report import lookup
from l2a_transfer.report.explanations import TEST_NAMES
from l2a_transfer.wording import with_minus


@dataclass(frozen=True)
class Cell:
    """`name`: text from data; `code`: the name of a model. `best`: set in bold. `mark`: a key of
    MARKS. `long`: may take several lines. `row`: index in the results of the row that a measure belongs to."""

    text: str
    name: bool = False
    code: bool = False
    best: bool = False
    mark: str = ""
    long: bool = False
    row: int | None = None


@dataclass(frozen=True)
class TextTable:
    """`columns`: (heading, whether its cells are numbers). The first column names each row. `summaries`: indices of
    rows that are over seeds instead of a row of the results."""

    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]
    summaries: frozenset[int] = frozenset()


def _mean_class_accuracy(row: EvalRow) -> Cell:
    return Cell(interval_text(row.mean_class_accuracy, row.mean_class_accuracy_ci95))


def mean_and_sd(summary: SeedSummary | None) -> Cell:
    """The mean class accuracy over training seeds; a dash for None."""
    if summary is None:
        return Cell("–")
    return Cell(f"{100 * summary.mean_class_accuracy_mean:.1f} ± {100 * summary.mean_class_accuracy_sd:.1f}")


def details(results: EvalResults, rows: Sequence[EvalRow], *, leave_out: Sequence[str] = ()) -> TextTable:
    """All measures, one line per row, and a line with mean ± sd for each architecture with several training seeds.
    Columns without content (no variant, no k, no top-5) are left out."""
    words = any(row.probe != SVM for row in results.rows)
    columns: dict[str, Callable[[EvalRow], Cell]] = {
        "data": lambda row: Cell(row.data, name=True),
        "model": lambda row: Cell(row.label, name=True, code=True),
        "variant": lambda row: Cell(row.variant or "as it is", name=True),
        "k": lambda row: Cell("–" if row.shots is None else str(row.shots)),
        "probe": lambda row: Cell(row.probe),
        "mean class accuracy, % [95 %]": _mean_class_accuracy,
        "accuracy, % [95 %]": lambda row: Cell(interval_text(row.accuracy, row.accuracy_ci95)),
        "macro-F1, %": lambda row: Cell(f"{100 * row.macro_f1:.1f}"),
        "top-5, %": lambda row: Cell("–" if row.top5 is None else f"{100 * row.top5:.1f}"),
        "LogME": lambda row: Cell("–" if row.logme is None else _signed(row.logme, 3)),
        "protocol": lambda row: Cell(row.protocol + (f", {row.draws} draws" if row.draws > 1 else "")),
        "train / test": lambda row: Cell(f"{row.n_train} / {row.n_test}"),
        "D": lambda row: Cell(str(row.dim) + (f" → {row.components}" if row.components is not None else "")),
        ("chosen" if words else "C"): lambda row: Cell(chosen(row, words=words), long=row.draws > 1),
        "fits not converged": lambda row: Cell(f"{row.unconverged} of {row.fits}"),
    }
    silent = {
        "variant": all(not row.variant for row in rows),
        "k": all(row.shots is None for row in rows),
        "top-5, %": all(row.top5 is None for row in rows),
        "probe": len(lookup.probes(results)) == 1,
        "LogME": all(row.logme is None for row in rows),
    }
    kept = [name for name in columns if name not in leave_out and not silent.get(name, False)]
    text = ("data", "model", "variant", "probe", "protocol")
    lines: list[tuple[Cell, ...]] = []
    summaries = set()
    for row in rows:
        lines.append(tuple(columns[name](row) for name in kept))
        for summary in lookup.summaries_after(results, row, rows):
            own = _summary_cells(summary)
            summaries.add(len(lines))
            lines.append(tuple(own.get(name, Cell("–")) for name in kept))
    return TextTable(tuple((name, name not in text) for name in kept), tuple(lines), frozenset(summaries))


def _summary_cells(summary: SeedSummary) -> dict[str, Cell]:
    return {
        "data": Cell(summary.data, name=True),
        "model": Cell(f"{summary.name}: mean ± sd over {len(summary.seeds)} seeds", name=True),
        "k": Cell("–" if summary.shots is None else str(summary.shots)),
        "probe": Cell(summary.probe),
        "mean class accuracy, % [95 %]": mean_and_sd(summary),
        "accuracy, % [95 %]": Cell(f"{100 * summary.accuracy_mean:.1f} ± {100 * summary.accuracy_sd:.1f}"),
        "macro-F1, %": Cell(f"{100 * summary.macro_f1_mean:.1f} ± {100 * summary.macro_f1_sd:.1f}"),
        "protocol": Cell(summary.protocol),
    }


def comparisons(found: Sequence[Comparison]) -> TextTable:
    """The first model of each pair minus the second, in points of mean class accuracy."""
    columns = (
        ("first", False),
        ("second", False),
        ("difference, points [simultaneous 95 %]", True),
        ("adjusted p", True),
        ("only first right", True),
        ("only second right", True),
        ("McNemar p", True),
        ("effect", True),
        ("test", False),
    )
    return TextTable(columns, tuple(_comparison(c) for c in found))


def has_mcnemar(found: Sequence[Comparison]) -> bool:
    """Whether the column of McNemar's p has any value that needs an explanation."""
    return any(c.p_mcnemar is not None for c in found)


def _comparison(c: Comparison) -> tuple[Cell, ...]:
    counted = c.test != "seeds"
    return (
        Cell(c.a, name=True, code=True),
        Cell(c.b, name=True, code=True),
        Cell(difference(c)),
        Cell(p_value(c.p_adjusted), best=lookup.shown(c)),
        Cell(f"{c.only_a:,}" if counted else "–"),
        Cell(f"{c.only_b:,}" if counted else "–"),
        Cell("–" if c.p_mcnemar is None else p_value(c.p_mcnemar)),
        Cell("–" if c.effect is None else _signed(c.effect, 2)),
        Cell(TEST_NAMES.get(c.test, c.test) + ("" if counted else f", n = {c.n[0]}, {c.n[1]}")),
    )


def ablation(results: EvalResults, rows: Sequence[EvalRow]) -> TextTable:
    """A model, then each of its variants with the difference from the model."""
    base, *_ = rows
    lines = []
    for row in rows:
        found = None if row is base else lookup.compared(results, row, base)
        lines.append(
            (
                Cell(row.variant or "as it is", name=True),
                Cell(interval_text(row.mean_class_accuracy, row.mean_class_accuracy_ci95)),
                Cell("–" if found is None else difference(found)),
                Cell(
                    "–" if found is None else p_value(found.p_adjusted), best=found is not None and lookup.shown(found)
                ),
                Cell(str(row.dim) + (f" → {row.components}" if row.components is not None else "")),
                Cell(chosen(row, words=len(lookup.probes(results)) > 1), long=row.draws > 1),
            )
        )
    columns = (
        ("variant", False),
        ("mean class accuracy, % [95 %]", True),
        ("difference, points [simultaneous 95 %]", True),
        ("adjusted p", True),
        ("D", True),
        ("C", True),
    )
    return TextTable(columns, tuple(lines))


def errors(results: EvalResults, index: int, most: int) -> TextTable:
    """The most frequent confusions of one row over all draws."""
    rows = [
        (
            Cell(true, name=True),
            Cell(predicted, name=True),
            Cell(str(count)),
            Cell(str(n)),
            Cell(f"{100 * count / n:.0f}"),
        )
        for true, predicted, count, n in lookup.confusions(results.details[index], most)
    ]
    columns = (
        ("true class", False),
        ("predicted as", False),
        ("images", True),
        ("of", True),
        ("%", True),
    )
    return TextTable(columns, tuple(rows))


def origins(rows: Sequence[EvalRow]) -> TextTable:
    """The origin of each row."""
    several = len({row.probe for row in rows}) > 1
    columns = (
        ("data", False),
        ("model", False),
        ("variant", False),
        ("k", True),
        ("file", False),
        ("tap", False),
        ("levels", False),
        ("precision", False),
        ("backend", False),
        ("normalization", False),
        *((("probe", False),) if several else ()),
        ("solver", False),
        ("seconds", True),
    )
    lines = [
        (
            Cell(row.data, name=True),
            Cell(row.label, name=True, code=True),
            Cell(row.variant or "as it is", name=True),
            Cell("–" if row.shots is None else str(row.shots)),
            Cell(row.file, name=True, code=True),
            Cell(lookup.tap(row) or "–", name=True),
            Cell(", ".join(row.levels), name=True),
            Cell(row.precision, name=True),
            Cell(row.backend, name=True),
            Cell(row.normalization),
            *((Cell(row.probe),) if several else ()),
            Cell(row.solver),
            Cell(f"{row.seconds:.1f}"),
        )
        for row in rows
    ]
    return TextTable(columns, tuple(lines))


def splits(results: EvalResults) -> TextTable:
    columns = (
        ("data", False),
        ("protocol", False),
        ("k", True),
        ("draw", True),
        ("seed", True),
        ("train / test", True),
        ("SHA-256 of the split's ids", False),
    )
    rows = [
        (
            Cell(split.data, name=True),
            Cell(split.protocol),
            Cell("–" if split.shots is None else str(split.shots)),
            Cell(str(split.draw)),
            Cell("–" if split.seed is None else str(split.seed)),
            Cell(f"{len(split.train)} / {len(split.test)}"),
            Cell(split.sha256, code=True),
        )
        for split in results.splits
    ]
    return TextTable(columns, tuple(rows))


def chosen(row: EvalRow, *, words: bool = False) -> str:
    """Every C or other hyperparameter that a draw chose, with its count if there are several draws."""
    if row.probe != SVM or words:
        said = Counter(text or "–" for text in row.chosen)
        return ", ".join(text + (f"\u00a0×{n}" if row.draws > 1 else "") for text, n in sorted(said.items()))
    counts = Counter(row.C)
    # A non-breaking space keeps a value and its count on one line.
    return ", ".join(f"{C:g}" + (f"\u00a0×{n}" if row.draws > 1 else "") for C, n in sorted(counts.items()))


def difference(c: Comparison) -> str:
    """The difference in points with its simultaneous interval."""
    if c.ci95_simultaneous is None:
        return f"{with_minus(points(c.difference, 1))} [not defined]"
    return with_minus(with_interval(c.difference, c.ci95_simultaneous, apart=lookup.shown(c)))


def p_value(p: float | None) -> str:
    """p with enough digits to distinguish it from 0.05."""
    return "not defined" if p is None else p_text(p).removeprefix("= ")


def interval_text(value: float, interval: tuple[float, float]) -> str:
    """A fraction and its interval in percent."""
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _signed(value: float, digits: int) -> str:
    """The value with its sign; 0 has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else with_minus(text)
