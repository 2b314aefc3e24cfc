"""Sanity checks: what becomes random, what stays, what is said of it, and the files that `sanity` writes."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp
from torch import Tensor, nn

from l2a_transfer.errors import ArgumentError, BackendError, EvaluationError, UnknownNameError
from l2a_transfer.explain.checks import sanity
from l2a_transfer.explain.checks.pictures import Pictures, pictures_in, pictures_of
from l2a_transfer.explain.checks.randomisation import fresh_seeds, randomised_networks
from l2a_transfer.explain.checks.results import SanityResults, Similarity, read_sanity, statements, written
from l2a_transfer.explain.checks.sanity import check_sanity
from l2a_transfer.explain.compute import map_batch
from l2a_transfer.explain.registry import METHODS, register_map_method
from l2a_transfer.models.config import Architecture, Family, MapSpec, ModelConfig, family, remove_family
from l2a_transfer.models.interface import Network
from l2a_transfer.models.loading import as_network, load_model
from l2a_transfer.models.parts import tensors, tensors_of_parts
from l2a_transfer.models.registry import build_model
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.report.sanity import number, sanity_folder, write_sanity
from tests.conftest import TINY, assert_fails, l2a, memory_source, save_picture
from tests.test_families import Glimpse

SIDE = 16
PC = ["classifier", "heads", "u L3", "u L2", "block 5", "block 4", "block 3", "block 2", "block 1"]


def trained(architecture: str = "vgg-att2-concat-pc", **options: Any) -> Network:
    """A network whose batch norms are not those of a fresh one either."""
    network = build_model(ModelConfig(architecture, width=1 / 16, **options), seed=7)
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert module.running_mean is not None
            assert module.running_var is not None
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
                module.running_mean.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.bias.shape, generator=generator) + 0.5)
    return network.eval()


def pictures(n: int = 3, side: int = SIDE) -> Pictures:
    images = np.random.default_rng(0).integers(0, 256, (n, 3, side, side), dtype=np.uint8)
    return Pictures("noise", tuple(f"{k}.png" for k in range(n)), images)


def checked(network: Network, **options: Any) -> SanityResults:
    options = {"methods": ["attention", "evidence"], "seeds": 1, **options}
    return check_sanity(*as_network(network), options.pop("of", pictures()), **options)


def state(network: Network) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors(network).items()}


def same(one: Tensor, other: Tensor) -> bool:
    return bool(torch.equal(one, other))


# What becomes random --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["vgg-att2-concat-pc", "vgg-pan", "vgg-dsna", "vgg", "vgg-att1-dp"])
def test_a_cascade_ends_with_a_fresh_network_and_one_part_alone_leaves_the_others(architecture: str) -> None:
    network = trained(architecture)
    before, parts = state(network), tensors_of_parts(network, network.parts())
    fresh = state(build_model(network.config, seed=5))
    seen: dict[str, list[str]] = {"cascade": [], "independent": []}
    for one in randomised_networks(network, seeds=[5]):
        assert not one.network.training
        assert one.network is not network
        now = state(one.network)
        for order in one.orders:
            seen[order].append(one.part)
            random = seen[order] if order == "cascade" else [one.part]
            for part, names in parts.items():
                source = fresh if part in random else before
                assert all(same(now[name], source[name]) for name in names), (order, one.part, part)
        assert one.altered
    assert seen == {"cascade": list(parts), "independent": list(parts)}
    assert all(same(tensor, before[name]) for name, tensor in state(network).items())
    assert all(same(now[name], before[name]) for name in now if name not in parts[list(parts)[-1]])


def test_batch_norms_with_their_statistics_and_u_are_random_too() -> None:
    network = trained()
    fresh = state(build_model(network.config, seed=5))
    by_part = {one.part: state(one.network) for one in randomised_networks(network, seeds=[5], orders=["independent"])}
    for part, name in (
        ("heads", "heads.L3.bn.running_var"),
        ("heads", "heads.L2.bn.weight"),
        ("u L3", "attention.L3.u"),
        ("block 4", "trunk.3.0.1.running_mean"),
    ):
        assert same(by_part[part][name], fresh[name])
        assert not same(state(network)[name], fresh[name]), name


def test_the_first_part_is_random_once_for_both_orders_and_seeds_follow_each_other() -> None:
    network = trained("vgg-gap")
    found = [(one.seed, one.part, one.orders) for one in randomised_networks(network, seeds=[5, 6])]
    assert len(found) == 2 * (6 + 5)
    assert found[0] == (5, "classifier", ("cascade", "independent"))
    assert sum(part == "classifier" for _, part, _ in found) == 2
    assert [seed for seed, _, _ in found] == [5] * 11 + [6] * 11
    assert len(list(randomised_networks(network, seeds=[5], orders=["cascade"]))) == 6
    with pytest.raises(UnknownNameError, match="order must be one of cascade, independent; got 'cascades'"):
        next(randomised_networks(network, seeds=[5], orders=["cascades"]))


def test_seeds_of_fresh_networks_are_none_that_one_trains_with() -> None:
    assert fresh_seeds(3, 0) == fresh_seeds(5, 0)[:3]
    assert len({*fresh_seeds(5, 0), *fresh_seeds(5, 1)}) == 10
    assert min(fresh_seeds(50, 0)) > 1000
    # The very network that is checked must not come back as the random one.
    network, card = load_model(TINY, seed=0)
    found = check_sanity(network, card, pictures(), methods=["saliency"], seeds=2, orders=["cascade"])
    assert not any(row.unchanged for row in found.rows_of(label="saliency") if row.part != "heads")
    with pytest.raises(ArgumentError, match="seeds must be between 1 and 1,000, got 0"):
        fresh_seeds(0)


def test_a_network_that_its_config_does_not_describe_is_refused() -> None:
    network = trained("vgg-gap")
    network.classifier = nn.Linear(32, 7)
    with pytest.raises(BackendError, match=r"the network does not match its config \(vgg-gap\)"):
        next(randomised_networks(network, seeds=[5]))


# What cannot react ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture", ["vgg-att2-concat-pc", "vgg-att2-concat-dp", "vgg-att3-indep-add", "vgg-pan", "vgg-dsna"]
)
def test_a_part_leaves_attention_the_same_exactly_where_no_gradient_reaches_it(architecture: str) -> None:
    network = trained(architecture)
    of = pictures(side=32 if architecture == "vgg-dsna" else SIDE)  # with one position there is nothing to compare
    found = checked(network, methods=["attention"], of=of, orders=["independent"])
    images = (torch.from_numpy(of.images_u8).float() / 255 - 0.5) / 0.25
    parts = tensors_of_parts(network, network.parts())
    parameters = dict(network.named_parameters())
    for name, weights in network.attend(images).maps.items():
        for part, names in parts.items():
            own = [parameters[tensor] for tensor in names if tensor in parameters]
            gradients = torch.autograd.grad(weights[:, 0, 0].sum(), own, allow_unused=True, retain_graph=True)
            reached = any(gradient is not None for gradient in gradients)
            (row,) = [row for row in found.rows_of(label=f"attention {name}") if row.part == part]
            assert row.unchanged != reached, (name, part)
            if row.unchanged:
                assert row.similarity["spearman"] == Similarity(1.0, (1.0, 1.0), 3, (1.0,))


def test_what_cannot_react_is_said() -> None:
    found = checked(trained())
    said = statements(found)
    assert (
        "attention L2 does not depend on classifier, heads, u L3 or block 5: with such a part random, every map is the "
        "same. From the logits down, the first part that changes attention L2 is u L2."
    ) in said
    assert any(line.endswith("the first part that changes attention L3 is u L3.") for line in said)
    assert "sobel depends on no tensor of the network: no random part can change it." in said
    assert not any(line.startswith("evidence all does not") for line in said)
    for row in found.rows_of(label="sobel"):
        assert row.unchanged
        assert {of.mean for of in row.similarity.values()} == {1.0}
    assert [row.part for row in found.rows_of(label="sobel", order="cascade")] == PC


def test_that_is_found_and_not_known_by_name() -> None:
    """A method of the user's own, which depends on one tensor."""

    @register_map_method("of-u", kind="signed", maps=("pixels",))
    def of_u(model: Any, images: Tensor) -> dict[str, Tensor]:
        return {"pixels": images[:, 0] * model.attention["L2"].u[0] + images[:, 1]}

    try:
        said = statements(checked(trained(), methods=["of-u"]))
    finally:
        METHODS.remove("of-u")
    others = "classifier, heads, u L3, block 5, block 4, block 3, block 2 or block 1"
    assert said[0] == (
        f"of-u does not depend on {others}: with such a part random, every map is the same. From the logits down, the "
        "first part that changes of-u is u L2."
    )


