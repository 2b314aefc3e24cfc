"""Planned comparisons of a study: what each interval allows for, what a verdict needs, and what the report says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from l2a_transfer.evaluation.statistics import StudentT, contrast_over_seeds
from l2a_transfer.report.document import block_markdown, document_markdown
from l2a_transfer.study.answers import RunAnswers
from l2a_transfer.study.compared import Compared, Found, Place, compare_one
from l2a_transfer.study.config import Bound, Comparison, Hypothesis
from l2a_transfer.study.contrasts import Measured, over_targets
from l2a_transfer.study.effects import RandomEffects, over_runs, random_effects
from l2a_transfer.study.results import StudyResults
from l2a_transfer.study.sections import sections_of, summary
from l2a_transfer.study.verdicts import combined, judge
from l2a_transfer.study.weights import PIXELS, Run

IMAGES = 200
TARGETS = ("t0", "t1", "t2", "t3", "t4")


def answers(share: float, *, shift: int = 0) -> RunAnswers:
    """A run that is right on a `share` of 200 images of two classes; `shift` moves which images these are."""
    truth = np.arange(IMAGES, dtype=np.int32) % 2
    right = np.roll(np.arange(IMAGES) < round(share * IMAGES), shift)
    row = {"data": "toy", "draws": 1, "n_train": 10, "n_test": IMAGES, "shots": None, "variant": ""}
    return RunAnswers(row, None, ("split",), (truth,), (right,), 0.0)


def found(shares: dict[str, dict[str, Sequence[float]]], planned: int = 3) -> Found:
    """Model → target → the accuracy of each seed; each model was planned with `planned` seeds."""
    by_place: dict[str, dict[Place, dict[int | None, RunAnswers]]] = {
        model: {
            (target, "official", None, None, "svm"): {
                seed: answers(share, shift=20 * seed) for seed, share in enumerate(own)
            }
            for target, own in targets.items()
        }
        for model, targets in shares.items()
    }
    runs = tuple(Run(model, seed, None, "w") for model in shares for seed in range(planned))
    return Found(by_place, runs, dict.fromkeys(shares), {"official": "svm"})


def comparison(targets: tuple[str, ...] = TARGETS, name: str = "A-B", refute: str = "below 0") -> Comparison:
    return Comparison(
        name=name,
        minuend=("a",),
        subtrahend=("b",),
        combine="mean",
        targets=targets,
        protocols=("official",) * len(targets),
        shots=None,
        metric="mean_class_accuracy",
        matched=False,
        family=name,
        summaries=(("all", targets),),
        support=Bound.parse("above 0"),
        refute=Bound.parse(refute),
    )


def compared(shares: dict[str, dict[str, Sequence[float]]], planned: int = 3) -> Compared:
    return compare_one(comparison(), found(shares, planned), (1, len(TARGETS)), None)


def everywhere(*shares: float) -> dict[str, Sequence[float]]:
    return dict.fromkeys(TARGETS, shares)


def report(*those: Compared) -> tuple[str, str]:
    """The report and the tables for a page, in Markdown."""
    hypothesis = Hypothesis("H1", "a is better", tuple({one.name: 0 for one in those}), ("A-B",))
    results = StudyResults("toy", (), those, (judge(hypothesis, those),), {}, {})
    return document_markdown("toy", sections_of(results)), "\n".join(map(block_markdown, summary(results)))


def repeats(correlation: float) -> tuple[int, int, int]:
    """Of 300 repeats without a true difference, how often each interval excludes 0: planned, over runs.

    Two networks of three seeds on seven targets. A seed shifts all targets by a part that they share and a part of its
    own, together with a standard deviation of 1 point. The errors of the test images are 0.3 to 2.2 points.
    """
    rng = np.random.default_rng(0)
    images = np.linspace(0.003, 0.022, 7)
    n = 300
    seeds = 0.01 * (
        correlation**0.5 * rng.normal(size=(n, 2, 3, 1)) + (1 - correlation) ** 0.5 * rng.normal(size=(n, 2, 3, 7))
    )
    seeds[:, 0] += (images * rng.normal(size=(n, 7)))[:, None]
    planned = runs = 0
    for a, b in seeds:
        tests = [contrast_over_seeds([(1, a[:, j]), (-1, b[:, j])], images=images[j], freedom=500) for j in range(7)]
        effects = random_effects([t.difference for t in tests if t], [t.error**2 for t in tests if t])
        own = over_runs([(1.0, a), (-1.0, b)], images.tolist(), effects)
        assert own is not None
        planned += effects.test.p < 0.05
        runs += own.p < 0.05
    return n, planned, runs


def test_seeds_that_shift_all_targets_make_the_planned_interval_too_narrow_and_that_over_runs_not() -> None:
    n, planned, runs = repeats(0.9)
    assert planned > 2 * 0.05 * n
    assert runs < 0.08 * n
    n, planned, runs = repeats(0.0)
    assert planned < 0.05 * n  # seeds that shift each target on its own are what it allows for
    assert runs < 0.08 * n


def test_the_interval_over_runs_by_hand() -> None:
    """Weights 1/4 and 3/4: runs of a 0.4·1/4 + 0.8·3/4 = 0.7 and 0.9, of b 0.5. s² of a is 0.02, over 2 seeds 0.01."""
    effects = RandomEffects(StudentT(0.3, 1.0, 1.0), 0.1, 1.0, 1.0, (0.25, 0.75))
    sides = [(1.0, np.array([[0.4, 0.8], [0.6, 1.0]])), (-1.0, np.array([[0.5, 0.5]]))]
    test = over_runs(sides, [0.2, 0.1], effects)
    assert test is not None
    assert test.difference == pytest.approx(0.8 - 0.5)
    images = 0.25**2 * (0.04 + 0.01) + 0.75**2 * (0.01 + 0.01)
    assert test.error == pytest.approx((0.01 + images) ** 0.5)
    assert test.freedom == pytest.approx((0.01 + images) ** 2 / (0.01**2 / 1 + images**2 / 1))


def test_a_summary_has_both_intervals_around_the_same_mean() -> None:
    made = compared({"a": everywhere(0.8, 0.85, 0.9), "b": everywhere(0.6, 0.65, 0.7)})
    (over,) = made.summaries
    assert over.estimate is not None
    assert over.over_runs is not None
    assert over.over_runs.difference == pytest.approx(over.estimate.difference)
    assert over.over_runs.ci95 != over.estimate.ci95
    assert (made.verdict, made.missing, over.planned, over.targets) == ("supported", (), TARGETS, TARGETS)


def test_runs_that_are_not_on_every_target_have_no_interval_over_runs() -> None:
    test = StudentT(0.1, 0.05, 4.0)
    own = [Measured(0.1, test, "", 0.03, {"a": dict.fromkeys(seeds, 0.6)}) for seeds in ((0, 1), (0, 2))]
    over = over_targets("all", {"a": 1.0}, {"x": own[0], "y": own[1]}, ["x", "y"], 1)
    assert over.estimate is not None
    assert over.over_runs is not None
    assert (over.over_runs.ci95, over.over_runs.difference) == (None, over.estimate.difference)
    assert over.over_runs.not_defined == "not every run of a was evaluated on every target"


SHIFTED = {"a": everywhere(0.72, 0.78, 0.90), "b": everywhere(0.66, 0.67, 0.68)}
"""One lucky seed of a on every target."""


def test_where_only_the_planned_interval_decides_verdict_table_and_report_say_so() -> None:
    made = compared(SHIFTED)
    assert (made.verdict, made.verdict_over_runs) == ("supported", "not decided")
    assert made.note == "the planned interval lies above 0; the interval over runs does not"
    hypothesis = judge(Hypothesis("H1", "", ("A-B",), ("A-B",)), [made])
    assert (hypothesis.verdict, hypothesis.verdict_over_runs) == ("supported", "not decided")
    assert hypothesis.note == f"A-B, features as they are: {made.note}"
    for text in report(made):
        assert text.count("supported (planned interval only)") == 2  # of the hypothesis and of the comparison
        assert made.note in text
        assert "interval over runs" in text
    sure = compared({"a": everywhere(0.8, 0.81, 0.82), "b": everywhere(0.6, 0.61, 0.62)})
    assert (sure.verdict, sure.verdict_over_runs, sure.note) == ("supported", "supported", "")
    assert "(planned interval only)" not in report(sure)[1]


def test_seeds_of_equal_accuracy_do_not_drop_a_target() -> None:
    """A is better on four targets and worse on t3, where its seeds are equally accurate."""
    shares = {"a": everywhere(0.80, 0.82, 0.84) | {"t3": (0.5, 0.5, 0.5)}, "b": everywhere(0.70, 0.72, 0.74)}
    made = compared(shares)
    assert made.summaries[0].targets == TARGETS
    t3 = made.targets[3].estimate
    assert t3.difference == pytest.approx(-0.22)
    assert t3.ci95 is not None
    assert made.verdict == "not decided"


def test_a_target_without_a_test_makes_the_comparison_incomplete() -> None:
    one = answers(0.7)
    there = found({"a": everywhere(0.80, 0.82, 0.84), "b": everywhere(0.70, 0.72, 0.74)})
    for model in "ab":
        there.answers[model]["t3", "official", None, None, "svm"] = {0: one, 1: one, 2: one}
    made = compare_one(comparison(), there, (1, 5), None)
    assert (made.verdict, made.verdict_over_runs, made.note) == ("incomplete", "incomplete", "")
    assert made.missing == ("t3: no test, because the two sides answer alike on every image",)
    for text in report(made):
        assert "| 4 of 5 |" in text
        assert f"incomplete because: {made.missing[0]}" in text
    alone = compare_one(comparison(("t3",)), there, (1, 1), None)
    assert (alone.verdict, alone.missing) == ("incomplete", made.missing)
    outside = comparison()
    outside = replace(outside, summaries=(("some", ("t0", "t1", "t2", "t4")),))
    assert compare_one(outside, there, (1, 5), None).verdict == "supported"  # t3 decides nothing there


def test_a_target_without_any_run_of_a_side_is_missing() -> None:
    shares = {"a": everywhere(0.80, 0.82, 0.84), "b": everywhere(0.70, 0.72, 0.74) | {"t3": ()}}
    made = compared(shares)
    assert made.verdict == "incomplete"
    assert made.missing == tuple(f"b/seed-{seed} on t3: not evaluated" for seed in range(3))
    # Seeds 3 and 4 of both on four targets and of a on t3, and all five of b on t3: 23 reasons, of which 3 are shown.
    assert "and 20 more reasons" in report(compared(shares, planned=5))[1]


def test_networks_with_one_run_are_marked_and_incomplete_comparisons_have_no_p() -> None:
    made = compared({"a": everywhere(0.80, 0.82, 0.84), "b": everywhere(0.70)})
    assert (made.verdict, made.one_run) == ("incomplete", ("b",))
    assert made.summaries[0].estimate is not None
    for text in report(made):
        assert "b: 1 run; the interval leaves out its spread over seeds" in text
        (line,) = [line for line in text.splitlines() if line.startswith("| A-B |")]
        cells = [cell.strip() for cell in line.split("|")]
        assert (cells[6], cells[9]) == ("3 + 1", "–")
    complete = compared({"a": everywhere(0.80, 0.82, 0.84), "b": everywhere(0.70)}, planned=1)
    assert complete.one_run == ("b",)  # also where one run is all that was planned
    there = found({"a": everywhere(0.80, 0.82, 0.84), "b": everywhere(0.70)})
    pixels = replace(there, planned=tuple(Run("b", None, None, PIXELS) if r.model == "b" else r for r in there.planned))
    assert compare_one(comparison(), pixels, (1, 5), None).one_run == ()  # nothing of pixels is random


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        (["supported", "both rules hold"], "supported"),
        (["refuted", "both rules hold"], "refuted"),
        (["both rules hold", "both rules hold"], "both rules hold"),
        (["supported", "refuted"], "not decided"),
        (["supported", "not decided"], "not decided"),
        (["supported", "incomplete"], "incomplete"),
        (["supported"], "supported"),
        ([""], ""),
    ],
)
def test_features_as_they_are_and_matched_must_agree_on_a_rule(verdicts: list[str], word: str) -> None:
    assert combined(verdicts) == word


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ({"x": "refuted", "y": "incomplete", "z": "incomplete"}, "refuted"),
        ({"x": "supported", "y": "incomplete", "z": "supported"}, "incomplete"),
        ({"x": "supported", "y": "not decided", "z": "incomplete"}, "not decided"),
        ({"x": "incomplete", "y": "not decided", "z": "supported"}, "incomplete"),  # x can still refute
        ({"x": "both rules hold", "y": "incomplete", "z": "supported"}, "incomplete"),
        ({"x": "both rules hold", "y": "supported", "z": "supported"}, "both rules hold"),
        ({"x": "supported", "y": "both rules hold", "z": "supported"}, "supported"),
    ],
)
def test_a_hypothesis_is_incomplete_only_if_what_is_missing_could_change_it(
    words: dict[str, str], verdict: str
) -> None:
    made = compared(SHIFTED)
    own = [replace(made, name=name, verdict=word, verdict_over_runs=word) for name, word in words.items()]
    assert judge(Hypothesis("H1", "", ("x", "y", "z"), ("x",)), own).verdict == verdict
