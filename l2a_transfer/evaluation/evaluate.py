"""Feature files in, measured rows out: one row per model and data set, on the same splits for each data set."""

from __future__ import annotations

import dataclasses
import logging
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from tqdm import tqdm

from l2a_transfer.errors import ArgumentError, EvaluationError, unknown_name, wrong_kind
from l2a_transfer.evaluation.asked_comparisons import check_wanted, left_out, pairs_of
from l2a_transfer.evaluation.compare import compare
from l2a_transfer.evaluation.domain_plans import Job, plan_domains
from l2a_transfer.evaluation.domain_rows import files_of
from l2a_transfer.evaluation.domains import DomainPlace, drops
from l2a_transfer.evaluation.given_files import check_contents, check_given
from l2a_transfer.evaluation.measure_row import few_test_images, folds_of, logme_of, measure_row, source_of, svm_config
from l2a_transfer.evaluation.naming import name_files
from l2a_transfer.evaluation.probes.registry import PROBES, SVM, chooses
from l2a_transfer.evaluation.protocols import Plan, over_domains, plan_splits
from l2a_transfer.evaluation.results import EvalConfig, EvalResults
from l2a_transfer.evaluation.seeds import summaries
from l2a_transfer.evaluation.splits import Split, check_folds
from l2a_transfer.evaluation.variants import variants_of
from l2a_transfer.features.extraction.result import ExtractResult
from l2a_transfer.features.store.schema import weights_sha256
from l2a_transfer.features.store.views import VerifiedFile, open_features
from l2a_transfer.text import terminal
from l2a_transfer.version import __version__

log = logging.getLogger(__name__)
EXPECTED = "the path of a feature file, the result of extract(), or a list of these"


def evaluate(
    files: str | Path | ExtractResult | Sequence[str | Path | ExtractResult],
    config: EvalConfig | None = None,
    *,
    progress: bool = False,
    **settings: Any,
) -> EvalResults:
    """Measure how well frozen features generalize, with a linear SVM on each feature file, and compare the models.

    C is chosen on the training rows, and the refitted SVM is tested once. All files are verified and all splits drawn
    before the first SVM is fitted. Files of the same data set must contain the same images, and share their splits.

    Parameters
    ----------
    files : path, ExtractResult, or a sequence of these
        Feature files, or the results of `extract`.
    config : EvalConfig, optional
        The settings. Without it, all settings have their defaults.
    progress : bool, default=False
        Show a progress bar on stderr.
    **settings
        Fields of EvalConfig that override those of `config`, such as `protocol="official"` or `folds=3`.

    Returns
    -------
    EvalResults
        Rows, comparisons and splits. `to_pandas()` returns the rows as a DataFrame; `write_report` writes a report.

    Raises
    ------
    StoreError
        For a file that is damaged or not a feature file.
    EvaluationError
        If the protocol cannot be applied to the features or labels.
    ArgumentError
        For a setting out of range; UnknownNameError for an unknown name.

    Examples
    --------
    >>> import l2a_transfer
    >>> source = l2a_transfer.open_source("digits", limit=200)
    >>> features = l2a_transfer.extract(source, "untrained:vgg-gap@0.0625", "features.h5", progress=False)
    >>> results = l2a_transfer.evaluate(features, c_grid=[1e-3], draws=2)
    >>> row = results.rows[0]
    >>> row.data, row.model, row.dim, row.n_classes, row.mean_class_accuracy > row.chance
    ('digits', 'untrained:vgg-gap@0.0625', 32, 10, True)
    """
    if isinstance(files, EvalConfig):
        raise ArgumentError(
            "files is an EvalConfig: files and config are swapped", "the order is evaluate(files, config)"
        )
    if not isinstance(files, (str, Path, ExtractResult, Iterable)):
        raise wrong_kind("files", EXPECTED, files)
    given = [files] if isinstance(files, (str, Path, ExtractResult)) else list(files)
    for file in given:
        if not isinstance(file, (str, Path, ExtractResult)):
            raise wrong_kind("files", EXPECTED, file)
    known = {field.name for field in dataclasses.fields(EvalConfig)}
    for name in settings:
        if name not in known:
            raise unknown_name("setting", name, [*sorted(known), "config", "progress"])
    if settings:
        config = dataclasses.replace(config or EvalConfig(), **settings)
    paths = [file.path if isinstance(file, ExtractResult) else file for file in given]
    return evaluate_files(paths, config, progress=progress)


