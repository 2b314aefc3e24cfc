"""A feature file for NumPy, torch or pandas, read in blocks of rows and by several processes at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from l2a_transfer.errors import MissingExtraError, names_keywords, unknown_name
from l2a_transfer.features.store.schema import FeatureMeta
from l2a_transfer.features.store.sealed import (
    OpenedStore,
    Stamp,
    check_finite,
    check_same,
    open_store,
    read_block,
    sha256_of,
)
from l2a_transfer.features.store.shown import features_html, features_repr
from l2a_transfer.text import repr_line
from l2a_transfer.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    import torch

BLOCK_BYTES = 16 << 20


@names_keywords
def open_features(path: str | Path, *, finite: bool = True) -> FeatureFile:
    """Open a feature file to read rows from it. Every byte is verified once, when it is opened.

    Parameters
    ----------
    path : str or Path
        A feature file.
    finite : bool
        Raise an error if features that are read are not finite. False returns them unchanged.

    Returns
    -------
    FeatureFile
        The open file, a context manager.

    Raises
    ------
    StoreError
        In the same cases as `read_features`.

    Examples
    --------
    >>> import l2a_transfer
    >>> source = l2a_transfer.open_source("digits", limit=20)
    >>> path = l2a_transfer.extract(source, "untrained:vgg-gap@0.03125", "features.h5", progress=False).path
    >>> with l2a_transfer.open_features(path) as file:
    ...     X, y = file.to_numpy()
    >>> X.shape, file.meta.classes[:2]
    ((20, 16), ('0', '1'))
    """
    return FeatureFile(path, finite=finite)


@dataclass(frozen=True)
class VerifiedFile:
    """A closed feature file whose seal was checked. It can be opened again as long as its content is the same."""

    path: Path
    meta: FeatureMeta
    sha256: str
    stamp: Stamp = field(repr=False)

    def open(self) -> FeatureFile:
        """Open the file; its seal is checked again only if something was written since. Raises: StoreError if the
        content at its path has changed."""
        return FeatureFile(self.path, verified=self.stamp)

    def check_unchanged(self) -> None:
        """Raises: StoreError if the content at the path has changed."""
        check_same(self.path, self.stamp)


class FeatureFile:
    """An open feature file of N rows, read in blocks or by row.

    It is a context manager and can be pickled. After a fork, each process reads through its own handle, and the seal of
    an unchanged file is not checked again. It is also a map-style data set:
    `torch.utils.data.DataLoader(open_features(path), batch_size=256, num_workers=4)` yields batches of features and
    labels.

    Parameters
    ----------
    path : str or Path
        A feature file.
    finite : bool
        Raise an error if features that are read are not finite.
    verified : tuple, optional
        The stamp of a file whose seal was checked before (see `open_store`).

    Attributes
    ----------
    meta : FeatureMeta
        What rows and columns mean, and how they were made.
    labels : ndarray
        (N,), int32; −1 for images without a label.
    ids : tuple of str
        N names.
    split : ndarray
        (N,), uint8, an index into `meta.splits`.
    domain : ndarray or None
        (N,), an index into `meta.domains`; None if the file has no domains.
    partners : tuple of tuple of str
        The k ids that each row was attended with; empty for networks that attend each image alone.
    features : FeatureRows
        (N, D), on disk until rows are read.
    maps : dict
        Level → shape (N, H, W) of its attention maps.
    """

    def __init__(self, path: str | Path, *, finite: bool = True, verified: Stamp | None = None) -> None:
        self.path = Path(path).absolute()
        self.finite = finite
        self._use_store(open_store(self.path, verified=verified))

    def _use_store(self, store: OpenedStore) -> None:
        self._store: OpenedStore | None = store
        self._stamp, self._process = store.stamp, os.getpid()
        self.meta: FeatureMeta = store.meta
        self.labels, self.ids, self.split, self.partners = store.labels, store.ids, store.split, store.partners
        self.domain = store.domain
        self.features = FeatureRows(self, store.features.shape, store.features.dtype)
        self.maps: dict[str, tuple[int, int, int]] = {level: found.shape for level, found in store.maps.items()}

    def _opened(self) -> OpenedStore:
        """This process's own handle."""
        if self._store is not None and self._process != os.getpid():
            self._store.file.close()  # otherwise libhdf5 returns the parent's open file
            self._use_store(open_store(self.path, verified=self._stamp))
        if self._store is None:
            raise ValueError(f"{self.path}: closed; read it inside 'with open_features(path) as f:'")
        return self._store

    @property
    def sha256(self) -> str:
        """The SHA-256 in the file's seal, of everything after the user block, as hexadecimal digits."""
        return sha256_of(self._stamp)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "finite": self.finite, "stamp": self._stamp}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.finite = state["path"], state["finite"]
        self._use_store(open_store(self.path, verified=state["stamp"]))

    @property
    def verified(self) -> VerifiedFile:
        """What is needed to open this same file again, without its rows."""
        return VerifiedFile(self.path, self.meta, self.sha256, self._stamp)

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file in this process; `meta`, `labels`, `ids`, `split` and `partners` stay."""
        if self._store is not None:
            self._store.file.close()
        self._store = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> tuple[NDArray[Any], int]:
        """One row: features (D,), label."""
        return self.features[row], int(self.labels[row])

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[NDArray[Any], int]]:
        """Many rows in one read; torch's DataLoader calls this for a batch."""
        return list(zip(self.features[np.asarray(rows)], self.labels[np.asarray(rows)].tolist(), strict=True))

    def __repr__(self) -> str:
        note = "closed" if self._store is None else "open"
        return features_repr(self, self.path, self.meta, self.features.shape, self.features.dtype, note=note)

    def _repr_html_(self) -> str:
        return features_html(self.path, self.meta, self.features.shape, self.features.dtype)

    def rows(self, split: str | None = None) -> NDArray[np.int64]:
        """The row numbers of a split, or all. Raises: UnknownNameError for a split that the file does not have."""
        if split is None:
            return np.arange(len(self))
        if split not in self.meta.splits:
            raise unknown_name(f"split of {self.path}", split, self.meta.splits)
        return np.flatnonzero(self.split == self.meta.splits.index(split))

    def columns(self, level: str | None = None) -> slice:
        """The columns of one level, or all. Raises: UnknownNameError for a level that the file does not have."""
        found = {name: slice(start, stop) for name, start, stop in self.meta.levels}
        if level is not None and level not in found:
            raise unknown_name(f"level of {self.path}", level, found)
        return slice(0, self.features.shape[1]) if level is None else found[level]

    def blocks(self, rows: int | None = None) -> Iterator[NDArray[Any]]:
        """All features in order, (at most `rows`, D) at a time; by default about 16 MiB."""
        if rows is not None and rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        step = rows or max(1, BLOCK_BYTES // (self.features.shape[1] * self.features.dtype.itemsize))
        for start in range(0, len(self), step):
            yield self.features[start : start + step]

    def map_blocks(self, level: str, rows: int = 1024) -> Iterator[NDArray[np.float16]]:
        """The attention maps of a level in order, (at most `rows`, H, W) at a time; see `maps` for levels and shapes.

        Raises: UnknownNameError for a level without maps; StoreError if they are corrupt.
        """
        if level not in self.maps:
            raise unknown_name(f"map of {self.path}", level, self.maps)
        for start in range(0, len(self), rows):
            found = self._opened().maps[level]
            yield read_block(self.path, found, start, min(start + rows, len(self)), f"maps/{level}")

    def to_numpy(self, split: str | None = None, level: str | None = None) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Features (n, d) as stored and labels (n,) int32 of a split and a level, in memory."""
        rows = self.rows(split)
        columns = self.columns(level)
        features = np.empty((len(rows), columns.stop - columns.start), dtype=self.features.dtype)
        step = max(1, BLOCK_BYTES // (self.features.shape[1] * self.features.dtype.itemsize))
        for at in range(0, len(rows), step):
            features[at : at + step] = self.features[rows[at : at + step]][:, columns]
        return features, self.labels[rows]

    def to_torch(self, split: str | None = None, level: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Same as `to_numpy`, but CPU tensors: features as stored, labels int64."""
        import torch

        features, labels = self.to_numpy(split, level)
        return torch.from_numpy(features), torch.from_numpy(labels.astype(np.int64))

    def to_pandas(self, split: str | None = None, level: str | None = None) -> pd.DataFrame:
        """A data frame with the ids as index, the columns `split`, `class` (categories; missing for images without a
        label) and `label`, and one column per feature, such as `L3.0`.

        Raises: MissingExtraError if pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("to_pandas", "pandas", "pandas") from error
        features, labels = self.to_numpy(split, level)
        names = [
            f"{name}.{k}"
            for name, start, stop in self.meta.levels
            if level in (None, name)
            for k in range(stop - start)
        ]
        rows = self.rows(split)
        index = pd.Index([self.ids[row] for row in rows], name="id")
        frame = pd.DataFrame(features, index=index, columns=names, copy=False)
        named = [self.meta.classes[label] if label >= 0 else None for label in labels]
        splits = [self.meta.splits[k] for k in self.split[rows]]
        frame.insert(0, "split", pd.Categorical(splits, list(dict.fromkeys(self.meta.splits))))
        frame.insert(1, "class", pd.Categorical(named, list(dict.fromkeys(self.meta.classes))))
        frame.insert(2, "label", labels)
        return frame


class FeatureRows:
    """The features of an open file, indexed by row like a NumPy array.

    A row number returns (D,). A slice, row numbers in any order, or a mask (N,) return (n, D). Raises: IndexError for a
    row that does not exist; StoreError for rows that are corrupt or not finite.
    """

    def __init__(self, owner: FeatureFile, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._owner, self.shape, self.dtype = owner, shape, dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return repr_line(self, self._owner.path.name, f"{self.shape} {self.dtype} on disk", "read by index")

    def __getitem__(self, key: int | slice | ArrayLike) -> NDArray[Any]:
        N = len(self)
        if isinstance(key, slice):
            start, stop, step = key.indices(N)
            return self._span(start, max(start, stop)) if step == 1 else self._gather(np.arange(start, stop, step))
        rows = np.asarray(key)
        if rows.dtype == bool:
            if rows.shape != (N,):
                raise IndexError(f"a mask of rows must have the shape ({N},), got {rows.shape}")
            rows = np.flatnonzero(rows)
        if rows.ndim > 1 or (rows.dtype.kind not in "iu" and rows.size):
            raise TypeError(f"rows must be a row number, a slice, row numbers or a mask, got {key!r}")
        numbers = rows.astype(np.int64)
        if numbers.size and (numbers.min() < -N or numbers.max() >= N):
            raise IndexError(
                f"row {numbers.min() if numbers.min() < -N else numbers.max()} of a file with {counted(N, 'row')}"
            )
        numbers = np.where(numbers < 0, numbers + N, numbers)
        return self._span(int(numbers), int(numbers) + 1)[0] if rows.ndim == 0 else self._gather(numbers)

    def _span(self, start: int, stop: int) -> NDArray[Any]:
        owner = self._owner
        block = read_block(owner.path, owner._opened().features, start, stop)
        if owner.finite:
            check_finite(owner.path, block, owner.ids[start:stop])
        return block

    def _gather(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows in any order. Each chunk is read at most once."""
        found = np.empty((len(rows), self.shape[1]), dtype=self.dtype)
        order = np.argsort(rows, kind="stable")
        step = self._owner._opened().features.chunks[0]
        cuts = np.flatnonzero(np.diff(rows[order] // step)) + 1
        for own in np.split(order, cuts) if len(rows) else []:
            low, high = int(rows[own].min()), int(rows[own].max()) + 1
            found[own] = self._span(low, high)[rows[own] - low]
        return found
