"""Whether a recipe's way to draw positions goes with a network's selection. Nothing here imports torch by itself."""

from __future__ import annotations

from l2a_transfer.errors import ArgumentError, TrainingError
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.selection import Sampling, find_selection
from l2a_transfer.training.recipe import OF_SAMPLING, TrainConfig


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


def check_exact_step(config: ModelConfig, recipe: TrainConfig, *, processes: int, sync_batch_norm: bool) -> None:
    """Raises: TrainingError where the exact sampler cannot take a step; for other samplers nothing is checked."""
    if not find_selection(config.selection).samplers or recipe.sampler != "exact":
        return
    from l2a_transfer.models.sampling import check_exact

    if sync_batch_norm:
        raise TrainingError(
            "the exact sampler normalises by the statistics of one process, and cannot synchronise them",
            "leave `sync_batch_norm` out, or set another sampler in the recipe",
        )
    largest = max(size for _, size in recipe.resolutions)
    positions = [number_of_positions(level, largest) for level in config.spec.levels]
    try:
        check_exact(recipe.batch_size // processes, positions, config.num_classes)
    except ArgumentError as error:
        raise TrainingError(str(error)) from error


def number_of_positions(level: str, size: int) -> int:
    """Of a level of an attention network, for images of `size` pixels."""
    return (size // {"L1": 1, "L2": 2, "L3": 4}[level]) ** 2
