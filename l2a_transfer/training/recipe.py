"""Training recipes as data: schedule, learning rate, augmentation and regularisation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from l2a_transfer.errors import ArgumentError, TrainingError, names_keywords, unknown_name
from l2a_transfer.models.selection import SAMPLERS, Sampling
from l2a_transfer.wording import are, counted

FREEZABLE = ("", "trunk")
SCHEDULES = ("one-cycle", "step")
BASELINES = ("soft", "others", "none")
OF_SAMPLING = tuple(field.name for field in dataclasses.fields(Sampling))
KINDS = {bool: "true or false", int: "an integer", float: "a number", tuple: "pairs like 0:16,0.5:32", str: "a name"}


@names_keywords
@dataclass(frozen=True)
class TrainConfig:
    """A recipe for stochastic gradient descent, which is recorded in the card.

    `schedule="one-cycle"`: the rate rises linearly from `lr`/10 to `lr` over the first `warmup` of all steps, then
    falls linearly to zero (after Smith and Topin 2018). `"step"`: `lr` times `step_factor` for every `step_epochs`
    epochs that have passed.

    `batch_size` is that of all processes together. `crop_pad` is the largest shift and `cutout` the side of the
    square, both in pixels at the full size; 0 disables them. `dropout` scales the paper's rates. `resolutions` is
    progressive resizing (Howard 2018): pairs (fraction of the epochs, pixels), each valid from its fraction on. The
    last size is that at which the network is used, and at least the last epoch has it. `average` is the time constant
    of an exponential moving average of the weights, as a fraction of all steps. The averaged weights are the result; 0
    uses the last weights. `freeze="trunk"` keeps the convolutions and their batch norms, including statistics, as they
    were at the start, and trains the rest.

    `sampler` and the fields after it are those of `Sampling`. They only affect hard selections.

    Raises: ValueError, naming the field and the range.
    """

    name: str = "custom"
    epochs: int = 14
    batch_size: int = 128
    lr: float = 0.2
    schedule: str = "one-cycle"
    warmup: float = 0.2
    step_epochs: int = 25
    step_factor: float = 0.5
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    crop_pad: int = 2
    flip: bool = True
    cutout: int = 0
    dropout: float = 0.0
    average: float = 0.0
    resolutions: tuple[tuple[float, int], ...] = ((0.0, 32),)
    freeze: str = ""
    sampler: str = Sampling.sampler
    samples: int = Sampling.samples
    baseline: str = Sampling.baseline
    entropy_weight: float = Sampling.entropy_weight
    entropy_until: float = Sampling.entropy_until
    temperature: float = Sampling.temperature

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        for key, valid in (("sampler", SAMPLERS), ("baseline", BASELINES)):
            if getattr(self, key) not in valid:
                raise unknown_name(key, getattr(self, key), valid)
        if self.freeze not in FREEZABLE:
            raise ArgumentError(f"freeze must be 'trunk', or empty to freeze nothing; got {self.freeze!r}")
        checks = {
            "epochs": (1 <= self.epochs <= 1_000_000, "at least 1, and at most a million"),
            "batch_size": (self.batch_size >= 2, "at least 2, because batch norm needs two images"),
            "lr": (0 < self.lr < float("inf"), "above 0 and finite"),
            "warmup": (0 <= self.warmup < 1, "at least 0 and below 1"),
            "step_epochs": (self.step_epochs >= 1, "at least 1"),
            "step_factor": (0 < self.step_factor <= 1, "above 0 and at most 1"),
            "momentum": (0 <= self.momentum < 1, "at least 0 and below 1"),
            "nesterov": (not self.nesterov or self.momentum > 0, "false if momentum is 0"),
            "weight_decay": (0 <= self.weight_decay < float("inf"), "at least 0 and finite"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            "dropout": (0 <= self.dropout <= 1, "between 0 and 1"),
            "average": (0 <= self.average <= 1, "between 0 and 1"),
            "samples": (1 <= self.samples <= 1024, "between 1 and 1,024"),
            "baseline": (
                self.baseline != "others" or self.samples > 1,
                "'soft' or 'none' if samples is 1, because 'others' compares the draws of an image",
            ),
            "entropy_weight": (0 <= self.entropy_weight < float("inf"), "at least 0 and finite"),
            "entropy_until": (0 <= self.entropy_until <= 1, "between 0 and 1"),
            "temperature": (0 < self.temperature < float("inf"), "above 0 and finite"),
            "resolutions": (
                bool(self.resolutions)
                and self.resolutions[0][0] == 0
                and all(one[0] < other[0] for one, other in pairwise(self.resolutions))
                and all(0 <= f < 1 and 4 <= size <= 512 for f, size in self.resolutions),
                "pairs of a rising fraction of the epochs, starting at 0, and a size between 4 and 512 pixels",
            ),
        }
        self._check(checks)
        self._check(
            {
                key: (0 <= getattr(self, key) < self.size, f"at least 0 and below the {self.size} pixels of the image")
                for key in ("crop_pad", "cutout")
            }
        )

    def _check(self, checks: dict[str, tuple[bool, str]]) -> None:
        for field, (valid, expected) in checks.items():
            if not valid:
                raise ArgumentError(f"{field} must be {expected}; got {getattr(self, field)}")

    @property
    def sampling(self) -> Sampling:
        """How a hard selection is trained."""
        return Sampling(**{key: getattr(self, key) for key in OF_SAMPLING})

    @property
    def size(self) -> int:
        """The side in pixels at which the network is used, which is that of the last epochs."""
        return self.resolutions[-1][1]

    def at_size(self, size: int) -> TrainConfig:
        """The same recipe for another image size, with resolutions, shifts and squares in proportion.

        Raises: ValueError if one of them is not valid at that size.
        """
        smallest = min(pixels for _, pixels in self.resolutions)
        if not (4 * self.size / smallest <= size <= 512):
            least = math.ceil(4 * self.size / smallest)
            raise ArgumentError(f"the image size must be between {least} and 512 pixels for this recipe; got {size}")
        scale = size / self.size
        return dataclasses.replace(
            self,
            crop_pad=round(self.crop_pad * scale),
            cutout=round(self.cutout * scale),
            resolutions=tuple((start, round(pixels * scale)) for start, pixels in self.resolutions),
        )

    def at_batch(self, size: int) -> TrainConfig:
        """The same recipe for another batch size, with `lr` in proportion (Goyal et al. 2017, section 2.1).

        Raises: ValueError for a size below 2.
        """
        if size == self.batch_size:
            return self
        return dataclasses.replace(self, batch_size=size, lr=self.lr * size / self.batch_size)

    def fitting(self, images: int, *, processes: int = 1, scale: bool = True) -> TrainConfig:
        """The recipe with a smaller batch if there are fewer `images` than in a batch.

        The batch is then the largest power of two of which an epoch has two, divided evenly between `processes`.
        `scale`: scale `lr` like `at_batch`. Raises: TrainingError if even two images per process are too many.
        """
        if images >= self.batch_size:
            return self
        size = 1 << max(1, (images // 2).bit_length() - 1)
        size = max(size - size % processes, 2 * processes)
        if size > images:
            raise TrainingError(
                f"a batch of {counted(processes, 'process', 'processes')} needs {2 * processes} training images, but "
                f"there {are(images)} {images}"
            )
        return self.at_batch(size) if scale else dataclasses.replace(self, batch_size=size)

    def learning_rate(self, step: int, steps: int) -> float:
        """The rate of step `step` of `steps`, counted from 0."""
        if self.schedule == "step":
            return self.lr * self.step_factor ** (step * self.epochs // steps // self.step_epochs)
        rise = self.warmup * steps
        if step < rise:
            return self.lr * (0.1 + 0.9 * step / rise)
        return self.lr * (steps - step) / (steps - rise)

    def resolution(self, epoch: int) -> int:
        """The image size in pixels during epoch `epoch`, counted from 0."""
        if epoch >= self.epochs - 1:
            return self.size
        return [size for start, size in self.resolutions if round(start * self.epochs) <= epoch][-1]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TrainConfig:
        """The recipe of a card. A field that the card lacks is newer than the card and gets its default."""
        pairs = tuple((start, size) for start, size in fields["resolutions"])
        return cls(**{**fields, "resolutions": pairs})

    def to_json(self) -> dict[str, Any]:
        """The fields for cards and fingerprints. `freeze` and the fields of `Sampling` are left out at their defaults,
        as in versions without them.
        """
        values = {**dataclasses.asdict(self), "resolutions": [list(pair) for pair in self.resolutions]}
        usual = {"freeze": "", **dataclasses.asdict(Sampling())}
        return {key: value for key, value in values.items() if key not in usual or value != usual[key]}

    def with_settings(self, settings: Iterable[str]) -> TrainConfig:
        """The recipe with some fields replaced: `lr=0.1`, `flip=false`, `resolutions=0:16,0.5:32`.

        Raises: ValueError for a malformed setting or a value of the wrong type; UnknownNameError for an unknown field.
        """
        kinds = {field.name: type(getattr(self, field.name)) for field in dataclasses.fields(self)}
        values: dict[str, Any] = {}
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals:
                raise ArgumentError(f"a setting must be FIELD=VALUE, such as lr=0.1; got {setting!r}")
            if name not in kinds:
                raise unknown_name("field of a recipe", name, kinds)
            try:
                values[name] = _parse(text, kinds[name])
            except ValueError:
                raise ArgumentError(f"{name} must be {KINDS[kinds[name]]}; got {text!r}") from None
        return dataclasses.replace(self, **values)


def _parse(text: str, kind: type) -> Any:
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    if kind is tuple:
        pairs = [pair.split(":") for pair in text.split(",")]
        return tuple((float(start), int(size)) for start, size in pairs)
    return kind(text)


EPOCHS = {"fast": {"cifar10": 14, "cifar100": 24}}
"""Recipe → data set → epochs, if they differ from the recipe's own."""

