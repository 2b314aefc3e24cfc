"""Attention against its uniform control and against VGG on the data set it was trained on, whatever the result.

Takes weights files of any architectures and seeds, of one width, trained on one data set with one recipe, and evaluates
each once on the test images; files of another width or data set are skipped. Between architectures with at least two
seeds each, it computes a t interval with the sum of the errors over seeds and over test images. For the first seed of
each, it computes the paired test of the mean class accuracy and McNemar's exact p on the same images. These two hold
only for the two files.

    python benchmarks/controls.py --data-dir data --out benchmarks/results/controls.json benchmarks/zoo/*.safetensors
"""

from __future__ import annotations

import json
import shlex
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from provenance import provenance

from l2a_transfer.data.readers import open_source
from l2a_transfer.data.sources import ImageSource
from l2a_transfer.evaluation.paired import mcnemar, paired_test
from l2a_transfer.evaluation.statistics import bonferroni, images_error, over_seeds
from l2a_transfer.models.weights import PRETRAINED, Card, load_weights, read_card
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.training.data import read_pixels
from l2a_transfer.training.recipe import TrainConfig

CONFIDENCE = 0.95


@click.command()
@click.argument("weights", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--bundled/--no-bundled", default=True, show_default=True, help="The weights in the package too.")
@click.option("--width", type=float, default=0.25, show_default=True, help="Of the networks that are taken.")
@click.option("--data", default="cifar10", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the data set.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(weights: tuple[Path, ...], bundled: bool, width: float, data: str, data_dir: Path, out: Path) -> None:
    files = [*(sorted(PRETRAINED.glob("*.safetensors")) if bundled else ()), *weights]
    source = open_source(data, data_dir=data_dir, split="test")
    groups: dict[str, list[tuple[Card, NDArray[np.bool_]]]] = defaultdict(list)
    cards = {path: read_card(path) for path in files}
    for path, own_card in cards.items():
        if own_card.config.width != width or own_card.training["data"] != data:
            continue
        card, right = asked(path, source)
        if card.training["split"] != "train":
            raise click.ClickException(f"{path}: trained on {card.training['data']} ({card.training['split']})")
        own = groups[card.config.architecture]
        if any(card.config != other.config for other, _ in own):
            raise click.ClickException(f"{path}: not the {card.config.architecture} of the files before: {card.config}")
        if any(card.training["seed"] == other.training["seed"] for other, _ in own):
            raise click.ClickException(f"{path}: seed {card.training['seed']} was given before")
        own.append((card, right))
        print(path.name, card.training["seed"], right.mean(), file=sys.stderr)
    recipes = {TrainConfig.from_json(card.training["recipe"]) for own in groups.values() for card, _ in own}
    if len(recipes) > 1:
        raise click.ClickException("more than one recipe: " + "; ".join(map(str, recipes)))
    networks = [
        {
            "architecture": name,
            "width": own[0][0].config.width,
            "runs": [
                {"seed": card.training["seed"], "accuracy": float(right.mean()), "commit": card.training["commit"]}
                for card, right in own
            ],
        }
        for name, own in groups.items()
    ]
    pairs = [compared(groups, a, b, source.labels) for a, b in combinations(groups, 2)]
    for pair in pairs:
        pair["first_seeds"]["p_adjusted"] = bonferroni(pair["first_seeds"]["p"], len(pairs))
    document = {
        "schema": "l2a-benchmark/1",
        "what": "test accuracy of networks by one recipe, and the differences between architectures",
        **provenance(shlex.join(["python", "benchmarks/controls.py", *sys.argv[1:]])),
        "data": data,
        "n_test": len(source),
        "recipe": recipes.pop().to_json(),
        "networks": networks,
        "differences": pairs,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out)


@torch.inference_mode()
def asked(path: Path, source: ImageSource) -> tuple[Card, NDArray[np.bool_]]:
    """The card, and which test images (N,) the network classifies correctly."""
    network, card = load_weights(path)
    preprocess: Preprocess = card.preprocess
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    predicted = [
        network(((part.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)).argmax(1)
        for part in torch.from_numpy(read_pixels(source, preprocess)).split(250)
    ]
    return card, torch.cat(predicted).numpy() == source.labels


def compared(groups: dict[str, Any], a: str, b: str, truth: NDArray[np.int32]) -> dict[str, Any]:
    """The difference a − b, over seeds and on the images of the first seeds."""
    means = {name: [mean_class(truth, right) for _, right in groups[name]] for name in (a, b)}
    right_a, right_b = groups[a][0][1], groups[b][0][1]
    found = paired_test(truth, right_a, right_b, rng=np.random.default_rng(0))
    pair: dict[str, Any] = {
        "a": a,
        "b": b,
        "seeds": [len(means[a]), len(means[b])],
        "first_seeds": {
            "difference": found.difference,
            "ci95": found.interval(CONFIDENCE),
            "p": found.p,
            "mcnemar_p": mcnemar(int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())),
        },
    }
    if min(map(len, means.values())) >= 2:
        share_a, share_b = (np.mean([right for _, right in groups[name]], axis=0) for name in (a, b))
        images, freedom = images_error(truth, share_a - share_b)
        over = over_seeds(means[a], means[b], images=images, freedom=freedom)
        pair["over_seeds"] = {
            "difference": float(np.mean(means[a]) - np.mean(means[b])),
            "ci95": over and over.interval(CONFIDENCE),
            "p": over and over.p,
        }
    return pair


def mean_class(truth: NDArray[np.int32], right: NDArray[np.bool_]) -> float:
    return float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))


if __name__ == "__main__":
    main()
