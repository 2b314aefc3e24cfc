"""Comparisons: hand-made answers, images matched by id, like with like, and one quantity in all that is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2a_transfer.errors import ArgumentError, EvaluationError, UnknownNameError
from l2a_transfer.evaluation.asked_comparisons import check_wanted, left_out
from l2a_transfer.evaluation.compare import Answers, Comparison, compare
from l2a_transfer.evaluation.comparison_families import Wanted
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.groups import Source
from l2a_transfer.evaluation.results import EvalConfig
from l2a_transfer.evaluation.seeds import summaries
from l2a_transfer.evaluation.verdict import p_text, points, sentence, with_interval
from tests.feature_files import blobs, feature_set, labels_of, save

TRUTH = np.array([0] * 10 + [1] * 10, dtype=np.int32)


def answers(label: str, *right: list[int], card: dict[str, Any] | None = None, **given: Any) -> Answers:
    """Answers of a model that gets the listed test images right, draw by draw."""
    truth = given.get("truth", TRUTH)
    marks = []
    for rows in right:
        mark = np.zeros(len(truth), dtype=bool)
        mark[rows] = True
        marks.append(mark)
    view = {key: given[key] for key in ("tap", "levels", "precision", "backend") if key in given}
    classes = np.unique(truth)
    return Answers(
        source=Source(label, given.get("data", "toy"), card or {"name": label}, f"{label} {view}", **view),
        protocol="official",
        shots=None,
        variant=given.get("variant", ""),
        digests=tuple(given.get("digests", [f"d{k}" for k in range(len(right))])),
        truth=tuple(truth for _ in right),
        right=tuple(marks),
        mean_class_accuracy=float(np.mean([[mark[truth == k].mean() for k in classes] for mark in marks])),
        shared=given.get("shared", 0.0),
        different=np.bincount(truth),
    )


def card(architecture: str, seed: int, **training: Any) -> dict[str, Any]:
    return {
        "name": f"{architecture}.{seed}",
        "config": {"architecture": architecture, "width": 0.25},
        "training": {"seed": seed, "data": "cifar10", "recipe": {"name": "fast"}, **training},
    }


def seeds(architecture: str, sizes: list[int], **given: Any) -> list[Answers]:
    """Training seeds 0, 1, …, of which the first `size` test images are right."""
    return [
        answers(f"{architecture}.{k}", [*range(n)], card=card(architecture, k), **given) for k, n in enumerate(sizes)
    ]


def untrained(architecture: str, *right: int) -> Answers:
    own = card(architecture, 0) | {"name": f"untrained:{architecture}", "training": {"untrained": True, "seed": 0}}
    return answers(own["name"], [*right], card=own)


PIXELS = answers("pixels", [0, 1, 2, 10])


def pairs(found: tuple[Comparison, ...]) -> list[tuple[str, str, str]]:
    return [(c.family, c.a, c.b) for c in found]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({}, "vgg-att1-pc@0.25"),
        ({"normalizer": "softmax", "selection": "soft"}, "vgg-att1-pc@0.25"),
        ({"normalizer": "tvmax:0.1"}, "vgg-att1-pc-tvmax-0.1@0.25"),
        ({"normalizer": "softmax", "selection": "top:4"}, "vgg-att1-pc-top-4@0.25"),
    ],
)
def test_an_architecture_is_named_with_its_attention(config: dict[str, str], name: str) -> None:
    own = card("vgg-att1-pc", 0)
    assert Source("", "", {**own, "config": {**own["config"], **config}}, "").architecture == name


def test_one_split_by_hand() -> None:
    """a alone gets 8 images right, b alone 1: the sign test's 2 · (C(9,0) + C(9,1)) / 2⁹ = 20/512, difference 7/20."""
    a, b = answers("a", [*range(12)]), answers("b", [*range(4), 19])
    (found,) = compare([a, b], seed=0)
    assert (found.only_a, found.only_b, found.test, found.family) == (8, 1, "permutation", "models")
    assert (found.p, found.p_adjusted, found.p_mcnemar) == (pytest.approx(20 / 512),) * 3
    assert found.difference == pytest.approx(7 / 20)
    assert found.effect == pytest.approx(8 / 9 - 0.5)
    assert found.ci95 == found.ci95_simultaneous
    assert found.ci95 is not None
    assert 0 < found.ci95[0] < 7 / 20 < found.ci95[1]
    assert found.verdict.startswith("a is better than b on toy (+35.0 points [+")
    assert found.verdict.endswith("p = 0.039). This holds for these two sets of features only.")


