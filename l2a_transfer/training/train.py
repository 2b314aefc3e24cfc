"""Training from names and defaults: the recipe, the data and the network of one run."""

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
    decode: str = "exact",
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
    """Train a network in this process, and write its weights and model card.

    The network is trained on the training images. The test images, or the held-out images, are evaluated once, after
    the last epoch.

    Parameters
    ----------
    architecture : str
        An architecture, such as `vgg-att2-concat-pc`; `list_models(pretrained=False)` lists them.
    data : str, Path, ndarray, Dataset, tuple, mapping or ImageSource
        A labelled data set, as for `open_source`, or what it returns. It needs a split called train, and one called
        test, val or valid. With a single split, use `holdout`.
    out : str or Path
        Output folder, for `NAME.safetensors`, `checkpoint.pt`, `metrics.jsonl` and a learning curve.
    recipe : str or TrainConfig, default="fast"
        "fast", "paper", "finetune", or a recipe of your own.
    settings : iterable of str, optional
        Fields of the recipe to override, such as `["flip=false"]`.
    epochs : int, optional
        Number of epochs. It overrides the recipe, as do `batch_size`, `lr` and `dropout`.
    batch_size : int, optional
        Images per step. Without `lr`, the learning rate is scaled with it. By default that of the recipe, or less if
        there are fewer images.
    lr : float, optional
        Peak learning rate.
    dropout : float, optional
        Scale of the paper's dropout rates.
    image_size : int, optional
        Side of the images in pixels. All sizes in the recipe are scaled in proportion.
    fit : {"stretch", "crop"}, default="stretch"
        How to make images square: stretch them, or crop the middle.
    decode : {"exact", "scaled"}, default="exact"
        "scaled" decodes large JPEG files at a smaller scale, which is faster and gives other pixels.
    width : float, default=0.25
        Scale of all channel counts.
    normalizer : str, default="softmax"
        What turns scores into attention weights.
    global_branch : {"auto", "always"}, default="auto"
        "always" builds the layers of the global feature g even if g has no effect.
    selection : str, default="soft"
        Positions to attend to: "soft" for all, "hard", "top:K", or "random" for networks without scores.
    init_from : str, optional
        Weights to start from, as for `load_model`.
    holdout : int, optional
        Hold out this number of training images, and evaluate on them instead of the test images.
    seed : int, default=0
        Random seed of the weights, the order, the augmentation and dropout. The global random state is not changed.
    eval_every : int, default=0
        Evaluate every `eval_every` epochs. 0: only after the last epoch.
    device : {"auto", "cpu", "cuda"}, default="auto"
        "auto" uses a GPU if there is one.
    precision : {"auto", "fp32", "bf16"}, default="auto"
        "auto" is bf16 if it is faster than fp32 on the device.
    workers : int, optional
        Number of decoding processes; 0 decodes in the main process.
    resume : bool, default=False
        Resume the run in `out`, or start it if there is none. On the same kind of CPU, a resumed run ends with the same
        bytes.
    overwrite : bool, default=False
        Overwrite the run in `out`.
    progress : bool, default=False
        Show a progress bar on stderr.

    Returns
    -------
    TrainResult
        The path of the weights, for `load_model`, their accuracy, and the training time in seconds.

    Raises
    ------
    UnknownNameError
        For an unknown name; the message suggests the nearest one.
    TrainingError
        If data, recipe and network do not fit together, or if a run cannot be resumed; NotFiniteError if the loss is
        not finite.
    OutputExistsError
        If `out` contains a run and neither `resume` nor `overwrite` is given.
    Interrupted
        After Ctrl-C or SIGTERM: a KeyboardInterrupt whose message says what was kept.

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
        raise wrong_kind("architecture", "the name of an architecture, such as 'vgg-att2-concat-pc'", architecture)
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
    ModelConfig(architecture, width=width, **options)  # checks the options before data is read
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
        preprocess=Preprocess(size=chosen.size, fit=fit, decode=decode),
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
    """A recipe with its number of epochs for the data set `data`, and with some fields replaced.

    The learning rate scales with the batch size unless it is given, in `lr` or `settings`. Raises: like TrainConfig,
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
