"""Families of comparisons: which pairs are planned. Only similar rows are paired, and never two seeds of one
architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Generic

from l2a_transfer.errors import EvaluationError
from l2a_transfer.evaluation.groups import CONTROLS, SEEDS, Group, RowT

ARCHITECTURES, MODELS, AGAINST_CONTROLS, VARIANTS, ASKED = "architectures", "models", "controls", "variants", "asked"
FAMILIES = {
    ARCHITECTURES: "architecture against architecture, over training seeds",
    ASKED: "requested comparisons",
    MODELS: "model against model",
    AGAINST_CONTROLS: "model against control",
    VARIANTS: "variants of one model",
}
"""Families of comparisons, in report order; p values and intervals are adjusted within a family."""


@dataclass(frozen=True)
class Planned(Generic[RowT]):
    """Two rows to compare, or two groups of rows over their seeds."""

    family: str
    a: RowT | Group[RowT]
    b: RowT | Group[RowT]


@dataclass(frozen=True)
class Wanted:
    """Comparisons requested by the user: pairs of names, or one reference for all; if both are empty, the planned
    families."""

    pairs: tuple[tuple[str, str], ...] = ()
    reference: str | None = None


def plan(groups: Sequence[Group[RowT]], wanted: Wanted) -> list[Planned[RowT]]:
    """The comparisons between the models of one place. Raises: EvaluationError if the two of a pair cannot be
    compared."""
    if wanted.pairs:
        once = {frozenset(pair): pair for pair in reversed(wanted.pairs)}  # a pair named twice is one comparison
        return [found for pair in wanted.pairs if once.pop(frozenset(pair), None) for found in asked_pair(groups, pair)]
    if wanted.reference is not None:
        return against_reference(groups, named(groups, wanted.reference))[0]
    models = [group for group in groups if group.source.kind not in CONTROLS]
    controls = [group for group in groups if group.source.kind in CONTROLS]
    pairs = [pair for a, b in combinations(models or controls, 2) for pair in _pairs(a, b, groups)]
    pairs += [pair for a, b in product(models, controls) for pair in _pairs(a, b, groups)]
    views = [
        Planned(VARIANTS, rows[0], b.by_seed[seed][0])
        for a, b in combinations(groups, 2)
        if a.source.recipe and a.source.recipe == b.source.recipe
        for seed, rows in a.by_seed.items()
        if seed in b.by_seed
    ]
    return [*pairs, *views]


def _pairs(a: Group[RowT], b: Group[RowT], among: Sequence[Group[RowT]]) -> list[Planned[RowT]]:
    """Compare architectures with enough seeds with each other and with models without seeds; otherwise, compare weight
    files of the same seed. Only equal views are compared, if there are any."""
    if a.source.recipe and a.source.recipe == b.source.recipe:
        return []
    if a.source.view != b.source.view and _has_common_view(a, b, among):
        return []
    either = AGAINST_CONTROLS if b.source.kind in CONTROLS else MODELS
    if a.is_sample and b.is_sample:
        return [Planned(ARCHITECTURES if (a.source.kind in CONTROLS) == (b.source.kind in CONTROLS) else either, a, b)]
    for sample, fixed in ((a, b), (b, a)):
        if sample.is_sample and fixed.source.is_fixed:
            return [Planned(either, sample, fixed)]
    return [Planned(either, *pair) for pair in _like_with_like(a, b)]


def _has_common_view(a: Group[RowT], b: Group[RowT], among: Sequence[Group[RowT]]) -> bool:
    """Whether the two recipes have rows of the same tap, levels, precision and backend."""
    views = [
        [group.source.view for group in among if group.source.recipe == own and own]
        for own in (a.source.recipe, b.source.recipe)
    ]
    return any(view in views[1] for view in views[0])


def _like_with_like(a: Group[RowT], b: Group[RowT]) -> list[tuple[RowT, RowT]]:
    """Pairs of rows with the same seed, or the first of each if no seed is common; a row without a seed is paired with
    all."""
    seeds_a, seeds_b = a.by_seed, b.by_seed
    if not seeds_a or not seeds_b:
        return list(product(a.rows, b.rows))
    common = [seed for seed in seeds_a if seed in seeds_b]
    return [(seeds_a[seed][0], seeds_b[seed][0]) for seed in common] or [(a.rows[0], b.rows[0])]


def against_reference(
    groups: Sequence[Group[RowT]], reference: RowT | Group[RowT] | None
) -> tuple[list[Planned[RowT]], list[tuple[RowT, str]]]:
    """Every other model minus the reference, and the rows left out, with the reason. Against an architecture, a model
    without seeds is the one subtracted. A reference file with a seed is compared with the files of that seed."""
    found: list[Planned[RowT]] = []
    without: list[tuple[RowT, str]] = []
    for group in groups if reference is not None else ():
        assert reference is not None
        own = reference.source
        if group is reference:
            continue
        others = [row for row in group.rows if row is not reference]
        if own.recipe and group.source.recipe == own.recipe:
            why = "seeds and views of one architecture are not compared with each other"
            without += [(row, why) for row in others]
        elif isinstance(reference, Group):
            if group.is_sample:
                found.append(Planned(ASKED, group, reference))
            elif group.source.is_fixed:
                found.append(Planned(ASKED, reference, group))
            else:
                why = f"the reference is an architecture over its seeds, and this one has fewer than {SEEDS}"
                without += [(row, why) for row in others]
        elif own.is_fixed and group.is_sample:
            found.append(Planned(ASKED, group, Group(own.label, (reference,))))
        else:
            of_seed = [] if own.is_fixed or group.source.is_fixed else group.by_seed.get(own.seed, [])
            found += [Planned(ASKED, row, reference) for row in of_seed or others]
            if of_seed:
                why = f"the reference has seed {own.seed}, as other files of their architectures have"
                without += [(row, why) for row in others if row.source.seed != own.seed]
    return found, without


def asked_pair(groups: Sequence[Group[RowT]], names: tuple[str, str]) -> list[Planned[RowT]]:
    """One pair by name, if this place has both. Raises: EvaluationError for an architecture and a single weight
    file."""
    a, b = (named(groups, name) for name in names)
    if a is None or b is None:
        return []
    if isinstance(a, Group) == isinstance(b, Group):
        return [Planned(ASKED, a, b)]
    group, row = (a, b) if isinstance(a, Group) else (b, a)
    assert isinstance(group, Group)
    assert not isinstance(row, Group)
    if not row.source.is_fixed:
        raise EvaluationError(
            f"{group.name} is an architecture over its training seeds and {row.source.label} is one weight "
            "file, so they cannot be compared",
            "name two architectures or two weight files",
        )
    return [Planned(ASKED, group, Group(row.source.label, (row,)))]


def named(groups: Sequence[Group[RowT]], name: str) -> RowT | Group[RowT] | None:
    """The row with this label, or the architecture of this name; None if this place has neither."""
    return next(iter(all_named(groups, name)), None)


def all_named(groups: Sequence[Group[RowT]], name: str) -> list[RowT | Group[RowT]]:
    """Everything that a name given by the user may refer to; nothing else is looked up by name."""
    rows = [row for group in groups for row in group.rows if row.source.label == name]
    return [*rows, *(group for group in groups if group.name == name and group.is_sample)]
