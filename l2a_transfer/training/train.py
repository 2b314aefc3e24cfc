"""Training by names and defaults: the recipe, the data and the network of one run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from l2a_transfer.data.objects import InMemory
from l2a_transfer.data.readers import open_source
from l2a_transfer.data.sources import ImageSource
from l2a_transfer.errors import ArgumentError, names_keywords, wrong_kind
from l2a_transfer.features.backends.order import check_order
from l2a_transfer.files import output_path
from l2a_transfer.models.config import DEFAULT_WIDTH, ModelConfig
from l2a_transfer.models.weights import pretrained_names
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.training.data import TrainingData
from l2a_transfer.training.processes import Placement
from l2a_transfer.training.recipe import TrainConfig, find_recipe
from l2a_transfer.training.runs import TrainResult, run_training
from l2a_transfer.training.trainer import Trainer

log = logging.getLogger(__name__)


@names_keywords
def train(
    architecture: str,
    data: str | Path | ImageSource | InMemory,
    out: str | Path,
    *,
    recipe: str | TrainConfig = "fast",
    settings: Iterable[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    dropout: float | None = None,
    image_size: int | None = None,
    fit: str = "stretch",
    width: float = DEFAULT_WIDTH,
    normalizer: str = "softmax",
    global_branch: str = "auto",
    selection: str = "soft",
    init_from: str | None = None,
    holdout: int | None = None,
    seed: int = 0,
    eval_every: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> TrainResult:
    """Train a network in this process and write its weights with a card.

    Fitted on the training images; the test images, or those held out, are measured once, after the last epoch.

    Parameters
    ----------
    architecture : str
        As `vgg-att2-concat-pc`; `list_models(pretrained=False)` lists them.
    data : str, Path, ndarray, Dataset, tuple, mapping or ImageSource
        What `open_source` takes, or what it gives, with labels. It has a split called train, and test, val or valid;
        of one split, `holdout` keeps images to measure on.
    out : str or Path
        The folder of the run: `NAME.safetensors`, `checkpoint.pt`, `metrics.jsonl` and a learning curve.
    recipe : str or TrainConfig, default="fast"
        "fast", "paper", "finetune", or a recipe of your own.
    settings : iterable of str, optional
        Fields of the recipe, as `["flip=false"]`.
    epochs : int, optional
        Overrides the recipe, as `batch_size`, `lr` and `dropout` do.
    batch_size : int, optional
        Images a step. Without `lr`, the learning rate scales with it. By default that of the recipe, or less where
        there are fewer images.
    lr : float, optional
        Peak learning rate.
    dropout : float, optional
        Scale of the paper's dropout rates.
    image_size : int, optional
        Side in pixels; the recipe's sizes keep their proportions.
    fit : {"stretch", "crop"}, default="stretch"
        How pictures that are not square become so.
    width : float, default=0.25
        Scale of all channel counts.
    normalizer : str, default="softmax"
        What turns scores into attention weights.
    global_branch : {"auto", "always"}, default="auto"
        Whether an inert g is built too.
    selection : str, default="soft"
        Which positions are attended to: "soft" for all, "hard", "top:K", or "random" for networks without scores.
    init_from : str, optional
        Weights to start from, as `load_model` takes them.
    holdout : int, optional
        Train without so many training images and measure on those.
    seed : int, default=0
        Of the weights, the order, the augmentation and dropout. The global random state is left as it was.
    eval_every : int, default=0
        Also measure after every so many epochs.
    device : {"auto", "cpu", "cuda"}, default="auto"
        "auto" is a GPU where there is one.
    precision : {"auto", "fp32", "bf16"}, default="auto"
        "auto" is bf16 where the device multiplies it faster.
    workers : int, optional
        Decoding processes; 0 decodes in this one.
    resume : bool, default=False
        Go on with the run in `out`; on a CPU of the same kind, to the same bytes.
    overwrite : bool, default=False
        Replace the run in `out`.
    progress : bool, default=False
        Show a bar on stderr.

    Returns
    -------
    TrainResult
        The path of the weights, which `load_model` takes, their accuracy and the seconds of training.

    Raises
    ------
    UnknownNameError
        For a name that does not exist, with the nearest one.
    TrainingError
        For data, recipe and network that do not go together, and a run that cannot be resumed; NotFiniteError where
        the loss is not finite.
    OutputExistsError
        Where `out` holds a run and neither `resume` nor `overwrite` is given.
    Interrupted
        At Ctrl-C and SIGTERM: a KeyboardInterrupt that says what is kept.

    References
    ----------
    .. [1] S. Jetley, N. Lord, N. Lee, P. Torr: Learn to Pay Attention. ICLR 2018.

    Examples
    --------
    >>> import l2a_transfer
    >>> source = l2a_transfer.open_source("digits", limit=120)
    >>> result = l2a_transfer.train("vgg-att1-pc", source, "run", holdout=20, epochs=1, width=1 / 32, image_size=8)
    >>> result.weights.name, result.metrics["holdout-20-stratified_accuracy"]["n"]
    ('vgg-att1-pc.digits-w003.safetensors', 20)
    """
    check_order("train(architecture, data, out)", ("architecture", architecture), ("data", data))
    if not isinstance(architecture, str):
        raise wrong_kind("architecture", "the name of an architecture, as 'vgg-att2-concat-pc'", architecture)
    if architecture in pretrained_names():
        raise ArgumentError(
            f"architecture must be the name of an architecture; {architecture!r} names weights",
            f"train {architecture.split('.')[0]!r} with `init_from={architecture!r}` to start from them",
        )
    source, settings = open_source(data), list(settings)
    named = {setting.partition("=")[0] for setting in settings}
    chosen = chosen_recipe(
        recipe,
        source.name,
        settings=settings,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        dropout=dropout,
        image_size=image_size,
    )
    options: dict[str, Any] = {"normalizer": normalizer, "global_branch": global_branch, "selection": selection}
    ModelConfig(architecture, width=width, **options)  # before data is read
    held = TrainingData.from_source(source, holdout=holdout)
    if batch_size is None and "batch_size" not in named:
        fitting = chosen.fitting(len(held.train), scale=lr is None and "lr" not in named)
        if fitting is not chosen:
            log.warning(
                "batch size %d instead of %d, because there are only %d training images",
                fitting.batch_size,
                chosen.batch_size,
                len(held.train),
            )
        chosen = fitting
    config = ModelConfig(architecture, num_classes=len(held.classes), width=float(width), **options)
    trainer = Trainer(
        config,
        chosen,
        held,
        preprocess=Preprocess(size=chosen.size, fit=fit),
        seed=seed,
        placement=Placement(device, precision, workers=workers),
        init_from=init_from,
    )
    return run_training(
        trainer, output_path(out), resume=resume, overwrite=overwrite, eval_every=eval_every, progress=progress
    )


def chosen_recipe(
    recipe: str | TrainConfig,
    data: str,
    *,
    settings: Iterable[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    dropout: float | None = None,
    image_size: int | None = None,
) -> TrainConfig:
    """A recipe, with its epochs for the data set `data`, and what replaces its fields.

    The learning rate scales with the batch size unless it is given, as `lr` or in `settings`. Raises: as TrainConfig,
    `find_recipe` and `with_settings`.
    """
    own = recipe if isinstance(recipe, TrainConfig) else find_recipe(recipe, data)
    given = list(settings)
    found = own if image_size is None else own.at_size(image_size)
    found = found.with_settings(given)
    changes: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "dropout": dropout}
    found = dataclasses.replace(found, **{key: value for key, value in changes.items() if value is not None})
    if lr is None and not any(setting.partition("=")[0] == "lr" for setting in given):
        found = dataclasses.replace(found, batch_size=own.batch_size).at_batch(found.batch_size)
    return found
