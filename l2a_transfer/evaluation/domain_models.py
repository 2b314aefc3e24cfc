"""Feature files → the models to measure across domains, each a table with its domains divided into parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2a_transfer.errors import ArgumentError, EvaluationError, unknown_name
from l2a_transfer.evaluation.domain_rows import DomainTable, joined_sha256
from l2a_transfer.evaluation.given_files import check_contents, check_given
from l2a_transfer.evaluation.naming import Named, name_files
from l2a_transfer.evaluation.results import EvalConfig
from l2a_transfer.evaluation.splits import Indices, check_labels
from l2a_transfer.evaluation.standard_protocols import draw_rows
from l2a_transfer.features.store.reader import FeatureSet
from l2a_transfer.features.store.schema import FeatureMeta
from l2a_transfer.features.store.views import VerifiedFile, open_features


@dataclass(frozen=True)
class Parts:
    """The training and test rows of one domain, and the labels that occur in both."""

    train: Indices
    test: Indices
    is_drawn: bool
    others: int
    labels: frozenset[int]


@dataclass(frozen=True)
class DomainModel:
    """A model: its rows in all domains, its name, and the parts of each domain in the order of the table's domains."""

    table: DomainTable
    named: Named
    parts: tuple[Parts, ...]


def open_models(paths: Sequence[Path], config: EvalConfig) -> list[DomainModel]:
    """The files of each model as one table, its domains divided into parts. All models have the same domains.

    Raises: EvaluationError for files that cannot be combined or a model that lacks a domain; UnknownNameError and
    ArgumentError for a class map that does not fit the files.
    """
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
    named = name_files(files, joined=True)
    lines: dict[int, list[int]] = {}
    for k, name in enumerate(named):
        lines.setdefault(name.line, []).append(k)
    models = []
    for line, own in lines.items():
        own.sort(key=lambda k: rows[k].meta.data)
        table = _joined([rows[k] for k in own], [files[k] for k in own], renamed, named[own[0]].label)
        name = Named(" + ".join(named[k].file for k in own), named[own[0]].label, line)
        parts = tuple(_dealt(table, k, config.seed) for k in range(len(table.meta.domains)))
        models.append(DomainModel(table, name, parts))
    first = models[0]
    for other in models[1:]:
        for a, b in ((first, other), (other, first)):
            missing = [name for name in a.table.meta.domains if name not in b.table.meta.domains]
            if missing:
                raise EvaluationError(
                    f"{b.named.label} has no features of {', '.join(missing)}, which {a.named.label} has",
                    "extract them, or evaluate these models separately",
                )
    return models


def _class_names(files: Sequence[FeatureSet], class_map: Mapping[str, str]) -> dict[str, str]:
    """Class → the class it is mapped to. Raises: UnknownNameError, ArgumentError."""
    known = list(dict.fromkeys(name for file in files for name in file.meta.classes))
    for one, other in class_map.items():
        for name in (one, other):
            if name not in known:
                raise unknown_name("class in class_map", name, known)
        if other in class_map and other != one:
            raise ArgumentError(
                f"class_map: {one!r} is mapped to {other!r}, which is mapped to {class_map[other]!r}; "
                "map both to one class"
            )
    return {name: class_map.get(name, name) for name in known}


def _joined(
    files: Sequence[FeatureSet], verified: Sequence[VerifiedFile], renamed: Mapping[str, str], label: str
) -> DomainTable:
    """The rows of all files of a model, with their classes, splits and domains merged."""
    first = files[0]
    for file in files[1:]:
        for what in ("tap", "levels", "preprocess", "precision", "backend", "partners"):
            if getattr(file.meta, what) != getattr(first.meta, what):
                raise EvaluationError(
                    f"{file.path} and {first.path} are of {label} with different {what}, so one "
                    "SVM cannot be fitted to both",
                    "extract both with the same settings",
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


def _dealt(table: DomainTable, domain: int, seed: int) -> Parts:
    """The parts of one domain: its train and test splits if it has them, otherwise drawn class by class."""
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
    return Parts(train, test, is_drawn, len(rows) - len(train) - len(test), labels)
