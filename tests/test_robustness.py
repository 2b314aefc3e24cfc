"""The verb robustness: rows, intervals, paired tests and warnings by hand, its files, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import ArgumentError, DataError, EvaluationError, UnknownNameError
from l2a_transfer.evaluation.paired import mcnemar
from l2a_transfer.evaluation.robustness import evaluate_robustness, masking_warnings
from l2a_transfer.evaluation.robustness_results import RobustnessConfig, RobustnessRow, read_robustness
from l2a_transfer.evaluation.tested import chosen_images, class_numbers, open_networks
from l2a_transfer.models.interface import Network
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import Card, save_weights
from l2a_transfer.report import lookup
from l2a_transfer.report.robustness import FILES
from tests.conftest import TINY, assert_fails, l2a, memory_source

CLASSES = tuple(f"class {k}" for k in range(10))
QUICK = RobustnessConfig(epsilon=(1, 8), steps=2)


def named(seed: int = 0, classes: tuple[str, ...] = CLASSES, name: str = "one") -> tuple[Network, Card]:
    """A tiny network that knows classes by name."""
    network, card = load_model(TINY, seed=seed)
    return network, dataclasses.replace(card, classes=classes, name=name, training={"seed": seed})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("weights")
    for k in range(2):
        network, card = named(k, ("a", "b", *CLASSES[2:]), f"net-{k}")
        save_weights(network, card, folder / f"{k}.safetensors")
    return folder / "0.safetensors", folder / "1.safetensors"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "d.npz"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    split = np.array(["train"] * 4 + ["test"] * 8)
    np.savez(path, images=images, labels=np.array([0, 1] * 6), classes=np.array(["a", "b"]), split=split)
    return f"npz:{path}"


def test_the_rows_are_what_each_network_answers() -> None:
    source = memory_source(rows=20)
    models = [named(0, name="one"), named(1, name="two")]
    results = evaluate_robustness(models, source, QUICK)
    settings = [("clean", 0), ("fgsm", 1), ("fgsm", 8), ("pgd", 1), ("pgd", 8), ("noise", 1), ("noise", 8)]
    assert [(r.model, r.attack, r.epsilon) for r in results.rows] == [
        (m, a, e) for m in ("one", "two") for a, e in settings
    ]
    for (network, card), row in zip(models, (results.rows[0], results.rows[7]), strict=True):
        pixels = np.stack([card.preprocess.pixels(source.image(k)) for k in range(20)])
        mean, std = card.preprocess.statistics()
        with torch.no_grad():
            answers = network.eval()((torch.from_numpy(pixels) / 255 - mean) / std).argmax(dim=1).numpy()
        assert row.right == (answers == source.labels).sum()
        assert row.accuracy == row.right / 20
        low, high = row.accuracy_ci95
        z = 1.959963984540054  # Wilson's interval: |p − π| = z sqrt(π (1 − π) / n) at both ends
        for end in {low, high} - {0.0, 1.0}:
            assert (row.accuracy - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / 20, rel=1e-3, abs=1e-9)


def test_networks_are_compared_with_the_reference_on_the_same_images() -> None:
    models = [named(k, name=name) for k, name in enumerate(("one", "two", "three"))]
    config = dataclasses.replace(QUICK, epsilon=(4,), attack=("fgsm",), reference="two")
    results = evaluate_robustness(models, memory_source(rows=40), config)
    assert [(c.a, c.b, c.attack) for c in results.comparisons] == [
        (a, "two", attack) for a in ("one", "three") for attack in ("clean", "fgsm")
    ]
    for c in results.comparisons:
        a, b = (results.right[name, c.attack, c.epsilon] for name in (c.a, c.b))
        assert (c.only_a, c.only_b) == ((a & ~b).sum(), (~a & b).sum())
        assert c.difference == pytest.approx(a.mean() - b.mean())
        assert c.p_mcnemar == pytest.approx(mcnemar(c.only_a, c.only_b))
        assert c.p_adjusted == min(1.0, 4 * c.p)
        low, high = c.ci95_simultaneous
        assert (low <= 0 <= high) == (c.p_adjusted >= 0.05)
        assert low <= c.difference <= high


def row(model: str, attack: str, epsilon: float, right: int) -> RobustnessRow:
    return RobustnessRow(model, attack, epsilon, 100, right, right / 100, (0.0, 1.0))


def test_signs_of_masked_gradients_are_said() -> None:
    good = [row("m", "clean", 0, 95), row("m", "fgsm", 1, 60), row("m", "pgd", 1, 60), row("m", "noise", 1, 94)]
    good += [row("m", "fgsm", 2, 60), row("m", "pgd", 2, 10), row("m", "noise", 2, 95)]
    assert list(masking_warnings(good, {"m": 0})) == []
    (said,) = masking_warnings([*good[:2], row("m", "pgd", 1, 61), *good[3:]], {"m": 0})
    assert said.startswith(
        "m at ε = 1/255: accuracy under PGD, 61.0 %, is above that under FGSM, 60.0 %. Gradients may"
    )
    (said,) = masking_warnings([*good[:4], row("m", "fgsm", 2, 63), *good[5:]], {"m": 0})
    assert said.startswith("m at ε = 2/255: accuracy under FGSM, 63.0 %, is above that at ε = 1/255, 60.0 %.")
    said, also = masking_warnings([*good[:3], row("m", "noise", 1, 59), *good[4:]], {"m": 0})
    assert "under PGD, 60.0 %, is above that with noise" in also
    assert said.startswith(
        "m at ε = 1/255: accuracy under FGSM, 60.0 %, is above that with noise of the same size, 59.0 %"
    )
    assert list(masking_warnings(good, {"m": 2})) == [
        "m: 2 images with a gradient of 0 in every pixel, where an attack by gradients cannot begin."
    ]


def test_a_network_whose_gradients_are_masked_is_found_out() -> None:
    """Logits of rounded pixels have no gradient: FGSM and PGD do nothing, and noise does."""

    class Rounded(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.network((x * 20).round() / 20 + 0 * x)
            return logits

    from l2a_transfer.explain.checks.robustness import under_attack

    network = named()[0]
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = under_attack(Rounded(network).eval(), [(images, torch.arange(8))], epsilons=[8], attacks=["fgsm"])
    assert found.flat.all()
    np.testing.assert_array_equal(found.right["fgsm", 8], found.right["clean", 0])


def test_classes_are_matched_by_name(weights: tuple[Path, Path], data: str) -> None:
    source = memory_source(rows=8)
    (one,) = open_networks([named(0, CLASSES[::-1])], device=torch.device("cpu"))
    assert class_numbers(source, one).tolist() == [9, 9, 8, 8, 7, 7, 6, 6]
    (other,) = open_networks([named(0, ("class 0", "class 1", "class 2x"))], device=torch.device("cpu"))
    with pytest.raises(DataError, match="memory has the class 'class 2' and 1 other, which one does not know; did you"):
        class_numbers(source, other)
    (unnamed,) = open_networks([TINY], device=torch.device("cpu"))
    with pytest.raises(DataError, match=r"has no class names.*use weights that were trained"):
        class_numbers(source, unnamed)
    nameless = dataclasses.replace(source, labels=np.array([0, -1, 0, 0, 0, -1, 0, 0], dtype=np.int32))
    with pytest.raises(DataError, match="memory: 2 images without a class"):
        class_numbers(nameless, one)


def test_which_images_and_networks_are_tested(weights: tuple[Path, Path], data: str) -> None:
    source = open_source(data)
    assert len(chosen_images(source)) == 8  # the split called test
    assert len(chosen_images(source, split="train")) == 4
    assert len(chosen_images(source, limit=3)) == 3
    device = torch.device("cpu")
    with pytest.raises(ArgumentError, match="models must be one or more networks, got none"):
        open_networks([], device=device)
    with pytest.raises(ArgumentError, match="each model must be given once"):
        open_networks([weights[0], weights[0]], device=device)
    found = open_networks([weights[0], named(0, name="net-0")], device=device)
    assert [one.name for one in found] == [str(weights[0]), "net-0 (2)"]
    assert [one.name for one in open_networks(weights, device=device)] == ["net-0", "net-1"]
    network, card = named()
    network.train()
    (copy,) = open_networks([(network, card)], device=device)
    assert network.training
    assert not copy.network.training
    assert copy.network is not network


def test_the_command_writes_what_it_prints(weights: tuple[Path, Path], data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = ("robustness", "--model", weights[0], "--model", weights[1], "--data", data, "--out", out)
    small = ("--epsilon", "8,2", "--attack", "pgd", "--steps", "1", "--step", "0.5")
    result = l2a("-q", *run, *small)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    document = read_robustness(out / "robustness.json")
    assert document["data"]["images"] == 8
    assert document["config"]["epsilon"] == [2.0, 8.0]
    assert [model["name"] for model in document["models"]] == ["net-0", "net-1"]
    assert [(r["attack"], r["epsilon"]) for r in document["rows"][:5]] == [
        *(("clean", 0.0), ("pgd", 2.0), ("pgd", 8.0)),
        *(("noise", 2.0), ("noise", 8.0)),
    ]
    for answers, line in zip(document["answers"], document["rows"], strict=True):
        assert answers["right"].count("1") == line["right"]
        assert len(answers["right"]) == line["n"] == len(document["images"])
    with (out / "robustness.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["right"]) for line in lines] == [line["right"] for line in document["rows"]]
    page, text = ((out / f"robustness.{end}").read_text(encoding="utf-8") for end in ("html", "md"))
    for comparison in document["comparisons"]:
        assert f"- {lookup.verdict(SimpleNamespace(**comparison))}\n" in result.stdout
    assert "robustness.json</code> (l2a-robustness/1)" in page
    assert "| net-1 |" in text
    assert (out / "robustness.svg").read_text(encoding="utf-8").startswith("<svg")
    assert_fails(l2a("-q", *run, *small), 1, "robustness.json: exists", "--overwrite replaces the report")
    again = l2a("-q", *run, *small, "--overwrite", "--json")
    assert json.loads(again.stdout) == document


def test_the_schema_refuses_another_document(tmp_path: Path) -> None:
    path = tmp_path / "robustness.json"
    path.write_text('{"schema": "l2a-robustness/1"}')
    with pytest.raises(EvaluationError, match="not robustness results of this program: robustness has no 'config'"):
        read_robustness(path)
    path.write_text("{")
    with pytest.raises(EvaluationError, match="not robustness results"):
        read_robustness(path)


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (("--epsilon", "1,x"), 2, ("--epsilon must be numbers separated by commas, such as 1,2,4",)),
        (("--epsilon", "300"), 2, ("--epsilon must be different numbers above 0 and at most 255",)),
        (("--epsilon", "nan"), 2, ("--epsilon must be different numbers above 0",)),
        (("--attack", "fsgm"), 2, ("--attack must be one of fgsm, pgd; got 'fsgm'; did you mean 'fgsm'?",)),
        (("--attack", ","), 2, ("--attack must be one or more different names",)),
        (("--steps", "0"), 2, ("--steps must be between 1 and 10,000, got 0",)),
        (("--step", "-1"), 2, ("--step must be above 0",)),
        (("--reference", "net-7"), 2, ("--reference must be one of net-0", "did you mean 'net-0'?")),
        (("--split", "tset"), 2, ("test",)),
        (("--model", TINY), 1, ("has no class names",)),
    ],
)
def test_what_the_command_refuses(
    given: tuple[str, ...], code: int, words: tuple[str, ...], weights: tuple[Path, Path], data: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert_fails(l2a("robustness", "--model", weights[0], "--data", data, "--out", out, *given), code, *words)
    assert not out.exists()


def test_classes_that_a_network_does_not_know_end_the_command(weights: tuple[Path, Path], tmp_path: Path) -> None:
    images, classes = np.zeros((4, 8, 8, 3), dtype=np.uint8), np.array(["a", "b", "owl"])
    np.savez(tmp_path / "d.npz", images=images, labels=np.array([0, 1, 2, 0]), classes=classes)
    run = ("robustness", "--model", weights[0], "--data", f"npz:{tmp_path / 'd.npz'}", "--out", tmp_path / "out")
    assert_fails(l2a(*run), 1, "has the class 'owl', which net-0 does not know", "its classes are a, b")


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ArgumentError, match="batch_size must be at least 1"):
        RobustnessConfig(batch_size=0)
    with pytest.raises(UnknownNameError, match="device must be one of"):
        RobustnessConfig(device="gpu")
