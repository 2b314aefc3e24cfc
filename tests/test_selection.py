"""Hard selections: what is chosen, how the choice is trained, and that a run of one can be repeated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from l2a_transfer.errors import ArgumentError, NotFiniteError, TrainingError, UnknownNameError
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.loading import as_network, create_model
from l2a_transfer.models.networks.soft import AttentionVGG, pixel_noise
from l2a_transfer.models.sampling import (
    MAX_EXACT,
    SelectionLoss,
    _gumbel_noise,
    check_exact,
    drawn_log_probabilities,
)
from l2a_transfer.models.selection import SELECTIONS, Sampling, find_selection, highest
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.training.accuracy import evaluate
from l2a_transfer.training.recipe import TrainConfig
from l2a_transfer.training.sampling import check_drawn_step, check_sampling, number_of_positions
from l2a_transfer.training.trainer import Trainer
from tests.conftest import memory_source
from tests.test_training import CPU, RECIPE, colours

ARCHITECTURES = ("vgg-att1-pc", "vgg-att2-concat-dp", "vgg-att2-indep-pc")
START = torch.zeros(())


def network(architecture: str = "vgg-att2-concat-pc", selection: str = "hard", **options: Any) -> AttentionVGG:
    """In evaluation mode, with the spread of local features that trained networks have."""
    made = create_model(architecture, width=1 / 32, num_classes=3, selection=selection, dropout=0.0, seed=1, **options)
    assert isinstance(made, AttentionVGG)
    with torch.no_grad():
        for attention in made.attention.values():
            if attention.u is not None:  # type: ignore[union-attr]
                attention.u.mul_(3)  # type: ignore[operator, union-attr]
        for classifier in made.classifiers:
            classifier.weight.mul_(5)  # type: ignore[operator]
    return made.eval()


def with_kept_features(model: AttentionVGG, images: Tensor) -> AttentionVGG:
    """The same network, which computes the local features of these images once and for all."""
    with torch.no_grad():
        local = model.local_features(images)
    model.local_features = lambda images: local  # type: ignore[method-assign]
    return model


def pictures(n: int = 4, size: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def chooser(text: str) -> Callable[..., Tensor]:
    found = find_selection(text).choose
    assert found is not None
    return found


def test_the_highest_score_is_chosen_and_of_equal_ones_the_first() -> None:
    scores = torch.tensor([[0.0, 2.0, 2.0, -1.0], [5.0, 1.0, 2.0, 3.0]])
    assert chooser("hard")(scores).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert chooser("top:2")(scores).tolist() == [[0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]]
    assert highest(scores, 9).tolist() == [[0.25] * 4] * 2  # all of them where there are fewer


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_feature_is_the_chosen_local_feature(architecture: str) -> None:
    model = network(architecture)
    with torch.no_grad():
        found = model.attend(pictures())
        scored = model.scored(found.local)
    assert [(spec.name, spec.kind) for spec in model.config.maps] == [(level, "mask") for level in found.maps]
    for level, one in scored.items():
        at = one.scores.argmax(dim=1)
        assert torch.equal(found.g_a[level], one.local[torch.arange(4), at])
        assert torch.equal(found.maps[level].flatten(1), F.one_hot(at, one.scores.shape[1]).float())


def test_top_k_is_the_mean_of_the_k_best() -> None:
    model = network(selection="top:3")
    with torch.no_grad():
        found = model.attend(pictures())
        one = model.scored(found.local)["L3"]
    best = one.scores.topk(3, dim=1).indices
    expected = torch.stack([one.local[row, at].mean(dim=0) for row, at in enumerate(best)])
    torch.testing.assert_close(found.g_a["L3"], expected)
    assert {spec.kind for spec in model.config.maps} == {"distribution"}


def test_a_random_position_is_a_function_of_the_image() -> None:
    model = network("vgg-att2-concat-uniform", "random")
    images = pictures(64)
    with torch.no_grad():
        found, alone = model.attend(images), model.attend(images[5:6])
        nearly = model.attend(images[5:6] * (1 + 1e-7))
    assert {spec.kind for spec in model.config.maps} == {"mask"}
    for level, weights in found.maps.items():
        assert torch.equal(weights[5:6], alone.maps[level])
        assert torch.equal(weights[5:6], nearly.maps[level])
        assert torch.equal(weights.flatten(1).sum(dim=1), torch.ones(64))
        assert len({int(at) for at in weights.flatten(1).argmax(dim=1)}) > 5
    assert model.local_steps() == ()


def test_random_positions_are_spread_evenly_and_differ_between_levels() -> None:
    config = ModelConfig("vgg-att2-concat-uniform", selection="random")
    local = {"L2": torch.zeros(1, 1, 4, 4), "L3": torch.zeros(1, 1, 2, 2)}
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2000, 3, 8, 8))).float() / 255 / 0.25
    noise = pixel_noise(images, local, config)
    at = {level: values.argmax(dim=1) for level, values in noise.items()}
    pairs = torch.bincount(at["L2"] * 4 + at["L3"], minlength=64).double()
    expected = 2000 / 64
    # χ² with 63 degrees of freedom: the 99.9 % quantile is 103
    assert float((pairs - expected).square().sum() / expected) < 103


def test_random_positions_of_large_images_are_spread_over_every_level() -> None:
    config = ModelConfig("vgg-att3-concat-uniform", selection="random")
    sides = {"L1": 224, "L2": 112, "L3": 56}
    local = {level: torch.zeros(1, 1, side, side) for level, side in sides.items()}
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (200, 3, 8, 8))).float() / 255 / 0.25
    noise = pixel_noise(images, local, config)
    rows = torch.stack([noise[level].argmax(dim=1).double() / side**2 for level, side in sides.items()])  # 0 … 1
    assert float((rows.mean(dim=1) - 0.5).abs().max()) < 0.1  # 5 standard errors
    assert float(torch.corrcoef(rows).fill_diagonal_(0).abs().max()) < 0.3


def gradients(model: AttentionVGG, loss: Tensor) -> Tensor:
    """Of the loss with respect to every u, flat."""
    u = [attention.u for attention in model.attention.values()]  # type: ignore[union-attr]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, u)])  # type: ignore[arg-type]


def estimates(model: AttentionVGG, sampling: Sampling, draws: int, images: Tensor, labels: Tensor) -> Tensor:
    """Gradients of so many independent draws, (draws, parameters)."""
    model = with_kept_features(model, images)
    loss = SelectionLoss(find_selection(model.config.selection), sampling)
    found = []
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        step = loss.loss(model, images, labels, generator=generator, progress=START)
        found.append(gradients(model, step.loss))
    return torch.stack(found)


@pytest.mark.parametrize("architecture", ["vgg-att1-pc", "vgg-att2-indep-pc"])
@pytest.mark.parametrize("baseline", ["soft", "others", "none"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_mean_of_reinforce_is_the_gradient_of_the_exact_expectation(
    architecture: str, baseline: str, training: bool
) -> None:
    """With two draws, a baseline that includes its own draw would halve the gradient; copies replace draws."""
    images, labels = pictures(), torch.tensor([0, 1, 2, 0])
    model, copied = network(architecture), network(architecture)
    model.heads.train(training)  # batch statistics depend on the probabilities of all positions
    copied.heads.train(training)
    exact = estimates(model, Sampling("exact", entropy_weight=0.0), 1, images, labels)[0]
    sampling = Sampling(samples=2, baseline=baseline, entropy_weight=0.0)
    drawn = estimates(copied, sampling, 100, images.repeat(128, 1, 1, 1), labels.repeat(128))
    error = drawn.std(dim=0) / len(drawn) ** 0.5
    assert float(((drawn.mean(dim=0) - exact).abs() / error.clamp(min=1e-9)).square().mean()) < 2  # about 1 is expected
    assert float(exact.norm()) > 3 * float(error.norm())  # which a gradient of 0 would not be told from


@pytest.mark.parametrize(
    "settings", [{}, {"samples": 1, "baseline": "soft"}, {"sampler": "gumbel-st"}, {"sampler": "exact"}]
)
def test_a_run_that_diverges_is_reported_as_one_whose_loss_is_not_finite(settings: dict[str, Any]) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=1, lr=1e30, **settings)
    config = ModelConfig("vgg-att2-concat-pc", num_classes=4, width=1 / 32, selection="hard")
    with pytest.raises(NotFiniteError, match="the loss is not finite at step"):
        Trainer(config, recipe, colours(64), placement=CPU).run_epoch(progress=False)


def test_a_baseline_makes_the_variance_smaller() -> None:
    model, images, labels = network("vgg-att1-pc"), pictures(), torch.tensor([0, 1, 2, 0])
    spread = {
        baseline: float(
            estimates(model, Sampling(samples=4, baseline=baseline, entropy_weight=0.0), 60, images, labels)
            .var(0)
            .sum()
        )
        for baseline in ("soft", "others", "none")
    }
    assert spread["soft"] < 0.5 * spread["none"]
    assert spread["others"] < 0.5 * spread["none"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_exact_loss_is_the_mean_over_all_pairs_of_positions(architecture: str) -> None:
    model, images, labels = network(architecture), pictures(2), torch.tensor([2, 1])
    step = SelectionLoss(find_selection("hard"), Sampling("exact", entropy_weight=0.0)).loss(
        model, images, labels, generator=torch.Generator(), progress=START
    )
    with torch.no_grad():
        expected, levels = 0.0, model.scored(model.local_features(images))
        for at in product(*(range(one.scores.shape[1]) for one in levels.values())):
            where = dict(zip(levels, at, strict=True))
            g_a = {level: one.local[:, where[level]] for level, one in levels.items()}
            p = torch.stack([one.scores.softmax(1)[:, where[level]] for level, one in levels.items()]).prod(dim=0)
            cost = F.cross_entropy(model.classified(g_a).logits, labels, reduction="none")
            expected += float((p * cost).mean())
    assert float(step.loss.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sampler", ["exact", "reinforce"])
def test_its_batch_statistics_are_those_of_many_draws(sampler: str) -> None:
    """The batch norm's running statistics after one step against those of 1,024 draws of every image."""
    model = network("vgg-att1-pc")
    model.heads.train()
    norm = model.heads["L3"].bn  # type: ignore[union-attr]
    norm.momentum = 1.0  # type: ignore[union-attr]
    images, generator = pictures(64), torch.Generator().manual_seed(0)
    SelectionLoss(find_selection("hard"), Sampling(sampler)).loss(
        model, images, torch.zeros(64, dtype=torch.long), generator=generator, progress=START
    )
    with torch.no_grad():
        one = model.scored(model.local_features(images))["L3"]
        at = torch.multinomial(one.scores.softmax(dim=1), 1024, replacement=True, generator=generator)  # (B, draws)
        drawn = one.local[torch.arange(64)[:, None], at].flatten(0, 1)  # (B · draws, C)
    assert float(drawn.var(dim=0).sum()) > 1.2 * float(one.local.mean(dim=1).var(dim=0).sum())  # not those of means
    for own, expected in ((norm.running_mean, drawn.mean(dim=0)), (norm.running_var, drawn.var(dim=0))):  # type: ignore[union-attr]
        torch.testing.assert_close(own, expected, rtol=0.1, atol=0.02 * float(expected.abs().max()))  # type: ignore[arg-type]


