"""`l2a-transfer train`: train a network."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.options import (
    FOLDER,
    PATH,
    SEED,
    NameChoice,
    Verb,
    device_option,
    option,
    option_group,
    reading_options,
)
from l2a_transfer.cli.output import echo
from l2a_transfer.models.config import DEFAULT_WIDTH

log = logging.getLogger(__name__)
SHORTCUTS = ("epochs", "batch_size", "lr", "dropout")
OF_MODEL = ("width", "normalizer", "global_branch", "selection")


class NormalizerName(NameChoice):
    """A registered name, or NAME:VALUE with a parameter."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The full name. Raises: UnknownNameError; ArgumentError if the normalizer does not accept the value."""
        from l2a_transfer.models.normalizers import find_normalizer

        super().convert(str(value).partition(":")[0], param, ctx)
        return find_normalizer(str(value)).name


@click.command("train", cls=Verb)
@option_group(
    "Network",
    option("--model", required=True, metavar="ARCH", help="Architecture, such as vgg-att2-concat-pc."),
    option("--width", type=float, default=DEFAULT_WIDTH, show_default=True, help="Multiplier for all channel counts."),
    option(
        "--normalizer",
        type=NormalizerName("l2a_transfer.models.normalizers:NORMALIZERS"),
        default="softmax",
        show_default=True,
        help="Function that turns scores into attention weights. A parameter follows a colon, as in tvmax:0.1.",
    ),
    option(
        "--global-branch",
        type=NameChoice("l2a_transfer.models.config:GLOBAL_BRANCH"),
        default="auto",
        show_default=True,
        help="auto: leave out the layers of the global feature g if g has no effect. always: build them.",
    ),
    option(
        "--selection",
        metavar="[soft|hard|top:K|random]",
        default="soft",
        show_default=True,
        help="Positions to attend to: all by weight (soft), the best (hard), the K best, or a random one.",
    ),
    option("--init-from", metavar="MODEL", help="Start from these weights: a bundled name or a .safetensors file."),
)
@option_group(
    "Data",
    option("--data", required=True, help="Data set with training and test images: a name, or KIND:PATH as in extract."),
    option("--data-dir", type=PATH, help="Folder that contains the data set."),
    option("--download/--no-download", default=False, help="Download the data set into --data-dir."),
    reading_options,
    option("--holdout", metavar="N", type=int, help="Test on N held-out training images instead of the test set."),
    option(
        "--image-size",
        metavar="N",
        type=int,
        help="Side of the images in pixels. All sizes in the recipe are scaled in proportion.",
    ),
    option(
        "--fit",
        type=NameChoice("l2a_transfer.preprocess:FITS"),
        default="stretch",
        show_default=True,
        help="How to make images square: stretch them, or crop the middle.",
    ),
    option(
        "--decode",
        type=NameChoice("l2a_transfer.preprocess:DECODINGS"),
        default="exact",
        show_default=True,
        help="scaled: decode large JPEG files at a smaller scale, which is faster and changes pixels.",
    ),
    option(
        "--pixels",
        type=NameChoice(("auto", "memory", "stream")),
        default="auto",
        show_default=True,
        help="memory: keep decoded images in memory. stream: decode them again in every epoch.",
    ),
    option(
        "--workers",
        metavar="N",
        type=click.IntRange(min=0),
        help="Number of image-decoding processes. [default: chosen automatically]",
    ),
)
@option_group(
    "Recipe",
    option(
        "--recipe",
        type=NameChoice("l2a_transfer.training.recipe:RECIPES"),
        default="fast",
        show_default=True,
        help="Named set of hyperparameters.",
    ),
    option(
        "--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Override a field of the recipe. Repeatable."
    ),
    option("--epochs", metavar="N", type=int, help="Override the number of epochs."),
    option(
        "--batch-size",
        metavar="N",
        type=int,
        help="Override the total batch size over all processes. The learning rate is scaled with it.",
    ),
    option("--lr", type=float, help="Override the peak learning rate. It is not scaled with the batch size."),
    option("--dropout", type=float, help="Override the multiplier for the paper's dropout rates."),
)
@option_group(
    "Run",
    option("--out", type=FOLDER, required=True, metavar="DIR", help="Output folder of the run."),
    option("--seed", metavar="N", type=SEED, help="Random seed. [default: 0]"),
    option(
        "--seeds",
        metavar="N,N,…",
        help="Train one run per seed in DIR/seed-N and report the mean. Finished runs are kept.",
    ),
    option(
        "--eval-every",
        metavar="N",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Evaluate every N epochs. 0: only after the last epoch.",
    ),
    option("--resume/--no-resume", default=False, help="Resume the run in --out, or start it if there is none."),
    option("--overwrite/--no-overwrite", default=False, help="Overwrite the run in --out."),
)
@option_group(
    "Computation",
    device_option(),
    option(
        "--precision",
        type=NameChoice("l2a_transfer.devices:TRAINING_PRECISIONS"),
        default="auto",
        show_default=True,
        help="auto: bf16 if it is faster than fp32 on the device.",
    ),
    option("--compile/--no-compile", default=False, help="Compile the network with torch.compile."),
    option("--sync-batch-norm/--no-sync-batch-norm", default=False, help="Use batch statistics over all GPUs."),
)
@click.pass_obj
def command(obj: dict[str, Any], /, **given: Any) -> None:
    """Train a network and write its weights.

    To train on several GPUs or machines, start the command with torchrun.

    \b
    Example:
      l2a-transfer train --model vgg-att2-concat-pc --data cifar10 --data-dir data --out runs/att2
    """
    import os

    from l2a_transfer.devices import choose_device
    from l2a_transfer.training import processes
    from l2a_transfer.training.data import shown_metric
    from l2a_transfer.training.runs import run_training, train_seeds
    from l2a_transfer.training.trainer import Trainer

    for one, other in (("resume", "overwrite"), ("seed", "seeds")):
        if all(given[name] is not None and given[name] is not False for name in (one, other)):
            raise click.UsageError(f"--{one} and --{other} cannot be used together")
    placement = processes.Placement(
        given["device"],
        given["precision"],
        given["compile"],
        given["sync_batch_norm"],
        given["pixels"],
        given["workers"],
        processes.ProcessRank.from_environment(os.environ),
    )
    seeds = None if given["seeds"] is None else _numbers(given["seeds"])
    how = {key: given[key] for key in ("resume", "overwrite", "eval_every")} | {"progress": obj["progress"]}
    if given["recipe"] == "finetune" and given["init_from"] is None and placement.process.is_main:
        log.info("finetune without --init-from: the network starts from random weights")
    recipe = _recipe(given)  # reports wrong options before processes wait for each other

    def new_trainer(seed: int) -> Trainer:
        return Trainer(
            config, recipe, data, preprocess=preprocess, seed=seed, placement=placement, init_from=given["init_from"]
        )

    device = choose_device(placement.device, placement.process.local)
    with processes.exit_at_once(placement.process):
        with processes.process_group(placement.process, device):
            with processes.first_process_first(placement.process):  # per machine: the set may have to be downloaded
                config, preprocess, data = _prepare(given, recipe)
            recipe = _fit_batch(given, recipe, len(data.train), placement.process)
            if seeds is not None:
                found = train_seeds(new_trainer, given["out"], seeds, **how)
                if placement.process.is_main:
                    echo(*found.summary().split("\n"))
                    if obj["progress"]:
                        echo(*_next_steps(given["out"], [f"features-seed-{seed}.h5" for seed in seeds]), err=True)
                return
            result = run_training(new_trainer(given["seed"] or 0), given["out"], **how)
        if placement.process.is_main:
            ((metric, value),) = result.metrics.items()
            held_out = "" if metric == "test_accuracy" else f", {metric.removesuffix('_accuracy')}"
            echo(f"{shown_metric(metric)} {value['value']:.4f} (n = {value['n']}{held_out}), {result.seconds:.0f} s")
            echo(result.weights)
            if obj["progress"]:
                echo(*_next_steps(result.weights, ["features.h5"]), err=True)  # the last line on stdout is the weights


