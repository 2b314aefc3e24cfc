"""Choose recipes on training images only: the same settings for attention and for its controls.

Each candidate is a set of FIELD=VALUE changes to a recipe. Every network is trained with every candidate on all but
5,000 training images and measured on those, which are always the same. The test images are never read. Finished runs
are kept and interrupted ones continue, so a long search can be done in parts; --out has the finished ones. Averaging
does not change the training itself, so a candidate with averaging is also measured without it (`last`). --set shortens
the recipe for all candidates, if the full one is too long for a search.

    python benchmarks/recipe_search.py --data-dir data --work runs/search --out benchmarks/results/recipe-search.json \\
        --set epochs=3 --set resolutions=0:16,0.67:24 --set average=0.02 \\
        --candidate lr=0.1 --candidate lr=0.2 --candidate lr=0.4

`--selection hard` searches for hard attention. Search for its control with as many candidates and the same --set.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import click
from provenance import provenance

from l2a_transfer.data.readers import open_source
from l2a_transfer.models.config import DEFAULT_WIDTH, ModelConfig
from l2a_transfer.models.weights import read_card
from l2a_transfer.training.accuracy import evaluate
from l2a_transfer.training.data import TrainingData
from l2a_transfer.training.processes import Placement
from l2a_transfer.training.recipe import find_recipe
from l2a_transfer.training.runs import run_training
from l2a_transfer.training.trainer import Trainer


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    show_default=True,
    default=("vgg", "vgg-att2-concat-pc", "vgg-att2-concat-uniform"),
)
@click.option("--selection", default="soft", show_default=True, help="Of every network.")
@click.option("--width", type=float, default=DEFAULT_WIDTH, show_default=True)
@click.option("--data", default="cifar10", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the data set.")
@click.option("--recipe", default="fast", show_default=True)
@click.option("--set", "shared", multiple=True, help="FIELD=VALUE for all candidates; repeatable.")
@click.option("--candidate", "candidates", multiple=True, required=True, help="'FIELD=VALUE FIELD=VALUE'; repeatable.")
@click.option("--seeds", default="0", show_default=True)
@click.option("--holdout", type=int, default=5000, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", default="auto", show_default=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(
    models: tuple[str, ...],
    selection: str,
    width: float,
    data: str,
    data_dir: Path,
    recipe: str,
    shared: tuple[str, ...],
    candidates: tuple[str, ...],
    seeds: str,
    holdout: int,
    device: str,
    precision: str,
    work: Path,
    out: Path,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    about = provenance(shlex.join(["python", "benchmarks/recipe_search.py", *sys.argv[1:]]))
    source = TrainingData.from_source(open_source(data, data_dir=data_dir, split="train"), holdout=holdout)
    base = find_recipe(recipe, data).with_settings(shared)
    chosen = {candidate: base.with_settings(candidate.split()) for candidate in candidates}  # wrong ones end it here
    placement = Placement(device=device, precision=precision)
    runs: list[dict[str, Any]] = []
    for seed in map(int, seeds.split(",")):
        for candidate, settings in chosen.items():
            for model in models:
                config = ModelConfig(model, num_classes=len(source.classes), width=width, selection=selection)
                trainer = Trainer(config, settings, source, seed=seed, placement=placement)
                folder = work / f"{model}-{selection}-{candidate.replace(' ', '-')}-seed-{seed}"
                result = run_training(trainer, folder, resume=True, progress=False)
                value = result.metrics[source.test_metric]
                training = read_card(result.weights).training
                runs.append(
                    {
                        "model": model,
                        "candidate": candidate,
                        "seed": seed,
                        "accuracy": value["value"],
                        "last": evaluate(trainer.model, source.test, trainer.preprocess) if settings.average else None,
                        "n": value["n"],
                        "seconds": result.seconds,
                        "ran_on": training["device"],
                        "precision": training["precision"],
                        "commit": training["commit"],
                    }
                )
                print(runs[-1], file=sys.stderr)
                write(
                    out, {**about, "base": base.to_json(), "selection": selection, "width": width, "data": data}, runs
                )
    print(out)


def write(out: Path, about: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    document = {
        "schema": "l2a-benchmark/1",
        "what": "candidates of a recipe, measured on held-out training images; the test images are not read",
        **about,
        "runs": runs,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
