"""Metrics of maps against masks: cases by hand, scikit-learn as the oracle, and what must not change them."""

from __future__ import annotations

import io
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, jaccard_score

from l2a_transfer.data.masks import Annotation
from l2a_transfer.errors import ArgumentError, DataError
from l2a_transfer.localization import boxes
from l2a_transfer.localization.folds import chosen_levels, folds_of, validation_folds
from l2a_transfer.localization.intervals import measures_of, paired_error
from l2a_transfer.localization.metrics import (
    LEVELS,
    Histogram,
    average_precision,
    energy,
    enlarged,
    hits,
    jaccard_of,
    levels_of,
    of_mass,
    peak,
    scaled,
)
from l2a_transfer.localization.tally import COLUMNS, THRESHOLDS, Fold, Tally

# A map of 3 × 3 whose object is the four pixels of the upper left corner.
MAP = np.array([[9, 7, 1], [5, 6, 2], [0, 8, 3]], dtype=np.float32)
OBJECT = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=bool)
ALL = np.ones((3, 3), dtype=bool)
RNG = np.random.default_rng(0)


def random_case(
    seed: int, *, signed: bool = False, ties: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(13, 17)).astype(np.float32)
    values = values if signed else np.abs(values)
    return (np.round(values, 1) if ties else values), rng.random((13, 17)) < 0.3


def test_average_precision_by_hand() -> None:
    # From the top: 9 ✓ 8 ✗ 7 ✓ 6 ✓ 5 ✓, precisions at the hits 1, 2/3, 3/4, 4/5.
    assert average_precision(MAP, OBJECT, ALL) == pytest.approx((1 + 2 / 3 + 3 / 4 + 4 / 5) / 4)


def test_what_is_ignored_takes_part_in_nothing() -> None:
    counted = ALL.copy()
    counted[2, 1] = False  # the 8
    assert average_precision(MAP, OBJECT, counted) == 1.0
    assert energy(MAP, OBJECT, counted) == pytest.approx(27 / 33)
    highest = np.where(counted, MAP, 99)
    assert peak(highest, counted, RNG) == (0, 0)
    assert scaled(highest, counted).max() == 1.0
    assert jaccard_of(MAP > 4, OBJECT, counted) == (1.0, 1.0)


@pytest.mark.parametrize(("seed", "ties"), list(product(range(5), (False, True))))
def test_average_precision_is_that_of_scikit_learn(seed: int, ties: bool) -> None:
    values, truth = random_case(seed, signed=True, ties=ties)
    counted = np.random.default_rng(seed).random(values.shape) < 0.8
    expected = average_precision_score(truth[counted], values[counted])
    assert average_precision(values, truth & counted, counted) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_pooled_average_precision_is_that_of_scikit_learn_on_levels(seed: int) -> None:
    cases = [random_case(10 * seed + k) for k in range(4)]
    units = [scaled(values, np.ones_like(truth)) for values, truth in cases]
    found = [Histogram.of(unit, truth, np.ones_like(truth)) for unit, (_, truth) in zip(units, cases, strict=True)]
    pooled = Histogram(sum(h.foreground for h in found), sum(h.background for h in found))  # type: ignore[arg-type]
    expected = average_precision_score(
        np.concatenate([truth.ravel() for _, truth in cases]), np.concatenate([levels_of(u).ravel() for u in units])
    )
    assert pooled.average_precision == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_every_threshold_is_that_of_scikit_learn(seed: int) -> None:
    values, truth = random_case(seed)
    unit = scaled(values, np.ones_like(truth))
    found = Histogram.of(unit, truth, np.ones_like(truth))
    for level in (0, 1, 100, 512, LEVELS - 1):
        chosen = unit >= level / LEVELS
        assert found.jaccard[level] == pytest.approx(jaccard_score(truth.ravel(), chosen.ravel()))
        assert found.accuracy[level] == pytest.approx((truth == chosen).mean())
        assert jaccard_of(chosen, truth, np.ones_like(truth)) == pytest.approx(
            (found.jaccard[level], found.accuracy[level])
        )


@pytest.mark.parametrize("seed", range(4))
def test_otsu_maximises_the_variance_between_the_two_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0.2, 0.05, 300), rng.normal(0.7, 0.1, 100)]).reshape(20, 20)
    truth = rng.random((20, 20)) < 0.5
    level = levels_of(scaled(values.astype(np.float32), np.ones_like(truth)))
    found = Histogram.of(scaled(values.astype(np.float32), np.ones_like(truth)), truth, np.ones_like(truth))

    def between(at: int) -> float:
        low, high = level[level < at], level[level >= at]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0.0

    assert between(found.otsu) == pytest.approx(max(map(between, range(LEVELS))))
    assert 0.3 < np.mean(level >= found.otsu) * 4 < 1.2  # about the quarter that is hot


