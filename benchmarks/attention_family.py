"""The members of the attention family that are compared: how each is built, and how its training draws positions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from l2a_transfer.models.config import ModelConfig
from l2a_transfer.training.recipe import RECIPES, TrainConfig


@dataclass(frozen=True)
class Member:
    """One attention: its name in tables, its architecture, options of `ModelConfig` and fields of the recipe."""

    name: str
    architecture: str
    options: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def config(self, width: float, classes: int = 10) -> ModelConfig:
        return ModelConfig(self.architecture, num_classes=classes, width=width, **self.options)  # type: ignore[arg-type]

    def recipe(self, name: str = "fast") -> TrainConfig:
        return RECIPES[name].with_settings([f"{key}={value}" for key, value in self.settings.items()])


PC, UNIFORM = "vgg-att2-concat-pc", "vgg-att2-concat-uniform"
FAMILY = (
    Member("uniform", UNIFORM),
    Member("pc", PC),
    Member("dp", "vgg-att2-concat-dp"),
    Member("add", "vgg-att2-concat-add"),
    Member("sparsemax", PC, {"normalizer": "sparsemax"}),
    Member("entmax15", PC, {"normalizer": "entmax15"}),
    Member("sigmoid", PC, {"normalizer": "sigmoid"}),
    Member("sigmoid-sum", PC, {"normalizer": "sigmoid-sum"}),
    Member("tvmax:0.1", PC, {"normalizer": "tvmax:0.1"}),
    Member("hard, reinforce", PC, {"selection": "hard"}),
    Member("hard, gumbel-st", PC, {"selection": "hard"}, {"sampler": "gumbel-st"}),
    Member("hard, exact", PC, {"selection": "hard"}, {"sampler": "exact"}),
    Member("top:4", PC, {"selection": "top:4"}, {"sampler": "gumbel-st"}),
    Member("random", UNIFORM, {"selection": "random"}),
    Member("pan", "vgg-pan"),
    Member("dsna", "vgg-dsna", {}, {"resolutions": "0:32"}),
    Member("co", f"{PC}-co"),
)
