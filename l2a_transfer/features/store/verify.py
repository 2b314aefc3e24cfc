"""Find faults of a file that opening it does not show: corrupt chunks, values that are not finite, constant columns and
duplicate rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import BackendError
from l2a_transfer.features.extraction.partners import SELF, partner_rows
from l2a_transfer.features.store.views import FeatureFile, open_features

SHOWN = 5
"""Examples that are listed per finding."""


@dataclass(frozen=True)
class Findings:
    """The result of verifying a feature file: its seal, the checksum of each chunk, and its values.

    `not_finite`: ids of rows with a NaN or an infinity. `constant`: columns in which all rows have the same value,
    apart from NaN. `copies`: (id, id of the first row with the same features), where −0 equals 0; `across_splits`: how
    many copies are in another split than that first row. `maps_outside`: per level with maps, the number of images with
    weights outside 0…1. `partners_wrong`: ids of rows whose partners differ from those that the seed in the fingerprint
    draws, and all if each image is its own partner and the file lists others; None if there is nothing to compare.
    """

    sha256: str
    not_finite: tuple[str, ...]
    constant: tuple[int, ...]
    copies: tuple[tuple[str, str], ...]
    across_splits: int
    maps_outside: dict[str, int]
    partners_wrong: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "sha256": self.sha256,
            "checksums": "ok",
            "rows_not_finite": len(self.not_finite),
            "first_not_finite": list(self.not_finite[:SHOWN]),
            "constant_columns": len(self.constant),
            "first_constant": list(self.constant[:SHOWN]),
            "duplicate_rows": len(self.copies),
            "duplicates_across_splits": self.across_splits,
            "maps_outside_0_1": self.maps_outside,
            "first_duplicates": [list(pair) for pair in self.copies[:SHOWN]],
            **({} if self.partners_wrong is None else {"partners_wrong": list(self.partners_wrong[:SHOWN])}),
        }


def verify_features(path: str | Path) -> Findings:
    """Read every byte of a feature file again, in blocks of rows. Besides the ids, it keeps 16 bytes per row in memory.

    Raises: StoreError if the seal or the checksum of a chunk does not match.
    """
    with open_features(path, finite=False) as file:
        D = file.features.shape[1]
        low, high = np.full(D, np.inf), np.full(D, -np.inf)
        digests = np.empty(len(file), dtype="V16")
        finite = np.empty(len(file), dtype=bool)
        at = 0
        for block in file.blocks():
            rows = slice(at, at + len(block))
            finite[rows] = np.isfinite(block).all(axis=1)
            low = np.fmin(low, np.fmin.reduce(block, axis=0))
            high = np.fmax(high, np.fmax.reduce(block, axis=0))
            digests[rows] = [hashlib.blake2b(row.data, digest_size=16).digest() for row in block + block.dtype.type(0)]
            at = rows.stop
        outside = {level: _outside(file, level) for level in file.maps}
        copies, across = _copies(file, digests)
        return Findings(
            sha256=file.sha256,
            not_finite=tuple(file.ids[row] for row in np.flatnonzero(~finite)),
            constant=tuple(np.flatnonzero(low == high).tolist()) if len(file) > 1 else (),
            copies=copies,
            across_splits=across,
            maps_outside=outside,
            partners_wrong=_partners_wrong(file),
        )


def _outside(file: FeatureFile, level: str) -> int:
    """The number of images with attention weights outside 0…1, or NaN, at a level."""
    return sum(int((~((block >= 0) & (block <= 1))).any(axis=(1, 2)).sum()) for block in file.map_blocks(level))


def _partners_wrong(file: FeatureFile) -> tuple[str, ...] | None:
    seed = file.meta.fingerprint.get("partners_seed")
    if not isinstance(seed, int):
        return file.ids if file.partners and file.meta.partners == SELF else None
    k = len(file.partners[0]) if file.partners else 0
    if k != file.meta.fingerprint.get("partners"):
        return file.ids
    names = (*file.ids, *(name for name, _ in file.meta.skipped))
    expected = partner_rows(names, k, seed)[: len(file)].tolist()
    return tuple(
        name
        for name, own, rows in zip(file.ids, file.partners, expected, strict=True)
        if own != tuple(names[row] for row in rows)
    )


def _copies(file: FeatureFile, digests: NDArray[np.void]) -> tuple[tuple[tuple[str, str], ...], int]:
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    rows = np.flatnonzero(first[group] != np.arange(len(digests)))
    originals = first[group][rows]
    pairs = tuple((file.ids[row], file.ids[original]) for row, original in zip(rows, originals, strict=True))
    return pairs, int((file.split[rows] != file.split[originals]).sum())


def verify_onnx(path: Path, content: bytes) -> None:
    """Check that every stored tensor of a file that `read_onnx` accepted is complete and finite. Nothing is run.

    Raises: BackendError naming the tensor.
    """
    import onnx
    from onnx import numpy_helper

    for tensor in onnx.load_model_from_string(content).graph.initializer:
        try:
            values = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise BackendError(f"{path}: the tensor {tensor.name!r} is corrupt: {error}; export it again") from error
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise BackendError(f"{path}: the tensor {tensor.name!r} has values that are not finite; export it again")