def test_a_constant_map_gives_the_base_rate() -> None:
    for value in (0.0, 3.0):
        values = np.full((3, 3), value, dtype=np.float32)
        unit = scaled(values, ALL)
        assert average_precision(values, OBJECT, ALL) == pytest.approx(4 / 9)
        assert energy(values, OBJECT, ALL) == pytest.approx(4 / 9)
        found = Histogram.of(unit, OBJECT, ALL)
        assert found.otsu == 0
        assert found.average_precision == pytest.approx(4 / 9)
        assert jaccard_of(levels_of(unit) >= found.otsu, OBJECT, ALL) == pytest.approx((4 / 9, 4 / 9))
        assert jaccard_of(of_mass(values, ALL), OBJECT, ALL) == pytest.approx((4 / 9, 4 / 9))
    values = np.zeros((3, 3), dtype=np.float32)
    drawn = [OBJECT[peak(values, ALL, np.random.default_rng(seed))] for seed in range(2000)]
    assert np.mean(drawn) == pytest.approx(4 / 9, abs=0.04)


def test_equal_maxima_are_drawn_and_the_seed_decides() -> None:
    values = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], dtype=np.float32)
    drawn = [peak(values, ALL, np.random.default_rng(seed)) for seed in range(60)]
    assert set(drawn) == {(0, 0), (0, 2), (2, 1)}
    assert drawn == [peak(values, ALL, np.random.default_rng(seed)) for seed in range(60)]


@pytest.mark.parametrize("seed", range(4))
def test_monotone_changes_change_neither_ap_nor_pointing(seed: int) -> None:
    values, truth = random_case(seed, signed=True)
    counted = np.ones_like(truth)
    for change in (lambda x: 3 * x - 7, np.arctan, lambda x: np.exp(x / 2)):
        changed = change(values.astype(np.float64)).astype(np.float32)
        assert average_precision(changed, truth, counted) == pytest.approx(average_precision(values, truth, counted))
        assert peak(changed, counted, RNG) == peak(values, counted, RNG)
    assert np.allclose(scaled(3 * values - 7, counted), scaled(values, counted), atol=1e-6)


def test_pointing_with_tolerance() -> None:
    truth = np.zeros((10, 10), dtype=bool)
    truth[5, 8] = True
    assert hits((5, 8), truth, 0)
    assert not hits((5, 6), truth, 1.9)
    assert hits((5, 6), truth, 2.0)
    assert not hits((3, 6), truth, 2.0)  # a circle: √8 away
    assert hits((3, 6), truth, 2.83)
    assert hits((5, 9), truth, 1)
    assert not hits((0, 0), truth, 5)


def test_energy_counts_positive_values_only() -> None:
    values = np.array([[2, -5], [1, 1]], dtype=np.float32)
    truth = np.array([[True, True], [False, False]])
    assert energy(values, truth, np.ones_like(truth)) == 0.5


def test_negative_values_of_a_signed_map_are_background() -> None:
    values = np.array([[-100, 0, 1, 2]], dtype=np.float32)
    counted = np.ones((1, 4), dtype=bool)
    assert scaled(values, counted, signed=True).tolist() == [[0, 0, 0.5, 1]]
    assert scaled(values, counted).min() == 0 < scaled(values, counted)[0, 1]


def test_mass_keeps_the_fewest_pixels_and_all_that_tie() -> None:
    values = np.array([[6, 2, 1, 1]], dtype=np.float32)
    counted = np.ones((1, 4), dtype=bool)
    assert of_mass(values, counted, 0.6).tolist() == [[True, False, False, False]]
    assert of_mass(values, counted, 0.7).tolist() == [[True, True, False, False]]
    assert of_mass(values, counted, 0.81).all()  # the two ones are equal
    assert of_mass(-values, counted).all()


def test_maps_are_enlarged_between_centres() -> None:
    found = enlarged(np.array([[0, 4]], dtype=np.float32), (8, 1))
    assert found.tolist() == [[0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4]]
    constant = enlarged(np.full((2, 3), 0.3, dtype=np.float32), (31, 17))
    assert constant.shape == (17, 31)
    assert np.ptp(constant) == 0


def test_a_map_of_one_value_stays_one_value_at_any_size() -> None:
    for size in ((128, 96), (97, 143), (500, 333)):
        found = enlarged(np.full((8, 11), 1 / 88, dtype=np.float32), size)
        assert np.ptp(found) == 0, size


# Boxes ----------------------------------------------------------------------------------------------------------------


