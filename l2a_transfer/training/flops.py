"""The work of a network and the peak of a device, from which model FLOPs utilization is computed."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import torch

from l2a_transfer.devices import ieee_float32
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.registry import build_model


def arithmetic(precision: str) -> AbstractContextManager[None]:
    """The arithmetic of a run. fp32 is IEEE float32, without TF32 on a GPU."""
    return ieee_float32() if precision == "fp32" else nullcontext()


def macs(config: ModelConfig, size: int) -> int:
    """Multiply-accumulates of one image's forward pass through the layers that are built, at `size` × `size` pixels.

    They are counted by torch's FlopCounterMode: convolutions, linear layers and matrix products. For a network with
    partners, it is an image's share of its group, as in training.
    """
    from torch.utils.flop_counter import FlopCounterMode

    model, group = build_model(config, seed=0).eval(), 1 + config.partners
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.attend_group(torch.zeros(group, 3, size, size))
    return int(counter.get_total_flops()) // (2 * group)


def matrix_peak(device: torch.device, precision: str, *, side: int | None = None, repeats: int = 5) -> float:
    """Floating-point operations per second in the fastest of `repeats` products of two `side` × `side` matrices.

    The default side is 8,192 on a GPU and 1,024 on a CPU, where it takes about a hundredth of a second. The matrices
    are random, because a GPU that multiplies ones draws less power and is faster than with real data.
    """
    side = side or (8192 if device.type == "cuda" else 1024)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, dtype=dtype, generator=generator) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(repeats + 1):  # the first is a warm-up
        _wait(device)
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
