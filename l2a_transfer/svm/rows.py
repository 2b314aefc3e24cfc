"""The rows for a solver: in memory, or read block by block; shifted and scaled once, to avoid cancellation.

N rows, D columns, F folds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


LARGEST_RATIO = 16.0
"""Largest ratio of a column's mean to its standard deviation for which float32 products of the original column are
accurate."""
SPREADS = (1e-6, 1e6)
"""Standard deviations of columns for which squares are far from the limits of float32."""


class LazyRows:
    """Some rows and columns of a matrix on disk, read when needed.

    Parameters
    ----------
    matrix : array-like of shape (rows, columns)
        An h5py dataset, or `FeatureFile.features`.
    rows : ndarray of int, shape (N,), optional
        Row numbers in ascending order; all by default.
    columns : slice, optional
        The D columns; all by default.

    Attributes
    ----------
    shape : tuple of int
        (N, D).

    Raises
    ------
    ValueError
        If the row numbers are not strictly ascending.

    Examples
    --------
    >>> import numpy as np
    >>> lazy = LazyRows(np.arange(12).reshape(4, 3), rows=np.array([1, 3]), columns=slice(1, 3))
    >>> lazy.shape
    (2, 2)
    >>> lazy[0:2].tolist()
    [[4, 5], [10, 11]]
    """

    def __init__(
        self, matrix: Any, *, rows: NDArray[np.integer[Any]] | None = None, columns: slice | None = None
    ) -> None:
        self._matrix, self._rows = matrix, rows
        self._columns = columns or slice(0, matrix.shape[1])
        if rows is not None and len(rows) > 1 and not (np.diff(rows) > 0).all():
            raise ValueError("rows must be distinct row numbers in ascending order")
        N = matrix.shape[0] if rows is None else len(rows)
        self.shape = (int(N), len(range(*self._columns.indices(matrix.shape[1]))))

    def __getitem__(self, place: slice) -> NDArray[Any]:
        block = self._matrix[place] if self._rows is None else self._matrix[self._rows[place]]
        return np.asarray(block)[:, self._columns]


@dataclass(frozen=True)
class Fold:
    """The training rows of one fit and its held-out rows, with its coordinates z = (x − mean) / scale.

    `train` (N,) bool; `held_out`: row numbers, in any order, repeated as often as they count. With `standardize` False,
    z = x.
    """

    train: NDArray[np.bool_]
    held_out: NDArray[np.intp]
    standardize: bool


class RepeatedRows:
    """Rows of a matrix, possibly repeated, read when needed. `rows`: non-decreasing row numbers, (N',)."""

    def __init__(self, X: LazyRows | NDArray[Any], rows: NDArray[np.intp]) -> None:
        self._source, self._rows = X, rows
        self.shape = (len(rows), int(X.shape[1]))

    def __getitem__(self, place: slice) -> NDArray[Any]:
        own = self._rows[place]
        if len(own) == 0:
            return np.asarray(self._source[0:0])
        block: NDArray[Any] = np.asarray(self._source[int(own[0]) : int(own[-1]) + 1])
        repeated: NDArray[Any] = block[own - own[0]]
        return repeated


def folds_of_lists(
    lists: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]], N: int, *, standardize: bool
) -> tuple[NDArray[np.intp] | None, list[Fold]]:
    """Folds from pairs (training rows, held-out rows). These are lists in any order, and a row counts as often as it is
    listed. If a fold repeats training rows, the folds refer to X[result] instead of X; otherwise the result is None."""
    counts = [np.bincount(train, minlength=N) for train, _ in lists]
    copies = np.maximum.reduce([np.ones(N, dtype=np.intp), *counts])  # (N,)
    rows = np.repeat(np.arange(N), copies)
    first = np.cumsum(copies) - copies
    copy = np.arange(len(rows)) - first[rows]  # which copy of its row each one is
    folds = [
        Fold(copy < own[rows], first[held_out], standardize) for own, (_, held_out) in zip(counts, lists, strict=True)
    ]
    return (rows if len(rows) > N else None), folds


