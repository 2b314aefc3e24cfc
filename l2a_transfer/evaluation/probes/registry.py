"""The registry of probes, and their return value: a fitted classifier that scores rows."""

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
"""The default probe, also for results that do not name one."""


@dataclass(frozen=True)
class ProbeFit:
    """A classifier fitted on all training rows, with hyper-parameters chosen on the same rows.

    `scores`: features (N, D) → scores (N, K) in the order of `classes`, the sorted labels (K,). `chosen`: the
    hyper-parameters in words; "" if there are none. `C` and `grid` are None for a probe without C; `grid` also if a
    single C was given. `components`: how many a PCA kept; `fold_components`: the fewest in a fold.
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
"""Training rows (N, D), labels (N,), settings, a callback called with n after n fits, and groups (N,) → the fitted
probe.

With groups (the source domains of leave-one-domain-out), hyper-parameters are chosen by holding out one group after the
other, each with the same weight, and `folds` of the settings is the number of groups. If `folds` is 1, there are too
few rows for a choice.
"""


@dataclass(frozen=True)
class Probe:
    """A probe and its properties; see `register_probe`."""

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
    """Whether any of the probes chooses a hyper-parameter, which needs folds."""
    return any(PROBES[name].always_chooses or (PROBES[name].takes_c and len(c_grid) > 1) for name in probes)


def what_is_chosen(probes: Sequence[str]) -> str:
    """For readers: "C" for the SVM alone, otherwise "hyper-parameters"."""
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
        The name by which users select it.
    solver : str
        Name of the solver, shown in the table; empty means the solver of the settings.
    takes_c : bool
        Whether it has a parameter C, chosen among `c_grid`.
    always_chooses : bool
        Whether it cross-validates even if `c_grid` has one value, so that each class needs a row per fold.
    reads_blocks : bool
        Whether it accepts training rows that do not fit into memory, as `LazyRows`.
    fits : callable
        Settings → number of fits, for the progress bar.

    Returns
    -------
    callable
        A decorator that returns the function unchanged.

    Raises
    ------
    PluginError
        If the name is taken, or contains characters other than lower-case letters, digits and hyphens.
    """

    def add(fit: Fit) -> Fit:
        PROBES.add(name, Probe(fit, solver, takes_c, always_chooses, reads_blocks, fits), home=fit.__module__)
        return fit

    return add
