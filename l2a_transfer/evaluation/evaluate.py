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
from l2a_transfer.evaluation.compare import Answers, Comparison, compare
from l2a_transfer.evaluation.fitting import DECADES, SOLVERS, SvmConfig, SvmFit, fit_svm
from l2a_transfer.evaluation.protocols import PROTOCOLS, SHOTS, Plan, Split, check_folds, plan_splits
from l2a_transfer.evaluation.rows import LazyRows
from l2a_transfer.evaluation.shared_fits import RESIDENT_BYTES
from l2a_transfer.evaluation.variants import ABLATIONS, Variant, variants_of
from l2a_transfer.features.store import FeatureMeta
from l2a_transfer.features.views import FeatureFile, open_features

log = logging.getLogger(__name__)
SCHEMA = "l2a-results/1"
FIXED_C = 1e-2
"""What C is where one image a class leaves nothing to choose it on."""
TOP = 5
PREDICT_ROWS = 8192


@dataclass(frozen=True)
class EvalConfig:
    """What is measured and how; everything that changes a number except the features.

    `c_grid`: candidates for C, put in rising order; one value is used as it is. `folds`: of the cross-validation that
    chooses among several. `draws`: splits to draw (None: the protocol's own number). `bootstrap`: resamples.
    `decades`: how often the grid may grow tenfold where the best C is at its edge. `shots`: images a class in the
    protocol low-shot. `ablate`: which variants of each model stand beside it. `tol`, `max_iter` None: the solver's
    own. `max_memory`: bytes that the batched solver may hold. `jobs`: liblinear's threads, which change no number.
    Raises: UnknownNameError, ValueError.
    """

    protocol: str = "auto"
    c_grid: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    folds: int = 5
    draws: int | None = None
    bootstrap: int = 10_000
    solver: str = "batched"
    seed: int = 0
    jobs: int = 1
    tol: float | None = None
    max_iter: int | None = None
    decades: int = DECADES
    shots: tuple[int, ...] = SHOTS
    ablate: tuple[str, ...] = ()
    device: str = "auto"
    max_memory: int | None = None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise unknown_name("protocol", self.protocol, PROTOCOLS)
        if self.solver not in SOLVERS:
            raise unknown_name("solver", self.solver, SOLVERS)
        for name in self.ablate:
            if name not in ABLATIONS:
                raise unknown_name("ablate", name, ABLATIONS)
        if not self.shots or min(self.shots) < 1:
            raise ValueError(f"shots must be numbers of images of at least 1, got {list(self.shots)}")
        grid = tuple(sorted(self.c_grid))
        # liblinear never comes back from C = 1e300, and nothing can interrupt it.
        if not grid or len(set(grid)) < len(grid) or not all(1e-10 <= C <= 1e10 for C in grid):
            raise ValueError(
                "c_grid must be different positive numbers between 1e-10 and 1e10, as 1e-4,1e-3,1e-2; "
                f"got {list(self.c_grid)}"
            )
        object.__setattr__(self, "c_grid", grid)
        least = {
            "folds": 2,
            "draws": 1,
            "bootstrap": 100,
            "seed": 0,
            "jobs": 1,
            "max_iter": 1,
            "decades": 0,
            "max_memory": 1,
        }
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {value}")
        if self.protocol == "official" and (self.draws or 1) > 1:
            raise ValueError(
                f"draws must be 1 with protocol official, which is one fixed split, got {self.draws}; "
                "stratified, caltech-30 and low-shot draw their splits"
            )


