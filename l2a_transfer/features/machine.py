"""The properties of this machine that can change the bytes of a feature. They are part of every fingerprint.

The names of processor and libraries are not enough. MKL and oneDNN choose their kernels by processor, cache sizes and
settings that no function reports. On a CPU, the fingerprint therefore also holds the digest of a small computation.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.sources import ArraySource, ImageSource, Subset

RECORDED = ("instructions", "gpu", "arithmetic", "pillow")
"""Keys of a fingerprint that this module provides. Fingerprints of earlier versions lack them."""
PROBE_IMAGES = 8
"""Images in the small computation, up to a side of 64 pixels. Larger images are fewer, to bound the memory."""
MEANING = {
    "instructions": "instructions of the CPU",
    "arithmetic": "arithmetic: the same computation gives different bits (another processor, or library settings such "
    "as ONEDNN_MAX_CPU_ISA and MKL_ENABLE_INSTRUCTIONS)",
    "gpu": "GPU",
    "pillow": "Pillow and its decoders",
}
"""Key → description of a difference, for errors."""
CODECS = ("libjpeg_turbo", "jpg", "webp", "avif", "jpg_2000")
"""Pillow's names of the decoders whose version can change a pixel."""


def torch_instructions(device: str, precision: str) -> str:
    """The instruction set that PyTorch's own kernels use, such as `x86_64 AVX512`. Empty on a GPU.

    The environment variable ATEN_CPU_CAPABILITY may have lowered it. With bf16, the CPU's bf16 instructions are listed
    too.
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
    """The widest instruction set of the CPU for which ONNX Runtime has kernels. Empty on a GPU."""
    import torch

    if device != "cpu":
        return ""
    if torch.cpu._is_avx512_supported():
        return f"{platform.machine()} AVX512"
    return f"{platform.machine()} AVX2" if torch.cpu._is_avx2_supported() else platform.machine()


def gpu_name(device: str) -> str:
    """The GPU's model, compute capability and cuDNN version. Empty on a CPU.

    For example `NVIDIA H100 80GB HBM3, 9.0, cuDNN 92400`.
    """
    import torch

    if device != "cuda":
        return ""
    major, minor = torch.cuda.get_device_capability()
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return f"{torch.cuda.get_device_name()}, {major}.{minor}, cuDNN {cudnn}"


def probe_pixels(images: int, size: int) -> NDArray[np.uint8]:
    """Fixed test images, uint8 (images, 3, size, size). Integer arithmetic makes them the same on every machine."""
    numbers = np.arange(images * 3 * size * size, dtype=np.uint64) * np.uint64(2654435761)
    return (numbers >> np.uint64(16)).astype(np.uint8).reshape(images, 3, size, size)


def arithmetic(device: str, size: int, compute: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> str:
    """SHA-256 (hex) of what `compute` returns for a few test images on a CPU. Empty on a GPU.

    On a GPU, `gpu_name` identifies the arithmetic.
    """
    if device != "cpu":
        return ""
    images = max(2, min(PROBE_IMAGES, PROBE_IMAGES * 64**2 // size**2))
    return hashlib.sha256(np.ascontiguousarray(compute(probe_pixels(images, size))).tobytes()).hexdigest()


def decoders(source: ImageSource, size: int) -> str:
    """The versions of Pillow and of its decoders. Empty if Pillow changes no pixel.

    This is the case for images in memory that already have sides of `size` pixels.
    """
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