@pytest.mark.parametrize("selection", ["hard", "top:2"])
def test_straight_through_draws_from_the_softmax(selection: str) -> None:
    model, labels = network("vgg-att1-pc", selection), torch.zeros(2, dtype=torch.long)
    images = pictures(2)
    loss = SelectionLoss(find_selection(selection), Sampling("gumbel-st", temperature=0.5, entropy_weight=0.0))
    seen: list[Tensor] = []
    classified = model.classified

    def watched(g_a: dict[str, Tensor], *rest: Any) -> Any:
        seen.append(g_a["L3"].detach())
        return classified(g_a, *rest)

    model.classified = watched  # type: ignore[method-assign]
    model = with_kept_features(model, images)
    for seed in range(400):
        step = loss.loss(model, images, labels, generator=torch.Generator().manual_seed(seed), progress=START)
    assert float(gradients(model, step.loss).norm()) > 0
    with torch.no_grad():
        one = model.scored(model.local_features(images))["L3"]
    if selection == "hard":
        drawn = torch.stack(seen)[:, 0]  # (draws, C)
        at = torch.cdist(drawn, one.local[0]).argmin(dim=1)
        torch.testing.assert_close(drawn, one.local[0][at], atol=1e-5, rtol=1e-5)
        share = torch.bincount(at, minlength=one.scores.shape[1]) / 400
        expected = one.scores[0].softmax(dim=0)  # the temperature smooths the gradient, and not what is drawn
        assert float((share - expected).abs().max()) < 0.12


