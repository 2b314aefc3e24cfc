"""Networks with random parts: cascading from the logits down, and one part alone (Adebayo et al., NeurIPS 2018).

A part becomes what a freshly built network of the same config has there, with the family's own initialisation. Its
batch norms with their statistics, `u`, and every other parameter and buffer are part of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from l2a_transfer.errors import ArgumentError, BackendError, unknown_name
from l2a_transfer.models.copies import evaluation_copy
from l2a_transfer.models.interface import Network
from l2a_transfer.models.parts import tensors, tensors_of_parts
from l2a_transfer.models.registry import build_model

CASCADE, INDEPENDENT = "cascade", "independent"
ORDERS = (CASCADE, INDEPENDENT)
"""All parts from the logits down to one, and one part alone."""
MAX_SEEDS = 1000


@dataclass(frozen=True)
class Randomised:
    """A network with random parts.

    Parameters
    ----------
    network : Network
        In evaluation mode; valid until the next one is asked for.
    part : str
        Of a cascade the lowest random part.
    orders : tuple of str
        "cascade", "independent", or both for the first part, which is the same network.
    seed : int
        Of the fresh network.
    altered : bool
        Whether that changes a tensor of the part: a batch norm that was never trained has the numbers of a fresh one.
    """

    network: Network
    part: str
    orders: tuple[str, ...]
    seed: int
    altered: bool


def fresh_seeds(count: int, seed: int = 0) -> tuple[int, ...]:
    """Seeds of fresh networks, which are not the small numbers that networks are trained with.

    Raises: ArgumentError for a count out of range.
    """
    if not 1 <= count <= MAX_SEEDS:
        raise ArgumentError(f"seeds must be between 1 and {MAX_SEEDS:,}, got {count}")
    return tuple(int(state) for state in np.random.SeedSequence([seed, 20180710]).generate_state(count))


def randomised_networks(
    network: Network, *, seeds: Sequence[int], orders: Sequence[str] = ORDERS
) -> Iterator[Randomised]:
    """The same network with more and more, or other, random parts.

    Parameters
    ----------
    network : Network
        Stays as it is.
    seeds : sequence of int
        Of the fresh networks whose tensors are taken.
    orders : sequence of str
        "cascade", "independent".

    Yields
    ------
    Randomised
        For each seed each part from the logits down. All share one network, which changes between them.

    Raises
    ------
    UnknownNameError
        For another order.
    PluginError
        Where a tensor belongs to no part of the network.
    BackendError
        For a network that its config does not describe.
    """
    for order in orders:
        if order not in ORDERS:
            raise unknown_name("order", order, ORDERS)
    own = evaluation_copy(network).to(memory_format=torch.channels_last)
    original = {name: tensor.detach().clone() for name, tensor in tensors(own).items()}
    parts = tensors_of_parts(own, network.parts())
    for seed in seeds:
        fresh = tensors(build_model(network.config, seed=seed))
        if {name: t.shape for name, t in fresh.items()} != {name: t.shape for name, t in original.items()}:
            raise BackendError(
                f"the network is not as its config describes it ({network.config.architecture}), so that no fresh one "
                "can be built",
                "use a network that build_model(config) gives",
            )
        for order in orders:
            for number, (part, names) in enumerate(parts.items()):
                both = number == 0 and len(orders) > 1
                if both and order == orders[1]:
                    continue
                _assign(own, fresh, names)
                altered = not all(torch.equal(tensors(own)[name], original[name]) for name in names)
                yield Randomised(own, part, tuple(orders) if both else (order,), seed, altered)
                if order == INDEPENDENT:
                    _assign(own, original, names)
            _assign(own, original, list(original))


def _assign(network: Network, source: Mapping[str, Tensor], names: Sequence[str]) -> None:
    there = tensors(network)
    with torch.no_grad():
        for name in names:
            there[name].copy_(source[name])
