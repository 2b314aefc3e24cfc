"""Copies of a network for library code, which never changes the network that it was given."""

from __future__ import annotations

import copy
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

from l2a_transfer.errors import BackendError
from l2a_transfer.wording import first_line

N = TypeVar("N", bound=nn.Module)


def evaluation_copy(network: N, *, shared: bool = False) -> N:
    """The same network in evaluation mode, as modules of its own.

    Parameters
    ----------
    network : nn.Module
        Stays as it is: mode, device, memory format, gradients.
    shared : bool, default=False
        Let the copy read the tensors of `network`, which costs no memory: for work that ends before the caller goes
        on. Moving such a copy to a device or a memory format leaves the tensors of `network` where they are.

    Returns
    -------
    nn.Module
        Without gradients, whose parameters need none.

    Raises
    ------
    BackendError
        For a network that Python cannot copy, and layers whose weights have no shape yet.
    """
    if any(nn.parameter.is_lazy(tensor) for tensor in chain(network.parameters(), network.buffers())):
        raise BackendError(
            f"{type(network).__name__} has lazy layers, whose weights do not exist yet", "give it an image first"
        )
    memo: dict[int, object] = {}
    for tensor in chain(network.parameters(), network.buffers()):
        own = tensor.detach() if shared else tensor.detach().clone()
        # A parameter of its own, because `Module.to` changes the data of the parameters that it finds.
        memo[id(tensor)] = nn.Parameter(own, requires_grad=False) if isinstance(tensor, nn.Parameter) else own
    try:
        with torch.no_grad():
            return copy.deepcopy(network, memo).eval()
    except Exception as error:  # what a network holds may raise what it likes
        raise BackendError(
            f"{type(network).__name__} cannot be copied: {type(error).__name__}: {first_line(error)}",
            "take out of it what Python cannot copy, as a lock; in place of torch.nn.utils.weight_norm use that of "
            "parametrizations",
        ) from error


def in_evaluation(network: N) -> N:
    """The network itself where all its modules are in evaluation mode, else a copy that shares its tensors."""
    if any(module.training for module in network.modules()):
        return evaluation_copy(network, shared=True)
    return network


def device_of(network: nn.Module) -> torch.device:
    """Where a network computes: the device of its first tensor; the CPU where it has none."""
    return next((tensor.device for tensor in chain(network.parameters(), network.buffers())), torch.device("cpu"))
