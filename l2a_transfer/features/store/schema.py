"""The schema of feature files: names, types, the layout of the seal, and the checks of rows and columns."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.names import MUST_BE, first_fault
from l2a_transfer.documents import (
    ANYTHING,
    FLAG,
    NOTHING,
    NUMBER,
    Kind,
    either,
    integer,
    list_of,
    parse,
    row_of,
    table,
    text,
)
from l2a_transfer.errors import StoreError
from l2a_transfer.features.extraction.partners import rule_in
from l2a_transfer.inputs import open_input
from l2a_transfer.models.card_schema import CARD_OF_FEATURES, OBJECT
from l2a_transfer.text import classes_and_splits, few, repr_line
from l2a_transfer.wording import counted

SCHEMA = "l2a-features/1"
MAGIC = b"L2AFEAT\n"
VERSION = 1
USER_BLOCK = 512
SEAL = struct.Struct("<8sIQ32s")
"""magic, version, length in bytes of what follows the user block, and its SHA-256; the rest of the block is zero."""
DTYPES = ("float32", "float16")
CHUNK_BYTES = 1 << 20
AGAIN = "extract it again (`overwrite=True`)"
FINGERPRINT = table(others=either(text(), NUMBER, FLAG, NOTHING))
"""The fingerprint of an extraction. It is flat, so that two can be compared value by value."""
TEXT = ("data", "tap", "precision", "backend")
JSON: dict[str, Kind] = {
    "classes": list_of(text()),
    "splits": list_of(text()),
    "levels": list_of(row_of(text(), integer(), integer())),
    "card": CARD_OF_FEATURES,
    "preprocess": OBJECT,
    "fingerprint": FINGERPRINT,
}
"""The kind of each attribute's content; `levels` are (name, start, stop)."""
OPTIONAL_JSON: dict[str, Kind] = {
    "skipped": list_of(row_of(text(), text())),
    "source": table(
        optional={
            "splits_from": text(),
            "passed_over": table(
                optional={"files": integer(), "kinds": table(others=integer()), "first": list_of(text())},
                others=ANYTHING,
            ),
        },
        others=ANYTHING,
    ),
}
OPTIONAL_JSON["domains"] = list_of(text())
EMPTY = {"skipped": "[]", "source": "{}", "domains": "[]"}
"""The defaults of optional attributes."""
MAPS = "maps"
"""The group of the attention maps, one data set per level."""
PARTNERS = "partners"
"""The data set of partners, present if they were drawn from the set."""
DOMAIN = "domain"
"""The data set of domains, absent if the set has none."""
DATASETS = ("features", "labels", "split", "ids", PARTNERS, DOMAIN)
"""All data sets that are read, besides the maps. Others must not be read, because their structure is not checked."""
MAX_DOMAINS = 1 << 16


def document(path: Path, key: str, content: str) -> Any:
    """The content of a JSON attribute. Raises: StoreError naming the attribute and the wrong field."""
    try:
        found = parse(content)
    except ValueError as error:
        raise StoreError(f"{path}: the attribute {key!r} is not valid JSON: {error}") from error
    try:
        (JSON | OPTIONAL_JSON)[key].check(found, key)
    except ValueError as error:
        raise StoreError(f"{path}: the attribute {key!r}: {error}") from error
    return found


@dataclass(frozen=True)
class FeatureMeta:
    """What the columns and rows of a feature file mean, and how they were made.

    `levels`: (name, start, stop), the columns of each attended feature; together they cover all columns in order.
    `card`: the model's card as JSON; `card["name"]` is the model's name. `fingerprint`: everything that determined the
    bytes. `skipped`: (id, reason) of each image that could not be used and has no row. `source`: how the data set was
    read, as `splits_from` and `passed_over`, if they are not empty. `domains`: the names of the domains, if rows have
    them.
    """

    data: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    levels: tuple[tuple[str, int, int], ...]
    card: dict[str, Any]
    preprocess: dict[str, Any]
    tap: str
    precision: str
    backend: str
    fingerprint: dict[str, Any]
    skipped: tuple[tuple[str, str], ...] = ()
    source: dict[str, Any] = field(default_factory=dict)
    domains: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return repr_line(self, self.title, *self.facts)

    @property
    def partners(self) -> str:
        """The rule by which each image got its partners, `self` or `set`; empty for a network without partners."""
        return rule_in(self.fingerprint)

    @property
    def title(self) -> str:
        """Data set and model, for a repr."""
        return f"{self.data} by {self.card.get('name', 'an unnamed model')}"

    @property
    def facts(self) -> tuple[str, ...]:
        """Levels, classes and splits, for a repr."""
        levels = few([f"{name} {stop - start:,}" for name, start, stop in self.levels])
        skipped = (f"{len(self.skipped):,} skipped",) if self.skipped else ()
        named = f"{'level' if len(self.levels) == 1 else 'levels'} {levels}"
        return (named, *classes_and_splits(self.classes, self.splits), *skipped)


@dataclass(frozen=True)
class RowTable:
    """Per row: label (N,) int32, id (N names), split (N,) uint8, the ids of its partners (N times k, or empty), and
    domain, (N,) uint8 or uint16, or None."""

    labels: NDArray[np.int32]
    ids: tuple[str, ...]
    split: NDArray[np.uint8]
    partners: tuple[tuple[str, ...], ...] = ()
    domain: NDArray[np.uint8 | np.uint16] | None = None


