"""The result of an extraction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from l2a_transfer.notebook import html_table
from l2a_transfer.text import repr_line
from l2a_transfer.wording import counted


@dataclass(frozen=True)
class ExtractResult:
    """What an extraction wrote.

    Parameters
    ----------
    path : Path
        The feature file.
    rows, dim : int
        Its size, N × D.
    computed : int
        Number of images that this call computed.
    seconds : float
        Duration of the call in seconds.
    skipped : tuple
        (id, reason) of each image that could not be used and has no row.
    """

    path: Path
    rows: int
    dim: int
    computed: int
    seconds: float
    skipped: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        size = f"{counted(self.rows, 'row')} × {counted(self.dim, 'column')}"
        skipped = [f"{len(self.skipped):,} skipped"] if self.skipped else []
        return repr_line(self, str(self.path), size, f"{self.computed:,} computed in {self.seconds:.1f} s", *skipped)

    def _repr_html_(self) -> str:
        headings = ("file", "rows", "columns", "computed now", "seconds", "skipped")
        cells = (str(self.path), self.rows, self.dim, self.computed, round(self.seconds, 1), len(self.skipped))
        return html_table(headings, [cells])
