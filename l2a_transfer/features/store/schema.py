"""What every feature file says and keeps to: names, types, the seal's layout, and how rows and columns fit together."""

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
"""Of an extraction: flat, so that two can be compared value by value."""
TEXT = ("data", "tap", "precision", "backend")
JSON: dict[str, Kind] = {
    "classes": list_of(text()),
    "splits": list_of(text()),
    "levels": list_of(row_of(text(), integer(), integer())),
    "card": CARD_OF_FEATURES,
    "preprocess": OBJECT,
    "fingerprint": FINGERPRINT,
}
"""What each attribute must hold; `levels` are (name, start, stop)."""
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
"""What stands for an optional attribute that is not there."""
MAPS = "maps"
"""The group of the attention maps: one data set a level."""
PARTNERS = "partners"
"""The data set of partners; not there where the network takes none."""
DOMAIN = "domain"
"""The data set of domains; not there where the set has none."""
DATASETS = ("features", "labels", "split", "ids", PARTNERS, DOMAIN)
"""All that is read beside the maps. A data set that is not among them must not be read: its structure is unchecked."""
MAX_DOMAINS = 1 << 16


def document(path: Path, key: str, content: str) -> Any:
    """What a JSON attribute holds. Raises: StoreError naming the attribute, and in it the field that is wrong."""
    try:
        found = parse(content)
    except ValueError as error:
        raise StoreError(f"{path}: the attribute {key!r} is not JSON that can be used: {error}") from error
    try:
        (JSON | OPTIONAL_JSON)[key].check(found, key)
    except ValueError as error:
        raise StoreError(f"{path}: the attribute {key!r}: {error}") from error
    return found


@dataclass(frozen=True)
class FeatureMeta:
    """What the columns and rows of a feature file mean, and what made them.

    `levels`: (name, start, stop) of each attended feature among the columns, which they tile in order. `card`: the
    model's card as JSON; `card["name"]` is the model's name. `fingerprint`: everything that decided the bytes.
    `skipped`: (id, reason) of each image that could not be used and has no row. `source`: how the data set was read,
    `splits_from` and `passed_over`, where there is something to say. `domains`: the names of the domains, where the
    rows have one each.
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
    def title(self) -> str:
        """Data set and model, as a repr names them."""
        return f"{self.data} by {self.card.get('name', 'an unnamed model')}"

    @property
    def facts(self) -> tuple[str, ...]:
        """What a repr says of levels, classes and splits."""
        levels = few([f"{name} {stop - start:,}" for name, start, stop in self.levels])
        skipped = (f"{len(self.skipped):,} skipped",) if self.skipped else ()
        named = f"{'level' if len(self.levels) == 1 else 'levels'} {levels}"
        return (named, *classes_and_splits(self.classes, self.splits), *skipped)


@dataclass(frozen=True)
class RowTable:
    """Label, id and split of each row: (N,) int32, N names, (N,) uint8; its partners' ids, N times k, or none; and its
    domain, (N,) uint8 or uint16, or None."""

    labels: NDArray[np.int32]
    ids: tuple[str, ...]
    split: NDArray[np.uint8]
    partners: tuple[tuple[str, ...], ...] = ()
    domain: NDArray[np.uint8 | np.uint16] | None = None


def weights_sha256(meta: FeatureMeta) -> str | None:
    """The digest of the network that made a feature file, as `inspect` gives it of weights; None where there is none.

    Of an ONNX file, fingerprints without `graph` have the SHA-256 of the file there instead.
    """
    found = meta.fingerprint.get("weights")
    if not isinstance(found, str) or (meta.backend == "onnxruntime" and "graph" not in meta.fingerprint):
        return None
    return found or None


def check_rows(path: Path, meta: FeatureMeta, rows: RowTable, dim: int) -> None:
    """What holds in every feature file, whether it is about to be written or has just been read."""
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
        raise StoreError(f"{path}: /ids must differ; {twice!r} appears more than once")
    if found := first_fault(rows.ids):
        raise StoreError(f"{path}: /ids: the name of row {found[0]} {found[1]}; {MUST_BE}")
    levels = [name for name, _, _ in meta.levels]
    named = (("classes", meta.classes), ("splits", meta.splits), ("levels", levels), ("domains", meta.domains))
    for key, names in named:
        if found := first_fault(names):
            raise StoreError(f"{path}: the attribute {key!r}: name {found[0]} {found[1]}; {MUST_BE}")
        # Classes of one name were told apart by whoever gave them (see `data.names.merged`).
        if key != "classes" and len(set(names)) < len(names):
            raise StoreError(f"{path}: the attribute {key!r}: names must differ, got {list(names)!r:.200}")
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
            raise StoreError(f"{path}: levels must tile the columns in order; {name!r} is {start}:{stop} after {at}")
        at = stop
    if at != dim:
        raise StoreError(f"{path}: levels cover {counted(at, 'column')}, /features has {dim}")
    if not isinstance(meta.card.get("name"), str):
        raise StoreError(f"{path}: the card has no name")
    absent = {name for name, _ in meta.skipped}
    if len(absent) < len(meta.skipped) or absent & set(rows.ids):
        raise StoreError(f"{path}: 'skipped' must name different images, none of which has a row")
    if rows.partners:
        _check_partners(path, rows, absent)


def _check_domain(path: Path, meta: FeatureMeta, rows: RowTable) -> None:
    """Raises: StoreError where rows and names of domains do not fit together."""
    if rows.domain is None or not meta.domains:
        there, missing = ("/domain", "'domains'") if rows.domain is not None else ("'domains'", "/domain")
        raise StoreError(f"{path}: has {there}, and no {missing}, which belong together")
    if rows.domain.shape != (len(rows.labels),):
        raise StoreError(f"{path}: /domain must have the shape ({len(rows.labels)},), got {rows.domain.shape}")
    if len(meta.domains) > MAX_DOMAINS or rows.domain.max() >= len(meta.domains):
        raise StoreError(f"{path}: /domain must be an index of one of {counted(len(meta.domains), 'domain')}")


def _check_partners(path: Path, rows: RowTable, skipped: set[str]) -> None:
    """Raises: StoreError where an image has partners that it cannot have."""
    there = skipped | set(rows.ids)
    if len(rows.partners) != len(rows.ids) or len(set(map(len, rows.partners))) != 1:
        raise StoreError(f"{path}: /partners must have as many names for each of {counted(len(rows.ids), 'row')}")
    for name, partners in zip(rows.ids, rows.partners, strict=True):
        if not partners or len({name, *partners}) != 1 + len(partners) or not there.issuperset(partners):
            raise StoreError(f"{path}: /partners: those of {name!r} must be different other images of the set")


def digest_of(path: Path) -> tuple[int, bytes]:
    """Length and SHA-256 of what follows the user block."""
    with open_input(path) as file:
        return digest_of_open(file)


def digest_of_open(file: IO[bytes]) -> tuple[int, bytes]:
    """As `digest_of`, of a file that is open, wherever it stands."""
    sha, length = hashlib.sha256(), 0
    file.seek(USER_BLOCK)
    while chunk := file.read(CHUNK_BYTES):
        sha.update(chunk)
        length += len(chunk)
    return length, sha.digest()