def _next_steps(model: Path, features: Sequence[str]) -> list[str]:
    """Lines with the commands that extract features with the new weights, and evaluate them."""
    from l2a_transfer.text import shell_line

    extract = ["extract", "--model", str(model), "--data", "caltech-mini", "--out", "features.h5"]
    evaluate = ["svm-eval", *features, "--out", "report"]
    return ["", "Next:", *(f"  {shell_line(['l2a-transfer', *words])}" for words in (extract, evaluate))]


def _recipe(given: dict[str, Any]) -> Any:
    """The recipe from the options, checked as far as possible without the data."""
    from l2a_transfer.models.config import ModelConfig
    from l2a_transfer.preprocess import Preprocess
    from l2a_transfer.training.train import chosen_recipe

    fields = _set_fields(given)
    fields += ["resolutions"] if given["image_size"] is not None else []
    if twice := sorted(field for field in set(fields) if fields.count(field) > 1):
        raise click.UsageError(f"{twice[0]} is set twice, by options or --set; --image-size sets resolutions")
    recipe = chosen_recipe(
        given["recipe"],
        given["data"],
        settings=given["settings"],
        image_size=given["image_size"],
        **{key: given[key] for key in SHORTCUTS},
    )
    ModelConfig(given["model"], **{key: given[key] for key in OF_MODEL})
    Preprocess(size=recipe.size, fit=given["fit"], decode=given["decode"])
    return recipe


