"""Results of a sanity check: written as sanity.json, and validated against a schema when read."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from l2a_transfer.documents import ANYTHING, FLAG, NOTHING, NUMBER, either, integer, list_of, parse, table, text
from l2a_transfer.errors import EvaluationError
from l2a_transfer.explain.checks.similarity import MEASURES
from l2a_transfer.inputs import read_input
from l2a_transfer.memory import require_memory_to_parse
from l2a_transfer.text import json_text

SCHEMA = "l2a-sanity/1"
MAX_BYTES = 64 << 20
CONFIDENCE = 0.95
LABELS = "labels"
"""The order of the rows that compare with a network trained on permuted labels."""
ORDERS = ("cascade", "independent", LABELS)
PERMUTED = "permuted labels"
"""The name used as part in these rows."""


@dataclass(frozen=True)
class Similarity:
    """Similarity of maps over images.

    Parameters
    ----------
    mean : float or None
        Mean over images of the mean over seeds; None if no image has a value.
    ci95 : (float, float) or None
        Student's t interval of the mean over images; None for fewer than two images.
    n : int
        Images with a value, that is, with no constant map for at least one seed.
    seeds : tuple of float or None
        The mean over images for each seed.
    """

    mean: float | None
    ci95: tuple[float, float] | None
    n: int
    seeds: tuple[float | None, ...]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Similarity:
        """The similarity from values (seeds, images), NaN if undefined."""
        defined = ~np.isnan(values)
        filled = np.where(defined, values, 0.0)
        counts = defined.sum(axis=0)  # per image
        images = filled.sum(axis=0)[counts > 0] / counts[counts > 0]
        per_seed = [float(row[own].mean()) if own.any() else None for row, own in zip(values, defined, strict=True)]
        n = len(images)
        if n == 0:
            return cls(None, None, 0, tuple(per_seed))
        mean = float(images.mean())
        if n == 1:
            return cls(mean, None, 1, tuple(per_seed))
        half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2) * images.std(ddof=1) / math.sqrt(n))
        return cls(mean, (mean - half, mean + half), n, tuple(per_seed))


@dataclass(frozen=True)
class Part:
    """A part of the network: its name, its tensors, their number of values, and whether they differ in a fresh network
    for at least one seed."""

    name: str
    tensors: tuple[str, ...]
    numbers: int
    altered: bool


@dataclass(frozen=True)
class SanityRow:
    """One map of one method after one randomisation, compared with the map of the unchanged network.

    Parameters
    ----------
    method, map, kind : str
        As in `MapBatch`.
    order : str
        "cascade", "independent" or "labels".
    part : str
        The randomised part, the lowest one in a cascade; "permuted labels" for a network trained on these.
    unchanged : bool
        Whether every map is bit-identical, for all images and seeds.
    constant : int
        Pairs of maps, over all images and seeds, without a similarity because one of the two is constant.
    similarity : dict of str to Similarity
        Measure → similarity.
    """

    method: str
    map: str
    kind: str
    order: str
    part: str
    unchanged: bool
    constant: int
    similarity: dict[str, Similarity]

    @property
    def label(self) -> str:
        """Method and map, such as "grad-cam L3"."""
        return self.method if self.map == "pixels" else f"{self.method} {self.map}"


@dataclass(frozen=True)
class PermutedLabels:
    """The network trained on permuted labels, and its accuracy on these labels."""

    name: str
    weights_sha256: str
    seed: int
    train_accuracy: float
    n: int


@dataclass(frozen=True)
class SanityResults:
    """Results of the sanity check of one network.

    Parameters
    ----------
    network, weights_sha256 : str
        The name in the card, and the digest of the weights.
    data : str
        Source of the images.
    ids : tuple of str
        Names of the images.
    side : int
        Side of the images in pixels.
    seeds : tuple of int
        Random seeds of the fresh networks.
    parts : tuple of Part
        From the logits down.
    rows : tuple of SanityRow
        By map, order and part.
    left_out : dict of str to str
        Default methods that the network does not support → why.
    labels : PermutedLabels or None
        The network trained on permuted labels, if it was given.
    versions : dict of str to str
        Versions of the packages, and the commit.
    """

    network: str
    weights_sha256: str
    data: str
    ids: tuple[str, ...]
    side: int
    seeds: tuple[int, ...]
    parts: tuple[Part, ...]
    rows: tuple[SanityRow, ...]
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    labels: PermutedLabels | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def maps(self) -> tuple[str, ...]:
        """The labels of the maps, in the order of the rows."""
        return tuple(dict.fromkeys(row.label for row in self.rows))

    @property
    def orders(self) -> tuple[str, ...]:
        """The orders of the rows."""
        return tuple(dict.fromkeys(row.order for row in self.rows))

    def rows_of(self, *, label: str | None = None, order: str | None = None) -> list[SanityRow]:
        """The rows of a map, of an order, or of both."""
        return [row for row in self.rows if label in (None, row.label) and order in (None, row.order)]

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        values = dataclasses.asdict(self)
        return {"schema": SCHEMA, **values, "statements": statements(self)}

    @classmethod
    def from_document(cls, values: Any) -> SanityResults:
        """The results that `document` wrote. Raises: ValueError for an invalid document, naming the field."""
        DOCUMENT.check(values, "results")
        if values["schema"] != SCHEMA:
            raise ValueError(f"the schema must be {SCHEMA!r}, got {values['schema']!r:.60}")
        parts = tuple(
            Part(one["name"], tuple(one["tensors"]), one["numbers"], one["altered"]) for one in values["parts"]
        )
        rows = tuple(_row(one) for one in values["rows"])
        known = [part.name for part in parts] + [PERMUTED]
        for k, row in enumerate(rows):
            if row.part not in known:
                raise ValueError(f"results.rows[{k}].part must be one of the parts, got {row.part!r:.60}")
            if row.order not in ORDERS:
                raise ValueError(f"results.rows[{k}].order must be one of {', '.join(ORDERS)}, got {row.order!r:.60}")
        return cls(
            network=values["network"],
            weights_sha256=values["weights_sha256"],
            data=values["data"],
            ids=tuple(values["ids"]),
            side=values["side"],
            seeds=tuple(values["seeds"]),
            parts=parts,
            rows=rows,
            left_out=values["left_out"],
            labels=None if values["labels"] is None else PermutedLabels(**values["labels"]),
            versions=values["versions"],
        )


def _row(values: dict[str, Any]) -> SanityRow:
    found = {
        name: Similarity(
            one["mean"],
            None if one["ci95"] is None else (one["ci95"][0], one["ci95"][1]),
            one["n"],
            tuple(one["seeds"]),
        )
        for name, one in values["similarity"].items()
    }
    return SanityRow(**{**values, "similarity": found})


_MAYBE = either(NUMBER, NOTHING)
_SIMILARITY = table(
    {
        "mean": _MAYBE,
        "ci95": either(list_of(NUMBER, length=2), NOTHING),
        "n": integer(),
        "seeds": list_of(_MAYBE),
    }
)
_ROW = table(
    {
        **{name: text(1000) for name in ("method", "map", "kind", "order", "part")},
        "unchanged": FLAG,
        "constant": integer(),
        "similarity": table(dict.fromkeys(MEASURES, _SIMILARITY)),
    }
)
_PART = table({"name": text(1000), "tensors": list_of(text()), "numbers": integer(), "altered": FLAG})
_LABELS = table(
    {
        "name": text(1000),
        "weights_sha256": text(64),
        "seed": integer(),
        "train_accuracy": NUMBER,
        "n": integer(),
    }
)
DOCUMENT = table(
    {
        "schema": text(100),
        "network": text(1000),
        "weights_sha256": text(64),
        "data": text(),
        "ids": list_of(text()),
        "side": integer(1),
        "seeds": list_of(integer()),
        "parts": list_of(_PART),
        "rows": list_of(_ROW),
        "left_out": table(others=text()),
        "labels": either(_LABELS, NOTHING),
        "versions": table(others=text()),
    },
    others=ANYTHING,
)


def read_sanity(path: str | Path) -> SanityResults:
    """Read the results file of `l2a-transfer sanity`.

    Parameters
    ----------
    path : str or Path
        `sanity.json`.

    Returns
    -------
    SanityResults

    Raises
    ------
    EvaluationError
        If the file cannot be read, is damaged, or has another schema; the message names the field.
    """
    try:
        content = read_input(path, MAX_BYTES)
        require_memory_to_parse(content, path)
        return SanityResults.from_document(parse(content))
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror or error}", "name another file") from error
    except ValueError as error:
        raise EvaluationError(f"{path}: not the results of a sanity check: {error}") from error


def written(results: SanityResults) -> str:
    """The document as text, with one row per line."""
    document = results.document()
    rows = ",\n".join(f"  {_dump(row)}" for row in document["rows"])
    lines = [f' "{key}": ' + (f"[\n{rows}\n ]" if key == "rows" else _dump(value)) for key, value in document.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _dump(value: Any) -> str:
    return json_text(json.dumps(value, ensure_ascii=False, allow_nan=False))


def statements(results: SanityResults) -> list[str]:
    """Which maps do not react to a randomised part, judged by bit-identity over all images and seeds."""
    idle = [part.name for part in results.parts if not part.altered]
    said = (
        [f"A fresh network has the same numbers in {_listed(idle, 'and')}, so nothing changed there."] if idle else []
    )
    return said + [own for label in results.maps if (own := _statement(results, label, idle))]


def _statement(results: SanityResults, label: str, idle: Sequence[str]) -> str:
    rows = [row for row in results.rows_of(label=label) if row.order != LABELS and row.part not in idle]
    if not rows:
        return ""
    if all(row.unchanged for row in rows):
        if all(row.similarity["spearman"].n == 0 for row in rows):
            return f"{label} is constant for every image, whatever is random, so it has no similarity."
        return f"{label} depends on no tensor of the network: no random part can change it."
    said = []
    if same := [row.part for row in rows if row.order == "independent" and row.unchanged]:
        said.append(
            f"{label} does not depend on {_listed(same, 'or')}: with such a part random, every map is the same."
        )
    cascade = [row for row in rows if row.order == "cascade"]
    first = next((row.part for row in cascade if not row.unchanged), None)
    if first is not None and cascade[0].unchanged:
        said.append(f"From the logits down, the first part that changes {label} is {first}.")
    return " ".join(said)


def _listed(names: Sequence[str], last: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
