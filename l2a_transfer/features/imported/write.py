"""Write features that were computed elsewhere to a feature file, which marks them as imported."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from l2a_transfer.data.names import (
    MAX_CLASSES,
    MUST_BE,
    check_class_count,
    check_split_count,
    first_fault,
    in_order,
    merged,
    name_fault,
    split_named,
)
from l2a_transfer.data.sources import numbered
from l2a_transfer.errors import ArgumentError, DataError, OutputExistsError, names_keywords
from l2a_transfer.features.extraction.extract import SUFFIXES
from l2a_transfer.features.extraction.result import ExtractResult
from l2a_transfer.features.store.schema import SCHEMA, FeatureMeta
from l2a_transfer.features.store.writer import write_features as write_store
from l2a_transfer.files import check_free, names_a_format, output_path
from l2a_transfer.models.loading import list_models
from l2a_transfer.wording import counted

IMPORTED = "imported"
"""The backend of these files, the key of their cards, and the name of their one level."""
BLOCK_ROWS = 4096
TAKEN = ("pixels", "untrained:")


@names_keywords
def write_features(
    X: ArrayLike,
    y: ArrayLike | None,
    path: str | Path,
    *,
    ids: Sequence[str] | None = None,
    split: str | ArrayLike = "all",
    classes: Sequence[str] | None = None,
    name: str = IMPORTED,
    data: str = "memory",
    overwrite: bool = False,
) -> ExtractResult:
    """Write features that were computed elsewhere to a feature file.

    `evaluate`, `svm-eval` and `inspect` read it like a file written by `extract`. The features are marked as imported
    and identified by their content; the file claims nothing about weights, a seed or preprocessing.

    Parameters
    ----------
    X : array-like
        Features (N, D), finite numbers. float16 stays float16; everything else is stored as float32.
    y : array-like or None
        Labels (N,): integers (−1: no label) or names. None if no row has a label.
    path : str or Path
        The feature file, `.h5` or `.hdf5`. Its folder is created if needed.
    ids : sequence of str, optional
        N different names; by default `SPLIT/00000` and so on. Files to be compared must have the same ids.
    split : str or array-like, default="all"
        The split of each row (N,), or one name for all rows. Names such as "validation" are stored as `val`.
    classes : sequence of str, optional
        Names of the classes 0, 1, …, or the order of the names in `y`. By default the numbers, or the sorted names.
    name : str, default="imported"
        Name of the model in reports. Names of this package's own models are rejected.
    data : str, default="memory"
        Name of the data set in reports. Files to be compared must have the same.
    overwrite : bool, default=False
        Overwrite `path`.

    Returns
    -------
    ExtractResult
        The file, and its numbers of rows N and columns D.

    Raises
    ------
    DataError
        If features are not (N, D), not numbers or not finite, or if labels, ids, splits or classes do not fit them.
    ArgumentError
        If the name is reserved, or if the path does not have the suffix of an HDF5 file.
    OutputExistsError
        If `path` exists and `overwrite` is not given, or if another process is writing it.

    Examples
    --------
    >>> import numpy as np
    >>> import l2a_transfer
    >>> X = np.random.default_rng(0).normal(size=(60, 8))
    >>> y = np.arange(60) % 3
    >>> X[np.arange(60), y] += 3
    >>> written = l2a_transfer.write_features(X, y, "mine.h5", name="my model")
    >>> l2a_transfer.evaluate(written, c_grid=[1e-2], draws=2).rows[0].model
    'my model'
    """
    return write_imported(
        _array(X, "X"),
        None if y is None else _array(y, "y"),
        path,
        ids=None if ids is None else np.asarray(ids, dtype=object),
        split=np.asarray(split, dtype=object),
        classes=None if classes is None else [str(one) for one in classes],
        name=name,
        data=data,
        overwrite=overwrite,
        where="X",
    )


def _array(values: ArrayLike, what: str) -> NDArray[Any]:
    """Convert to an array. Raises: DataError if its rows have different lengths."""
    try:
        if hasattr(values, "detach"):  # a tensor on any device
            values = values.detach().cpu().numpy()
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"{what} must be an array of numbers: {error}") from error


def write_imported(
    X: NDArray[Any],
    y: NDArray[Any] | None,
    path: str | Path,
    *,
    ids: NDArray[Any] | None,
    split: NDArray[Any],
    classes: Sequence[str] | None,
    name: str,
    data: str,
    overwrite: bool,
    where: str,
    origin: dict[str, str] | None = None,
) -> ExtractResult:
    """Same as `write_features`. `where`: the features' name in errors. `origin`: the card's entries on their file."""
    started = time.perf_counter()
    out = check_out(path, overwrite=overwrite)
    check_name(name)
    check_matrix(X, where)
    N = len(X)
    if fault := name_fault(data):
        raise ArgumentError(f"data {fault}; {MUST_BE}")
    labels = np.full(N, -1) if y is None else y
    named, numbers = numbered_labels(_of_length(labels, N, "labels", where), classes)
    splits, places = _splits(
        _of_length(np.full(N, split.item(), dtype=object) if split.ndim == 0 else split, N, "split", where)
    )
    own = _ids(ids, splits, places) if ids is None else tuple(map(str, _of_length(ids, N, "ids", where).tolist()))
    _check_names(where, own, named, splits)
    dtype = "float16" if X.dtype == np.float16 else "float32"
    content = _content(X, dtype, own, numbers, places, named, splits, data)
    meta = FeatureMeta(
        data=data,
        classes=named,
        splits=splits,
        levels=((IMPORTED, 0, X.shape[1]),),
        card={"name": name, IMPORTED: {**(origin or {"from": "memory"}), "content_sha256": content}},
        preprocess={},
        tap="",
        precision=dtype,
        backend=IMPORTED,
        fingerprint={"format": SCHEMA, "model": name, IMPORTED: True, "content": content},
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_store(
        out,
        meta,
        labels=numbers,
        ids=own,
        split=places,
        blocks=_blocks(X, dtype),
        dim=X.shape[1],
        dtype=dtype,
    )
    return ExtractResult(out, N, X.shape[1], 0, time.perf_counter() - started)


def check_out(path: str | Path, *, overwrite: bool) -> Path:
    """The path of the new file. Raises: ArgumentError, OutputExistsError."""
    out = output_path(path)
    if names_a_format(out) and out.suffix.lower() not in SUFFIXES:
        raise ArgumentError(
            f"out must be the name of an HDF5 file, such as {out.with_suffix('.h5').name}; got {out.name!r}"
        )
    if out.is_dir():
        raise OutputExistsError(f"{out}: is a folder; name a file, such as {out / 'features.h5'}")
    check_free(out, overwrite=overwrite)
    return out


def check_name(name: str) -> None:
    """Raises: ArgumentError for a name that would pass imported features off as this package's."""
    if name.startswith(TAKEN) or name in list_models():
        raise ArgumentError(f"name {name!r} is reserved for this package's own features", "choose another `name`")
    if fault := name_fault(name):
        raise ArgumentError(f"name {fault}; {MUST_BE}")