@pytest.mark.parametrize("selection", ["hard", "top:2"])
def test_the_gradient_of_straight_through_is_that_of_the_soft_choice_at_what_was_drawn(selection: str) -> None:
    images, labels = pictures(), torch.tensor([0, 1, 2, 0])
    model = with_kept_features(network("vgg-att1-pc", selection), images)
    sampling = Sampling("gumbel-st", temperature=0.5, entropy_weight=0.0)
    step = SelectionLoss(find_selection(selection), sampling).loss(
        model, images, labels, generator=torch.Generator().manual_seed(0), progress=START
    )
    one = model.scored(model.local_features(images))["L3"]
    soft = ((one.scores + _gumbel_noise(one.scores, torch.Generator().manual_seed(0))) / 0.5).softmax(dim=1)
    drawn = torch.einsum("bp,bpc->bc", chooser(selection)(soft.detach()), one.local).requires_grad_()
    (by_feature,) = torch.autograd.grad(F.cross_entropy(model.classified({"L3": drawn}).logits, labels), drawn)
    expected = gradients(model, (torch.einsum("bp,bpc->bc", soft, one.local) * by_feature).sum())
    torch.testing.assert_close(gradients(model, step.loss), expected, rtol=1e-4, atol=1e-6)
    assert float(expected.norm()) > 1e-3