def test_a_verdict_gives_the_better_models_advantage() -> None:
    (found,) = compare([answers("b", [*range(4), 19]), answers("a", [*range(12)])], seed=0)
    assert found.difference == pytest.approx(-7 / 20)
    assert found.ci95 is not None
    low, high = (100 * x for x in found.ci95)
    assert f"a is better than b on toy (+35.0 points [{-high:+.1f}, {-low:+.1f}]" in found.verdict


def test_a_verdict_never_names_the_worse_model() -> None:
    """900 rows of one class and 20 of another: a is ahead in accuracy by 5.7 points (McNemar's p 3e-10), b in mean
    class accuracy by 16.7 points. All that is said is of the mean class accuracy."""
    truth = np.repeat([0, 1], [900, 20]).astype(np.int32)
    a = answers("a", [*range(880), *range(900, 910)], truth=truth)
    b = answers("b", [*range(820), *range(902, 920)], truth=truth)
    (found,) = compare([a, b], seed=0)
    assert found.difference == pytest.approx(-1 / 6)
    assert found.p == pytest.approx(0.038581, abs=1e-6)
    assert found.p_mcnemar is not None
    assert found.p_mcnemar < 1e-9
    assert found.effect is not None
    assert found.effect < 0
    assert found.verdict.startswith("b is better than a on toy (+16.7 points [")


def test_what_is_not_significant_is_not_called_a_difference() -> None:
    (found,) = compare([answers("a", [0, 1, 2]), answers("b", [1, 2, 3])], seed=0)
    assert found.p == 1.0
    assert found.verdict.startswith("a and b do not differ significantly on toy (0.0 points [-")


def test_equal_answers_on_a_few_images_do_not_make_models_equal() -> None:
    (found,) = compare([answers("a", [0, 1]), answers("b", [0, 1])], seed=0)
    assert (found.p, found.effect, found.difference) == (1.0, None, 0.0)
    assert found.ci95 is not None
    assert found.ci95[0] < -0.05
    assert found.ci95[1] > 0.05


def test_several_draws_use_the_corrected_t_of_the_differences() -> None:
    """Differences 0.1, 0.2, 0.3: mean 0.2, s = 0.1; with ρ = 1/2 the error is sqrt((1/3 + 1) · 0.01) = 0.11547."""
    a = answers("a", [*range(4)], [*range(6)], [*range(8)], shared=0.5)
    b = answers("b", [0, 1], [0, 1], [0, 1], shared=0.5)
    (found,) = compare([a, b], seed=0)
    assert found.test == "corrected-t"
    assert found.difference == pytest.approx(0.2)
    assert found.ci95 == pytest.approx((0.2 - 4.302652729911275 * 0.11547005, 0.2 + 4.302652729911275 * 0.11547005))
    assert found.effect == pytest.approx(2.0)
    assert found.p == pytest.approx(0.2254033, rel=1e-5)  # two-sided t(2) at 0.2 / 0.11547


def test_draws_that_all_differ_alike_have_no_p_and_say_why() -> None:
    a, b = answers("a", [0, 1], [2, 3], [4, 5]), answers("b", [0], [2], [4])
    (found,) = compare([a, b], seed=0)
    assert (found.p, found.p_adjusted, found.ci95, found.ci95_simultaneous, found.effect) == (None,) * 5
    assert found.not_defined.startswith("the difference is the same in all 3 draws")
    assert found.verdict.startswith(
        "a against b on toy (+5.0 points): no test, because the difference is the same in all"
    )


