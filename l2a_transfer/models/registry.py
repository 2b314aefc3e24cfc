"""Building networks from configs."""

from __future__ import annotations

import torch
from torch import nn

from l2a_transfer.errors import PluginError, wrong_kind
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Network


def build_model(config: ModelConfig, *, seed: int | None = None, inplace: bool = True) -> Network:
    """Build a newly initialised network in training mode.

    Parameters
    ----------
    config : ModelConfig
        The config of the network.
    seed : int, optional
        With a seed, the weights depend only on the config and the seed, and the global random state is not changed.
        Without one, they are drawn from the global random state.
    inplace : bool
        Whether activations may overwrite their input, which saves memory. Full backward hooks, which guided
        backpropagation needs, require False. The outputs are bitwise identical.

    Returns
    -------
    Network

    Raises
    ------
    TypeError
        If `config` is not a ModelConfig.
    MissingExtraError
        If the normalizer's package is not installed.
    PluginError
        If the family does not return a Network.

    Examples
    --------
    >>> from l2a_transfer import ModelConfig
    >>> from l2a_transfer.models.registry import build_model
    >>> network = build_model(ModelConfig("vgg-att2-concat-pc", width=0.25), seed=0)
    >>> sum(parameter.numel() for parameter in network.parameters())
    925178
    """
    if not isinstance(config, ModelConfig):
        raise wrong_kind("config", "a ModelConfig, such as ModelConfig('vgg-att2-concat-pc', width=0.25)", config)
    if seed is None:
        network = config.family.network(config)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = config.family.network(config)
    if not isinstance(network, Network):
        raise PluginError(f"the family {config.spec.family!r} must build a Network; got {type(network).__name__}")
    if not inplace:
        _without_inplace(network)
    return network


def _without_inplace(network: nn.Module) -> None:
    """Make all activations and dropout layers out-of-place."""
    for module in network.modules():
        if getattr(module, "inplace", False) is True:
            setattr(module, "inplace", False)  # noqa: B010 - not every module has it
