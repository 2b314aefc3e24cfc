"""Where a row of the table comes from, and which rows are training runs of the same architecture."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from l2a_transfer.models.config import DEFAULT_NORMALIZER, DEFAULT_SELECTION, attention_name

TRAINED, UNTRAINED, PIXELS, ELSEWHERE, IMPORTED = "trained", "untrained", "pixels", "elsewhere", "imported"
CONTROLS = (UNTRAINED, PIXELS)
SEEDS = 3
"""Fewest training seeds per side for a statement about an architecture."""


@dataclass(frozen=True)
class Source:
    """Where a row's features come from: the digest of the feature file, the model's card, and the view of the network.
    `label` is for readers."""

    label: str
    data: str
    card: dict[str, Any]
    sha256: str
    tap: str = ""
    levels: tuple[str, ...] = ()
    precision: str = ""
    backend: str = ""
    partners: str = ""

    @property
    def kind(self) -> str:
        """`trained`, `untrained` (random weights), `pixels`, `imported` (arrays, whatever else their card says), or
        `elsewhere` (features of a third-party backend)."""
        if IMPORTED in self.card:
            return IMPORTED
        training = self.card.get("training") or {}
        if self.card.get("name") == "pixels":
            return PIXELS
        if training.get("untrained"):
            return UNTRAINED
        return TRAINED if training and isinstance(self.card.get("config"), dict) else ELSEWHERE

    @property
    def seed(self) -> Any:
        """The training seed; all rows with the same seed are one training run. None if there is none."""
        return (self.card.get("training") or {}).get("seed")

    @property
    def recipe(self) -> str:
        """Everything shared by training runs that differ only in their seed; "" if nothing was trained."""
        training = self.card.get("training") or {}
        if self.kind == IMPORTED or self.seed is None or not isinstance(self.card.get("config"), dict):
            return ""
        start = training.get("init_from")
        shared = {key: training.get(key) for key in ("data", "split", "n", "data_sha256", "recipe", "untrained")}
        if "code_sha256" in self.card:  # two user files may have the same name
            shared["code"] = self.card["code_sha256"]
        shared["init_from"] = start.get("sha256") if isinstance(start, dict) else start
        return json.dumps([self.card["config"], self.card.get("preprocess"), shared], sort_keys=True)

    @property
    def is_fixed(self) -> bool:
        """Whether there is no training seed, so that a single row is compared with an architecture."""
        return self.kind != TRAINED or not self.recipe

    @property
    def view(self) -> dict[str, Any]:
        own = {"tap": self.tap, "levels": self.levels, "precision": self.precision, "backend": self.backend}
        return own | ({"partners": self.partners} if self.partners else {})

    @property
    def architecture(self) -> str:
        """The name in reports: vgg-att2-concat-pc@0.25, or vgg-att2-concat-pc-hard@0.25."""
        config, untrained = self.card["config"], "untrained " if self.kind == UNTRAINED else ""
        width = f"@{config['width']}" if "width" in config else ""  # third-party networks have none
        name = str(config.get("architecture"))
        normalizer = str(config.get("normalizer", DEFAULT_NORMALIZER))
        selection = str(config.get("selection", DEFAULT_SELECTION))
        return f"{untrained}{attention_name(name, normalizer, selection)}{width}"


class HasSource(Protocol):
    @property
    def source(self) -> Source: ...


RowT = TypeVar("RowT", bound=HasSource)


@dataclass(frozen=True)
class Group(Generic[RowT]):
    """Rows of one architecture, recipe and view, one or more per training seed; or a single row without a seed."""

    name: str
    rows: tuple[RowT, ...]

    @property
    def source(self) -> Source:
        return self.rows[0].source

    @property
    def title(self) -> str:
        """The name of the architecture; with too few seeds, the label of the first row."""
        return self.name if self.is_sample else self.source.label

    @property
    def recipe_sha256(self) -> str:
        """The digest of the recipe and view that its rows share."""
        return hashlib.sha256(json.dumps([self.source.recipe, self.source.view]).encode()).hexdigest()

    @property
    def by_seed(self) -> dict[Any, list[RowT]]:
        """Training seed → its rows, which belong to one run. Empty if nothing was trained."""
        found: dict[Any, list[RowT]] = {}
        for row in self.rows if self.source.recipe else ():
            found.setdefault(row.source.seed, []).append(row)
        return found

    @property
    def runs(self) -> list[list[RowT]]:
        """The rows of each seed; without seeds, all rows."""
        return list(self.by_seed.values()) or [list(self.rows)]

    @property
    def is_sample(self) -> bool:
        """Whether there are enough training seeds for a statement about the architecture."""
        return len(self.by_seed) >= SEEDS


def groups_of(rows: Sequence[RowT], everything: Iterable[Source]) -> list[Group[RowT]]:
    """The rows of one place (no variants) in groups; `everything`: all sources in the report, so that an architecture
    is named the same throughout."""
    names = _architecture_names(everything)
    found: dict[tuple[str, str], list[RowT]] = {}
    for row in rows:
        own = row.source
        found.setdefault((own.recipe, json.dumps(own.view) if own.recipe else own.sha256), []).append(row)
    return [Group(names.get(key, own[0].source.label), tuple(own)) for key, own in found.items()]


def _architecture_names(sources: Iterable[Source]) -> dict[tuple[str, str], str]:
    """(recipe, view) → the name of the architecture, extended if several recipes or views share it."""
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
        keys = dict.fromkeys(key for view in views.values() for key in view)
        differ = [key for key in keys if len({json.dumps(view.get(key)) for view in views.values()}) > 1]
        for key, view in views.items():
            own_parts = [part for part in differ if part in view]  # a graph of a network with partners has no rule
            what = [f"{part} {'+'.join(view[part]) if part == 'levels' else view[part]}" for part in own_parts]
            names[recipe, key] = name + (f" ({' and '.join(what)})" if what else "")
    return names
