"""The plan: which rows make a shard, which make a batch, and the fingerprint of everything that decides their bytes."""

from __future__ import annotations

import json
from typing import Any

from l2a_transfer.data.readers import ImageSource
from l2a_transfer.features.interface import FeatureBackend
from l2a_transfer.features.machine import MEANING, RECORDED, decoders
from l2a_transfer.features.schema import SCHEMA

SHARD_ROWS = 1024


def plan_ranges(rows: int, batch_size: int) -> list[range]:
    """Row ranges of about SHARD_ROWS rows, each a multiple of the batch size but the last.

    A row's bytes depend on the batch that it is computed in, so every executor cuts batches at the same rows.
    """
    step = max(1, SHARD_ROWS // batch_size) * batch_size
    return [range(start, min(start + step, rows)) for start in range(0, rows, step)]


def batches_of(rows: range, batch_size: int) -> list[range]:
    """The batches of one row range, all of `batch_size` rows but the last."""
    return [range(start, min(start + batch_size, rows.stop)) for start in range(rows.start, rows.stop, batch_size)]


def fingerprint(source: ImageSource, backend: FeatureBackend, batch_size: int, *, attention: bool) -> dict[str, Any]:
    """Everything that decides the bytes of `/features` and of the maps; flat JSON."""
    return {
        "format": SCHEMA,
        "data": source.fingerprint(),
        "backend": backend.name,
        "device": backend.device,
        "precision": backend.precision,
        "tap": backend.tap,
        "levels": ",".join(name for name, _, _ in backend.levels),
        "preprocess": json.dumps(backend.preprocess.to_json(), sort_keys=True),
        "batch_size": batch_size,
        "pillow": decoders(source, backend.preprocess.size),
        **({"attention": True} if attention else {}),
        **backend.identity(),
    }


def comparable(there: dict[str, Any], here: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A finished file's fingerprint in this version's terms, and what it lacks because an earlier version wrote it.

    What it lacks is taken to be as it is here.
    """
    if "graph" in here and "graph" not in there:  # the SHA-256 of the ONNX file was called weights
        there = {**there, "graph": there.get("weights"), "weights": here["weights"]}
    missing = tuple(key for key in RECORDED if key in here and key not in there)
    return {**there, **{key: here[key] for key in missing}}, missing


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What two fingerprints disagree on, as `batch_size: 4 there, 8 here; …`; empty where they are the same."""
    keys = sorted(key for key in {*there, *here} if there.get(key) != here.get(key))
    return "; ".join(f"{_MEANING.get(key, key)}: {_short(there, key)} there, {_short(here, key)} here" for key in keys)


_MEANING = {
    **MEANING,
    "data": "data: other images, order, labels, file sizes or times of change",
    "weights": "weights: other values",
}


def _short(values: dict[str, Any], key: str) -> str:
    if key in RECORDED and key not in values:
        return "not recorded"
    value = values.get(key)
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else repr(value)
