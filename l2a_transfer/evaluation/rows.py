"""The rows that a solver works on: in memory, or read block by block; shifted and scaled once, against cancellation.

N rows, D columns, F folds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

BLOCK_BYTES = 8 << 20
"""Of one float64 block of streamed rows."""


class LazyRows:
    """Some rows and columns of a matrix on disk, read when needed: an h5py data set, or `FeatureFile.features`.

    `rows`: row numbers in rising order (None: all); `columns`: a slice. Shape (N, D). Raises: ValueError.
    """

    def __init__(
        self, matrix: Any, *, rows: NDArray[np.integer[Any]] | None = None, columns: slice | None = None
    ) -> None:
        self._matrix, self._rows = matrix, rows
        self._columns = columns or slice(0, matrix.shape[1])
        if rows is not None and len(rows) > 1 and not (np.diff(rows) > 0).all():
            raise ValueError("rows must be different row numbers in rising order")
        N = matrix.shape[0] if rows is None else len(rows)
        self.shape = (int(N), len(range(*self._columns.indices(matrix.shape[1]))))

    def __getitem__(self, place: slice) -> NDArray[Any]:
        block = self._matrix[place] if self._rows is None else self._matrix[self._rows[place]]
        return np.asarray(block)[:, self._columns]


@dataclass(frozen=True)
class Fold:
    """Who is fitted on and who is held out, and the coordinates of one fit: z = (x − mean) / scale.

    `train` (N,) and `held_out` (N,) bool. `standardize` False leaves z = x.
    """

    train: NDArray[np.bool_]
    held_out: NDArray[np.bool_]
    standardize: bool


class Rows:
    """Rows (N, D) as float64 blocks in shared coordinates x' = (x − shift) / spread, on one device.

    `shift` and `spread` are the mean and the standard deviation over all N rows: no model's statistics, only numbers
    near 1 to compute with; every fold is described relative to them. Constant columns have spread 1.
    Raises: ValueError where a value is not finite.
    """

    def __init__(self, X: LazyRows | NDArray[Any], *, device: torch.device, resident: bool) -> None:
        import torch

        self._source, self.device, self.resident = X, device, resident
        self.N, self.D = int(X.shape[0]), int(X.shape[1])
        self.shift, self.spread = torch.zeros(self.D), torch.ones(self.D)
        self._x64: torch.Tensor | None = None
        self._x32: torch.Tensor | None = None
        self.shift, self.spread = self._shift_and_spread()
        if resident:
            self._x64 = torch.cat([block for _, block in self._read()])
            self._x32 = self._x64.float()

    @property
    def x64(self) -> torch.Tensor:
        """All rows (N, D) float64 in shared coordinates; only where they are resident."""
        assert self._x64 is not None
        return self._x64

    def blocks(self, dtype: torch.dtype, rows: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """(place, block) over all rows in order; at most `rows` a block."""
        import torch

        whole = self._x32 if dtype == torch.float32 else self._x64
        if whole is None:
            for place, block in self._read():
                yield place, block.to(dtype)
            return
        for start in range(0, self.N, rows):
            place = slice(start, min(start + rows, self.N))
            yield place, whole[place]

    def _read(self) -> Iterator[tuple[slice, torch.Tensor]]:
        import torch

        step = max(1, BLOCK_BYTES // (8 * self.D))
        shift, spread = self.shift.to(self.device).double(), self.spread.to(self.device).double()
        for start in range(0, self.N, step):
            place = slice(start, min(start + step, self.N))
            values = np.array(self._source[place], dtype=np.float64)  # a copy, which may be written to
            if not np.isfinite(values).all():
                raise ValueError(f"rows {place.start} to {place.stop - 1} hold NaN or infinity")
            yield place, (torch.from_numpy(values).to(self.device) - shift) / spread

    def _shift_and_spread(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation by Chan's pairwise update, in one pass."""
        import torch

        mean = torch.zeros(self.D, dtype=torch.float64, device=self.device)
        squares = torch.zeros_like(mean)
        seen = 0
        for _, block in self._read():
            n = len(block)
            own = block.mean(dim=0)
            delta = own - mean
            mean += delta * (n / (seen + n))
            squares += ((block - own) ** 2).sum(dim=0) + delta**2 * (seen * n / (seen + n))
            seen += n
        return mean, _usable(squares / seen, mean, seen)

    def fold_statistics(self, folds: list[Fold]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and reciprocal scale (F, D) of each fold's coordinates z = (x' − mean) · inverse, as StandardScaler's.

        A column that is constant within a fold is left unscaled there, as StandardScaler does.
        """
        import torch

        member = torch.from_numpy(np.stack([fold.train for fold in folds])).to(self.device).double()  # (F, N)
        count = member.sum(dim=1, keepdim=True)  # (F, 1)
        total = torch.zeros(len(folds), self.D, dtype=torch.float64, device=self.device)
        squares = torch.zeros_like(total)
        for place, block in self.blocks(torch.float64, self.N):
            total += member[:, place] @ block
            squares += member[:, place] @ block**2
        mean = total / count
        variance = squares / count - mean**2
        # What is left of a constant column is rounding, relative to the squares that were subtracted.
        constant = variance <= 1e-12 * squares / count + 1e-300
        inverse = torch.where(constant, self.spread, 1 / variance.clamp(min=1e-300).sqrt())
        raw_mean, raw_inverse = -self.shift / self.spread, self.spread
        for k, fold in enumerate(folds):
            if not fold.standardize:
                mean[k], inverse[k] = raw_mean, raw_inverse
        return mean, inverse

    def second_moment(self) -> torch.Tensor:
        """Σ x'x'ᵀ / N, (D, D) float64."""
        import torch

        total = torch.zeros(self.D, self.D, dtype=torch.float64, device=self.device)
        for _, block in self.blocks(torch.float64, self.N):
            total += block.mT @ block
        return total / self.N


def _usable(variance: torch.Tensor, mean: torch.Tensor, rows: int) -> torch.Tensor:
    """Standard deviations, 1 where the column is constant up to rounding (scikit-learn's own bound)."""
    import torch

    eps = float(np.finfo(np.float64).eps)
    constant = variance <= rows * eps * variance + (rows * mean * eps) ** 2
    return torch.where(constant, torch.ones_like(variance), variance.sqrt())
