"""Devices and precisions: which there are, which one `auto` is, what float32 means on a GPU, and what ran."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from l2a_transfer.errors import DeviceError, unknown_name

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
TRAINING_PRECISIONS = ("auto", "fp32", "bf16")
"""fp16 would need its loss scaled, and bf16 is as fast."""


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is CUDA where PyTorch sees a GPU, else the CPU. `local_rank`: which of this machine's GPUs.

    Raises: UnknownNameError for another name; DeviceError for a device that is not there.
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
    """Raises: UnknownNameError for anything but DEVICES. Does not import torch."""
    if name not in DEVICES:
        raise unknown_name("device", name, DEVICES)


def choose_onnx_device(name: str) -> str:
    """`auto` is CUDA where ONNX Runtime has the provider and PyTorch sees a GPU, else the CPU.

    Raises: as `choose_device`.
    """
    import onnxruntime as ort

    device = choose_device(name).type
    if device == "cuda" and "CUDAExecutionProvider" not in ort.get_available_providers():
        if name == "cuda":
            raise DeviceError("device 'cuda' was requested, but this onnxruntime has no CUDAExecutionProvider")
        return "cpu"
    return device


def check_precision(name: str, valid: Sequence[str] = PRECISIONS) -> None:
    """Raises: UnknownNameError for anything but the valid names."""
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
    """`auto` is bf16 where the device multiplies it faster than float32: CUDA GPUs that have it and CPUs with AMX.

    AVX512-BF16 alone does not count: without AMX the same step ran at 104 images a second in bf16 and at 160 in
    float32 (two Sapphire Rapids cores with AMX masked, width 0.25, batch 128). Raises: UnknownNameError.
    """
    import torch

    check_precision(name, TRAINING_PRECISIONS)
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def device_name(device: torch.device) -> str:
    """What ran it, in words: the GPU's name, or the number of CPU threads."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


@contextmanager
def ieee_float32() -> Iterator[None]:
    """TF32 off and deterministic convolution algorithms on; what was set before comes back at the end."""
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic)
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = False, False, True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before
