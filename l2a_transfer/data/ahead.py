"""Read encoded pictures ahead, into memory that decoding processes share.

A file that can only be read in groups of pictures, such as Parquet, would be read again for nearly every picture of a
shuffled epoch. The order of an epoch is known, so its next pictures are read once, group by group.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.sources import Subset
from l2a_transfer.memory import mebibytes, usable_memory
from l2a_transfer.wording import counted

if TYPE_CHECKING:
    from l2a_transfer.data.sources import ImageSource

log = logging.getLogger(__name__)
SHARE_OF_MEMORY = 1 / 4
"""The share of this process's remaining memory for encoded pictures; decoding processes may use half."""
IN_ORDER = 2
"""If an order visits each group at most this often, on average, nothing is read ahead."""
PREFIX = "l2a-pictures-"


def read_ahead(source: ImageSource, batches: Sequence[range | NDArray[np.int64]], *, sharing: int = 1) -> int:
    """Read the pictures of the next batches into memory if the source's files make that worthwhile.

    Parameters
    ----------
    source : ImageSource
        A source with a method `read_ahead`, or rows of one; for others nothing is read.
    batches : sequence of range or ndarray
        The row numbers of each remaining batch, in order.
    sharing : int
        Number of processes on this machine that do the same and share its memory.

    Returns
    -------
    int
        How many batches to use before the next call: at least 1, and all if nothing needs to be read ahead.
    """
    rows = [np.asarray(batch, dtype=np.int64) for batch in batches]
    while isinstance(source, Subset):
        rows = [source.rows[own] for own in rows]
        source = source.whole
    read: Callable[..., int] | None = getattr(source, "read_ahead", None)
    return len(batches) if read is None or not rows else read(rows, sharing=sharing)


def budget(sharing: int) -> int:
    """How many bytes of encoded pictures each of `sharing` processes on this machine may hold."""
    return int(SHARE_OF_MEMORY * usable_memory()) // max(1, sharing)


@dataclass(frozen=True)
class NextBatches:
    """The ascending `rows` (n,) to read for the next `count` batches. `all_groups`: they cover the groups of all
    batches."""

    count: int
    rows: NDArray[np.int64]
    all_groups: bool


def in_order(batches: Sequence[NDArray[np.int64]], group: NDArray[np.int64]) -> bool:
    """Whether the batches visit each group so rarely that nothing needs to be read ahead; `group` (N,) of each row."""
    visited = group[np.concatenate(batches)]
    visits = 1 + np.count_nonzero(visited[1:] != visited[:-1])
    return bool(visits <= IN_ORDER * len(np.unique(visited)))


def plan_ahead(
    batches: Sequence[NDArray[np.int64]], group: NDArray[np.int64], each: NDArray[np.float64], most: int
) -> NextBatches | None:
    """The rows to read for as many batches as fit into about `most` bytes; None if `most` is too small.

    Parameters
    ----------
    batches : sequence of ndarray
        Row numbers.
    group : ndarray
        (N,): the group of each row of the source.
    each : ndarray
        (N,): the approximate size of each row's picture in bytes.
    most : int
        Limit in bytes.
    """
    rows = np.concatenate(batches)
    together = np.flatnonzero(np.isin(group, np.unique(group[rows])))
    if each[together].sum() <= most:
        return NextBatches(len(batches), together, all_groups=True)
    ends = np.cumsum([len(batch) for batch in batches])
    count = int(np.searchsorted(np.cumsum(each[rows])[ends - 1], most, side="right"))
    if not count:
        return None
    return NextBatches(count, np.unique(rows[: ends[count - 1]]), all_groups=False)


