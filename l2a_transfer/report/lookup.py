"""Lookups in results: the places that share a table, the best row of each place, and the comparison of two rows.

Rows are identified by the digest of their feature file and their variant, models by their line, and nothing by label.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from l2a_transfer.evaluation.compare import Comparison
from l2a_transfer.evaluation.comparison_families import VARIANTS
from l2a_transfer.evaluation.probes.registry import SVM
from l2a_transfer.evaluation.protocols import over_domains
from l2a_transfer.evaluation.results import EvalDetail, EvalResults, EvalRow
from l2a_transfer.evaluation.seeds import SeedSummary
from l2a_transfer.evaluation.verdict import significant
from l2a_transfer.wording import with_minus

ROUNDING = 1e-9
"""Accuracies that differ by less than this are equal; the difference comes from the order of summation."""
PIXELS_BACKEND = "pixels"
NUMBERS = re.compile(r"\([-+]?\d+\.\d+ points( \[[^][]*\])?")
"""The difference and its interval in a verdict."""


class Place(NamedTuple):
    """Rows of one place were measured on the same splits, so they can be compared."""

    data: str
    protocol: str
    shots: int | None
    probe: str = SVM

    def __str__(self) -> str:
        return self.data + (f", k = {self.shots}" if self.shots is not None else "") + self.by_probe

    @property
    def after(self) -> str:
        """The text between a model's name and this place. Names of places over domains have their own preposition."""
        return ", " if over_domains(self.protocol) else " on "

    @property
    def by_probe(self) -> str:
        """The probe, if it is not the default one."""
        return "" if self.probe == SVM else f", probe {self.probe}"


def place_of(item: EvalRow | Comparison | SeedSummary) -> Place:
    return Place(item.data, item.protocol, item.shots, item.probe)


def places(results: EvalResults) -> list[Place]:
    """Every place once, in the order of the rows. Places of a data set are adjacent, sorted by k."""
    found = dict.fromkeys(place_of(row) for row in results.rows)
    order = {data: k for k, data in enumerate(dict.fromkeys(place.data for place in found))}
    own = probes(results)
    return sorted(found, key=lambda place: (order[place.data], own.index(place.probe), place.shots or 0))


def probes(results: EvalResults) -> list[str]:
    """Every probe once, in the order of the rows."""
    return list(dict.fromkeys(row.probe for row in results.rows))


def only_svm(results: EvalResults) -> bool:
    """Whether the SVM is the only probe."""
    return probes(results) == [SVM]


def by_its_probe(results: EvalResults) -> str:
    """The text after "the best of its column" if there are several probes."""
    return " by its probe" if len(probes(results)) > 1 else ""


def contests(results: EvalResults) -> list[list[Place]]:
    """Places of the first probe, grouped into tables: all data sets together or, in low-shot, all k of one data set. A
    table has one row per model and probe."""
    found = [place for place in places(results) if place.probe == probes(results)[0]]
    if all(place.shots is None for place in found):
        return [found]
    return [[place for place in found if place.data == data] for data in dict.fromkeys(place.data for place in found)]


def models(results: EvalResults) -> dict[int, str]:
    """Line → label of every model, in the order of the rows."""
    found: dict[int, str] = {}
    for row in results.rows:
        found.setdefault(row.line, row.label)
    return found


def rows_at(results: EvalResults, place: Place) -> list[EvalRow]:
    """The rows at one place without variants."""
    return [row for row in results.rows if place_of(row) == place and not row.variant]


def tap(row: EvalRow) -> str:
    """The point in the network from which the features are taken; empty for pixels, which need no network."""
    return "" if row.backend == PIXELS_BACKEND else row.tap


def full_name(row: EvalRow) -> str:
    """The name of a row in comparisons."""
    return f"{row.label}, {row.variant}" if row.variant else row.label


def best_at(results: EvalResults, place: Place) -> list[EvalRow]:
    """The models with the highest mean class accuracy; several if they are equal."""
    rows = rows_at(results, place)
    best = max((r.mean_class_accuracy for r in rows), default=0.0)
    return [row for row in rows if row.mean_class_accuracy > best - ROUNDING]


