"""Networks with randomised parts: cascading from the logits down, or one part alone (Adebayo et al., NeurIPS 2018).

The tensors of a part are replaced by those of a freshly built network of the same config, with the family's own
initialisation. They include its batch norms with their statistics, `u`, and every other parameter and buffer.
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
""""cascade": all parts from the logits down to one; "independent": one part alone."""
MAX_SEEDS = 1000


@dataclass(frozen=True)
class Randomised:
    """A network with randomised parts.

    Parameters
    ----------
    network : Network
        In evaluation mode; valid until the next one is requested.
    part : str
        The randomised part; in a cascade, the lowest one.
    orders : tuple of str
        "cascade", "independent", or both for the first part, for which they are the same.
    seed : int
        Random seed of the fresh network.
    altered : bool
        Whether this changes a tensor of the part: a batch norm that was never trained equals a fresh one.
    """

    network: Network
    part: str
    orders: tuple[str, ...]
    seed: int
    altered: bool


def fresh_seeds(count: int, seed: int = 0) -> tuple[int, ...]:
    """Seeds of fresh networks, different from the small numbers used as training seeds.

    Raises: ArgumentError for a count out of range.
    """
    if not 1 <= count <= MAX_SEEDS:
        raise ArgumentError(f"seeds must be between 1 and {MAX_SEEDS:,}, got {count}")
    return tuple(int(state) for state in np.random.SeedSequence([seed, 20180710]).generate_state(count))


def randomised_networks(
    network: Network, *, seeds: Sequence[int], orders: Sequence[str] = ORDERS
) -> Iterator[Randomised]:
    """The same network with different randomised parts.

    Parameters
    ----------
    network : Network
        The network. It is not changed.
    seeds : sequence of int
        Random seeds of the fresh networks that supply the tensors.
    orders : sequence of str
        "cascade", "independent".

    Yields
    ------
    Randomised
        One for each seed and each part from the logits down. All share one network, which changes in between.

    Raises
    ------
    UnknownNameError
        For an unknown order.
    PluginError
        If a tensor belongs to no part of the network.
    BackendError
        For a network that does not match its config.
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
                f"the network does not match its config ({network.config.architecture}), so no fresh one can be built",
                "use a network from build_model(config)",
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