def test_the_interval_is_adjusted_for_the_comparisons_that_p_is_adjusted_for() -> None:
    """Alone, 20/512 = 0.039 and an interval without 0; as one of three, 0.117 and an interval with it."""
    a, b, c = answers("a", [*range(12)]), answers("b", [*range(4), 19]), answers("c", [*range(12)])
    found = {(x.a, x.b): x for x in compare([a, b, c], seed=0)}
    assert set(found) == {("a", "b"), ("a", "c"), ("b", "c")}
    one = found["a", "b"]
    assert (one.p, one.p_adjusted, one.comparisons) == (pytest.approx(20 / 512), pytest.approx(60 / 512), 3)
    assert one.ci95 is not None
    assert one.ci95_simultaneous is not None
    assert one.ci95[0] > 0 >= one.ci95_simultaneous[0]
    low, high = (points(end, 1) for end in one.ci95_simultaneous)
    assert f"(+35.0 points [{low}, {high}], p = 0.12, adjusted for 3 comparisons)" in one.verdict
    assert found["a", "c"].p_adjusted == 1.0


@pytest.mark.parametrize("reports", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_interval_p_and_sentence_agree_in_random_reports(reports: int) -> None:
    rng = np.random.default_rng(0)
    significant = 0
    for _ in range(reports):
        truth = np.sort(rng.choice(3, size=int(rng.integers(6, 60)), p=[0.7, 0.2, 0.1])).astype(np.int32)
        rates = rng.uniform(0, 1, (3, 3))
        rows = [
            answers(f"m{k}", [*np.flatnonzero(rng.random(len(truth)) < own[truth])], truth=truth)
            for k, own in enumerate(rates)
        ]
        for found in compare(rows, seed=0):
            assert found.ci95_simultaneous is not None
            assert found.p_adjusted is not None
            low, high = found.ci95_simultaneous
            apart = low > 0 or high < 0
            assert apart == (found.p_adjusted < 0.05)
            assert apart == ("is better than" in found.verdict)
            if apart:
                better = found.a if found.difference > 0 else found.b
                assert found.verdict.startswith(f"{better} is better than ")
            significant += apart
    assert significant > reports // 10


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0500001, "= 0.050"),
        (0.05, "= 0.050"),
        (0.04999, "< 0.05"),
        (0.04995, "< 0.05"),
        (0.04994, "= 0.0499"),
        (0.0494, "= 0.049"),
        (0.0009, "< 0.001"),
    ],
)
def test_a_printed_p_stands_on_the_side_of_5_percent_where_it_is(p: float, text: str) -> None:
    """0.04999 is significant, and was printed as 0.0500."""
    assert p_text(p) == text


@pytest.mark.parametrize(
    ("difference", "interval", "text"),
    [
        (0.02, (0.01, 0.03), "+2.0 [+1.0, +3.0]"),
        (0.02, (0.0003, 0.04), "+2.00 [+0.03, +4.00]"),
        (0.02, (0.00004, 0.04), "+2.000 [+0.004, +4.000]"),
        (0.02, (1e-308, 0.04), "+2.000 [> 0, +4.000]"),
        (-0.02, (-0.04, -1e-7), "-2.000 [-4.000, < 0]"),
    ],
)
def test_an_interval_that_excludes_0_is_not_printed_with_it(
    difference: float, interval: tuple[float, float], text: str
) -> None:
    assert with_interval(difference, interval, apart=True) == text
    low, high = sorted((abs(interval[0]), abs(interval[1])))
    said = sentence(
        "a",
        "b",
        "toy",
        difference=difference,
        interval=interval,
        p_adjusted=0.04999,
        comparisons=1,
        population="these files",
        not_defined="",
    )
    better = with_interval(abs(difference), (low, high), apart=True, unit=" points")
    assert f"is better than {'b' if difference > 0 else 'a'} on toy ({better}, p < 0.05)." in said
    assert "0.00," not in said


