"""What a decision needs of a classifier: a score, and how uncertain that score is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _num_samples,
    check_is_fitted,
    column_or_1d,
    validate_data,
)


class Uncertain(NamedTuple):
    """Scores with their uncertainties.

    Attributes:
        score: ``(n,)`` predicted probability of the positive class, the second of ``classes_``.
        uncertainty: ``(n,)`` higher means less certain; each provider says in what unit. Only
            its order matters to decisions.
    """

    score: NDArray[np.float64]
    uncertainty: NDArray[np.float64]


class UncertaintyProvider(ABC):
    """Anything that is called with examples and returns :class:`Uncertain`."""

    @abstractmethod
    def __call__(self, X: Any) -> Uncertain:
        """Score and uncertainty of each example of ``X``."""


class UncertainClassifier(ClassifierMixin, BaseEstimator, UncertaintyProvider):
    """Base of the providers that are fitted: binary classifiers in scikit-learn's idiom.

    ``predict_proba`` is the score, so that a provider stands wherever a classifier does.
    """

    classes_: NDArray[Any]

    @abstractmethod
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learns from examples ``X`` ``(n, d)`` with classes ``y`` ``(n,)``, exactly two."""

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities ``(n, 2)`` of the two classes, in the order of ``classes_``."""
        check_is_fitted(self)
        score = self(X).score
        return np.column_stack([1.0 - score, score])

    def predict(self, X: Any) -> NDArray[Any]:
        """The likelier class ``(n,)`` of each example."""
        check_is_fitted(self)
        return self.classes_[(self.predict_proba(X)[:, 1] > 0.5).astype(np.intp)]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def binary_target(estimator: Any, y: Any) -> NDArray[np.int8]:
    """Reads two classes: sets ``classes_`` and returns ``y`` as ``(n,)`` of 0 and 1.

    Raises:
        ValueError: not a classification target, or not two classes, in scikit-learn's words.
    """
    y = column_or_1d(y, warn=True)
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    name = type(estimator).__name__
    if len(classes) == 0:
        raise ValueError(f"Found array with 0 sample(s) while {name} needs two classes")
    if len(classes) > 2:
        # The wording that scikit-learn's own checks look for.
        kind = type_of_target(y, input_name="y", raise_unknown=True)
        raise ValueError(
            f"Only binary classification is supported. The type of the target is {kind}: {name} "
            f"found {len(classes)} classes"
        )
    if len(classes) < 2:
        raise ValueError(
            f"{name} needs two classes, but y holds one class only: {classes.tolist()[0]!r}"
        )
    estimator.classes_ = classes
    return codes.astype(np.int8)


def beta_std(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation ``(n,)`` of Beta distributions with the given concentrations."""
    total = positive + negative
    return np.sqrt(positive / total * (negative / total) / (total + 1.0))


def check_fit(estimator: Any, X: Any, y: Any) -> Any:
    """Checks a table and its target; data frames stay as they are, for models that want them."""
    if _is_frame(X) and y is not None:
        if _num_samples(X) != _num_samples(y):
            raise ValueError(f"X has {_num_samples(X)} rows, but y has {_num_samples(y)}")
        return validate_data(estimator, X, y, skip_check_array=True)
    return validate_data(estimator, X, y, **_LENIENT)


def check_predict(estimator: Any, X: Any) -> Any:
    """Checks a table against that of the fit."""
    if _is_frame(X):
        return validate_data(estimator, X, reset=False, skip_check_array=True)
    return validate_data(estimator, X, reset=False, **_LENIENT)


# What values are right is for the model inside to say.
_LENIENT: dict[str, Any] = {
    "dtype": None,
    "ensure_all_finite": False,
    "accept_sparse": ["csr", "csc"],
}


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") and hasattr(X, "shape")