def check_matrix(X: NDArray[Any], where: str) -> None:
    """Raises: DataError if features are not (N, D), not numbers, or not finite in the stored type."""
    if X.dtype.kind not in "iufb":
        kind = "objects, which are not supported" if X.dtype.kind == "O" else str(X.dtype)
        raise DataError(f"{where}: features must be numbers, got {kind}", "save plain numbers")
    if X.ndim != 2 or not all(X.shape):
        todo = "flatten each row: X.reshape(len(X), -1)" if X.ndim > 2 and X.size else ""
        raise DataError(f"{where}: features must be (N, D), rows and columns, got {X.shape}", todo)
    for start in range(0, len(X), BLOCK_ROWS):
        with np.errstate(over="ignore"):
            block = X[start : start + BLOCK_ROWS].astype(np.float16 if X.dtype == np.float16 else np.float32)
        bad = np.argwhere(~np.isfinite(block))
        if len(bad):
            row, column = (int(k) for k in bad[0])
            raise DataError(
                f"{where}: features must be finite; row {start + row}, column {column} is {X[start + row, column]}",
                "drop such rows, or compute them again",
            )


def _of_length(values: NDArray[Any], rows: int, what: str, where: str) -> NDArray[Any]:
    if values.shape != (rows,):
        got = counted(len(values), "row") if values.ndim == 1 else f"the shape {values.shape}"
        raise DataError(
            f"{where}: has {counted(rows, 'row')} of features, but {what} {'have' if what != 'split' else 'has'} {got}",
            "both must be of the same images, in the same order",
        )
    return values


