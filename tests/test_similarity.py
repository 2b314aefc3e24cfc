"""Similarities of maps: exact values by hand, SciPy and scikit-image as oracles, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import spearmanr

from l2a_transfer.errors import ArgumentError
from l2a_transfer.explain.checks.similarity import (
    MEASURES,
    histograms,
    prepare,
    resized,
    similarities,
    structural_similarity,
)

SIZE = (32, 40)


def maps(B: int = 5, size: tuple[int, int] = SIZE, seed: int = 0) -> NDArray[np.float32]:
    """Signed maps with structure: few random numbers, interpolated."""
    coarse = np.random.default_rng(seed).normal(size=(B, 9, 9)).astype(np.float32)
    return resized(coarse, size).astype(np.float32)


def alike(one: NDArray[np.float32], other: NDArray[np.float32], size: tuple[int, int] = SIZE) -> dict[str, list[float]]:
    found = similarities(prepare(one, size), prepare(other, size))
    assert tuple(found) == MEASURES
    return {name: values.tolist() for name, values in found.items()}


def test_spearman_is_scipys_with_ties_and_without() -> None:
    one, other = maps(seed=0), maps(seed=1)
    rounded = np.round(other)  # many ties
    for pair in ((one, other), (one, rounded)):
        found = alike(*pair)
        for k, (a, b) in enumerate(zip(*pair, strict=True)):
            assert found["spearman"][k] == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic, abs=1e-12)
            expected = spearmanr(np.abs(a).ravel(), np.abs(b).ravel()).statistic
            assert found["spearman_abs"][k] == pytest.approx(expected, abs=1e-12)


def test_structural_similarity_is_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    one, other = (prepare(maps(seed=seed), SIZE).unit for seed in (0, 1))
    expected = [metrics.structural_similarity(a, b, data_range=1.0) for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(structural_similarity(one, other), expected, rtol=1e-10)


def test_histograms_of_gradients_are_those_of_scikit_image() -> None:
    feature = pytest.importorskip("skimage.feature")
    values = prepare(maps(seed=0), SIZE).unit
    for own, found in zip(values, histograms(values), strict=True):
        expected = feature.hog(
            own,
            orientations=9,
            pixels_per_cell=(4, 5),
            cells_per_block=(3, 3),
            block_norm="L2-Hys",
            feature_vector=False,
        )  # (6, 6, 3, 3, 9), and here the orientations come before the cells
        np.testing.assert_allclose(found, expected.transpose(0, 1, 4, 2, 3).ravel(), rtol=1e-6, atol=1e-9)


def test_interpolation_is_that_of_torch() -> None:
    for old in ((8, 8), (1, 5), (2, 3), (16, 20), (50, 70)):
        coarse = np.random.default_rng(0).normal(size=(3, *old)).astype(np.float32)
        expected = F.interpolate(torch.from_numpy(coarse)[:, None].double(), size=SIZE, mode="bilinear")[:, 0]
        np.testing.assert_allclose(resized(coarse, SIZE), expected.numpy(), atol=1e-12)


def test_a_ramp_and_its_opposite_by_hand() -> None:
    """Ranks are reversed; the squares of x and of −x are the same; a gradient has no sign in the histograms."""
    ramp = np.broadcast_to(np.linspace(-1, 1, 32, dtype=np.float32), (1, 32, 32)).copy()
    found = alike(ramp, -ramp, (32, 32))
    assert found["spearman"] == [pytest.approx(-1)]
    assert found["spearman_abs"] == [pytest.approx(1)]
    assert found["hog"] == [pytest.approx(1)]
    assert found["ssim"][0] < 0.3
    across = ramp.transpose(0, 2, 1).copy()  # each row is constant in one and the whole range in the other
    found = alike(ramp, across, (32, 32))
    assert found["spearman"] == [pytest.approx(0, abs=1e-12)]
    assert found["hog"][0] < 0


def test_scale_and_shift_change_nothing() -> None:
    one, other = maps(seed=0), maps(seed=1)
    before, same = alike(one, other), alike(one, one)
    for name in MEASURES:
        assert same[name] == pytest.approx([1.0] * len(one), abs=1e-9)
    after = alike(one, 3 * other + 7)
    for name in ("spearman", "ssim", "hog"):
        np.testing.assert_allclose(after[name], before[name], atol=1e-3)
    above_zero = alike(one + 9, other + 9)
    assert above_zero["spearman_abs"] == above_zero["spearman"]
    assert alike(one, -other)["spearman_abs"] == pytest.approx(before["spearman_abs"])


def test_of_a_constant_map_nothing_is_defined_and_the_others_are_not_touched() -> None:
    one, other = maps(), maps(seed=1)
    expected = alike(one, other)
    other[1], one[3] = 0.0, 5.0
    for name, values in alike(one, other).items():
        assert [k for k, value in enumerate(values) if np.isnan(value)] == [1, 3], name
        for k in (0, 2, 4):
            assert values[k] == pytest.approx(expected[name][k], abs=1e-12)
    both = alike(np.zeros_like(one), np.zeros_like(one))
    assert all(np.isnan(values).all() for values in both.values())


def test_values_of_one_size_have_no_rank_correlation_of_sizes() -> None:
    signs = np.where(np.random.default_rng(0).random((1, 32, 32)) < 0.5, -1, 1).astype(np.float32)
    found = alike(signs, signs, (32, 32))
    assert found["spearman"] == [pytest.approx(1)]
    assert np.isnan(found["spearman_abs"][0])


def test_a_grid_that_is_too_small_is_refused() -> None:
    with pytest.raises(ArgumentError, match="size must be at least 16 × 16, got 16 × 8"):
        prepare(maps(), (16, 8))
