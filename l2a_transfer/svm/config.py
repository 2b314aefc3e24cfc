"""How to fit an SVM and choose its C: a frozen config, validated on creation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PIXEL_COMPONENTS = 256
DECADES = 2
SOLVERS = ("batched", "liblinear")
NORMALIZATIONS = ("standardize", "l2", "none")
STOPPING = {"batched": (1e-8, 100), "liblinear": (1e-4, 1000)}
"""Default tolerance (of the duality gap; LIBLINEAR's own) and iteration limit of each solver."""


@dataclass(frozen=True)
class SvmConfig:
    """Settings for fitting one SVM.

    Parameters
    ----------
    c_grid : tuple of float
        Values of C to try, in ascending order; with one value, no cross-validation is run.
    folds : int
        Folds of the cross-validation that chooses C.
    components : int or None
        Principal components to keep after normalization; None keeps all columns.
    seed : int
        Random seed of folds and PCA.
    jobs : int
        Threads for liblinear. The number does not affect the results.
    tol, max_iter : optional
        Tolerance and iteration limit of the solver; its own by default.
    solver : str
        A name of `SOLVERS`.
    normalization : str
        ``"standardize"`` (columns, fitted on training rows), ``"l2"`` (rows to length 1) or ``"none"``.
    decades : int
        How many times the grid may be extended by a factor of ten if the best C is at its edge.
    device : str
        Device of the batched solver.
    max_memory : int or None
        Most bytes that the batched solver may allocate besides the rows.
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
        """SVMs fitted by one `fit_svm` if the grid is not extended: every C on every fold, then one on all rows."""
        return 1 if len(self.c_grid) == 1 else len(self.c_grid) * self.folds + 1

    @property
    def stopping(self) -> dict[str, Any]:
        """`tol` and `max_iter` of the solver."""
        tol, max_iter = STOPPING[self.solver]
        return {"tol": self.tol or tol, "max_iter": self.max_iter or max_iter}
