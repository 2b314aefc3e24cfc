"""Feature files in, measured rows out: one row for every model and data set, on one split a data set and draw."""

from __future__ import annotations

import dataclasses
import logging
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from tqdm import tqdm

from l2a_transfer import __version__
from l2a_transfer.errors import EvaluationError, unknown_name
from l2a_transfer.evaluation import statistics
from l2a_transfer.evaluation.fitting import PIXEL_COMPONENTS, SvmConfig, SvmFit, fit_svm
from l2a_transfer.evaluation.protocols import PROTOCOLS, Plan, Split, check_folds, plan_splits
from l2a_transfer.features.store import FeatureMeta, FeatureSet, read_features

log = logging.getLogger(__name__)
SCHEMA = "l2a-results/1"
SOLVERS = ("liblinear",)


@dataclass(frozen=True)
class EvalConfig:
    """What is measured and how; everything that changes a number except the features.

    `c_grid`: candidates for C, put in rising order; one value is used as it is. `folds`: of the cross-validation that
    chooses among several. `draws`: splits to draw (None: the protocol's own number). `bootstrap`: resamples.
    `jobs`: threads, which change no number. Raises: UnknownNameError, ValueError.
    """

    protocol: str = "auto"
    c_grid: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    folds: int = 5
    draws: int | None = None
    bootstrap: int = 10_000
    solver: str = "liblinear"
    seed: int = 0
    jobs: int = 1
    tol: float = 1e-4
    max_iter: int = 1000

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise unknown_name("protocol", self.protocol, PROTOCOLS)
        if self.solver not in SOLVERS:
            raise unknown_name("solver", self.solver, SOLVERS)
        grid = tuple(sorted(self.c_grid))
        # liblinear never comes back from C = 1e300, and nothing can interrupt it.
        if not grid or len(set(grid)) < len(grid) or not all(1e-10 <= C <= 1e10 for C in grid):
            raise ValueError(
                "c_grid must be different positive numbers between 1e-10 and 1e10, as 1e-4,1e-3,1e-2; "
                f"got {list(self.c_grid)}"
            )
        object.__setattr__(self, "c_grid", grid)
        least = {"folds": 2, "draws": 1, "bootstrap": 100, "seed": 0, "jobs": 1, "max_iter": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {value}")
        if self.protocol == "official" and (self.draws or 1) > 1:
            raise ValueError(
                f"draws must be 1 with protocol official, which is one fixed split, got {self.draws}; "
                "stratified and caltech-30 draw their splits"
            )


@dataclass(frozen=True)
class EvalRow:
    """One model on one data set. Accuracies and intervals are fractions between 0 and 1.

    `label` names the model, with the file's name where two files of a data set hold the same model. `C` and the
    `…_draws` have one value a draw. `interval` says what the intervals are over: `bootstrap` (test rows of the one
    split) or `corrected-t` (draws). `splits` points into `EvalResults.splits`. `chance` is the mean class accuracy
    of guessing among the trained classes. `fits` counts SVMs, `unconverged` those that liblinear stopped at `max_iter`.
    """

    label: str
    model: str
    data: str
    file: str
    tap: str
    levels: tuple[str, ...]
    precision: str
    backend: str
    protocol: str
    why: str
    draws: int
    n_classes: int
    n_train: int
    n_test: int
    dim: int
    components: int | None
    C: tuple[float, ...]
    cv_accuracy_draws: tuple[tuple[float, ...], ...]
    interval: str
    accuracy: float
    accuracy_ci95: tuple[float, float]
    accuracy_draws: tuple[float, ...]
    mean_class_accuracy: float
    mean_class_accuracy_ci95: tuple[float, float]
    mean_class_accuracy_draws: tuple[float, ...]
    chance: float
    fits: int
    unconverged: int
    seconds: float
    splits: tuple[int, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class EvalDetail:
    """What is too long for a row: class names in label order, confusion counts (true × predicted, summed over draws),
    and for each draw the predicted index into `classes` of every test row, in the order of the split's `test`."""

    label: str
    data: str
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    predictions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class EvalResults:
    """`rows` and `details` run in parallel; `splits` holds every split's indices, so that anybody can repeat it."""

    config: EvalConfig
    rows: tuple[EvalRow, ...]
    details: tuple[EvalDetail, ...]
    splits: tuple[Split, ...]
    versions: dict[str, str]

    def document(self) -> dict[str, Any]:
        """The JSON document of schema `l2a-results/1`."""
        return {
            "schema": SCHEMA,
            "config": dataclasses.asdict(self.config),
            "versions": self.versions,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "comparisons": [],
            "details": [dataclasses.asdict(detail) for detail in self.details],
            "splits": [dataclasses.asdict(split) for split in self.splits],
        }


def evaluate_files(paths: Sequence[str | Path], config: EvalConfig, *, progress: bool = False) -> EvalResults:
    """Measures every feature file: C chosen on training rows, the refitted SVM tested once.

    All files are read and checked, and all splits drawn, before the first SVM is fitted. Files of one data set must
    hold the same images and get the same splits. Raises: StoreError, EvaluationError.
    """
    planned = _plan_all([Path(path) for path in paths], config)
    labels = _labels([(path, meta) for path, meta, _ in planned])
    splits = tuple(dict.fromkeys(split for _, _, plan in planned for split in plan.splits))
    rows, details = [], []
    fits = sum(_svm_config(config, meta).fits * len(plan.splits) for _, meta, plan in planned)
    with tqdm(total=fits, desc="SVMs", unit="fit", file=sys.stderr, disable=not progress) as bar:
        for (path, _, plan), label in zip(planned, labels, strict=True):
            bar.set_postfix_str(label)
            row, detail = _evaluate(read_features(path), label, plan, config, splits, bar.update)
            rows.append(row)
            details.append(detail)
    versions = {
        "l2a-transfer": __version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return EvalResults(config, tuple(rows), tuple(details), splits, versions)


def _plan_all(paths: list[Path], config: EvalConfig) -> list[tuple[Path, FeatureMeta, Plan]]:
    """Every file's plan, after every check that needs no SVM."""
    if not paths:
        raise ValueError("at least one feature file is needed")
    twice = [str(path) for path, n in Counter(path.resolve() for path in paths).items() if n > 1]
    if twice:
        raise EvaluationError(f"{twice[0]}: given twice; name each feature file once")
    for path in paths:
        if path.is_dir():
            raise EvaluationError(f"{path}: is a folder; name the feature files in it")
        if not path.is_file():
            raise EvaluationError(f"{path}: no such file; `l2a-transfer extract --out {path.name}` makes feature files")
    planned: list[tuple[Path, FeatureMeta, Plan]] = []
    first: dict[str, tuple[Path, Plan]] = {}
    for path in paths:
        features = read_features(path)
        plan = plan_splits(features, config.protocol, draws=config.draws, seed=config.seed)
        if len(config.c_grid) > 1:
            for split in plan.splits:
                check_folds(features, split, config.folds)
        other, theirs = first.setdefault(features.meta.data, (path, plan))
        if [s.sha256 for s in theirs.splits] != [s.sha256 for s in plan.splits]:
            raise EvaluationError(
                f"{path}: holds other images or labels of {features.meta.data} than {other}, so that their rows "
                "cannot stand beside each other; extract both with the same --split and --limit, or evaluate them apart"
            )
        planned.append((path, features.meta, plan))
    for data, (_, plan) in first.items():
        log.info("%s: protocol %s (%s)%s", data, plan.protocol, plan.why, "".join(f"; {n}" for n in plan.notes))
    return planned


def _evaluate(
    features: FeatureSet,
    label: str,
    plan: Plan,
    config: EvalConfig,
    splits: tuple[Split, ...],
    tick: Callable[[int], Any],
) -> tuple[EvalRow, EvalDetail]:
    meta, started = features.meta, time.perf_counter()
    svm = _svm_config(config, meta)
    fits, predictions, confusions = [], [], []
    present = np.unique(features.labels[list({row for s in plan.splits for row in (*s.train, *s.test)})])
    for split in plan.splits:
        train, test = list(split.train), list(split.test)
        fit = fit_svm(features.features[train], features.labels[train], svm, tick=tick)
        predicted = np.searchsorted(present, fit.predict(features.features[test])).astype(np.int32)
        truth = np.searchsorted(present, features.labels[test]).astype(np.int32)
        fits.append(fit)
        predictions.append(tuple(predicted.tolist()))
        confusions.append(statistics.confusion_matrix(truth, predicted, len(present)))
    accuracy, mean_class = _intervals(confusions, plan.splits[0], config)
    row = EvalRow(
        label=label,
        model=str(meta.card.get("name", features.path.stem)),
        data=meta.data,
        file=features.path.name,
        tap=meta.tap,
        levels=tuple(name for name, _, _ in meta.levels),
        precision=meta.precision,
        backend=meta.backend,
        protocol=plan.protocol,
        why=plan.why,
        draws=len(plan.splits),
        n_classes=len(present),
        n_train=len(plan.splits[0].train),
        n_test=len(plan.splits[0].test),
        dim=features.features.shape[1],
        components=min((f.components for f in fits if f.components is not None), default=None),
        C=tuple(fit.C for fit in fits),
        cv_accuracy_draws=tuple(fit.cv_accuracy for fit in fits),
        interval="bootstrap" if len(fits) == 1 else "corrected-t",
        accuracy=accuracy.value,
        accuracy_ci95=(accuracy.low, accuracy.high),
        accuracy_draws=tuple(statistics.accuracy(c) for c in confusions),
        mean_class_accuracy=mean_class.value,
        mean_class_accuracy_ci95=(mean_class.low, mean_class.high),
        mean_class_accuracy_draws=tuple(statistics.mean_class_accuracy(c) for c in confusions),
        chance=1 / len(np.unique(features.labels[list(plan.splits[0].train)])),
        fits=sum(fit.fits for fit in fits),
        unconverged=sum(fit.unconverged for fit in fits),
        seconds=round(time.perf_counter() - started, 3),
        splits=tuple(splits.index(split) for split in plan.splits),
        notes=(*plan.notes, *_notes(fits, svm)),
    )
    names = tuple(meta.classes[k] for k in present)
    total = np.sum(confusions, axis=0)
    detail = EvalDetail(label, meta.data, names, tuple(map(tuple, total.tolist())), tuple(predictions))
    return row, detail


def _intervals(
    confusions: list[NDArray[np.int64]], split: Split, config: EvalConfig
) -> tuple[statistics.Interval, statistics.Interval]:
    """Accuracy and mean class accuracy: over test rows for one split, over draws for several."""
    if len(confusions) == 1:
        rng = np.random.default_rng(config.seed)
        return (
            statistics.bootstrap_accuracy(confusions[0], samples=config.bootstrap, rng=rng),
            statistics.bootstrap_mean_class_accuracy(confusions[0], samples=config.bootstrap, rng=rng),
        )
    sizes = {"train_rows": len(split.train), "test_rows": len(split.test)}
    return (
        statistics.corrected_t([statistics.accuracy(c) for c in confusions], **sizes),
        statistics.corrected_t([statistics.mean_class_accuracy(c) for c in confusions], **sizes),
    )


def _notes(fits: list[SvmFit], svm: SvmConfig) -> list[str]:
    """What a reader of the row must know about its fits."""
    notes = []
    edges = {svm.c_grid[0], svm.c_grid[-1]} if len(svm.c_grid) > 1 else set()
    at_edge = sum(fit.C in edges for fit in fits)
    if at_edge:
        notes.append(f"the best C is at the edge of the grid in {at_edge} of {len(fits)} draws")
    kept = [n for fit in fits for n in (fit.components, fit.fold_components) if n is not None]
    if svm.components is not None and min(kept) < svm.components:
        notes.append(f"PCA to {min(kept)} components, because a fold has no more rows or columns")
    return notes


def _svm_config(config: EvalConfig, meta: FeatureMeta) -> SvmConfig:
    components = PIXEL_COMPONENTS if meta.card.get("name") == "pixels" else None
    return SvmConfig(
        config.c_grid, config.folds, components, config.seed, config.jobs, tol=config.tol, max_iter=config.max_iter
    )


def _labels(files: list[tuple[Path, FeatureMeta]]) -> list[str]:
    """One name a file: the model's, with the file's where a data set has two files of the same model."""
    names = [str(meta.card.get("name", path.stem)) for path, meta in files]
    count = Counter((meta.data, name) for (_, meta), name in zip(files, names, strict=True))
    return [
        name if count[meta.data, name] == 1 else f"{name} ({path.stem})"
        for (path, meta), name in zip(files, names, strict=True)
    ]
