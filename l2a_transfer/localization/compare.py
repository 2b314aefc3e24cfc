"""Comparisons of maps on the same images by one measure: difference, interval, p and a verdict."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.evaluation import statistics
from l2a_transfer.evaluation.groups import Group, Source, groups_of
from l2a_transfer.evaluation.statistics import CONFIDENCE, StudentT
from l2a_transfer.evaluation.verdict import population_of_groups, population_of_rows, sentence
from l2a_transfer.localization.intervals import paired_error
from l2a_transfer.localization.results import MapComparison, Row

FAMILIES = {
    "seeds": "the same map of two architectures, over their training seeds",
    "models": "the same map of two networks",
    "controls": "a map against the centre, which ignores the image",
    "methods": "two maps of one network",
}
WORDS = {
    "jaccard": "foreground IoU",
    "pixel_accuracy": "pixel accuracy",
    "average_precision": "average precision of pixels",
    "pointing": "the pointing game",
    "pointing_near": "the pointing game with tolerance",
    "energy": "energy",
    "jaccard_otsu": "foreground IoU at Otsu's threshold",
    "pixel_accuracy_otsu": "pixel accuracy at Otsu's threshold",
    "jaccard_mass": "foreground IoU of the hottest mass",
    "pixel_accuracy_mass": "pixel accuracy of the hottest mass",
    "max_box_accuracy": "MaxBoxAccV2",
}
CENTRE = "centre"


@dataclass(frozen=True)
class Measured:
    """A row of the table with its measure for each image, (N,), and its origin."""

    row: Row
    source: Source
    values: NDArray[np.float64]

    @property
    def what(self) -> str:
        """The method and the map, such as `attention L3`."""
        return f"{self.row.method} {self.row.map}"


@dataclass(frozen=True)
class _Side:
    """One side of a comparison: its name, the values of its training seeds, and the mean for each image."""

    name: str
    seeds: tuple[float, ...]
    values: NDArray[np.float64]


def compare(
    rows: Sequence[Measured], labels: NDArray[np.int32], *, measure: str, data: str
) -> tuple[MapComparison, ...]:
    """Compute all planned comparisons of rows measured on the same images.

    Parameters
    ----------
    rows : sequence of Measured
        All rows, including controls.
    labels : ndarray of int32, shape (N,)
        Classes of the images; the difference is averaged over class means.
    measure : str
        Name of the measure in `values`.
    data : str
        Name of the data in verdicts.

    Returns
    -------
    tuple of MapComparison
        Families in the order of `FAMILIES`, each adjusted for its members.
    """
    found: list[tuple[MapComparison, StudentT | None]] = []
    for family, planned in (
        ("seeds", _seed_pairs(rows)),
        ("models", _pairs(rows, lambda a, b: a.what == b.what and a.row.model != b.row.model)),
        ("controls", _control_pairs(rows)),
        ("methods", _pairs(rows, lambda a, b: a.row.model == b.row.model)),
    ):
        for a, b in planned:
            found.append(_compared(family, a, b, labels, measure))
    size = Counter(own.family for own, _ in found)
    return tuple(_adjusted(own, test, size[own.family], data) for own, test in found)


Pair = tuple[Measured | Group[Measured], Measured | Group[Measured]]


def _pairs(rows: Sequence[Measured], wanted: Callable[[Measured, Measured], bool]) -> Iterator[Pair]:
    own = [row for row in rows if not row.row.control]
    yield from ((a, b) for a, b in itertools.combinations(own, 2) if wanted(a, b))


def _control_pairs(rows: Sequence[Measured]) -> Iterator[Pair]:
    for centre in (row for row in rows if row.row.control and row.row.method == CENTRE):
        yield from ((row, centre) for row in rows if not row.row.control)


def _seed_pairs(rows: Sequence[Measured]) -> Iterator[Pair]:
    """Pairs of groups with several training seeds: each against all others with the same map, and against the
    centre."""
    centre = [row for row in rows if row.row.control and row.row.method == CENTRE]
    for what in dict.fromkeys(row.what for row in rows if not row.row.control):
        own = [row for row in rows if row.what == what and not row.row.control]
        groups = groups_of([*own, *centre], [row.source for row in own])
        for a, b in itertools.combinations(groups, 2):
            if a.is_sample or b.is_sample:
                yield (a, b) if a.is_sample else (b, a)


def _side(own: Measured | Group[Measured], labels: NDArray[np.int32]) -> _Side:
    if isinstance(own, Measured):
        return _Side(own.row.label, (class_mean(own.values, labels),), own.values)
    runs = [np.mean([row.values for row in run], axis=0) for run in own.runs]
    name = f"{own.rows[0].what} of {own.name}" if own.is_sample else own.rows[0].row.label
    return _Side(name, tuple(class_mean(run, labels) for run in runs), np.mean(runs, axis=0))


def _compared(
    family: str,
    a: Measured | Group[Measured],
    b: Measured | Group[Measured],
    labels: NDArray[np.int32],
    measure: str,
) -> tuple[MapComparison, StudentT | None]:
    """The comparison before adjustment, and its test."""
    first, second = _side(a, labels), _side(b, labels)
    by_image = first.values - second.values
    difference = float(np.mean(first.seeds) - np.mean(second.seeds))
    error, freedom = paired_error(labels, by_image)
    test, n = None, (len(labels), len(labels))
    if isinstance(a, Group) and isinstance(b, Group):
        n = (len(first.seeds), len(second.seeds))
        test = statistics.over_seeds(first.seeds, second.seeds, images=error, freedom=freedom, fixed=not b.is_sample)
        why = "" if test else "the training seeds of one side do not differ, so there is no spread to test against"
        population = population_of_groups(a, b)
    else:
        assert isinstance(a, Measured)
        assert isinstance(b, Measured)
        test = StudentT(difference, error, freedom) if error > 0 else None
        equal = "the two are equal on every image" if not by_image.any() else "the images do not differ"
        why = "" if test else equal
        population = population_of_rows(a.source, b.source)
    comparison = MapComparison(
        family=family,
        comparisons=1,
        measure=measure,
        a=first.name,
        b=second.name,
        difference=difference,
        ci95=None,
        ci95_simultaneous=None,
        p=None,
        p_adjusted=None,
        n=n,
        population=population,
        not_defined=why,
        verdict="",
    )
    return comparison, test


def _adjusted(own: MapComparison, test: StudentT | None, size: int, data: str) -> MapComparison:
    """The comparison adjusted for its family, with its verdict."""
    ci95 = simultaneous = p_adjusted = None
    if test is not None:
        ci95 = _possible(test.interval(CONFIDENCE))
        simultaneous = _possible(test.interval(1 - (1 - CONFIDENCE) / size))
        p_adjusted = statistics.bonferroni(test.p, size)
    verdict = sentence(
        own.a,
        own.b,
        f"{data} by {WORDS[own.measure]}",
        difference=own.difference,
        interval=simultaneous,
        p_adjusted=p_adjusted,
        comparisons=size,
        population=own.population,
        not_defined=own.not_defined,
    )
    return dataclasses.replace(
        own,
        comparisons=size,
        ci95=ci95,
        ci95_simultaneous=simultaneous,
        p=None if test is None else test.p,
        p_adjusted=p_adjusted,
        verdict=verdict,
    )


def class_mean(values: NDArray[np.float64], labels: NDArray[np.int32]) -> float:
    """Mean over classes of the class means over images."""
    return float(np.mean([values[labels == label].mean() for label in np.unique(labels)]))


def _possible(interval: tuple[float, float]) -> tuple[float, float]:
    """Clip to [-1, 1], the range of a difference of fractions."""
    return max(interval[0], -1.0), min(interval[1], 1.0)