def test_an_interval_with_0_keeps_one_decimal() -> None:
    assert with_interval(0.02, (-0.00001, 0.04), apart=False) == "+2.0 [0.0, +4.0]"


def test_answers_on_other_images_are_no_pairs() -> None:
    with pytest.raises(EvaluationError, match="not tested on the same images of toy"):
        compare([answers("a", [0]), answers("b", [0], digests=["other"])], seed=0)


def test_architectures_stand_first_and_seeds_are_not_compared_with_each_other() -> None:
    """3 + 3 seeds made 16 comparisons, which took the one between the architectures from p = 0.0033 to 0.036."""
    pc, uniform = seeds("pc", [15, 16, 17]), seeds("uniform", [10, 11, 14])
    found = compare([PIXELS, *pc, *uniform, untrained("pc", 0, 1, 10)], seed=0)
    assert pairs(found) == [
        ("architectures", "pc@0.25", "uniform@0.25"),
        ("controls", "pc@0.25", "pixels"),
        ("controls", "pc@0.25", "untrained:pc"),
        ("controls", "uniform@0.25", "pixels"),
        ("controls", "uniform@0.25", "untrained:pc"),
    ]
    first = found[0]
    assert (first.n, first.comparisons, first.test, first.p) == ((3, 3), 1, "seeds", first.p_adjusted)
    assert first.verdict.endswith(
        "This holds for these two architectures as trained here (3 and 3 training seeds) only."
    )
    assert found[1].verdict.endswith("This holds for this architecture as trained here (3 training seeds) only.")
    assert found[2].verdict.endswith(
        "for this architecture as trained here (3 training seeds) and this random initialization only."
    )


def test_taps_precisions_and_repeats_of_a_seed_are_not_further_seeds() -> None:
    """Three seeds and two taps were "6 training seeds"; a repeat of seed 0 is averaged with it."""
    pc = [row for tap in ("ga", "ga-bn-relu") for row in seeds("pc", [14, 15, 17], tap=tap)]
    again = answers("again", [*range(16)], card=card("pc", 0), tap="ga")
    uniform = [row for tap in ("ga", "ga-bn-relu") for row in seeds("uniform", [10, 11, 14], tap=tap)]
    found = compare([*pc, again, *uniform], seed=0)
    assert pairs(found)[:2] == [
        ("architectures", "pc@0.25 (tap ga)", "uniform@0.25 (tap ga)"),
        ("architectures", "pc@0.25 (tap ga-bn-relu)", "uniform@0.25 (tap ga-bn-relu)"),
    ]
    assert [c.n for c in found[:2]] == [(3, 3), (3, 3)]
    assert found[0].difference == pytest.approx((15 + 15 + 17) / 60 - 35 / 60)
    assert {c.family for c in found[2:]} == {"variants"}
    assert all(c.population == "this weight file" for c in found[2:])


def test_two_seeds_a_side_are_compared_seed_by_seed_and_say_nothing_of_an_architecture() -> None:
    found = compare([*seeds("pc", [15, 16]), *seeds("uniform", [10, 11, 12])], seed=0)
    assert pairs(found) == [("models", "pc.0", "uniform.0"), ("models", "pc.1", "uniform.1")]
    assert {c.population for c in found} == {"these two weight files"}


@pytest.mark.parametrize(
    "other",
    [
        [answers(f"u{k}", [k], card=card("uniform", 0)) for k in range(3)],  # three files of one seed
        [answers(f"u{k}", [k], card=card("uniform", k, recipe={"lr": k})) for k in range(3)],  # three recipes
        [answers(f"u{k}", [k], card=card("uniform", k, n=k)) for k in range(3)],  # three sizes of training set
        [answers(f"u{k}", [k], card=card("uniform", k, init_from={"sha256": str(k)})) for k in range(3)],
    ],
)
def test_what_differs_in_more_than_its_seed_says_nothing_of_an_architecture(other: list[Answers]) -> None:
    found = compare([*seeds("pc", [15, 16, 17]), *other], seed=0)
    assert found
    assert all(c.test == "permutation" for c in found)


