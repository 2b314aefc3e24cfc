"""The registry of probes, and what each of them gives: a fitted classifier that scores rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.registry import Registry
from l2a_transfer.svm.config import SvmConfig
from l2a_transfer.svm.grid import GridResult
from l2a_transfer.svm.rows import LazyRows

SVM = "svm"
"""The default probe, and that of results that name none."""


@dataclass(frozen=True)
class ProbeFit:
    """A classifier, fitted on all training rows with the hyper-parameters that were chosen on them.

    `scores`: features (N, D) → scores (N, K) in the order of `classes`, the labels (K,) in rising order. `chosen`: the
    hyper-parameters in words; "" where there are none. `C` and `grid` are None for a probe without C; `grid` also
    where one C was given. `components` is what a PCA kept, `fold_components` the fewest in a fold.
    """

    scores: Callable[[NDArray[Any]], NDArray[np.float64]]
    classes: NDArray[np.int32]
    chosen: str = ""
    C: float | None = None
    grid: GridResult | None = None
    cv_accuracy: tuple[float, ...] = ()
    fits: int = 1
    unconverged: int = 0
    components: int | None = None
    fold_components: int | None = None


Tick = Callable[[float], Any]
Groups = NDArray[np.integer[Any]] | None
Fit = Callable[[NDArray[Any] | LazyRows, NDArray[np.int32], SvmConfig, Tick, Groups], ProbeFit]
"""Training rows (N, D), labels (N,), settings, what is called with n after n fits, and groups (N,) → the fitted probe.

Where there are groups (the source domains of leave-one-domain-out), hyper-parameters are chosen by holding out one
group after the other, each of which counts alike, and `folds` of the settings is their number.
Where `folds` is 1, there are too few rows to choose anything on."""


@dataclass(frozen=True)
class Probe:
    """A probe and what it says of itself; see `register_probe`."""

    fit: Fit
    solver: str
    takes_c: bool
    always_chooses: bool
    reads_blocks: bool
    fits: Callable[[SvmConfig], int]


PROBES: Registry[Probe] = Registry(
    "probe",
    "l2a_transfer.evaluation.probes.svm",
    "l2a_transfer.evaluation.probes.logistic",
    "l2a_transfer.evaluation.probes.knn",
    "l2a_transfer.evaluation.probes.ncm",
)


def chooses(probes: Sequence[str], c_grid: Sequence[float]) -> bool:
    """Whether any of the probes chooses a hyper-parameter, for which it needs folds."""
    return any(PROBES[name].always_chooses or (PROBES[name].takes_c and len(c_grid) > 1) for name in probes)


def what_is_chosen(probes: Sequence[str]) -> str:
    """For readers: "C" of the SVM alone, else "hyper-parameters"."""
    return "C" if tuple(probes) == (SVM,) else "hyper-parameters"


def register_probe(
    name: str,
    *,
    solver: str = "",
    takes_c: bool = False,
    always_chooses: bool = False,
    reads_blocks: bool = False,
    fits: Callable[[SvmConfig], int] = lambda config: 1,
) -> Callable[[Fit], Fit]:
    """Register a function as a probe.

    Parameters
    ----------
    name : str
        What users ask for it by.
    solver : str
        What fits it, for the table; empty means the solver of the settings.
    takes_c : bool
        Whether it has a parameter C, chosen among `c_grid`.
    always_chooses : bool
        Whether it cross-validates even where `c_grid` has one value, so that each class needs a row for every fold.
    reads_blocks : bool
        Whether it takes training rows that do not fit into memory, as `LazyRows`.
    fits : callable
        Settings → how many fits it makes, for the progress bar.

    Returns
    -------
    callable
        A decorator that gives the function back.

    Raises
    ------
    PluginError
        If the name is taken, or has other characters than lower-case letters, digits and hyphens.
    """

    def add(fit: Fit) -> Fit:
        PROBES.add(name, Probe(fit, solver, takes_c, always_chooses, reads_blocks, fits), home=fit.__module__)
        return fit

    return add