class ScaledRows:
    """Rows (N, D) as blocks of (x', 1), x' = (x − shift) / spread in shared coordinates, on one device.

    `shift` and `spread` are the mean and standard deviation over all N rows. They only keep numbers near 1, and are not
    statistics of any model; every fold is described relative to them. Constant columns have spread 1. `block`: how many
    numbers to read at a time.

    `resident` keeps float64 and float32, `single` only float32. With `single`, rows are kept unchanged (shift 0 and
    spread 1) if their columns are not far from 0: float32 often represents them exactly, and then nothing has to be
    read again. With `keep` False, nothing is kept before `keep()` is called. `gathers`: whether `take` supports single
    rows. Raises: ValueError if a value is not finite.
    """

    def __init__(
        self,
        X: LazyRows | RepeatedRows | NDArray[Any],
        *,
        device: torch.device,
        resident: bool,
        block: int,
        single: bool = False,
        keep: bool = True,
    ) -> None:
        import torch

        self._source, self.device, self.resident, self._single = X, device, resident, single
        self.N, self.D = int(X.shape[0]), int(X.shape[1])
        self._step = max(16, block // (self.D + 1))
        self._x64: torch.Tensor | None = None
        self._x32: torch.Tensor | None = None
        self.shift, self.spread = self._shift_and_spread()
        self._exact = False
        if single and self._near_zero():
            self.shift, self.spread = torch.zeros_like(self.shift), torch.ones_like(self.spread)
        if keep:
            self.keep()

    @property
    def gathers(self) -> bool:
        return self._x64 is not None or self._exact

    def keep(self) -> None:
        """Copy X into memory, as `resident` and `single` say."""
        import torch

        if not (self.resident or self._single):
            return
        kept = torch.empty(
            self.N, self.D + 1, dtype=torch.float64 if self.resident else torch.float32, device=self.device
        )
        exact = True
        for place, x in self._read(self._step):
            kept[place] = x
            exact = exact and (self.resident or torch.equal(kept[place].double(), x))
        if self.resident:
            self._x64, self._x32 = kept, kept.float()
        else:
            self._x32, self._exact = kept, exact

    def take(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(x', 1) of these rows (m, D + 1); only if `gathers`."""
        whole = self._x32 if dtype.itemsize == 4 or self._exact else self._x64
        assert whole is not None
        return whole.index_select(0, rows).to(dtype)

    def blocks(self, dtype: torch.dtype, block: int, problems: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """(slice, (x', 1) of these rows) over all rows in order, with at most `block` numbers per problem-by-row
        array."""
        whole = self._x32 if dtype.itemsize == 4 else self._x64
        step = max(16, block // problems)
        if whole is None and self._exact:
            whole, step = self._x32, min(step, self._step)
        if whole is None:
            for place, x in self._read(min(step, self._step)):
                yield place, x.to(dtype)
            return
        for start in range(0, self.N, step):
            place = slice(start, min(start + step, self.N))
            yield place, whole[place].to(dtype)

    def _near_zero(self) -> bool:
        """Whether float32 products of the original columns lose at most a factor of `LARGEST_RATIO` in accuracy."""
        ratio = self.shift.abs() / self.spread
        inside = (self.spread >= SPREADS[0]) & (self.spread <= SPREADS[1])
        return bool((inside & (ratio <= LARGEST_RATIO)).all())

    def _read(self, step: int) -> Iterator[tuple[slice, torch.Tensor]]:
        import torch

        for start in range(0, self.N, step):
            place = slice(start, min(start + step, self.N))
            # A copy, because PyTorch warns about read-only arrays.
            values = torch.from_numpy(np.array(self._source[place], dtype=np.float64)).to(self.device)
            x = torch.ones(len(values), self.D + 1, dtype=torch.float64, device=self.device)
            torch.sub(values, self.shift, out=x[:, :-1]).div_(self.spread)
            yield place, x

    def _shift_and_spread(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation by Chan's pairwise update, in one pass."""
        import torch

        mean = torch.zeros(self.D, dtype=torch.float64, device=self.device)
        squares = torch.zeros_like(mean)
        self.shift, self.spread = torch.zeros_like(mean), torch.ones_like(mean)
        seen = 0
        for place, x in self._read(self._step):
            values, n = x[:, :-1], len(x)
            if not torch.isfinite(values).all():
                raise ValueError(f"rows {place.start} to {place.stop - 1} contain NaN or infinity")
            own = values.mean(dim=0)
            delta = own - mean
            mean += delta * (n / (seen + n))
            squares += values.sub_(own).square_().sum(dim=0) + delta**2 * (seen * n / (seen + n))
            seen += n
        return mean, _usable(squares / seen, mean, seen)

    def fold_statistics(self, folds: list[Fold]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and reciprocal scale (F, D) of each fold's coordinates z = (x' − mean) · inverse, as in StandardScaler.

        A column that is constant within a fold is not scaled there, as in StandardScaler.
        """
        import torch

        member = torch.from_numpy(np.stack([fold.train for fold in folds])).to(self.device)  # (F, N)
        count = member.sum(dim=1, keepdim=True).double()  # (F, 1)
        total = torch.zeros(len(folds), self.D + 1, dtype=torch.float64, device=self.device)
        squares = torch.zeros_like(total)
        for place, x in self.blocks(torch.float64, self._step * (self.D + 1), max(self.D + 1, len(folds))):
            own = member[:, place].double()
            total.addmm_(own, x)
            squares.addmm_(own, x**2)
        mean = total[:, :-1] / count
        variance = squares[:, :-1] / count - mean**2
        # The rest of a constant column is a rounding error, relative to the subtracted squares.
        constant = variance <= 1e-12 * squares[:, :-1] / count + 1e-300
        inverse = torch.where(constant, self.spread, 1 / variance.clamp(min=1e-300).sqrt())
        raw_mean, raw_inverse = -self.shift / self.spread, self.spread
        for k, fold in enumerate(folds):
            if not fold.standardize:
                mean[k], inverse[k] = raw_mean, raw_inverse
        return mean, inverse

    def second_moment(self, block: int) -> torch.Tensor:
        """Σ (x', 1)(x', 1)ᵀ / N, (D + 1, D + 1) float64."""
        import torch

        total = torch.zeros(self.D + 1, self.D + 1, dtype=torch.float64, device=self.device)
        for _, x in self.blocks(torch.float64, block, self.D + 1):
            total.addmm_(x.mT, x)
        return total / self.N


def _usable(variance: torch.Tensor, mean: torch.Tensor, rows: int) -> torch.Tensor:
    """Standard deviations, 1 if the column is constant up to rounding (scikit-learn's criterion)."""
    import torch

    eps = float(np.finfo(np.float64).eps)
    constant = variance <= rows * eps * variance + (rows * mean * eps) ** 2
    return torch.where(constant, torch.ones_like(variance), variance.sqrt())
