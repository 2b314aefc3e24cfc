"""`l2a-transfer train`: make weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click


@click.command("train")
@click.option("--model", required=True, metavar="ARCH", help="Architecture, as vgg-att2-concat-pc.")
@click.option("--data", required=True, help="What to train on: cifar10 or cifar100.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path, readable=False), required=True, help="Folder of the data set."
)
@click.option("--download/--no-download", default=False, help="Fetch the data set into --data-dir.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, readable=False),
    required=True,
    metavar="DIR",
    help="Where the run is kept.",
)
@click.option("--recipe", default="fast", show_default=True, help="fast or one-cycle.")
@click.option("--epochs", type=int, help="Overrides the recipe.")
@click.option("--batch-size", type=int, help="Overrides the recipe.")
@click.option("--lr", type=float, help="Peak learning rate; overrides the recipe.")
@click.option("--dropout", type=float, help="Scale of the paper's dropout rates; overrides the recipe.")
@click.option("--width", type=float, default=0.25, show_default=True, help="Scale of all channel counts.")
@click.option("--normalizer", default="softmax", show_default=True, help="softmax, sparsemax or entmax15.")
@click.option("--global-branch", default="auto", show_default=True, help="auto, or always to build an inert g.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--holdout", type=int, metavar="N", help="Train without N training images and measure on those.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--precision", default="auto", show_default=True, help="auto, fp32 or bf16.")
@click.option("--resume/--no-resume", default=False, help="Go on with the run in --out.")
@click.option("--overwrite/--no-overwrite", default=False, help="Replace the run in --out.")
@click.pass_obj
def command(obj: dict[str, Any], /, **given: Any) -> None:
    """Train a network on CIFAR and write its weights with a card.

    \b
    Example:
      l2a-transfer train --model vgg-att2-concat-pc --data cifar10 --data-dir data --out runs/att2
    """
    from l2a_transfer.data.cifar import FOLDERS, read_cifar
    from l2a_transfer.data.download import fetch
    from l2a_transfer.data.registry import find_dataset
    from l2a_transfer.errors import unknown_name
    from l2a_transfer.models.config import ModelConfig
    from l2a_transfer.training.recipe import find_recipe
    from l2a_transfer.training.trainer import Trainer, TrainingData, train

    if given["data"] not in FOLDERS:
        raise unknown_name("data set to train on", given["data"], FOLDERS)
    overrides = {key: given[key] for key in ("epochs", "batch_size", "lr", "dropout") if given[key] is not None}
    recipe = dataclasses.replace(find_recipe(given["recipe"]), **overrides)
    config = ModelConfig(
        given["model"],
        num_classes=10 if given["data"] == "cifar10" else 100,
        width=given["width"],
        normalizer=given["normalizer"],
        global_branch=given["global_branch"],
    )
    if given["download"]:
        fetch(find_dataset(given["data"]), given["data_dir"])
    x, y, classes = read_cifar(given["data"], given["data_dir"], "train")
    x_test, y_test, _ = read_cifar(given["data"], given["data_dir"], "test")
    data = TrainingData(given["data"], classes, x, y, x_test, y_test)
    if given["holdout"]:
        data = data.holdout(given["holdout"])
    trainer = Trainer(config, recipe, data, seed=given["seed"], device=given["device"], precision=given["precision"])
    result = train(
        trainer, given["out"], resume=given["resume"], overwrite=given["overwrite"], progress=obj["progress"]
    )
    for metric, value in result.metrics.items():
        click.echo(f"{metric} {value['value']:.4f} (n = {value['n']}), {result.seconds:.0f} s")
    click.echo(str(result.weights))
