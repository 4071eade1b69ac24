"""Laplace's approximation of the last layer: a Gaussian around the weights that were found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_array, diags_array, hstack, issparse
from scipy.special import expit, ndtr, owens_t
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, check_random_state, get_tags
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import Tensor, nn

from foretell.errors import ParameterError
from foretell.estimators.uncertainty.fitting import fit_inner, networks_of, positive_probability
from foretell.estimators.uncertainty.network import NetworkClassifier
from foretell.estimators.uncertainty.provider import Uncertain, UncertainClassifier

MEASURES = ("std", "logit_std")
_ROWS_AT_ONCE = 4096
_LOG_PRECISIONS = (np.log(1e-6), np.log(1e6))


@dataclass(frozen=True, eq=False)
class LogisticPosterior:
    """Gaussian posterior of the weights of a logistic layer with an unpenalised bias.

    The precision is the generalised Gauss-Newton matrix, which for one logistic layer is the
    Hessian: ``sum_i w_i p_i (1 - p_i) phi_i phi_i' + prior_precision I`` (MacKay 1992, eq. 9;
    Kristiadi, Hein and Hennig 2020), with ``phi_i`` the layer's inputs and a 1 for the bias. The
    prior leaves the bias out.

    Attributes:
        factor: ``(P, P)`` lower Cholesky factor of the posterior precision.
        prior_precision: of each weight.
    """

    factor: NDArray[np.float64]
    prior_precision: float

    @classmethod
    def fit(
        cls,
        features: Any,
        logit: NDArray,
        weights: NDArray,
        *,
        sample_weight: NDArray | None = None,
        prior_precision: float | None = None,
    ) -> Self:
        """Curvature at the weights that were found.

        Args:
            features: ``(n, P - 1)`` inputs of the layer, dense or sparse.
            logit: ``(n,)`` its outputs.
            weights: ``(P - 1,)`` its weights, for the evidence.
            sample_weight: ``(n,)``; ones when None.
            prior_precision: of the Gaussian prior; when None, that of the greatest evidence
                (MacKay 1992): the likelihood's part does not depend on it.

        Raises:
            ParameterError: a precision below 0, or a curvature that is not positive definite.
        """
        probability = expit(logit)
        mass = probability * (1.0 - probability)
        if sample_weight is not None:
            mass = mass * sample_weight
        curvature = _curvature(_with_bias(features), mass)
        if prior_precision is None:
            prior_precision = _best_precision(curvature, np.asarray(weights, np.float64))
        elif not prior_precision >= 0:
            raise ParameterError(f"prior_precision must not be negative, not {prior_precision!r}")
        precision = curvature + np.diag(_prior(len(curvature), prior_precision))
        try:
            return cls(cho_factor(precision, lower=True)[0], float(prior_precision))
        except LinAlgError as error:
            raise ParameterError(
                "the curvature of the last layer is singular: give a prior_precision above 0"
            ) from error

    @property
    def covariance(self) -> NDArray[np.float64]:
        """``(P, P)`` posterior covariance of weights and bias."""
        return np.asarray(cho_solve((self.factor, True), np.eye(len(self.factor))))

    def logit_variance(self, features: Any) -> NDArray[np.float64]:
        """Variance ``(n,)`` of the logit at inputs ``(n, P - 1)``: ``phi' covariance phi``."""
        covariance, parts = self.covariance, []
        for begin in range(0, features.shape[0], _ROWS_AT_ONCE):
            phi = _with_bias(features[begin : begin + _ROWS_AT_ONCE])
            spread = phi @ covariance
            if issparse(phi):
                parts.append(np.asarray(phi.multiply(spread).sum(axis=1)).reshape(-1))
            else:
                parts.append(np.einsum("np,np->n", phi, spread))
        return np.maximum(np.concatenate([*parts, np.zeros(0)]), 0.0)


