"""The attributes of a feature file, which say what its rows are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from l2a_transfer.errors import StoreError
from l2a_transfer.features.store.schema import EMPTY, JSON, OPTIONAL_JSON, SCHEMA, TEXT, FeatureMeta, document


def _decoded(value: Any) -> Any:
    """An attribute's value; text of fixed length, as other programs write it, comes back as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def read_attributes(path: Path, file: h5py.File) -> FeatureMeta:
    """What the attributes say, in the right form. Raises: StoreError naming the attribute."""
    schema = _decoded(file.attrs.get("schema"))
    if schema != SCHEMA:
        raise StoreError(f"{path}: its schema must be {SCHEMA!r}, got {schema!r}")
    values: dict[str, Any] = {}
    for key in (*TEXT, *JSON, *OPTIONAL_JSON):
        text = _decoded(file.attrs.get(key, EMPTY.get(key)))
        if not isinstance(text, str):
            raise StoreError(f"{path}: the attribute {key!r} must be text, got {type(text).__name__}")
        values[key] = text
    for key in (*JSON, *OPTIONAL_JSON):
        values[key] = document(path, key, values[key])
    for key in ("classes", "splits"):
        values[key] = tuple(values[key])
    for key in ("levels", "skipped"):
        values[key] = tuple(map(tuple, values[key]))
    return FeatureMeta(**values)