def compared(results: EvalResults, a: EvalRow, b: EvalRow) -> Comparison | None:
    """The comparison of two rows of one place, in either order."""
    rows = {((row.file_sha256,), row.variant) for row in (a, b)}
    for found in results.comparisons:
        sides = set(zip(found.files, found.variants, strict=True))
        if place_of(found) == place_of(a) and found.test != "seeds" and sides == rows:
            return found
    return None


def shown(comparison: Comparison) -> bool:
    """Whether a difference is significant according to the verdict."""
    return significant(comparison.p_adjusted, comparison.difference)


class Judged(Protocol):
    """A comparison of any kind with a verdict in words."""

    @property
    def verdict(self) -> str: ...


def verdict(comparison: Judged) -> str:
    """The verdict as displayed: the numbers have real minus signs, and the names are unchanged."""
    return NUMBERS.sub(lambda found: with_minus(found[0]), comparison.verdict)


def verdicts(results: EvalResults) -> list[Comparison]:
    """The comparisons in the order of the listed verdicts: first those between models, family by family; then each
    variant against its model, in the order of the rows."""
    rows = {(place_of(row), row.file_sha256, row.variant): k for k, row in enumerate(results.rows)}

    def position(c: Comparison) -> int:
        return rows.get((place_of(c), c.files[0][0], c.variants[0]), len(rows)) if any(c.variants) else -1

    return sorted(results.comparisons, key=position)


def standing(results: EvalResults, row: EvalRow) -> str:
    """`best`, `close` (not significantly different from the best of its place), `behind`, or `unknown` if it was not
    compared with the best. With one model there is no best."""
    place = place_of(row)
    best = best_at(results, place)
    if row.variant or len(rows_at(results, place)) < 2:
        return "unknown"
    if row in best:
        return "best"
    found = [compared(results, row, other) for other in best]
    if None in found:
        return "unknown"
    return "behind" if all(c is not None and shown(c) for c in found) else "close"


def between_models(results: EvalResults, place: Place) -> list[Comparison]:
    """All comparisons of a place except those of its ablations, which have their own tables."""
    here = [c for c in results.comparisons if place_of(c) == place]
    return [c for c in here if not (c.family == VARIANTS and any(c.variants))]


def families(found: Sequence[Comparison]) -> list[tuple[str, int]]:
    """(family, number of comparisons that it is adjusted for), in the order of the report."""
    return list(dict.fromkeys((c.family, c.comparisons) for c in found))


def summaries_at(results: EvalResults, place: Place) -> list[SeedSummary]:
    return [summary for summary in results.seeds if place_of(summary) == place]


def summaries_after(results: EvalResults, row: EvalRow, rows: Sequence[EvalRow]) -> list[SeedSummary]:
    """The summaries that follow this one of `rows`, which is the last of their rows, variants included."""
    own = [other for other in rows if other.file_sha256 == row.file_sha256 and place_of(other) == place_of(row)]
    if own[-1] is not row:
        return []
    return [s for s in summaries_at(results, place_of(row)) if s.file_digests[-1] == row.file_sha256]


def ablations(results: EvalResults) -> list[list[EvalRow]]:
    """For every model and place that has variants: the model itself, then its variants."""
    found = []
    for place in places(results):
        for base in rows_at(results, place):
            own = [r for r in results.rows if place_of(r) == place and r.file_sha256 == base.file_sha256 and r.variant]
            if own:
                found.append([base, *own])
    return found


def pictured(results: EvalResults) -> list[int]:
    """Rows whose confusion matrix is drawn: models without variants, with the first probe, at the largest k. Counts of
    the others are in `details`."""
    largest: dict[str, int] = {}
    for row in results.rows:
        largest[row.data] = max(row.shots or 0, largest.get(row.data, 0))
    first = probes(results)[:1]
    return [
        k
        for k, row in enumerate(results.rows)
        if not row.variant and row.probe in first and (row.shots or 0) == largest[row.data]
    ]


def confusions(detail: EvalDetail, most: int) -> list[tuple[str, str, int, int]]:
    """The most frequent errors: (true class, predicted class, count, images of the true class)."""
    tested = detail.confusion.tested
    wrong = heapq.nlargest(most, ((count, -i, -k) for i, k, count in detail.cells if i != k))
    return [(detail.classes[-i], detail.classes[-k], count, int(tested[-i])) for count, i, k in wrong]
