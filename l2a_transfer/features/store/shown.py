"""How a feature file is displayed: one line of text, or a table in a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from l2a_transfer.features.store.schema import FeatureMeta
from l2a_transfer.notebook import html_table
from l2a_transfer.text import few, repr_line
from l2a_transfer.wording import counted


def features_repr(
    thing: object, path: Path, meta: FeatureMeta, shape: tuple[int, ...], dtype: np.dtype[Any], *, note: str = ""
) -> str:
    """File, size, data set, model, levels, classes and splits in one line, followed by `note`."""
    size = f"{counted(shape[0], 'row')} × {counted(shape[1], 'column')} of {dtype}"
    return repr_line(thing, path.name, size, meta.title, *meta.facts, *([note] if note else []))


def features_html(path: Path, meta: FeatureMeta, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """The same facts as a table with one row."""
    headings = ("file", "data", "model", "rows", "columns", "type", "levels", "classes", "splits", "skipped")
    levels = few([f"{name} {start}:{stop}" for name, start, stop in meta.levels])
    cells = (
        *(str(path), meta.data, meta.card.get("name", ""), shape[0], shape[1], dtype),
        *(levels, len(meta.classes), few(meta.splits), len(meta.skipped)),
    )
    return html_table(headings, [cells])
