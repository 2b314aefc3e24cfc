"""How long, how fast and with what augmentation: training recipes as data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from l2a_transfer.errors import unknown_name


@dataclass(frozen=True)
class TrainConfig:
    """A recipe: SGD with Nesterov momentum under a one-cycle rate.

    The rate rises linearly from `lr`/10 to `lr` over the first `warmup` of all steps, then falls linearly to zero.
    `resolutions` is progressive resizing (Howard 2018): pairs (fraction of the epochs, pixels), each valid from its
    fraction on; the last must be the size at which the network is used. `dropout` scales the paper's rates.

    Raises: ValueError naming the field and the range.
    """

    name: str = "custom"
    epochs: int = 14
    batch_size: int = 128
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2
    label_smoothing: float = 0.1
    crop_pad: int = 2
    flip: bool = True
    dropout: float = 0.0
    resolutions: tuple[tuple[float, int], ...] = ((0.0, 32),)

    def __post_init__(self) -> None:
        checks = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 2, "at least 2, because batch norm needs two images"),
            "lr": (0 < self.lr < float("inf"), "above 0"),
            "momentum": (0 <= self.momentum < 1, "at least 0 and below 1"),
            "weight_decay": (0 <= self.weight_decay < float("inf"), "at least 0"),
            "warmup": (0 <= self.warmup < 1, "at least 0 and below 1"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            "crop_pad": (0 <= self.crop_pad <= 8, "between 0 and 8 pixels"),
            "dropout": (0 <= self.dropout <= 1, "between 0 and 1"),
            "resolutions": (
                bool(self.resolutions)
                and self.resolutions[0][0] == 0
                and list(self.resolutions) == sorted(self.resolutions)
                and all(0 <= f < 1 and 4 <= size <= 512 for f, size in self.resolutions),
                "pairs of a rising fraction of the epochs, the first 0, and a size between 4 and 512 pixels",
            ),
        }
        for field, (valid, expected) in checks.items():
            if not valid:
                raise ValueError(f"{field} must be {expected}; got {getattr(self, field)}")

    def learning_rate(self, step: int, steps: int) -> float:
        """The rate of step `step` of `steps`, counted from 0."""
        rise = self.warmup * steps
        if step < rise:
            return self.lr * (0.1 + 0.9 * step / rise)
        return self.lr * (steps - step) / (steps - rise)

    def resolution(self, epoch: int) -> int:
        """The image size in pixels during epoch `epoch`, counted from 0."""
        return [size for start, size in self.resolutions if round(start * self.epochs) <= epoch][-1]

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "resolutions": [list(pair) for pair in self.resolutions]}


RECIPES: dict[str, TrainConfig] = {
    # 14 epochs cost as much as 8.9 at full resolution: a quarter of the pixels for 4 epochs, 9/16 for 4 more.
    "fast": TrainConfig("fast", resolutions=((0.0, 16), (0.286, 24), (0.572, 32))),
    "one-cycle": TrainConfig("one-cycle", epochs=10),
}


def find_recipe(name: str) -> TrainConfig:
    """The recipe called `name`. Raises: UnknownNameError with the nearest name."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]
