"""Deletion and insertion in closed form, and the sums that complete methods promise."""

from __future__ import annotations

import csv
import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from l2a_transfer.errors import ArgumentError, BackendError, EvaluationError, UnknownNameError
from l2a_transfer.evaluation.faithfulness import bootstrap_interval, evaluate_faithfulness
from l2a_transfer.evaluation.faithfulness_results import FaithfulnessConfig, FaithfulnessResults, read_faithfulness
from l2a_transfer.explain.checks.completeness import COMPLETE, completeness_errors
from l2a_transfer.explain.checks.faithfulness import CURVES, deletion_insertion, pixel_ranks, replaced_by
from l2a_transfer.explain.compute import map_batch
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.report.faithfulness import FILES
from tests.conftest import TINY, assert_fails, l2a, memory_source, save_picture
from tests.test_evidence import network
from tests.test_map_methods import Linear, Residual
from tests.test_robustness import named


class Additive(nn.Module):
    """The log-odds of class 1 are the sum of each pixel's own weight × its first channel."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        score = (x[:, 0] * self.weights).sum(dim=(1, 2))
        return torch.stack([torch.zeros_like(score), score], dim=1)


WEIGHTS = torch.tensor([[4.0, -1.0], [2.0, 0.5]])


def sigmoid(*values: float) -> list[float]:
    return [1 / (1 + float(np.exp(-value))) for value in values]


def test_of_an_additive_model_the_curves_are_known_in_closed_form() -> None:
    model, images = Additive(WEIGHTS).eval(), torch.ones(1, 3, 2, 2)
    # The order by the map is 4, 2, 0.5, -1; what is left of their sum 5.5 as they go, and what is there as they come.
    found = deletion_insertion(model, images, WEIGHTS.numpy()[None], torch.tensor([1]), steps=4)
    deleted, inserted = sigmoid(5.5, 1.5, -0.5, -1, 0), sigmoid(0, 4, 6, 6.5, 5.5)
    np.testing.assert_allclose(found.shares, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(found.probabilities["deletion"][0], deleted, rtol=1e-6)
    np.testing.assert_allclose(found.probabilities["insertion"][0], inserted, rtol=1e-6)
    by_hand = sum((a + b) / 8 for a, b in pairwise(deleted))
    assert found.areas("deletion")[0] == pytest.approx(by_hand, rel=1e-6)
    other = deletion_insertion(model, images, WEIGHTS.numpy()[None], torch.tensor([0]), steps=4)
    np.testing.assert_allclose(other.probabilities["deletion"], 1 - found.probabilities["deletion"], rtol=1e-6)


def test_the_baseline_takes_the_place_of_pixels() -> None:
    model, images = Additive(WEIGHTS).eval(), torch.ones(1, 3, 2, 2)
    maps = WEIGHTS.numpy()[None]
    constant = deletion_insertion(model, images, maps, torch.tensor([1]), steps=4, baseline="blur")
    for curve in CURVES:  # a constant image is its own blur, so nothing changes
        np.testing.assert_allclose(constant.probabilities[curve], sigmoid(5.5)[0], rtol=1e-5)


def test_an_insertion_is_the_deletion_of_the_reverse_order_backwards() -> None:
    model = network("vgg-att2-concat-pc", dtype=torch.float32)
    images, targets = torch.randn(2, 3, 32, 32), torch.tensor([3, 7])
    maps = np.random.default_rng(0).normal(size=(2, 32, 32)).astype(np.float32)
    for baseline in ("mean", "blur"):
        found = deletion_insertion(model, images, maps, targets, steps=8, baseline=baseline)
        reverse = deletion_insertion(model, images, -maps, targets, steps=8, baseline=baseline)
        np.testing.assert_allclose(
            found.probabilities["insertion"], reverse.probabilities["deletion"][:, ::-1], rtol=1e-4, atol=1e-6
        )
        assert not np.allclose(found.probabilities["insertion"], found.probabilities["deletion"][:, ::-1], rtol=1e-3)


def test_the_map_that_knows_the_model_is_best_and_its_reverse_worst() -> None:
    weights = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    model, images, one = Additive(weights).eval(), torch.ones(1, 3, 6, 6), torch.tensor([1])
    own = deletion_insertion(model, images, weights.numpy()[None], one, steps=36)
    worst = deletion_insertion(model, images, -weights.numpy()[None], one, steps=36)
    for seed in range(20):
        noise = np.random.default_rng(seed).random((1, 6, 6)).astype(np.float32)
        random = deletion_insertion(model, images, noise, one, steps=36)
        assert own.areas("deletion") < random.areas("deletion") < worst.areas("deletion")
        assert own.areas("insertion") > random.areas("insertion") > worst.areas("insertion")


def test_ranks_follow_the_map_and_ties_are_broken_at_random_from_the_image() -> None:
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    maps = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    np.testing.assert_array_equal(pixel_ranks(images, maps)[0], 15 - np.arange(16).reshape(4, 4))
    flat = np.zeros((2, 4, 4), dtype=np.float32)
    flat[:, 0, 0] = 1
    ranks = pixel_ranks(images, flat)
    assert ranks[:, 0, 0].tolist() == [0, 0]
    assert sorted(ranks[0].flatten().tolist()) == list(range(16))
    assert not torch.equal(ranks[0], ranks[1])
    assert torch.equal(pixel_ranks(images[1:], flat[1:])[0], ranks[1])
    assert not torch.equal(pixel_ranks(images, flat, seed=1), ranks)
    # The mean place of tied pixels over many seeds is in the middle: no corner comes first.
    mean = torch.stack([pixel_ranks(images[:1], flat[:1], seed=seed)[0] for seed in range(400)]).double().mean(dim=0)
    assert (mean.flatten()[1:] - 8).abs().max() < 1
    coarse = pixel_ranks(images, np.array([[[1.0, 0.0]]] * 2, dtype=np.float32))
    assert (coarse[:, :, :2] < coarse[:, :, 2:]).all()


def test_what_is_blurred_keeps_its_mean_and_loses_detail() -> None:
    images = torch.randn(1, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    blurred = replaced_by(images, "blur")
    assert blurred.shape == images.shape
    assert float(blurred.std()) < 0.15
    step = torch.zeros(1, 3, 40, 60)
    step[..., 30:] = 1
    found = replaced_by(step, "blur")[0, 0, 0]
    assert (found.diff() >= -1e-6).all()
    assert float(found[29] + found[30]) == pytest.approx(1, abs=1e-5)
    assert float(found[25]) == pytest.approx(0.13, abs=0.02)  # 4.5 pixels away, at 4 pixels of standard deviation
    assert torch.equal(replaced_by(images, "mean"), torch.zeros_like(images))


def test_a_batch_that_does_not_fit_is_split_and_the_network_stays_as_it_was() -> None:
    class Small(nn.Module):
        def __init__(self, most: int) -> None:
            super().__init__()
            self.model, self.most = Additive(WEIGHTS), most

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > self.most:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate")
            logits: Tensor = self.model(x)
            return logits

    images, maps, targets = torch.randn(3, 3, 2, 2), np.zeros((3, 2, 2), dtype=np.float32), torch.tensor([0, 1, 1])
    expected = deletion_insertion(Additive(WEIGHTS), images, maps, targets, steps=3)
    model = Small(4).train()
    found = deletion_insertion(model, images, maps, targets, steps=3)
    assert model.training
    for curve in CURVES:
        np.testing.assert_allclose(found.probabilities[curve], expected.probabilities[curve], rtol=1e-6)
    with pytest.raises(BackendError, match="one image of 2 × 2 pixels does not fit into memory"):
        deletion_insertion(Small(0), images, maps, targets, steps=3)


def test_what_faithfulness_cannot_take() -> None:
    model, images, targets = Additive(WEIGHTS).eval(), torch.ones(2, 3, 2, 2), torch.tensor([1, 0])
    maps = np.zeros((2, 2, 2), dtype=np.float32)
    with pytest.raises(ArgumentError, match="steps must be between 1 and the number of pixels, 4; got 5"):
        deletion_insertion(model, images, maps, targets, steps=5)
    with pytest.raises(ArgumentError, match=r"maps must have the shape \(2, h, w\), got \(1, 2, 2\)"):
        deletion_insertion(model, images, maps[:1], targets, steps=2)
    with pytest.raises(ArgumentError, match="maps must be finite"):
        deletion_insertion(model, images, np.full_like(maps, np.nan), targets, steps=2)
    with pytest.raises(ArgumentError, match="targets must have one entry per image, 2; got 1"):
        deletion_insertion(model, images, maps, targets[:1], steps=2)
    with pytest.raises(UnknownNameError, match="baseline must be one of mean, blur; got 'blurr'; did you mean 'blur'"):
        deletion_insertion(model, images, maps, targets, steps=2, baseline="blurr")


@pytest.mark.parametrize(
    "architecture", ["vgg", "vgg-att2-concat-pc", "vgg-att3-indep-dp", "vgg-att1-uniform", "vgg-pan", "vgg-dsna"]
)
def test_evidence_is_complete(architecture: str) -> None:
    model = network(architecture, dtype=torch.float32)
    images = torch.randn(3, 3, 32, 40)
    found = map_batch(model, images, method="evidence", targets=[0, 5, 9])
    assert completeness_errors(model, images, found).max() < 1e-5
    level = next(iter(found.maps))
    some = map_batch(model, images, method="evidence", targets=[0, 5, 9], levels=[level])
    assert completeness_errors(model, images, some).max() < 1e-5
    found.maps[level][1, 0, 0] += 0.5
    np.testing.assert_allclose(completeness_errors(model, images, found), [0, 0.5, 0], atol=1e-5)


def test_cam_is_complete() -> None:
    model, images = network("vgg-gap", dtype=torch.float32), torch.randn(2, 3, 32, 40)
    found = map_batch(model, images, method="cam", targets=[0, 5])
    assert completeness_errors(model, images, found).max() < 1e-5
    found.maps["L3"][0] += 0.5
    np.testing.assert_allclose(completeness_errors(model, images, found), [0.5, 0], atol=1e-5)


def test_integrated_gradients_are_complete_up_to_their_quadrature() -> None:
    images = torch.randn(4, 3, 6, 6)
    for baseline in (0.0, 0.7):
        options = {"steps": 1, "baseline": baseline}
        found = map_batch(Linear().eval(), images, method="integrated-gradients", options=options)
        assert completeness_errors(Linear().eval(), images, found, options=options).max() < 1e-4
    assert completeness_errors(Linear().eval(), images, found).min() > 1e-2  # another baseline than the maps'
    model, images = Residual().eval(), torch.randn(4, 3, 32, 32)
    errors = []
    for steps in (1, 200):
        found = map_batch(model, images, method="integrated-gradients", options={"steps": steps})
        errors.append(completeness_errors(model, images, found).mean())
    assert errors[1] < errors[0] / 10
    logits = model(images), model(torch.zeros(1, 3, 32, 32))
    targets = torch.from_numpy(found.targets)
    rise = (logits[0].gather(1, targets[:, None]) - logits[1][0, targets][:, None])[:, 0].detach().numpy()
    expected = np.abs(found.maps["pixels"].sum(axis=(1, 2)) - rise)
    np.testing.assert_allclose(completeness_errors(model, images, found), expected, atol=1e-5)


def test_of_methods_that_promise_nothing_no_error_is_known() -> None:
    assert set(COMPLETE) <= set(METHODS)
    model, images = network("vgg", dtype=torch.float32), torch.randn(1, 3, 32, 32)
    with pytest.raises(BackendError, match="saliency have no defined sum; use integrated-gradients"):
        completeness_errors(model, images, map_batch(model, images, method="saliency"))


# Over images, and the verb ------------------------------------------------------------------------------------------


def results_of(config: FaithfulnessConfig, rows: int = 6) -> FaithfulnessResults:
    return evaluate_faithfulness([named()], memory_source(rows=rows), config)


QUICK = FaithfulnessConfig(method=("attention", "saliency"), steps=4, orders=2, resamples=200, batch_size=4)


def test_rows_are_means_over_images_and_gains_are_against_random_of_the_same_resolution() -> None:
    results = results_of(QUICK)
    rows = {(row.method, row.map): row for row in results.rows}
    assert list(rows) == [
        *(("attention", "L2"), ("attention", "L3"), ("saliency", "pixels"), ("centre", "pixels"), ("sobel", "pixels")),
        *(("random", "16 × 16"), ("random", "8 × 8"), ("random", "32 × 32")),
    ]
    assert [row.grid for row in results.rows[:3]] == [(16, 16), (8, 8), (32, 32)]
    for (method, name), row in rows.items():
        areas = results.areas["one", method, name]
        random = results.areas["one", "random", f"{row.grid[0]} × {row.grid[1]}"]
        assert row.n == len(areas["deletion"]) == 6
        assert row.deletion == pytest.approx(areas["deletion"].mean())
        assert row.insertion == pytest.approx(areas["insertion"].mean())
        assert row.deletion_ci95[0] <= row.deletion <= row.deletion_ci95[1]
        for curve, area in (("deletion", row.deletion), ("insertion", row.insertion)):
            values = np.array(row.curves[curve])
            assert ((values[1:] + values[:-1]) / 8).sum() == pytest.approx(area, rel=1e-6)
        if method == "random":
            assert row.deletion_gain is row.insertion_gain is None
        else:
            assert row.deletion_gain == pytest.approx((random["deletion"] - areas["deletion"]).mean())
            assert row.insertion_gain == pytest.approx((areas["insertion"] - random["insertion"]).mean())
    assert rows["saliency", "pixels"].completeness is None


def test_the_areas_are_those_of_the_maps_of_the_target() -> None:
    config = dataclasses.replace(QUICK, method=("evidence",), target="class 1")
    results = results_of(config)
    network, card = named()
    source = memory_source(rows=6)
    pixels = torch.from_numpy(np.stack([card.preprocess.pixels(source.image(k)) for k in range(6)]))
    mean, std = card.preprocess.statistics()
    images, targets = (pixels / 255 - mean) / std, torch.full((6,), 1)
    maps = map_batch(network.eval(), images, method="evidence", targets=targets).maps["L3"]
    expected = deletion_insertion(network, images, maps, targets, steps=4)
    for curve in CURVES:
        np.testing.assert_allclose(
            results.areas["one", "evidence", "L3"][curve], expected.areas(curve), rtol=1e-3, atol=1e-4
        )
    assert 0 < next(row.completeness for row in results.rows if row.method == "evidence") < 1e-4  # type: ignore[operator]
    true = results_of(dataclasses.replace(config, target="true"))
    own, others = (found.areas["one", "evidence", "L3"]["deletion"] for found in (true, results))
    equal = np.isclose(own, others, rtol=1e-3)
    assert (equal == (source.labels == 1)).all()


def test_a_batch_changes_no_area_and_a_seed_does() -> None:
    expected = results_of(QUICK)
    alone = results_of(dataclasses.replace(QUICK, batch_size=1))
    seeded = results_of(dataclasses.replace(QUICK, seed=1))
    for key, areas in expected.areas.items():
        for curve in CURVES:
            np.testing.assert_allclose(alone.areas[key][curve], areas[curve], rtol=1e-2, atol=1e-3)
    key = ("one", "random", "32 × 32")
    assert not np.allclose(seeded.areas[key]["deletion"], expected.areas[key]["deletion"], rtol=1e-4, atol=0)


def test_the_bootstrap_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(2, 3, size=(400, 2))
    low, high = bootstrap_interval(values, resamples=4000, seed=1)
    error = 1.96 * values.std(axis=0) / 20
    np.testing.assert_allclose(low, values.mean(axis=0) - error, atol=0.03)
    np.testing.assert_allclose(high, values.mean(axis=0) + error, atol=0.03)
    twice = np.stack([values[:, 0], 2 * values[:, 0]], axis=1)  # columns are drawn together
    low, high = bootstrap_interval(twice, resamples=500, seed=1)
    np.testing.assert_allclose([low[1], high[1]], [2 * low[0], 2 * high[0]])
    low, high = bootstrap_interval(np.array([[0.25]]), resamples=100, seed=0)
    assert low == high == [0.25]


def test_the_command_writes_what_it_prints(tmp_path: Path) -> None:
    for k in range(3):
        save_picture(tmp_path / "photos" / "a" / f"{k}.jpg", k)
    out = tmp_path / "out"
    run = ("faithfulness", "--model", TINY, "--out", out, tmp_path / "photos", tmp_path / "photos" / "a" / "0.jpg")
    small = ("--method", "occlusion,evidence", "--set", "occlusion.window=16", "--set", "occlusion.stride=16")
    small += ("--steps", "2", "--orders", "1", "--resamples", "100", "--baseline", "blur")
    result = l2a("-q", *run, *small)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    document = read_faithfulness(out / "faithfulness.json")
    assert document["images"] == ["0.jpg", "1.jpg", "2.jpg"]
    assert document["config"]["options"] == {"occlusion": {"window": 16, "stride": 16}}
    assert document["shares"] == [0, 0.5, 1]
    labels = [(row["method"], row["map"]) for row in document["rows"]]
    assert labels[:4] == [("occlusion", "pixels"), ("evidence", "L2"), ("evidence", "L3"), ("evidence", "all")]
    with (out / "faithfulness.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["deletion"]) for line in lines] == [row["deletion"] for row in document["rows"]]
    page, text = ((out / f"faithfulness.{end}").read_text(encoding="utf-8") for end in ("html", "md"))
    assert "| evidence, L3 | 8 × 8 |" in text
    assert "With fewer than 30 images, as here, bootstrap intervals are too narrow." in text
    assert "faithfulness.json</code> (l2a-faithfulness/1)" in page
    assert "sobel †" in result.stdout
    assert (out / "faithfulness.svg").read_text(encoding="utf-8").startswith("<svg")
    assert_fails(l2a("-q", *run, *small), 1, "faithfulness.json: exists", "--overwrite replaces the report")
    again = l2a("-q", *run, *small, "--overwrite", "--json")
    assert json.loads(again.stdout) == document
    (out / "faithfulness.json").write_text('{"schema": "other"}')
    with pytest.raises(EvaluationError, match="not faithfulness results of this program: faithfulness has no 'config'"):
        read_faithfulness(out / "faithfulness.json")


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (("photo.jpg", "--data", "digits"), 2, ("name either images or folders, or --data",)),
        ((), 2, ("name either images or folders, or --data",)),
        (("--method", "evidense"), 2, ("--method must be one of", "did you mean 'evidence'?")),
        (("--method", ","), 2, ("--method must be one or more of attention",)),
        (("--set", "occlusion.windows=4"), 2, ("option of occlusion must be one of window", "did you mean 'window'?")),
        (("--set", "window=4"), 2, ("--set must be METHOD.OPTION=VALUE",)),
        (("--baseline", "blurr"), 2, ("--baseline must be one of mean, blur",)),
        (("--steps", "0"), 2, ("steps must be between 1 and 10,000, got 0",)),
        (("--target", "owl"), 2, ("--target must be one of predicted, true",)),
        (("--target", "true"), 1, ("has no class names",)),
        (("--method", "cam"), 1, ("no class activation map",)),
        (("nowhere.jpg",), 1, ("nowhere.jpg: no such file",)),
    ],
)
def test_what_the_command_refuses(given: tuple[str, ...], code: int, words: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    needs_data = given and given[0].startswith("--")
    run = ("faithfulness", "--model", TINY, "--out", out, *(("--data", "digits", "--limit", "2") if needs_data else ()))
    assert_fails(l2a(*run, *given), code, *words)
    assert not out.exists()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ArgumentError, match="resamples must be between 100 and 1,000,000, got 5"):
        FaithfulnessConfig(resamples=5)
    with pytest.raises(ArgumentError, match=r"occlusion\.window must be of type int"):
        FaithfulnessConfig(options={"occlusion": {"window": "x"}})
    with pytest.raises(UnknownNameError, match="device must be one of"):
        FaithfulnessConfig(device="gpu")