@dataclass(frozen=True)
class EvalRow:
    """One model on one data set. Accuracies and intervals are fractions between 0 and 1.

    `label` names the model, with the file's name where two files of a data set hold the same model. `C` and the
    `…_draws` have one value a draw. `interval` says what the intervals are over: `bootstrap` (test rows of the one
    split) or `corrected-t` (draws). `splits` points into `EvalResults.splits`. `chance` is the mean class accuracy
    of guessing among the trained classes. `variant` says how an ablation differs from the model as it is ("" is the
    model as it is), `shots` the training images a class in low-shot. `top5` is None where there are five classes or
    fewer. `c_grid_draws`: the candidates of each draw, those that were added included. `fits` counts SVMs,
    `unconverged` those that did not reach the solver's tolerance.
    """

    label: str
    variant: str
    model: str
    data: str
    file: str
    tap: str
    levels: tuple[str, ...]
    precision: str
    backend: str
    normalization: str
    solver: str
    protocol: str
    why: str
    shots: int | None
    draws: int
    n_classes: int
    n_train: int
    n_test: int
    dim: int
    components: int | None
    C: tuple[float, ...]
    c_grid_draws: tuple[tuple[float, ...], ...]
    cv_accuracy_draws: tuple[tuple[float, ...], ...]
    interval: str
    accuracy: float
    accuracy_ci95: tuple[float, float]
    accuracy_draws: tuple[float, ...]
    mean_class_accuracy: float
    mean_class_accuracy_ci95: tuple[float, float]
    mean_class_accuracy_draws: tuple[float, ...]
    macro_f1: float
    top5: float | None
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
    variant: str
    data: str
    shots: int | None
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    predictions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class EvalResults:
    """`rows` and `details` run in parallel; `splits` holds every split's indices, so that anybody can repeat it.
    `cards` holds the card of each feature file's model by the file's name: where its weights came from."""

    config: EvalConfig
    rows: tuple[EvalRow, ...]
    comparisons: tuple[Comparison, ...]
    details: tuple[EvalDetail, ...]
    cards: dict[str, dict[str, Any]]
    splits: tuple[Split, ...]
    versions: dict[str, str]

    def document(self) -> dict[str, Any]:
        """The JSON document of schema `l2a-results/1`."""
        return {
            "schema": SCHEMA,
            "config": dataclasses.asdict(self.config),
            "versions": self.versions,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "comparisons": [dataclasses.asdict(comparison) for comparison in self.comparisons],
            "details": [dataclasses.asdict(detail) for detail in self.details],
            "splits": [dataclasses.asdict(split) for split in self.splits],
            "cards": self.cards,
        }


