"""What the rules of a study's file say of an interval, of a comparison and of a hypothesis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from l2a_transfer.study.config import Comparison, Hypothesis

SUPPORTED, REFUTED, BOTH, UNDECIDED = "supported", "refuted", "both rules hold", "not decided"
INCOMPLETE = "incomplete"
Interval = tuple[float, float] | None


class Decided(Protocol):
    """A comparison with its two verdicts: by the planned interval, and by the interval over runs."""

    @property
    def name(self) -> str: ...
    @property
    def features(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def verdict_over_runs(self) -> str: ...
    @property
    def note(self) -> str: ...


@dataclass(frozen=True)
class Judged:
    """A hypothesis and the verdict of its comparisons.

    Attributes
    ----------
    name, says : str
        Its name, and what it claims.
    support, refute : tuple of str
        The comparisons that it rests on.
    verdict : str
        What follows from their planned intervals.
    verdict_over_runs : str
        What follows from their intervals over runs.
    note : str
        Where the two verdicts differ: what only the planned intervals say.
    """

    name: str
    says: str
    support: tuple[str, ...]
    refute: tuple[str, ...]
    verdict: str
    verdict_over_runs: str
    note: str


def verdict(comparison: Comparison, interval: Interval) -> str:
    """What the rules of a comparison say of an interval; empty without rules."""
    bounds = (comparison.support, comparison.refute)
    if bounds == (None, None):
        return ""
    supported, refuted = (bound is not None and interval is not None and bound.holds(interval) for bound in bounds)
    return _word(supported=supported, refuted=refuted)


def only_planned(comparison: Comparison, planned: Interval, runs: Interval) -> str:
    """The rules that the planned interval satisfies and the interval over runs does not, in words; empty if none."""
    bounds = [bound for bound in (comparison.support, comparison.refute) if bound is not None]
    held = [b for b in bounds if planned is not None and b.holds(planned) and (runs is None or not b.holds(runs))]
    if not held:
        return ""
    where = " and ".join(map(str, held))
    return f"the planned interval lies {where}; " + (
        "there is no interval over runs" if runs is None else "the interval over runs does not"
    )


def combined(verdicts: Iterable[str]) -> str:
    """The verdict of a comparison that was made with features as they are and with matched features.

    A rule must hold in both. "Both rules hold" agrees with "supported" and with "refuted".
    """
    found = set(verdicts)
    if INCOMPLETE in found or found == {""}:
        return INCOMPLETE if INCOMPLETE in found else ""
    return _word(supported=found <= {SUPPORTED, BOTH}, refuted=found <= {REFUTED, BOTH})


def judge(hypothesis: Hypothesis, compared: Sequence[Decided]) -> Judged:
    """The verdict on a hypothesis from its comparisons."""
    used = {*hypothesis.support, *hypothesis.refute}
    own = [one for one in compared if one.name in used]
    planned = _judged(hypothesis, {n: combined(one.verdict for one in own if one.name == n) for n in used})
    runs = _judged(hypothesis, {n: combined(one.verdict_over_runs for one in own if one.name == n) for n in used})
    notes = [f"{one.name}, features {one.features}: {one.note}" for one in own if one.note]
    note = ". ".join(notes) if runs != planned else ""
    return Judged(hypothesis.name, hypothesis.says, hypothesis.support, hypothesis.refute, planned, runs, note)


def _judged(hypothesis: Hypothesis, verdicts: dict[str, str]) -> str:
    """Every comparison of `support` must be supported, and one refuted comparison of `refute` is enough. The verdict is
    "incomplete" only if the comparisons that are not complete could still change it."""
    support = [verdicts[name] for name in hypothesis.support]
    refute = [verdicts[name] for name in hypothesis.refute]
    unsupported = any(word not in (SUPPORTED, BOTH, INCOMPLETE) for word in support)
    refuted = any(word in (REFUTED, BOTH) for word in refute)
    if (not unsupported and INCOMPLETE in support) or (not refuted and INCOMPLETE in refute):
        return INCOMPLETE
    return _word(supported=not unsupported, refuted=refuted)


def _word(*, supported: bool, refuted: bool) -> str:
    if supported and refuted:
        return BOTH
    return SUPPORTED if supported else REFUTED if refuted else UNDECIDED
