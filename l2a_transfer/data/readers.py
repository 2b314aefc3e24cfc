"""Open the image source that `data` names: a named data set, or a format and a path such as `imagefolder:PATH`."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from l2a_transfer.data.domains import FOLDER, check_domain_from, with_domains
from l2a_transfer.data.layout import check_split_from
from l2a_transfer.data.objects import InMemory, is_source, source_in_memory
from l2a_transfer.data.reading import class_warnings
from l2a_transfer.data.registry import DATASETS, FORMATS, DatasetSpec, FormatSpec, find_dataset, format_usages
from l2a_transfer.data.selection import select
from l2a_transfer.data.sources import ImageSource, SourceBase, check_source
from l2a_transfer.data.walk import walk_folders
from l2a_transfer.errors import ArgumentError, DataError, UnknownNameError, names_keywords
from l2a_transfer.registry import require_package
from l2a_transfer.wording import counted

__all__ = ["ImageSource", "open_source"]

log = logging.getLogger(__name__)
FOLDER_FORMAT = "imagefolder"
"""The format that is suggested for a folder without files of another format."""
LOOKED_AT = 1000
"""How many files of a folder are examined to guess its format."""


@names_keywords
def open_source(
    data: str | Path | ImageSource | InMemory,
    *,
    data_dir: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    download: bool = False,
    split_from: str = "auto",
    verify_source: bool = False,
    name: str | None = None,
    domain_from: str | None = None,
) -> ImageSource:
    """Open a data set: its images, with labels, ids and splits.

    Parameters
    ----------
    data : str, Path, ndarray, Dataset, tuple, mapping or ImageSource
        One of these:

        - a named data set (`l2a-transfer datasets` lists them)
        - `imagefolder:PATH`, `npz:FILE`, `wds:PATH` or `parquet:PATH`
        - uint8 images (N, H, W, 3) or (N, H, W)
        - a map-style data set of torch, whose items are images or (image, label)
        - (images, labels), with labels (N,) as integers (−1: none) or names
        - a mapping from splits to data in memory
    data_dir : str or Path, optional
        The folder that contains a named data set.
    split : str, optional
        Use only this split.
    limit : int, optional
        Use at most this many images per split, balanced over the classes.
    download : bool, default=False
        Download a named data set that is not in `data_dir`.
    split_from : {"auto", "folders", "none"}, default="auto"
        How splits of folders and shards are assigned: by names, by first-level folders, or not at all.
    verify_source : bool, default=False
        Compute the fingerprint from the content of the files, which reads all of them, instead of from their sizes and
        modification times.
    name : str, optional
        Name of a data set in memory, in feature files and reports; "memory" by default.
    domain_from : str, optional
        Where the domain of each image comes from: "folder" (DOMAIN/CLASS/image, in one split), "regex:PATTERN" (the
        first group of a pattern, matched in the id) or "file:FILE" (JSON or CSV, id → domain).

    Returns
    -------
    ImageSource
        N images; `labels` int32 (N,), `split` uint8 (N,), `ids` N names. Data in memory is not copied and must not be
        changed. Classes that differ only in case, or that have no image in a split, are logged.

    Raises
    ------
    UnknownNameError
        For an unknown data set or split; the message suggests the nearest name.
    DataError
        If the data set is missing, empty, corrupt or ambiguous, or if an id or a class has a name that cannot be
        written to a feature file.
    MissingExtraError
        If the format needs a package that is not installed.
    TypeError
        If `data` has another type, or if pixels are not uint8.

    Examples
    --------
    >>> import numpy as np
    >>> import l2a_transfer
    >>> source = l2a_transfer.open_source("digits", limit=20)
    >>> len(source), source.splits, source.image(0).size
    (20, ('all',), (8, 8))
    >>> images = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    >>> l2a_transfer.open_source((images, ["cat", "dog", "cat", "dog"]), name="pets").classes
    ('cat', 'dog')
    """
    if domain_from is not None:
        check_domain_from(domain_from)
    if not isinstance(data, (str, Path)):
        if data_dir is not None or download or split_from != "auto" or verify_source:
            raise ArgumentError(
                "data_dir, download, split_from and verify_source can only be used with data on disk", "leave them out"
            )
        source = source_in_memory(data, name=name)
        source = source if domain_from is None else with_domains(source, domain_from)
        return _checked(source, split, limit, "", warn=not is_source(data))
    if name is not None:
        raise ArgumentError(f"name can only be used with data in memory; {str(data)!r} has a name", "leave it out")
    data = str(data)
    check_split_from(split_from)
    prefix, colon, where = data.partition(":")
    in_folders = domain_from == FOLDER and colon and "split_from" in getattr(FORMATS.get(prefix), "options", ())
    if in_folders:
        if split_from != "auto":
            raise ArgumentError(
                "split_from must be auto with `domain_from='folder'`, because the folders are domains, not splits"
            )
        split_from = "folders"
    if colon and prefix in FORMATS:
        source = _open_format(FORMATS[prefix], where, split_from=split_from, by_content=verify_source)
    else:
        if split_from != "auto":
            raise _without_choice(data)
        if data not in DATASETS and os.path.exists(os.path.expanduser(data)):
            raise UnknownNameError(f"data {data!r} is a path, not the name of a data set; {_suggestion(data)}")
        source = _open_named(find_dataset(data), None if data_dir is None else Path(data_dir), download=download)
        if verify_source and isinstance(source, SourceBase):
            source = dataclasses.replace(source, by_content=True)
    if in_folders and isinstance(source, SourceBase):
        reading = dataclasses.replace(source.reading, splits_from="folders are domains: one split")
        one = np.zeros(len(source), dtype=np.uint8)
        source = dataclasses.replace(source, splits=("all",), split=one, reading=reading)
    source = source if domain_from is None else with_domains(source, domain_from)
    return _checked(source, split, limit, data if colon else "")


def _checked(
    source: ImageSource, split: str | None, limit: int | None, where: str, *, warn: bool = True
) -> ImageSource:
    """The chosen rows of a source, after checking it. With `warn`, logs odd classes. Raises: same as `check_source`."""
    chosen = select(source, split=split, limit=limit)
    check_source(chosen, where=where)
    if warn:
        for text in class_warnings(source.classes, source.splits, source.labels, source.split):
            log.warning("%s: %s", source.name, text)
    return chosen


def _open_format(spec: FormatSpec, where: str, *, split_from: str, by_content: bool) -> ImageSource:
    """The source that `PREFIX:where` names. Raises: same as `open_source`."""
    data = f"{spec.prefix}:{where}"
    if not where:
        raise ArgumentError(f"data {data!r} needs a path after the colon, for example {spec.prefix}:{spec.example}")
    if split_from != "auto" and "split_from" not in spec.options:
        raise _without_choice(data)
    if spec.package:
        require_package(data, spec.package, spec.extra)
    given = {"split_from": split_from, "by_content": by_content}
    return spec.read(os.path.expanduser(where), **{name: given[name] for name in spec.options})


def _without_choice(data: str) -> ArgumentError:
    """The error for `split_from` if the data has its own splits."""
    *others, last = (f"{spec.prefix}:" for spec in FORMATS.values() if "split_from" in spec.options)
    return ArgumentError(
        f"split_from can only be used with {', '.join(others)} and {last}; {data} has its own splits",
        "leave it at auto",
    )


def _suggestion(path: str) -> str:
    """Suggest what to write for an existing path, based on its suffix or the files in it."""
    found = Path(os.path.expanduser(path))
    if found.is_dir():
        names = (name for _, names in walk_folders(found) for name in names)
        inside: set[str] = set()
        with suppress(OSError):  # an unreadable folder
            inside.update(Path(name).suffix for name in itertools.islice(names, LOOKED_AT))
        formats = [spec for spec in FORMATS.values() if spec.takes == "PATH" and not inside.isdisjoint(spec.suffixes)]
        prefix = formats[0].prefix if formats else FOLDER_FORMAT
    else:
        prefix = next((spec.prefix for spec in FORMATS.values() if found.suffix in spec.suffixes), "")
    return f"did you mean '{prefix}:{path}'?" if prefix else f"supported are {', '.join(format_usages())}"


def _open_named(spec: DatasetSpec, data_dir: Path | None, *, download: bool) -> ImageSource:
    """Open a named set. Raises: DataError if `data_dir` is missing."""
    if not spec.needs_data_dir:
        return spec.read(spec, Path(), False)
    if data_dir is None:
        raise DataError(f"{spec.name}: needs the folder that contains {spec.folder}", "give it as `data_dir`")
    source = spec.read(spec, data_dir, download)
    if spec.images and len(source) != spec.images:
        log.warning("%s: %s, but the published set has %d", spec.name, counted(len(source), "image"), spec.images)
    return source
