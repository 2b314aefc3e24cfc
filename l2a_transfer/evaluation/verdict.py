"""A comparison as a sentence: which model is better by how much, how sure that is, and what it holds for."""

from __future__ import annotations

from l2a_transfer.evaluation.families import ELSEWHERE, PIXELS, TRAINED, UNTRAINED, Group, Source

ALPHA = 0.05
THINGS = {
    TRAINED: ("this weight file", "these two weight files"),
    UNTRAINED: ("this random initialization", "these two random initializations"),
    ELSEWHERE: ("these features", "these two sets of features"),
    PIXELS: ("the pixels of these images", "the pixels of these images"),
}


def population_of_rows(a: Source, b: Source) -> str:
    """What a comparison of two rows holds for: nothing varies in pixels, so that they limit nothing."""
    if a.kind == b.kind:
        same = a.label == b.label or (a.recipe and (a.recipe, a.seed) == (b.recipe, b.seed))
        return THINGS[a.kind][0 if same else 1]
    kinds = sorted({a.kind, b.kind} - {PIXELS}, key=list(THINGS).index)
    return " and ".join(THINGS[kind][0] for kind in kinds)


def population_of_groups(a: Group, b: Group) -> str:  # type: ignore[type-arg]
    """What a comparison over seeds holds for."""
    n, m = len(a.by_seed), len(b.by_seed)
    if not b.is_sample:
        beside = "" if b.source.kind == PIXELS else f" and {THINGS[b.source.kind][0]}"
        return f"this architecture as {_made(a)} ({n} {_runs(a)}){beside}"
    if a.source.kind == b.source.kind:
        return f"these two architectures as {_made(a)} ({n} and {m} {_runs(a)})"
    return f"these architectures as {_made(a)} and {_made(b)} ({n} {_runs(a)}, {m} {_runs(b)})"


def _made(group: Group) -> str:  # type: ignore[type-arg]
    return "trained here" if group.source.kind == TRAINED else "initialized here"


def _runs(group: Group) -> str:  # type: ignore[type-arg]
    return "training seeds" if group.source.kind == TRAINED else "random initializations"


def significant(p_adjusted: float | None, difference: float) -> bool:
    return p_adjusted is not None and p_adjusted < ALPHA and difference != 0


def sentence(
    a: str,
    b: str,
    where: str,
    *,
    difference: float,
    interval: tuple[float, float] | None,
    p_adjusted: float | None,
    comparisons: int,
    population: str,
    not_defined: str,
) -> str:
    """The verdict, from the better model's side where one is better. `interval`, `p_adjusted`: after adjustment for
    `comparisons`; None where they are not defined, for the reason `not_defined`."""
    holds = f"This holds for {population} only."
    if interval is None or p_adjusted is None:
        return f"{a} against {b} on {where} ({points(difference, 1)} points): no test, because {not_defined}. {holds}"
    better = significant(p_adjusted, difference)
    turned = better and difference < 0
    if turned:
        a, b, difference, interval = b, a, -difference, (-interval[1], -interval[0])
    # An interval that excludes 0 is not rounded to one that touches it.
    digits = 2 if better and min(abs(end) for end in interval) < 0.0005 else 1
    low, high = (points(end, digits) for end in interval)
    said = f"{a} is better than {b} on {where}" if better else f"{a} and {b} do not differ significantly on {where}"
    adjusted = f", adjusted for {comparisons} comparisons" if comparisons > 1 else ""
    return f"{said} ({points(difference, digits)} points [{low}, {high}], p {p_text(p_adjusted)}{adjusted}). {holds}"


def points(value: float, digits: int) -> str:
    """A difference of fractions in percentage points, with its sign; 0 has none."""
    text = f"{100 * value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def p_text(p: float) -> str:
    """`= 0.012` or `< 0.001`, with the digits that tell it from 0.05."""
    if p < 0.001:
        return "< 0.001"
    return f"= {p:.4f}" if 0.0495 <= p < 0.05 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"
