"""Copies of a network, so that library code never changes the network passed to it."""

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
    """A copy of the network in evaluation mode, with separate modules.

    Parameters
    ----------
    network : nn.Module
        It is not changed: mode, device, memory format and gradients stay the same.
    shared : bool, default=False
        Let the copy share the tensors of `network`, which costs no memory. Use it for work that ends before the
        function returns. Moving the copy to another device or memory format does not move the tensors of `network`.

    Returns
    -------
    nn.Module
        The copy. Its parameters have no gradients and require none.

    Raises
    ------
    BackendError
        If Python cannot copy the network, or if it has lazy layers whose weights have no shape yet.
    """
    if any(nn.parameter.is_lazy(tensor) for tensor in chain(network.parameters(), network.buffers())):
        raise BackendError(
            f"{type(network).__name__} has lazy layers, whose weights do not exist yet", "run it on an image first"
        )
    memo: dict[int, object] = {}
    for tensor in chain(network.parameters(), network.buffers()):
        own = tensor.detach() if shared else tensor.detach().clone()
        # A separate parameter, because `Module.to` changes the data of parameters in place.
        memo[id(tensor)] = nn.Parameter(own, requires_grad=False) if isinstance(tensor, nn.Parameter) else own
    try:
        with torch.no_grad():
            return copy.deepcopy(network, memo).eval()
    except Exception as error:  # objects in a network may raise anything when copied
        raise BackendError(
            f"{type(network).__name__} cannot be copied: {type(error).__name__}: {first_line(error)}",
            "take out of it what Python cannot copy, as a lock; in place of torch.nn.utils.weight_norm use that of "
            "parametrizations",
        ) from error


def in_evaluation(network: N) -> N:
    """The network itself if all its modules are in evaluation mode, otherwise a copy that shares its tensors."""
    if any(module.training for module in network.modules()):
        return evaluation_copy(network, shared=True)
    return network


def device_of(network: nn.Module) -> torch.device:
    """The device of the network's first tensor, or the CPU if it has no tensors."""
    return next((tensor.device for tensor in chain(network.parameters(), network.buffers())), torch.device("cpu"))
