"""Memory of a training step on a CPU, so that a batch that is too large is rejected before the kernel kills the run."""

from __future__ import annotations

import dataclasses

import torch

from l2a_transfer.memory import require_memory
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.objectives import Objective
from l2a_transfer.models.registry import build_model
from l2a_transfer.training.initialization import freeze_part
from l2a_transfer.training.recipe import TrainConfig
from l2a_transfer.training.requirements import objective_of

BESIDE = 1.1
"""Peak memory of a step, relative to the memory kept for the backward pass. Measured: 1.15 to 1.38 for networks of a
quarter of the paper's width (batches of 128 and 256, fp32 and bf16). It is lower, so nothing that fits is rejected."""


def require_step_memory(config: ModelConfig, recipe: TrainConfig, *, images: int, precision: str) -> None:
    """Raises: MemoryLimitError if a step on `images` pictures of the recipe's size needs more memory than allowed."""
    size, few, objective = recipe.size, 2 * (1 + config.partners), objective_of(config, recipe)
    small, large = (
        kept_bytes(config, n, size, precision, objective=objective, freeze=recipe.freeze) for n in (few, 2 * few)
    )
    require_memory(
        int(BESIDE * images * (large - small) / few),
        f"a training step on {images} images of {size} × {size} pixels",
        "use a smaller `batch_size` or `width`",
    )


def kept_bytes(
    config: ModelConfig, images: int, size: int, precision: str, *, objective: Objective | None = None, freeze: str = ""
) -> int:
    """Bytes that the forward pass on a CPU keeps for the backward pass, without parameters."""
    model = build_model(dataclasses.replace(config, dropout=0.0), seed=0).train()
    model = model.to(memory_format=torch.channels_last)
    freeze_part(model, freeze)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    objective = objective or config.family.objective(config, label_smoothing=0.0)
    labels = torch.zeros(images, dtype=torch.long)
    pixels = torch.zeros(images, 3, size, size).contiguous(memory_format=torch.channels_last)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        generator = torch.Generator().manual_seed(0)
        found = objective.loss(model, pixels, labels, generator=generator, progress=torch.zeros(()))
    total = sum(storage.nbytes() for place, storage in kept.items() if place not in own)
    del found
    return total