def test_entropy_is_rewarded_until_its_share_of_the_steps_has_passed() -> None:
    model, images, labels = network(), pictures(), torch.zeros(4, dtype=torch.long)
    plain, rewarded = (
        SelectionLoss(find_selection("hard"), Sampling("exact", entropy_weight=weight, entropy_until=0.5))
        for weight in (0.0, 0.1)
    )
    for at, left in ((0.0, 1.0), (0.25, 0.5), (0.5, 0.0), (0.9, 0.0)):
        options = {"generator": torch.Generator(), "progress": torch.tensor(at)}
        one, other = (loss.loss(model, images, labels, **options) for loss in (plain, rewarded))  # type: ignore[arg-type]
        entropy = float(one.metrics["entropy"].detach())
        assert float((one.loss - other.loss).detach()) == pytest.approx(0.1 * left * entropy, abs=1e-6)
    uniform = sum(np.log(number_of_positions(level, 16)) for level in ("L2", "L3"))
    assert 0 < entropy < uniform


def test_the_soft_pass_leaves_batch_statistics_alone() -> None:
    states = []
    for baseline in ("soft", "none"):
        model = network().train()
        SelectionLoss(find_selection("hard"), Sampling(baseline=baseline)).loss(
            model, pictures(), torch.zeros(4, dtype=torch.long), generator=torch.Generator(), progress=START
        )
        states.append(model.state_dict())
        assert {norm.momentum for norm in model.modules() if isinstance(norm, torch.nn.BatchNorm1d)} == {0.1}
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_many_draws_come_near_the_exact_expectation() -> None:
    images = pictures()
    model = with_kept_features(network("vgg-att1-pc"), images)
    step = SelectionLoss(find_selection("hard"), Sampling("exact")).loss(
        model, images, torch.zeros(4, dtype=torch.long), generator=torch.Generator(), progress=START
    )
    many = drawn_log_probabilities(model, images, 2000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(many.exp(), step.logits.exp(), atol=0.03, rtol=0)
    one = drawn_log_probabilities(model, images, 1, torch.Generator().manual_seed(0))
    assert float((one.exp() - step.logits.exp()).abs().max()) > 0.03


def test_measuring_a_network_in_other_ways_leaves_it_in_evaluation_mode() -> None:
    model, source = network("vgg-att1-pc"), memory_source()
    readouts = model.config.family.readouts(model, Sampling())
    assert list(readouts) == ["sampled", "expected", "soft"]
    for readout in readouts.values():
        assert 0 <= evaluate(readout, source, Preprocess(16), workers=0) <= 1
        assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("vgg-att2-concat-uniform", {"selection": "hard"}, "needs scores, but vgg-att2-concat-uniform has none"),
        ("vgg-att2-concat-pc", {"selection": "random"}, "uses no scores, but vgg-att2-concat-pc has scores"),
        ("vgg-pan", {"selection": "hard"}, "selection must be 'soft' for vgg-pan"),
        ("vgg", {"selection": "random"}, "selection must be 'soft' for vgg"),
        ("vgg-att2-concat-pc", {"selection": "hard", "normalizer": "sparsemax"}, "normalizer must be 'softmax'"),
        ("vgg-att2-concat-pc", {"selection": "top"}, "needs a number of positions, 1 to 999,999; got 'top'"),
        ("vgg-att2-concat-pc", {"selection": "top:0"}, "1 to 999,999; got 'top:0'"),
        ("vgg-att2-concat-pc", {"selection": "top:1.5"}, "1 to 999,999; got 'top:1.5'"),
        ("vgg-att2-concat-pc", {"selection": "top:1000000"}, "1 to 999,999; got 'top:1000000'"),
        ("vgg-att2-concat-pc", {"selection": "top:٤"}, "1 to 999,999; got 'top:٤'"),
        ("vgg-att2-concat-pc", {"selection": "hard:2"}, "'hard' takes no number"),
    ],
)
def test_what_does_not_go_together_is_refused(architecture: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ModelConfig(architecture, **options)


def test_a_selection_has_one_spelling() -> None:
    config = ModelConfig("vgg-att1-pc", selection="top:04")
    assert config.selection == config.to_json()["selection"] == "top:4"
    assert config == ModelConfig("vgg-att1-pc", selection="top:4")


def test_a_network_in_memory_is_named_with_its_selection() -> None:
    assert as_network(network("vgg-att1-pc", "top:2"))[1].name == "memory:vgg-att1-pc-top-2@0.03125"
    assert as_network(network("vgg-att1-pc", "soft"))[1].name == "memory:vgg-att1-pc@0.03125"


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    assert list(SELECTIONS) == ["soft", "hard", "top", "random"]
    with pytest.raises(UnknownNameError, match="selection must be one of soft, hard, top, random; got 'hrad'"):
        ModelConfig("vgg-att1-pc", selection="hrad")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0 and finite; got 0.0"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
        ({"samples": 0}, "samples must be between 1 and"),
        ({"samples": 1}, "baseline must be 'soft' or 'none' if samples is 1"),
        ({"entropy_weight": -1.0}, "entropy_weight must be at least 0"),
        ({"sampler": "exat"}, "sampler must be one of reinforce, gumbel-st, exact"),
    ],
)
def test_a_recipe_that_cannot_draw_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    ("selection", "settings", "message"),
    [
        ("soft", {"sampler": "exact"}, "the recipe's sampler has no effect: selection 'soft' draws no positions"),
        ("top:4", {}, "'top:4' cannot be trained with sampler 'reinforce'.*set sampler=gumbel-st"),
        ("hard", {"sampler": "exact", "samples": 4}, "the recipe's samples has no effect with sampler 'exact'"),
        ("hard", {"sampler": "gumbel-st", "baseline": "none"}, "baseline has no effect with sampler 'gumbel-st': only"),
        ("hard", {"entropy_weight": 0.0, "entropy_until": 0.5}, "entropy_until has no effect if entropy_weight is 0"),
        ("hard", {"entropy_weight": 0.1, "entropy_until": 0.0}, "entropy_weight has no effect if entropy_until is 0"),
    ],
)
def test_a_recipe_that_does_not_go_with_the_selection_is_refused(
    selection: str, settings: dict[str, Any], message: str
) -> None:
    config = ModelConfig("vgg-att2-concat-pc", selection=selection)
    check_sampling(dataclasses.replace(config, selection="hard"), TrainConfig(sampler="exact"))
    with pytest.raises(TrainingError, match=message):
        check_sampling(config, TrainConfig(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 4, "baseline": "others", "temperature": 2.0},
        {"sampler": "gumbel-st", "temperature": 2.0, "entropy_weight": 0.0},
        {"sampler": "exact", "temperature": 2.0, "entropy_until": 0.5},
        {"entropy_weight": 0.0, "entropy_until": 0.0},
    ],
)
def test_a_recipe_whose_fields_have_an_effect_is_accepted(settings: dict[str, Any]) -> None:
    check_sampling(ModelConfig("vgg-att2-concat-pc", selection="hard"), TrainConfig(**settings))