RECIPES: dict[str, TrainConfig] = {
    # The authors' script: 300 epochs, rate halved every 25, only flips. Its rate is 1.0, but its hand-written backward
    # pass averages the gradients where paths meet, while autograd adds them; like re-implementations, we use 0.1.
    "paper": TrainConfig(
        "paper", epochs=300, lr=0.1, schedule="step", nesterov=False, label_smoothing=0.0, crop_pad=0, dropout=1.0
    ),
    # 14 epochs cost as much as 8.9 at full resolution: a quarter of the pixels for 4 epochs, 9/16 for 4 more.
    "fast": TrainConfig("fast", resolutions=((0.0, 16), (0.286, 24), (0.572, 32))),
    # For trained weights: a lower rate preserves what they learned, and dropout helps if there are few images.
    "finetune": TrainConfig("finetune", epochs=40, batch_size=64, lr=0.02, dropout=1.0),
}


def find_recipe(name: str, data: str = "") -> TrainConfig:
    """The recipe called `name`, with its number of epochs for the data set `data`.

    Raises: UnknownNameError, suggesting the nearest name.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    recipe = RECIPES[name]
    return dataclasses.replace(recipe, epochs=EPOCHS.get(name, {}).get(data, recipe.epochs))


def scaled_rate(recipe: TrainConfig) -> str | None:
    """How a rate was scaled from the named recipe's rate, such as "0.2 × 32/128"; None if it was not scaled."""
    own = RECIPES.get(recipe.name)
    if own is None or recipe.batch_size == own.batch_size or recipe.lr != own.at_batch(recipe.batch_size).lr:
        return None
    return f"{own.lr:g} × {recipe.batch_size}/{own.batch_size}"
