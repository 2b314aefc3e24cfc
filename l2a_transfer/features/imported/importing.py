"""Import files with features, labels, ids and splits of other programs into one feature file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import ArgumentError, DataError, names_keywords
from l2a_transfer.features.extraction.result import ExtractResult
from l2a_transfer.features.imported.folders import IDS, LABELS, SPLIT, Foreign, read_foreign, values_of
from l2a_transfer.features.imported.write import check_matrix, check_name, check_out, write_imported
from l2a_transfer.features.store.sealed import is_feature_file
from l2a_transfer.features.store.views import open_features
from l2a_transfer.wording import counted

log = logging.getLogger(__name__)
NO_LABELS = "give `labels`: a file with one label per row, a column FILE#NAME, or a feature file of the same images"


@names_keywords
def import_features(
    features: str | Path,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    ids: str | Path | None = None,
    split: str | Path | None = None,
    classes: str | Path | None = None,
    name: str | None = None,
    data: str | None = None,
    overwrite: bool = False,
) -> ExtractResult:
    """Import features that another program saved into a feature file. No code is run, and nothing is unpickled.

    Parameters
    ----------
    features : str or Path
        A `.npy`, `.npz`, `.csv`, `.tsv`, `.txt`, `.parquet` or `.pt` file, or the output folder of thingsvision or
        CLIP_benchmark. `FILE#NAME` selects an array or a column. Columns called label, id and split are used as such.
    out : str or Path
        The feature file, `.h5` or `.hdf5`.
    labels : str or Path, optional
        A file, or a column `FILE#NAME`, with integers or names. Or a feature file of the same images, which provides
        labels, classes, ids, splits and the name of the data set, so that both can be compared in one table. Rows are
        matched by id if the features have ids; otherwise they must be in the same order.
    ids, split : str or Path, optional
        The id and the split of each row, as a file or a column `FILE#NAME`.
    classes : str or Path, optional
        The class names, one per line, in the order of the class numbers.
    name : str, optional
        Name of the model in reports; by default, the name of the file or folder.
    data : str, optional
        Name of the data set in reports; by default that of the feature file in `labels`, or "imported".
    overwrite : bool, default=False
        Overwrite `out`.

    Returns
    -------
    ExtractResult

    Raises
    ------
    DataError
        If files are missing, corrupt or inconsistent, or could only be read by running code. Nothing is written then.
    ArgumentError, OutputExistsError
        As for `write_features`.
    MissingExtraError
        If a `.parquet` file is given and pyarrow is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import l2a_transfer
    >>> np.savez("theirs.npz", features=np.eye(6), labels=[0, 0, 1, 1, 2, 2], split=["train", "test"] * 3)
    >>> written = l2a_transfer.import_features("theirs.npz", "theirs.h5", data="pictures")
    >>> l2a_transfer.read_features(written.path).meta
    <FeatureMeta pictures by theirs: level imported 6, 3 classes, splits train, test>
    """
    check_out(out, overwrite=overwrite)
    path, column = split_place(features)
    name = (path.stem if path.is_file() else path.resolve().name) if name is None else name
    check_name(name)
    found = read_foreign(path, column)
    check_matrix(found.features, str(path))
    given = dict(found.given)
    for role, called, where in (("ids", IDS, ids), ("split", SPLIT, split)):
        if where is not None:
            given[role] = _values(where, called)
    names = None if classes is None else [str(one) for one in _values(classes).tolist()]
    _check_lengths(found, given)
    if labels is not None and _is_features(split_place(labels)[0]):
        if split is not None or classes is not None:
            raise ArgumentError("split and classes are those of the feature file in labels", "leave them out")
        found, given, names, data = _as_in(Path(labels), found, given, data)
    elif labels is not None:
        given["labels"] = _values(labels, LABELS)
    if "labels" not in given:
        raise DataError(f"{path}: does not contain labels", NO_LABELS)
    return write_imported(
        found.features,
        given["labels"],
        out,
        ids=given.get("ids"),
        split=given.get("split", np.asarray("all", dtype=object)),
        classes=names,
        name=name,
        data="imported" if data is None else data,
        overwrite=overwrite,
        where=str(path),
        origin={"from": path.resolve().name, "form": found.form},
    )


def split_place(where: str | Path) -> tuple[Path, str]:
    """FILE and NAME of `FILE#NAME`. A `#` in the name of an existing file belongs to the file."""
    text = str(where)
    path, mark, column = text.rpartition("#")
    if not mark or not column or "/" in column or Path(text).exists():
        return Path(text).expanduser(), ""
    return Path(path).expanduser(), column


def _values(where: str | Path, called: Sequence[str] = ()) -> NDArray[Any]:
    path, column = split_place(where)
    if not path.is_file():
        raise DataError(f"{path}: {'not a file' if path.exists() else 'no such file'}", "check the spelling")
    return values_of(path, column, called)


def _is_features(path: Path) -> bool:
    return path.is_file() and is_feature_file(path)


def _check_lengths(found: Foreign, given: dict[str, NDArray[Any]]) -> None:
    """Raises: DataError if the numbers of ids and features differ. Called before ids are matched."""
    ids = given.get("ids")
    if ids is not None and len(ids) != len(found.features):
        rows = counted(len(found.features), "row")
        raise DataError(
            f"{found.path}: has {rows} of features, but ids have {counted(len(ids), 'row')}",
            "both must be for the same images, in the same order",
        )


def _as_in(
    path: Path, found: Foreign, given: dict[str, NDArray[Any]], data: str | None
) -> tuple[Foreign, dict[str, NDArray[Any]], list[str], str]:
    """The features in the order of the rows of a feature file, with the labels, ids and splits of these rows.

    Raises: DataError if the two do not have the same images.
    """
    with open_features(path, finite=False) as file:
        ids, meta = file.ids, file.meta
        labels, split = np.asarray(file.labels), np.array(meta.splits, dtype=object)[file.split]
    rows = counted(len(ids), "row")
    if len(found.features) != len(ids):
        raise DataError(
            f"{found.path}: has {counted(len(found.features), 'row')} of features, but {path} has {rows}",
            "both must be for the same images",
        )
    if "ids" in given:
        order = _matched([str(one) for one in given["ids"].tolist()], ids, found.path, path)
        found = Foreign(found.path, found.form, found.features[order], {})
    else:
        log.info("%s has no ids, so its rows are assumed to be in the same order as in %s", found.path, path)
    own = {"labels": labels, "ids": np.array(ids, dtype=object), "split": split}
    return found, own, list(meta.classes), meta.data if data is None else data


def _matched(theirs: Sequence[str], ids: Sequence[str], features: Path, path: Path) -> NDArray[np.int64]:
    """The row of the same image for each id of the feature file. Its name may have more leading folders.

    Raises: DataError naming an image with no row or two rows.
    """
    place = {name: k for k, name in enumerate(ids)}
    order = np.full(len(ids), -1, dtype=np.int64)
    for row, name in enumerate(theirs):
        parts = name.replace("\\", "/").split("/")
        known = next((k for at in range(len(parts)) if (k := place.get("/".join(parts[at:]))) is not None), None)
        if known is None:
            raise DataError(
                f"{features}: row {row} belongs to {name!r}, which is not in {path} (which has {ids[0]!r}, …)",
                "extract both from the same images, or leave `ids` out if the order is the same",
            )
        if order[known] >= 0:
            raise DataError(f"{features}: rows {order[known]} and {row} both belong to {ids[known]!r}")
        order[known] = row
    return order
