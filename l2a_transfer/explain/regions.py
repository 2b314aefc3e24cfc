"""Local features of images changed in one region, computed only where the change has an effect.

A 3 × 3 convolution spreads a change by one pixel, a pool halves its region. Everything outside equals that of the
unchanged images.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from l2a_transfer.models.interface import Network

Span = tuple[int, int]
"""First row or column, and the one after the last."""


class Folded:
    """A convolution with its batch norm folded into the weights, which saves a pass over memory.

    Parameters
    ----------
    block : nn.Sequential
        As `Step.block`, in evaluation mode.
    """

    def __init__(self, block: nn.Sequential) -> None:
        conv, *layers = block
        conv = cast("nn.Conv2d", conv)
        if layers and isinstance(layers[0], nn.BatchNorm2d):
            conv = fuse_conv_bn_eval(conv, layers[0])
            del layers[0]
        self.weight, self.bias, self.layers = (
            conv.weight.contiguous(memory_format=torch.channels_last),
            conv.bias,
            layers,
        )

    def __call__(self, x: Tensor, border: tuple[int, int]) -> Tensor:
        """The output for x (B, C, H, W) with `border` rows and columns of zeros on each side."""
        x = F.conv2d(x, self.weight, self.bias, padding=border)
        for layer in self.layers:
            x = layer(x)
        return x


class Unchanged:
    """Unchanged images, with all that the network computes on the way to their local features.

    Parameters
    ----------
    model : Network
        In evaluation mode, with `local_steps`.
    images : Tensor (B, 3, H, W)
        Normalised images.
    levels : collection of str
        The levels of the local features.

    Attributes
    ----------
    local : dict of str to Tensor (B, C, h, w)
        The local features of the images.
    """

    def __init__(self, model: Network, images: Tensor, levels: Collection[str]) -> None:
        self.local: dict[str, Tensor] = {}
        self._steps = [(step.level, None if step.block is None else Folded(step.block)) for step in model.local_steps()]
        self._padded: list[Tensor] = []  # the input of each step, with a border of one zero
        x = images.contiguous(memory_format=torch.channels_last)
        for level, folded in self._steps:
            self._padded.append(F.pad(x, (1, 1, 1, 1)))
            x = F.max_pool2d(x, 2) if folded is None else folded(x, (1, 1))
            if level in levels:
                self.local[level] = x

    def changed(self, pixels: Tensor, top: int, left: int) -> dict[str, Tensor]:
        """The local features of the images after replacing a region by these pixels.

        Parameters
        ----------
        pixels : Tensor (B, 3, h, w)
            The new pixels.
        top, left : int
            Position of their top left corner.

        Returns
        -------
        dict of str to Tensor (B, C, H, W)
            As `local`.
        """
        x, found = pixels, dict(self.local)
        rows, columns = (top, top + pixels.shape[2]), (left, left + pixels.shape[3])
        for (level, folded), padded in zip(self._steps, self._padded, strict=True):
            H, W = padded.shape[2] - 2, padded.shape[3] - 2
            corner = rows[0] + 1, columns[0] + 1
            if folded is None:
                rows, columns = _pooled(rows, H), _pooled(columns, W)
                if rows[0] >= rows[1] or columns[0] >= columns[1]:
                    break  # the change is in an odd last row or column, which the pool drops
                read = [slice(2 * begin + 1, 2 * end + 1) for begin, end in (rows, columns)]
                x = F.max_pool2d(_with(padded, x, corner, read), 2)
            else:
                rows, columns = _grown(rows, H), _grown(columns, W)
                whole = rows == (0, H), columns == (0, W)
                # The convolution's own border is free; a border in the padded map is computed.
                read = [
                    slice(begin + own, end + 2 - own) for (begin, end), own in zip((rows, columns), whole, strict=True)
                ]
                x = folded(_with(padded, x, corner, read), (int(whole[0]), int(whole[1])))
            if level in self.local:
                found[level] = self.local[level].clone()
                found[level][:, :, slice(*rows), slice(*columns)] = x
        return found


def _grown(span: Span, length: int) -> Span:
    """The region that a change covers after a 3 × 3 convolution."""
    return max(span[0] - 1, 0), min(span[1] + 1, length)


def _pooled(span: Span, length: int) -> Span:
    """The region that a change covers after a 2 × 2 pool; empty if the pool drops it."""
    return span[0] // 2, min((span[1] + 1) // 2, length // 2)


def _with(padded: Tensor, changed: Tensor, corner: tuple[int, int], read: list[slice]) -> Tensor:
    """The part `read` of a padded map (B, C, H, W), with `changed` (B, C, h, w) inserted at `corner`."""
    part = padded[:, :, read[0], read[1]]
    found = torch.empty_like(part, memory_format=torch.channels_last)
    top, left = corner[0] - read[0].start, corner[1] - read[1].start
    bottom, right = (
        min(top + changed.shape[2], part.shape[2]),
        min(left + changed.shape[3], part.shape[3]),
    )
    for rows, columns in (
        (slice(0, top), slice(None)),
        (slice(bottom, None), slice(None)),
        (slice(top, bottom), slice(0, left)),
        (slice(top, bottom), slice(right, None)),
    ):  # only the surroundings of the change
        found[:, :, rows, columns] = part[:, :, rows, columns]
    found[:, :, top:bottom, left:right] = changed[:, :, : bottom - top, : right - left]
    return found
