"""What a row was made by, and which comparisons are planned: like with like, and no seed with another."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, Generic, Protocol, TypeVar

from l2a_transfer.errors import ArgumentError, EvaluationError, unknown_name

TRAINED, UNTRAINED, PIXELS, ELSEWHERE = "trained", "untrained", "pixels", "elsewhere"
CONTROLS = (UNTRAINED, PIXELS)
ARCHITECTURES, MODELS, AGAINST_CONTROLS, VARIANTS, ASKED = "architectures", "models", "controls", "variants", "asked"
FAMILIES = {
    ARCHITECTURES: "architecture against architecture, over training seeds",
    ASKED: "comparisons that were asked for",
    MODELS: "model against model",
    AGAINST_CONTROLS: "model against control",
    VARIANTS: "one model used in different ways",
}
"""Families of comparisons, in the order of the report; p values and intervals are adjusted within one."""
SEEDS = 3
"""Training seeds a side below which nothing is said of an architecture."""


@dataclass(frozen=True)
class Source:
    """Where a row's features come from: the feature file by its digest, the model's card, and the view of the network
    that was taken. `label` is for readers."""

    label: str
    data: str
    card: dict[str, Any]
    sha256: str
    tap: str = ""
    levels: tuple[str, ...] = ()
    precision: str = ""
    backend: str = ""

    @property
    def kind(self) -> str:
        """`trained`, `untrained` (random weights), `pixels`, or `elsewhere`: features made by others."""
        training = self.card.get("training") or {}
        if self.card.get("name") == "pixels":
            return PIXELS
        if training.get("untrained"):
            return UNTRAINED
        return TRAINED if training and isinstance(self.card.get("config"), dict) else ELSEWHERE

    @property
    def seed(self) -> Any:
        """The training seed, which is one training run however many rows it has; None where there is none."""
        return (self.card.get("training") or {}).get("seed")

    @property
    def recipe(self) -> str:
        """Everything that training runs share which differ in their seed alone; "" where nothing was trained."""
        training = self.card.get("training") or {}
        if self.seed is None or not isinstance(self.card.get("config"), dict):
            return ""
        start = training.get("init_from")
        shared = {key: training.get(key) for key in ("data", "split", "n", "data_sha256", "recipe", "untrained")}
        shared["init_from"] = start.get("sha256") if isinstance(start, dict) else start
        return json.dumps([self.card["config"], self.card.get("preprocess"), shared], sort_keys=True)

    @property
    def is_fixed(self) -> bool:
        """No training seed tells it from others of its kind, so that it stands beside an architecture as it is."""
        return self.kind != TRAINED or not self.recipe

    @property
    def view(self) -> dict[str, Any]:
        return {"tap": self.tap, "levels": self.levels, "precision": self.precision, "backend": self.backend}

    @property
    def architecture(self) -> str:
        """As a report names it: vgg-att2-concat-pc@0.25."""
        config, untrained = self.card["config"], "untrained " if self.kind == UNTRAINED else ""
        return f"{untrained}{config.get('architecture')}@{config.get('width')}"


class HasSource(Protocol):
    @property
    def source(self) -> Source: ...


Row = TypeVar("Row", bound=HasSource)


@dataclass(frozen=True)
class Group(Generic[Row]):
    """Rows of one architecture, recipe and view, one or more a training seed; or one row that has no seed."""

    name: str
    rows: tuple[Row, ...]

    @property
    def source(self) -> Source:
        return self.rows[0].source

    @property
    def title(self) -> str:
        """The architecture's name; for too few seeds to speak of one, the first row's."""
        return self.name if self.is_sample else self.source.label

    @property
    def recipe_sha256(self) -> str:
        """The digest of what its rows share: recipe and view."""
        return hashlib.sha256(json.dumps([self.source.recipe, self.source.view]).encode()).hexdigest()

    @property
    def by_seed(self) -> dict[Any, list[Row]]:
        """Training seed → its rows, which are one run's. Empty where nothing was trained."""
        found: dict[Any, list[Row]] = {}
        for row in self.rows if self.source.recipe else ():
            found.setdefault(row.source.seed, []).append(row)
        return found

    @property
    def runs(self) -> list[list[Row]]:
        """The rows of each seed; where there are no seeds, all rows."""
        return list(self.by_seed.values()) or [list(self.rows)]

    @property
    def is_sample(self) -> bool:
        """There are enough training seeds to say something of the architecture."""
        return len(self.by_seed) >= SEEDS


@dataclass(frozen=True)
class Planned(Generic[Row]):
    """Two rows to compare, or two groups over their seeds."""

    family: str
    a: Row | Group[Row]
    b: Row | Group[Row]


@dataclass(frozen=True)
class Wanted:
    """What the user asked for: pairs of names, or one reference for all; neither: the families' plan."""

    pairs: tuple[tuple[str, str], ...] = ()
    reference: str | None = None


