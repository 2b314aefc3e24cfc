"""The base of the linear classifiers: input validation, and prediction from `coef_` and `intercept_`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from l2a_transfer.svm.rows import LazyRows


class LinearClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Base class of the estimators."""

    classes_: NDArray[Any]
    coef_: NDArray[np.float64]
    intercept_: NDArray[np.float64]

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Scores (N, K), or (N,) of the second class if there are two."""
        check_is_fitted(self, "coef_")
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32, np.float16])
        scores: NDArray[np.float64] = X @ self.coef_.T + self.intercept_
        return scores.ravel() if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> NDArray[Any]:
        """Class labels (N,)."""
        scores = self.decision_function(X)
        labels: NDArray[Any] = self.classes_[scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)]
        return labels

    def _validated(self, X: Any, y: Any) -> tuple[Any, NDArray[np.int64]]:
        """X as used in computations, and class indices (N,); sets `classes_` and `n_features_in_`."""
        if isinstance(X, LazyRows):
            self.n_features_in_ = X.shape[1]
            y = np.asarray(y)
            if y.shape != (X.shape[0],):
                raise ValueError(f"y must have one label for each of the {X.shape[0]} rows, got the shape {y.shape}")
        else:
            X, y = validate_data(self, X, y, dtype=[np.float64, np.float32, np.float16])
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs rows of at least two classes, got one class: {self.classes_[0]!r}"
            )
        return X, targets.astype(np.int64)
