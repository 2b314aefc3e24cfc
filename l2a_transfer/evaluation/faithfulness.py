"""How faithful maps are: deletion and insertion over images, compared with random orders of the same images.

Nothing is fitted or chosen. Each map is computed once per image, and the network itself is the judge.

A map is compared with random maps of its own resolution. Replacing scattered pixels disturbs a network more than
covering a region, so random orders of single pixels beat most maps at deletion and lose to them at insertion, whatever
the maps show.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from l2a_transfer.data.sources import ImageSource
from l2a_transfer.errors import unknown_name
from l2a_transfer.evaluation.faithfulness_results import (
    PREDICTED,
    RANDOM,
    TRUE,
    FaithfulnessConfig,
    FaithfulnessResults,
    FaithfulnessRow,
)
from l2a_transfer.evaluation.tested import OpenNetwork, SharedImages, class_numbers, open_networks, run_facts
from l2a_transfer.explain.checks.completeness import COMPLETE
from l2a_transfer.explain.checks.faithfulness import CURVES, DELETION, INSERTION, Curves
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.text import terminal

if TYPE_CHECKING:
    from torch import Tensor

    from l2a_transfer.models.interface import Network
    from l2a_transfer.models.weights import Card

CHUNK = 1 << 24
"""How many numbers of the bootstrap are in memory at a time."""
Key = tuple[str, str]
"""A method and the name of one of its maps."""
Grid = tuple[int, int]
"""The resolution (h, w) of a map."""


class _Tally:
    """Results for the images of one network, collected batch by batch."""

    def __init__(self) -> None:
        self.areas: dict[Key, dict[str, list[NDArray[np.float64]]]] = {}
        self.sums: dict[Key, dict[str, NDArray[np.float64]]] = {}
        self.errors: dict[str, float] = {}
        self.grids: dict[Key, Grid] = {}
        self.images = 0
        self.shares: NDArray[np.float64] = np.zeros(0)

    def add(self, key: Key, grid: Grid, found: Sequence[Curves]) -> None:
        """Add the curves of one batch; several random orders are averaged."""
        self.grids[key] = grid
        areas = self.areas.setdefault(key, {curve: [] for curve in CURVES})
        sums = self.sums.setdefault(key, {curve: np.zeros(len(found[0].shares)) for curve in CURVES})
        for curve in CURVES:
            areas[curve].append(np.mean([one.areas(curve) for one in found], axis=0))
            sums[curve] += np.mean([one.probabilities[curve].sum(axis=0) for one in found], axis=0)
        self.shares = found[0].shares


def evaluate_faithfulness(
    models: Sequence[str | Path | tuple[Network, Card]],
    source: ImageSource,
    config: FaithfulnessConfig | None = None,
    *,
    progress: bool = False,
) -> FaithfulnessResults:
    """Measure deletion and insertion of map methods and of the controls.

    Parameters
    ----------
    models : sequence of str, Path or (Network, Card)
        Names accepted by `load_model`, or its return values.
    source : ImageSource
        The images. They need classes only if the target is the true class.
    config : FaithfulnessConfig, optional
        The settings; all defaults if omitted.
    progress : bool, default=False
        Show a progress bar on stderr.

    Returns
    -------
    FaithfulnessResults

    Raises
    ------
    ArgumentError, UnknownNameError, WeightsError, DataError, BackendError, DeviceError
        For unusable models, classes or settings, and for methods that a network does not support.
    """
    from l2a_transfer.devices import choose_device, ieee_float32

    config = config or FaithfulnessConfig()
    device = choose_device(config.device)
    networks = open_networks(models, device=device, seed=config.seed)
    targets = {one.name: _targets(config, source, one) for one in networks}
    found: dict[str, _Tally] = {}
    taken = {
        one.name: dataclasses.replace(one.card.preprocess, size=config.side or one.card.preprocess.size)
        for one in networks
    }
    images = SharedImages(source, taken.values())
    with tqdm(total=len(networks) * len(source), unit="image", file=sys.stderr, disable=not progress) as bar:
        for one in networks:
            bar.set_postfix_str(terminal(one.name))
            found[one.name] = _Tally()
            preprocess = taken[one.name]
            mean, std = preprocess.statistics(device)
            with ieee_float32():
                batches = images.batches(preprocess, device=device, batch_size=config.batch_size)
                for images_u8, rows in batches:
                    own = targets[one.name]
                    chosen = None if own is None else own[rows]
                    _measure(one.network, (images_u8.float() / 255 - mean) / std, chosen, config, found[one.name])
                    bar.update(len(images_u8))
    keys = [(model, key) for model, tally in found.items() for key in tally.areas]
    areas = {
        (model, *key): {curve: np.concatenate(found[model].areas[key][curve]) for curve in CURVES}
        for model, key in keys
    }
    return FaithfulnessResults(
        config,
        tuple({**one.document(), **({"side": config.side} if config.side else {})} for one in networks),
        {
            "name": source.name,
            "fingerprint": source.fingerprint(),
            "splits": [source.splits[k] for k in np.unique(source.split)],
            "images": len(source),
        },
        run_facts(device),
        tuple(_row(model, key, areas, found[model], config) for model, key in keys),
        tuple(found[networks[0].name].shares.tolist()),
        tuple(source.ids),
        areas,
    )


def _targets(config: FaithfulnessConfig, source: ImageSource, one: OpenNetwork) -> NDArray[np.int64] | None:
    """The class of each image; None for the predicted one. Raises: DataError, UnknownNameError."""
    if config.target == PREDICTED:
        return None
    if config.target == TRUE:
        return class_numbers(source, one)
    if config.target not in one.card.classes:
        raise unknown_name("target", config.target, (PREDICTED, TRUE, *one.card.classes))
    return np.full(len(source), one.card.classes.index(config.target), dtype=np.int64)


def _measure(
    network: Network, images: Tensor, chosen: NDArray[np.int64] | None, config: FaithfulnessConfig, tally: _Tally
) -> None:
    """Apply all methods to one batch."""
    import torch

    from l2a_transfer.explain.checks.completeness import completeness_errors
    from l2a_transfer.explain.checks.faithfulness import deletion_insertion
    from l2a_transfer.explain.compute import map_batch

    if chosen is None:
        with torch.no_grad():
            targets = network(images).argmax(dim=1)
    else:
        targets = torch.from_numpy(chosen).to(images.device)
    steps = min(config.steps, images[0, 0].numel())

    def measured(maps: NDArray[np.float32]) -> Curves:
        return deletion_insertion(
            network, images, maps, targets, steps=steps, baseline=config.baseline, seed=config.seed
        )

    grids: dict[Grid, None] = {}
    for method in config.methods:
        options, specific = dict(config.options.get(method, {})), METHODS[method].class_specific
        found = map_batch(network, images, method=method, targets=targets if specific else None, options=options)
        if method in COMPLETE:
            errors = completeness_errors(network, images, found, options=options)
            tally.errors[method] = max(tally.errors.get(method, 0.0), float(errors.max()))
        for name, maps in found.maps.items():
            grids[maps.shape[1:]] = None
            tally.add((method, name), maps.shape[1:], [measured(maps)])
    for grid in grids:
        orders = [measured(_noise(images, grid, config.seed + k)) for k in range(config.orders)]
        tally.add(_random(grid), grid, orders)
    tally.images += len(images)


def _noise(images: Tensor, grid: Grid, seed: int) -> NDArray[np.float32]:
    """Uniform noise (B, h, w), determined by the seed and each image's pixels."""
    import torch

    from l2a_transfer.explain.methods.controls import generators

    return torch.stack([torch.rand(grid, generator=one) for one in generators(images, seed)]).numpy()


