"""Uncertainty providers: given X, a score and how uncertain it is."""

from foretell.estimators.uncertainty.network import NetworkClassifier
from foretell.estimators.uncertainty.posterior_network import PosteriorNetworkClassifier
from foretell.estimators.uncertainty.provider import (
    Uncertain,
    UncertainClassifier,
    UncertaintyProvider,
)

__all__ = [
    "NetworkClassifier",
    "PosteriorNetworkClassifier",
    "Uncertain",
    "UncertainClassifier",
    "UncertaintyProvider",
]
