"""Feature files → the places of a protocol over domains: which rows of which domains each is trained and tested on.

Every domain has a training part and a test part: its own train and test split, or 70 % and 30 % of each class, drawn
once. At a place, the training parts of the sources are used for fitting and for choosing C, and the test part of the
target for testing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2a_transfer.errors import EvaluationError, unknown_name
from l2a_transfer.evaluation.domain_models import DomainModel, Parts, open_models
from l2a_transfer.evaluation.domain_rows import DomainTable
from l2a_transfer.evaluation.domains import DomainPlace
from l2a_transfer.evaluation.measure_row import folds_of
from l2a_transfer.evaluation.naming import Named
from l2a_transfer.evaluation.probes.registry import PROBES, chooses, what_is_chosen
from l2a_transfer.evaluation.protocols import PROTOCOLS, Plan, Setting
from l2a_transfer.evaluation.results import EvalConfig
from l2a_transfer.evaluation.splits import check_finite, check_folds, listed, make_split
from l2a_transfer.evaluation.variants import Variant, variants_of
from l2a_transfer.features.store.views import VerifiedFile
from l2a_transfer.wording import counted

log = logging.getLogger(__name__)
WITHIN = "within"
HELD_OUT = "one source domain held out after the other"
FOLDS = "stratified folds"
GIVEN = "none, because one C was given"
NOTHING = "none, because there is nothing to choose"
LISTED = 8
"""How many classes of a domain a note names; `results.json` has all."""


@dataclass(frozen=True)
class Job:
    """One model at one place: its feature file, or the domains of its files, and the splits."""

    table: DomainTable | VerifiedFile
    plan: Plan
    variants: tuple[Variant, ...]
    named: Named


def plan_domains(paths: Sequence[Path], config: EvalConfig) -> tuple[list[Job], tuple[DomainPlace, ...]]:
    """Every model at every place of the protocol, after all checks that need no SVM, and the places.

    Raises: EvaluationError and UnknownNameError as the protocol does, and for domains that share fewer than two
    classes, a domain with a single class, a model that lacks a domain, and unknown names of domains or classes.
    """
    models = open_models(paths, config)
    names = models[0].table.meta.domains
    for asked, what in ((config.source, "source"), (config.target, "target")):
        for name in asked:
            if name not in names:
                raise unknown_name(what, name, names)
    settings_of = PROTOCOLS[config.protocol].settings
    assert settings_of is not None
    settings = settings_of(names, config.source, config.target)
    if twice := [title for title, often in Counter(map(_title, settings)).items() if often > 1]:
        raise EvaluationError(
            f"the domain names give two places the same name, {twice[0]!r}",
            "use domain names without → and +, or choose `source` and `target`",
        )
    _check_domains(models, settings)
    jobs: list[Job] = []
    places: list[DomainPlace] = []
    narrowest = min((m.table.meta.levels[-1][2] for m in models if not _is_pixels(m)), default=0)
    for model in models:
        variants = variants_of(model.table.meta, config.ablate, narrowest=narrowest, widths=config.widths)
        own = _places(model, settings, config)
        if not places:
            places = [place for place, _, _ in own]
            first = [plan for _, _, plan in own]
        for (place, table, plan), other in zip(own, first, strict=True):
            if plan.splits[0].sha256 != other.splits[0].sha256:
                raise EvaluationError(
                    f"{table.path}: contains other images or labels of {' or '.join({*place.sources, place.target})} "
                    f"than {models[0].table.path}, so they cannot be compared",
                    "extract both with the same `split` and `limit`, or evaluate them separately",
                )
            jobs.append(Job(table, plan, variants, model.named))
    for place, plan in zip(places, first, strict=True):
        log.info("%s: protocol %s; %s", place.data, plan.protocol, "; ".join(plan.notes))
    return jobs, tuple(places)


def _is_pixels(model: DomainModel) -> bool:
    return model.table.meta.card.get("name") == "pixels"


def _check_domains(models: Sequence[DomainModel], settings: Sequence[Setting]) -> None:
    """Raises: EvaluationError for a domain in the settings with fewer than two classes, or for non-finite features."""
    used = {name for setting in settings for name in (*setting.sources, setting.target)}
    for model in models:
        table = model.table
        for name, parts in zip(table.meta.domains, model.parts, strict=True):
            if name in used and len(parts.labels) < 2:
                found = ", ".join(table.meta.classes[k] for k in parts.labels) or "none"
                raise EvaluationError(
                    f"{table.path}: the domain {name} has fewer than two classes with training and test images "
                    f"({found}), and an SVM needs two",
                    "remove it from `source` and `target`, or extract more of it",
                )
        rows = [np.concatenate([parts.train, parts.test]) for parts in model.parts]
        with table.open() as features:
            check_finite(features, np.sort(np.concatenate(rows)))


def _places(
    model: DomainModel, settings: Sequence[Setting], config: EvalConfig
) -> list[tuple[DomainPlace, DomainTable, Plan]]:
    """The places of the settings, then the places within their targets, one per target and set of classes."""
    across = [(setting, _common(model, setting)) for setting in settings]
    inner: dict[tuple[str, frozenset[int]], str] = {}
    for setting, labels in across:
        if (setting.target, labels) not in inner:
            is_only = len({own for other, own in across if other.target == setting.target}) == 1
            name = f"within {setting.target}" + ("" if is_only else f", classes of {_title(setting)}")
            inner[setting.target, labels] = name
    found = []
    if not all(setting.is_within for setting in settings):
        for setting, labels in across:
            within = inner[setting.target, labels]
            found.append(_place(model, setting, labels, config, config.protocol, _title(setting), within))
    for (target, labels), name in inner.items():
        found.append(_place(model, Setting((target,), target), labels, config, WITHIN, name, ""))
    return found


def _title(setting: Setting) -> str:
    return f"{' + '.join(setting.sources)} → {setting.target}"


def _common(model: DomainModel, setting: Setting) -> frozenset[int]:
    """The labels shared by the sources and the target. Raises: EvaluationError if there are fewer than two."""
    meta = model.table.meta
    labels = {
        name: model.parts[meta.domains.index(name)].labels for name in dict.fromkeys((*setting.sources, setting.target))
    }
    common = frozenset.intersection(*labels.values())
    if len(common) < 2:
        has = "; ".join(
            f"{name} has {listed(sorted(meta.classes[k] for k in own), LISTED)}" for name, own in labels.items()
        )
        raise EvaluationError(
            f"{' and '.join(labels)} share {counted(len(common), 'class', 'classes')}, and an SVM needs two: {has}",
            "map the classes to each other with `class_map`, or choose `source` and `target`",
        )
    return common


def _place(
    model: DomainModel,
    setting: Setting,
    labels: frozenset[int],
    config: EvalConfig,
    protocol: str,
    title: str,
    within: str,
) -> tuple[DomainPlace, DomainTable, Plan]:
    table = model.table.named(title)
    meta = table.meta
    domains = list(dict.fromkeys((*setting.sources, setting.target)))
    parts = {name: model.parts[meta.domains.index(name)] for name in domains}
    chosen = np.array(sorted(labels))
    rows = np.concatenate([parts[name].train for name in setting.sources])
    train = np.sort(rows[np.isin(table.labels[rows], chosen)])
    test = np.sort(parts[setting.target].test)
    test = test[np.isin(table.labels[test], chosen)]
    assert setting.is_within or not (table.domain[train] == meta.domains.index(setting.target)).any()
    drawn = tuple(name for name, own in parts.items() if own.is_drawn)
    split = make_split(table, protocol, 0, config.seed if drawn else None, train, test, by_domain=setting.by_domain)
    is_chosen = chooses(config.probes, config.c_grid)
    if is_chosen and not split.by_domain:
        check_folds(table, split, folds_of(config, None))
    left_out = tuple(
        (name, tuple(sorted(meta.classes[k] for k in own.labels - labels)))
        for name, own in parts.items()
        if own.labels - labels
    )
    if is_chosen:
        validation = HELD_OUT if split.by_domain else FOLDS
    else:
        validation = GIVEN if any(PROBES[name].takes_c for name in config.probes) else NOTHING
    place = DomainPlace(
        title,
        protocol,
        setting.sources,
        setting.target,
        tuple(meta.classes[k] for k in chosen),
        left_out,
        within,
        drawn,
        validation,
    )
    return place, table, Plan(protocol, "as asked", (split,), _notes(place, parts, what_is_chosen(config.probes)))


def _notes(place: DomainPlace, parts: Mapping[str, Parts], what: str) -> tuple[str, ...]:
    """What a reader needs to know about a place."""
    chosen = {
        HELD_OUT: f"{what} chosen with {HELD_OUT}, each of which counts alike",
        FOLDS: f"{what} chosen by {FOLDS} of the training rows",
    }
    notes = [chosen[place.validation]] if place.validation in chosen else []
    if place.drawn:
        notes.append(f"70 % and 30 % of each class drawn as training and test part of {', '.join(place.drawn)}")
    for name, names in place.left_out:
        notes.append(
            f"left out, because not all have them: {counted(len(names), 'class', 'classes')} of {name}: "
            f"{listed(list(names), LISTED)}"
        )
    for name, own in parts.items():
        if own.others and not own.is_drawn:
            notes.append(f"left out: {counted(own.others, 'row')} of {name} in splits other than train and test")
    return tuple(notes)
