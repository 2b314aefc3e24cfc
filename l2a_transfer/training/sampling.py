"""Checks that a recipe's sampler suits a network's selection. Does not import torch itself."""

from __future__ import annotations

from l2a_transfer.errors import ArgumentError, TrainingError
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.selection import Sampling, find_selection
from l2a_transfer.training.recipe import OF_SAMPLING, TrainConfig

OF_ONE_SAMPLER = {"samples": "reinforce", "baseline": "reinforce"}
"""The fields that only one sampler uses."""


def check_sampling(config: ModelConfig, recipe: TrainConfig) -> None:
    """Check that a recipe's sampling suits a network.

    Raises
    ------
    TrainingError
        If the selection does not support the sampler, or a field that the recipe changes has no effect.
    """
    chosen = find_selection(config.selection)
    if not chosen.samplers:
        if recipe.sampling != Sampling():
            changed = [key for key in OF_SAMPLING if getattr(recipe, key) != getattr(Sampling(), key)]
            raise TrainingError(
                f"the recipe's {changed[0]} has no effect: selection {config.selection!r} draws no positions by score",
                "leave it out, or choose `selection` 'hard'",
            )
        return
    if recipe.sampler not in chosen.samplers:
        raise TrainingError(
            f"selection {config.selection!r} cannot be trained with sampler {recipe.sampler!r}",
            f"set sampler={chosen.samplers[0]} in the recipe",
        )
    usual = Sampling()
    for field, sampler in OF_ONE_SAMPLER.items():
        if recipe.sampler != sampler and getattr(recipe, field) != getattr(usual, field):
            raise TrainingError(
                f"the recipe's {field} has no effect with sampler {recipe.sampler!r}: only {sampler!r} uses it",
                "leave it out",
            )
    for field, other in (("entropy_until", "entropy_weight"), ("entropy_weight", "entropy_until")):
        if getattr(recipe, other) == 0 and getattr(recipe, field) not in (0, getattr(usual, field)):
            raise TrainingError(f"the recipe's {field} has no effect if {other} is 0", "leave it out")


def check_drawn_step(config: ModelConfig, recipe: TrainConfig, *, processes: int, sync_batch_norm: bool) -> None:
    """Raises: TrainingError if the sampler cannot compute a step of these processes."""
    if not find_selection(config.selection).samplers:
        return
    if sync_batch_norm and recipe.sampler in ("reinforce", "exact"):
        raise TrainingError(
            f"the {recipe.sampler} sampler normalises with the statistics of one process, and cannot synchronise them",
            "leave `sync_batch_norm` out, or set sampler=gumbel-st in the recipe",
        )
    if recipe.sampler != "exact":
        return
    from l2a_transfer.models.sampling import check_exact

    largest = max(size for _, size in recipe.resolutions)
    positions = [number_of_positions(level, largest) for level in config.spec.levels]
    try:
        check_exact(recipe.batch_size // processes, positions, config.num_classes)
    except ArgumentError as error:
        raise TrainingError(str(error)) from error


def number_of_positions(level: str, size: int) -> int:
    """Number of positions at a level of an attention network, for images of `size` pixels."""
    return (size // {"L1": 1, "L2": 2, "L3": 4}[level]) ** 2
