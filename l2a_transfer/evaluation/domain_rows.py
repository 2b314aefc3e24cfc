"""Feature files of one model as one table, each row with a domain; features stay on disk until rows are read."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.features.store.schema import FeatureMeta
from l2a_transfer.features.store.views import FeatureRows, VerifiedFile


@dataclass(frozen=True)
class JoinedRows:
    """The features (N, D) of several open files, concatenated; rows are indexed in any order."""

    parts: Sequence[FeatureRows]

    @property
    def shape(self) -> tuple[int, int]:
        return sum(len(part) for part in self.parts), self.parts[0].shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.result_type(*(part.dtype for part in self.parts))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
        numbers = np.asarray(rows)
        found = np.empty((len(numbers), self.shape[1]), dtype=self.dtype)
        start = 0
        for part in self.parts:
            own = np.flatnonzero((numbers >= start) & (numbers < start + len(part)))
            if len(own):
                found[own] = part[numbers[own] - start]
            start += len(part)
        return found


@dataclass(frozen=True)
class DomainTable:
    """The rows of one model's files without their features.

    `labels` (N,) index into `meta.classes`, which all domains share; `domain` (N,) into `meta.domains`. Row numbers run
    through the files in order.
    """

    path: Path
    meta: FeatureMeta
    labels: NDArray[np.int32]
    ids: tuple[str, ...]
    split: NDArray[np.uint8]
    domain: NDArray[np.int64]
    sha256: str
    files: tuple[VerifiedFile, ...]

    def named(self, data: str) -> DomainTable:
        """The same table under the name `data` in the report."""
        return dataclasses.replace(self, meta=dataclasses.replace(self.meta, data=data))

    @contextmanager
    def open(self) -> Iterator[OpenDomains]:
        """The table with its features, while the files are open."""
        with ExitStack() as stack:
            yield OpenDomains(self, JoinedRows([stack.enter_context(file.open()).features for file in self.files]))

    def check_unchanged(self) -> None:
        """Raises: StoreError if the content of a file has changed."""
        for file in self.files:
            file.check_unchanged()


@dataclass(frozen=True)
class OpenDomains:
    """A table and the features (N, D) of its rows."""

    table: DomainTable
    features: JoinedRows

    @property
    def path(self) -> Path:
        return self.table.path

    @property
    def meta(self) -> FeatureMeta:
        return self.table.meta

    @property
    def labels(self) -> NDArray[np.int32]:
        return self.table.labels

    @property
    def ids(self) -> tuple[str, ...]:
        return self.table.ids

    @property
    def split(self) -> NDArray[np.uint8]:
        return self.table.split

    @property
    def domain(self) -> NDArray[np.int64]:
        return self.table.domain

    @property
    def sha256(self) -> str:
        return self.table.sha256


def joined_sha256(files: Sequence[VerifiedFile]) -> str:
    """The digest of one file; for several, the SHA-256 of their digests, one per line."""
    if len(files) == 1:
        return files[0].sha256
    return hashlib.sha256("".join(f"{file.sha256}\n" for file in files).encode()).hexdigest()


def files_of(table: DomainTable | VerifiedFile) -> dict[str, dict[str, str]]:
    """For the card: path relative to the common folder → digest of each file, if a table has several; otherwise
    empty."""
    if isinstance(table, VerifiedFile) or len(table.files) == 1:
        return {}
    paths = [Path(os.path.abspath(file.path)) for file in table.files]
    folder = os.path.commonpath([path.parent for path in paths])
    names = [path.relative_to(folder).as_posix() for path in paths]  # files in two folders may have the same name
    return {"feature_files": {name: file.sha256 for name, file in zip(names, table.files, strict=True)}}
