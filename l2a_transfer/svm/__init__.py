"""Linear SVMs in scikit-learn's conventions, many fitted at once: usable without the rest of the package."""

from l2a_transfer.svm.estimators import BatchedLinearSVC, LinearSVCPath

__all__ = ["BatchedLinearSVC", "LinearSVCPath"]
