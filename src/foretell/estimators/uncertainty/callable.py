"""Uncertainty from any function: a domain's own figure, or another library's model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import Tags, get_tags
from sklearn.utils.validation import _num_samples, check_is_fitted

from foretell.errors import DataError, ParameterError
from foretell.estimators.uncertainty.fitting import fit_inner, positive_probability
from foretell.estimators.uncertainty.provider import Uncertain, UncertainClassifier


class CallableUncertainty(UncertainClassifier):
    """A classifier's score with the uncertainty that a function says.

    Args:
        estimator: gives the score, by ``predict_proba``; ``LogisticRegression()`` when None.
        function: called with X; returns uncertainties ``(n,)``, or a pair of scores ``(n,)`` and
            uncertainties ``(n,)``, which then replace the estimator's scores.

    Attributes:
        classes_: ``(2,)`` the classes, ascending.
        estimator_: the fitted classifier.
    """

    def __init__(self, estimator: Any = None, function: Callable[[Any], Any] | None = None) -> None:
        self.estimator = estimator
        self.function = function

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fits the classifier; the function stays as it is."""
        inner: Any = LogisticRegression() if self.estimator is None else clone(self.estimator)
        return self._adopt(fit_inner(self, inner, X, y, sample_weight))

    def _adopt(self, fitted: Any) -> Self:
        """Takes a classifier that is fitted."""
        if not callable(self.function):
            raise ParameterError(
                f"function must be callable with X, not {self.function!r}: it returns the "
                "uncertainty (n,) of each row"
            )
        self.estimator_ = fitted
        self.classes_ = np.asarray(fitted.classes_)
        return self

    def __call__(self, X: Any) -> Uncertain:
        """Score and uncertainty of each row.

        Raises:
            DataError: the function returned something of another length.
        """
        check_is_fitted(self)
        assert self.function is not None
        score = positive_probability(self.estimator_, X)
        said = self.function(X)
        if isinstance(said, tuple):
            score, said = said
        n = _num_samples(X)
        arrays = {"score": score, "uncertainty": said}
        checked = {}
        for name, values in arrays.items():
            values = np.asarray(values, np.float64)
            if values.shape != (n,):
                raise DataError(
                    f"the function returned {name} of shape {values.shape} for {n} rows",
                    hint=f"Return one number a row, ({n},)",
                )
            checked[name] = values
        return Uncertain(**checked)

    @property
    def n_features_in_(self) -> int:
        """Columns of the table of the fit."""
        return int(self.estimator_.n_features_in_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = LogisticRegression() if self.estimator is None else self.estimator
        tags.input_tags = get_tags(inner).input_tags
        return tags