def test_an_exact_step_that_is_too_large_is_refused_for_the_images_of_one_process_at_the_largest_size() -> None:
    config = ModelConfig("vgg-att2-concat-pc", selection="hard")
    many = TrainConfig(sampler="exact", batch_size=512)
    with pytest.raises(TrainingError, match="512 images × 256 × 64 positions × 10 classes"):
        check_drawn_step(config, many, processes=1, sync_batch_norm=False)
    check_drawn_step(config, many, processes=4, sync_batch_norm=False)
    shrinking = dataclasses.replace(many, batch_size=128, resolutions=((0.0, 64), (0.5, 32)))
    with pytest.raises(TrainingError, match="128 images × 1024 × 256 positions"):
        check_drawn_step(config, shrinking, processes=1, sync_batch_norm=False)


@pytest.mark.parametrize("sampler", ["exact", "reinforce"])
def test_a_sampler_that_does_not_synchronise_its_statistics_is_refused(sampler: str) -> None:
    config = ModelConfig("vgg-att2-concat-pc", selection="hard")
    with pytest.raises(TrainingError, match=rf"the {sampler} sampler normalises .*leave `sync_batch_norm` out"):
        check_drawn_step(config, TrainConfig(sampler=sampler), processes=4, sync_batch_norm=True)
    check_drawn_step(config, TrainConfig(sampler=sampler), processes=4, sync_batch_norm=False)
    check_drawn_step(config, TrainConfig(sampler="gumbel-st"), processes=4, sync_batch_norm=True)
    check_drawn_step(ModelConfig("vgg"), TrainConfig(), processes=4, sync_batch_norm=True)


def test_the_limit_of_the_exact_sampler_is_what_its_logits_take() -> None:
    check_exact(MAX_EXACT // 64, [64], 1)
    with pytest.raises(ArgumentError, match="use another sampler in the recipe"):
        check_exact(MAX_EXACT // 64 + 1, [64], 1)


def test_recipes_and_configs_of_before_have_the_bytes_of_before() -> None:
    assert {"sampler", "samples", "temperature"} & TrainConfig().to_json().keys() == set()
    assert "selection" not in ModelConfig("vgg").to_json()
    changed = TrainConfig(sampler="gumbel-st", temperature=0.5)
    assert TrainConfig.from_json(changed.to_json()) == changed
    hard = ModelConfig("vgg-att1-pc", selection="hard")
    assert ModelConfig.from_json(hard.to_json()) == hard