def numbered_labels(labels: NDArray[Any], classes: Sequence[str] | None) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Class names, and the label of each row as an index into them, −1 for none. Raises: DataError."""
    if classes is not None:
        check_class_count("classes", len(classes))
    if labels.dtype.kind in "iu":
        low, high = int(labels.min()), int(labels.max())
        count = high + 1 if classes is None else len(classes)
        most = min(count, MAX_CLASSES) - 1
        if low < -1 or high > most:
            why = "" if classes is None else f" of {counted(len(classes), 'class', 'classes')}"
            between = f"between 0 and {most}{why}" if most >= 0 else "0 and more"
            raise DataError(f"labels must be −1, for none, or {between}; got {low}…{high}")
        names, numbers = merged(
            classes if classes is not None else [str(k) for k in range(count)], labels.astype(np.int64)
        )
        return names, numbers.astype(np.int32)
    texts = labels.tolist()
    if not all(isinstance(one, str) for one in texts):
        raise DataError(f"labels must be integers or names, got {labels.dtype}")
    given = list(classes) if classes is not None else sorted(set(texts))
    check_class_count("labels", len(given))
    place = {one: k for k, one in enumerate(given)}
    if len(place) < len(given):
        twice = next(one for k, one in enumerate(given) if one in given[:k])
        raise DataError(f"classes: {twice!r} appears twice, but labels are names")
    if unknown := sorted(set(texts) - set(place)):
        raise DataError(f"labels: {unknown[0]!r} is not one of the {counted(len(given), 'class', 'classes')}")
    names, numbers = merged(given, np.array([place[one] for one in texts], dtype=np.int64))
    return names, numbers.astype(np.int32)


def _splits(values: NDArray[Any]) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    given = [str(one).strip() for one in values.tolist()]
    read = {one: split_named(one) or one for one in set(given)}
    splits = in_order(set(read.values()))
    check_split_count("split", splits)
    place = {one: splits.index(split) for one, split in read.items()}
    return splits, np.array([place[one] for one in given], dtype=np.uint8)


def _ids(ids: None, splits: Sequence[str], places: NDArray[np.uint8]) -> tuple[str, ...]:
    """Ids for rows without names: numbered within each split."""
    waiting = [
        iter(numbered(split, int(n)))
        for split, n in zip(splits, np.bincount(places, minlength=len(splits)), strict=True)
    ]
    return tuple(next(waiting[k]) for k in places.tolist())


def _check_names(where: str, ids: Sequence[str], classes: Sequence[str], splits: Sequence[str]) -> None:
    for what, names in (("row", ids), ("class", classes), ("split", splits)):
        if found := first_fault(names):
            raise DataError(f"{where}: {what} {found[0]}: its name {found[1]}; {MUST_BE}")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(one for one in ids if one in seen or seen.add(one))  # type: ignore[func-returns-value]
        raise DataError(f"{where}: the id {twice!r} appears twice", "ids must be unique")


def _content(X: NDArray[Any], dtype: str, *about: Any) -> str:
    """SHA-256 of the stored features and of everything that is written with them."""
    sha = hashlib.sha256(
        json.dumps([dtype, X.shape, *(one.tolist() if isinstance(one, np.ndarray) else one for one in about)]).encode()
    )
    for block in _blocks(X, dtype):
        sha.update(np.ascontiguousarray(block).data)
    return sha.hexdigest()


def _blocks(X: NDArray[Any], dtype: str) -> Iterator[NDArray[Any]]:
    for start in range(0, len(X), BLOCK_ROWS):
        yield X[start : start + BLOCK_ROWS].astype(dtype)
