"""Mean and spread over the training seeds of an architecture: a row in the tables, below those of its weight files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l2a_transfer.evaluation.compare import Answers
from l2a_transfer.evaluation.groups import groups_of
from l2a_transfer.evaluation.probes.registry import SVM


@dataclass(frozen=True)
class SeedSummary:
    """One architecture, recipe and view on one data set with one probe, over at least two training seeds. Rows of one
    seed are averaged.

    `labels`: of its rows; `file_digests`: SHA-256 of their files. `recipe_sha256`: the digest of what its seeds share,
    the same on every data set. `seeds`: the training seeds; `values`: the mean class accuracy of each. Means and sample
    standard deviations (n − 1) are fractions.
    """

    name: str
    data: str
    protocol: str
    shots: int | None
    labels: tuple[str, ...]
    seeds: tuple[str, ...]
    values: tuple[float, ...]
    mean_class_accuracy_mean: float
    mean_class_accuracy_sd: float
    accuracy_mean: float
    accuracy_sd: float
    macro_f1_mean: float
    macro_f1_sd: float
    file_digests: tuple[str, ...]
    recipe_sha256: str
    probe: str = SVM


def summaries(answers: Sequence[Answers], measured: Sequence[tuple[float, float, float]]) -> tuple[SeedSummary, ...]:
    """One summary per architecture with several seeds at a place. `measured`: mean class accuracy, accuracy and
    macro-F1 of each of the answers."""
    values = {id(a): own for a, own in zip(answers, measured, strict=True)}
    sources = [a.source for a in answers]
    found = []
    for place in dict.fromkeys(a.place for a in answers):
        here = [a for a in answers if a.place == place and not a.variant]
        for group in groups_of(here, sources):
            runs = group.by_seed
            if len(runs) < 2:
                continue
            table = np.array([np.mean([values[id(row)] for row in own], axis=0) for own in runs.values()])  # (n, 3)
            means, sds = table.mean(axis=0).tolist(), table.std(axis=0, ddof=1).tolist()
            found.append(
                SeedSummary(
                    name=group.name,
                    data=place[0],
                    protocol=place[1],
                    shots=place[2],
                    labels=tuple(row.source.label for row in group.rows),
                    seeds=tuple(map(str, runs)),
                    values=tuple(table[:, 0].tolist()),
                    mean_class_accuracy_mean=means[0],
                    mean_class_accuracy_sd=sds[0],
                    accuracy_mean=means[1],
                    accuracy_sd=sds[1],
                    macro_f1_mean=means[2],
                    macro_f1_sd=sds[2],
                    file_digests=tuple(row.source.sha256 for row in group.rows),
                    recipe_sha256=group.recipe_sha256,
                    probe=place[3],
                )
            )
    return tuple(found)