def evaluate_files(
    paths: Sequence[str | Path], config: EvalConfig | None = None, *, progress: bool = False
) -> EvalResults:
    """Measure every feature file: C is chosen on training rows, and the refitted SVM is tested once.

    All files are read and checked, and all splits drawn, before the first SVM is fitted. Files of one data set must
    contain the same images; they get the same splits. Raises: StoreError, EvaluationError; TypeError for a single path
    instead of a list, or a config of another type; UnknownNameError and ArgumentError for comparisons that cannot be
    made.
    """
    if isinstance(paths, (str, Path)):
        raise wrong_kind("paths", "a list of feature files, such as ['features.h5']", paths)
    config = EvalConfig() if config is None else config
    if not isinstance(config, EvalConfig):
        raise wrong_kind("config", "an EvalConfig, such as EvalConfig(folds=3)", config)
    planned, places = (plan_domains if over_domains(config.protocol) else _plan_all)(
        [Path(path) for path in paths], config
    )
    sources = [source_of(job.table, job.named.label, job.variants[0].levels) for job in planned]
    config = dataclasses.replace(config, compare=pairs_of(config.compare, sources))
    check_wanted(config.wanted, sources)
    for note in left_out(config.wanted, sources):
        log.info("%s", note)
    splits = tuple(dict.fromkeys(split for job in planned for split in job.plan.splits))
    place = {split: k for k, split in enumerate(splits)}
    rows, details, answers, cards = [], [], [], {}
    images: dict[Split, tuple[tuple[str, str], ...]] = {}
    fits = sum(
        PROBES[probe].fits(svm_config(config, variant, split.shots))
        for job in planned
        for variant in job.variants
        for split in job.plan.splits
        for probe in config.probes
    )
    done = 0.0
    with tqdm(
        total=fits,
        desc="SVMs" if config.probes == (SVM,) else "probes",
        unit="fit",
        file=sys.stderr,
        disable=not progress,
    ) as bar:

        def tick(n: float) -> None:
            nonlocal done
            done += n  # fractions of a fit if its classes are solved in batches
            bar.total = max(bar.total, round(done))  # extending the grid adds fits
            bar.update(round(done) - bar.n)

        for job in planned:
            table = job.table
            weights = weights_sha256(table.meta)
            cards[table.sha256] = table.meta.card | ({"weights_sha256": weights} if weights else {}) | files_of(table)
            with table.open() as features:
                for variant in job.variants:
                    for shots, own in job.plan.groups():
                        bar.set_postfix_str(terminal(job.named.label))
                        score = logme_of(features, variant, own) if config.logme else None
                        numbers = tuple(place[split] for split in own)
                        for probe in config.probes:
                            one = measure_row(
                                features, job.named, job.plan, variant, shots, own, config, tick, probe=probe
                            )
                            rows.append(dataclasses.replace(one[0], splits=numbers, logme=score))
                            details.append(one[1])
                            answers.append(one[2])
                for split in job.plan.splits:
                    images[split] = tuple(
                        (features.ids[row], features.meta.classes[features.labels[row]]) for row in split.test
                    )
    for job in planned:
        job.table.check_unchanged()
    called = {one.data: one.in_words for one in places}
    comparisons = compare(answers, seed=config.seed, wanted=config.wanted, called=called)
    seeds = summaries(answers, [(row.mean_class_accuracy, row.accuracy, row.macro_f1) for row in rows])
    versions = {
        "l2a-transfer": __version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    lost = drops(places, answers, [row.line for row in rows], seed=config.seed)
    test_ids, test_classes = (tuple(tuple(part[k] for part in images[split]) for split in splits) for k in range(2))
    return EvalResults(
        config,
        tuple(rows),
        comparisons,
        seeds,
        tuple(details),
        cards,
        splits,
        versions,
        domains=places,
        drops=lost,
        test_ids=test_ids,
        test_classes=test_classes,
    )


def _plan_all(paths: list[Path], config: EvalConfig) -> tuple[list[Job], tuple[DomainPlace, ...]]:
    """Every file with its plan and variants, after all checks that need no SVM; there are no domains."""
    check_given(paths)
    plans: list[tuple[VerifiedFile, Plan]] = []
    contents: dict[str, Path] = {}
    first: dict[str, tuple[Path, Plan]] = {}
    for path in paths:
        with open_features(path) as features:
            check_contents(path, features.verified, contents)
            plan = plan_splits(features, config.protocol, draws=config.draws, seed=config.seed, shots=config.shots)
            if chooses(config.probes, config.c_grid):
                for split in plan.splits:
                    if split.shots != 1:
                        check_folds(features, split, folds_of(config, split.shots))
            few = few_test_images(features.labels, plan.splits)
        other, theirs = first.setdefault(features.meta.data, (path, plan))
        if [s.sha256 for s in theirs.splits] != [s.sha256 for s in plan.splits]:
            raise EvaluationError(
                f"{path}: contains other images or labels of {features.meta.data} than {other}, so they "
                "cannot be compared",
                "extract both with the same `split` and `limit`, or evaluate them separately",
            )
        for note in few if path == other else ():
            log.warning("%s: %s", features.meta.data, note)
        plans.append((features.verified, plan))
    for data, (_, plan) in first.items():
        log.info("%s: protocol %s (%s)%s", data, plan.protocol, plan.why, "".join(f"; {n}" for n in plan.notes))
    narrowest: dict[str, int] = {}
    for meta in (file.meta for file, _ in plans):
        if meta.card.get("name") != "pixels":
            narrowest[meta.data] = min(meta.levels[-1][2], narrowest.get(meta.data, sys.maxsize))
    named = name_files([file for file, _ in plans])
    return [
        Job(
            file,
            plan,
            variants_of(file.meta, config.ablate, narrowest=narrowest.get(file.meta.data, 0), widths=config.widths),
            name,
        )
        for (file, plan), name in zip(plans, named, strict=True)
    ], ()
