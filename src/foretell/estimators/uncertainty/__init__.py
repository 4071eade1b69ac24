"""Uncertainty providers: given X, a score and how uncertain it is."""

from foretell.estimators.uncertainty.adapters import LearnerClassifier, from_learner
from foretell.estimators.uncertainty.callable import CallableUncertainty
from foretell.estimators.uncertainty.ensemble import EnsembleUncertainty, FittedEnsemble
from foretell.estimators.uncertainty.exceedance import ExceedanceUncertainty
from foretell.estimators.uncertainty.laplace import (
    LaplaceUncertainty,
    LogisticPosterior,
    probit_moments,
)
from foretell.estimators.uncertainty.mc_dropout import MCDropoutUncertainty
from foretell.estimators.uncertainty.network import NetworkClassifier
from foretell.estimators.uncertainty.posterior_network import PosteriorNetworkClassifier
from foretell.estimators.uncertainty.provider import (
    Uncertain,
    UncertainClassifier,
    UncertaintyProvider,
)

__all__ = [
    "CallableUncertainty",
    "EnsembleUncertainty",
    "ExceedanceUncertainty",
    "FittedEnsemble",
    "LaplaceUncertainty",
    "LearnerClassifier",
    "LogisticPosterior",
    "MCDropoutUncertainty",
    "NetworkClassifier",
    "PosteriorNetworkClassifier",
    "Uncertain",
    "UncertainClassifier",
    "UncertaintyProvider",
    "from_learner",
    "probit_moments",
]
