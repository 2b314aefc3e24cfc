"""Devices and precisions: which there are, which one `auto` is, and what float32 means on a GPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from l2a_transfer.errors import BackendError, unknown_name

log = logging.getLogger(__name__)
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def choose_device(name: str) -> str:
    """`auto` is CUDA where PyTorch sees a GPU, else the CPU.

    Raises: UnknownNameError; BackendError where CUDA was asked for and is not there.
    """
    import torch

    if name not in DEVICES:
        raise unknown_name("device", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendError("device 'cuda' was asked for and PyTorch sees no CUDA GPU", "use `device='cpu'`")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def choose_onnx_device(name: str) -> str:
    """`auto` is CUDA where ONNX Runtime has the provider and PyTorch sees a GPU, else the CPU. Raises: as above."""
    import onnxruntime as ort

    device = choose_device(name)
    if device == "cuda" and "CUDAExecutionProvider" not in ort.get_available_providers():
        if name == "cuda":
            raise BackendError("device 'cuda' was asked for and this onnxruntime has no CUDAExecutionProvider")
        return "cpu"
    return device


def choose_precision(name: str, device: str) -> str:
    """`auto` is fp32, because features are compared across machines. Raises: UnknownNameError, BackendError."""
    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
    if name == "fp16" and device != "cuda":
        raise BackendError("precision fp16 needs a CUDA GPU; use fp32 or bf16")
    if name == "auto" and device == "cuda":
        log.info("precision fp32, without TF32; bf16 trades exactness for speed")
    return "fp32" if name == "auto" else name


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
