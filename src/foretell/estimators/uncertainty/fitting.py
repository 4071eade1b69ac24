"""What the providers around another classifier share: fitting it, and finding its networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter
from torch import nn

from foretell.errors import ParameterError
from foretell.estimators.uncertainty.provider import binary_target


def fit_inner(owner: Any, inner: Any, X: Any, y: Any, sample_weight: Any) -> Any:
    """Fits ``inner`` on two classes and hands its facts on to its owner."""
    binary_target(owner, y)
    if sample_weight is None:
        inner.fit(X, y)
    elif isinstance(inner, Pipeline):
        inner.fit(X, y, **{f"{inner.steps[-1][0]}__sample_weight": sample_weight})
    elif has_fit_parameter(inner, "sample_weight"):
        inner.fit(X, y, sample_weight=sample_weight)
    else:
        raise ParameterError(f"{type(inner).__name__} takes no sample_weight")
    if hasattr(inner, "feature_names_in_"):
        owner.feature_names_in_ = inner.feature_names_in_
    elif hasattr(owner, "feature_names_in_"):
        del owner.feature_names_in_
    return inner


def positive_probability(estimator: Any, X: Any) -> NDArray[np.float64]:
    """Probability ``(n,)`` of the second of a classifier's two classes."""
    probabilities = np.asarray(estimator.predict_proba(X), np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] != 2:
        raise ParameterError(
            f"{type(estimator).__name__}.predict_proba returned shape {probabilities.shape}; "
            "decisions with uncertainty need two classes, (n, 2)"
        )
    return probabilities[:, 1]


def networks_of(estimator: Any) -> list[nn.Module]:
    """The torch networks that an estimator, or the end of a pipeline, holds in its attributes."""
    if isinstance(estimator, Pipeline):
        return networks_of(estimator.steps[-1][1])
    if isinstance(estimator, nn.Module):
        return [estimator]
    found: list[nn.Module] = []
    for value in vars(estimator).values():
        for item in _items(value):
            if isinstance(item, nn.Module) and not any(item is other for other in found):
                found.append(item)
    return found


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, Mapping):
        yield from value.values()
    else:
        yield value
