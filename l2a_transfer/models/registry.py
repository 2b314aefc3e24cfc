"""Which class builds which family, and the one function that builds a network."""

from __future__ import annotations

import torch

from l2a_transfer.errors import wrong_kind
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.families.pan import PanVGG
from l2a_transfer.models.families.plain import VGG, GapVGG
from l2a_transfer.models.families.soft import AttentionVGG
from l2a_transfer.models.interface import Network

FAMILIES: dict[str, type[Network]] = {
    "vgg": VGG,
    "vgg-gap": GapVGG,
    "vgg-pan": PanVGG,
    "attention": AttentionVGG,
}


def build_model(config: ModelConfig, *, seed: int | None = None) -> Network:
    """A freshly initialised network in training mode.

    With `seed` the weights are a function of the config and the seed alone, and the global random state is left
    as it was. Raises: BackendError where the normalizer's package is missing.
    """
    if not isinstance(config, ModelConfig):
        raise wrong_kind("config", "a ModelConfig, as ModelConfig('vgg-att2-concat-pc', width=0.25)", config)
    family = FAMILIES[config.spec.family]
    if seed is None:
        return family(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family(config)
