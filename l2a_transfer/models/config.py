"""Networks as data: families, their named architectures, and the frozen config. Does not import torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from l2a_transfer.errors import ArgumentError, PluginError, names_keywords, unknown_name
from l2a_transfer.models.compatibilities import COMPATIBILITIES
from l2a_transfer.models.normalizers import find_normalizer
from l2a_transfer.models.selection import check_selection, find_selection
from l2a_transfer.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from l2a_transfer.models.objectives import Objective
    from l2a_transfer.models.selection import Sampling

LEVELS = {"L1": 256, "L2": 512, "L3": 512}
"""Attention level → channels at width 1: the outputs of conv7, conv10 and conv13 (after the ReLU)."""

DEFAULT_WIDTH = 0.25
"""The default width of `train`, and therefore also of untrained controls."""
DEFAULT_NORMALIZER = "softmax"
DEFAULT_SELECTION = "soft"

MAX_OUTPUTS = 1_000_000
GLOBAL_BRANCH = ("auto", "always")

MapKind = Literal["distribution", "gate", "mask"]
"""Kind of an attention map: weights that sum to 1, independent weights between 0 and 1, or zeros and ones."""


@dataclass(frozen=True)
class MapSpec:
    """One attention map that a network gives.

    Parameters
    ----------
    name : str
        Its key in `Attended.maps`, in feature files and in file names. The only or first map of a level has the
        level's name, such as ``"L2"``; further ones are named like ``"L2.gate"``.
    level : str
        The level that it belongs to.
    kind : {"distribution", "gate", "mask"}
        See `MapKind`.

    Raises
    ------
    ValueError
        If the name does not belong to the level, or cannot be used in file names.
    """

    name: str
    level: str
    kind: MapKind

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)?", self.name) or self.name.split(".")[0] != self.level:
            raise ArgumentError(f"name must be the level {self.level!r}, or {self.level + '.MAP'!r}; got {self.name!r}")


@dataclass(frozen=True)
class Architecture:
    """One named architecture. Attention networks have levels, a head and a compatibility.

    `family` is filled in when the family is registered.
    """

    name: str
    levels: tuple[str, ...] = ()
    head: str = ""
    compatibility: str = ""
    family: str = ""


class Family:
    """A family of networks: its architectures, and what a config implies. Subclass it and register it with `family`.

    The default methods are for networks with attention at `Architecture.levels`; a family overrides what differs.
    """

    architectures: ClassVar[tuple[Architecture, ...]] = ()
    selections: ClassVar[tuple[str, ...]] = ("soft",)
    """Names of the selections that its networks support."""
    partners: int = 0
    """Number of other images that each image is attended with. In training they have the same class."""

    def network(self, config: ModelConfig) -> nn.Module:
        """A newly initialised `Network` in training mode. Import torch in this method, not at module level."""
        raise NotImplementedError(f"{type(self).__name__} must have a method network")

    def objective(self, config: ModelConfig, *, label_smoothing: float, sampling: Sampling | None = None) -> Objective:
        """Cross-entropy, unless the family has a loss of its own. `sampling` is only given with a hard selection."""
        from l2a_transfer.models.objectives import CrossEntropy, GroupCrossEntropy

        return GroupCrossEntropy(label_smoothing) if self.partners else CrossEntropy(label_smoothing)

    def readouts(self, network: nn.Module, sampling: Sampling) -> dict[str, nn.Module]:
        """Alternative readouts whose accuracy is also recorded in the card: name → module from images to logits."""
        return {}

    def feature_levels(self, config: ModelConfig) -> dict[str, int]:
        """Name → width of each piece of the transfer feature, in the order in which they are concatenated."""
        return {level: config.channels(LEVELS[level]) for level in config.spec.levels}

    def maps(self, config: ModelConfig) -> tuple[MapSpec, ...]:
        """The attention maps, in the order of `Attended.maps`."""
        return tuple(MapSpec(level, level, attention_kind(config)) for level in config.spec.levels)

    def g_is_inert(self, config: ModelConfig) -> bool:
        """Whether the global feature g cannot change attention, features or logits."""
        name = config.spec.compatibility
        return bool(name) and COMPATIBILITIES[name].g_is_inert(find_normalizer(config.normalizer))

    def g_acts(self, config: ModelConfig) -> bool:
        """Whether a global feature can change the weights of any map."""
        return config.builds_global_branch and not config.g_is_inert

    def builds_global_branch(self, config: ModelConfig) -> bool:
        """Whether conv14, conv15 and the g layer are part of the network."""
        return bool(config.spec.levels) and (config.global_branch == "always" or not config.g_is_inert)

    def has_unused_parameters(self, config: ModelConfig) -> bool:
        """Whether parameters are built that no loss depends on, so that they get no gradient."""
        name = config.spec.compatibility
        return config.builds_global_branch and bool(name) and COMPATIBILITIES[name].role_of_g == "unused"

    def min_size(self, config: ModelConfig) -> int:
        """The smallest image side in pixels that leaves every feature map at least one position."""
        return 16


def attention_kind(config: ModelConfig) -> MapKind:
    """The kind of map that the config's selection, compatibility and normalizer produce."""
    if config.selection != DEFAULT_SELECTION:
        return "mask" if find_selection(config.selection).count == 1 else "distribution"
    is_gate = config.has_scores and not find_normalizer(config.normalizer).sums_to_1
    return "gate" if is_gate else "distribution"