def _set_fields(given: dict[str, Any]) -> list[str]:
    """The fields of the recipe that options set; a field that is set twice is listed twice."""
    shortcuts = [key for key in SHORTCUTS if given[key] is not None]
    return [setting.partition("=")[0] for setting in given["settings"]] + shortcuts


def _fit_batch(given: dict[str, Any], recipe: Any, images: int, process: Any) -> Any:
    """The recipe with a batch no larger than the data, unless a batch size was given. Logs what it changes.

    Raises: ValueError if no batch size fits.
    """
    import dataclasses
    import json

    from l2a_transfer.training.recipe import find_recipe, scaled_rate
    from l2a_transfer.training.run_folder import has_run_with

    fields, found = _set_fields(given), recipe
    if "batch_size" not in fields:
        found = recipe.fitting(images, processes=process.size, scale="lr" not in fields)
    if found is not recipe and process.is_main:
        log.warning(
            "batch size %d instead of %d, because there are only %d training images; set another with --batch-size",
            found.batch_size,
            recipe.batch_size,
            images,
        )
    scaled = None if "lr" in fields else scaled_rate(found)
    if scaled and _continues(given):
        earlier = dataclasses.replace(found, lr=find_recipe(given["recipe"]).lr)
        if has_run_with(given["out"], recipe=json.dumps(earlier.to_json(), sort_keys=True)):
            log.info(
                "%s: started by a version that did not scale the learning rate with the batch size; it continues at %g",
                given["out"],
                earlier.lr,
            )
            return earlier
    if scaled and process.is_main:
        log.info("learning rate %g = %s, scaled with the batch size; a value of --lr is not scaled", found.lr, scaled)
    return found


def _prepare(given: dict[str, Any], recipe: Any) -> Any:
    """The model config, the preprocessing and the data. Nothing is written."""
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
    data = _hold_out(source, given) if given["holdout"] is not None else TrainingData.from_source(source)
    config = ModelConfig(given["model"], num_classes=len(data.classes), **{key: given[key] for key in OF_MODEL})
    return config, Preprocess(size=recipe.size, fit=given["fit"], decode=given["decode"]), data


def _continues(given: dict[str, Any]) -> bool:
    """Whether a run in --out would be continued."""
    return given["out"].is_dir() and not given["overwrite"] and bool(given["resume"] or given["seeds"])


def _hold_out(source: Any, given: dict[str, Any]) -> Any:
    """The split of --holdout. A run that an earlier version started keeps the split of that version."""
    from l2a_transfer.errors import TrainingError
    from l2a_transfer.training.data import TrainingData
    from l2a_transfer.training.run_folder import has_run_with

    data = TrainingData.from_source(source, holdout=given["holdout"])
    if not _continues(given):
        return data
    with contextlib.suppress(TrainingError):
        earlier = TrainingData.from_source(source, holdout=given["holdout"], stratified=False)
        if has_run_with(given["out"], data=earlier.train.fingerprint()):
            log.info("%s: started on %s, which is not stratified; it continues so", given["out"], earlier.test_name)
            return earlier
    return data


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--seeds must be integers separated by commas, such as 0,1,2; got {text!r}") from None
