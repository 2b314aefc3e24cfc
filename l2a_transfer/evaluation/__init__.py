"""How good it is: linear SVMs, protocols, statistics, reports."""

from l2a_transfer.evaluation.linear_svm import BatchedLinearSVC, LinearSVCPath

__all__ = ["BatchedLinearSVC", "LinearSVCPath"]