def attention_name(architecture: str, normalizer: str, selection: str) -> str:
    """The architecture, plus normalizer and selection if they are not the defaults: vgg-att2-concat-pc-tvmax-0.1."""
    own = [name for name in (normalizer, selection) if name not in (DEFAULT_NORMALIZER, DEFAULT_SELECTION)]
    return "-".join([architecture, *own]).replace(":", "-")


HOMES = tuple(f"l2a_transfer.models.families.{name}" for name in ("plain", "pan", "decoupled", "soft", "co"))
FAMILIES: Registry[Family] = Registry("family", *HOMES)
ARCHITECTURES: Registry[Architecture] = Registry("architecture", *HOMES)


def family(name: str) -> Callable[[type[Family]], type[Family]]:
    """Register the decorated subclass of `Family` and its architectures.

    Parameters
    ----------
    name : str
        Lower case, digits and hyphens.

    Returns
    -------
    callable
        A decorator that returns the class unchanged.

    Raises
    ------
    PluginError
        If the name of the family or of an architecture is invalid or already taken.

    Examples
    --------
    >>> @family("toy")
    ... class Toy(Family):
    ...     architectures = (Architecture("toy-net", levels=("L3",), compatibility="pc"),)
    >>> ModelConfig("toy-net").map_levels
    ('L3',)
    >>> remove_family("toy")
    """

    def register(cls: type[Family]) -> type[Family]:
        for row in cls.architectures:
            if row.name in ARCHITECTURES:
                raise PluginError(f"the architecture {row.name!r} is declared twice", "give one of them another name")
        FAMILIES.add(name, cls())
        for row in cls.architectures:
            ARCHITECTURES.add(row.name, dataclasses.replace(row, family=name))
        return cls

    return register


def remove_family(name: str) -> None:
    """Unregister a family and its architectures; used by tests. Raises: KeyError."""
    for row in FAMILIES[name].architectures:
        ARCHITECTURES.remove(row.name)
    FAMILIES.remove(name)


