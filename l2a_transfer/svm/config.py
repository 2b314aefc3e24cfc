"""How an SVM is fitted and its C chosen: a frozen config, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PIXEL_COMPONENTS = 256
DECADES = 2
SOLVERS = ("batched", "liblinear")
NORMALIZATIONS = ("standardize", "l2", "none")
STOPPING = {"batched": (1e-8, 100), "liblinear": (1e-4, 1000)}
"""Each solver's own tolerance (of the duality gap; LIBLINEAR's) and iteration limit."""


@dataclass(frozen=True)
class SvmConfig:
    """How one SVM is made.

    Parameters
    ----------
    c_grid : tuple of float
        Candidates for C in rising order; one is used as it is.
    folds : int
        Folds of the cross-validation that chooses among several.
    components : int or None
        Principal components that are kept after the normalization; None keeps all columns.
    seed : int
        Random seed of folds and PCA.
    jobs : int
        liblinear's threads; they change no number.
    tol, max_iter : optional
        Of the solver; None means its own.
    solver : str
        A name of `SOLVERS`.
    normalization : str
        ``"standardize"`` (columns, fitted on training rows), ``"l2"`` (rows to length 1) or ``"none"``.
    decades : int
        How often the grid may grow tenfold where the best C is at its edge.
    device : str
        Of the batched solver.
    max_memory : int or None
        Bytes that the batched solver may take besides the rows.
    """

    c_grid: tuple[float, ...]
    folds: int
    components: int | None = None
    seed: int = 0
    jobs: int = 1
    tol: float | None = None
    max_iter: int | None = None
    solver: str = "batched"
    normalization: str = "standardize"
    decades: int = DECADES
    device: str = "auto"
    max_memory: int | None = None

    @property
    def fits(self) -> int:
        """SVMs that one `fit_svm` makes if the grid does not grow: every C on every fold, then one on all rows."""
        return 1 if len(self.c_grid) == 1 else len(self.c_grid) * self.folds + 1

    @property
    def stopping(self) -> dict[str, Any]:
        """`tol` and `max_iter` of the solver."""
        tol, max_iter = STOPPING[self.solver]
        return {"tol": self.tol or tol, "max_iter": self.max_iter or max_iter}
