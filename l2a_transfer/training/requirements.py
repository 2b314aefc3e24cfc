"""Checks that a model, a recipe, data and devices suit each other."""

from __future__ import annotations

from l2a_transfer.devices import choose_device
from l2a_transfer.errors import TrainingError
from l2a_transfer.models.config import DEFAULT_SELECTION, ModelConfig
from l2a_transfer.models.objectives import Objective
from l2a_transfer.training.data import TrainingData
from l2a_transfer.training.groups import check_groups
from l2a_transfer.training.processes import Placement
from l2a_transfer.training.recipe import TrainConfig
from l2a_transfer.training.sampling import check_drawn_step, check_sampling
from l2a_transfer.wording import counted


def check_run(config: ModelConfig, recipe: TrainConfig, data: TrainingData, placement: Placement) -> None:
    """Reject a run that would fail, before anything is built or read. Raises: TrainingError."""
    processes = placement.process.size
    if config.num_classes != len(data.classes):
        raise TrainingError(
            f"the model has {counted(config.num_classes, 'class', 'classes')}, but {data.name} has {len(data.classes)}"
        )
    if recipe.batch_size > len(data.train):
        raise TrainingError(
            f"batch_size {recipe.batch_size} is larger than the {counted(len(data.train), 'training image')}",
            "use a smaller `batch_size`",
        )
    smallest = min(size for _, size in recipe.resolutions)
    if smallest < config.min_size:
        raise TrainingError(
            f"{config.architecture} needs images of at least {config.min_size} pixels, but the recipe has {smallest}"
        )
    if recipe.batch_size % processes or recipe.batch_size < 2 * processes:
        raise TrainingError(
            f"batch_size {recipe.batch_size} cannot be shared by {processes} processes: each needs the same number of "
            "images, at least 2"
        )
    if config.partners:
        check_groups(config.architecture, 1 + config.partners, data, recipe.batch_size, processes)
    check_sampling(config, recipe)
    check_drawn_step(config, recipe, processes=processes, sync_batch_norm=placement.sync_batch_norm)
    if placement.sync_batch_norm and choose_device(placement.device).type != "cuda":
        raise TrainingError("synchronised batch norm works only between GPUs", "leave `sync_batch_norm` out")


def objective_of(config: ModelConfig, recipe: TrainConfig) -> Objective:
    """The training objective of a network with a recipe."""
    smoothing = recipe.label_smoothing
    if config.selection == DEFAULT_SELECTION:
        return config.family.objective(config, label_smoothing=smoothing)
    return config.family.objective(config, label_smoothing=smoothing, sampling=recipe.sampling)
