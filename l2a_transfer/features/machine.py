"""What this machine computes and decodes with, as far as it decides bytes: part of every fingerprint.

Names alone do not do: MKL and oneDNN choose their kernels by processor, caches and settings that no function tells. So
on a CPU a small computation is part of it too, by the digest of its result.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.sources import ArraySource, ImageSource, Subset

RECORDED = ("instructions", "gpu", "arithmetic", "pillow")
"""The keys of fingerprints that this module fills; those of earlier versions have none of them."""
PROBE_IMAGES = 8
"""Of up to 64 pixels; of larger ones fewer, so that no probe takes more memory than a batch."""
MEANING = {
    "instructions": "instructions of the CPU",
    "arithmetic": "arithmetic: the same computation gives other bits (another processor, or settings of its libraries "
    "as ONEDNN_MAX_CPU_ISA and MKL_ENABLE_INSTRUCTIONS)",
    "gpu": "GPU",
    "pillow": "Pillow and its decoders",
}
"""Key → what a difference in it means, in words."""
CODECS = ("libjpeg_turbo", "jpg", "webp", "avif", "jpg_2000")
"""Decoders whose version can change a pixel, as Pillow calls them."""


def torch_instructions(device: str, precision: str) -> str:
    """The instruction set that PyTorch's own kernels use, as `x86_64 AVX512`; empty on a GPU.

    It is the effective one, which ATEN_CPU_CAPABILITY may have lowered. In bf16 the units that multiply it count too.
    """
    import torch

    if device != "cpu":
        return ""
    units = []
    if precision == "bf16":
        units += ["AMX"] if torch.cpu._is_amx_tile_supported() else []
        units += ["AVX512-BF16"] if torch.cpu._is_avx512_bf16_supported() else []
    return " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *units])


def onnx_instructions(device: str) -> str:
    """The widest instruction set of the CPU among those that ONNX Runtime has kernels for; empty on a GPU."""
    import torch

    if device != "cpu":
        return ""
    if torch.cpu._is_avx512_supported():
        return f"{platform.machine()} AVX512"
    return f"{platform.machine()} AVX2" if torch.cpu._is_avx2_supported() else platform.machine()


def gpu_name(device: str) -> str:
    """The GPU's model, compute capability and cuDNN, as `NVIDIA H100 80GB HBM3, 9.0, cuDNN 92400`; empty on a CPU."""
    import torch

    if device != "cuda":
        return ""
    major, minor = torch.cuda.get_device_capability()
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return f"{torch.cuda.get_device_name()}, {major}.{minor}, cuDNN {cudnn}"


def probe_pixels(images: int, size: int) -> NDArray[np.uint8]:
    """The same pictures everywhere, of integer arithmetic alone: uint8 (images, 3, size, size)."""
    numbers = np.arange(images * 3 * size * size, dtype=np.uint64) * np.uint64(2654435761)
    return (numbers >> np.uint64(16)).astype(np.uint8).reshape(images, 3, size, size)


def arithmetic(device: str, size: int, compute: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> str:
    """SHA-256 (hex) of what `compute` makes of a few pictures on a CPU; empty on a GPU, whose model says enough."""
    if device != "cpu":
        return ""
    images = max(2, min(PROBE_IMAGES, PROBE_IMAGES * 64**2 // size**2))
    return hashlib.sha256(np.ascontiguousarray(compute(probe_pixels(images, size))).tobytes()).hexdigest()


def decoders(source: ImageSource, size: int) -> str:
    """Pillow's version and its decoders', where it makes the pixels; empty for pictures that lie there at `size`."""
    whole = source
    while isinstance(whole, Subset):
        whole = whole.whole
    if isinstance(whole, ArraySource) and whole.pictures.shape[1:3] == (size, size):
        return ""
    import PIL
    from PIL import features

    there = features.get_supported()
    found = [f"{name} {features.version(name)}" for name in CODECS if name in there]
    return ", ".join([PIL.__version__, *found])
