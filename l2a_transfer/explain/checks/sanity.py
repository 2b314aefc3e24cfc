"""The sanity check of map methods: do maps change when the network does? (Adebayo et al., NeurIPS 2018)

Maps of a network are compared with those of the same network with randomised parts, and of a network trained on
permuted labels. If maps stay similar, the method explains the image and not the network.

.. [1] J. Adebayo et al.: Sanity Checks for Saliency Maps. NeurIPS 2018.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from l2a_transfer.errors import ArgumentError, BackendError
from l2a_transfer.explain.checks.pictures import Pictures
from l2a_transfer.explain.checks.randomisation import ORDERS, fresh_seeds, randomised_networks
from l2a_transfer.explain.checks.results import (
    LABELS,
    PERMUTED,
    Part,
    PermutedLabels,
    SanityResults,
    SanityRow,
    Similarity,
)
from l2a_transfer.explain.checks.similarity import LEAST_SIDE, MEASURES, Prepared, prepare, similarities
from l2a_transfer.explain.compute import MapBatch, map_batch
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.models.copies import evaluation_copy
from l2a_transfer.models.digest import network_sha256
from l2a_transfer.models.interface import Network
from l2a_transfer.models.parts import tensors, tensors_of_parts
from l2a_transfer.models.weights import Card
from l2a_transfer.preprocess import normalize
from l2a_transfer.provenance import commit
from l2a_transfer.version import __version__

METHODS_BY_DEFAULT = ("attention", "evidence", "grad-cam", "saliency", "guided-backprop")
NULL = "sobel"
"""The null method, which is always included: an edge map of the image."""
AT_ONCE = 64
"""Images per batch."""
Key = tuple[str, str]
"""Method and map."""


class _Reference:
    """The maps of the unchanged network for one batch, as a reference for other maps."""

    def __init__(self, network: Network, images: Tensor, methods: Sequence[str]) -> None:
        self.images, self.methods = images, tuple(methods)
        with torch.no_grad():
            self.targets = network(images).argmax(dim=1)  # all maps explain this class
        self.found = self._maps(network)
        self.size = (images.shape[2], images.shape[3])
        self.prepared: dict[Key, Prepared] = {
            (method, name): prepare(values, self.size)
            for method, batch in self.found.items()
            for name, values in batch.maps.items()
        }

    def _maps(self, network: Network) -> dict[str, MapBatch]:
        return {
            method: map_batch(
                network,
                self.images,
                method=method,
                targets=self.targets if METHODS.find(method).class_specific else None,
            )
            for method in self.methods
        }

    def compared(self, network: Network) -> dict[Key, tuple[NDArray[np.bool_], dict[str, NDArray[np.float64]]]]:
        """For each map: which images have a bit-identical one, and the similarities."""
        compared = {}
        for method, batch in self._maps(network).items():
            for name, values in batch.maps.items():
                before = self.found[method].maps[name]
                same = (values == before).all(axis=(1, 2))  # (B,)
                own = self.prepared[method, name]
                other = own if same.all() else prepare(values, self.size)
                alike = similarities(own, other)
                exact = same & ~own.constant  # exactly 1, without rounding errors
                compared[method, name] = (same, {key: np.where(exact, 1.0, of) for key, of in alike.items()})
        return compared


def check_sanity(
    network: Network,
    card: Card,
    pictures: Pictures,
    *,
    methods: Sequence[str] | None = None,
    seeds: int = 3,
    seed: int = 0,
    orders: Sequence[str] = ORDERS,
    labels: tuple[Network, Card] | None = None,
    progress: bool = False,
) -> SanityResults:
    """Compare a network's maps with those after randomising parts, and after training on permuted labels.

    All maps of an image explain the class that the network predicts. Sobel's edge map, which does not depend on the
    network, is always included.

    Parameters
    ----------
    network : Network
        The network. It is not changed and runs on its own device.
    card : Card
        Its card.
    pictures : Pictures
        Images of the size for maps: at least 16 pixels, and at least what the network needs.
    methods : sequence of str, optional
        Names in `METHODS`; by default, those of attention, evidence, grad-cam, saliency and guided-backprop that the
        network supports.
    seeds : int, default=3
        Number of fresh networks.
    seed : int, default=0
        Random seed from which their seeds are derived.
    orders : sequence of str
        "cascade" (all parts from the logits down to one), "independent" (one part alone), both by default; empty to
        compare with `labels` only.
    labels : (Network, Card), optional
        A network of the same config, trained on permuted labels.
    progress : bool, default=False
        Show a progress bar on stderr.

    Returns
    -------
    SanityResults

    Raises
    ------
    UnknownNameError
        For an unknown method or order.
    ArgumentError
        For a size that is too small, or if there is nothing to compare with.
    BackendError
        For a method in `methods` that the network does not support, maps that are not finite, or `labels` with another
        config or not trained on permuted labels.

    References
    ----------
    .. [1] J. Adebayo et al.: Sanity Checks for Saliency Maps. NeurIPS 2018.
    """
    side = pictures.images_u8.shape[2]
    least = max(LEAST_SIDE, network.config.min_size)
    if side < least:
        raise ArgumentError(f"side must be at least {least} pixels, got {side}")
    if not orders and labels is None:
        raise ArgumentError("orders must be cascade, independent or both if labels is not given")
    permuted = None if labels is None else _permuted(network, *labels)
    drawn = fresh_seeds(seeds, seed)
    base = evaluation_copy(network).to(memory_format=torch.channels_last)
    device = next(base.parameters()).device
    statistics = card.preprocess.statistics(device)
    batches = [
        normalize(torch.from_numpy(pictures.images_u8[k : k + AT_ONCE]).to(device), *statistics).contiguous(
            memory_format=torch.channels_last
        )
        for k in range(0, len(pictures.images_u8), AT_ONCE)
    ]
    chosen, left_out = _available(base, batches[0], methods)
    references = [_Reference(base, images, chosen) for images in batches]
    found: dict[tuple[Key, str, str], list[Any]] = {}

    def compare(other: Network, of: Sequence[str], part: str) -> None:
        parts = [reference.compared(other) for reference in references]
        for key in parts[0]:
            same = np.concatenate([one[key][0] for one in parts])  # (N,)
            values = {name: np.concatenate([one[key][1][name] for one in parts]) for name in MEASURES}
            for order in of:
                found.setdefault((key, order, part), []).append((same, values))

    names, altered = tensors_of_parts(base, network.parts()), dict[str, bool]()
    total = len(drawn) * (len(orders) * len(names) - (len(orders) > 1))
    networks = randomised_networks(base, seeds=drawn, orders=orders)
    for one in tqdm(networks, total=total, desc="random networks", disable=None if progress else True):
        altered[one.part] = altered.get(one.part, False) or one.altered
        try:
            compare(one.network, one.orders, one.part)
        except BackendError as error:
            raise BackendError(f"{one.part} random, seed {one.seed}: {error.problem}", error.remedy) from error
    if labels is not None:
        other = evaluation_copy(labels[0]).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        compare(other, [LABELS], PERMUTED)
    kinds = {(method, name): kind for method, of in references[0].found.items() for name, kind in of.kinds.items()}
    there = tensors(base)
    return SanityResults(
        network=card.name,
        weights_sha256=network_sha256(network),
        data=pictures.name,
        ids=pictures.ids,
        side=side,
        seeds=drawn if orders else (),
        parts=tuple(
            Part(part, own, sum(there[name].numel() for name in own), altered.get(part, True))
            for part, own in names.items()
        ),
        rows=_rows(found, kinds, [*orders, LABELS], [*names, PERMUTED]),
        left_out=left_out,
        labels=permuted,
        versions={"l2a-transfer": __version__, "torch": torch.__version__, "commit": commit() or "unknown"},
    )


def _rows(
    found: Mapping[tuple[Key, str, str], list[Any]],
    kinds: Mapping[Key, str],
    orders: Sequence[str],
    parts: Sequence[str],
) -> tuple[SanityRow, ...]:
    rows = []
    for (method, name), kind in kinds.items():
        for order in orders:
            for part in parts:
                own = found.get(((method, name), order, part))
                if own is None:
                    continue
                values = {measure: np.stack([of[measure] for _, of in own]) for measure in MEASURES}  # (seeds, N)
                rows.append(
                    SanityRow(
                        method,
                        name,
                        kind,
                        order,
                        part,
                        unchanged=all(bool(same.all()) for same, _ in own),
                        constant=int(np.isnan(values["ssim"]).sum()),
                        similarity={measure: Similarity.of(of) for measure, of in values.items()},
                    )
                )
    return tuple(rows)


def _available(
    network: Network, images: Tensor, methods: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The methods to check, and the default ones that the network does not support, with the reason."""
    if methods is not None:
        for method in methods:
            METHODS.find(method)
        return tuple(dict.fromkeys([*methods, NULL])), {}
    chosen, left_out = [], {}
    for method in METHODS_BY_DEFAULT:
        try:
            map_batch(network, images[:1], method=method)
        except BackendError as error:
            left_out[method] = error.problem
        else:
            chosen.append(method)
    return (*chosen, NULL), left_out


def _permuted(network: Network, other: Network, card: Card) -> PermutedLabels:
    """Facts about the network trained on permuted labels. Raises: BackendError for any other network."""
    seed, accuracy = card.training.get("permuted_labels"), card.metrics.get("train_accuracy")
    if type(seed) is not int or not isinstance(accuracy, dict):
        raise BackendError(
            f"{card.name} was not trained on permuted labels", "use weights trained with `labels='train'`"
        )
    one, two = (dataclasses.replace(of.config, dropout=1.0) for of in (network, other))
    if one != two:
        raise BackendError(
            f"{card.name} is {two.architecture} at width {two.width:g} with {two.num_classes} classes, unlike "
            f"the network, {one.architecture} at width {one.width:g} with {one.num_classes} classes",
            "use weights of the same network trained on permuted labels",
        )
    return PermutedLabels(card.name, network_sha256(other), seed, float(accuracy["value"]), int(accuracy["n"]))