def evaluate_files(paths: Sequence[str | Path], config: EvalConfig, *, progress: bool = False) -> EvalResults:
    """Measures every feature file: C chosen on training rows, the refitted SVM tested once.

    All files are read and checked, and all splits drawn, before the first SVM is fitted. Files of one data set must
    hold the same images and get the same splits. Raises: StoreError, EvaluationError.
    """
    planned = _plan_all([Path(path) for path in paths], config)
    labels = _labels([(path, meta) for path, meta, _, _ in planned])
    splits = tuple(dict.fromkeys(split for _, _, plan, _ in planned for split in plan.splits))
    place = {split: k for k, split in enumerate(splits)}
    rows, details, answers, cards = [], [], [], {}
    fits = sum(_svm_config(config, variant, split.shots).fits for _, _, plan, own in planned for variant in own
               for split in plan.splits)  # fmt: skip
    with tqdm(total=fits, desc="SVMs", unit="fit", file=sys.stderr, disable=not progress) as bar:
        for (path, meta, plan, variants), label in zip(planned, labels, strict=True):
            cards[path.name] = meta.card
            with open_features(path) as features:
                for variant in variants:
                    for shots, own in plan.groups():
                        bar.set_postfix_str(label)
                        one = _evaluate(features, label, plan, variant, shots, own, config, bar.update)
                        rows.append(dataclasses.replace(one[0], splits=tuple(place[split] for split in own)))
                        details.append(one[1])
                        answers.append(one[2])
    comparisons = compare(answers, samples=config.bootstrap, seed=config.seed)
    versions = {
        "l2a-transfer": __version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return EvalResults(config, tuple(rows), comparisons, tuple(details), cards, splits, versions)


def _plan_all(paths: list[Path], config: EvalConfig) -> list[tuple[Path, FeatureMeta, Plan, tuple[Variant, ...]]]:
    """Every file's plan and variants, after every check that needs no SVM."""
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
    plans: list[tuple[Path, FeatureMeta, Plan]] = []
    first: dict[str, tuple[Path, Plan]] = {}
    for path in paths:
        with open_features(path) as features:
            plan = plan_splits(features, config.protocol, draws=config.draws, seed=config.seed, shots=config.shots)
            if len(config.c_grid) > 1:
                for split in plan.splits:
                    if split.shots != 1:
                        check_folds(features, split, _folds(config, split.shots))
        other, theirs = first.setdefault(features.meta.data, (path, plan))
        if [s.sha256 for s in theirs.splits] != [s.sha256 for s in plan.splits]:
            raise EvaluationError(
                f"{path}: holds other images or labels of {features.meta.data} than {other}, so that their rows "
                "cannot stand beside each other; extract both with the same --split and --limit, or evaluate them apart"
            )
        plans.append((path, features.meta, plan))
    for data, (_, plan) in first.items():
        log.info("%s: protocol %s (%s)%s", data, plan.protocol, plan.why, "".join(f"; {n}" for n in plan.notes))
    narrowest: dict[str, int] = {}
    for _, meta, _ in plans:
        if meta.card.get("name") != "pixels":
            narrowest[meta.data] = min(meta.levels[-1][2], narrowest.get(meta.data, sys.maxsize))
    return [
        (path, meta, plan, variants_of(meta, config.ablate, narrowest=narrowest.get(meta.data, 0)))
        for path, meta, plan in plans
    ]


def _evaluate(
    features: FeatureFile,
    label: str,
    plan: Plan,
    variant: Variant,
    shots: int | None,
    own: tuple[Split, ...],
    config: EvalConfig,
    tick: Callable[[float], Any],
) -> tuple[EvalRow, EvalDetail, Answers]:
    """One row of the table: one file, variant and k, over all draws."""
    meta, started = features.meta, time.perf_counter()
    svm = _svm_config(config, variant, shots)
    fits, predictions, confusions, top5, truths, rights = [], [], [], [], [], []
    present = np.unique(features.labels[np.unique(np.concatenate([np.array(s.train + s.test) for s in own]))])
    for split in own:
        train, test = np.array(split.train), np.array(split.test)
        fit = fit_svm(_training_rows(features, train, variant, config), features.labels[train], svm, tick=tick)
        scores = _test_scores(features, test, variant, fit)  # (n, K)
        predicted = np.searchsorted(present, fit.classes[scores.argmax(axis=1)]).astype(np.int32)
        truth = np.searchsorted(present, features.labels[test]).astype(np.int32)
        hits = statistics.top_k(scores, np.searchsorted(fit.classes, features.labels[test]).astype(np.int32), TOP)
        by_id = np.array(sorted(range(len(test)), key=lambda k: features.ids[test[k]]))
        fits.append(fit)
        predictions.append(tuple(predicted.tolist()))
        confusions.append(statistics.confusion_matrix(truth, predicted, len(present)))
        top5.append(float(hits.mean()))
        truths.append(truth[by_id])
        rights.append((truth == predicted)[by_id])
    accuracy, mean_class = _intervals(confusions, own[0], config)
    row = EvalRow(
        label=label,
        variant=variant.name,
        model=str(meta.card.get("name", features.path.stem)),
        data=meta.data,
        file=features.path.name,
        tap=meta.tap,
        levels=variant.levels,
        precision=meta.precision,
        backend=meta.backend,
        normalization=svm.normalization,
        solver=svm.solver,
        protocol=plan.protocol,
        why=plan.why,
        shots=shots,
        draws=len(own),
        n_classes=len(present),
        n_train=len(own[0].train),
        n_test=len(own[0].test),
        dim=variant.stop - variant.start,
        components=min((f.components for f in fits if f.components is not None), default=None),
        C=tuple(fit.C for fit in fits),
        c_grid_draws=tuple(() if fit.grid is None else fit.grid.Cs for fit in fits),
        cv_accuracy_draws=tuple(fit.cv_accuracy for fit in fits),
        interval="bootstrap" if len(fits) == 1 else "corrected-t",
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
        notes=(*plan.notes, *_notes(fits, svm, shots)),
    )
    names = tuple(meta.classes[k] for k in present)
    total = np.sum(confusions, axis=0)
    detail = EvalDetail(
        label, variant.name, meta.data, shots, names, tuple(map(tuple, total.tolist())), tuple(predictions)
    )
    answers = Answers(
        label=label,
        data=meta.data,
        protocol=plan.protocol,
        shots=shots,
        variant=variant.name,
        card=meta.card,
        digests=tuple(split.sha256 for split in own),
        truth=tuple(truths),
        right=tuple(rights),
        mean_class_accuracy=mean_class.value,
        shared=own[0].shared,
    )
    return row, detail, answers


def _training_rows(
    features: FeatureFile, train: NDArray[np.intp], variant: Variant, config: EvalConfig
) -> NDArray[Any] | LazyRows:
    """In memory, or where `max_memory` is too small for that, from the file."""
    columns = slice(variant.start, variant.stop)
    lazy = LazyRows(features.features, rows=train, columns=columns)
    simple = variant.components is None and variant.normalization != "l2" and variant.dtype is None
    too_large = RESIDENT_BYTES * lazy.shape[0] * lazy.shape[1] > (config.max_memory or sys.maxsize)
    if config.solver == "batched" and simple and too_large:
        return lazy
    return variant.values(features.features[train])


def _test_scores(features: FeatureFile, test: NDArray[np.intp], variant: Variant, fit: SvmFit) -> NDArray[np.float64]:
    """Scores (n, K) of the test rows, in the order of `test`, read in blocks."""
    parts = [
        fit.scores(variant.values(features.features[test[k : k + PREDICT_ROWS]]))
        for k in range(0, len(test), PREDICT_ROWS)
    ]
    return np.concatenate(parts)


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
    return (
        statistics.corrected_t([statistics.accuracy(c) for c in confusions], shared=split.shared),
        statistics.corrected_t([statistics.mean_class_accuracy(c) for c in confusions], shared=split.shared),
    )


def _notes(fits: list[SvmFit], svm: SvmConfig, shots: int | None) -> list[str]:
    """What a reader of the row must know about its fits."""
    notes = []
    if shots == 1:
        notes.append(f"C = {svm.c_grid[0]:g} is fixed, because one image a class leaves nothing to choose it on")
    grids = [fit.grid for fit in fits if fit.grid is not None]
    grown = sum(grid.added > 0 for grid in grids)
    if grown:
        notes.append(f"the grid of C grew in {grown} of {len(fits)} draws")
    at_edge = sum(grid.at_edge for grid in grids)
    if at_edge:
        notes.append(f"the best C is at the edge of the grid in {at_edge} of {len(fits)} draws")
    kept = [n for fit in fits for n in (fit.components, fit.fold_components) if n is not None]
    if svm.components is not None and min(kept) < svm.components:
        notes.append(f"PCA to {min(kept)} components, because a fold has no more rows or columns")
    return notes


def _folds(config: EvalConfig, shots: int | None) -> int:
    return config.folds if shots is None else min(config.folds, shots)


def _svm_config(config: EvalConfig, variant: Variant, shots: int | None) -> SvmConfig:
    grid = config.c_grid
    if shots == 1 and len(grid) > 1:
        grid = (FIXED_C,)
    return SvmConfig(
        grid,
        _folds(config, shots),
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


def _labels(files: list[tuple[Path, FeatureMeta]]) -> list[str]:
    """One name a file: the model's, with the file's where a data set has two files of the same model."""
    names = [str(meta.card.get("name", path.stem)) for path, meta in files]
    count = Counter((meta.data, name) for (_, meta), name in zip(files, names, strict=True))
    return [
        name if count[meta.data, name] == 1 else f"{name} ({path.stem})"
        for (path, meta), name in zip(files, names, strict=True)
    ]
