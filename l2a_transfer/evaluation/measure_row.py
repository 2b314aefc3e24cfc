"""One row of the table: fit SVMs on the training rows of each draw, and predict its test rows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.evaluation import statistics
from l2a_transfer.evaluation.compare import Answers
from l2a_transfer.evaluation.confusion import Confusion
from l2a_transfer.evaluation.groups import Source
from l2a_transfer.evaluation.naming import Named
from l2a_transfer.evaluation.probes.registry import PROBES, SVM, Probe, ProbeFit
from l2a_transfer.evaluation.protocols import Plan
from l2a_transfer.evaluation.results import EvalConfig, EvalDetail, EvalRow
from l2a_transfer.evaluation.splits import Labelled, Split
from l2a_transfer.evaluation.statistics import FEW_IMAGES
from l2a_transfer.evaluation.transferability import logme
from l2a_transfer.evaluation.variants import Variant
from l2a_transfer.features.store.schema import FeatureMeta
from l2a_transfer.memory import require_memory, usable_memory
from l2a_transfer.svm.config import SvmConfig
from l2a_transfer.svm.fitting import memory_of_fit
from l2a_transfer.svm.grid import GridResult
from l2a_transfer.svm.rows import LazyRows
from l2a_transfer.wording import counted

FIXED_C = 1e-2
"""The value of C if one image per class leaves nothing to choose it on."""
TOP = 5
COPIES = 4
"""How many float64 copies of the training rows a probe other than the SVM may hold: original, fold, normalised."""
PREDICT_ROWS = 8192
PREDICT_SCORES = 1 << 22
"""How many rows and scores are computed at a time; the second limit applies only with more than 512 classes."""


class Described(Protocol):
    """What a source is made from: the description of the features, and the digest of their files."""

    @property
    def meta(self) -> FeatureMeta: ...
    @property
    def sha256(self) -> str: ...


class Measured(Labelled, Described, Protocol):
    """What a row is measured on: a feature file, or domains of several files. `domain` (N,), or None without
    domains."""

    @property
    def domain(self) -> NDArray[np.integer[Any]] | None: ...


def measure_row(
    features: Measured,
    named: Named,
    plan: Plan,
    variant: Variant,
    shots: int | None,
    own: tuple[Split, ...],
    config: EvalConfig,
    tick: Callable[[float], Any],
    *,
    probe: str = SVM,
) -> tuple[EvalRow, EvalDetail, Answers]:
    """One row of the table, its detail and its answers: one file, variant, k and probe, over all draws in `own`."""
    meta, started = features.meta, time.perf_counter()
    svm, kind = svm_config(config, variant, shots), PROBES.find(probe)
    fits, predictions, margins, confusions, top5, truths, rights = [], [], [], [], [], [], []
    present = np.unique(features.labels[np.unique(np.concatenate([np.array(s.train + s.test) for s in own]))])
    for split in own:
        train, test = np.array(split.train), np.array(split.test)
        groups = features.domain[train] if split.by_domain and features.domain is not None else None
        rows = _training_rows(features, train, variant, config, probe, kind)
        fit = kind.fit(rows, features.labels[train], _with_folds(svm, groups), tick, groups)
        answered, hits, margin = _answered(features, test, variant, fit)
        predicted = np.searchsorted(present, answered).astype(np.int32)
        truth = np.searchsorted(present, features.labels[test]).astype(np.int32)
        by_id = np.array(sorted(range(len(test)), key=lambda k: features.ids[test[k]]))
        fits.append(fit)
        predictions.append(tuple(predicted.tolist()))
        margins.append(margin)
        confusions.append(Confusion.from_labels(truth, predicted, len(present)))
        top5.append(float(hits.mean()))
        truths.append(truth[by_id])
        rights.append((truth == predicted)[by_id])
    tested = np.unique(np.concatenate([split.test for split in own])).astype(np.intp)
    different = np.bincount(np.searchsorted(present, features.labels[tested]), minlength=len(present))  # (K,)
    accuracy, mean_class = _intervals(confusions, different, own[0].shared)
    row = EvalRow(
        label=named.label,
        variant=variant.name,
        model=str(meta.card.get("name", features.path.stem)),
        data=meta.data,
        file=named.file,
        file_sha256=features.sha256,
        line=named.line,
        tap=meta.tap,
        levels=variant.levels,
        precision=meta.precision,
        backend=meta.backend,
        normalization=svm.normalization,
        solver=kind.solver or svm.solver,
        protocol=plan.protocol,
        why=plan.why,
        shots=shots,
        draws=len(own),
        n_classes=len(present),
        n_train=len(own[0].train),
        n_test=len(own[0].test),
        dim=variant.stop - variant.start,
        components=min((f.components for f in fits if f.components is not None), default=None),
        C=tuple(fit.C for fit in fits if fit.C is not None),
        c_grid_draws=tuple(() if fit.grid is None else fit.grid.Cs for fit in fits),
        cv_accuracy_draws=tuple(fit.cv_accuracy for fit in fits),
        interval="score" if len(fits) == 1 else "corrected-t",
        accuracy=accuracy.value,
        accuracy_ci95=(accuracy.low, accuracy.high),
        accuracy_draws=tuple(statistics.accuracy(c) for c in confusions),
        mean_class_accuracy=mean_class.value,
        mean_class_accuracy_ci95=(mean_class.low, mean_class.high),
        mean_class_accuracy_draws=tuple(statistics.mean_class_accuracy(c) for c in confusions),
        macro_f1=float(np.mean([statistics.macro_f1(c) for c in confusions])),
        top5=float(np.mean(top5)) if len(present) > TOP else None,
        chance=1 / len(np.unique(features.labels[list(own[0].train)])),
        fits=sum(fit.fits for fit in fits),
        unconverged=sum(fit.unconverged for fit in fits),
        seconds=round(time.perf_counter() - started, 3),
        splits=(),
        notes=(*plan.notes, *few_test_images(features.labels, own), *_notes(fits, svm, shots)),
        probe=probe,
        chosen=tuple(fit.chosen for fit in fits),
    )
    names = tuple(meta.classes[k] for k in present)
    cells = Confusion.total(confusions).cells.tolist()
    detail = EvalDetail(
        named.label,
        features.sha256,
        variant.name,
        meta.data,
        shots,
        names,
        tuple(map(tuple, cells)),
        tuple(predictions),
        probe,
        tuple(margins),
    )
    answers = Answers(
        source=source_of(features, named.label, variant.levels),
        protocol=plan.protocol,
        shots=shots,
        variant=variant.name,
        digests=tuple(split.sha256 for split in own),
        truth=tuple(truths),
        right=tuple(rights),
        mean_class_accuracy=mean_class.value,
        shared=own[0].shared,
        different=different,
        probe=probe,
    )
    return row, detail, answers


def _with_folds(svm: SvmConfig, groups: NDArray[np.integer[Any]] | None) -> SvmConfig:
    """Set the number of folds to the number of groups, if there are any."""
    return svm if groups is None else dataclasses.replace(svm, folds=len(np.unique(groups)))


def _training_rows(
    features: Measured, train: NDArray[np.intp], variant: Variant, config: EvalConfig, probe: str, kind: Probe
) -> NDArray[Any] | LazyRows:
    """The training rows in memory, or read from the file if `max_memory` or the memory left to this process is too
    small.

    Raises: MemoryLimitError if the probe needs them in memory and they do not fit.
    """
    columns = slice(variant.start, variant.stop)
    lazy = LazyRows(features.features, rows=train, columns=columns)
    simple = variant.components is None and variant.normalization != "l2" and variant.dtype is None
    numbers, stored = lazy.shape[0] * lazy.shape[1], features.features.shape[1] * lazy.shape[0]
    as_read = features.features.dtype.itemsize * stored
    half = usable_memory() // 2
    too_large = 8 * numbers > (config.max_memory or half) or 8 * numbers + as_read > half  # as float64
    if kind.reads_blocks and config.solver == "batched" and simple and too_large:
        return lazy
    if not kind.reads_blocks:
        require_memory(
            as_read + COPIES * 8 * numbers,
            f"{features.path}: the probe {probe} on {lazy.shape[0]} rows of {lazy.shape[1]} columns",
            "extract fewer images (`limit`), or use fewer probes",
        )
        return variant.values(features.features[train])
    require_memory(
        as_read + memory_of_fit(*lazy.shape, svm_config(config, variant, None)),
        f"{features.path}: {variant.name or (config.solver if simple else 'PCA')} on {lazy.shape[0]} rows of "
        f"{lazy.shape[1]} columns",
        "use `solver='batched'`, which takes less memory"
        if simple and config.solver == "liblinear"
        else "extract fewer images (`limit`), or use fewer variants in `ablate`",
    )
    return variant.values(features.features[train])


def _answered(
    features: Measured, test: NDArray[np.intp], variant: Variant, fit: ProbeFit
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.float32]]:
    """For each test row, in the order of `test`: the predicted label (n,), whether the true label is among the `TOP`
    best, and the score of the true label minus the best other score. Rows are read and scored in blocks."""
    answered, hits = np.empty(len(test), dtype=np.int32), np.empty(len(test), dtype=bool)
    margins = np.empty(len(test), dtype=np.float32)
    step = min(PREDICT_ROWS, max(1, PREDICT_SCORES // len(fit.classes)))
    for start in range(0, len(test), step):
        rows = test[start : start + step]
        scores = fit.scores(variant.values(features.features[rows]))  # (step, K)
        truth = np.searchsorted(fit.classes, features.labels[rows]).astype(np.int32)
        answered[start : start + step] = fit.classes[scores.argmax(axis=1)]
        hits[start : start + step] = statistics.top_k(scores, truth, TOP)
        place = np.arange(len(rows))
        true, others = scores[place, truth], scores.copy()
        others[place, truth] = -np.inf
        margins[start : start + step] = true - others.max(axis=1)
    return answered, hits, margins


def _intervals(
    confusions: list[Confusion], different: NDArray[np.int64], shared: float
) -> tuple[statistics.Interval, statistics.Interval]:
    """Accuracy and mean class accuracy with intervals: over test rows for one split, otherwise over draws, in which the
    classes have `different` (K,) test images."""
    if len(confusions) == 1:
        return statistics.accuracy_interval(confusions[0]), statistics.mean_class_accuracy_interval(confusions[0])
    total = Confusion.total(confusions)
    right = np.stack([total.right, total.tested - total.right], axis=1)  # (K, 2)
    how: dict[str, Any] = {"draws": len(confusions), "shared": shared}
    whole = statistics.pooled(right.sum(axis=0)[None], statistics.RIGHT_OR_WRONG, different.sum()[None], **how)
    classes = statistics.pooled(right, statistics.RIGHT_OR_WRONG, different, **how)
    values = [[of(c) for c in confusions] for of in (statistics.accuracy, statistics.mean_class_accuracy)]
    return (
        statistics.interval_over_draws(values[0], whole, shared=shared),
        statistics.interval_over_draws(values[1], classes, shared=shared),
    )


def few_test_images(labels: NDArray[np.int32], splits: Sequence[Split]) -> list[str]:
    """A warning if a class has few test images in some draw."""
    counts = [np.unique(labels[list(split.test)], return_counts=True)[1] for split in splits]
    few, least, K = max(int((c < FEW_IMAGES).sum()) for c in counts), min(int(c.min()) for c in counts), len(counts[0])
    if not few:
        return []
    have = "has" if few == 1 else "have"
    return [
        f"{few} of {K} classes {have} fewer than {FEW_IMAGES} test images (the fewest: {least}), too few "
        "to measure a class well: differences between models are easily missed"
    ]


def logme_of(features: Measured, variant: Variant, own: tuple[Split, ...]) -> float | None:
    """Mean over draws of the LogME of the training rows as stored; None for variants with other normalization or PCA,
    which the score ignores."""
    if variant.normalization != "standardize" or (variant.name and variant.components is not None):
        return None
    found = []
    for split in own:
        train = np.array(split.train)
        rows = LazyRows(features.features, rows=train, columns=slice(variant.start, variant.stop))
        smaller = min(rows.shape)
        require_memory(
            8 * (2 * smaller**2 + (rows.shape[0] * rows.shape[1] if rows.shape[0] < rows.shape[1] else 0)),
            f"{features.path}: LogME on {rows.shape[0]} rows of {rows.shape[1]} columns",
            "do not set `logme`",
        )
        found.append(logme(rows, features.labels[train]))
    return float(np.mean(found))


def source_of(file: Described, label: str, levels: tuple[str, ...]) -> Source:
    meta = file.meta
    view = (meta.tap, levels, meta.precision, meta.backend, meta.partners)
    return Source(label, meta.data, meta.card, file.sha256, *view)


def _notes(fits: list[ProbeFit], svm: SvmConfig, shots: int | None) -> list[str]:
    """What a reader of the row needs to know about its fits."""
    notes = []
    if shots == 1 and fits[0].chosen:
        notes.append(f"{fits[0].chosen} is fixed, because one image a class leaves nothing to choose it on")
    grids = [fit.grid for fit in fits if fit.grid is not None]
    grown = sum(grid.added > 0 for grid in grids)
    if grown:
        notes.append(f"the grid of C grew in {grown} of {counted(len(fits), 'draw')}")
    at_edge = sum(_beats_its_neighbour_at_the_edge(grid) for grid in grids)
    if at_edge:
        where = f"{at_edge} of {counted(len(fits), 'draw')}"
        notes.append(f"the best C is at the edge of the grid and better than its neighbour in {where}")
    kept = [n for fit in fits for n in (fit.components, fit.fold_components) if n is not None]
    if svm.components is not None and min(kept) < svm.components:
        final = min(fit.components for fit in fits if fit.components is not None)
        fewer = "" if min(kept) == final else f" in the folds that choose C, {final} in the final fit"
        notes.append(
            f"PCA to {counted(min(kept), 'component')}{fewer}, because there are no more training rows or columns"
        )
    return notes


def _beats_its_neighbour_at_the_edge(grid: GridResult) -> bool:
    """Whether a better C may lie outside the grid; a plateau that reaches the edge does not count."""
    right = grid.counts.correct.sum(axis=1)
    return grid.at_edge and bool(right[grid.best] > right[1 if grid.best == 0 else grid.best - 1])


def folds_of(config: EvalConfig, shots: int | None) -> int:
    """Folds of the cross-validation that chooses C, at most the number of images per class."""
    return config.folds if shots is None else min(config.folds, shots)


def svm_config(config: EvalConfig, variant: Variant, shots: int | None) -> SvmConfig:
    """The SVM settings for one row of the table."""
    grid = config.c_grid
    if shots == 1 and len(grid) > 1:
        grid = (FIXED_C,)
    return SvmConfig(
        grid,
        folds_of(config, shots),
        components=variant.components,
        seed=config.seed,
        jobs=config.jobs,
        tol=config.tol,
        max_iter=config.max_iter,
        solver=config.solver,
        normalization=variant.normalization,
        decades=config.decades,
        device=config.device,
        max_memory=config.max_memory,
    )
