"""Demand: models of quantities sold over time."""

from foretell.learners.demand.forecast import Forecast, Span
from foretell.learners.demand.forecaster import Forecaster
from foretell.learners.demand.legacy.legacy import LegacyForecaster
from foretell.learners.demand.quantile_forest import QRFForecaster

__all__ = ["Forecast", "Forecaster", "LegacyForecaster", "QRFForecaster", "Span"]
