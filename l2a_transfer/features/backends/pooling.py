"""Turn the output of a layer into one feature per image: find the tensor and pool its positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from l2a_transfer.errors import BackendError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Rows = TypeVar("Rows", Tensor, NDArray[np.float32])

POOLS = ("avg", "max", "cls", "flatten", "none")
MOST_COLUMNS = {"none": 1 << 14, "flatten": 1 << 20}
"""Limit of columns per pooling that keeps all values of a layer."""
SAME = 1e-3, 2e-2
"""How much an image's features may differ in another batch, where sums are rounded differently, relative to the largest
value: with float32 weights, and with others."""
RANDOM = 0.1
"""A limit relative to the difference of two images; the larger limit counts. Randomness or dependence on the batch
exceeds it."""


def check_pool(pool: str) -> None:
    """Raises: UnknownNameError if `pool` is not in POOLS."""
    if pool not in POOLS:
        raise unknown_name("pool", pool, POOLS)


def tensor_of(value: object, images: int) -> Tensor | None:
    """The tensor with one row per image: a module's result itself, or the only tensor in it; None if there is none."""
    import torch

    if isinstance(value, (tuple, list)):
        tensors = [part for part in value if isinstance(part, torch.Tensor)]
        value = tensors[0] if len(tensors) == 1 else None
    if isinstance(value, torch.Tensor) and value.ndim >= 1 and len(value) == images and not value.is_complex():
        return value
    return None


def pooled(value: object, images: int, pool: str, layer: str) -> Tensor:
    """Pool the output of a layer to one feature per image.

    Parameters
    ----------
    value : object
        The output: (B, D), tokens (B, T, C), or maps (B, C, H, W). Maps with channels last, (B, H, W, C), are detected
        by their sizes, because pictures and therefore maps are square.
    images : int
        The number of images B.
    pool : str
        A name in `POOLS`. Outputs without positions, (B, D), are unchanged.
    layer : str
        The name of the layer, for errors.

    Returns
    -------
    Tensor
        float32, (B, D). It shares no memory with `value`.

    Raises
    ------
    BackendError
        If the value is not a tensor with one row per image, cannot be pooled this way, or is too large.
    """
    values = tensor_of(value, images)
    if values is None:
        raise BackendError(
            f"the layer {layer!r} must return a tensor with one row per image, got {_kind(value)}",
            "choose another `layer`; 'l2a-transfer layers' lists them",
        )
    if values.ndim <= 2:
        return values.reshape(images, -1).float().clone()  # (B, D)
    if pool in MOST_COLUMNS:
        columns, most = values[0].numel(), MOST_COLUMNS[pool]
        if columns > most:
            raise BackendError(
                f"the layer {layer!r} returns {columns:,} numbers per image; pool {pool!r} accepts at most {most:,}",
                "use `pool='avg'`",
            )
        return values.reshape(images, -1).float().clone()  # (B, D)
    if pool == "cls":
        if values.ndim != 3:
            raise BackendError(
                f"the layer {layer!r} returns {_sides(values)}, without a class token", "use `pool='avg'`"
            )
        return values[:, 0].float().clone()  # (B, C)
    if values.ndim == 3:
        positions: tuple[int, ...] = (1,)
    elif values.ndim == 4 and values.shape[2] == values.shape[3]:
        positions = (2, 3)
    elif values.ndim == 4 and values.shape[1] == values.shape[2]:
        positions = (1, 2)
    else:
        raise BackendError(
            f"the layer {layer!r} returns {_sides(values)}, where positions and channels cannot be distinguished",
            "use `pool='flatten'`, or choose another `layer`",
        )
    numbers = values.float()
    return numbers.mean(dim=positions) if pool == "avg" else numbers.amax(dim=positions)  # (B, C)


def check_same(name: str, found: Mapping[str, Rows], alone: Mapping[str, Rows], *, exact: bool) -> None:
    """Check that an image has the same features in another batch.

    Parameters
    ----------
    name : str
        The model's name, for errors.
    found, alone : mapping of str to Tensor or ndarray
        The features by layer of two images (2, D), and of the first one alone (1, D).
    exact : bool
        Whether the weights are float32.

    Raises
    ------
    BackendError
        If they do not match.
    """
    for layer, (one, other) in found.items():
        if not one.shape[0]:
            continue
        most = max(SAME[0 if exact else 1] * float(abs(one).max()), RANDOM * float(abs(one - other).max()))
        if float(abs(alone[layer][0] - one).max()) > most:  # False for NaN, which extraction reports
            raise BackendError(
                f"{name}: the layer {layer!r} returns different numbers for the same image in another batch or at "
                "another time, so they cannot be used as features",
                "remove randomness (dropout), dependence on the batch, and calls to train(), or choose another `layer`",
            )


def _sides(values: Tensor) -> str:
    return f"{' × '.join(map(str, values.shape[1:]))} numbers per image"


def _kind(value: object) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
