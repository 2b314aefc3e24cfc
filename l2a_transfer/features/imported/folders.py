"""What a path of features holds: one file, or the output folder of thingsvision or of CLIP_benchmark."""

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
"""What columns are called that are labels, ids, splits and features."""
PARTS = re.compile(r"features_(\d+)\.(npy|pt|txt)")
SPLIT_FILE = re.compile(r"features_(train|val|test)\.pt")
NAMES = "file_names.txt"


@dataclass(frozen=True)
class Foreign:
    """Features of another program, and what came with them.

    `features`: (N, D) numbers, still as they were. `labels`, `ids`, `split`: (N,), or None. `form`: what wrote them, or
    the end of the file's name.
    """

    path: Path
    form: str
    features: NDArray[Any]
    given: dict[str, NDArray[Any]] = field(default_factory=dict)


def read_foreign(path: Path, column: str = ONLY) -> Foreign:
    """Features, and the labels, ids and splits beside them.

    Parameters
    ----------
    path : Path
        A file that `open_table` reads; a folder of thingsvision, with `features.npy`, `.pt` or `.txt`, or parts of it
        as `features_01.npy`, and `file_names.txt`; or one of CLIP_benchmark, with `features_train.pt`,
        `targets_train.pt` and the same of `val` and `test`.
    column : str
        The column that is the features, where a file has several.

    Returns
    -------
    Foreign

    Raises
    ------
    DataError
        For a file or folder that is missing, damaged, of another format, or does not say which numbers are meant.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", "check the spelling")
    if not path.is_dir():
        return _from_table(open_table(path), column)
    if column:
        raise DataError(f"{path}: is a folder, and {column!r} would be a column of a file", "leave it out")
    found = sorted(one.name for one in path.iterdir())
    if splits := [match[1] for name in found if (match := SPLIT_FILE.fullmatch(name))]:
        return _from_splits(path, in_order(set(splits)))
    wholes = [f"features.{suffix}" for suffix in ("npy", "pt", "txt") if f"features.{suffix}" in found]
    parts = [name for name in found if PARTS.fullmatch(name)]
    if len({PARTS.fullmatch(name)[2] for name in parts}) > 1 or len(wholes) > 1 or (wholes and parts):  # type: ignore[index]
        raise DataError(f"{path}: has features several times, as {few(wholes + parts)}", "name one of these files")
    if not wholes and not parts:
        raise DataError(
            f"{path}: has neither features.npy, .pt or .txt, as thingsvision writes them, nor features_train.pt and "
            f"features_test.pt, as CLIP_benchmark does; it has {few(found) or 'nothing'}",
            "name the file of the features; thingsvision writes .npy with file_format='npy'",
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
            raise DataError(f"{path}: has features_{split}.pt and no {file.name}", "copy the whole folder")
        features.append(_from_table(open_table(path / f"features_{split}.pt"), ONLY).features)
        labels.append(values_of(file, ONLY))
        if len(labels[-1]) != len(features[-1]):
            rows = counted(len(features[-1]), "row")
            raise DataError(f"{file}: has {counted(len(labels[-1]), 'label')}, and features_{split}.pt has {rows}")
    split_of = np.repeat(np.array(splits, dtype=object), [len(own) for own in labels])
    return Foreign(
        path, "CLIP_benchmark", _stacked(path, features), {"labels": np.concatenate(labels), "split": split_of}
    )


def _stacked(path: Path, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if len({array.shape[1:] for array in arrays}) > 1:
        raise DataError(f"{path}: the parts of the features have other numbers of columns", "extract them again")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _lines(path: Path) -> NDArray[Any]:
    """The lines of a text file, also where they look like numbers."""
    from l2a_transfer.data.lists import read_list

    try:
        lines = read_list(path, 1 << 30).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return np.array([line.strip() for line in lines if line.strip()], dtype=object)


def values_of(path: Path, column: str, role: Sequence[str] = ()) -> NDArray[Any]:
    """Labels, ids, splits or class names: (N,) integers, or text as objects.

    Without `column` it is the only one, or the only one whose name is in `role`. Raises: DataError naming the file, for
    several columns of which none is named, and for numbers that are not whole.
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
                f"say which is meant, as {path.name}#{table.names[0]}",
            )
        (column,) = meant
        return whole_numbers(table.read(column), str(path))
    return whole_numbers(table.column(column), f"{path}: {column!r}")


def whole_numbers(values: NDArray[Any], where: str) -> NDArray[Any]:
    """Integers (N,), or text. Raises: DataError."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(f"{where}: must be one value a row, got {values.shape}")
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (np.abs(values) > 1 << 52).any() or (values != np.rint(values)).any():
            raise DataError(f"{where}: must be whole numbers or names, and has others")
        values = values.astype(np.int64)
    return values


def _from_table(table: Table, column: str) -> Foreign:
    """The features of one file, and the columns that are called as labels, ids and splits are."""
    form = table.path.suffix.lower().removeprefix(".")
    roles: dict[str, str] = {}
    for role, names in (("labels", LABELS), ("ids", IDS), ("split", SPLIT)):
        found = [name for name in table.names if name in names and name != column]
        if len(found) > 1:
            raise DataError(f"{table.path}: the columns {few(found)} are all called as {role} are", "rename the others")
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
        raise DataError(f"{table.path}: features are numbers, and {what} holds text, as {first}")
    if features.ndim == 1 and not column and form in ("txt", "csv", "tsv"):
        features = features[:, None]
    given = {role: whole_numbers(table.read(name), f"{table.path}: {name!r}") for role, name in roles.items()}
    return Foreign(table.path, form, features, given)


def _side_by_side(table: Table, names: Sequence[str]) -> NDArray[Any]:
    """Columns of one number a row, as features (N, D). Raises: DataError naming a column that is none."""
    columns = []
    for name in names:
        values = table.read(name)
        if values.dtype.kind not in "iuf":
            shown = str(values.ravel()[0])[:40] if values.size else ""
            raise DataError(
                f"{table.path}: the unknown column {name!r} holds text, as {shown!r}, and features are numbers",
                "take it out, or call it label, id or split",
            )
        if values.ndim != 1:
            if len(names) == 1:
                return values
            raise DataError(
                f"{table.path}: has the columns {few(names, 12)}, and {name!r} alone could be the features",
                f"say which is meant, as {table.path.name}#{name}",
            )
        columns.append(values)
    if len({len(values) for values in columns}) > 1:
        raise DataError(
            f"{table.path}: the arrays {few(names, 12)} have other numbers of rows",
            f"say which is meant, as {table.path.name}#{names[0]}",
        )
    return np.stack(columns, axis=1)
