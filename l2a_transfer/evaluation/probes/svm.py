"""The linear SVM, with C chosen by cross-validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.evaluation.probes.registry import SVM, Groups, ProbeFit, Tick, register_probe
from l2a_transfer.svm.config import SvmConfig
from l2a_transfer.svm.fitting import fit_svm
from l2a_transfer.svm.rows import LazyRows


@register_probe(SVM, takes_c=True, reads_blocks=True, fits=lambda config: config.fits)
def fit(
    features: NDArray[Any] | LazyRows, labels: NDArray[np.int32], config: SvmConfig, tick: Tick, groups: Groups
) -> ProbeFit:
    """Linear SVMs, one-vs-rest, with C chosen by cross-validation."""
    found = fit_svm(features, labels, config, groups=groups, tick=tick)
    return ProbeFit(
        found.scores,
        found.classes,
        f"C = {found.C:g}",
        found.C,
        found.grid,
        found.cv_accuracy,
        found.fits,
        found.unconverged,
        found.components,
        found.fold_components,
    )
