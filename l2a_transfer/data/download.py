"""Fetching the sets that this package reads by itself, through torchvision's downloader; nothing else downloads."""

from __future__ import annotations

import os
import shutil
import tarfile
import urllib.error
import zipfile
from dataclasses import dataclass
from pathlib import Path

from l2a_transfer.data.registry import DatasetSpec
from l2a_transfer.errors import DataError
from l2a_transfer.files import check_own_folder
from l2a_transfer.lock import output_lock


@dataclass(frozen=True)
class Archive:
    """One file of a data set: where it is, its published MD5 (none where the authors give none), and the folder
    that unpacking it makes. `inner` is an archive inside it that holds the folder."""

    url: str
    md5: str | None
    makes: str
    inner: str = ""


TORONTO, STANFORD = "https://www.cs.toronto.edu/~kriz", "http://vision.stanford.edu/Datasets"
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "cifar10": (
        Archive(f"{TORONTO}/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"),
    ),
    "cifar100": (
        Archive(f"{TORONTO}/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python"),
    ),
    "caltech101": (
        Archive(
            "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
            "3138e1922a9193bfa496528edbbc45d0",
            "caltech101/101_ObjectCategories",
            inner="caltech-101/101_ObjectCategories.tar.gz",
        ),
    ),
    "stanford40": (
        Archive(f"{STANFORD}/Stanford40_JPEGImages.zip", None, "stanford40/JPEGImages"),
        Archive(f"{STANFORD}/Stanford40_ImageSplits.zip", None, "stanford40/ImageSplits"),
    ),
}


def fetch(spec: DatasetSpec, data_dir: Path) -> None:
    """Download and unpack what is missing of a set below `data_dir`; a folder appears only when it is whole.

    Raises: DataError where the host cannot be reached, the MD5 differs, or the archive is not what it should be;
    OutputExistsError where another process fetches it; StoreError where something of another user is in the way.
    """
    for archive in ARCHIVES[spec.name]:
        target = data_dir / archive.makes
        if not target.is_dir():
            data_dir.mkdir(parents=True, exist_ok=True)
            with output_lock(data_dir / target.name, argument="data_dir"):
                if not target.is_dir():  # whoever held the lock until now may have finished in the meantime
                    _fetch(spec.name, archive, data_dir, target)


def _fetch(name: str, archive: Archive, data_dir: Path, target: Path) -> None:
    from torchvision.datasets.utils import download_url, extract_archive

    work = data_dir / f"{target.name}.partial"
    check_own_folder(work)
    try:
        work.mkdir(parents=True, exist_ok=True)
        file = archive.url.rsplit("/", 1)[1]
        download_url(archive.url, str(work), file, archive.md5)
        unpacked = work / "unpacked"
        if unpacked.exists():
            shutil.rmtree(unpacked)
        extract_archive(str(work / file), str(unpacked))
        if archive.inner:
            extract_archive(str(unpacked / archive.inner), str(unpacked / "inner"))
            unpacked /= "inner"
        if not (unpacked / target.name).is_dir():
            raise DataError(f"{archive.url}: the archive has no folder {target.name}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(unpacked / target.name, target)
    except (RuntimeError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise DataError(f"{name}: {archive.url}: damaged or not the published file: {error}") from error
    except OSError as error:  # URLError is one
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise DataError(f"{name}: {archive.url}: cannot be fetched into {data_dir}: {error}") from error
    shutil.rmtree(work)