@pytest.mark.parametrize(
    ("rows", "holds"),
    [
        ([*seeds("a", [12]), *seeds("b", [10])], "these two weight files"),
        ([*seeds("a", [12]), PIXELS], "this weight file"),
        ([*seeds("a", [12]), untrained("a", 0, 1)], "this weight file and this random initialization"),
        ([*seeds("a", [12]), answers("clip", [0, 1])], "this weight file and these features"),
        ([answers("dino", [0, 3]), answers("clip", [0, 1])], "these two sets of features"),
        ([answers("clip", [0, 1]), PIXELS], "these features"),
        ([untrained("a", 0, 1), PIXELS], "this random initialization"),
        ([untrained("a", 0, 1), untrained("b", 0, 1)], "these two random initializations"),
    ],
)
def test_a_verdict_names_what_its_rows_are(rows: list[Answers], holds: str) -> None:
    (found,) = compare(rows, seed=0)
    assert found.verdict.endswith(f" This holds for {holds} only.")
    assert "seeds" not in found.verdict


def test_seeds_over_draws_and_an_interval_that_ends_at_100_points() -> None:
    def drawn(architecture: str, sizes: list[int], step: int) -> list[Answers]:
        return [
            answers(
                f"{architecture}.{k}", *([*range(n - step * draw)] for draw in range(3)), card=card(architecture, k)
            )
            for k, n in enumerate(sizes)
        ]

    pixels = answers("pixels", [0], [1], [2])
    found = compare([*drawn("pc", [15, 16, 18], 1), *drawn("uniform", [9, 10, 12], 0), pixels], seed=0)
    assert [(c.family, c.test, c.n) for c in found] == [
        ("architectures", "seeds", (3, 3)),
        ("controls", "seeds", (3, 1)),
        ("controls", "seeds", (3, 1)),
    ]
    assert found[0].difference == pytest.approx((49 - 3) / 60 - 31 / 60)
    assert found[1].ci95_simultaneous is not None
    assert found[1].ci95_simultaneous[1] == 1.0
    assert "+100.0], p " in found[1].verdict
    assert found[2].p is None  # uniform minus pixels is the same in all three draws
    assert found[2].not_defined == "the difference is the same in all 3 draws"


def test_pairs_or_a_reference_are_compared_alone() -> None:
    rows = [*seeds("pc", [15]), *seeds("uniform", [10]), untrained("pc", 0), PIXELS]
    assert pairs(compare(rows, seed=0, wanted=Wanted(pairs=(("uniform.0", "pc.0"), ("pc.0", "uniform.0"))))) == [
        ("asked", "uniform.0", "pc.0")
    ]
    assert pairs(compare(rows, seed=0, wanted=Wanted(reference="pc.0"))) == [
        ("asked", "uniform.0", "pc.0"),
        ("asked", "untrained:pc", "pc.0"),
        ("asked", "pixels", "pc.0"),
    ]


def test_architectures_can_be_named_too() -> None:
    rows = [*seeds("pc", [15, 16, 17]), *seeds("uniform", [10, 11, 14]), *seeds("vgg", [10, 11, 12]), PIXELS]
    asked = Wanted(pairs=(("uniform@0.25", "pc@0.25"), ("vgg@0.25", "pixels")))
    found = compare(rows, seed=0, wanted=asked)
    assert pairs(found) == [("asked", "uniform@0.25", "pc@0.25"), ("asked", "vgg@0.25", "pixels")]
    assert [c.test for c in found] == ["seeds", "seeds"]
    assert pairs(compare(rows, seed=0, wanted=Wanted(reference="pc@0.25"))) == [
        ("asked", "uniform@0.25", "pc@0.25"),
        ("asked", "vgg@0.25", "pc@0.25"),
        ("asked", "pc@0.25", "pixels"),
    ]
    with pytest.raises(
        EvaluationError, match=r"pc@0\.25 is an architecture over its training seeds and uniform\.0 is one"
    ):
        check_wanted(Wanted(pairs=(("pc@0.25", "uniform.0"),)), [row.source for row in rows])