def weights_sha256(meta: FeatureMeta) -> str | None:
    """The digest of the network that made a feature file, as `inspect` prints it for weights; None if there is none.

    For an ONNX file, a fingerprint without `graph` stores the SHA-256 of the file instead, so this returns None.
    """
    found = meta.fingerprint.get("weights")
    if not isinstance(found, str) or (meta.backend == "onnxruntime" and "graph" not in meta.fingerprint):
        return None
    return found or None


def check_rows(path: Path, meta: FeatureMeta, rows: RowTable, dim: int) -> None:
    """Check what every feature file must satisfy, before writing and after reading. Raises: StoreError."""
    N = len(rows.labels)
    for name, array in (("/labels", rows.labels), ("/split", rows.split)):
        if array.shape != (N,):
            raise StoreError(f"{path}: {name} must have the shape ({N},), got {array.shape}")
    if len(rows.ids) != N:
        raise StoreError(f"{path}: /ids must have {counted(N, 'name')}, got {len(rows.ids)}")
    if N == 0 or dim == 0:
        raise StoreError(f"{path}: /features must have rows and columns, got {N} × {dim}")
    if len(set(rows.ids)) != N:
        seen: set[str] = set()
        twice = next(name for name in rows.ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise StoreError(f"{path}: /ids must be unique, but {twice!r} appears more than once")
    if found := first_fault(rows.ids):
        raise StoreError(f"{path}: /ids: the name of row {found[0]} {found[1]}; {MUST_BE}")
    levels = [name for name, _, _ in meta.levels]
    named = (("classes", meta.classes), ("splits", meta.splits), ("levels", levels), ("domains", meta.domains))
    for key, names in named:
        if found := first_fault(names):
            raise StoreError(f"{path}: the attribute {key!r}: name {found[0]} {found[1]}; {MUST_BE}")
        # Several classes may have the same name if the caller has separated them (see `data.names.merged`).
        if key != "classes" and len(set(names)) < len(names):
            raise StoreError(f"{path}: the attribute {key!r}: names must be unique, got {list(names)!r:.200}")
    if rows.labels.min() < -1 or rows.labels.max() >= len(meta.classes):
        raise StoreError(
            f"{path}: /labels must be −1 or an index of one of {counted(len(meta.classes), 'class', 'classes')}"
        )
    if rows.split.max() >= len(meta.splits):
        raise StoreError(f"{path}: /split must be an index of one of {counted(len(meta.splits), 'split')}")
    if rows.domain is not None or meta.domains:
        _check_domain(path, meta, rows)
    at = 0
    for name, start, stop in meta.levels:
        if start != at or stop <= start:
            raise StoreError(f"{path}: levels must cover the columns in order; {name!r} is {start}:{stop} after {at}")
        at = stop
    if at != dim:
        raise StoreError(f"{path}: levels cover {counted(at, 'column')}, but /features has {dim}")
    if not isinstance(meta.card.get("name"), str):
        raise StoreError(f"{path}: the card has no name")
    absent = {name for name, _ in meta.skipped}
    if len(absent) < len(meta.skipped) or absent & set(rows.ids):
        raise StoreError(f"{path}: 'skipped' must contain unique ids of images without a row")
    if rows.partners:
        _check_partners(path, rows, absent)


def _check_domain(path: Path, meta: FeatureMeta, rows: RowTable) -> None:
    """Raises: StoreError if the rows and the names of domains are inconsistent."""
    if rows.domain is None or not meta.domains:
        there, missing = ("/domain", "'domains'") if rows.domain is not None else ("'domains'", "/domain")
        raise StoreError(f"{path}: has {there} but no {missing}; a file has both or neither")
    if rows.domain.shape != (len(rows.labels),):
        raise StoreError(f"{path}: /domain must have the shape ({len(rows.labels)},), got {rows.domain.shape}")
    if len(meta.domains) > MAX_DOMAINS or rows.domain.max() >= len(meta.domains):
        raise StoreError(f"{path}: /domain must be an index of one of {counted(len(meta.domains), 'domain')}")


def _check_partners(path: Path, rows: RowTable, skipped: set[str]) -> None:
    """Raises: StoreError if the partners of an image are invalid."""
    there = skipped | set(rows.ids)
    if len(rows.partners) != len(rows.ids) or len(set(map(len, rows.partners))) != 1:
        raise StoreError(
            f"{path}: /partners must have the same number of ids for each of {counted(len(rows.ids), 'row')}"
        )
    for name, partners in zip(rows.ids, rows.partners, strict=True):
        if not partners or len({name, *partners}) != 1 + len(partners) or not there.issuperset(partners):
            raise StoreError(f"{path}: /partners: the partners of {name!r} must be unique other images of the set")


def digest_of(path: Path) -> tuple[int, bytes]:
    """Length and SHA-256 of everything after the user block."""
    with open_input(path) as file:
        return digest_of_open(file)


def digest_of_open(file: IO[bytes]) -> tuple[int, bytes]:
    """Same as `digest_of`, for an open file at any position."""
    sha, length = hashlib.sha256(), 0
    file.seek(USER_BLOCK)
    while chunk := file.read(CHUNK_BYTES):
        sha.update(chunk)
        length += len(chunk)
    return length, sha.digest()
