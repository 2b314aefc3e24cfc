"""A row of the results as shown in a notebook."""

from __future__ import annotations

from typing import Any

from l2a_transfer.evaluation.probes.registry import SVM


def row_cells(row: Any) -> tuple[str, str, str, str, str, str, int, int]:
    """The cells of an `EvalRow` in the notebook table."""
    low, high = row.mean_class_accuracy_ci95
    return (
        row.data,
        row.label,
        ", ".join(part for part in (row.variant, "" if row.probe == SVM else f"probe {row.probe}") if part),
        row.protocol if row.shots is None else f"{row.protocol}, {row.shots} a class",
        f"{100 * row.mean_class_accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
        f"{100 * row.accuracy:.1f}",
        row.n_train,
        row.n_test,
    )