def test_one_architecture_trained_and_as_initialized_is_not_called_two() -> None:
    def initialized(k: int, size: int) -> Answers:
        own = card("pc", k) | {"name": f"untrained:pc.{k}", "training": {"untrained": True, "seed": k}}
        return answers(own["name"], [*range(size)], card=own)

    random = [initialized(k, size) for k, size in enumerate((2, 4, 5))]
    slow = [
        answers(f"slow.{k}", [*range(n)], card=card("pc", k, recipe={"name": "slow"})) for k, n in enumerate((9, 8, 6))
    ]
    for rows, holds in (
        (
            [*seeds("pc", [14, 15, 17]), *random],
            "this architecture as trained here (3 training seeds) and as initialized here (3 random initializations)",
        ),
        (
            [*seeds("vgg", [14, 15, 17]), *random],
            "these architectures as trained here and initialized here (3 training seeds, 3 random initializations)",
        ),
        ([*seeds("pc", [14, 15, 17]), *slow], "this architecture as trained here in two ways (3 and 3 training seeds)"),
    ):
        (found,) = compare(rows, seed=0)
        assert found.verdict.endswith(f" This holds for {holds} only.")


@pytest.mark.parametrize(("shots", "text"), [(1, "1 training image a class"), (2, "2 training images a class")])
def test_a_verdict_counts_the_training_images_of_a_class(shots: int, text: str) -> None:
    rows = [dataclasses.replace(answers(name, [*range(n)]), shots=shots) for name, n in (("a", 12), ("b", 3))]
    (found,) = compare(rows, seed=0)
    assert f" on toy with {text} (" in found.verdict


CLIP = answers("clip", [*range(13)])


@pytest.mark.parametrize("reference", ["pixels", "clip", "untrained:pc"])
def test_a_reference_without_seeds_stands_beside_all_seeds_of_an_architecture(reference: str) -> None:
    """Seed 0 alone was compared. `vgg` has too few seeds, so that all its files are."""
    rows = [*seeds("uniform", [15, 16, 17]), *seeds("vgg", [10, 12]), PIXELS, CLIP, untrained("pc", 0, 1)]
    others = [name for name in ("pixels", "clip", "untrained:pc") if name != reference]
    found = compare(rows, seed=0, wanted=Wanted(reference=reference))
    assert [(c.a, c.b, c.test) for c in found] == [
        ("uniform@0.25", reference, "seeds"),
        ("vgg.0", reference, "permutation"),
        ("vgg.1", reference, "permutation"),
        *((name, reference, "permutation") for name in others),
    ]
    assert left_out(Wanted(reference=reference), [row.source for row in rows]) == []


def test_what_a_reference_leaves_out_is_said_with_the_reason() -> None:
    """`clip` was left out beside an architecture, and so was `uniform`, and nobody was told."""
    rows = [*seeds("pc", [15, 16, 17]), *seeds("uniform", [10, 11]), CLIP, PIXELS, answers("a", [0], data="other")]
    sources = [row.source for row in rows]
    architecture, file = Wanted(reference="pc@0.25"), Wanted(reference="uniform.1")
    assert pairs(compare(rows, seed=0, wanted=architecture)) == [
        ("asked", "pc@0.25", "clip"),
        ("asked", "pc@0.25", "pixels"),
    ]
    assert left_out(architecture, sources) == [
        "toy: uniform.0, uniform.1: not compared with pc@0.25, because the reference is an architecture over its "
        "seeds, and this one has fewer than 3",
        "other: a: not compared with pc@0.25, because it has no features here",
    ]
    assert pairs(compare(rows, seed=0, wanted=file)) == [
        ("asked", "pc.1", "uniform.1"),
        ("asked", "clip", "uniform.1"),
        ("asked", "pixels", "uniform.1"),
    ]
    assert left_out(file, sources) == [
        "toy: pc.0, pc.2: not compared with uniform.1, because the reference has seed 1, as other files of their "
        "architectures have",
        "toy: uniform.0: not compared with uniform.1, because seeds and views of one architecture are not compared "
        "with each other",
        "other: a: not compared with uniform.1, because it has no features here",
    ]
    assert left_out(Wanted(), sources) == []


