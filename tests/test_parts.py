"""The parts of networks: every tensor belongs to one of them, and they go from the logits down."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from l2a_transfer.errors import PluginError
from l2a_transfer.models.config import ARCHITECTURES, ModelConfig
from l2a_transfer.models.interface import Network
from l2a_transfer.models.parts import default_parts, tensors_of_parts
from l2a_transfer.models.registry import build_model

BLOCKS = [f"block {number}" for number in (5, 4, 3, 2, 1)]


def built(architecture: str, **options: object) -> Network:
    with torch.device("meta"):
        return build_model(ModelConfig(architecture, width=1 / 16, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("branch", ["auto", "always"])
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_tensor_of_every_architecture_belongs_to_one_part(architecture: str, branch: str) -> None:
    network = built(architecture, global_branch=branch)
    found = tensors_of_parts(network, network.parts())
    listed = [name for names in found.values() for name in names]
    there = [name for name, _ in [*network.named_parameters(), *network.named_buffers()]]
    assert sorted(listed) == sorted(there)
    assert len(listed) == len(set(listed))
    assert next(iter(found)) == "classifier"
    # The rows of every linear layer that gives logits.
    assert all(name.startswith("classifier") for name in found["classifier"])
    assert [part for part in found if part.startswith("block")] == BLOCKS
    assert all(names for names in found.values())


def test_the_parts_of_named_architectures() -> None:
    def parts(architecture: str, **options: object) -> list[str]:
        network = built(architecture, **options)
        return list(tensors_of_parts(network, network.parts()))

    assert parts("vgg-gap") == ["classifier", *BLOCKS]
    assert parts("vgg-dsna") == ["classifier", "expansive", *BLOCKS]
    assert parts("vgg") == ["classifier", "heads", "hidden", *BLOCKS]
    assert parts("vgg-att2-concat-pc") == ["classifier", "heads", "u L3", "u L2", *BLOCKS]
    assert parts("vgg-att2-concat-uniform") == ["classifier", "heads", *BLOCKS]
    assert parts("vgg-att3-indep-dp") == ["classifier", "heads", "g", *BLOCKS]
    assert parts("vgg-pan") == ["classifier", "heads", "u L3", "block 5", "u L2", "g L2", *BLOCKS[1:]]
    assert parts("vgg-att2-concat-pc", global_branch="always") == ["classifier", "heads", "u L3", "u L2", "g", *BLOCKS]


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.zeros(2))
        self.register_buffer("scale", torch.ones(1), persistent=False)
        self.stem = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.ReLU(), nn.ModuleList([nn.Linear(2, 2)])])
        self.fc = nn.Linear(2, 3)


def test_by_default_children_are_parts_and_tensors_of_their_own_too() -> None:
    module = Bare()
    found = tensors_of_parts(module, default_parts(module))
    assert list(found) == ["u", "scale", "fc", "blocks.2.0", "blocks.0", "stem"]
    assert found["stem"] == (
        "stem.0.weight",
        "stem.0.bias",
        "stem.1.weight",
        "stem.1.bias",
        "stem.1.running_mean",
        "stem.1.running_var",
        "stem.1.num_batches_tracked",
    )
    assert found["scale"] == ("scale",)


def test_a_tensor_in_no_part_or_in_two_is_an_error_that_names_it() -> None:
    module = Bare()
    parts = default_parts(module)
    with pytest.raises(PluginError, match=r"'fc\.weight' of Bare belongs to none of its parts"):
        tensors_of_parts(module, {key: names for key, names in parts.items() if key != "fc"})
    with pytest.raises(PluginError, match=r"'fc\.weight' of Bare belongs to fc and again of its parts"):
        tensors_of_parts(module, {**parts, "again": ("fc",)})
    # "fc" is a module and not the beginning of a name.
    module.fc2 = nn.Linear(2, 2)
    with pytest.raises(PluginError, match=r"'fc2\.weight' of Bare belongs to none"):
        tensors_of_parts(module, parts)
