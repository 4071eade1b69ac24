"""Models of risk hour by hour in scikit-learn's idiom."""

from foretell.estimators.risk.additive import AdditiveRisk
from foretell.estimators.risk.deep_aise import DeepAISE
from foretell.estimators.risk.feed_forward import FeedForwardRisk
from foretell.estimators.risk.subset import SubsetRisk
from foretell.estimators.risk.survival import SurvivalRisk
from foretell.estimators.risk.weibull_cox import WeibullCox

__all__ = [
    "AdditiveRisk",
    "DeepAISE",
    "FeedForwardRisk",
    "SubsetRisk",
    "SurvivalRisk",
    "WeibullCox",
]
