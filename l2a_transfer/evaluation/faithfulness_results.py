"""Settings and results of a faithfulness evaluation, and the schema of `faithfulness.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.devices import check_device_name
from l2a_transfer.documents import ANYTHING, NOTHING, NUMBER, Kind, either, integer, list_of, row_of, table, text
from l2a_transfer.errors import ArgumentError, unknown_name
from l2a_transfer.evaluation.robustness_results import DIFFERENCE, MODEL, NAME, RUN, SHARE, read_checked
from l2a_transfer.explain.checks.faithfulness import BASELINES, MAX_STEPS, MEAN
from l2a_transfer.explain.registry import METHODS

SCHEMA = "l2a-faithfulness/1"
RANDOM = "random"
CONTROLS = ("centre", "sobel")
"""Methods that ignore the network; like random orders, they are always measured too."""
PREDICTED, TRUE = "predicted", "true"
TARGETS = (PREDICTED, TRUE)
MAX_RESAMPLES = 1_000_000


@dataclass(frozen=True)
class FaithfulnessConfig:
    """The settings of a faithfulness evaluation.

    Parameters
    ----------
    method : sequence of str, default=("evidence",)
        Map methods. The controls are always measured too.
    options : mapping, optional
        Method → its options, such as ``{"occlusion": {"window": 4}}``.
    target : str, default="predicted"
        The class whose probability is followed: "predicted", "true", or the name of one class for all images.
    steps : int, default=32
        Steps from the first pixel to the last.
    baseline : {"mean", "blur"}, default="mean"
        What replaces pixels.
    orders : int, default=3
        Random maps per image and resolution. Maps of that resolution are compared with their mean.
    resamples : int, default=10000
        Bootstrap resamples over images.
    side : int, optional
        Side of the input images in pixels; by default, that of the network.
    seed : int, default=0
        Random seed of the random orders, ties, the bootstrap and untrained weights.
    batch_size : int, default=16
        Images per batch.
    device : {"auto", "cpu", "cuda"}, default="auto"
        Device of the networks.

    Raises
    ------
    UnknownNameError, ArgumentError
        For unknown names and numbers out of range.
    """

    method: tuple[str, ...] = ("evidence",)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    target: str = PREDICTED
    steps: int = 32
    baseline: str = MEAN
    orders: int = 3
    resamples: int = 10_000
    side: int | None = None
    seed: int = 0
    batch_size: int = 16
    device: str = "auto"

    def __post_init__(self) -> None:
        check_device_name(self.device)
        object.__setattr__(self, "method", tuple(dict.fromkeys(self.method)))
        if not self.method:
            raise ArgumentError(f"method must be one or more of {', '.join(METHODS)}; got none")
        for name in (*self.method, *self.options):
            METHODS.find(name)
        checked = {name: METHODS[name].checked_options(dict(given)) for name, given in self.options.items()}
        object.__setattr__(self, "options", checked)
        if self.baseline not in BASELINES:
            raise unknown_name("baseline", self.baseline, BASELINES)
        limits = {
            "steps": (1, MAX_STEPS),
            "orders": (1, 1000),
            "resamples": (100, MAX_RESAMPLES),
            "seed": (0, 2**32 - 1),
            "batch_size": (1, 2**31),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ArgumentError(f"{name} must be between {low} and {high:,}, got {getattr(self, name)}")

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that are measured, including the controls; random orders are added separately."""
        return tuple(name for name in dict.fromkeys((*self.method, *CONTROLS)) if name != RANDOM)