def test_a_part_that_a_fresh_network_has_alike_is_not_taken_for_one_that_does_not_matter() -> None:
    network, card = load_model(TINY)  # its batch norms were never trained
    found = check_sanity(network, card, pictures(), methods=["evidence"], seeds=1)
    assert [part.name for part in found.parts if not part.altered] == ["heads"]
    said = statements(found)
    assert said[0] == "A fresh network has the same numbers in heads, so nothing changed there."
    assert not any("depend on heads" in line for line in said)


def test_uniform_attention_is_constant_which_is_said_and_counted() -> None:
    found = checked(trained("vgg-att2-concat-uniform"), seeds=2)
    rows = found.rows_of(label="attention L2")
    assert rows
    for row in rows:
        assert row.constant == 2 * 3
        assert row.similarity["ssim"] == Similarity(None, None, 0, (None, None))
    expected = "attention L2 is constant for every image, whatever is random, so it has no similarity."
    assert expected in statements(found)
    assert SanityResults.from_document(json.loads(written(found))) == found


# The check ------------------------------------------------------------------------------------------------------------


def test_the_network_stays_as_it_was_and_the_same_check_gives_the_same() -> None:
    network, methods = trained("vgg-gap"), ["saliency", "grad-cam", "guided-backprop", "evidence"]
    network.train()
    before = state(network)
    found = checked(network, methods=methods)
    assert network.training
    assert all(same(tensor, before[name]) for name, tensor in state(network).items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert found == checked(network, methods=methods)
    assert found != checked(network, methods=methods, seed=1)


def test_numbers_are_those_of_maps_computed_one_by_one() -> None:
    """Without the shared passes, the batches and the order in which parts become random."""
    network, of = trained(), pictures()
    found = checked(network, methods=["saliency", "evidence"], of=of, seeds=2)
    images = (torch.from_numpy(of.images_u8).float() / 255 - torch.tensor(Preprocess().mean)[:, None, None]) / (
        torch.tensor(Preprocess().std)[:, None, None]
    )
    targets = network(images).argmax(dim=1)
    part, names = "block 5", tensors_of_parts(network, network.parts())
    for method, name, label in (("saliency", "pixels", "saliency"), ("evidence", "L3", "evidence L3")):
        own = map_batch(network, images, method=method, targets=targets).maps[name]
        values = []
        for seed in found.seeds:
            other, fresh = copy.deepcopy(network), tensors(build_model(network.config, seed=seed))
            with torch.no_grad():
                for tensor in names[part]:
                    tensors(other)[tensor].copy_(fresh[tensor])
            theirs = map_batch(other, images, method=method, targets=targets).maps[name]
            pair = (sanity.prepare(maps, (SIDE, SIDE)) for maps in (own, theirs))
            values.append(sanity.similarities(*pair))
        (row,) = [row for row in found.rows_of(label=label, order="independent") if row.part == part]
        for measure, similarity in row.similarity.items():
            expected = np.stack([of[measure] for of in values])  # (seeds, N)
            assert similarity.mean == pytest.approx(expected.mean(), abs=2e-3), (label, measure)
            assert similarity.seeds == pytest.approx(expected.mean(axis=1), abs=2e-3)


def test_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    network, of = trained(), pictures(5)
    whole = checked(network, of=of, orders=["cascade"])
    monkeypatch.setattr(sanity, "AT_ONCE", 2)
    parts = checked(network, of=of, orders=["cascade"])
    for one, other in zip(whole.rows, parts.rows, strict=True):
        assert one.unchanged == other.unchanged
        for measure, found in one.similarity.items():
            assert other.similarity[measure].mean == pytest.approx(found.mean, abs=1e-3)


def test_the_class_stays_the_one_that_the_network_predicts() -> None:
    network, of = trained(), pictures()
    seen = []

    @register_map_method("spy", kind="signed", maps=("pixels",), class_specific=True)
    def spy(model: Any, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        seen.append((targets.tolist(), model(images).argmax(dim=1).tolist()))
        return {"pixels": images[:, 0]}

    try:
        checked(network, methods=["spy"], of=of, orders=["cascade"], seeds=3)
    finally:
        METHODS.remove("spy")
    assert len(seen) == 1 + 3 * len(PC)
    assert len({tuple(targets) for targets, _ in seen}) == 1
    assert seen[0][0] == seen[0][1]
    assert any(targets != predicted for targets, predicted in seen)  # random networks predict others


def test_a_class_that_is_given_costs_no_pass() -> None:
    network = trained()
    passes: list[bool] = []
    network.trunk[0].register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))  # type: ignore[index]
    images = torch.zeros(2, 3, SIDE, SIDE)
    for method in ("evidence", "saliency", "grad-cam"):
        map_batch(network, images, method=method, targets=[0, 9])
    assert passes == [False, True, True]
    with pytest.raises(ArgumentError, match="target must be between 0 and 9, got 10"):
        map_batch(network, images, method="evidence", targets=[0, 10])