def test_boxes_around_connected_pixels() -> None:
    chosen = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]], dtype=bool)
    assert sorted(boxes.boxes_around(chosen).tolist()) == [[0, 0, 2, 1], [2, 1, 4, 3]]
    assert boxes.boxes_around(np.zeros((3, 3), dtype=bool)).shape == (0, 4)


def test_overlaps_by_hand() -> None:
    first = np.array([[0.0, 0, 2, 2], [5, 5, 6, 6]])
    second = np.array([[1.0, 1, 3, 3], [0, 0, 2, 2]])
    assert boxes.overlaps(first, second).tolist() == [[1 / 7, 1.0], [0.0, 0.0]]


def test_the_best_overlap_of_each_threshold() -> None:
    unit = np.zeros((8, 8), dtype=np.float32)
    unit[2:6, 2:6] = 0.5
    unit[2:4, 2:4] = 1.0
    found = boxes.best_overlaps(unit, np.array([[2.0, 2, 6, 6]]))
    by_level = dict(zip(boxes.THRESHOLDS, found.tolist(), strict=True))
    assert by_level[0] == 16 / 64
    assert by_level[512] == 1.0
    assert by_level[528] == 4 / 16


# Thresholds -----------------------------------------------------------------------------------------------------------


def test_folds_are_even_in_every_class_and_follow_the_seed() -> None:
    labels = np.repeat(np.array([0, 1, 2, -1], dtype=np.int32), [7, 4, 1, 6])
    found = folds_of(labels, 2, seed=3)
    for label in np.unique(labels):
        sizes = np.bincount(found[labels == label], minlength=2)
        assert abs(sizes[0] - sizes[1]) <= 1, label
    assert np.array_equal(found, folds_of(labels, 2, seed=3))
    assert not np.array_equal(found, folds_of(labels, 2, seed=4))
    with pytest.raises(DataError, match="1 image"):
        folds_of(np.zeros(1, dtype=np.int32), 2, seed=0)
    with pytest.raises(ArgumentError, match="folds"):
        folds_of(labels, 1, seed=0)


def test_a_threshold_is_chosen_on_the_other_folds() -> None:
    sums = np.array([[0.0, 9, 1], [8, 0, 1], [7, 0, 1]])  # each fold has its own best
    found = chosen_levels(sums, np.array([1, 1, 1]), swapped=True)
    assert found.tolist() == [0, 1, 1]
    assert chosen_levels(sums[:2], np.array([1, 1]), swapped=False).tolist() == [0, 0]


def test_validation_lists() -> None:
    assert validation_folds(["a", "b", "c"], ["c"]).tolist() == [0, 0, 1]
    for listed, said in ((["d"], "'d'"), ([], "empty"), (["a", "b", "c"], "all images")):
        with pytest.raises(DataError, match=said):
            validation_folds(["a", "b", "c"], listed)


def tallied(cases: list[tuple[NDArray[np.float32], Annotation]], fold: Fold) -> Tally:
    tally = Tally(fold, 0, io.BytesIO())
    for k, (values, annotation) in enumerate(cases):
        tally.add(k, f"{k}.png", values, annotation)
    tally.finish()
    return tally


def annotated(truth: NDArray[np.bool_], *known: tuple[float, ...]) -> Annotation:
    return Annotation(truth, np.zeros_like(truth), np.array(known).reshape(-1, 4))


def test_held_out_thresholds_are_those_of_a_direct_search() -> None:
    cases = [(values + truth * seed, truth) for seed in range(10) for values, truth in [random_case(seed)]]
    fold = Fold(folds_of(np.zeros(10, dtype=np.int32), 2, seed=1), swapped=True)
    tally = tallied([(values, annotated(truth)) for values, truth in cases], fold)
    units = [scaled(values, np.ones_like(truth)) for values, truth in cases]

    def direct(k: int) -> NDArray[np.float64]:
        """The overlap at each of THRESHOLDS, which scikit-learn counts as labels of their own."""
        binary = units[k].ravel()[:, None] >= np.array(THRESHOLDS) / LEVELS
        truth = np.broadcast_to(cases[k][1].ravel()[:, None], binary.shape)
        return np.asarray(jaccard_score(truth, binary, average=None))

    overlaps = np.stack([direct(k) for k in range(10)])  # (images, thresholds)
    for k in range(10):
        others = [j for j in range(10) if fold.of[j] != fold.of[k]]
        best = int(np.argmax(np.round(overlaps[others].mean(axis=0), 9)))
        assert tally.values[k, COLUMNS["jaccard"]] == pytest.approx(overlaps[k, best], abs=1e-6)
    folds = [[k for k in range(10) if fold.of[k] == f] for f in range(2)]
    assert tally.oracle()[0] == pytest.approx(sum(overlaps[own].sum(axis=0).max() for own in folds) / 10)
    assert tally.oracle()[0] >= tally.values[:, COLUMNS["jaccard"]].mean() - 1e-6
    assert (tally.chosen() > 0).all()


