"""What a layer gives, as one feature for each image: which tensor it is, and how its positions are pooled."""

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
"""The most numbers of a layer that become columns as they are."""
SAME = 1e-3, 2e-2
"""Of the largest number: by how much an image's features may differ in another batch, where sums are rounded otherwise;
of a network whose weights are float32, and of another."""
RANDOM = 0.1
"""Of the difference of two images: what is random, or read from the other images of a batch, makes more."""


def check_pool(pool: str) -> None:
    """Raises: UnknownNameError for anything but POOLS."""
    if pool not in POOLS:
        raise unknown_name("pool", pool, POOLS)


def tensor_of(value: object, images: int) -> Tensor | None:
    """The tensor with a row for each image that a module's result is, or has as its only tensor; None for others."""
    import torch

    if isinstance(value, (tuple, list)):
        tensors = [part for part in value if isinstance(part, torch.Tensor)]
        value = tensors[0] if len(tensors) == 1 else None
    if isinstance(value, torch.Tensor) and value.ndim >= 1 and len(value) == images and not value.is_complex():
        return value
    return None


def pooled(value: object, images: int, pool: str, layer: str) -> Tensor:
    """One feature for each image.

    Parameters
    ----------
    value : object
        What a layer gave: (B, D), tokens (B, T, C), or maps (B, C, H, W). Maps with their channels last, (B, H, W, C),
        are told by their sides: pictures are square, and so are maps.
    images : int
        B.
    pool : str
        A name in `POOLS`. What has no positions, (B, D), stays as it is.
    layer : str
        The name of the layer, for errors.

    Returns
    -------
    Tensor
        float32, (B, D), which shares no memory with `value`.

    Raises
    ------
    BackendError
        For a value that is no tensor with a row for each image, that cannot be pooled so, or has too many numbers.
    """
    values = tensor_of(value, images)
    if values is None:
        raise BackendError(
            f"the layer {layer!r} gives no tensor with a row for each image, but {_kind(value)}",
            "name another `layer`; 'l2a-transfer layers' lists them",
        )
    if values.ndim <= 2:
        return values.reshape(images, -1).float().clone()  # (B, D)
    if pool in MOST_COLUMNS:
        columns, most = values[0].numel(), MOST_COLUMNS[pool]
        if columns > most:
            raise BackendError(
                f"the layer {layer!r} gives {columns:,} numbers for an image, and pool {pool!r} takes at most {most:,}",
                "use `pool='avg'`",
            )
        return values.reshape(images, -1).float().clone()  # (B, D)
    if pool == "cls":
        if values.ndim != 3:
            raise BackendError(
                f"the layer {layer!r} gives {_sides(values)}, which has no class token", "use `pool='avg'`"
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
            f"the layer {layer!r} gives {_sides(values)}, in which positions cannot be told from channels",
            "use `pool='flatten'`, or name another `layer`",
        )
    numbers = values.float()
    return numbers.mean(dim=positions) if pool == "avg" else numbers.amax(dim=positions)  # (B, C)


def check_same(name: str, found: Mapping[str, Rows], alone: Mapping[str, Rows], *, exact: bool) -> None:
    """Whether an image has the same features in another batch.

    Parameters
    ----------
    name : str
        The model's name, for errors.
    found, alone : mapping of str to Tensor or ndarray
        The features of two images (2, D) by layer, and those of the first one alone (1, D).
    exact : bool
        Whether the weights are float32.

    Raises
    ------
    BackendError
        If they differ.
    """
    for layer, (one, other) in found.items():
        if not one.shape[0]:
            continue
        most = max(SAME[0 if exact else 1] * float(abs(one).max()), RANDOM * float(abs(one - other).max()))
        if float(abs(alone[layer][0] - one).max()) > most:  # False for NaN, of which extraction tells
            raise BackendError(
                f"{name}: the layer {layer!r} gives one image other numbers in another batch or at another time, so "
                "they cannot be used as features",
                "leave out what is random (dropout) or reads the whole batch, and the call of train(), or name "
                "another `layer`",
            )


def _sides(values: Tensor) -> str:
    return f"{' × '.join(map(str, values.shape[1:]))} numbers for an image"


def _kind(value: object) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
