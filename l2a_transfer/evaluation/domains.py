"""Results over domains: what each place was trained and tested on, and how much accuracy the change of domain costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from l2a_transfer.evaluation.compare import Answers
from l2a_transfer.evaluation.paired import paired_test
from l2a_transfer.evaluation.probes.registry import SVM
from l2a_transfer.evaluation.statistics import CONFIDENCE, bonferroni


@dataclass(frozen=True)
class DomainPlace:
    """One place of the report: `data` is its name, `sources` and `target` are domains.

    `classes`: those that all these domains have. `left_out`: (domain, its other classes). `within`: the name of the
    place trained on the target itself, with the same classes and test images; empty if this is such a place. `drawn`:
    domains without their own train and test splits, whose parts were drawn. `validation`: how hyper-parameters were
    chosen.
    """

    data: str
    protocol: str
    sources: tuple[str, ...]
    target: str
    classes: tuple[str, ...]
    left_out: tuple[tuple[str, tuple[str, ...]], ...]
    within: str
    drawn: tuple[str, ...]
    validation: str

    @property
    def in_words(self) -> str:
        """Test and training domains and the protocol, as a phrase that follows "on" in a sentence."""
        target, one = f"the domain {self.target}", self.sources[0]
        if self.sources == (self.target,):
            classes = self.data.removeprefix(f"within {self.target}").removeprefix(", classes of ")
            shared = f", with the classes of {classes}" if classes else ""
            return f"{target}, fitted on training images of the same domain{shared} (within)"
        listed = one if len(self.sources) == 1 else f"{', '.join(self.sources[:-1])} and {self.sources[-1]}"
        return f"{target}, fitted on {listed} ({self.protocol})"


@dataclass(frozen=True)
class DomainDrop:
    """What the change of domain costs a model with a probe: mean class accuracy within the target minus that of `data`.

    Both were measured on the same test images, so `ci95` and `p` are paired (as for two models). `p_adjusted` is
    adjusted for all drops in the report, over all probes (Bonferroni).
    """

    data: str
    within: str
    label: str
    line: int
    file_sha256: str
    variant: str
    drop: float
    ci95: tuple[float, float]
    p: float
    p_adjusted: float
    probe: str = SVM


def domains_document(places: Sequence[DomainPlace], found: Sequence[DomainDrop]) -> dict[str, Any]:
    """The keys of a results document for domains; empty if there are no domains."""
    if not places:
        return {}
    return {
        "domains": [dataclasses.asdict(place) for place in places],
        "drops": [dataclasses.asdict(drop) for drop in found],
    }


def drops(
    places: Sequence[DomainPlace], answers: Sequence[Answers], lines: Sequence[int], *, seed: int
) -> tuple[DomainDrop, ...]:
    """The drop of each row that has a counterpart within its target.

    Parameters
    ----------
    places : sequence of DomainPlace
        All places.
    answers : sequence of Answers
        One for each row.
    lines : sequence of int
        The number of each row's model.
    seed : int
        Random seed of the permutations.

    Returns
    -------
    tuple of DomainDrop
        In the order of the rows.
    """
    by_key = {(own.source.data, own.source.sha256, own.variant, own.probe): own for own in answers}
    within = {place.data: place.within for place in places}
    pairs = [
        (own, line, by_key[within[own.source.data], own.source.sha256, own.variant, own.probe])
        for own, line in zip(answers, lines, strict=True)
        if within.get(own.source.data)
    ]
    found = []
    for own, line, beside in pairs:
        assert np.array_equal(own.truth[0], beside.truth[0])  # one target, one set of classes, one test part
        test = paired_test(own.truth[0], beside.right[0], own.right[0], rng=np.random.default_rng(seed))
        low, high = test.interval(CONFIDENCE)
        found.append(
            DomainDrop(
                data=own.source.data,
                within=beside.source.data,
                label=own.source.label,
                line=line,
                file_sha256=own.source.sha256,
                variant=own.variant,
                drop=test.difference,
                ci95=(max(low, -1.0), min(high, 1.0)),
                p=test.p,
                p_adjusted=bonferroni(test.p, len(pairs)),
                probe=own.probe,
            )
        )
    return tuple(found)