@names_keywords
@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides a network's shape and arithmetic.

    Parameters
    ----------
    architecture : str
        A registered architecture, such as ``"vgg-att2-concat-pc"``; `l2a-transfer models` lists them.
    num_classes : int
        Number of classes, K.
    width : float
        Multiplier for all channel counts (512 → 128 at 0.25); 1 is the paper's network.
    normalizer : str
        A registered normalizer, such as ``"softmax"``. A parameter follows a colon, as in ``"tvmax:0.1"``.
    dropout : float
        Multiplier for the paper's dropout rates (0.3, 0.4, 0.5): 1 is the paper's network, 0 has no dropout.
    global_branch : {"auto", "always"}
        "auto" builds the layers behind the global feature g only if g can change the output; "always" builds them, as
        in the paper.
    selection : str
        A registered selection: ``"soft"``, ``"hard"``, ``"top:K"`` or ``"random"``. Hard selections draw positions
        from a softmax. "random" is their control, for networks whose compatibility is "uniform".

    Raises
    ------
    UnknownNameError
        For an unknown name.
    ValueError
        For a number out of range.

    Examples
    --------
    >>> config = ModelConfig("vgg-att2-concat-pc", num_classes=100, width=0.5)
    >>> config.feature_levels
    {'L2': 256, 'L3': 256}
    >>> [(spec.name, spec.kind) for spec in config.maps]
    [('L2', 'distribution'), ('L3', 'distribution')]
    """

    architecture: str
    num_classes: int = 10
    width: float = DEFAULT_WIDTH
    normalizer: str = DEFAULT_NORMALIZER
    dropout: float = 1.0
    global_branch: str = "auto"
    selection: str = DEFAULT_SELECTION

    def __post_init__(self) -> None:
        ARCHITECTURES.find(self.architecture)
        object.__setattr__(self, "normalizer", find_normalizer(self.normalizer).name)
        if self.global_branch not in GLOBAL_BRANCH:
            raise unknown_name("global_branch", self.global_branch, GLOBAL_BRANCH)
        check_selection(
            self.selection,
            self.architecture,
            allowed=self.family.selections,
            has_scores=self.has_scores,
            normalizer=self.normalizer,
        )
        object.__setattr__(self, "selection", find_selection(self.selection).name)
        if not 1 / 64 <= self.width <= 8:
            raise ArgumentError(f"width must be between 1/64 and 8, got {self.width}")
        if not 0 <= self.dropout <= 1:
            raise ArgumentError(f"dropout scales the paper's rates and must be between 0 and 1, got {self.dropout}")
        if not 1 <= self.num_classes <= MAX_OUTPUTS:
            raise ArgumentError(f"num_classes must be between 1 and {MAX_OUTPUTS:,}, got {self.num_classes}")

    @property
    def spec(self) -> Architecture:
        """The registered architecture."""
        return ARCHITECTURES[self.architecture]

    @property
    def family(self) -> Family:
        """The family that the architecture belongs to."""
        return FAMILIES[self.spec.family]

    def channels(self, at_width_1: int) -> int:
        """`at_width_1` channels scaled by `width`, at least 1."""
        return max(1, round(at_width_1 * self.width))

    @property
    def feature_levels(self) -> dict[str, int]:
        """Name → width of each piece of the transfer feature, in the order in which they are concatenated."""
        return self.family.feature_levels(self)

    @property
    def maps(self) -> tuple[MapSpec, ...]:
        """The attention maps, each with its level and kind; empty for networks without attention."""
        return self.family.maps(self)

    @property
    def map_levels(self) -> tuple[str, ...]:
        """The names of the attention maps."""
        return tuple(spec.name for spec in self.maps)

    @property
    def has_scores(self) -> bool:
        """Whether the normalizer computes attention weights from scores."""
        name = self.spec.compatibility
        return bool(name) and COMPATIBILITIES[name].scores is not None

    @property
    def partners(self) -> int:
        """Number of partners, which are other images that each image is attended with; 0 for most families."""
        return self.family.partners

    @property
    def g_is_inert(self) -> bool:
        """Whether the global feature g cannot change attention, features or logits.

        `<u, l_i + g> = <u, l_i> + <u, g>`, and a normalizer over positions ignores the constant `<u, g>`; uniform
        weights ignore every score. This does not apply to PAN's second branch (a sigmoid), which is always built.
        """
        return self.family.g_is_inert(self)

    @property
    def builds_global_branch(self) -> bool:
        """Whether conv14, conv15 and the g layer are part of the network."""
        return self.family.builds_global_branch(self)

    @property
    def min_size(self) -> int:
        """The smallest image side in pixels that leaves every feature map at least one position."""
        return self.family.min_size(self)

    def to_json(self) -> dict[str, Any]:
        """Every field. `selection` is left out if it is the default, so that older files and digests do not change."""
        values = dataclasses.asdict(self)
        if self.selection == DEFAULT_SELECTION:
            del values["selection"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelConfig:
        """The config that `to_json` wrote. Raises: ValueError or TypeError for anything else."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) - names or "architecture" not in values:
            raise ValueError(f"a model config must have the keys {sorted(names)}; got {values!r}")
        kinds = {"architecture": str, "normalizer": str, "global_branch": str, "selection": str, "num_classes": int}
        for key, value in values.items():
            kind: Any = kinds.get(key, (int, float))
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(f"model config: {key} has the wrong type: {value!r}")
        return cls(**values)
