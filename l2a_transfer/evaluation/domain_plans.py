"""Feature files → the places of a protocol over domains: which rows of which domains each is fitted and tested on.

Every domain has a training part and a test part: its own train and test split, or 70 % and 30 % of each class, drawn
once. A place is fitted and C chosen on training parts of its sources, and tested on the test part of its target.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2a_transfer.errors import ArgumentError, EvaluationError, unknown_name
from l2a_transfer.evaluation.domain_rows import DomainTable, joined_sha256
from l2a_transfer.evaluation.domains import DomainPlace
from l2a_transfer.evaluation.given_files import check_contents, check_given
from l2a_transfer.evaluation.measure_row import folds_of
from l2a_transfer.evaluation.naming import Named, name_files
from l2a_transfer.evaluation.protocols import PROTOCOLS, Plan, Setting
from l2a_transfer.evaluation.results import EvalConfig
from l2a_transfer.evaluation.splits import Indices, check_finite, check_folds, check_labels, listed, make_split
from l2a_transfer.evaluation.standard_protocols import draw_rows
from l2a_transfer.evaluation.variants import Variant, variants_of
from l2a_transfer.features.store.reader import FeatureSet
from l2a_transfer.features.store.schema import FeatureMeta
from l2a_transfer.features.store.views import VerifiedFile, open_features
from l2a_transfer.wording import counted

log = logging.getLogger(__name__)
WITHIN = "within"
HELD_OUT = "one source domain held out after the other"
FOLDS = "stratified folds"
GIVEN = "none, because one C was given"
LISTED = 8
"""Classes of a domain that a note names; `results.json` has all."""


@dataclass(frozen=True)
class Job:
    """One model at one place: its feature file, or the domains of its files, and the splits."""

    table: DomainTable | VerifiedFile
    plan: Plan
    variants: tuple[Variant, ...]
    named: Named


@dataclass(frozen=True)
class _Parts:
    """The rows of one domain, and the labels that both parts have."""

    train: Indices
    test: Indices
    is_drawn: bool
    others: int
    labels: frozenset[int]


@dataclass(frozen=True)
class _Model:
    table: DomainTable
    named: Named
    parts: tuple[_Parts, ...]


def plan_domains(paths: Sequence[Path], config: EvalConfig) -> tuple[list[Job], tuple[DomainPlace, ...]]:
    """Every model at every place of the protocol, after every check that needs no SVM; and the places.

    Raises: EvaluationError and UnknownNameError as the protocol, and for domains that share fewer than two classes,
    one with a single class, models that lack a domain, and names of domains or classes that nothing has.
    """
    models = _models(paths, config)
    names = models[0].table.meta.domains
    for asked, what in ((config.source, "source"), (config.target, "target")):
        for name in asked:
            if name not in names:
                raise unknown_name(what, name, names)
    settings_of = PROTOCOLS[config.protocol].settings
    assert settings_of is not None
    settings = settings_of(names, config.source, config.target)
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
                    f"{table.path}: holds other images or labels of {' or '.join({*place.sources, place.target})} than "
                    f"{models[0].table.path}, so that their rows cannot stand beside each other",
                    "extract both with the same `split` and `limit`, or evaluate them apart",
                )
            jobs.append(Job(table, plan, variants, model.named))
    for place, plan in zip(places, first, strict=True):
        log.info("%s: protocol %s; %s", place.data, plan.protocol, "; ".join(plan.notes))
    return jobs, tuple(places)


def _is_pixels(model: _Model) -> bool:
    return model.table.meta.card.get("name") == "pixels"


def _models(paths: Sequence[Path], config: EvalConfig) -> list[_Model]:
    """The files of each model as one table, its domains dealt into parts. All have the same domains."""
    check_given(paths)
    contents: dict[str, Path] = {}
    files: list[VerifiedFile] = []
    rows: list[FeatureSet] = []
    for path in paths:
        with open_features(path) as found:
            check_contents(path, found.verified, contents)
            files.append(found.verified)
            nothing = np.empty((0, 0), dtype=np.float32)
            rows.append(FeatureSet(path, found.meta, nothing, found.labels, found.ids, found.split, found.domain))
    renamed = _class_names(rows, dict(config.class_map))
    named = name_files(files)
    lines: dict[int, list[int]] = {}
    for k, name in enumerate(named):
        lines.setdefault(name.line, []).append(k)
    models = []
    for line, own in lines.items():
        own.sort(key=lambda k: rows[k].meta.data)
        table = _joined([rows[k] for k in own], [files[k] for k in own], renamed, named[own[0]].label)
        name = Named(" + ".join(named[k].file for k in own), named[own[0]].label, line)
        parts = tuple(_dealt(table, k, config.seed) for k in range(len(table.meta.domains)))
        models.append(_Model(table, name, parts))
    first = models[0]
    for other in models[1:]:
        for a, b in ((first, other), (other, first)):
            missing = [name for name in a.table.meta.domains if name not in b.table.meta.domains]
            if missing:
                raise EvaluationError(
                    f"{b.named.label} has no features of {', '.join(missing)}, which {a.named.label} has",
                    "extract them, or evaluate these models apart",
                )
    return models


def _class_names(files: Sequence[FeatureSet], class_map: Mapping[str, str]) -> dict[str, str]:
    """Class → the class that it counts as. Raises: UnknownNameError, ArgumentError."""
    known = list(dict.fromkeys(name for file in files for name in file.meta.classes))
    for one, other in class_map.items():
        for name in (one, other):
            if name not in known:
                raise unknown_name("class in class_map", name, known)
        if other in class_map and other != one:
            raise ArgumentError(
                f"class_map: {one!r} counts as {other!r}, which counts as {class_map[other]!r}; map both to one class"
            )
    return {name: class_map.get(name, name) for name in known}


def _joined(
    files: Sequence[FeatureSet], verified: Sequence[VerifiedFile], renamed: Mapping[str, str], label: str
) -> DomainTable:
    """The rows of a model's files, with the classes, splits and domains of all of them."""
    first = files[0]
    for file in files[1:]:
        for what in ("tap", "levels", "preprocess"):
            if getattr(file.meta, what) != getattr(first.meta, what):
                raise EvaluationError(
                    f"{file.path} and {first.path} are of {label} with different {what}, so that no SVM fits both",
                    "extract both in the same way",
                )
    of_file = [file.meta.domains if file.domain is not None else (file.meta.data,) for file in files]
    domains = tuple(dict.fromkeys(name for names in of_file for name in names))
    if len(domains) < sum(map(len, of_file)):
        twice = next(name for name in domains if sum(name in names for names in of_file) > 1)
        raise EvaluationError(
            f"{label}: several of its files have a domain called {twice!r}", "give the domains different names"
        )
    domains = tuple(sorted(domains))
    classes = tuple(sorted({renamed[name] for file in files for name in file.meta.classes}))
    splits = tuple(dict.fromkeys(name for file in files for name in file.meta.splits))
    labels, split, domain = [], [], []
    ids: list[str] = []
    for file, names in zip(files, of_file, strict=True):
        place = np.array([*(classes.index(renamed[name]) for name in file.meta.classes), -1], dtype=np.int32)
        labels.append(place[file.labels])
        split.append(np.array([splits.index(name) for name in file.meta.splits], dtype=np.uint8)[file.split])
        own = np.zeros(len(file.ids), dtype=np.intp) if file.domain is None else file.domain
        domain.append(np.array([domains.index(name) for name in names])[own])
        ids += file.ids if len(files) == 1 else [f"{file.meta.data}/{name}" for name in file.ids]
    meta = FeatureMeta(
        data=" + ".join(file.meta.data for file in files),
        classes=classes,
        splits=splits,
        levels=first.meta.levels,
        card=first.meta.card,
        preprocess=first.meta.preprocess,
        tap=first.meta.tap,
        precision=first.meta.precision,
        backend=first.meta.backend,
        fingerprint=first.meta.fingerprint,
        domains=domains,
    )
    return DomainTable(
        path=first.path,
        meta=meta,
        labels=np.concatenate(labels),
        ids=tuple(ids),
        split=np.concatenate(split),
        domain=np.concatenate(domain).astype(np.int64),
        sha256=joined_sha256(verified),
        files=tuple(verified),
    )


