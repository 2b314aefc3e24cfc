"""Results of a localization run: rows, comparisons and their JSON document, and how to read it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2a_transfer.documents import ANYTHING, FLAG, NOTHING, NUMBER, Kind, either, integer, list_of, parse, table, text
from l2a_transfer.errors import EvaluationError
from l2a_transfer.inputs import read_input
from l2a_transfer.memory import require_memory_to_parse

SCHEMA = "l2a-localization/1"
RESULTS = "localization.json"
MAX_BYTES = 1 << 28
MEASURES = {
    "jaccard": "J",
    "pixel_accuracy": "P",
    "average_precision": "AP",
    "pointing": "pointing",
    "pointing_near": "pointing, near",
    "energy": "energy",
    "jaccard_otsu": "J, Otsu",
    "pixel_accuracy_otsu": "P, Otsu",
    "jaccard_mass": "J, mass",
    "pixel_accuracy_mass": "P, mass",
    "max_box_accuracy": "MaxBoxAccV2",
}
"""Measures of an image, each with its column heading. J and P use the threshold chosen on other images."""
OF_MASKS = frozenset(name for name in MEASURES if name.startswith(("jaccard", "pixel", "average")))
"""Measures that need outlines of objects; boxes are not enough."""
OF_BOXES = frozenset({"max_box_accuracy"})


@dataclass(frozen=True)
class Measure:
    """A measure with 95 % bootstrap intervals over images, resampled within classes.

    `mean`: over images. `class_mean`: mean of the class means.
    """

    mean: float
    ci95: tuple[float, float]
    class_mean: float
    class_ci95: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """A map of a method and a network.

    `label` names the row. `control`: the map does not depend on a network, and `model` is empty. `target`: the class
    that the map explains, "true", "predicted" or a name; empty for maps that are not class-specific. `levels`: the
    thresholds between 0 and 1 chosen for each fold. `pooled_average_precision`: of all pixels of all images together.
    `oracle_jaccard`, `oracle_pixel_accuracy`: means over images with the best threshold for each fold's own images;
    these are upper bounds, not results. Measures that the masks do not allow are omitted.
    """

    label: str
    model: str
    method: str
    map: str
    kind: str
    target: str
    control: bool
    weights_sha256: str
    images: int
    measures: dict[str, Measure]
    levels: tuple[float, ...]
    pooled_average_precision: float | None
    oracle_jaccard: float | None
    oracle_pixel_accuracy: float | None


@dataclass(frozen=True)
class MapComparison:
    """`a` against `b` on the same images. The difference is the class mean of `measure` for a minus that for b, a
    fraction.

    `family`: "models" (the same map of two networks), "seeds" (of two architectures, over training seeds), "methods"
    (two maps of one network) or "controls" (a map and the centre). It has `comparisons` members; `p_adjusted` and
    `ci95_simultaneous` are adjusted for all of them (Bonferroni). `n`: training seeds per side in "seeds", otherwise
    images. Interval and p are None if undefined; `not_defined` says why.
    """

    family: str
    comparisons: int
    measure: str
    a: str
    b: str
    difference: float
    ci95: tuple[float, float] | None
    ci95_simultaneous: tuple[float, float] | None
    p: float | None
    p_adjusted: float | None
    n: tuple[int, int]
    population: str
    not_defined: str
    verdict: str


@dataclass(frozen=True)
class LocalizationConfig:
    """The settings of a localization run.

    Parameters
    ----------
    methods : tuple of str
        Map methods, in the order of the table.
    target : str
        "predicted", "true", or a class of the networks.
    same_class : dict of str to str
        Class of the data → class of the networks with another name.
    side : int
        Shorter side of the networks' input in pixels.
    levels : tuple of str
        Levels, or layers; empty for the default of each method.
    options : dict of str to dict
        Method → its options.
    mask_class : str or None
        The class of objects in the masks: a name, a number, or "label" for the label of the picture. None for all
        objects.
    folds : int
        Folds for choosing thresholds.
    measure : str or None
        Measure of the comparisons; by default J, or MaxBoxAccV2 for boxes.
    skip_unmasked, skip_unknown : bool
        Skip pictures without an object in the masks, and pictures of classes that a network does not have.
    seed : int
        Random seed of folds, ties and the bootstrap.
    """

    methods: tuple[str, ...] = ("attention",)
    target: str = "predicted"
    same_class: dict[str, str] = field(default_factory=dict)
    side: int = 64
    levels: tuple[str, ...] = ()
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    mask_class: str | None = None
    folds: int = 2
    measure: str | None = None
    skip_unmasked: bool = False
    skip_unknown: bool = False
    seed: int = 0


@dataclass(frozen=True)
class LocalizationResults:
    """Results of a localization run. `rows`: those of the table, controls last. `models`: label → card of each network.
    `images`: number of measured images; `classes`: number of their classes; `choosing`: number of images that only
    chose thresholds; `skipped`: reason → number of skipped images. `foreground`: the mean share of object pixels."""

    config: LocalizationConfig
    data: str
    masks: str
    images: int
    classes: tuple[str, ...]
    choosing: int
    skipped: dict[str, int]
    foreground: float
    outlined: bool
    rows: tuple[Row, ...]
    comparisons: tuple[MapComparison, ...]
    models: dict[str, dict[str, Any]]
    versions: dict[str, str]

    def document(self) -> dict[str, Any]:
        """The JSON document of schema `l2a-localization/1`."""
        found = {name: _plain(value) for name, value in vars(self).items()}
        return {"schema": SCHEMA, **found}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


def _fields(kind: type, **kinds: Kind) -> Kind:
    """A table with a key for each field of a dataclass; fields without a kind are text."""
    return table({own.name: kinds.get(own.name, text()) for own in dataclasses.fields(kind)})


_PAIR = list_of(NUMBER, length=2)
_MEASURE = _fields(Measure, mean=NUMBER, ci95=_PAIR, class_mean=NUMBER, class_ci95=_PAIR)
_NUMBER_OR_NOT = either(NUMBER, NOTHING)
_ROW = _fields(
    Row,
    control=FLAG,
    images=integer(1),
    measures=table(optional=dict.fromkeys(MEASURES, _MEASURE)),
    levels=list_of(NUMBER),
    pooled_average_precision=_NUMBER_OR_NOT,
    oracle_jaccard=_NUMBER_OR_NOT,
    oracle_pixel_accuracy=_NUMBER_OR_NOT,
)
_COMPARISON = _fields(
    MapComparison,
    comparisons=integer(1),
    difference=NUMBER,
    ci95=either(_PAIR, NOTHING),
    ci95_simultaneous=either(_PAIR, NOTHING),
    p=_NUMBER_OR_NOT,
    p_adjusted=_NUMBER_OR_NOT,
    n=list_of(integer(), length=2),
)
_NAMES = table(others=text())
_CONFIG = _fields(
    LocalizationConfig,
    methods=list_of(text()),
    same_class=_NAMES,
    side=integer(1),
    levels=list_of(text()),
    options=table(others=table(others=ANYTHING)),
    mask_class=either(text(), NOTHING),
    folds=integer(),
    measure=either(text(), NOTHING),
    skip_unmasked=FLAG,
    skip_unknown=FLAG,
    seed=integer(),
)
DOCUMENT = table(
    {
        "schema": Kind(repr(SCHEMA), lambda value: value == SCHEMA),
        "config": _CONFIG,
        "data": text(),
        "masks": text(),
        "images": integer(1),
        "classes": list_of(text()),
        "choosing": integer(),
        "skipped": table(others=integer()),
        "foreground": NUMBER,
        "outlined": FLAG,
        "rows": list_of(_ROW),
        "comparisons": list_of(_COMPARISON),
        "models": table(others=table(others=ANYTHING)),
        "versions": _NAMES,
    },
    optional={"files": list_of(text())},
)


def read_localization(path: str | Path) -> LocalizationResults:
    """Read the results in a `localization.json`.

    Raises
    ------
    EvaluationError
        If the file is missing, damaged or has another schema; the message names the field.
    """
    try:
        content = read_input(path, MAX_BYTES)
        require_memory_to_parse(content, path)
        document = parse(content)
        DOCUMENT.check(document, "results")
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror or error}", "name another file") from error
    except ValueError as error:
        raise EvaluationError(
            f"{path}: not localization results: {error}", "run 'l2a-transfer localize' again"
        ) from error
    return from_document(document)


def from_document(document: dict[str, Any]) -> LocalizationResults:
    """The results of a validated document."""
    values = {key: value for key, value in document.items() if key not in ("schema", "files")}
    config = LocalizationConfig(**_tuples_of(values["config"]))
    rows = [
        Row(**{**_tuples_of(row), "measures": {k: Measure(**_tuples_of(own)) for k, own in row["measures"].items()}})
        for row in values["rows"]
    ]
    comparisons = [MapComparison(**_tuples_of(own)) for own in values["comparisons"]]
    return LocalizationResults(
        **{
            **values,
            "config": config,
            "rows": tuple(rows),
            "comparisons": tuple(comparisons),
            "classes": tuple(values["classes"]),
        }
    )


def _tuples_of(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a document with lists replaced by tuples, as in the dataclasses."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
