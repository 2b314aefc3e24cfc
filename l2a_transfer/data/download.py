"""Download the data sets that this package reads without torchvision's classes.

This uses torchvision's downloader, which fetches the other sets anyway. pooch would not help with the delicate part:
unpacking next to the set and renaming the finished folder once.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import urllib.error
import zipfile
from pathlib import Path

from l2a_transfer.data.registry import Archive, DatasetSpec
from l2a_transfer.errors import DataError
from l2a_transfer.files import check_own_folder
from l2a_transfer.lock import output_lock


def fetch(spec: DatasetSpec, data_dir: Path) -> None:
    """Download and unpack the missing parts of a set below `data_dir`. A folder appears only when it is complete.

    Raises: DataError if the host cannot be reached, the MD5 does not match, or the archive has unexpected content;
    OutputExistsError if another process downloads it; StoreError if another user's file is in the way.
    """
    for archive in spec.archives:
        target = data_dir / archive.makes
        if not target.is_dir():
            data_dir.mkdir(parents=True, exist_ok=True)
            with output_lock(data_dir / target.name, argument="data_dir"):
                if not target.is_dir():  # the previous owner of the lock may have finished it
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
        raise DataError(f"{name}: {archive.url}: corrupt or not the published file: {error}") from error
    except OSError as error:  # URLError is one
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise DataError(f"{name}: {archive.url}: cannot be downloaded to {data_dir}: {error}") from error
    shutil.rmtree(work)