def test_files_of_other_seeds_than_the_references_are_all_compared() -> None:
    rows = [answers("late", [0, 1], card=card("vgg", 7)), *seeds("pc", [15, 16, 17])]
    assert pairs(compare(rows, seed=0, wanted=Wanted(reference="late"))) == [
        ("asked", f"pc.{k}", "late") for k in range(3)
    ]


@pytest.mark.parametrize("first", [False, True])
def test_features_made_elsewhere_are_one_comparison_with_an_architecture(first: bool) -> None:
    """Six comparisons, one a seed and tap, which all others were adjusted for."""
    pc = [row for tap in ("ga", "ga-bn-relu") for row in seeds("pc", [14, 15, 17], tap=tap)]
    found = [c for c in compare([CLIP, *pc] if first else [*pc, CLIP], seed=0) if c.family != "variants"]
    assert [(c.family, c.a, c.b, c.n, c.comparisons) for c in found] == [
        ("models", f"pc@0.25 (tap {tap})", "clip", (3, 1), 2) for tap in ("ga", "ga-bn-relu")
    ]
    assert found[0].difference == pytest.approx(46 / 60 - 13 / 20)
    assert found[0].population == "this architecture as trained here (3 training seeds) and these features"
    asked = Wanted(pairs=(("clip", "pc@0.25 (tap ga)"),))
    assert pairs(compare([*pc, CLIP], seed=0, wanted=asked)) == [("asked", "pc@0.25 (tap ga)", "clip")]


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        (
            Wanted(pairs=(("a", "pixel"),)),
            UnknownNameError,
            "compare must be one of a, b, pixels; got 'pixel'; did you",
        ),
        (Wanted(reference="c"), UnknownNameError, "reference must be one of"),
        (Wanted(pairs=(("a", "a"),)), ValueError, "two different models, got 'a' twice"),
        (Wanted(pairs=(("a", "b"),)), ValueError, "no data set has features of both 'a' and 'b'"),
        (Wanted(pairs=(("a", "pixels"),), reference="a"), ValueError, "cannot be used together"),
    ],
)
def test_names_that_cannot_be_compared_are_refused(wanted: Wanted, error: type[Exception], words: str) -> None:
    rows = [answers("a", [0]), answers("b", [0], data="other"), PIXELS]
    with pytest.raises(error, match=words):
        check_wanted(wanted, [row.source for row in rows])


def test_mean_and_spread_over_seeds_by_hand() -> None:
    """0.5, 0.55 and 0.7: mean 0.58333, s² = (0.0833² + 0.0333² + 0.1167²)/2."""
    rows = [*seeds("pc", [10, 11, 14]), answers("again", [*range(10)], card=card("pc", 0)), PIXELS]
    (found,) = summaries(rows, [(row.mean_class_accuracy, 0.5, 0.25) for row in rows])
    assert (found.name, found.seeds, found.labels) == ("pc@0.25", ("0", "1", "2"), ("pc.0", "pc.1", "pc.2", "again"))
    assert found.values == pytest.approx((0.5, 0.55, 0.7))
    assert found.mean_class_accuracy_mean == pytest.approx(0.58333, abs=1e-5)
    assert found.mean_class_accuracy_sd == pytest.approx(0.10408, abs=1e-5)
    assert (found.accuracy_mean, found.accuracy_sd, found.macro_f1_mean) == (0.5, 0.0, 0.25)


