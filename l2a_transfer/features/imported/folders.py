"""Read features from a path: one file, or the output folder of thingsvision or CLIP_benchmark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.names import in_order
from l2a_transfer.errors import DataError
from l2a_transfer.features.imported.tables import ONLY, Table, open_table
from l2a_transfer.text import few
from l2a_transfer.wording import counted

LABELS = ("labels", "label", "targets", "target", "classes", "class", "y")
IDS = ("ids", "id", "file_names", "file_name", "filename", "path")
SPLIT = ("split", "splits")
FEATURES = ("features", "feature", "embeddings", "embedding", "X", "x")
"""Names of columns with labels, ids, splits and features."""
PARTS = re.compile(r"features_(\d+)\.(npy|pt|txt)")
SPLIT_FILE = re.compile(r"features_(train|val|test)\.pt")
NAMES = "file_names.txt"


@dataclass(frozen=True)
class Foreign:
    """Features of another program, and their labels, ids and splits.

    `features`: (N, D) numbers, unchanged. `labels`, `ids`, `split`: (N,), or None. `form`: the program that wrote them,
    or the suffix of the file.
    """

    path: Path
    form: str
    features: NDArray[Any]
    given: dict[str, NDArray[Any]] = field(default_factory=dict)


def read_foreign(path: Path, column: str = ONLY) -> Foreign:
    """Read features, with labels, ids and splits next to them.

    Parameters
    ----------
    path : Path
        A file that `open_table` reads; a folder of thingsvision, with `features.npy`, `.pt` or `.txt`, or parts such as
        `features_01.npy`, and `file_names.txt`; or a folder of CLIP_benchmark, with `features_train.pt`,
        `targets_train.pt`, and the same for `val` and `test`.
    column : str
        The column of the features, if a file has several.

    Returns
    -------
    Foreign

    Raises
    ------
    DataError
        If a file or folder is missing, corrupt, of another format, or ambiguous.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", "check the spelling")
    if not path.is_dir():
        return _from_table(open_table(path), column)
    if column:
        raise DataError(f"{path}: is a folder, but {column!r} names a column of a file", "leave it out")
    found = sorted(one.name for one in path.iterdir())
    if splits := [match[1] for name in found if (match := SPLIT_FILE.fullmatch(name))]:
        return _from_splits(path, in_order(set(splits)))
    wholes = [f"features.{suffix}" for suffix in ("npy", "pt", "txt") if f"features.{suffix}" in found]
    parts = [name for name in found if PARTS.fullmatch(name)]
    if len({PARTS.fullmatch(name)[2] for name in parts}) > 1 or len(wholes) > 1 or (wholes and parts):  # type: ignore[index]
        raise DataError(
            f"{path}: has features in several forms, such as {few(wholes + parts)}", "give one of these files"
        )
    if not wholes and not parts:
        raise DataError(
            f"{path}: has neither features.npy, .pt or .txt of thingsvision, nor features_train.pt and "
            f"features_test.pt of CLIP_benchmark; it has {few(found) or 'nothing'}",
            "give the file of the features; thingsvision writes .npy with file_format='npy'",
        )
    parts.sort(key=lambda name: int(PARTS.fullmatch(name)[1]))  # type: ignore[index]
    if parts and [int(PARTS.fullmatch(name)[1]) for name in parts] != [*range(1, 1 + len(parts))]:  # type: ignore[index]
        raise DataError(f"{path}: parts of the features are missing; it has {few(parts)}", "copy the whole folder")
    arrays = [_from_table(open_table(path / name), ONLY).features for name in wholes or parts]
    given = {"ids": _lines(path / NAMES)} if NAMES in found else {}
    return Foreign(path, "thingsvision", _stacked(path, arrays), given)


def _from_splits(path: Path, splits: Sequence[str]) -> Foreign:
    features, labels = [], []
    for split in splits:
        file = path / f"targets_{split}.pt"
        if not file.exists():
            raise DataError(f"{path}: has features_{split}.pt but no {file.name}", "copy the whole folder")
        features.append(_from_table(open_table(path / f"features_{split}.pt"), ONLY).features)
        labels.append(values_of(file, ONLY))
        if len(labels[-1]) != len(features[-1]):
            rows = counted(len(features[-1]), "row")
            raise DataError(f"{file}: has {counted(len(labels[-1]), 'label')}, but features_{split}.pt has {rows}")
    split_of = np.repeat(np.array(splits, dtype=object), [len(own) for own in labels])
    return Foreign(
        path, "CLIP_benchmark", _stacked(path, features), {"labels": np.concatenate(labels), "split": split_of}
    )


