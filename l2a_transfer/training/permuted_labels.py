"""Training on permuted labels, which a network can only memorize (Zhang et al., ICLR 2017).

If maps look the same for such a network and for one trained on true labels, they do not explain what was learned.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from l2a_transfer.data.permuted import PermutedLabels
from l2a_transfer.data.selection import select
from l2a_transfer.data.sources import ImageSource
from l2a_transfer.errors import TrainingError
from l2a_transfer.models.weights import Card
from l2a_transfer.training.data import TRAIN_SPLITS, TrainingData
from l2a_transfer.training.processes import Placement
from l2a_transfer.training.recipe import RECIPES, TrainConfig
from l2a_transfer.training.runs import TrainResult, run_training
from l2a_transfer.training.trainer import Trainer


def with_permuted_labels(source: ImageSource, seed: int = 0) -> TrainingData:
    """The training images with permuted labels. Accuracy is measured on the same images.

    Parameters
    ----------
    source : ImageSource
        The data set. Its split called train is used, or all of it if there is only one split.
    seed : int, default=0
        Random seed of the permutation.

    Returns
    -------
    TrainingData
        Its metric is train_accuracy, and cards of networks trained on it have `permuted_labels`.

    Raises
    ------
    TrainingError
        Like `TrainingData`, or if no split is called train.
    """
    own = source
    if len(source.splits) > 1:
        split = next((name for name in TRAIN_SPLITS if name in source.splits), None)
        if split is None:
            raise TrainingError(f"{source.name}: has no split called train; its splits are {', '.join(source.splits)}")
        own = select(source, split=split)
    permuted = PermutedLabels.of(own, seed)
    return TrainingData(permuted.name, permuted.classes, permuted, permuted, "train", permuted_labels=seed)


def by_heart(recipe: TrainConfig, epochs: int | None = None) -> TrainConfig:
    """The recipe without what hinders memorization: augmentation, dropout, weight decay and label smoothing."""
    return dataclasses.replace(
        recipe,
        name="permuted-labels",
        epochs=epochs or recipe.epochs,
        crop_pad=0,
        flip=False,
        cutout=0,
        dropout=0.0,
        weight_decay=0.0,
        label_smoothing=0.0,
    )


def train_on_permuted_labels(
    card: Card,
    source: ImageSource,
    out: Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
) -> TrainResult:
    """Train a network like the one of a card on permuted labels, or resume such a run.

    Parameters
    ----------
    card : Card
        The card, whose config, preprocess and recipe are used, the recipe without augmentation and regularisation. If
        it has no recipe, like untrained weights, "fast" is used.
    source : ImageSource
        The data set that the network of the card was trained on.
    out : Path
        The folder of the run. If it already contains this run, the run is resumed, or its result is reused.
    epochs : int, optional
        Number of epochs; by default that of the recipe.
    seed : int, default=0
        Random seed of the weights and of the permutation.
    device : {"auto", "cpu", "cuda"}, default="auto"
        Device for training.
    progress : bool, default=False
        Show a progress bar on stderr.

    Returns
    -------
    TrainResult
        The weights, and train_accuracy on the images with their permuted labels.

    Raises
    ------
    TrainingError
        If the data set has a different number of classes, or the folder contains another run.
    Interrupted
        After Ctrl-C or SIGTERM, when the position has been saved.
    """
    data = with_permuted_labels(source, seed)
    if card.classes and len(data.classes) != len(card.classes):
        raise TrainingError(
            f"{source.name} has {len(data.classes)} classes, but {card.name} was trained on {len(card.classes)}",
            "use the data set that it was trained on",
        )
    own = card.training.get("recipe")
    recipe = by_heart(TrainConfig.from_json(own) if isinstance(own, dict) else RECIPES["fast"], epochs)
    trainer = Trainer(
        dataclasses.replace(card.config, num_classes=len(data.classes)),
        recipe.fitting(len(data.train)),
        data,
        preprocess=dataclasses.replace(card.preprocess, size=recipe.size),
        seed=seed,
        placement=Placement(device, "auto"),
    )
    return run_training(trainer, out, resume=True, progress=progress)