def test_files_in_another_row_order_are_matched_by_id(tmp_path: Path) -> None:
    """The same features with their rows shuffled: every image is answered alike, so nothing differs."""
    labels = labels_of(3, 20)
    content = feature_set(labels, blobs(labels, spread=1.6), model="a")
    order = np.random.default_rng(0).permutation(60)
    shuffled = dataclasses.replace(
        content,
        meta=dataclasses.replace(content.meta, card={"name": "b"}),
        features=content.features[order],
        labels=labels[order],
        ids=tuple(content.ids[k] for k in order),
        split=content.split[order],
    )
    paths = [save(tmp_path / "a.h5", content), save(tmp_path / "b.h5", shuffled)]
    results = evaluate_files(paths, EvalConfig(c_grid=(0.1,)))
    (found,) = results.comparisons
    assert results.rows[0].accuracy < 1.0
    assert (found.only_a, found.only_b) == (0, 0)


def test_ablations_stand_beside_the_model_as_it_is(tmp_path: Path) -> None:
    labels = labels_of(3, 20)
    wide = feature_set(labels, blobs(labels, dim=8, spread=1.2), model="wide")
    wide = dataclasses.replace(wide, meta=dataclasses.replace(wide.meta, levels=(("L2", 0, 3), ("L3", 3, 8))))
    narrow = feature_set(labels, blobs(labels, dim=4, spread=1.2), model="narrow")
    paths = [save(tmp_path / "w.h5", wide), save(tmp_path / "n.h5", narrow)]
    results = evaluate_files(paths, EvalConfig(ablate=("levels", "normalization", "precision", "width")))
    found = [(r.label, r.variant, r.dim, r.normalization, r.components, r.levels) for r in results.rows]
    assert found[:7] == [
        ("wide", "", 8, "standardize", None, ("L2", "L3")),
        ("wide", "L2 alone", 3, "standardize", None, ("L2",)),
        ("wide", "L3 alone", 5, "standardize", None, ("L3",)),
        ("wide", "rows to length 1", 8, "l2", None, ("L2", "L3")),
        ("wide", "not normalised", 8, "none", None, ("L2", "L3")),
        ("wide", "float16", 8, "standardize", None, ("L2", "L3")),
        ("wide", "PCA to 4", 8, "standardize", 4, ("L2", "L3")),
    ]
    assert [variant for label, variant, *_ in found if label == "narrow"] == [
        "",
        "rows to length 1",
        "not normalised",
        "float16",
    ]
    alone = dataclasses.replace(
        wide, features=wide.features[:, 3:], meta=dataclasses.replace(wide.meta, levels=(("L3", 0, 5),))
    )
    (row,) = evaluate_files([save(tmp_path / "l3.h5", alone)], EvalConfig()).rows
    assert row.accuracy == results.rows[2].accuracy
    assert row.cv_accuracy_draws == results.rows[2].cv_accuracy_draws
    found_pairs = {(c.a, c.b) for c in results.comparisons}
    assert ("wide", "narrow") in found_pairs
    assert ("wide, PCA to 4", "wide") in found_pairs
    assert len(found_pairs) == 1 + 6 + 3
    assert {c.comparisons for c in results.comparisons if c.family == "variants"} == {9}


def test_a_width_of_the_user_s_choice_is_a_pca_where_the_model_is_wider(tmp_path: Path) -> None:
    labels = labels_of(3, 20)
    path = save(tmp_path / "w.h5", feature_set(labels, blobs(labels, dim=8, spread=1.2)))
    rows = evaluate_files([path], EvalConfig(widths=(2, 5, 8), ablate=("width",))).rows
    assert [(row.variant, row.components) for row in rows] == [("", None), ("PCA to 5", 5), ("PCA to 2", 2)]
    with pytest.raises(ArgumentError, match=r"widths must be numbers of columns of at least 1, got \[0\]"):
        EvalConfig(widths=(0,))


def test_float16_that_overflows_is_refused_with_the_way_out(tmp_path: Path) -> None:
    labels = labels_of(2, 10)
    large = feature_set(labels, blobs(labels) * 1e6)
    with pytest.raises(EvaluationError, match="overflow float16; remove precision from `ablate`"):
        evaluate_files([save(tmp_path / "a.h5", large)], EvalConfig(ablate=("precision",)))