class HeldPictures:
    """Encoded pictures by row, in an in-memory file that forked and other processes can map.

    On systems without in-memory files, this is an unnamed temporary file.
    """

    def __init__(self) -> None:
        self.name = PREFIX + secrets.token_hex(8)
        self._file: Any = _file_in_memory(self.name)
        weakref.finalize(self, self._file.close)
        self._map: mmap | None = None
        self.rows = np.empty(0, dtype=np.int64)
        self._starts = np.zeros(1, dtype=np.int64)

    @property
    def nbytes(self) -> int:
        return int(self._starts[-1])

    def fill(self, pictures: Iterable[tuple[int, bytes]], most: int) -> bool:
        """Store (row, bytes), rows ascending, up to `most` bytes in total. False if they did not all fit."""
        rows, starts = list[int](), [0]
        for row, content in pictures:
            if starts[-1] + len(content) > most:
                break
            self._file.write(content)
            rows.append(row)
            starts.append(starts[-1] + len(content))
        else:
            row = -1
        self._file.flush()
        self.rows, self._starts = np.array(rows, dtype=np.int64), np.array(starts, dtype=np.int64)
        self._open()
        return row == -1

    def _open(self) -> None:
        if self.nbytes:
            self._map = mmap(self._file.fileno(), self.nbytes, access=ACCESS_READ)

    def get(self, row: int) -> bytes | None:
        """The bytes of a row's picture; None if it is not held."""
        at = int(np.searchsorted(self.rows, row))
        if self._map is None or at == len(self.rows) or self.rows[at] != row:
            return None
        return self._map[self._starts[at] : self._starts[at + 1]]

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process on this machine maps the same file; on another machine the copy is empty."""
        link = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        return _mapped_again, (link, self.name, self.rows, self._starts)


def _file_in_memory(name: str) -> Any:
    with suppress(OSError, AttributeError):  # not available on this system or in this container
        return open(os.memfd_create(name), "w+b")
    return tempfile.TemporaryFile()


def _mapped_again(link: str, name: str, rows: NDArray[np.int64], starts: NDArray[np.int64]) -> HeldPictures | None:
    with suppress(OSError):
        if name in os.readlink(link):  # on another machine this may be any file
            again: HeldPictures = HeldPictures.__new__(HeldPictures)
            again.name, again.rows, again._starts, again._map = name, rows, starts, None
            again._file = open(link, "rb")  # noqa: SIM115
            weakref.finalize(again, again._file.close)
            again._open()
            return again
    return None


class Ahead:
    """The pictures that a source holds, and how much larger they are than its files declare."""

    def __init__(self, held: HeldPictures | None = None) -> None:
        self.held = held
        self.larger = 1.0
        self._said = False

    def __reduce__(self) -> tuple[type[Ahead], tuple[HeldPictures | None]]:
        return Ahead, (self.held,)

    def get(self, row: int) -> bytes | None:
        """The encoded picture of a row; None if it is not held."""
        return None if self.held is None else self.held.get(row)

    def prepare(
        self,
        name: str,
        batches: Sequence[NDArray[np.int64]],
        group: NDArray[np.int64],
        sizes: NDArray[np.int64],
        encoded: Callable[[NDArray[np.int64]], Iterator[tuple[int, bytes]]],
        *,
        sharing: int,
    ) -> int:
        """Read the pictures of the next batches if `plan_ahead` finds it worthwhile; return how many batches to use.

        Parameters
        ----------
        name : str
            Name of the source in the log.
        batches : sequence of ndarray
            Row numbers.
        group, sizes : ndarray
            (N,), the group of each row; (G,), the approximate size of each group's pictures in bytes.
        encoded : callable
            Ascending rows of one group → (row, bytes) of each row that has a picture.
        sharing : int
            See `budget`.
        """
        held = self.held is not None and np.isin(np.concatenate(batches), self.held.rows).all()
        if held or in_order(batches, group):
            return len(batches)
        self.held = None  # freed before the next are read
        each = (sizes / np.maximum(1, np.bincount(group, minlength=len(sizes))))[group]  # (N,)
        most = budget(sharing)
        plan = plan_ahead(batches, group, self.larger * each, most)
        if plan is None:
            return len(batches)
        found = HeldPictures()
        parts = np.split(plan.rows, np.flatnonzero(np.diff(group[plan.rows])) + 1)
        complete = found.fill((picture for rows in parts for picture in encoded(rows)), most)
        self.larger = max(self.larger, found.nbytes / max(1.0, float(each[found.rows].sum())))
        self.held = found
        if plan.all_groups and not complete:
            return 1  # they are larger than estimated; the next plan takes this into account
        if not self._said:
            log.info(
                "%s: %s held encoded in %s of memory, because the order is shuffled%s",
                name,
                counted(len(found.rows), "picture"),
                mebibytes(found.nbytes),
                "" if plan.all_groups else "; there is no room for more, so the files are read several times an epoch",
            )
        self._said = True
        return plan.count
