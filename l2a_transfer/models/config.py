"""What a network is, as data: the frozen config and the table of named architectures. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from l2a_transfer.errors import ArgumentError, unknown_name

LEVELS = {"L1": 256, "L2": 512, "L3": 512}
"""Attention level → channels at width 1: the outputs of conv7, conv10 and conv13 (after the ReLU)."""

DEFAULT_WIDTH = 0.25
"""Of a network whose width nobody names: what `train` makes, and so what its untrained control must have."""

MAX_OUTPUTS = 1_000_000
NORMALIZERS = ("softmax", "sparsemax", "entmax15")
GLOBAL_BRANCH = ("auto", "always")


@dataclass(frozen=True)
class Architecture:
    """One row of the table: the family, and for attention networks the levels, head and compatibility."""

    name: str
    family: str
    levels: tuple[str, ...] = ()
    head: str = ""
    compatibility: str = ""


def _table() -> dict[str, Architecture]:
    rows = [
        Architecture("vgg", "vgg"),
        Architecture("vgg-gap", "vgg-gap"),
        Architecture("vgg-pan", "vgg-pan", ("L3",), "concat", "pc"),
    ]
    for n, levels in ((1, ("L3",)), (2, ("L2", "L3")), (3, ("L1", "L2", "L3"))):
        # With one level there is nothing to concatenate or average, so att1 has no head in its name.
        for head in ("",) if n == 1 else ("concat", "indep"):
            for compatibility in ("pc", "dp", "add", "uniform"):
                middle = f"-{head}" if head else ""
                name = f"vgg-att{n}{middle}-{compatibility}"
                rows.append(Architecture(name, "attention", levels, head or "concat", compatibility))
    return {row.name: row for row in rows}


ARCHITECTURES: dict[str, Architecture] = _table()


def find_architecture(name: str) -> Architecture:
    """The architecture called `name`. Raises: UnknownNameError with the nearest name."""
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides a network's shape and arithmetic.

    Parameters
    ----------
    architecture : str
        A registered architecture, as ``"vgg-att2-concat-pc"``; `l2a-transfer models` lists them.
    num_classes : int
        Outputs, K.
    width : float
        Scale of every channel count (512 → 128 at 0.25); 1 is the paper's network.
    normalizer : str
        A registered normalizer, as ``"softmax"``.
    dropout : float
        Scale of the paper's dropout rates (0.3, 0.4, 0.5): 1 is the paper's network, 0 has none.
    global_branch : {"auto", "always"}
        "auto" builds the layers behind the global feature g only where g can change the output; "always" builds the
        paper's network to the letter.

    Raises
    ------
    UnknownNameError
        For a name that is not registered.
    ValueError
        For a number out of range.

    Examples
    --------
    >>> config = ModelConfig("vgg-att2-concat-pc", num_classes=100, width=0.5)
    >>> config.feature_levels
    {'L2': 256, 'L3': 256}
    """

    architecture: str
    num_classes: int = 10
    width: float = DEFAULT_WIDTH
    normalizer: str = "softmax"
    dropout: float = 1.0
    global_branch: str = "auto"

    def __post_init__(self) -> None:
        find_architecture(self.architecture)
        if self.normalizer not in NORMALIZERS:
            raise unknown_name("normalizer", self.normalizer, NORMALIZERS)
        if self.global_branch not in GLOBAL_BRANCH:
            raise unknown_name("global_branch", self.global_branch, GLOBAL_BRANCH)
        if not 1 / 64 <= self.width <= 8:
            raise ArgumentError(f"width must be between 1/64 and 8, got {self.width}")
        if not 0 <= self.dropout <= 1:
            raise ArgumentError(f"dropout scales the paper's rates and must be between 0 and 1, got {self.dropout}")
        if not 1 <= self.num_classes <= MAX_OUTPUTS:
            raise ArgumentError(f"num_classes must be between 1 and {MAX_OUTPUTS:,}, got {self.num_classes}")

    @property
    def spec(self) -> Architecture:
        """The row of the table that `architecture` names."""
        return ARCHITECTURES[self.architecture]

    def channels(self, at_width_1: int) -> int:
        """`at_width_1` channels scaled by `width`, at least 1."""
        return max(1, round(at_width_1 * self.width))

    @property
    def feature_levels(self) -> dict[str, int]:
        """Name → width of each piece of the transfer feature, in the order in which they are concatenated."""
        if self.spec.levels:
            return {level: self.channels(LEVELS[level]) for level in self.spec.levels}
        return {"head" if self.spec.family == "vgg" else "gap": self.channels(512)}

    @property
    def map_levels(self) -> tuple[str, ...]:
        """The levels that have an attention map; none where there is no attention."""
        return ("L2", "L3") if self.spec.family == "vgg-pan" else self.spec.levels

    @property
    def g_is_inert(self) -> bool:
        """True where the global feature g cannot change attention, features or logits.

        `<u, l_i + g> = <u, l_i> + <u, g>`, and a normalizer over positions ignores the constant `<u, g>`; uniform
        weights ignore every score. PAN's second branch (a sigmoid) is not meant here: it is always built.
        """
        return self.spec.compatibility in ("pc", "uniform")

    @property
    def builds_global_branch(self) -> bool:
        """True where conv14, conv15 and the g layer are part of the network."""
        return bool(self.spec.levels) and (self.global_branch == "always" or not self.g_is_inert)

    @property
    def min_size(self) -> int:
        """The smallest image side in pixels that leaves every feature map at least one position."""
        if self.spec.family == "attention":
            return 16 if self.builds_global_branch else 4
        return 16

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelConfig:
        """The config that `to_json` wrote. Raises: ValueError or TypeError for anything else."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) - names or "architecture" not in values:
            raise ValueError(f"a model config has the keys {sorted(names)}, got {values!r}")
        kinds = {"architecture": str, "normalizer": str, "global_branch": str, "num_classes": int}
        for key, value in values.items():
            kind: Any = kinds.get(key, (int, float))
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(f"model config: {key} has the wrong kind: {value!r}")
        return cls(**values)