def _random(grid: Grid) -> Key:
    """The name of the random orders of a resolution."""
    return RANDOM, f"{grid[0]} × {grid[1]}"


def _row(
    model: str,
    key: Key,
    areas: dict[tuple[str, str, str], dict[str, NDArray[np.float64]]],
    tally: _Tally,
    config: FaithfulnessConfig,
) -> FaithfulnessRow:
    method, name = key
    own = areas[(model, *key)]
    grid = tally.grids[key]
    random = areas[(model, *_random(grid))]
    values = [own[DELETION], own[INSERTION]]
    if method != RANDOM:
        values += [random[DELETION] - own[DELETION], own[INSERTION] - random[INSERTION]]
    table = np.stack(values, axis=1)  # (N, 2 or 4)
    means = table.mean(axis=0)
    bounds = np.array([0.0, 0.0, -1.0, -1.0])[: len(values)], 1.0  # rounding may exceed these
    low, high = (x.clip(*bounds) for x in bootstrap_interval(table, resamples=config.resamples, seed=config.seed))
    intervals = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    gains = (means[2], intervals[2], means[3], intervals[3]) if method != RANDOM else (None, None, None, None)
    return FaithfulnessRow(
        model,
        method,
        name,
        grid,
        len(table),
        float(means[0]),
        intervals[0],
        float(means[1]),
        intervals[1],
        None if gains[0] is None else float(gains[0]),
        gains[1],
        None if gains[2] is None else float(gains[2]),
        gains[3],
        tally.errors.get(method),
        {curve: tuple((tally.sums[key][curve] / tally.images).clip(0, 1).tolist()) for curve in CURVES},
    )


def bootstrap_interval(
    values: NDArray[np.float64], *, resamples: int, seed: int, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The percentile bootstrap interval of each column's mean; whole rows are resampled.

    Parameters
    ----------
    values : ndarray of float64 (N, M)
        One row per image. All columns use the same draws, as do other calls with equal N, `seed` and `resamples`.
    resamples : int
        Draws of N rows with replacement.
    seed : int
        Random seed.
    confidence : float, default=0.95
        Confidence level of the interval.

    Returns
    -------
    low, high : ndarray of float64 (M,)
        Equal to the value if there is only one row.

    Examples
    --------
    >>> low, high = bootstrap_interval(np.array([[0.0], [1.0]] * 50), resamples=1000, seed=0)
    >>> bool(0.38 < low[0] < 0.42), bool(0.58 < high[0] < 0.62)
    (True, True)
    """
    rng = np.random.default_rng(seed)
    N = len(values)
    means = []
    for begin in range(0, resamples, each := max(1, CHUNK // N)):
        counts = rng.multinomial(N, np.full(N, 1 / N), size=min(each, resamples - begin))  # (draws, N)
        means.append(counts @ values / N)
    tails = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return tails[0], tails[1]