def probit_moments(
    logit: NDArray[np.float64], variance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean ``(n,)`` and standard deviation ``(n,)`` of a logistic function of Gaussian logits.

    The mean is MacKay's ``sigmoid(m / sqrt(1 + pi v / 8))`` (1992, eq. 13). The standard deviation
    takes the logistic function for the probit ``Phi(sqrt(pi / 8) f)`` and is exact for that:
    ``E[Phi^2]`` is the probability that two correlated normals both lie below
    ``a = m / sqrt(8 / pi + v)``, ``Phi(a) - 2 T(a, sqrt((1 - r) / (1 + r)))`` with their
    correlation ``r = v / (8 / pi + v)`` and Owen's T.

    Args:
        logit: means m.
        variance: variances v.
    """
    inverse = 8.0 / np.pi
    mean = expit(logit / np.sqrt(1.0 + variance / inverse))
    a = logit / np.sqrt(inverse + variance)
    r = variance / (inverse + variance)
    # Phi (1 - Phi) - 2 T, on the side where Phi is small, so that nothing large cancels.
    below = ndtr(-np.abs(a))
    second = below * (1.0 - below) - 2.0 * owens_t(np.abs(a), np.sqrt((1.0 - r) / (1.0 + r)))
    return mean, np.sqrt(np.maximum(second, 0.0))


class LaplaceUncertainty(UncertainClassifier):
    """A Gaussian posterior over the last layer of a fitted classifier.

    Around logistic regression this is Bayesian logistic regression in Laplace's approximation;
    around a network, the same on what the last layer is given. Far away from the data the logit's
    variance grows with the squared length of the layer's inputs, and the score goes to a half.

    Args:
        estimator: a ``LogisticRegression`` with an L2 penalty, a pipeline that ends in one, or a
            classifier around a torch network whose last layer is one linear unit, such as
            :class:`NetworkClassifier` (the default) or a binary ``DelayedFeedbackClassifier``.
        prior_precision: of the weights; ``auto`` is ``1 / C`` for logistic regression, what the
            fit was penalised with, and the greatest evidence for networks; ``evidence`` the
            latter for all; or a number.
        uncertainty: ``std`` of the probability, or ``logit_std``, which does not shrink where the
            score is close to 0 or 1.
        random_state: seed of the default network.

    Attributes:
        classes_: ``(2,)`` the classes, ascending.
        estimator_: the fitted classifier.
        posterior_: the :class:`LogisticPosterior`.
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        prior_precision: float | str = "auto",
        uncertainty: str = "std",
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.prior_precision = prior_precision
        self.uncertainty = uncertainty
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fits the classifier, then the posterior on the same rows.

        Raises:
            ParameterError: a hyper-parameter out of its range, or a classifier whose last layer is
                not one logistic unit.
        """
        if self.estimator is None:
            seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
            inner: Any = NetworkClassifier(random_state=seed)
        else:
            inner = clone(self.estimator)
        return self._adopt(fit_inner(self, inner, X, y, sample_weight), X, sample_weight)

    def _adopt(self, fitted: Any, X: Any, sample_weight: Any = None) -> Self:
        """Takes a fitted classifier and learns the posterior from the rows of its fit."""
        if self.uncertainty not in MEASURES:
            raise ParameterError(
                f"uncertainty must be one of {', '.join(MEASURES)}, not {self.uncertainty!r}"
            )
        self.estimator_ = fitted
        self.classes_ = np.asarray(fitted.classes_)
        layer = last_layer(fitted, X)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, layer.features, dtype=np.float64)
        self.posterior_ = LogisticPosterior.fit(
            layer.features,
            layer.logit,
            layer.weights,
            sample_weight=weight,
            prior_precision=self._precision(fitted),
        )
        return self

    def _precision(self, fitted: Any) -> float | None:
        if self.prior_precision == "evidence":
            return None
        if self.prior_precision == "auto":
            end = _end(fitted)
            if not isinstance(end, LogisticRegression):
                return None
            if getattr(end, "l1_ratio", None) or end.get_params().get("penalty") in (
                "l1",
                "elasticnet",
            ):
                raise ParameterError(
                    "Laplace's Gaussian prior stands for an L2 penalty: fit LogisticRegression "
                    "with one, or give prior_precision"
                )
            unpenalised = end.get_params().get("penalty") is None and "penalty" in end.get_params()
            return 0.0 if unpenalised else 1.0 / float(end.C)
        if isinstance(self.prior_precision, str):
            raise ParameterError(
                "prior_precision must be 'auto', 'evidence' or a number, not "
                f"{self.prior_precision!r}"
            )
        return float(self.prior_precision)

    def logit_moments(self, X: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and variance ``(n,)`` of the logit of each row."""
        check_is_fitted(self)
        layer = last_layer(self.estimator_, X)
        return layer.logit, self.posterior_.logit_variance(layer.features)

    def __call__(self, X: Any) -> Uncertain:
        """Score and uncertainty of each row."""
        logit, variance = self.logit_moments(X)
        score, spread = probit_moments(logit, variance)
        return Uncertain(score, np.sqrt(variance) if self.uncertainty == "logit_std" else spread)

    @property
    def n_features_in_(self) -> int:
        """Columns of the table of the fit."""
        return int(self.estimator_.n_features_in_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = NetworkClassifier() if self.estimator is None else self.estimator
        tags.input_tags = get_tags(inner).input_tags
        tags.non_deterministic = get_tags(inner).non_deterministic and self.random_state is None
        return tags


@dataclass(frozen=True, eq=False)
class LastLayer:
    """What the last layer of a classifier saw and said of some rows.

    Attributes:
        features: ``(n, P - 1)`` its inputs, dense or sparse.
        logit: ``(n,)`` its outputs.
        weights: ``(P - 1,)`` its weights.
    """

    features: Any
    logit: NDArray[np.float64]
    weights: NDArray[np.float64]


def last_layer(estimator: Any, X: Any) -> LastLayer:
    """Runs a classifier on rows and looks at its last layer.

    Raises:
        ParameterError: there is none of one logistic unit, or its classes are weighted.
    """
    end = _end(estimator)
    if isinstance(end, LogisticRegression):
        if end.class_weight is not None:
            raise ParameterError(
                "Laplace counts every row once, and class_weight does not: fit LogisticRegression "
                "without it"
            )
        logit = np.asarray(estimator.decision_function(X), np.float64)
        inner = estimator[:-1].transform(X) if isinstance(estimator, Pipeline) else X
        features = csr_array(inner) if issparse(inner) else np.asarray(inner, np.float64)
        return LastLayer(features, logit, end.coef_[0].astype(np.float64))
    networks = networks_of(estimator)
    with _recording(networks) as calls:
        probability = positive_probability(estimator, X)
    if calls:
        layer = calls[-1][0]
        seen = [(x, y) for module, x, y in calls if module is layer]
        if layer.out_features == 1:
            features = np.concatenate([x for x, _ in seen]).astype(np.float64)
            logit = np.concatenate([y for _, y in seen]).astype(np.float64)[:, 0]
            if len(logit) == len(probability) and np.allclose(
                expit(logit), probability, rtol=1e-3, atol=1e-5
            ):
                weights = layer.weight.detach().cpu().numpy()[0].astype(np.float64)
                return LastLayer(features, logit, weights)
    raise ParameterError(
        f"{type(estimator).__name__} does not end in one logistic unit: Laplace needs a "
        "LogisticRegression, or a torch network whose last layer is linear with one output and "
        "whose probability is its sigmoid"
    )


@contextmanager
def _recording(
    networks: list[nn.Module],
) -> Iterator[list[tuple[Any, NDArray[np.float32], NDArray[np.float32]]]]:
    """Keeps inputs and outputs ``(B, ...)`` of the linear layers with one output, in order."""
    calls: list[tuple[Any, NDArray[np.float32], NDArray[np.float32]]] = []
    handles = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.ndim == 2:
            seen, said = inputs[0].detach().cpu(), output.detach().cpu()
            calls.append((module, seen.numpy().copy(), said.numpy().copy()))

    try:
        for network in networks:
            for layer in network.modules():
                if isinstance(layer, nn.Linear) and layer.out_features == 1:
                    handles.append(layer.register_forward_hook(hook))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _end(estimator: Any) -> Any:
    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator


def _with_bias(features: Any) -> Any:
    ones = np.ones((features.shape[0], 1))
    if issparse(features):
        return csr_array(hstack([csr_array(features), csr_array(ones)]))
    return np.column_stack([np.asarray(features, np.float64), ones])


def _curvature(phi: Any, mass: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(P, P)`` sum over rows of ``mass phi phi'``."""
    if issparse(phi):
        return np.asarray((phi.T @ (diags_array(mass) @ phi)).toarray(), np.float64)
    return np.asarray(phi.T @ (phi * mass[:, None]))


def _prior(size: int, precision: float) -> NDArray[np.float64]:
    diagonal = np.full(size, precision)
    diagonal[-1] = 0.0
    return diagonal


def _best_precision(curvature: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Prior precision of the greatest evidence, with the weights held where they are."""
    length = float(weights @ weights)

    def cost(log_precision: float) -> float:
        precision = float(np.exp(log_precision))
        _, log_determinant = np.linalg.slogdet(
            curvature + np.diag(_prior(len(curvature), precision))
        )
        return precision * length - len(weights) * log_precision + float(log_determinant)

    found = minimize_scalar(cost, bounds=_LOG_PRECISIONS, method="bounded")
    return float(np.exp(found.x))
