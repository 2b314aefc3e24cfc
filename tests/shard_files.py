"""Small tar shards and Parquet files for the tests of both."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def png(value: int, size: tuple[int, int] = (4, 3)) -> bytes:
    """A picture of one grey, (W, H) pixels."""
    content = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(content, "PNG")
    return content.getvalue()


def grey(image: Image.Image) -> int:
    """The one value of such a picture."""
    values = np.unique(np.asarray(image))
    assert len(values) == 1
    return int(values[0])


def tar(path: Path, members: dict[str, bytes | str], format: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as file:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def parquet(
    path: Path,
    pictures: list[bytes | None],
    labels: list[int | None] | None,
    names: Any = None,
    *,
    group: int = 100,
    image: str = "image",
    classes: dict[str, list[str]] | None = None,
    **more: Any,
) -> Path:
    """As `datasets.Dataset.to_parquet` writes it: a struct of bytes and path, and features in the schema's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        image: pa.array(
            [{"bytes": p, "path": None} for p in pictures], pa.struct({"bytes": "binary", "path": "string"})
        )
    }
    features: dict[str, Any] = {image: {"_type": "Image"}}
    if labels is not None:
        columns["label"] = pa.array(labels, "int64")
        features["label"] = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    features |= {column: {"names": own, "_type": "ClassLabel"} for column, own in (classes or {}).items()}
    table = pa.table({**columns, **more})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path
