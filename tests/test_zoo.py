"""The zoo's page says what the cards say."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from l2a_transfer.models.config import ModelConfig
from l2a_transfer.training.cards import weights_name
from tests.conftest import script

ROOT = Path(__file__).parents[1]


def test_the_page_is_made_of_the_cards() -> None:
    zoo = script("make_zoo")
    assert (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8") == zoo.page(zoo.cards())


def test_the_family_s_tables_are_made_of_configs_cards_and_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    family = script("make_attention")
    blocks = family.BLOCK.findall((ROOT / "docs" / "attention.md").read_text(encoding="utf-8"))
    tables = {name: rows for _, name, rows, _ in blocks}
    assert tables == {
        "mechanism": family.mechanism(),
        "reached": family.reached(),
        "differences": family.differences(),
    }
    assert tables["mechanism"].count("\n") == 2 + len(family.FAMILY)
    assert family.cost({"over_uniform": 1.04, "all_over_uniform": [0.967, 1.04, 1.127]}) == "1.04 (0.97–1.13)"
    (pan,) = (line for line in tables["mechanism"].splitlines() if line.startswith("| `pan` |"))
    plain = pan.replace("\N{NO-BREAK SPACE}", " ")
    assert plain.startswith("| `pan` | a gate σ(⟨u, l_i + g₂⟩ + b) at L2, then softmax(c)_i at L3 | yes | no |")
    pc = next(member for member in family.FAMILY if member.name == "pc")
    assert pc.weights(0.25).stem == "vgg-att2-concat-pc.cifar10-w025"
    assert next(member for member in family.FAMILY if member.name == "dp").weights(0.25, seed=17) is None


def test_results_of_maps_and_features_are_in_the_family_s_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    family = script("make_attention")
    row = {"attention": "pc", "data": "stanford40", "mean_class_accuracy": 0.5, "mean_class_accuracy_ci95": [0.4, 0.6]}
    j = {"jaccard": {"class_mean": 0.25, "class_ci95": [0.2, 0.3]}}
    maps = [{"attention": "pc", "method": "evidence", "map": "L3", "measures": j}]
    results = {"attention-transfer": {"rows": [row]}, "attention-localization": {"sets": {"voc-coseg": {"rows": maps}}}}
    monkeypatch.setattr(family, "result", results.__getitem__)
    (line,) = (own for own in family.reached().splitlines() if own.startswith("| `pc` |"))
    assert line.endswith(" | 50.0 (40.0 to 60.0) | 25.0 (20.0 to 30.0) |")
    assert "caltech101" not in family.reached()  # which no result has


def test_the_tables_of_results_are_made_of_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    study = script("make_results")
    monkeypatch.setattr("sys.argv", ["make_results.py", "--check"])
    study.main()
    results = json.loads(study.RESULT.read_text(encoding="utf-8"))["results"]
    whole = [own for own in results["comparisons"] if own["verdict"] != "incomplete"]
    assert study.comparisons(results).count("\n") == 2 + sum(len(own["summaries"]) for own in whole)
    summaries = {(own["name"], own["features"]): own["summaries"][0] for own in whole}
    for page in ("README.md", "docs/index.md", "docs/concepts/method.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for name in ("H1-vgg", "H2"):
            difference, _, ends = study.interval(summaries[name, "as they are"]["estimate"]).partition(" ")
            assert f"{difference} points {ends}" in text, page
    results["hypotheses"][1]["verdict"] = "supported"
    assert "| H2 | A − U is above 0 on unseen sets | supported |" in study.verdicts(results)


def test_only_runs_timed_alone_have_a_time() -> None:
    zoo = script("make_zoo")
    card, _ = zoo.cards()[0]
    assert zoo.line([card], True).endswith(" | – |\n")
    zoo.TIMED_ALONE = {zoo.stem(card)}
    minutes = f"{card['training']['seconds'] / 60:.0f} (cpu, 1 thread, fp32)"
    assert zoo.line([card], True).endswith(f" | cpu, 1 thread, fp32 | {minutes} |\n")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "vgg-att2-concat-pc.cifar10-w025"),
        ({"normalizer": "sparsemax"}, "vgg-att2-concat-pc-sparsemax.cifar10-w025"),
        ({"normalizer": "tvmax:0.1"}, "vgg-att2-concat-pc-tvmax-0.1.cifar10-w025"),
        ({"selection": "top:4"}, "vgg-att2-concat-pc-top-4.cifar10-w025"),
    ],
)
def test_another_attention_has_another_name(options: dict[str, str], name: str) -> None:
    zoo = script("make_zoo")
    card, _ = zoo.cards()[0]
    card["name"] = weights_name(ModelConfig("vgg-att2-concat-pc", **options), "cifar10")
    assert card["name"] == name
    assert zoo.stem(card) == f"{name}.fast.seed-0"
    card["training"]["recipe"]["sampler"] = "gumbel-st"
    assert zoo.stem(card) == f"{name.replace('.cifar10', '-gumbel-st.cifar10')}.fast.seed-0"


def test_seeds_of_one_network_share_a_line() -> None:
    zoo = script("make_zoo")
    card, _ = zoo.cards()[0]
    other = copy.deepcopy(card)
    other["training"]["seed"] = 5
    other["metrics"]["test_accuracy"]["value"] = card["metrics"]["test_accuracy"]["value"] + 0.02
    mean = 100 * card["metrics"]["test_accuracy"]["value"] + 1
    lines = zoo.page([(card, True), (other, False)]).removeprefix(zoo.HEAD).splitlines()
    assert len(lines) == 1
    assert f"| {mean:.2f} ± 1.41 | 10,000 | 2 (0, 5) |" in lines[0]
    other["training"].update(device="cuda, another", precision="bf16", seconds=120.0)
    other["training"]["recipe"]["cutout"] = 0  # as a card of today has it, which is what ran without the field
    (line,) = zoo.page([(card, True), (other, False)]).removeprefix(zoo.HEAD).splitlines()
    assert line.endswith("| cpu, 1 thread, fp32; cuda, another, bf16 | – |")
    other["training"]["processes"] = 4
    assert "; cuda, another × 4, bf16 |" in zoo.page([(card, True), (other, False)])
    with pytest.raises(SystemExit, match="seed 5: two cards of one run"):
        zoo.page([(card, True), (other, False), (other, False)])
    other["training"]["recipe"].update(lr=0.4, cutout=8)
    assert "| fast, 14 epochs, lr 0.4, cutout 8 |" in zoo.page([(card, True), (other, False)])
    other["training"]["recipe"].update(lr=0.2, cutout=0)
    for part, key, value in (("training", "n", 40_000), ("config", "normalizer", "sparsemax")):
        before, other[part][key] = other[part][key], value
        assert len(zoo.page([(card, True), (other, False)]).removeprefix(zoo.HEAD).splitlines()) == 2
        other[part][key] = before
    other["training"]["recipe"]["epochs"] = 15
    assert len(zoo.page([(card, True), (other, False)]).removeprefix(zoo.HEAD).splitlines()) == 2
