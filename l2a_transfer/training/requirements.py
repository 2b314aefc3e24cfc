"""What a model, a recipe, data and devices need of each other."""

from __future__ import annotations

from l2a_transfer.devices import choose_device
from l2a_transfer.errors import ArgumentError, TrainingError
from l2a_transfer.models.config import DEFAULT_SELECTION, ModelConfig
from l2a_transfer.models.objectives import Objective
from l2a_transfer.models.selection import Sampling, find_selection
from l2a_transfer.training.data import TrainingData
from l2a_transfer.training.groups import check_groups
from l2a_transfer.training.processes import Placement
from l2a_transfer.training.recipe import OF_SAMPLING, TrainConfig
from l2a_transfer.wording import counted


def check_run(config: ModelConfig, recipe: TrainConfig, data: TrainingData, placement: Placement) -> None:
    """Refuse what can be seen to fail before anything is built or read. Raises: TrainingError."""
    processes = placement.process.size
    if config.num_classes != len(data.classes):
        raise TrainingError(
            f"the model has {counted(config.num_classes, 'class', 'classes')}, {data.name} has {len(data.classes)}"
        )
    if recipe.batch_size > len(data.train):
        raise TrainingError(
            f"batch_size {recipe.batch_size} is larger than the {counted(len(data.train), 'training image')}",
            "take a smaller `batch_size`",
        )
    smallest = min(size for _, size in recipe.resolutions)
    if smallest < config.min_size:
        raise TrainingError(f"{config.architecture} needs {config.min_size} pixels, the recipe has {smallest}")
    if recipe.batch_size % processes or recipe.batch_size < 2 * processes:
        raise TrainingError(
            f"batch_size {recipe.batch_size} cannot be shared by {processes} processes: each needs the same number of "
            "images, at least 2"
        )
    if config.partners:
        check_groups(config.architecture, 1 + config.partners, data, recipe.batch_size, processes)
    check_sampling(config, recipe)
    if placement.sync_batch_norm and choose_device(placement.device).type != "cuda":
        raise TrainingError("synchronised batch norm works between GPUs only", "leave `sync_batch_norm` out")


def check_sampling(config: ModelConfig, recipe: TrainConfig) -> None:
    """Raises: TrainingError for a way to draw positions that the network's selection does not have."""
    chosen = find_selection(config.selection)
    if not chosen.samplers:
        if recipe.sampling != Sampling():
            changed = [key for key in OF_SAMPLING if getattr(recipe, key) != getattr(Sampling(), key)]
            raise TrainingError(
                f"the recipe's {changed[0]} plays no part: with selection {config.selection!r} no position is drawn by "
                "scores",
                "leave it out, or choose `selection` 'hard'",
            )
        return
    if recipe.sampler not in chosen.samplers:
        raise TrainingError(
            f"selection {config.selection!r} cannot be trained with the sampler {recipe.sampler!r}",
            f"set sampler={chosen.samplers[0]} in the recipe",
        )
    if recipe.sampler == "exact":
        from l2a_transfer.models.sampling import check_exact

        positions = [number_of_positions(level, recipe.size) for level in config.spec.levels]
        try:
            check_exact(recipe.batch_size, positions, config.num_classes)
        except ArgumentError as error:
            raise TrainingError(str(error)) from error


def number_of_positions(level: str, size: int) -> int:
    """Of a level of an attention network, for images of `size` pixels."""
    return (size // {"L1": 1, "L2": 2, "L3": 4}[level]) ** 2


def objective_of(config: ModelConfig, recipe: TrainConfig) -> Objective:
    """What a network is trained for with a recipe."""
    smoothing = recipe.label_smoothing
    if config.selection == DEFAULT_SELECTION:
        return config.family.objective(config, label_smoothing=smoothing)
    return config.family.objective(config, label_smoothing=smoothing, sampling=recipe.sampling)