def _dealt(table: DomainTable, domain: int, seed: int) -> _Parts:
    """The parts of one domain: its own splits where it has train and test, else drawn class by class."""
    rows = np.flatnonzero(table.domain == domain)
    by_name = {name: rows[table.split[rows] == k] for k, name in enumerate(table.meta.splits)}
    train, test = (by_name.get(name, rows[:0]) for name in ("train", "test"))
    is_drawn = not (len(train) and len(test))
    if is_drawn:
        check_labels(table, rows)
        counts = np.bincount(table.labels[rows], minlength=len(table.meta.classes))
        enough = rows[counts[table.labels[rows]] > 1]
        train, test = draw_rows(table, enough, "stratified", np.random.default_rng([seed, 0]))
    check_labels(table, np.concatenate([train, test]))
    labels = frozenset(np.intersect1d(table.labels[train], table.labels[test]).tolist())
    return _Parts(train, test, is_drawn, len(rows) - len(train) - len(test), labels)


def _check_domains(models: Sequence[_Model], settings: Sequence[Setting]) -> None:
    """Raises: EvaluationError for a domain of the settings with fewer than two classes, and features that are not
    finite."""
    used = {name for setting in settings for name in (*setting.sources, setting.target)}
    for model in models:
        table = model.table
        for name, parts in zip(table.meta.domains, model.parts, strict=True):
            if name in used and len(parts.labels) < 2:
                found = ", ".join(table.meta.classes[k] for k in parts.labels) or "none"
                raise EvaluationError(
                    f"{table.path}: the domain {name} has fewer than two classes with training and test images "
                    f"({found}), and an SVM needs two",
                    "leave it out of `source` and `target`, or extract more of it",
                )
        rows = [np.concatenate([parts.train, parts.test]) for parts in model.parts]
        with table.open() as features:
            check_finite(features, np.sort(np.concatenate(rows)))


def _places(
    model: _Model, settings: Sequence[Setting], config: EvalConfig
) -> list[tuple[DomainPlace, DomainTable, Plan]]:
    """The places of the settings, then those within their targets, one for each target and set of classes."""
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


def _common(model: _Model, setting: Setting) -> frozenset[int]:
    """The labels that the sources and the target share. Raises: EvaluationError where these are fewer than two."""
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
            "say which class is which by `class_map`, or choose `source` and `target`",
        )
    return common


def _place(
    model: _Model,
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
    if len(config.c_grid) > 1 and not split.by_domain:
        check_folds(table, split, folds_of(config, None))
    left_out = tuple(
        (name, tuple(sorted(meta.classes[k] for k in own.labels - labels)))
        for name, own in parts.items()
        if own.labels - labels
    )
    validation = GIVEN if len(config.c_grid) == 1 else HELD_OUT if split.by_domain else FOLDS
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
    return place, table, Plan(protocol, "as asked", (split,), _notes(place, parts))


def _notes(place: DomainPlace, parts: Mapping[str, _Parts]) -> tuple[str, ...]:
    """What a reader must know of a place."""
    chosen = {
        HELD_OUT: f"C chosen with {HELD_OUT}, each of which counts alike",
        FOLDS: f"C chosen by {FOLDS} of the training rows",
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
