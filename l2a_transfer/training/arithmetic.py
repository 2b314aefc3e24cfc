"""Properties of a machine that affect the final weights of a run; part of the run's fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import lru_cache

import torch

from l2a_transfer.data.sources import ImageSource
from l2a_transfer.features.machine import RECORDED, decoders, gpu_name, probe_pixels, torch_instructions
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.registry import build_model

MACHINE = ("torch", *RECORDED)
"""The keys of the fingerprint that `machine` sets. Checkpoints of earlier versions have none of them."""
PROBE_IMAGES = 2


def machine(
    config: ModelConfig, size: int, source: ImageSource, device: torch.device, precision: str
) -> dict[str, str]:
    """The value of each key of MACHINE here, for a network trained on the images of `source` at `size` pixels.

    Values that have no effect are empty: instructions and arithmetic on a GPU, the GPU on a CPU, Pillow if the pixels
    are already in memory at this size.
    """
    on_cpu = device.type == "cpu"
    return {
        "torch": str(torch.__version__),  # it is a subclass of str, which a checkpoint would reject
        "instructions": torch_instructions(device.type, precision),
        "gpu": gpu_name(device.type),
        "arithmetic": step_sha256(config, size, precision, torch.get_num_threads()) if on_cpu else "",
        "pillow": decoders(source, size),
    }


@lru_cache(maxsize=8)
def step_sha256(config: ModelConfig, size: int, precision: str, threads: int) -> str:
    """SHA-256 (hex) of the gradients and batch statistics of one small step on this CPU with `threads` threads.

    The network is that of the run without dropout, with weights from seed 0. The few images are the same everywhere.
    """
    model = build_model(dataclasses.replace(config, dropout=0.0), seed=0).train()
    model = model.to(memory_format=torch.channels_last)
    images = PROBE_IMAGES * (1 + config.partners)
    pixels = torch.from_numpy(probe_pixels(images, size)).float() / 255 - 0.5
    objective = config.family.objective(config, label_smoothing=0.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = objective.loss(
            model,
            pixels.contiguous(memory_format=torch.channels_last),
            torch.arange(images) % config.num_classes,
            generator=torch.Generator().manual_seed(0),
            progress=torch.zeros(()),
        )
    found.loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for _, parameter in sorted(model.named_parameters()) if parameter.grad is not None]
    digest = hashlib.sha256()
    for value in [*gradients, *(buffer for _, buffer in sorted(model.named_buffers()))]:
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
