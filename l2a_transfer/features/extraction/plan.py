"""The plan: the rows of each shard and batch, and the fingerprint of everything that determines their bytes."""

from __future__ import annotations

import json
import re
from typing import Any

from l2a_transfer.data.sources import CONTENT, ImageSource, stamped_by
from l2a_transfer.features.backends.interface import FeatureBackend, partners_of
from l2a_transfer.features.extraction.partners import SEED, SELF, rule_in
from l2a_transfer.features.machine import MEANING, RECORDED, decoders
from l2a_transfer.features.store.schema import SCHEMA

SHARD_ROWS = 1024
STAMPS = "stamps"
"""The key for how `data` represents the files. It does not determine any byte, but explains differences of `data`."""


def plan_ranges(rows: int, batch_size: int) -> list[range]:
    """Row ranges of about SHARD_ROWS rows. All but the last are a multiple of the batch size.

    A row's bytes depend on its batch, so all executors must divide batches at the same rows.
    """
    step = max(1, SHARD_ROWS // batch_size) * batch_size
    return [range(start, min(start + step, rows)) for start in range(0, rows, step)]


def batches_of(rows: range, batch_size: int) -> list[range]:
    """The batches of one row range. All but the last have `batch_size` rows."""
    return [range(start, min(start + batch_size, rows.stop)) for start in range(rows.start, rows.stop, batch_size)]


def fingerprint(
    source: ImageSource, backend: FeatureBackend, batch_size: int, *, attention: bool, partners: str = SELF
) -> dict[str, Any]:
    """Everything that determines the bytes of `/features` and of the maps; flat JSON."""
    stamps, k = stamped_by(source), partners_of(backend)
    attended = {"partners": SELF} if partners == SELF else {"partners": k, "partners_seed": SEED}
    size = backend.preprocess.size
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
        "pillow": decoders(source, size if backend.preprocess.keeps(size, size) else 0),
        **({"attention": True} if attention else {}),
        **(attended if k else {}),
        **({STAMPS: stamps} if stamps else {}),
        **backend.identity(),
    }


def comparable(there: dict[str, Any], here: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A finished file's fingerprint in this version's terms, and the keys that it lacks because of an earlier version.

    Missing values are assumed to be the same as here.
    """
    if "graph" in here and "graph" not in there:  # earlier versions stored the SHA-256 of the ONNX file as weights
        there = {**there, "graph": there.get("weights"), "weights": here["weights"]}
    if "form" in here:
        there = {"form": "as trained", **there}  # earlier versions did not record it
    missing = tuple(key for key in RECORDED if key in here and key not in there)
    return {**there, **{key: here[key] for key in missing}}, missing


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The differences of two fingerprints, such as `batch_size: 4 there, 8 here; …`; empty if they are the same."""
    keys = {key for key in {*there, *here} - {STAMPS} if there.get(key) != here.get(key)}
    if "partners" in keys:
        keys.discard("partners_seed")  # only one of the two rules has a seed
    return "; ".join(
        f"data: files compared by {there[STAMPS]} there, by {here[STAMPS]} here"
        if key == "data" and stamps_differ(there, here)
        else f"{_MEANING.get(key, key)}: {_short(there, key)} there, {_short(here, key)} here"
        for key in sorted(keys)
    )


def describe_differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """`differences` after their cause: other options, or perhaps another machine; empty if there are none."""
    named = differences(there, here)
    if any(there.get(key) != here.get(key) for key in RECORDED):
        return f"made on another machine, or with other options: {named}"
    return named and f"with other options ({named})"


def stamps_differ(there: dict[str, Any], here: dict[str, Any]) -> bool:
    """True if data cannot be compared, because only one fingerprint uses the content of the files.

    Fingerprints of earlier versions do not record this; their data is compared as if both did the same.
    """
    stamps = {there.get(STAMPS), here.get(STAMPS)}
    return there.get("data") != here.get("data") and len(stamps) == 2 and None not in stamps


def comparison_hint(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The beginning of a remedy: how to compare files in the same way as there; empty if this is not the cause."""
    if not stamps_differ(there, here):
        return ""
    return f"{'leave `verify_source` out' if here[STAMPS] == CONTENT else 'give `verify_source=True`'} as there, or "


_MEANING = {
    **MEANING,
    "data": "data: other images, order, labels, file sizes or times of change",
    "weights": "weights: other values",
    "form": "form of the network that computes",
}


def _short(values: dict[str, Any], key: str) -> str:
    if key in RECORDED and key not in values:
        return "not recorded"
    value = rule_in(values) if key == "partners" else values.get(key)
    return f"{value[:12]}…" if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else repr(value)