def groups_of(rows: Sequence[Row], everything: Iterable[Source]) -> list[Group[Row]]:
    """The rows of one place (no variants) in groups; `everything`: all sources of the report, in which an architecture
    has one name."""
    names = _names(everything)
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        own = row.source
        found.setdefault((own.recipe, json.dumps(own.view) if own.recipe else own.sha256), []).append(row)
    return [Group(names.get(key, own[0].source.label), tuple(own)) for key, own in found.items()]


def plan(groups: Sequence[Group[Row]], wanted: Wanted) -> list[Planned[Row]]:
    """The comparisons between the models of one place. Raises: EvaluationError for a pair that is not alike."""
    if wanted.pairs:
        once = {frozenset(pair): pair for pair in reversed(wanted.pairs)}  # asked for twice is one comparison
        return [found for pair in wanted.pairs if once.pop(frozenset(pair), None) for found in _asked(groups, pair)]
    if wanted.reference is not None:
        return _against(groups, _named(groups, wanted.reference))[0]
    models = [group for group in groups if group.source.kind not in CONTROLS]
    controls = [group for group in groups if group.source.kind in CONTROLS]
    pairs = [pair for a, b in combinations(models or controls, 2) for pair in _pairs(a, b, groups)]
    pairs += [pair for a, b in product(models, controls) for pair in _pairs(a, b, groups)]
    views = [
        Planned(VARIANTS, rows[0], b.by_seed[seed][0])
        for a, b in combinations(groups, 2) if a.source.recipe and a.source.recipe == b.source.recipe
        for seed, rows in a.by_seed.items() if seed in b.by_seed
    ]  # fmt: skip
    return [*pairs, *views]


def pairs_of(asked: Iterable[tuple[str, str] | str], sources: Sequence[Source]) -> tuple[tuple[str, str], ...]:
    """The pairs that were asked for; `A,B` is cut at the comma that has a name of the table on either side.

    Raises: ArgumentError where there is no comma, or several do. Where none does, a single comma is the one that was
    meant, for `check_wanted` to say which name is unknown.
    """
    known = set(_known(sources))
    found: list[tuple[str, str]] = []
    for pair in asked:
        if not isinstance(pair, str):
            found.append(pair)
            continue
        cuts = [(pair[:k], pair[k + 1 :]) for k, letter in enumerate(pair) if letter == ","]
        trimmed = [(a.strip(), b.strip()) for a, b in cuts]
        named = [cut for cut in cuts if known.issuperset(cut)] or [cut for cut in trimmed if known.issuperset(cut)]
        if len(named) > 1:
            raise ArgumentError(f"compare must be two names with a comma between; {pair!r} can be cut in several ways")
        if not named and len(cuts) != 1:
            raise ArgumentError(
                f"compare must be two names of the table with a comma between, as A,B; got {pair!r}, and the names are "
                f"{', '.join(map(repr, sorted(known)[:11]))}"
            )
        found += named or trimmed
    return tuple(found)


def _known(sources: Sequence[Source]) -> list[str]:
    """Names of models, and of architectures of which there are enough seeds."""
    places = _by_data(sources).values()
    return list(dict.fromkeys(
        [source.label for source in sources] + [g.name for groups in places for g in groups if g.is_sample]
    ))  # fmt: skip


def check_wanted(wanted: Wanted, sources: Sequence[Source]) -> None:
    """Raises: UnknownNameError for a name that no row and no architecture has; ArgumentError for a name that several
    have, for a model beside itself, for two that share no data set, and for both ways of asking at once;
    EvaluationError as `plan`."""
    if wanted.pairs and wanted.reference is not None:
        raise ArgumentError("compare and reference exclude each other: name pairs, or one reference for all models")
    places = list(_by_data(sources).values())
    known = _known(sources)
    for kind, names in [*(("compare", pair) for pair in wanted.pairs), ("reference", (wanted.reference,))]:
        for name in names:
            if name is not None and name not in known:
                raise unknown_name(kind, name, known)
            if name is not None and any(len(_all_named(groups, name)) > 1 for groups in places):
                raise ArgumentError(
                    f"{kind}: {name!r} is the name of several models; compare them in a report of their own"
                )
    for a, b in wanted.pairs:
        if a == b:
            raise ArgumentError(f"compare must name two different models, got {a!r} twice")
        if not any(_asked(groups, (a, b)) for groups in places):
            raise ArgumentError(f"compare: no data set has features of both {a!r} and {b!r}; extract them")


