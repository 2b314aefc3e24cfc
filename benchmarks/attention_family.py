"""The compared members of the attention family: how each is built, and how its training draws positions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.weights import PRETRAINED, read_card
from l2a_transfer.training.recipe import RECIPES, TrainConfig

ZOO = Path(__file__).parent / "zoo"
WIDTH, DATA, RECIPE = 0.25, "cifar10", "fast"
TRAINED_WIDTH = 0.125
"""The width for training every member, chosen so that all of them could be trained on two CPU cores."""
CONTROL = "uniform"


@dataclass(frozen=True)
class Member:
    """One attention: its name in tables, architecture and formula, options of `ModelConfig`, and fields of the recipe.

    The formula is that of the weights a_i of a level; c_i are its scores.
    """

    name: str
    architecture: str
    formula: str
    options: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def config(self, width: float = WIDTH, classes: int = 10) -> ModelConfig:
        return ModelConfig(self.architecture, num_classes=classes, width=width, **self.options)  # type: ignore[arg-type]

    def recipe(self) -> TrainConfig:
        return RECIPES[RECIPE].with_settings([f"{key}={value}" for key, value in self.settings.items()])

    def weights(self, width: float = TRAINED_WIDTH, seed: int = 0) -> Path | None:
        """The weights trained with this recipe on CIFAR-10, if they are kept."""
        for path in (*sorted(PRETRAINED.glob("*.safetensors")), *sorted(ZOO.glob("*.safetensors"))):
            card = read_card(path)
            trained = card.training
            if trained.get("data") != DATA or trained.get("seed") != seed or trained.get("split") != "train":
                continue
            same = dataclasses.replace(card.config, dropout=1.0) == self.config(width)  # dropout is the recipe's
            if same and TrainConfig.from_json(trained["recipe"]) == self.recipe():
                return path
        return None


PC, UNIFORM = "vgg-att2-concat-pc", "vgg-att2-concat-uniform"
SOFTMAX = "softmax(c)_i"
FAMILY = (
    Member("uniform", UNIFORM, "1 / P"),
    Member("pc", PC, f"{SOFTMAX}, c_i = ⟨u, l_i + g⟩"),
    Member("dp", "vgg-att2-concat-dp", f"{SOFTMAX}, c_i = ⟨l_i, g⟩"),
    Member("add", "vgg-att2-concat-add", f"{SOFTMAX}, c_i = ⟨u, tanh(l_i + g)⟩"),
    Member("sparsemax", PC, "sparsemax(c)_i: the nearest point of the simplex", {"normalizer": "sparsemax"}),
    Member("entmax15", PC, "entmax(c)_i with α = 1.5", {"normalizer": "entmax15"}),
    Member("sigmoid", PC, "σ(c_i)", {"normalizer": "sigmoid"}),
    Member("sigmoid-sum", PC, "σ(c_i) / Σ_j σ(c_j)", {"normalizer": "sigmoid-sum"}),
    Member(
        "tvmax:0.1",
        PC,
        "argmin over the simplex of ½‖a − c‖² + 0.1 Σ over neighbours of \\|a_i − a_j\\|",
        {"normalizer": "tvmax:0.1"},
    ),
    Member("hard, reinforce", PC, "1 where c_i is highest", {"selection": "hard"}),
    Member("hard, gumbel-st", PC, "1 where c_i is highest", {"selection": "hard"}, {"sampler": "gumbel-st"}),
    Member("hard, exact", PC, "1 where c_i is highest", {"selection": "hard"}, {"sampler": "exact"}),
    Member("top:4", PC, "1/4 at the four highest c_i", {"selection": "top:4"}, {"sampler": "gumbel-st"}),
    Member("random", UNIFORM, "1 at a position chosen by a hash of the pixels", {"selection": "random"}),
    Member("pan", "vgg-pan", f"a gate σ(⟨u, l_i + g₂⟩ + b) at L2, then {SOFTMAX} at L3"),
    Member("gap", "vgg-gap", "1 / P, of the last map alone: the control of `dsna`", {}, {"resolutions": "0:32"}),
    Member("dsna", "vgg-dsna", "for each class, (softplus(x_i) + 0.1) over its sum", {}, {"resolutions": "0:32"}),
    Member("co", f"{PC}-co", "as pc, and softmax(V_bᵀ D V_a) between the positions of a pair"),
)
