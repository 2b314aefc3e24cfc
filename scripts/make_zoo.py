"""Write docs/zoo.md from the cards of weights: those in the package, and those of other seeds in benchmarks/zoo.

    python scripts/make_zoo.py
    python scripts/make_zoo.py --add runs/*/*.safetensors

The second command first copies those weights to benchmarks/zoo, so that benchmarks/controls.py can be run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from l2a_transfer.models.weights import PRETRAINED, read_card
from l2a_transfer.training.recipe import RECIPES, TrainConfig

ROOT = Path(__file__).parents[1]
ZOO = ROOT / "benchmarks" / "zoo"
PAGE = ROOT / "docs" / "zoo.md"
TIMED_ALONE = frozenset({"vgg-att2-concat-pc.cifar10-w025.fast.seed-2"})
"""Runs with no other training at the same time; the durations of all others are not comparable."""
HEAD = (
    "# Zoo\n\n"
    "This page lists the trained networks whose weights are in the repository, with the accuracy on the data set that "
    "each was trained on. Use it to see which architectures, widths and seeds exist. `scripts/make_zoo.py` generates "
    "the table from the cards of the weights, and a test compares the two.\n\n"
    "- **Accuracy**: after the last epoch, on n test images, or on held-out images if the second column says so. The "
    "weights are in float16, as in the files. With several seeds, mean ± sample standard deviation.\n"
    "- **Minutes a run**: only measured in runs beside which no other training ran.\n"
    "- **Bold**: weights of this architecture ship with the package.\n\n"
    "| architecture | trained on | width | parameters | accuracy, % | n | seeds | recipe | devices | minutes a run |\n"
    "|---|---|---:|---:|---:|---:|---|---|---|---:|\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--add", nargs="*", type=Path, default=[], help="Weights that are kept.")
    for path in parser.parse_args().add:
        card = read_card(path).to_json()
        kept = ZOO / f"{stem(card)}.safetensors"
        if kept.exists() and digest(read_card(kept).to_json()) != digest(card):
            raise SystemExit(f"{kept}: another run of that name and seed; remove one of them")
        ZOO.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept)
        print(kept)
    PAGE.write_text(page(cards()))
    print(PAGE)


def cards() -> list[tuple[dict[str, Any], bool]]:
    """Each card, and whether its weights are in the package."""
    bundled = [(read_card(path).to_json(), True) for path in sorted(PRETRAINED.glob("*.safetensors"))]
    known = {digest(card) for card, _ in bundled}
    kept = [read_card(path).to_json() for path in sorted(ZOO.glob("*.safetensors"))]
    return [*bundled, *((card, False) for card in kept if digest(card) not in known)]


def stem(card: dict[str, Any]) -> str:
    """The name of a run, distinct from those of other samplers, recipes and seeds."""
    recipe = card["training"]["recipe"]
    sampler = f"-{recipe['sampler']}" if "sampler" in recipe else ""
    name, dot, tag = card["name"].rpartition(".")
    return f"{name}{sampler}{dot}{tag}.{recipe['name']}.seed-{card['training']['seed']}"


def digest(card: dict[str, Any]) -> str:
    """SHA-256 (hex) of what was built and how it was trained."""
    return hashlib.sha256(json.dumps([card["config"], card["training"]], sort_keys=True).encode()).hexdigest()


def page(found: list[tuple[dict[str, Any], bool]]) -> str:
    """The page with these cards: one line for all seeds of a network with one recipe, on any device."""
    groups: dict[tuple[Any, ...], list[tuple[dict[str, Any], bool]]] = defaultdict(list)
    for card, bundled in found:
        config, training = card["config"], card["training"]
        recipe = repr(TrainConfig.from_json(training["recipe"]))
        start = training.get("init_from", {}).get("sha256", "")
        same = (
            config["architecture"],
            training["data"],
            config["width"],
            json.dumps(config, sort_keys=True),
            training["split"],
            training["n"],
            recipe,
            start,
        )
        if training["seed"] in (other["training"]["seed"] for other, _ in groups[same]):
            raise SystemExit(f"{card['name']}, seed {training['seed']}: two cards of one run; remove one of them")
        groups[same].append((card, bundled))
    return HEAD + "".join(line([card for card, _ in own], any(b for _, b in own)) for _, own in sorted(groups.items()))


def line(own: list[dict[str, Any]], bundled: bool) -> str:
    first = own[0]
    config, training = first["config"], first["training"]
    metric = min(first["metrics"], key=len)  # others are called after it, as test_accuracy_sampled
    if f"{metric}_own_partner" in first["metrics"]:  # the name in earlier cards of networks of pairs
        metric = f"{metric}_own_partner"
    values = [100 * card["metrics"][metric]["value"] for card in own]
    n = first["metrics"][metric]["n"]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    recipe = TrainConfig.from_json(training["recipe"])
    devices, minutes = [], []
    for card in own:
        ran = card["training"]
        processes = f" × {ran['processes']}" if ran.get("processes", 1) > 1 else ""
        devices.append(f"{ran['device']}{processes}, {ran['precision']}")
        if stem(card) in TIMED_ALONE:
            minutes.append(f"{ran['seconds'] / 60:.0f} ({devices[-1]})")
    attention = "" if config["normalizer"] == "softmax" else f", {config['normalizer']}"
    attention += f", {config['selection']}" if "selection" in config else ""
    name = f"**{config['architecture']}**" if bundled else config["architecture"]
    data = training["data"] if training["split"] == "train" else f"{training['data']}, {training['split']}"
    seeds = ", ".join(str(card["training"]["seed"]) for card in own)
    cells = [
        name + attention,
        data,
        f"{config['width']:g}",
        f"{first['parameters']:,}",
        f"{statistics.fmean(values):.2f}{spread}",
        f"{n:,}",
        f"{len(values)} ({seeds})",
        ", ".join([recipe.name, f"{recipe.epochs} epochs", *changed(recipe), *started(training)]),
        "; ".join(dict.fromkeys(devices)),
        "; ".join(minutes) or "–",
    ]
    return f"| {' | '.join(cells)} |\n"


def changed(recipe: TrainConfig) -> list[str]:
    """The differences from the recipe with that name, except its epochs."""
    base = RECIPES.get(recipe.name, recipe)
    fields = [field.name for field in dataclasses.fields(recipe) if field.name not in ("name", "epochs")]
    return [f"{name} {getattr(recipe, name)}" for name in fields if getattr(recipe, name) != getattr(base, name)]


def started(training: dict[str, Any]) -> list[str]:
    return [f"from {training['init_from']['name']}"] if "init_from" in training else []


if __name__ == "__main__":
    main()
