"""From whatever was trained to an uncertainty provider: :func:`from_learner`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import BaggingClassifier
from sklearn.linear_model import LogisticRegression

from foretell.errors import ParameterError
from foretell.estimators.uncertainty.callable import CallableUncertainty
from foretell.estimators.uncertainty.ensemble import FittedEnsemble
from foretell.estimators.uncertainty.exceedance import ExceedanceUncertainty
from foretell.estimators.uncertainty.laplace import LaplaceUncertainty, _end
from foretell.estimators.uncertainty.mc_dropout import MCDropoutUncertainty, dropout_layers
from foretell.estimators.uncertainty.provider import Uncertain, UncertaintyProvider
from foretell.learners.contract import Batch, Learner
from foretell.learners.demand.forecaster import Forecaster

Method = Literal["auto", "ensemble", "mc_dropout", "laplace", "posterior_network"]


def from_learner(
    model: Any,
    method: Method | Callable[[Any], Any] = "auto",
    *,
    X: Any = None,
    sample_weight: Any = None,
    batch: Callable[[Any], Batch] | None = None,
    probability: Callable[[Any], Any] | None = None,
    **options: Any,
) -> UncertaintyProvider:
    """The provider for a model that is trained already; nothing of the model is changed.

    ===========================================  ==================================================
    model                                        what is uncertain
    ===========================================  ==================================================
    a provider                                   itself
    classifiers in a list; a random forest or    spread over the members
    another ensemble with ``estimators_``
    a classifier around a torch network          ``mc_dropout`` where it has dropout;
                                                 ``laplace`` with ``X``, the rows of its fit
    a logistic regression or pipeline            ``laplace`` with ``X``
    a :class:`Learner`                           the same, with ``batch``, and ``probability`` where
                                                 the output is not a binary response
    a demand forecaster, or several              exceedance of ``threshold=``: members or spread
    any classifier, with a function              what the function says
    ===========================================  ==================================================

    Args:
        model: what was trained.
        method: how to measure the uncertainty; a function of X gives it itself.
        X: rows that the model was fitted on, for ``laplace``.
        sample_weight: ``(n,)`` their weights.
        batch: turns X into a learner's batch.
        probability: turns a learner's output into probabilities ``(B,)`` of the event.
        options: of the provider: ``n_draws``, ``uncertainty``, ``threshold``, ``horizon``, ...

    Raises:
        ParameterError: no way from this model to an uncertainty, and what would be one.
    """
    if isinstance(model, UncertaintyProvider):
        return model
    several = isinstance(model, list | tuple)
    if isinstance(model, Forecaster) or (
        several and all(isinstance(member, Forecaster) for member in model)
    ):
        if "threshold" not in options:
            raise ParameterError(
                "a forecaster's event is demand above a threshold: give threshold="
            )
        return ExceedanceUncertainty(model, **options)
    if several:
        return FittedEnsemble(model, **options)
    if isinstance(model, Learner):
        if batch is None:
            raise ParameterError(
                f"{type(model).__name__} is a bare learner: give batch=, which turns X into its "
                "batch"
            )
        model = LearnerClassifier(model, batch, probability)
    if callable(method):
        return CallableUncertainty(model, method)._adopt(model)
    if method == "auto":
        method = _choose(model, X)
    if method == "ensemble":
        return _ensemble(model, options)
    if method == "mc_dropout":
        return MCDropoutUncertainty(model, **options)._adopt(model)
    if method == "laplace":
        if X is None:
            raise ParameterError("method='laplace' needs X=, the rows that the model was fitted on")
        return LaplaceUncertainty(model, **options)._adopt(model, X, sample_weight)
    raise ParameterError(
        f"method={method!r} does not fit a trained {type(model).__name__}: choose ensemble, "
        "mc_dropout, laplace or a function of X. A posterior network is its own provider"
    )


class LearnerClassifier(ClassifierMixin, BaseEstimator):
    """A bare learner as a fitted classifier of the classes 0 and 1.

    Args:
        learner: a trained learner.
        batch: turns X into its batch.
        probability: turns its output into probabilities ``(B,)``; for outputs with
            ``log_probabilities`` ``(B, 2)`` or ``logit`` ``(B,)`` it need not be given.
    """

    def __init__(
        self,
        learner: Learner,
        batch: Callable[[Any], Batch],
        probability: Callable[[Any], Any] | None = None,
    ) -> None:
        self.learner, self.batch, self.probability = learner, batch, probability
        self.classes_ = np.array([0, 1])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities ``(n, 2)``."""
        training = self.learner.training
        self.learner.eval()
        try:
            with torch.inference_mode():
                output = self.learner(self.batch(X))
        finally:
            self.learner.train(training)
        positive = np.asarray(self._positive(output), np.float64).reshape(-1)
        return np.column_stack([1.0 - positive, positive])

    def _positive(self, output: Any) -> Any:
        if self.probability is not None:
            return self.probability(output)
        known = getattr(output, "log_probabilities", None)
        if known is not None and known.shape[-1] == 2:
            return known[:, 1].double().exp()
        logit = getattr(output, "logit", None)
        if logit is not None:
            return torch.sigmoid(logit.double())
        raise ParameterError(
            f"{type(self.learner).__name__} predicts {type(output).__name__}: give probability=, "
            "which turns that into probabilities (B,) of the event"
        )


class _Encoded(UncertaintyProvider):
    """Members of a scikit-learn ensemble: they know the classes by number and no column names."""

    def __init__(self, members: Sequence[Any], uncertainty: str) -> None:
        self.inner = FittedEnsemble(members, positive=1, uncertainty=uncertainty)

    def __call__(self, X: Any) -> Uncertain:
        return self.inner(np.asarray(X))


def _ensemble(model: Any, options: dict[str, Any]) -> UncertaintyProvider:
    members = list(np.ravel(getattr(model, "estimators_", [])))
    if len(members) < 2 or not all(hasattr(member, "predict_proba") for member in members):
        raise ParameterError(
            f"{type(model).__name__} is no fitted ensemble of classifiers: give several fitted "
            "models in a list, or fit EnsembleUncertainty(model)"
        )
    if isinstance(model, BaggingClassifier):
        every = np.arange(model.n_features_in_)
        if not all(np.array_equal(columns, every) for columns in model.estimators_features_):
            raise ParameterError(
                "the members of this BaggingClassifier see different columns each: bag with "
                "EnsembleUncertainty, or with max_features=1.0 and bootstrap_features=False"
            )
    return _Encoded(members, options.pop("uncertainty", "std"))


def _choose(model: Any, X: Any) -> Method:
    if hasattr(model, "estimators_"):
        return "ensemble"
    if dropout_layers(model):
        return "mc_dropout"
    if X is not None or isinstance(_end(model), LogisticRegression):
        return "laplace"
    raise ParameterError(
        f"{type(model).__name__} has no members and no dropout: give X= (the rows of its fit) for "
        "Laplace, a function of X as method, or several models in a list"
    )
