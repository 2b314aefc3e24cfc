"""Copies of a network for library code, which never changes the network that it was given."""

from __future__ import annotations

import copy
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

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
    """
    memo: dict[int, object] = {}
    for tensor in chain(network.parameters(), network.buffers()):
        own = tensor.detach() if shared else tensor.detach().clone()
        # A parameter of its own, because `Module.to` changes the data of the parameters that it finds.
        memo[id(tensor)] = nn.Parameter(own, requires_grad=False) if isinstance(tensor, nn.Parameter) else own
    with torch.no_grad():
        return copy.deepcopy(network, memo).eval()


def in_evaluation(network: N) -> N:
    """The network itself where all its modules are in evaluation mode, else a copy that shares its tensors."""
    if any(module.training for module in network.modules()):
        return evaluation_copy(network, shared=True)
    return network


def device_of(network: nn.Module) -> torch.device:
    """Where a network computes: the device of its first tensor; the CPU where it has none."""
    return next((tensor.device for tensor in chain(network.parameters(), network.buffers())), torch.device("cpu"))
