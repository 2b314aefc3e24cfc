"""Devices and precisions: available ones, the choice of `auto`, the meaning of float32 on a GPU, and names."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from l2a_transfer.control_groups import PROC, lines
from l2a_transfer.errors import DeviceError, unknown_name

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
TRAINING_PRECISIONS = ("auto", "fp32", "bf16")
"""fp16 is missing because it would need loss scaling, and bf16 is as fast."""


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is CUDA if PyTorch finds a GPU, otherwise the CPU. `local_rank` selects one of this machine's GPUs.

    Raises: UnknownNameError for another name; DeviceError if the device is not available.
    """
    import torch

    check_device_name(name)
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda' was requested, but PyTorch finds no CUDA GPU", "use `device='cpu'`")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise DeviceError(f"process {local_rank} of this machine has no GPU; it has {torch.cuda.device_count()}")
    return torch.device("cuda", local_rank)


def check_device_name(name: str) -> None:
    """Raises: UnknownNameError if `name` is not in DEVICES. Does not import torch."""
    if name not in DEVICES:
        raise unknown_name("device", name, DEVICES)


def choose_onnx_device(name: str) -> str:
    """`auto` is CUDA if ONNX Runtime has the provider and PyTorch finds a GPU, otherwise the CPU.

    Raises: same as `choose_device`.
    """
    import onnxruntime as ort

    device = choose_device(name).type
    if device == "cuda" and "CUDAExecutionProvider" not in ort.get_available_providers():
        if name == "cuda":
            raise DeviceError("device 'cuda' was requested, but this onnxruntime has no CUDAExecutionProvider")
        return "cpu"
    return device


def check_precision(name: str, valid: Sequence[str] = PRECISIONS) -> None:
    """Raises: UnknownNameError if `name` is not valid."""
    if name not in valid:
        raise unknown_name("precision", name, valid)


def extraction_precision(name: str, device: str) -> str:
    """`auto` is fp32, because features are compared across machines.

    Raises: UnknownNameError; DeviceError for fp16 on a CPU.
    """
    check_precision(name)
    if name == "fp16" and device != "cuda":
        raise DeviceError("precision fp16 needs a CUDA GPU; use fp32 or bf16")
    if name == "auto" and device == "cuda":
        log.info("precision fp32, without TF32; bf16 trades exactness for speed")
    return "fp32" if name == "auto" else name


def training_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 if the device multiplies it faster than float32, see `fast_bf16`. Raises: UnknownNameError."""
    check_precision(name, TRAINING_PRECISIONS)
    if name != "auto":
        return name
    return "bf16" if fast_bf16(device) else "fp32"


def fast_bf16(device: torch.device, proc: Path = PROC) -> bool:
    """Whether a training step is faster in bf16 than in float32.

    That is so on CUDA GPUs with bf16, on CPUs with AMX, and on AMD's CPUs with AVX512-BF16: there, it is 1.8 to 2.1
    times as fast (benchmarks/train_precision.py, two cores of an EPYC). On Intel's CPUs it was slower without AMX: 104
    images a second instead of 160 on two cores of a Sapphire Rapids with AMX disabled.
    """
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and any("AuthenticAMD" in line for line in lines(proc / "cpuinfo"))


def device_name(device: torch.device) -> str:
    """A description of the device: the GPU's name, or the number of CPU threads."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


@contextmanager
def ieee_float32() -> Iterator[None]:
    """Turn TF32 off and deterministic convolution algorithms on, and restore the previous settings at the end."""
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic)
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = False, False, True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before
