"""Find the picture and label columns of a Parquet file in its schema."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from l2a_transfer.data.names import hive_value
from l2a_transfer.data.shard_io import Shard
from l2a_transfer.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_NAMES, LABEL_NAMES = ("image", "img"), ("label", "labels")


@dataclass(frozen=True)
class Columns:
    """The image column and the label column of a file, and the classes that its schema names."""

    image: str
    in_struct: bool
    label: str | None
    classes: tuple[str, ...] | None
    partition: str | None = None
    """The key of the Hive partition that is the label, if no column is."""


def find_columns(shard: Shard, schema: pa.Schema, wanted: str) -> Columns:
    import pyarrow as pa

    features = _huggingface_features(shard, schema)
    images = [name for name, f in features.items() if f.get("_type") == "Image" and name in schema.names]
    images = images or [field.name for field in schema if _is_image(field)]
    labels = [name for name, f in features.items() if f.get("_type") == "ClassLabel" and name in schema.names]
    labels = labels or [name for name in LABEL_NAMES if name in schema.names]
    labels = [name for name in labels if name in LABEL_NAMES] or labels
    partitions = [key for key in ([wanted] if wanted else LABEL_NAMES) if hive_value(shard.path, key) is not None]
    if wanted and not (partitions and wanted not in schema.names):
        if wanted not in schema.names:
            raise DataError(f"{shard.path}: has no column {wanted!r}; its columns are {', '.join(schema.names[:20])}")
        labels = [wanted]
    if len(images) > 1:
        images = [name for name in images if name in IMAGE_NAMES] or images
    if len(labels) > 1:
        raise DataError(
            f"{shard.path}: has several label columns, {', '.join(labels)}; choose one, for example "
            f"parquet:PATH#{labels[0]}"
        )
    if len(images) != 1:
        raise DataError(
            f"{shard.path}: needs one image column (a struct with 'bytes'); has {', '.join(images) or 'none'}; name "
            "the right one 'image'"
        )
    image = schema.field(images[0])
    if not _is_image(image):
        raise DataError(
            f"{shard.path}: the column {image.name!r} must be binary or a struct with 'bytes', got {image.type}"
        )
    label = labels[0] if labels else None
    if label is not None and not pa.types.is_integer(_values(schema.field(label).type)):
        raise DataError(f"{shard.path}: the column {label!r} must contain integers, got {schema.field(label).type}")
    names = features.get(label, {}).get("names") if label is not None else None
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise DataError(
            f"{shard.path}: the class names of {label!r}, in its 'huggingface' metadata, must be a list of strings",
            "write it again",
        )
    classes = tuple(names) if names is not None else None
    if label is None and partitions:
        return Columns(image.name, pa.types.is_struct(image.type), None, None, partitions[0])
    return Columns(image.name, pa.types.is_struct(image.type), label, classes if label is not None else ())


def _is_image(field: pa.Field) -> bool:
    import pyarrow as pa

    kind = field.type
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_bytes(kind.field(place).type)
    return field.name in IMAGE_NAMES and _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    """True for all of Arrow's binary types."""
    import pyarrow as pa

    kind = _values(kind)
    of = pa.types
    return any(
        is_kind(kind) for is_kind in (of.is_binary, of.is_large_binary, of.is_binary_view, of.is_fixed_size_binary)
    )


def _values(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, also if it is dictionary-encoded."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _huggingface_features(shard: Shard, schema: pa.Schema) -> dict[str, dict[str, Any]]:
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shard.path}: its 'huggingface' metadata is not JSON: {error}") from error
    info = content.get("info") if isinstance(content, dict) else None
    features = info.get("features") if isinstance(info, dict) else None
    found = features if isinstance(features, dict) else {}
    return {str(name): value for name, value in found.items() if isinstance(value, dict)}
