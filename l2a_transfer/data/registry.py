"""What `open_source` can open: data formats, as `imagefolder:PATH`, and named data sets; each registers by decorator.

A format or a set is one file, which nothing else names: it is imported when a registry is first read.
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
"""What a format's reader may take beside the path: what splits are, and if the fingerprint is of file contents."""

FormatReader = TypeVar("FormatReader", bound=Callable[..., "ImageSource"])
DatasetReader = Callable[["DatasetSpec", Path, bool], "ImageSource"]


@dataclass(frozen=True)
class FormatSpec:
    """A data format, which `data` names as `PREFIX:PATH`.

    Parameters
    ----------
    prefix : str
        What stands before the colon.
    read : callable
        ``read(path, **options)`` gives the image source; `path` is what stands behind the colon, as text.
    takes : str
        What stands behind the colon, as help and errors show it: ``"FILE"``, or ``"PATH"`` where it may be a folder.
    example : str
        Such a path, for errors.
    suffixes : tuple of str
        Endings by which a path without a prefix is recognised as one of this format; an error then suggests it.
    options : tuple of str
        Those of `FORMAT_OPTIONS` that `read` takes.
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
        """As `imagefolder:PATH`."""
        return f"{self.prefix}:{self.takes}"


@dataclass(frozen=True)
class Archive:
    """One file that a data set is downloaded as.

    Parameters
    ----------
    url : str
        Where the file is.
    md5 : str or None
        The MD5 that its authors give, if they give one.
    makes : str
        The folder below `data_dir` that unpacking makes.
    inner : str
        An archive in the file that holds the folder, if there is one.
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
        What `data` calls it, and what it is.
    images, classes : int
        What its authors published; where another number of images is found, that is logged (0: not checked).
    splits : tuple of str
        Its splits, in order.
    licence, citation : str
        Its terms, and what to cite.
    folder : str
        What `data_dir` must hold; empty if the set comes with a package.
    archives : tuple of Archive
        The files that `download` fetches and unpacks before the set is read.
    loader : str
        torchvision's class for the set; empty if this package reads it.
    split_options : tuple
        Split → options of that class, as tuples of pairs.
    downloads : bool
        Whether `download` can fetch it.
    read : callable
        ``read(spec, data_dir, download)`` gives the image source; without `folder`, `data_dir` means nothing.
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
        """True if the set lies in a folder of the user's."""
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
    """All data formats as help and errors show them: `imagefolder:PATH`, `npz:FILE`, …"""
    return tuple(spec.usage for spec in FORMATS.values())


def find_dataset(name: str) -> DatasetSpec:
    """The data set called `name`.

    Raises
    ------
    UnknownNameError
        For a name that no set has, with the nearest.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, [*DATASETS, *format_usages()])
    return DATASETS[name]