def _stacked(path: Path, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if len({array.shape[1:] for array in arrays}) > 1:
        raise DataError(f"{path}: the parts of the features have different numbers of columns", "extract them again")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _lines(path: Path) -> NDArray[Any]:
    """The lines of a text file as text, even if they look like numbers."""
    from l2a_transfer.data.lists import read_list

    try:
        lines = read_list(path, 1 << 30).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return np.array([line.strip() for line in lines if line.strip()], dtype=object)


def values_of(path: Path, column: str, role: Sequence[str] = ()) -> NDArray[Any]:
    """Labels, ids, splits or class names: (N,) integers, or str objects.

    Without `column`, this is the only column, or the only one whose name is in `role`. Raises: DataError naming the
    file, if the column is ambiguous, or if numbers are not whole.
    """
    if path.suffix.lower() == ".txt" and not column:
        values = _lines(path)
        if all(re.fullmatch(r"-?\d{1,18}", one) for one in values):
            values = values.astype(np.int64)
        return values
    table = open_table(path)
    if not column:
        meant = table.names if len(table.names) == 1 else [name for name in table.names if name in role]
        if len(meant) != 1:
            raise DataError(
                f"{path}: has the columns {few(table.names, 12)}",
                f"choose one, for example {path.name}#{table.names[0]}",
            )
        (column,) = meant
        return whole_numbers(table.read(column), str(path))
    return whole_numbers(table.column(column), f"{path}: {column!r}")


def whole_numbers(values: NDArray[Any], where: str) -> NDArray[Any]:
    """Integers (N,), or text. Raises: DataError."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(f"{where}: must have one value per row, got {values.shape}")
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (np.abs(values) > 1 << 52).any() or (values != np.rint(values)).any():
            raise DataError(f"{where}: must be whole numbers or names, but has other values")
        values = values.astype(np.int64)
    return values


def _from_table(table: Table, column: str) -> Foreign:
    """The features of one file, and its columns of labels, ids and splits, found by name."""
    form = table.path.suffix.lower().removeprefix(".")
    roles: dict[str, str] = {}
    for role, names in (("labels", LABELS), ("ids", IDS), ("split", SPLIT)):
        found = [name for name in table.names if name in names and name != column]
        if len(found) > 1:
            raise DataError(f"{table.path}: the columns {few(found)} all have names of {role}", "rename the others")
        roles |= {role: found[0]} if found else {}
    rest = [name for name in table.names if name not in roles.values()]
    named = [name for name in rest if name in FEATURES]
    if not column and len(named) == 1:
        (column,) = named
    if column or rest == [ONLY]:
        features = table.column(column)
    elif not rest:
        raise DataError(f"{table.path}: has no features; its columns are {few(table.names, 12)}")
    else:
        features = _side_by_side(table, rest)
    if features.dtype.kind not in "iuf":
        first = features.ravel()[:1].tolist()
        what = f"the column {column!r}" if column else "this array"
        raise DataError(f"{table.path}: features must be numbers, but {what} contains text, such as {first}")
    if features.ndim == 1 and not column and form in ("txt", "csv", "tsv"):
        features = features[:, None]
    given = {role: whole_numbers(table.read(name), f"{table.path}: {name!r}") for role, name in roles.items()}
    return Foreign(table.path, form, features, given)


def _side_by_side(table: Table, names: Sequence[str]) -> NDArray[Any]:
    """Columns with one number per row, as features (N, D). Raises: DataError naming a column that is not one."""
    columns = []
    for name in names:
        values = table.read(name)
        if values.dtype.kind not in "iuf":
            shown = str(values.ravel()[0])[:40] if values.size else ""
            raise DataError(
                f"{table.path}: the unknown column {name!r} contains text, such as {shown!r}, but features are numbers",
                "remove it, or rename it to label, id or split",
            )
        if values.ndim != 1:
            if len(names) == 1:
                return values
            raise DataError(
                f"{table.path}: has the columns {few(names, 12)}, of which {name!r} alone could be the features",
                f"choose one, for example {table.path.name}#{name}",
            )
        columns.append(values)
    if len({len(values) for values in columns}) > 1:
        raise DataError(
            f"{table.path}: the arrays {few(names, 12)} have different numbers of rows",
            f"choose one, for example {table.path.name}#{names[0]}",
        )
    return np.stack(columns, axis=1)
