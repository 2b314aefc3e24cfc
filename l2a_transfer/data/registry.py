"""What `open_source` can open: data formats, such as `imagefolder:PATH`, and named data sets. Decorators register them.

A format or a set is one file. No other code refers to it; it is imported when a registry is first read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from l2a_transfer.errors import unknown_name
from l2a_transfer.registry import Registry

if TYPE_CHECKING:
    from l2a_transfer.data.sources import ImageSource

NO_SPLIT = ("all",)
FORMAT_OPTIONS = ("split_from", "by_content")
"""Optional arguments of a format's reader: where splits come from, and whether fingerprints use file contents."""

FormatReader = TypeVar("FormatReader", bound=Callable[..., "ImageSource"])
DatasetReader = Callable[["DatasetSpec", Path, bool], "ImageSource"]


@dataclass(frozen=True)
class FormatSpec:
    """A data format. `data` names it as `PREFIX:PATH`.

    Parameters
    ----------
    prefix : str
        The part before the colon.
    read : callable
        ``read(path, **options)`` returns the image source; `path` is the part after the colon, as str.
    takes : str
        The part after the colon in help and errors: ``"FILE"``, or ``"PATH"`` if it may be a folder.
    example : str
        An example of such a path, for errors.
    suffixes : tuple of str
        File extensions of this format. If a path without a prefix has one of them, an error suggests the format.
    options : tuple of str
        The `FORMAT_OPTIONS` that `read` accepts.
    package, extra : str
        The optional package that `read` imports, and the extra of this package that installs it.
    """

    prefix: str
    read: Callable[..., ImageSource]
    takes: str
    example: str
    suffixes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    package: str = ""
    extra: str = ""

    @property
    def usage(self) -> str:
        """For example `imagefolder:PATH`."""
        return f"{self.prefix}:{self.takes}"


@dataclass(frozen=True)
class Archive:
    """One file of a data set to download.

    Parameters
    ----------
    url : str
        URL of the file.
    md5 : str or None
        The published MD5, if there is one.
    makes : str
        The folder below `data_dir` that unpacking creates.
    inner : str
        An archive inside the file that contains the folder, if there is one.
    """

    url: str
    md5: str | None
    makes: str
    inner: str = ""


def _unregistered(spec: DatasetSpec, data_dir: Path, download: bool) -> ImageSource:
    raise NotImplementedError(f"{spec.name} has no reader")


@dataclass(frozen=True)
class DatasetSpec:
    """A named data set.

    Parameters
    ----------
    name, title : str
        Its name in `data`, and a description.
    images, classes : int
        The published numbers. A different number of images is logged (0: not checked).
    splits : tuple of str
        Its splits, in order.
    licence, citation : str
        Its terms of use, and the reference to cite.
    folder : str
        What `data_dir` must contain; empty if the set ships with a package.
    archives : tuple of Archive
        The files that `download` fetches and unpacks before the set is read.
    loader : str
        torchvision's class for the set; empty if this package reads it.
    split_options : tuple
        Split → options of that class, as tuples of pairs.
    downloads : bool
        Whether `download` can fetch it.
    read : callable
        ``read(spec, data_dir, download)`` returns the image source; without `folder`, `data_dir` is ignored.
    """

    name: str
    title: str
    images: int
    classes: int
    splits: tuple[str, ...]
    licence: str
    citation: str
    folder: str = ""
    archives: tuple[Archive, ...] = ()
    loader: str = ""
    split_options: tuple[tuple[str, tuple[tuple[str, object], ...]], ...] = ()
    downloads: bool = True
    read: DatasetReader = field(default=_unregistered, repr=False, compare=False)

    @property
    def needs_data_dir(self) -> bool:
        """True if the set is in a folder of the user."""
        return bool(self.folder)


FORMATS: Registry[FormatSpec] = Registry(
    "data format",
    "l2a_transfer.data.folders",
    "l2a_transfer.data.npz",
    "l2a_transfer.data.webdataset",
    "l2a_transfer.data.parquet",
)
DATASETS: Registry[DatasetSpec] = Registry("data set", "l2a_transfer.data.sets", "l2a_transfer.data.torchvision_table")


def register_format(
    prefix: str,
    *,
    takes: str,
    example: str,
    suffixes: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
    package: str = "",
    extra: str = "",
) -> Callable[[FormatReader], FormatReader]:
    """Register the decorated function as the reader of a data format; for the parameters, see `FormatSpec`."""

    def register(read: FormatReader) -> FormatReader:
        spec = FormatSpec(prefix, read, takes, example, suffixes, options, package, extra)
        FORMATS.add(prefix, spec, home=read.__module__)
        return read

    return register


def register_dataset(*specs: DatasetSpec) -> Callable[[DatasetReader], DatasetReader]:
    """Register the decorated function as the reader of one or several named data sets."""

    def register(read: DatasetReader) -> DatasetReader:
        for spec in specs:
            DATASETS.add(spec.name, replace(spec, read=read), home=read.__module__)
        return read

    return register


def format_usages() -> tuple[str, ...]:
    """All data formats, for help and errors: `imagefolder:PATH`, `npz:FILE`, …"""
    return tuple(spec.usage for spec in FORMATS.values())


def find_dataset(name: str) -> DatasetSpec:
    """The data set called `name`.

    Raises
    ------
    UnknownNameError
        If there is no such set. The message suggests the nearest name.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, [*DATASETS, *format_usages()])
    return DATASETS[name]
