"""Every architecture of the table: shapes, maps, gradients, sizes, and a global feature that is inert."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from l2a_transfer.errors import UnknownNameError
from l2a_transfer.models.blocks import ConvBlock
from l2a_transfer.models.compatibilities import COMPATIBILITIES
from l2a_transfer.models.config import ARCHITECTURES, MapSpec, ModelConfig
from l2a_transfer.models.interface import Network
from l2a_transfer.models.registry import build_model
from tests.conftest import with_partners

WIDTH = 1 / 32
ONE_A_FAMILY = ["vgg", "vgg-gap", "vgg-pan", "vgg-dsna", "vgg-att3-concat-dp"]
INERT = [name for name in ARCHITECTURES if ModelConfig(name).g_is_inert]


def images(rows: int = 3, height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(rows, 3, height, width, generator=torch.Generator().manual_seed(1))


def build(name: str, **options: object) -> Network:
    """A network whose batch norms have seen data, so that evaluation is not a formality."""
    model = build_model(ModelConfig(name, width=WIDTH, num_classes=5, dropout=0.0, **options), seed=0)  # type: ignore[arg-type]
    model.train()
    for seed in range(3):
        model(*with_partners(model, torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed))))
    return model.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(name: str) -> None:
    model = build(name)
    given = with_partners(model, images())
    result = model.attend(*given)
    assert result.logits.shape == (3, 5)
    assert {level: value.shape for level, value in result.g_a.items()} == {
        level: (3, width) for level, width in model.config.feature_levels.items()
    }
    assert result.features.shape == (3, sum(model.config.feature_levels.values()))
    assert {level: value.shape for level, value in result.g_a_bn_relu.items()} == {
        level: value.shape for level, value in result.g_a.items()
    }
    assert min(value.min().item() for value in result.g_a_bn_relu.values()) >= 0
    torch.testing.assert_close(model(*given), result.logits)
    torch.testing.assert_close(model(*(each[:1] for each in given)), result.logits[:1], rtol=1e-4, atol=1e-5)
    for spec, weights in zip(model.config.maps, result.maps.values(), strict=True):
        side = 2 if name == "vgg-dsna" else {"L1": 32, "L2": 16}.get(spec.level, 8)
        assert weights.shape == (3, side, side)
        assert weights.min() >= 0
    assert model.config.map_levels == tuple(result.maps)
    for spec in model.config.maps:
        weights = result.maps[spec.name]
        if spec.kind == "distribution":
            torch.testing.assert_close(weights.sum((1, 2)), torch.ones(3))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_has_a_gradient(name: str) -> None:
    model = build(name).train()
    torch.nn.functional.cross_entropy(model(*with_partners(model, images(8))), torch.arange(8) % 5).backward()  # type: ignore[no-untyped-call]
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("height", "width"), [(48, 48), (20, 70)])
def test_other_image_sizes(name: str, height: int, width: int) -> None:
    model = build(name)
    result = model.attend(*with_partners(model, images(2, height, width)))
    assert torch.isfinite(result.logits).all()
    for spec in model.config.maps:
        shrink, weights = {"L1": 1, "L2": 2}.get(spec.level, 4), result.maps[spec.name]
        shrink = 16 if name == "vgg-dsna" else shrink
        assert weights.shape == (2, height // shrink, width // shrink)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_smallest_size_works_and_is_the_smallest(name: str) -> None:
    model = build(name)
    size = model.config.min_size
    assert torch.isfinite(model(*with_partners(model, images(2, size, size)))).all()
    smaller = size // 2 if size > 4 else 1
    with pytest.raises(RuntimeError):
        model(*with_partners(model, images(2, smaller, smaller)))


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_full_backward_hooks_reach_every_relu_where_nothing_is_in_place(name: str) -> None:
    config = ModelConfig(name, width=WIDTH, num_classes=5, dropout=0.0)
    model, usual = build_model(config, seed=0, inplace=False), build_model(config, seed=0)
    relus = [module for module in model.modules() if isinstance(module, torch.nn.ReLU)]
    reached = []
    for relu in relus:
        relu.register_full_backward_hook(lambda module, *_: reached.append(module))  # type: ignore[arg-type]
    logits = model(images().requires_grad_())
    assert torch.equal(logits, usual(images()))
    assert relu_nodes(logits) == len(relus)  # every ReLU is a module
    logits.sum().backward()  # type: ignore[no-untyped-call]
    assert sorted(map(id, reached)) == sorted(map(id, relus))
    for module in usual.modules():
        if isinstance(module, torch.nn.ReLU):
            module.register_full_backward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="modified inplace"):  # what `inplace=False` is for
        usual(images().requires_grad_())


def relu_nodes(output: Tensor) -> int:
    """How many ReLUs are in the graph that `output` was computed by."""
    seen, left = set(), [output.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [following for following, _ in node.next_functions]
    return sum(node.name().startswith("Relu") for node in seen)


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_the_maps_have_a_level_and_a_kind(name: str) -> None:
    found = [(spec.name, spec.level, spec.kind) for spec in ModelConfig(name).maps]
    distributions = {"vgg-pan": ["L3"], "vgg-dsna": ["L3"], "vgg-att3-concat-dp": ["L1", "L2", "L3"]}.get(name, [])
    gates = [("L2", "L2", "gate")] if name == "vgg-pan" else []
    assert found == gates + [(level, level, "distribution") for level in distributions]


def test_a_map_is_named_after_its_level() -> None:
    assert MapSpec("L2.gate", "L2", "gate").name == "L2.gate"
    for wrong in ("L3", "L3.gate", "L2/gate", "L2.", "L2.a.b", ""):
        with pytest.raises(ValueError, match="name must be the level 'L2'"):
            MapSpec(wrong, "L2", "gate")


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax", "entmax15", "tvmax:0.1"])
@pytest.mark.parametrize("name", INERT)
def test_where_g_is_inert_its_branch_changes_nothing(name: str, normalizer: str) -> None:
    whole = build(name, normalizer=normalizer, global_branch="always")
    lean = build_model(ModelConfig(name, width=WIDTH, num_classes=5, dropout=0.0, normalizer=normalizer))
    state = whole.state_dict()
    assert set(lean.state_dict()) < set(state)
    lean.load_state_dict({key: state[key] for key in lean.state_dict()})
    lean.eval()
    x = with_partners(whole, images(8))
    with_g, without = whole.attend(*x), lean.attend(*x)
    assert relative(without.logits, with_g.logits) < 1e-5
    assert relative(without.features, with_g.features) < 1e-5
    for level in with_g.maps:
        assert relative(without.maps[level], with_g.maps[level]) < 1e-5
    torch.nn.functional.cross_entropy(whole(*x), torch.arange(8) % 5).backward()  # type: ignore[no-untyped-call]
    grads = {key: p.grad for key, p in whole.named_parameters() if p.grad is not None}
    branch = norm([grad for key, grad in grads.items() if key not in lean.state_dict()])
    assert branch < 1e-5 * norm([grad for key, grad in grads.items() if key.startswith("trunk.")])


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(t.square().sum().item() for t in tensors))


@pytest.mark.parametrize(
    ("name", "normalizer", "branch", "changed"),
    [
        ("vgg-att2-concat-dp", "softmax", "global_branch", "L3"),
        ("vgg-att3-indep-add", "softmax", "global_branch", "L3"),
        ("vgg-att1-dp", "softmax", "global_branch", "L3"),
        ("vgg-att1-pc", "sigmoid", "global_branch", "L3"),
        ("vgg-att1-pc", "sigmoid-sum", "global_branch", "L3"),
        ("vgg-pan", "softmax", "global_branch_2", "L2"),
    ],
)
def test_where_g_is_used_its_branch_is_built_and_decides(name: str, normalizer: str, branch: str, changed: str) -> None:
    model = build(name, normalizer=normalizer)
    before = model.attend(images()).maps[changed]
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.startswith(f"{branch}.linear"):
                parameter.mul_(-2)
    assert relative(model.attend(images()).maps[changed], before) > 1e-3
    assert model.config.family.g_acts(model.config)


@pytest.mark.parametrize("name", ["vgg", "vgg-gap", "vgg-dsna", *INERT])
def test_g_does_not_act_where_there_is_none_or_it_is_inert(name: str) -> None:
    for global_branch in ("auto", "always"):
        config = ModelConfig(name, global_branch=global_branch)
        assert config.family.g_acts(config) == (name == "vgg-pan")  # g₂ acts through its gate


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((f"vgg-att2-concat-{compatibility}", {}) for compatibility in COMPATIBILITIES),
        ("vgg-att3-indep-dp", {}),
        *(("vgg-att1-pc", {"normalizer": name}) for name in ("sparsemax", "entmax15", "sigmoid", "tvmax:0.1")),
        ("vgg-att1-pc", {"selection": "hard"}),
        ("vgg-att1-uniform", {"selection": "random"}),
        *((name, {}) for name in ("vgg", "vgg-gap", "vgg-pan", "vgg-dsna", "vgg-att2-concat-pc-co")),
    ],
)
@torch.no_grad()
def test_a_half_precision_network_scores_and_weighs_in_float32(
    name: str, options: dict[str, str], precision: torch.dtype
) -> None:
    model = build(name, **options)
    given = [x if x is None else x.to(precision).float() for x in with_partners(model, images())]
    whole = model.to(precision).float().attend(*given)  # with the same rounded weights
    model.to(precision)
    found = model.attend(*(x if x is None else x.to(precision) for x in given))
    for spec in model.config.maps:
        assert found.maps[spec.name].dtype == torch.float32
        if spec.kind == "distribution":  # to which rounded weights would not sum
            torch.testing.assert_close(found.maps[spec.name].sum((1, 2)), torch.ones(3), rtol=0, atol=1e-5)
    assert {values.dtype for values in found.g_a.values()} == {torch.float32}
    if "selection" not in options:  # a rounded score can make another position the best
        assert relative(found.logits.float(), whole.logits) < 0.05
    evidence = model.evidence(found, torch.tensor([0, 1, 2]))
    assert {values.dtype for values in evidence.maps.values()} == {torch.float32}


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if "indep" in n])
def test_indep_returns_the_log_of_the_mean_class_probability(name: str) -> None:
    model = build(name)
    result = model.attend(images())
    torch.testing.assert_close(result.logits.exp().sum(1), torch.ones(3))
    mean = torch.stack(
        [
            torch.softmax(classifier(torch.relu(head.bn(result.g_a[level]))), 1)
            for (level, head), classifier in zip(model.heads.items(), model.classifiers, strict=True)  # type: ignore[union-attr, operator, arg-type]
        ]
    ).mean(0)
    torch.testing.assert_close(result.logits.exp(), mean)


def test_the_parameter_counts_of_the_paper() -> None:
    # PAPER: att3 has 19.8 M parameters at full width, 5.1 M of them behind an inert g.
    with torch.device("meta"):
        whole = build_model(ModelConfig("vgg-att3-concat-pc", width=1.0, global_branch="always"))
        lean = build_model(ModelConfig("vgg-att3-concat-pc", width=1.0))
    total, without = (sum(p.numel() for p in m.parameters()) for m in (whole, lean))
    assert total / 1e6 == pytest.approx(19.8, abs=0.2)
    assert (total - without) / 1e6 == pytest.approx(5.1, abs=0.1)


def test_the_trunk_is_where_the_paper_puts_it() -> None:
    model = build_model(ModelConfig("vgg-att2-concat-pc", width=1.0))
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convs] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    rates = [m.p for m in model.trunk.modules() if isinstance(m, torch.nn.Dropout)]  # type: ignore[union-attr]
    assert rates == [0.3] + [0.4] * 7
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}


def test_dropout_stands_after_the_convolutions_that_the_paper_names() -> None:
    model = build_model(ModelConfig("vgg-att3-concat-dp", width=WIDTH))
    blocks = [m for m in model.modules() if isinstance(m, ConvBlock)]
    after = {
        number: layer.p
        for number, block in enumerate(blocks, start=1)
        for layer in block
        if isinstance(layer, torch.nn.Dropout)
    }
    assert after == {1: 0.3, 3: 0.4, 5: 0.4, 6: 0.4, 8: 0.4, 9: 0.4, 11: 0.4, 12: 0.4, 14: 0.4, 15: 0.4}


def test_convolutions_start_with_the_spread_that_the_paper_gives() -> None:
    model = build_model(ModelConfig("vgg-att1-dp", width=0.5), seed=0)
    for conv in (m for m in model.modules() if isinstance(m, torch.nn.Conv2d)):
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * conv.out_channels)), rel=0.1)


@pytest.mark.parametrize(("name", "branch"), [("vgg-att2-concat-dp", "global_branch"), ("vgg-pan", "global_branch_2")])
def test_g_comes_from_two_convolutions_between_pools(name: str, branch: str) -> None:
    model = build(name)
    sides = {}
    for conv in ("conv14", "conv15"):
        layer = model.get_submodule(f"{branch}.{conv}")
        layer.register_forward_hook(lambda _, given, __, conv=conv: sides.update({conv: given[0].shape[2:]}))
    model(images())
    assert sides == {"conv14": (4, 4), "conv15": (2, 2)}


def test_the_gate_of_pan_multiplies_what_feeds_the_rest() -> None:
    model = build("vgg-pan")
    with torch.no_grad():
        model.get_parameter("gate_bias").fill_(-1e4)
    result = model.attend(images())
    assert result.maps["L2"].max() == 0
    assert torch.equal(result.logits[0], result.logits[1])


def test_a_seed_decides_the_weights_and_leaves_the_global_state_alone() -> None:
    state = torch.random.get_rng_state()
    one, same, other = (build_model(ModelConfig("vgg-att1-pc", width=WIDTH), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    for key, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[key])
    key = "trunk.0.0.0.weight"
    assert not torch.equal(one.state_dict()[key], other.state_dict()[key])


def test_bad_configs() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'vgg-att2-concat-pc'"):
        ARCHITECTURES.find("vgg-att2-concat-pcc")
    with pytest.raises(UnknownNameError, match=r"normalizer must be one of .*did you mean 'softmax'"):
        ModelConfig("vgg", normalizer="sofmax")
    with pytest.raises(UnknownNameError, match="did you mean 'always'"):
        ModelConfig("vgg", global_branch="alway")
    for field, value in (("width", 0.0), ("width", float("nan")), ("dropout", 1.5), ("num_classes", 0)):
        with pytest.raises(ValueError, match=field):
            ModelConfig("vgg", **{field: value})  # type: ignore[arg-type]


def test_a_config_survives_json_and_refuses_what_is_none() -> None:
    config = ModelConfig("vgg-att3-indep-add", 7, 0.5, "entmax15", 0.25, "always")
    assert ModelConfig.from_json(config.to_json()) == config
    for wrong in ({}, {"architecture": "vgg", "depth": 3}, {"architecture": "vgg", "width": "wide"}, [1]):
        with pytest.raises((ValueError, TypeError)):
            ModelConfig.from_json(wrong)  # type: ignore[arg-type]
