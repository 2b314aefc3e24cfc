"""Two models on the same test images: is one better, by how much, and about whom does that speak?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import EvaluationError
from l2a_transfer.evaluation import statistics
from l2a_transfer.wording import counted

FILES = "these two weight files"
ARCHITECTURE = "this architecture"
SEEDS = 3
"""Training seeds a side below which nothing is said of an architecture."""


@dataclass(frozen=True)
class Answers:
    """What one row of the table answered: of each draw, for its test images in the order of their ids, the true class
    index and whether the answer was right. `digests` are those of the splits; `shared` the draws' correlation."""

    label: str
    data: str
    protocol: str
    shots: int | None
    variant: str
    card: dict[str, Any]
    digests: tuple[str, ...]
    truth: tuple[NDArray[np.int32], ...]
    right: tuple[NDArray[np.bool_], ...]
    mean_class_accuracy: float
    shared: float


@dataclass(frozen=True)
class Comparison:
    """`a` against `b` on one data set. `difference` is mean class accuracy of a minus b, a fraction, with `ci95`.

    `only_a`, `only_b`: test images that one alone got right, over all draws. `test`: `mcnemar` (rows of one split),
    `corrected-t` (draws) or `welch` (training seeds); `p_holm` is adjusted over all comparisons of the report.
    `effect`: Cohen's g, the share of `only_a` among the images that they disagree on minus a half (mcnemar); the mean
    difference in units of its spread over draws, or over seeds (the others); None where there is nothing to divide.
    `population`: whom it speaks about. `n`: draws, or seeds a side.
    """

    data: str
    protocol: str
    shots: int | None
    a: str
    b: str
    population: str
    n: tuple[int, int]
    difference: float
    ci95: tuple[float, float]
    only_a: int
    only_b: int
    test: str
    p: float
    p_holm: float
    effect: float | None
    verdict: str


def compare(answers: Sequence[Answers], *, samples: int, seed: int) -> tuple[Comparison, ...]:
    """All pairs of models of each data set, protocol and k; each variant of a model against the model as it is; and all
    pairs of architectures with three training seeds or more. Raises: EvaluationError for rows that are not the same."""
    found: list[Comparison] = []
    places = dict.fromkeys((a.data, a.protocol, a.shots) for a in answers)
    for place in places:
        here = [a for a in answers if (a.data, a.protocol, a.shots) == place]
        plain = [a for a in here if not a.variant]
        found += [_of_files(a, b, samples=samples, seed=seed) for a, b in combinations(plain, 2)]
        for base in plain:
            variants = [a for a in here if a.variant and a.label == base.label]
            found += [_of_files(variant, base, samples=samples, seed=seed) for variant in variants]
        families: dict[str, list[Answers]] = {}
        for a in plain:
            families.setdefault(_family(a.card), []).append(a)
        large = {name: own for name, own in families.items() if name and len(_seeds(own)) >= SEEDS}
        found += [_of_architectures(*pair) for pair in combinations(large.values(), 2)]
    adjusted = statistics.holm([c.p for c in found])
    return tuple(
        dataclasses.replace(c, p_holm=p, verdict=_verdict(c, p, len(found)))
        for c, p in zip(found, adjusted, strict=True)
    )


