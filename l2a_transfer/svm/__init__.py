"""Linear SVMs with scikit-learn's API, many fitted at once: usable without the rest of the package."""

from l2a_transfer.svm.estimators import BatchedLinearSVC, LinearSVCPath

__all__ = ["BatchedLinearSVC", "LinearSVCPath"]