def test_a_family_from_outside_has_a_sanity_check() -> None:
    @family("outside")
    class Outside(Family):
        architectures = (Architecture("outside-toy", levels=("L3",)),)

        def network(self, config: ModelConfig) -> nn.Module:
            return Glimpse(config)

        def maps(self, config: ModelConfig) -> tuple[MapSpec, ...]:
            return MapSpec("L3", "L3", "distribution"), MapSpec("L3.gate", "L3", "gate")

    try:
        network = build_model(ModelConfig("outside-toy", num_classes=4, width=1 / 32), seed=0)
        found = check_sanity(*as_network(network), pictures(), methods=["attention", "saliency"], seeds=1)
    finally:
        remove_family("outside")
    assert [part.name for part in found.parts] == ["classifier", "score", "conv"]
    assert found.maps == ("attention L3", "attention L3.gate", "saliency", "sobel")
    said = statements(found)
    assert any(line.endswith("the first part that changes attention L3 is score.") for line in said)
    assert any(line.endswith("the first part that changes attention L3.gate is conv.") for line in said)


def test_methods_by_default_are_those_that_the_network_has() -> None:
    network, card = as_network(trained("vgg-gap"))
    found = check_sanity(network, card, pictures(), seeds=1, orders=["cascade"])
    assert found.maps == ("evidence L3", "grad-cam L3", "saliency", "guided-backprop", "sobel")
    assert found.left_out == {"attention": "vgg-gap has no attention, so it has no maps; use a vgg-att or vgg-pan"}
    with pytest.raises(BackendError, match="vgg-gap has no attention"):
        check_sanity(network, card, pictures(), methods=["attention"], seeds=1)
    with pytest.raises(UnknownNameError, match="did you mean 'saliency'"):
        check_sanity(network, card, pictures(), methods=["salience"], seeds=1)