def _of_files(a: Answers, b: Answers, *, samples: int, seed: int) -> Comparison:
    if a.digests != b.digests or any(not np.array_equal(x, y) for x, y in zip(a.truth, b.truth, strict=True)):
        raise EvaluationError(
            f"{_name(a)} and {_name(b)} were not tested on the same images of {a.data}, so that they are no pairs"
        )
    only_a = sum(int((x & ~y).sum()) for x, y in zip(a.right, b.right, strict=True))
    only_b = sum(int((y & ~x).sum()) for x, y in zip(a.right, b.right, strict=True))
    draws = len(a.right)
    if draws == 1:
        rng = np.random.default_rng(seed)
        interval = statistics.bootstrap_difference(a.truth[0], a.right[0], b.right[0], samples=samples, rng=rng)
        test, p = "mcnemar", statistics.mcnemar(only_a, only_b)
        effect = only_a / (only_a + only_b) - 0.5 if only_a + only_b else None
    else:
        values = [_mean_class(t, x) - _mean_class(t, y) for t, x, y in zip(a.truth, a.right, b.right, strict=True)]
        interval = statistics.corrected_t(values, shared=a.shared, low=-1.0)
        test, p = "corrected-t", statistics.corrected_t_p(values, shared=a.shared)
        spread = float(np.std(values, ddof=1))
        effect = interval.value / spread if spread else None
    return Comparison(
        data=a.data,
        protocol=a.protocol,
        shots=a.shots,
        a=_name(a),
        b=_name(b),
        population=FILES if a.label != b.label else "this weight file",
        n=(draws, draws),
        difference=interval.value,
        ci95=(interval.low, interval.high),
        only_a=only_a,
        only_b=only_b,
        test=test,
        p=p,
        p_holm=p,
        effect=effect,
        verdict="",
    )


def _of_architectures(a: list[Answers], b: list[Answers]) -> Comparison:
    values = [[own.mean_class_accuracy for own in side] for side in (a, b)]
    interval, p = statistics.welch(*values)
    spread = float(np.sqrt(np.mean([np.var(side, ddof=1) for side in values])))
    return Comparison(
        data=a[0].data,
        protocol=a[0].protocol,
        shots=a[0].shots,
        a=_architecture(a[0].card),
        b=_architecture(b[0].card),
        population=ARCHITECTURE,
        n=(len(a), len(b)),
        difference=interval.value,
        ci95=(interval.low, interval.high),
        only_a=0,
        only_b=0,
        test="welch",
        p=p,
        p_holm=p,
        effect=interval.value / spread if spread else None,
        verdict="",
    )


def _verdict(c: Comparison, p_holm: float, comparisons: int) -> str:
    where = c.data + (f" with {counted(c.shots, 'image')} a class" if c.shots else "")
    shown = p_holm < 0.05 and c.difference != 0
    turned = shown and c.difference < 0  # so that the better model's advantage is what is read
    better, worse = (c.b, c.a) if turned else (c.a, c.b)
    points = 100 * (-c.difference if turned else c.difference)
    low, high = sorted(100 * (-x if turned else x) for x in c.ci95)
    shown_points, shown_low, shown_high = (f"{round(x, 1) + 0.0:+.1f}" for x in (points, low, high))  # −0.0 + 0.0 = 0.0
    numbers = f"{shown_points} points [{shown_low}, {shown_high}], p = {p_holm:.2g} after Holm over {comparisons}"
    said = (
        f"{better} is better than {worse} on {where}"
        if shown
        else (f"No difference between {better} and {worse} is shown on {where}")
    )
    if c.population == ARCHITECTURE:
        about = f"this speaks of the architecture as it was trained here, from {c.n[0]} and {c.n[1]} training seeds"
    elif c.population == FILES:
        about = "this speaks of these two weight files; other training seeds of the same architectures may differ"
    else:
        about = "this speaks of this one weight file"
    return f"{said} ({numbers}); {about}."


def _mean_class(truth: NDArray[np.int32], right: NDArray[np.bool_]) -> float:
    return float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))


def _family(card: dict[str, Any]) -> str:
    """Everything of a card that is the same for training runs that differ in their seed alone; "" for no training."""
    training = card.get("training") or {}
    if "seed" not in training or not isinstance(card.get("config"), dict):
        return ""
    recipe = {key: training.get(key) for key in ("data", "recipe", "untrained")}
    return json.dumps([card["config"], card.get("preprocess"), recipe], sort_keys=True)


def _architecture(card: dict[str, Any]) -> str:
    untrained = "untrained " if card["training"].get("untrained") else ""
    return f"{untrained}{card['config'].get('architecture')}@{card['config'].get('width')}"


def _seeds(answers: list[Answers]) -> set[Any]:
    return {a.card["training"]["seed"] for a in answers}


def _name(a: Answers) -> str:
    return f"{a.label}, {a.variant}" if a.variant else a.label
