"""A comparison as a sentence: which model is better, by how much, with what certainty, and what this holds for."""

from __future__ import annotations

from l2a_transfer.evaluation.groups import ELSEWHERE, IMPORTED, PIXELS, TRAINED, UNTRAINED, Group, Source

ALPHA = 0.05
DIGITS = 3
"""Most decimals of a percentage point."""
THINGS = {
    TRAINED: ("this weight file", "these two weight files"),
    UNTRAINED: ("this random initialization", "these two random initializations"),
    ELSEWHERE: ("these features", "these two sets of features"),
    IMPORTED: ("these imported features", "these two sets of imported features"),
    PIXELS: ("the pixels of these images", "the pixels of these images"),
}


def population_of_rows(a: Source, b: Source) -> str:
    """What a comparison of two rows holds for. Pixels are left out, because nothing varies in them."""
    if a.kind == b.kind:
        same = a.sha256 == b.sha256 or (a.recipe and (a.recipe, a.seed) == (b.recipe, b.seed))
        return THINGS[a.kind][0 if same else 1]
    kinds = sorted({a.kind, b.kind} - {PIXELS}, key=list(THINGS).index)
    return " and ".join(THINGS[kind][0] for kind in kinds)


def population_of_groups(a: Group, b: Group) -> str:  # type: ignore[type-arg]
    """What a comparison over seeds holds for."""
    n, m = len(a.by_seed), len(b.by_seed)
    if not b.is_sample:
        beside = "" if b.source.kind == PIXELS else f" and {THINGS[b.source.kind][0]}"
        return f"this architecture as {_made(a)} ({n} {_runs(a)}){beside}"
    if a.source.card["config"] == b.source.card["config"]:
        if a.source.kind == b.source.kind:
            return f"this architecture as {_made(a)} in two ways ({n} and {m} {_runs(a)})"
        return f"this architecture as {_made(a)} ({n} {_runs(a)}) and as {_made(b)} ({m} {_runs(b)})"
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
    """The verdict, with the better model first. `interval` and `p_adjusted` are adjusted for `comparisons`; they are
    None if undefined, for the reason `not_defined`."""
    holds = f"This holds for {population} only."
    if interval is None or p_adjusted is None:
        return f"{a} against {b} on {where} ({points(difference, 1)} points): no test, because {not_defined}. {holds}"
    better = significant(p_adjusted, difference)
    turned = better and difference < 0
    if turned:
        a, b, difference, interval = b, a, -difference, (-interval[1], -interval[0])
    shown = with_interval(difference, interval, apart=better, unit=" points")
    said = f"{a} is better than {b} on {where}" if better else f"{a} and {b} do not differ significantly on {where}"
    adjusted = f", adjusted for {comparisons} comparisons" if comparisons > 1 else ""
    return f"{said} ({shown}, p {p_text(p_adjusted)}{adjusted}). {holds}"


def with_interval(difference: float, interval: tuple[float, float], *, apart: bool, unit: str = "") -> str:
    """For example `+0.6 [-0.1, +1.3]` in points. `apart`: the interval excludes 0 and must not be rounded to touch it;
    it gets up to `DIGITS` decimals, and `> 0` or `< 0` for its bound if these are not enough."""
    near = min(interval, key=abs)
    digits = [n for n in range(1, DIGITS + 1) if not apart or float(points(near, n)) != 0]
    decimals = digits[0] if digits else DIGITS
    low, high = (
        points(end, decimals) if digits or end != near else "> 0" if difference > 0 else "< 0" for end in interval
    )
    return f"{points(difference, decimals)}{unit} [{low}, {high}]"


def points(value: float, digits: int) -> str:
    """Format a difference of fractions in percentage points, with its sign; 0 has none.

    Examples
    --------
    >>> points(0.0123, 1), points(-0.0001, 1)
    ('+1.2', '0.0')
    """
    text = f"{100 * value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def p_text(p: float) -> str:
    """Format a p value with `=` or `<`, and with enough digits to tell it from 0.05.

    Examples
    --------
    >>> p_text(0.012), p_text(0.0004), p_text(0.0496), p_text(0.2)
    ('= 0.012', '< 0.001', '= 0.0496', '= 0.20')
    """
    if p < 0.001:
        return "< 0.001"
    if 0.04995 <= p < 0.05:
        return "< 0.05"
    return f"= {p:.4f}" if 0.0495 <= p < 0.05 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"
