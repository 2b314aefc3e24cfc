"""`l2a-transfer train`: make weights."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import click

from l2a_transfer.cli.data import reading_options
from l2a_transfer.cli.output import echo
from l2a_transfer.cli.paths import FOLDER, PATH
from l2a_transfer.models.config import DEFAULT_WIDTH

log = logging.getLogger(__name__)
SHORTCUTS = ("epochs", "batch_size", "lr", "dropout")
OF_MODEL = ("width", "normalizer", "global_branch")


@click.command("train")
@click.option("--model", required=True, metavar="ARCH", help="Architecture, as vgg-att2-concat-pc.")
@click.option("--data", required=True, help="A data set with training and test images, or KIND:PATH as for extract.")
@click.option("--data-dir", type=PATH, help="Folder of a named data set.")
@click.option("--download/--no-download", default=False, help="Fetch the data set into --data-dir.")
@reading_options
@click.option(
    "--out",
    type=FOLDER,
    required=True,
    metavar="DIR",
    help="Where the run is kept.",
)
@click.option("--recipe", default="fast", show_default=True, help="fast, paper or finetune.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Any field of the recipe; repeatable.")
@click.option("--epochs", type=int, help="Overrides the recipe.")
@click.option(
    "--batch-size", type=int, help="Of all processes together; overrides the recipe, and its rate scales with it."
)
@click.option("--lr", type=float, help="Peak learning rate, whatever the batch; overrides the recipe.")
@click.option("--dropout", type=float, help="Scale of the paper's dropout rates; overrides the recipe.")
@click.option("--image-size", type=int, help="Side in pixels; the recipe's sizes keep their proportions.")
@click.option("--fit", default="stretch", show_default=True, help="stretch or crop: pictures that are not square.")
@click.option("--init-from", metavar="MODEL", help="Weights to start from, as --model of extract takes them.")
@click.option("--width", type=float, default=DEFAULT_WIDTH, show_default=True, help="Scale of all channel counts.")
@click.option("--normalizer", default="softmax", show_default=True, help="softmax, sparsemax or entmax15.")
@click.option("--global-branch", default="auto", show_default=True, help="auto, or always to build an inert g.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), show_default="0", help="Of all that is drawn.")
@click.option("--seeds", metavar="N,N,…", help="One run a seed in DIR/seed-N, and their mean; finished ones are kept.")
@click.option("--holdout", type=int, metavar="N", help="Train without N training images and measure on those.")
@click.option("--eval-every", type=click.IntRange(min=0), default=0, show_default=True, help="Epochs; 0: at the end.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--precision", default="auto", show_default=True, help="auto, fp32 or bf16.")
@click.option("--compile/--no-compile", default=False, help="Run the network through torch.compile.")
@click.option("--sync-batch-norm/--no-sync-batch-norm", default=False, help="Normalise over all GPUs' images.")
@click.option("--pixels", default="auto", show_default=True, help="auto, memory, or stream to decode again each epoch.")
@click.option("--workers", type=click.IntRange(min=0), help="Decoding processes.")
@click.option("--resume/--no-resume", default=False, help="Go on with the run in --out.")
@click.option("--overwrite/--no-overwrite", default=False, help="Replace the run in --out.")
@click.pass_obj
def command(obj: dict[str, Any], /, **given: Any) -> None:
    """Train a network and write its weights with a card. On several GPUs or machines, start it with torchrun.

    \b
    Example:
      l2a-transfer train --model vgg-att2-concat-pc --data cifar10 --data-dir data --out runs/att2
    """
    import os

    from l2a_transfer.devices import choose_device
    from l2a_transfer.training.processes import Ranks, Where, one_before_others, process_group
    from l2a_transfer.training.runs import run_training, train_seeds
    from l2a_transfer.training.trainer import Trainer

    for one, other in (("resume", "overwrite"), ("seed", "seeds")):
        if all(given[name] is not None and given[name] is not False for name in (one, other)):
            raise click.UsageError(f"--{one} and --{other} cannot go together")
    where = Where(
        given["device"], given["precision"], given["compile"], given["sync_batch_norm"], given["pixels"],
        given["workers"], Ranks.of(os.environ),
    )  # fmt: skip
    seeds = None if given["seeds"] is None else _numbers(given["seeds"])
    how = {key: given[key] for key in ("resume", "overwrite", "eval_every")} | {"progress": obj["progress"]}
    if given["recipe"] == "finetune" and given["init_from"] is None and where.ranks.first:
        log.info("finetune without --init-from: the network starts from random weights")
    recipe = _recipe(given)  # what is wrong with the options is said before any process waits for another

    def new_trainer(seed: int) -> Trainer:
        return Trainer(
            config, recipe, data, preprocess=preprocess, seed=seed, where=where, init_from=given["init_from"]
        )

    with process_group(where.ranks, choose_device(where.device, where.ranks.local)):
        with one_before_others(where.ranks):  # on each machine, where the data set may have to be fetched
            config, preprocess, data = _prepare(given, recipe)
        recipe = _fitting(given, recipe, len(data.train), where.ranks)
        if seeds is not None:
            found = train_seeds(new_trainer, given["out"], seeds, **how)
            if where.ranks.first:
                echo(*found.summary().split("\n"))
            return
        result = run_training(new_trainer(given["seed"] or 0), given["out"], **how)
    if where.ranks.first:
        ((metric, value),) = result.metrics.items()
        echo(f"{metric} {value['value']:.4f} (n = {value['n']}), {result.seconds:.0f} s")
        echo(result.weights)


def _recipe(given: dict[str, Any]) -> Any:
    """The recipe of the options, which are looked at as far as they can be without the data."""
    from l2a_transfer.models.config import ModelConfig
    from l2a_transfer.preprocess import Preprocess
    from l2a_transfer.training.train import chosen_recipe

    fields = _set_fields(given)
    fields += ["resolutions"] if given["image_size"] is not None else []
    if twice := sorted(field for field in set(fields) if fields.count(field) > 1):
        raise click.UsageError(f"{twice[0]} is given twice, by options or --set; --image-size sets resolutions")
    recipe = chosen_recipe(
        given["recipe"],
        given["data"],
        settings=given["settings"],
        image_size=given["image_size"],
        **{key: given[key] for key in SHORTCUTS},
    )
    ModelConfig(given["model"], **{key: given[key] for key in OF_MODEL})
    Preprocess(size=recipe.size, fit=given["fit"])
    return recipe


def _set_fields(given: dict[str, Any]) -> list[str]:
    """The fields of the recipe that options have set, as often as they have."""
    fields = [setting.partition("=")[0] for setting in given["settings"]]
    return fields + [key for key in SHORTCUTS if given[key] is not None]


def _fitting(given: dict[str, Any], recipe: Any, images: int, ranks: Any) -> Any:
    """The recipe with a batch that so few training images fill, unless the batch size was asked for; says what changed.

    Raises: ValueError where no batch fits.
    """
    import dataclasses
    import json

    from l2a_transfer.training.folder import begun_with
    from l2a_transfer.training.recipe import find_recipe, scaled_rate

    fields, found = _set_fields(given), recipe
    if "batch_size" not in fields:
        found = recipe.fitting(images, processes=ranks.size, scale="lr" not in fields)
    if found is not recipe and ranks.first:
        log.warning(
            "batches of %d instead of %d, because there are %d training images; --batch-size chooses another number",
            found.batch_size, recipe.batch_size, images,
        )  # fmt: skip
    scaled = None if "lr" in fields else scaled_rate(found)
    if scaled and _goes_on(given):
        earlier = dataclasses.replace(found, lr=find_recipe(given["recipe"]).lr)
        if begun_with(given["out"], recipe=json.dumps(earlier.to_json(), sort_keys=True)):
            log.info("%s: begun before rates scaled with the batch; it goes on at %g", given["out"], earlier.lr)
            return earlier
    if scaled and ranks.first:
        log.info("learning rate %g = %s, scaled with the batch size; --lr is taken as it is given", found.lr, scaled)
    return found


def _prepare(given: dict[str, Any], recipe: Any) -> Any:
    """Model config, preprocess and data, of the options; nothing is written."""
    from l2a_transfer.data.readers import open_source
    from l2a_transfer.models.config import ModelConfig
    from l2a_transfer.preprocess import Preprocess
    from l2a_transfer.training.data import TrainingData

    source = open_source(
        given["data"],
        data_dir=given["data_dir"],
        download=given["download"],
        split_from=given["split_from"],
        verify_source=given["verify_source"],
    )
    data = _held_out(source, given) if given["holdout"] is not None else TrainingData.of(source)
    config = ModelConfig(given["model"], num_classes=len(data.classes), **{key: given[key] for key in OF_MODEL})
    return config, Preprocess(size=recipe.size, fit=given["fit"]), data


def _goes_on(given: dict[str, Any]) -> bool:
    """True where a run that is in --out may go on."""
    return given["out"].is_dir() and not given["overwrite"] and bool(given["resume"] or given["seeds"])


def _held_out(source: Any, given: dict[str, Any]) -> Any:
    """The split of --holdout; where a run goes on that an earlier version began, the split that it began with."""
    from l2a_transfer.errors import TrainingError
    from l2a_transfer.training.data import TrainingData
    from l2a_transfer.training.folder import begun_with

    data = TrainingData.of(source, holdout=given["holdout"])
    if not _goes_on(given):
        return data
    with contextlib.suppress(TrainingError):
        earlier = TrainingData.of(source, holdout=given["holdout"], stratified=False)
        if begun_with(given["out"], data=earlier.train.fingerprint()):
            log.info("%s: begun on %s, which is not stratified; it goes on with that", given["out"], earlier.test_name)
            return earlier
    return data


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--seeds must be integers with commas between them, as 0,1,2; got {text!r}") from None
