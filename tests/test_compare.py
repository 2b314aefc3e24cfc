"""Paired comparisons: hand-made answers, images matched by id, and nothing said of architectures from one seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind

from l2a_transfer.errors import EvaluationError
from l2a_transfer.evaluation.compare import ARCHITECTURE, FILES, Answers, compare
from l2a_transfer.evaluation.evaluate import EvalConfig, evaluate_files
from tests.feature_files import blobs, feature_set, labels_of, save

TRUTH = np.array([0] * 10 + [1] * 10, dtype=np.int32)


def answers(label: str, *right: list[int], card: dict[str, Any] | None = None, **given: Any) -> Answers:
    """Answers of a model that gets the listed test images right, draw by draw."""
    marks = []
    for rows in right:
        mark = np.zeros(20, dtype=bool)
        mark[rows] = True
        marks.append(mark)
    return Answers(
        label=label,
        data="toy",
        protocol="official",
        shots=None,
        variant=given.get("variant", ""),
        card=card or {"name": label},
        digests=tuple(given.get("digests", [f"d{k}" for k in range(len(right))])),
        truth=tuple(TRUTH for _ in right),
        right=tuple(marks),
        mean_class_accuracy=float(np.mean([mark.mean() for mark in marks])),
        shared=given.get("shared", 0.0),
    )


def test_one_split_by_hand() -> None:
    """a alone gets 8 images right, b alone 1: McNemar 2 · (C(9,0) + C(9,1)) / 2⁹ = 20/512, difference 7/20."""
    a, b = answers("a", [*range(12)]), answers("b", [*range(4), 19])
    (found,) = compare([a, b], samples=4000, seed=0)
    assert (found.only_a, found.only_b, found.test, found.population) == (8, 1, "mcnemar", FILES)
    assert found.p == found.p_holm == pytest.approx(20 / 512)
    assert found.difference == pytest.approx(7 / 20)
    assert found.effect == pytest.approx(8 / 9 - 0.5)
    assert found.ci95[0] < 7 / 20 < found.ci95[1]
    assert "a is better than b on toy (+35.0 points" in found.verdict
    assert "these two weight files; other training seeds" in found.verdict


def test_a_verdict_gives_the_better_models_advantage() -> None:
    (found,) = compare([answers("b", [*range(4), 19]), answers("a", [*range(12)])], samples=4000, seed=0)
    assert found.difference == pytest.approx(-7 / 20)
    low, high = (100 * x for x in found.ci95)
    assert f"a is better than b on toy (+35.0 points [{-high:+.1f}, {-low:+.1f}]" in found.verdict


def test_what_is_not_significant_is_not_called_a_difference() -> None:
    (found,) = compare([answers("a", [0, 1, 2]), answers("b", [1, 2, 3])], samples=200, seed=0)
    assert found.p == 1.0
    assert found.verdict.startswith("No difference between a and b is shown on toy (+0.0 points")


def test_equal_answers_have_no_effect_and_no_width() -> None:
    (found,) = compare([answers("a", [0, 1]), answers("b", [0, 1])], samples=200, seed=0)
    assert (found.p, found.effect, found.difference, found.ci95) == (1.0, None, 0.0, (0.0, 0.0))


def test_several_draws_use_the_corrected_t_of_the_differences() -> None:
    """Differences 0.1, 0.2, 0.3: mean 0.2, s = 0.1; with ρ = 1/2 the error is sqrt((1/3 + 1) · 0.01) = 0.11547."""
    a = answers("a", [*range(4)], [*range(6)], [*range(8)], shared=0.5)
    b = answers("b", [0, 1], [0, 1], [0, 1], shared=0.5)
    (found,) = compare([a, b], samples=100, seed=0)
    assert found.test == "corrected-t"
    assert found.difference == pytest.approx(0.2)
    assert found.ci95 == pytest.approx((0.2 - 4.302652729911275 * 0.11547005, 0.2 + 4.302652729911275 * 0.11547005))
    assert found.effect == pytest.approx(2.0)
    assert found.p == pytest.approx(0.2254033, rel=1e-5)  # two-sided t(2) at 0.2 / 0.11547


def test_holm_counts_all_pairs_of_the_report() -> None:
    a, b, c = answers("a", [*range(12)]), answers("b", [*range(4), 19]), answers("c", [*range(12)])
    found = {(x.a, x.b): x for x in compare([a, b, c], samples=100, seed=0)}
    assert set(found) == {("a", "b"), ("a", "c"), ("b", "c")}
    assert found["a", "b"].p_holm == pytest.approx(3 * 20 / 512)
    assert found["a", "c"].p_holm == 1.0


def test_answers_on_other_images_are_no_pairs() -> None:
    with pytest.raises(EvaluationError, match="not tested on the same images of toy"):
        compare([answers("a", [0]), answers("b", [0], digests=["other"])], samples=100, seed=0)


def card(architecture: str, seed: int, **training: Any) -> dict[str, Any]:
    return {
        "name": f"{architecture}.{seed}",
        "config": {"architecture": architecture, "width": 0.25},
        "training": {"seed": seed, "data": "cifar10", "recipe": {"name": "fast"}, **training},
    }


def seeds(architecture: str, sizes: list[int], **training: Any) -> list[Answers]:
    return [
        answers(f"{architecture}.{k}", [*range(n)], card=card(architecture, k, **training)) for k, n in enumerate(sizes)
    ]


def test_three_seeds_a_side_speak_of_the_architecture() -> None:
    pc, uniform = seeds("pc", [15, 16, 17]), seeds("uniform", [10, 11, 14])
    found = [c for c in compare([*pc, *uniform], samples=100, seed=0) if c.population == ARCHITECTURE]
    assert len(found) == 1
    values = [[a.mean_class_accuracy for a in side] for side in (pc, uniform)]
    expected = ttest_ind(*values, equal_var=False)
    assert found[0].p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert found[0].ci95 == pytest.approx((low, high))
    assert (found[0].n, found[0].a, found[0].b) == ((3, 3), "pc@0.25", "uniform@0.25")
    assert "from 3 and 3 training seeds" in found[0].verdict


@pytest.mark.parametrize(
    "other",
    [
        seeds("uniform", [10, 11]),  # two seeds
        [answers(f"u{k}", [k], card=card("uniform", 0)) for k in range(3)],  # three files of one seed
        [answers(f"u{k}", [k], card=card("uniform", k, recipe={"lr": k})) for k in range(3)],  # three recipes
    ],
)
def test_fewer_seeds_say_nothing_of_an_architecture(other: list[Answers]) -> None:
    found = compare([*seeds("pc", [15, 16, 17]), *other], samples=100, seed=0)
    assert all(c.population == FILES for c in found)


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
        "", "rows to length 1", "not normalised", "float16",
    ]  # fmt: skip
    alone = dataclasses.replace(
        wide, features=wide.features[:, 3:], meta=dataclasses.replace(wide.meta, levels=(("L3", 0, 5),))
    )
    (row,) = evaluate_files([save(tmp_path / "l3.h5", alone)], EvalConfig()).rows
    assert row.accuracy == results.rows[2].accuracy
    assert row.cv_accuracy_draws == results.rows[2].cv_accuracy_draws
    pairs = {(c.a, c.b) for c in results.comparisons}
    assert ("wide", "narrow") in pairs
    assert ("wide, PCA to 4", "wide") in pairs
    assert len(pairs) == 1 + 6 + 3


def test_float16_that_overflows_is_refused_with_the_way_out(tmp_path: Path) -> None:
    labels = labels_of(2, 10)
    large = feature_set(labels, blobs(labels) * 1e6)
    with pytest.raises(EvaluationError, match="overflow float16; leave precision out of `ablate`"):
        evaluate_files([save(tmp_path / "a.h5", large)], EvalConfig(ablate=("precision",)))