def test_what_cannot_be_checked_is_refused() -> None:
    network, card = as_network(trained())
    with pytest.raises(ArgumentError, match="side must be at least 16 pixels, got 8"):
        check_sanity(network, card, pictures(side=8))
    with pytest.raises(ArgumentError, match="orders must be cascade, independent or both"):
        check_sanity(network, card, pictures(), orders=[])
    with pytest.raises(BackendError, match=r"vgg-att2-concat-pc@0\.0625 was not trained on permuted labels"):
        check_sanity(network, card, pictures(), labels=(network, card))


def test_maps_that_are_not_finite_name_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    @register_map_method("fragile", kind="signed", maps=("pixels",))
    def fragile(model: Any, images: Tensor) -> dict[str, Tensor]:
        first = model.attention["L2"].u[0]
        return {"pixels": images[:, 0] / (first == own).float()}

    network = trained()
    own = network.attention["L2"].u[0].detach().clone()  # type: ignore[index]
    try:
        with pytest.raises(BackendError, match=r"u L2 random, seed \d+: fragile that is not finite at pixels"):
            checked(network, methods=["fragile"])
    finally:
        METHODS.remove("fragile")


# Statistics and files -------------------------------------------------------------------------------------------------


def test_intervals_are_students_over_the_means_of_images() -> None:
    values = np.array([[0.1, 0.5, np.nan, 0.9], [0.3, np.nan, np.nan, 0.7]])
    found = Similarity.of(values)
    images = [0.2, 0.5, 0.8]
    expected = ttest_1samp(images, 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(0.5)
    assert found.ci95 == pytest.approx((expected.low, expected.high))
    assert found.n == 3
    assert found.seeds == pytest.approx((0.5, 0.5))
    assert Similarity.of(np.array([[0.25], [0.75]])) == Similarity(0.5, None, 1, (0.25, 0.75))
    assert Similarity.of(np.array([[np.nan, np.nan]])) == Similarity(None, None, 0, (None,))


@pytest.fixture(scope="module")
def results() -> SanityResults:
    return checked(trained(), methods=["evidence"], orders=["cascade"])


@pytest.fixture
def document(results: SanityResults) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(written(results))
    return found


def test_what_was_written_is_read_again(results: SanityResults, document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "sanity.json"
    path.write_text(json.dumps(document))
    found = read_sanity(path)
    assert json.loads(written(found)) == document
    assert found == results
    assert document["statements"] == statements(found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda of: of.update(schema="l2a-results/1"), "schema must be 'l2a-sanity/1'"),
        (lambda of: of.pop("rows"), "results has no 'rows'"),
        (lambda of: of["rows"][0].update(part="block 9"), "results.rows[0].part must be one of the parts"),
        (lambda of: of["rows"][0].update(order="upwards"), "results.rows[0].order must be one of cascade"),
        (lambda of: of["rows"][0]["similarity"].pop("hog"), "results.rows[0].similarity has no 'hog'"),
        (lambda of: of["rows"][1]["similarity"]["ssim"].update(ci95=[0.1]), "rows[1].similarity.ssim.ci95 must be"),
        (lambda of: of["rows"][0].update(unchanged=1), "results.rows[0].unchanged must be true or false"),
        (lambda of: of.update(seeds=[-1]), "results.seeds[0] must be an integer"),
        (lambda of: of.update(labels={"name": "x"}), "results.labels has no"),
    ],
)
def test_damaged_results_are_refused_by_the_field(
    change: Any, says: str, document: dict[str, Any], tmp_path: Path
) -> None:
    changed, path = copy.deepcopy(document), tmp_path / "sanity.json"
    change(changed)
    path.write_text(json.dumps(changed))
    with pytest.raises(EvaluationError) as caught:
        read_sanity(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_pictures_are_spread_over_files_and_classes(tmp_path: Path) -> None:
    paths = [save_picture(tmp_path / f"{k}.png", seed=k) for k in range(5)]
    found = pictures_in(paths, Preprocess(size=SIDE), limit=2)
    assert found.ids == (str(paths[0]), str(paths[2]))
    assert found.images_u8.shape == (2, 3, SIDE, SIDE)
    assert pictures_in([tmp_path], Preprocess(size=SIDE), limit=9).ids == tuple(map(str, paths))
    source = memory_source(rows=40)
    found = pictures_of(source, Preprocess(size=32), limit=4)
    assert sorted(source.labels[int(name)] for name in found.ids) == [0, 1, 2, 3]
    assert all(source.split[int(name)] == 1 for name in found.ids)  # of the test split alone
    np.testing.assert_array_equal(found.images_u8[0], source.pictures[int(found.ids[0])].transpose(2, 0, 1))
    with pytest.raises(ArgumentError, match="limit must be at least 1, got 0"):
        pictures_in(paths, Preprocess(), limit=0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for k in range(3):
        save_picture(root / f"{k}.jpg", seed=k)
    return root


def run(*arguments: str | Path) -> Any:
    return l2a("-q", "sanity", "--model", TINY, "--side", str(SIDE), "--seeds", "1", *arguments)


def test_the_command_writes_all_files_and_says_what_they_hold(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("--method", "attention,evidence", "--out", out, photos)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["sanity.csv", "sanity.html", "sanity.json", "sanity.svg"]
    found = read_sanity(out / "sanity.json")
    assert found.ids == tuple(str(photos / f"{k}.jpg") for k in range(3))
    assert found.maps == ("attention L2", "attention L3", "evidence L2", "evidence L3", "evidence all", "sobel")
    assert "1 (same)" in result.stdout
    for line in statements(found):
        assert f"- {line}" in result.stdout
    rows = list(csv.DictReader((out / "sanity.csv").read_text().splitlines()))
    assert len(rows) == 4 * len(found.rows)
    first = found.rows[0].similarity["spearman"]
    assert float(rows[0]["mean"]) == first.mean
    svg, page = ((out / name).read_text() for name in ("sanity.svg", "sanity.html"))
    for label in found.maps:
        assert label in svg
        assert label in page
    assert svg.count("block 3") == 2  # once a panel
    assert found.weights_sha256 in page
    assert_fails(run("--out", out, photos), 1, "sanity.json: exists", "--overwrite")
    before = (out / "sanity.json").read_bytes()
    assert run("--method", "attention,evidence", "--out", out, "--overwrite", photos).exit_code == 0
    assert (out / "sanity.json").read_bytes() == before


def test_names_are_never_markup(tmp_path: Path) -> None:
    name = "<b>\u202e\x1b[2J\ud800=1"
    network = trained("vgg-gap")
    card = dataclasses.replace(as_network(network)[1], name=name)
    of = dataclasses.replace(pictures(), name=name, ids=(name, "b", "c"))
    found = check_sanity(network, card, of, methods=["evidence"], seeds=1, orders=["cascade"])
    with sanity_folder(tmp_path / "out", overwrite=False):
        write_sanity(found, tmp_path / "out")
    assert read_sanity(tmp_path / "out" / "sanity.json").network == name
    for path in (tmp_path / "out").iterdir():
        if path.is_file():
            content = path.read_text(encoding="utf-8")
            assert not set("\u202e\x1b") & set(content), path
            assert path.suffix == ".json" or "<b>" not in content


def test_json_is_the_document(photos: Path, tmp_path: Path) -> None:
    options = ("--method", "evidence", "--no-independent", "--limit", "2")
    result = run(*options, "--json", "--out", tmp_path / "out", photos)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "out" / "sanity.json").read_text())
    found = read_sanity(tmp_path / "out" / "sanity.json")
    assert found.orders == ("cascade",)
    assert len(found.ids) == 2


def test_one_image_has_no_interval(photos: Path, tmp_path: Path) -> None:
    result = run("--method", "evidence", "--no-cascade", "--out", tmp_path / "out", photos / "0.jpg")
    assert result.exit_code == 0, result.output
    assert all(row.similarity["hog"].ci95 is None for row in read_sanity(tmp_path / "out" / "sanity.json").rows)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "name either images or folders, or --data"),
        (["{photos}", "--data", "digits"], 2, "name either images or folders, or --data"),
        (["{photos}", "--no-cascade", "--no-independent"], 2, "leave nothing to do without --labels"),
        (["{photos}", "--method", "salience"], 2, "did you mean 'saliency'"),
        (["{photos}", "--method", ","], 2, "--method must be names"),
        (["{photos}", "--method", "cam"], 1, "no class activation map"),
        (["{photos}", "--side", "8"], 2, "--side must be at least 16 pixels, got 8"),
        (["{photos}", "--limit", "0"], 2, "--limit must be at least 1"),
        (["{photos}", "--seeds", "0"], 2, "--seeds must be between 1 and 1,000"),
        (["{photos}", "--epochs", "3"], 2, "--epochs needs --labels train"),
        (["{photos}", "--labels-limit", "3"], 2, "--labels-limit needs --labels train"),
        (["{photos}", "--labels", "vgg-att2-concat-pc.cifar10-w025"], 1, "was not trained on permuted labels"),
        (["{photos}", "--labels", "train"], 2, "needs --labels-data"),
        (["{photos}/none.jpg"], 1, "none.jpg"),
    ],
)
def test_the_command_refuses(arguments: list[str], code: int, says: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert_fails(run(*(one.format(photos=photos) for one in arguments), "--out", out), code, says)
    assert not out.exists()


def test_the_numbers_in_the_document_are_those_that_were_measured() -> None:
    root = Path(__file__).parents[1]
    measured = json.loads((root / "benchmarks" / "results" / "sanity.json").read_text())
    document = (root / "docs" / "sanity.md").read_text(encoding="utf-8")
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in document.splitlines() if line[:1] == "|"]
    start = next(k for k, row in enumerate(table) if row[0] == "random down to")
    parts, (first, _, gap) = table[start][1:], measured["networks"]
    rows = table[start + 2 : start + 2 + len(first["cascade"])]
    assert [row[0] for row in rows] == list(first["cascade"])
    for label, *cells in rows:
        for part, cell in zip(parts, cells, strict=True):
            found = first["cascade"][label][part]
            assert cell == ("1 (same)" if found["unchanged"] else number(found["spearman"]["mean"])), (label, part)
    kept = number(gap["cascade"]["grad-cam L3"]["classifier"]["spearman"]["mean"])
    assert f"keeps {kept} when its classifier alone is random" in document
    speed = measured["speed"]
    assert f"A cascade of {speed['states']} states" in document
    assert f"takes {speed['median_seconds']:.0f} s on" in document
    for name in ("vgg-att2-concat-pc", "vgg-att2-concat-dp", "vgg-gap"):
        assert f"sanity-{name}.svg" in document
        assert f"Maps of {name}." in (root / "docs" / f"sanity-{name}.svg").read_text(encoding="utf-8")