def left_out(wanted: Wanted, sources: Sequence[Source]) -> list[str]:
    """What the wanted reference is not compared with, and why, one sentence for each data set and reason."""
    found: list[str] = []
    for data, groups in _by_data(sources).items() if wanted.reference is not None else ():
        reference = _named(groups, wanted.reference or "")
        reasons: dict[str, list[str]] = {}
        for row, why in _against(groups, reference)[1]:
            reasons.setdefault(why, []).append(row.source.label)
        if reference is None:
            few = any(group.name == wanted.reference for group in groups)
            why = f"it has fewer than {SEEDS} seeds here" if few else "it has no features here"
            reasons[why] = [group.source.label for group in groups]
        found += [
            f"{data}: {', '.join(dict.fromkeys(names))}: not compared with {wanted.reference}, because {why}"
            for why, names in reasons.items()
        ]
    return found


@dataclass(frozen=True)
class _Only:
    source: Source


def _by_data(sources: Sequence[Source]) -> dict[str, list[Group[_Only]]]:
    return {
        data: groups_of([_Only(source) for source in sources if source.data == data], sources)
        for data in dict.fromkeys(source.data for source in sources)
    }


def _pairs(a: Group[Row], b: Group[Row], among: Sequence[Group[Row]]) -> list[Planned[Row]]:
    """Architectures over their seeds where there are enough, beside others and beside what has no seeds; else weight
    files of one seed; views with their like."""
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


def _has_common_view(a: Group[Row], b: Group[Row], among: Sequence[Group[Row]]) -> bool:
    """Whether the two recipes have rows of the same tap, levels, precision and backend."""
    views = [
        [group.source.view for group in among if group.source.recipe == own and own]
        for own in (a.source.recipe, b.source.recipe)
    ]
    return any(view in views[1] for view in views[0])


def _like_with_like(a: Group[Row], b: Group[Row]) -> list[tuple[Row, Row]]:
    """Rows of equal seeds; where no seed is common, the first of each; a row without a seed with every one."""
    seeds_a, seeds_b = a.by_seed, b.by_seed
    if not seeds_a or not seeds_b:
        return list(product(a.rows, b.rows))
    common = [seed for seed in seeds_a if seed in seeds_b]
    return [(seeds_a[seed][0], seeds_b[seed][0]) for seed in common] or [(a.rows[0], b.rows[0])]


def _against(
    groups: Sequence[Group[Row]], reference: Row | Group[Row] | None
) -> tuple[list[Planned[Row]], list[tuple[Row, str]]]:
    """Every other model minus the reference, and the rows that are left out with the reason. What has no seeds is
    what is subtracted beside an architecture. Beside a file of one seed stand the files of the same seed."""
    found: list[Planned[Row]] = []
    without: list[tuple[Row, str]] = []
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


def _asked(groups: Sequence[Group[Row]], names: tuple[str, str]) -> list[Planned[Row]]:
    """One pair by name, where this place has both. Raises: EvaluationError for an architecture beside a file."""
    a, b = (_named(groups, name) for name in names)
    if a is None or b is None:
        return []
    if isinstance(a, Group) == isinstance(b, Group):
        return [Planned(ASKED, a, b)]
    group, row = (a, b) if isinstance(a, Group) else (b, a)
    assert isinstance(group, Group)
    assert not isinstance(row, Group)
    if not row.source.is_fixed:
        raise EvaluationError(
            f"{group.name} is an architecture over its training seeds and {row.source.label} one weights file, "
            "which are not alike",
            "name two architectures or two weights files",
        )
    return [Planned(ASKED, group, Group(row.source.label, (row,)))]


def _named(groups: Sequence[Group[Row]], name: str) -> Row | Group[Row] | None:
    """The row with this label, or the architecture of this name; None where this place has neither."""
    return next(iter(_all_named(groups, name)), None)


def _all_named(groups: Sequence[Group[Row]], name: str) -> list[Row | Group[Row]]:
    """What the user may mean by a name, which is the only thing that is ever found by one."""
    rows = [row for group in groups for row in group.rows if row.source.label == name]
    return [*rows, *(group for group in groups if group.name == name and group.is_sample)]


def _names(sources: Iterable[Source]) -> dict[tuple[str, str], str]:
    """(recipe, view) → the architecture's name, with what tells it from others of the same architecture or recipe."""
    recipes: dict[str, list[Source]] = {}
    for source in sources:
        if source.recipe:
            recipes.setdefault(source.recipe, []).append(source)
    shared = Counter(own[0].architecture for own in recipes.values())
    names = {}
    for recipe, own in recipes.items():
        name = own[0].architecture
        if shared[name] > 1:
            name += f" (trained as {own[0].label})"
        views = {json.dumps(source.view): source.view for source in own}
        differ = [key for key in own[0].view if len({json.dumps(view[key]) for view in views.values()}) > 1]
        for key, view in views.items():
            what = [f"{part} {'+'.join(view[part]) if part == 'levels' else view[part]}" for part in differ]
            names[recipe, key] = name + (f" ({' and '.join(what)})" if what else "")
    return names