def test_the_oracle_gains_where_the_others_need_another_threshold() -> None:
    """Why it is no result: the object of the first two is all above 0, that of the third only what is hottest."""
    values = np.array([[0, 1, 2, 4]], dtype=np.float32)
    wide, narrow = np.array([[False, True, True, True]]), np.array([[False, False, False, True]])
    cases = [(values, annotated(truth)) for truth in (wide, wide, narrow, narrow)]
    tally = tallied(cases, Fold(np.array([0, 0, 1, 1]), swapped=True))
    assert tally.values[:, COLUMNS["jaccard"]] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 3])
    assert tally.oracle() == (1.0, 1.0)


def test_validation_images_choose_and_are_not_measured() -> None:
    perfect = OBJECT.astype(np.float32)
    cases = [(MAP, annotated(OBJECT)), (perfect, annotated(OBJECT))]
    tally = tallied(cases, Fold(np.array([0, 1]), swapped=False))
    level = THRESHOLDS[tally.chosen()[0]]
    assert level > 0  # the perfect map asks for any threshold above 0
    assert tally.pooled.foreground.sum() == OBJECT.sum()
    unit = scaled(MAP, ALL)
    expected = jaccard_of(levels_of(unit) >= level, OBJECT, ALL)
    assert tally.values[0, [COLUMNS["jaccard"], COLUMNS["pixel_accuracy"]]] == pytest.approx(expected)


def test_max_box_accuracy_by_hand() -> None:
    values = np.zeros((8, 8), dtype=np.float32)
    values[2:6, 2:6] = 1.0
    whole = (2.0, 2.0, 6.0, 6.0)
    near = (2.0, 2.0, 6.0, 8.0)  # the object's box overlaps by 16 / 24, the whole picture by 24 / 64
    truth = values > 0
    cases = [(values, annotated(truth, whole)), (values, annotated(truth, near))]
    tally = tallied(cases, Fold(np.array([0, 1]), swapped=True))
    # The second image chooses for the first: at .3 and .7 every threshold is as good, and the lowest is the picture.
    assert tally.values[:, COLUMNS["max_box_accuracy"]].tolist() == pytest.approx([1 / 3, 2 / 3])


def test_rows_that_were_left_out_stay_out() -> None:
    tally = Tally(Fold(np.array([0, 1, 0, 1]), swapped=True), 0, io.BytesIO())
    for k in (1, 2):
        tally.add(k, str(k), MAP, annotated(OBJECT))
    tally.finish()
    assert tally.taken.tolist() == [False, True, True, False]
    assert np.isnan(tally.values[[0, 3]]).all()
    assert np.isfinite(tally.values[1:3]).all()


# Intervals ------------------------------------------------------------------------------------------------------------


def test_means_over_images_and_over_classes() -> None:
    values = np.array([[0.0], [0.0], [0.0], [1.0]])
    (found,) = measures_of(values, np.array([0, 0, 0, 1], dtype=np.int32), seed=0)
    assert (found.mean, found.class_mean) == (0.25, 0.5)
    assert found.ci95 == (0.25, 0.25)  # drawn within classes that have no spread
    assert found.class_ci95 == (0.5, 0.5)


def test_the_bootstrap_is_about_the_normal_interval_and_follows_the_seed() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 0.1, (400, 1))
    labels = np.zeros(400, dtype=np.int32)
    (found,) = measures_of(values, labels, seed=1)
    error = values.std(ddof=1) / 20
    assert found.ci95 == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.002)
    assert measures_of(values, labels, seed=1)[0] == found
    order = rng.permutation(400)
    assert measures_of(values[order], labels, seed=1)[0].mean == pytest.approx(found.mean)


def test_the_paired_error_covers() -> None:
    """95 % intervals of a mean over classes of unequal size hold the truth in about 95 of 100 cases."""
    from scipy.stats import t

    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(4, dtype=np.int32), [5, 10, 20, 40])
    truth, spread = np.array([0.0, 0.3, -0.1, 0.2]), np.array([0.1, 0.2, 0.15, 0.2])
    held = 0
    for _ in range(1000):
        difference = rng.normal(truth[labels], spread[labels])
        mean = np.mean([difference[labels == k].mean() for k in range(4)])
        error, freedom = paired_error(labels, difference)
        held += abs(mean - truth.mean()) <= t.ppf(0.975, freedom) * error
    assert 930 <= held <= 985