@dataclass(frozen=True)
class FaithfulnessRow:
    """One map of one network over all images.

    `grid`: its resolution (h, w). `deletion` and `insertion`: the mean area under the curve, between 0 and 1, with its
    95 % bootstrap interval over images. `deletion_gain` and `insertion_gain`: the mean over images of the map's gain
    over random orders of the same image and resolution: random area minus map area for deletion, map area minus random
    area for insertion; None for the random orders themselves. `completeness`: for methods whose maps must sum to the
    logit, the largest error over images, in logit units; None for others. `curves`: the mean curves.
    """

    model: str
    method: str
    map: str
    grid: tuple[int, int]
    n: int
    deletion: float
    deletion_ci95: tuple[float, float]
    insertion: float
    insertion_ci95: tuple[float, float]
    deletion_gain: float | None
    deletion_gain_ci95: tuple[float, float] | None
    insertion_gain: float | None
    insertion_gain_ci95: tuple[float, float] | None
    completeness: float | None
    curves: Mapping[str, tuple[float, ...]] = field(repr=False)

    @property
    def label(self) -> str:
        """For example "evidence, L3"; only the method's name if its single map is of the pixels."""
        return self.method if self.map == "pixels" else f"{self.method}, {self.map}"


@dataclass(frozen=True)
class FaithfulnessResults:
    """`areas`: (model, method, map) → "deletion" and "insertion" → the area for each image, (N,), in the order of
    `images`. `shares`: the share of pixels at each step of the curves."""

    config: FaithfulnessConfig
    models: tuple[dict[str, Any], ...]
    data: dict[str, Any]
    run: dict[str, Any]
    rows: tuple[FaithfulnessRow, ...]
    shares: tuple[float, ...]
    images: tuple[str, ...] = field(repr=False)
    areas: dict[tuple[str, str, str], dict[str, NDArray[np.float64]]] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """The JSON document of schema `l2a-faithfulness/1`."""
        config = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self.config).items()}
        config["options"] = {name: dict(given) for name, given in self.config.options.items()}
        return {
            "schema": SCHEMA,
            "config": config,
            **self.run,
            "data": self.data,
            "models": [dict(model) for model in self.models],
            "shares": list(self.shares),
            "rows": [_flat(row) for row in self.rows],
            "images": list(self.images),
            "areas": [
                {"model": model, "method": method, "map": name, **{curve: own.tolist() for curve, own in found.items()}}
                for (model, method, name), found in self.areas.items()
            ],
        }


def _flat(row: FaithfulnessRow) -> dict[str, Any]:
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(row).items()}
    return {**found, "curves": {curve: list(values) for curve, values in row.curves.items()}}


BOTH = row_of(SHARE, SHARE)
CURVES = table({"deletion": list_of(SHARE), "insertion": list_of(SHARE)})
GAIN, GAINS = either(NOTHING, DIFFERENCE), either(NOTHING, row_of(DIFFERENCE, DIFFERENCE))
LOGITS = either(NOTHING, Kind("a number of at least 0", lambda value: NUMBER.holds(value) and value >= 0))
DOCUMENT = table(
    {
        "schema": Kind(repr(SCHEMA), lambda value: value == SCHEMA),
        "config": table(others=ANYTHING),
        **RUN,
        "data": table({"name": NAME, "fingerprint": NAME, "splits": list_of(NAME), "images": integer(1)}),
        "models": list_of(MODEL),
        "shares": list_of(SHARE),
        "rows": list_of(
            table(
                {
                    "model": NAME,
                    "method": NAME,
                    "map": NAME,
                    "grid": row_of(integer(1), integer(1)),
                    "n": integer(1),
                    "deletion": SHARE,
                    "deletion_ci95": BOTH,
                    "insertion": SHARE,
                    "insertion_ci95": BOTH,
                    "deletion_gain": GAIN,
                    "deletion_gain_ci95": GAINS,
                    "insertion_gain": GAIN,
                    "insertion_gain_ci95": GAINS,
                    "completeness": LOGITS,
                    "curves": CURVES,
                }
            )
        ),
        "images": list_of(text(4096)),
        "areas": list_of(
            table(
                {
                    "model": NAME,
                    "method": NAME,
                    "map": NAME,
                    "deletion": list_of(SHARE),
                    "insertion": list_of(SHARE),
                }
            )
        ),
    }
)


def read_faithfulness(path: str | Path) -> dict[str, Any]:
    """The document of a `faithfulness.json`, checked against its schema.

    Raises
    ------
    EvaluationError
        If the file cannot be read or does not match the schema; the message names the invalid field.
    """
    return read_checked(path, DOCUMENT, "faithfulness")
