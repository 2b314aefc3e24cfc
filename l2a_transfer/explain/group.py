"""Group maps: what the images of a class have in common, found by contrasting attention with the average.

`û(g_a) − û(mean l)`, with û(x) = x / |x|, is the direction in which attention moves the feature of an image away from
the plain mean of its local features. The template of an image is the mean of that direction over the *other* images of
its class, and its map is the cosine of each local feature with the template. The control is the same map with the
template of another class: whatever it also shows does not depend on the class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import ArgumentError, BackendError, DataError, unknown_name
from l2a_transfer.explain.compute import split_to_fit

if TYPE_CHECKING:
    from torch import Tensor, nn

    from l2a_transfer.models.interface import Network

    Batches = Callable[[], Iterable[tuple[Tensor, Sequence[int]]]]

GROUP, CONTROL = "group", "group-control"
"""Names of the two maps, used like method names."""
LEAST_LENGTH = 1e-5
"""Shorter directions are rounding errors: with uniform attention, g_a is the mean of l, and the map is all zeros."""


@dataclass(frozen=True)
class GroupMaps:
    """The maps of B images.

    Parameters
    ----------
    maps, controls : dict of str to ndarray
        Level → cosines between −1 and 1, float32 (B, h, w): by the template of the image's own class, and by that of
        its control class.
    labels, control_labels : ndarray of int64 (B,)
        The class of each image, and the other class used for its control.
    """

    maps: dict[str, NDArray[np.float32]] = field(repr=False)
    controls: dict[str, NDArray[np.float32]] = field(repr=False)
    labels: NDArray[np.int64]
    control_labels: NDArray[np.int64]


@dataclass(frozen=True)
class Templates:
    """For each class, the sum of its images' directions, and the number of images.

    Parameters
    ----------
    sums : dict of int to dict of str to Tensor
        Class → level → float64 (C,).
    counts : dict of int to int
        Class → its number of images.
    """

    sums: dict[int, dict[str, Tensor]] = field(repr=False)
    counts: dict[int, int]


def group_maps(model: nn.Module, batches: Batches, *, levels: Sequence[str] = (), seed: int = 0) -> Iterator[GroupMaps]:
    """The group maps of all images and their controls, batch by batch.

    The images are read twice, once for the templates and once for the maps; memory holds only one batch and one
    template per class.

    Parameters
    ----------
    model : nn.Module
        A network of l2a_transfer with attention. It is not changed.
    batches : callable
        Each of its two calls must give the same batches: normalised images (B, 3, H, W) on the device of the model,
        and the class of each, as an integer. Batches may differ in size, and classes may be mixed.
    levels : sequence of str, optional
        The levels of the maps; by default, all with attention.
    seed : int, default=0
        Random seed of the controls: each class gets another one, and no two classes the same.

    Yields
    ------
    GroupMaps

    Raises
    ------
    BackendError
        For a network without attention, or if its features are not finite.
    UnknownNameError
        For a level without attention.
    DataError
        For a class with a single image, or if there is only one class.
    ArgumentError
        If the two calls return different batches.
    """
    templates = class_templates(model, batches, levels=levels)
    for label, count in templates.counts.items():
        if count < 2:
            raise DataError(f"a group map needs the other images of a class, but class {label} has one image")
    if len(templates.counts) < 2:
        raise DataError("the control of a group map needs the images of another class", "add images of other classes")
    other = control_classes(list(templates.counts), seed=seed)
    seen = 0
    for images, labels in batches():
        seen += len(labels)
        if not set(map(int, labels)) <= set(other):
            break
        yield maps_by(model, images, labels, templates, other, levels=levels)
    if seen != sum(templates.counts.values()):
        raise ArgumentError("batches must return the same images on every call")


def class_templates(model: nn.Module, batches: Batches, *, levels: Sequence[str] = ()) -> Templates:
    """The first pass of `group_maps`. Raises: as `group_maps`."""
    sums: dict[int, dict[str, Tensor]] = {}
    counts: dict[int, int] = {}
    for images, labels in batches():
        directions = split_to_fit(lambda some, _: _directions(model, some, levels)[1], images, None, model=model)
        _check_finite(directions)
        for k, label in enumerate(map(int, labels)):
            own = sums.setdefault(label, {})
            counts[label] = counts.get(label, 0) + 1
            for level, found in directions.items():
                own[level] = found[k] + own[level] if level in own else found[k].clone()
    if not counts:
        raise DataError("a group map needs images, but there are none")
    return Templates(sums, counts)


def control_classes(classes: Sequence[int], *, seed: int = 0) -> dict[int, int]:
    """Draw another class for each of at least two classes; no two classes get the same.

    Examples
    --------
    >>> control_classes([3, 5])
    {3: 5, 5: 3}
    """
    shuffled = np.random.default_rng(seed).permutation(sorted(classes)).tolist()
    following = dict(zip(shuffled, shuffled[1:] + shuffled[:1], strict=True))
    return {label: following[label] for label in classes}


def maps_by(
    model: nn.Module,
    images: Tensor,
    labels: Sequence[int],
    templates: Templates,
    other: Mapping[int, int],
    *,
    levels: Sequence[str] = (),
) -> GroupMaps:
    """The second pass of `group_maps`, of one batch. A batch that does not fit into memory is split.

    Parameters
    ----------
    model, images, labels, levels
        As in the first pass, which must have included each image with the same class.
    templates : Templates
        The result of `class_templates`.
    other : mapping of int to int
        Class → the class of its control, from `control_classes`.

    Raises
    ------
    BackendError
        As `group_maps`.
    """
    import torch

    def compute(some: Tensor, own: Tensor | None) -> dict[str, Tensor]:
        assert own is not None
        classes = [int(label) for label in own]
        local, directions = _directions(model, some, levels)
        found = {}
        for level, values in local.items():
            sums = [templates.sums[label][level] for label in classes]
            rest = [
                (total - direction) / (templates.counts[label] - 1)
                for label, total, direction in zip(classes, sums, directions[level], strict=True)
            ]
            strange = [templates.sums[other[label]][level] / templates.counts[other[label]] for label in classes]
            found[f"map {level}"] = _cosines(values, torch.stack(rest))
            found[f"control {level}"] = _cosines(values, torch.stack(strange))
        return found

    given = np.array([int(label) for label in labels], dtype=np.int64)
    found = split_to_fit(compute, images, torch.from_numpy(given), model=model)
    _check_finite(found)
    maps, controls = (
        {name.removeprefix(of): values.numpy() for name, values in found.items() if name.startswith(of)}
        for of in ("map ", "control ")
    )
    return GroupMaps(maps, controls, given, np.array([other[label] for label in given.tolist()], dtype=np.int64))


def _check_finite(found: Mapping[str, Tensor]) -> None:
    """Raises: BackendError."""
    if not all(bool(values.isfinite().all()) for values in found.values()):
        raise BackendError("group maps that are not finite", "use other weights as `model`")


def _directions(model: nn.Module, images: Tensor, levels: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Level → local features (B, C, h, w), and level → `û(g_a) − û(mean l)`, float64 (B, C)."""
    import torch

    from l2a_transfer.explain.layers import attended
    from l2a_transfer.models.copies import in_evaluation

    network: Network = in_evaluation(model)  # type: ignore[assignment]
    with torch.no_grad():
        found = attended(network, images)
    own = [level for level in found.g_a if level in {spec.level for spec in network.config.maps}]
    if not own:
        raise BackendError(f"{network.config.architecture} has no attention, so it has no group maps", "use a vgg-att")
    for level in levels:
        if level not in own:
            raise unknown_name("level", level, own)
    local = {level: found.local[level] for level in own if not levels or level in levels}
    directions = {
        level: _unit(found.g_a[level].double()) - _unit(values.double().mean(dim=(2, 3)))
        for level, values in local.items()
    }
    return local, directions


def _unit(vectors: Tensor) -> Tensor:
    """Vectors (B, C) scaled to length 1; a zero vector stays zero."""
    units: Tensor = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return units


def _cosines(local: Tensor, templates: Tensor) -> Tensor:
    """The cosine of each local feature (B, C, h, w) with its image's template (B, C); 0 if either has length 0.

    Returns: float32 (B, h, w), on the CPU.
    """
    import torch

    lengths = templates.norm(dim=1, keepdim=True)  # (B, 1)
    units = torch.where(lengths > LEAST_LENGTH, _unit(templates), torch.zeros_like(templates))
    values = local.double()
    cosines: Tensor = torch.einsum("bchw,bc->bhw", values, units) / values.norm(dim=1).clamp(min=1e-30)
    return cosines.float().cpu()
