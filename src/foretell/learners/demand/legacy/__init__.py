"""The legacy patchwork: routed textbook models, add-ons and the Distribution Engine."""

from foretell.learners.demand.legacy.analog import AnalogNew
from foretell.learners.demand.legacy.distribution_engine import DistributionEngine
from foretell.learners.demand.legacy.elasticity import PriceElasticity, log_log_regression
from foretell.learners.demand.legacy.events import EventAddon
from foretell.learners.demand.legacy.legacy import DEFAULT_MODELS, LegacyForecaster
from foretell.learners.demand.legacy.point_models import (
    SBA,
    TSB,
    Croston,
    ExponentialSmoothing,
    MovingAverage,
    Naive,
    PointModel,
    SeasonalLevel,
    SeasonalNaive,
    StatsForecastModel,
)
from foretell.learners.demand.legacy.router import DEFAULT_RULES, Router
from foretell.learners.demand.legacy.seasonal import SeasonalAddon

__all__ = [
    "DEFAULT_MODELS",
    "DEFAULT_RULES",
    "SBA",
    "TSB",
    "AnalogNew",
    "Croston",
    "DistributionEngine",
    "EventAddon",
    "ExponentialSmoothing",
    "LegacyForecaster",
    "MovingAverage",
    "Naive",
    "PointModel",
    "PriceElasticity",
    "Router",
    "SeasonalAddon",
    "SeasonalLevel",
    "SeasonalNaive",
    "StatsForecastModel",
    "log_log_regression",
]
